"""`raymill plan` of a curation: the sample, the arithmetic beside real runs, time and money, and what is printed."""

import gzip
import json
import math
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import cli
from cluster.engine import RetryLimits
from cluster.errors import ConfigError
from cluster.levels import Levels
from cluster.progress import Silent
from cluster.readers.units import InputFile, InputManifest, Reading, Unit
from cluster.session import Session
from cluster.stage import Output, Stage
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import frozen_inputs, run_stages
from pipelines.curate.plan.command import amount_of_bytes, assumed, core_time, gib, money, plan_text, rounded_count
from pipelines.curate.plan.estimate import (
    EDGES_OF_A_CANDIDATE,
    REQUEST_CORE_S,
    STARS,
    START_S,
    Size,
    StagePlan,
    _gets,
    _joined,
    _puts,
    on_cores,
    plan_stages,
    shuffle_bytes,
    size_of,
    store_money,
)
from pipelines.curate.plan.prices import Prices, load_prices
from pipelines.curate.plan.rates import Rates, _row_bytes, column_bytes, line, measure_rates
from pipelines.curate.plan.sample import Sample, SampledUnit, _cut, draw_sample, spread
from pipelines.curate.stages.neighbours import neighbours
from pipelines.curate.work import machine_of
from pipelines.dedup.settings import Dedup
from tests.support.inline import InlineEngine
from tests.support.stages import run_inline
from tests.support.stories import story

COLUMNS = {"row": 2, "id": 8, "source": 1, "text_hash": 16, "characters": 2, "bytes": 2, "signature": 400, "words": 4}
RATES = Rates(
    documents=1000, text_bytes=3_300_000, unreadable=0.0, passed=0.75, duplicates=0.0,
    unit_s={"measure": 0.1, "merge": 0.002}, document_s={"measure": 1e-4, "select": 5e-5}, read_s=0.0,
    attribute_bytes=COLUMNS, corpus_bytes=1500, removed_bytes=60, verdict_bytes=10, memory={"measure": 1 << 30},
)  # fmt: skip
CONFIG = {"kind": "curate", "name": "p", "inputs": [{"path": "s3://in/*.parquet"}], "output": "s3://out/run"}
BILLION = Size(10**9, 3_300 * 10**9, 3_300 * 10**9, 2 * 10**12, 6147, 100_000, 512 << 20)


def config_of(**changes):
    return CurateConfig.model_validate(CONFIG | changes)


def planned(config=None, size=BILLION, duplicates=0.2):
    return {stage.name: stage for stage in plan_stages(config or config_of(), size, RATES, duplicates)}


def write_stories(folder, files=12, documents=30):
    folder.mkdir()
    for number in range(files):
        rows = [
            {"id": f"{number}-{row}", "text": (story(number * documents + row) + " ") * 40} for row in range(documents)
        ]
        (folder / f"{number:03}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- the sample


def test_the_sample_is_spread_over_the_input_and_the_same_each_time(tmp_path):
    write_stories(tmp_path / "in", files=40, documents=60)
    inputs = [{"path": str(tmp_path / "in"), "id": "id"}]
    config = config_of(inputs=inputs, output=str(tmp_path / "out"), execution={"unit_mib": 1})
    _, _, manifest = frozen_inputs(config)
    one, other = draw_sample(manifest, config.limits), draw_sample(manifest, config.limits)
    assert len(manifest.units) > 16 == len(one.pieces)
    ids = [piece.documents["id"].to_pylist() for piece in one.pieces]
    assert ids == [piece.documents["id"].to_pylist() for piece in other.pieces]
    numbers = [int(of_piece[0].partition("-")[0]) for of_piece in ids]
    assert numbers == sorted(numbers) and numbers[0] < 4 and numbers[-1] >= 36
    assert all(len(of_piece) < 61 for of_piece in ids)
    # The text is smaller than the lines that have it, by keys and ids.
    assert 0.9 < one.text_share < 1.0


# --- beside a run


class CountingEngine(InlineEngine):
    """Counts the requests that the units of each stage send."""

    def counting(self, proxy):
        self.proxy, self.requests = proxy, {}
        return self

    def _round(self, stage, missing, records, failures):
        self.proxy.requests.clear()
        super()._round(stage, missing, records, failures)
        self.requests[stage.name] = Counter(
            "get" if request.method in ("GET", "HEAD") else "put" for request in self.proxy.requests
        )


def test_units_and_requests_of_every_stage_are_those_of_a_run(tmp_path, s3_root, s3_store, counting_s3):
    write_stories(tmp_path / "in", files=12, documents=20)
    for file in sorted((tmp_path / "in").iterdir()):
        s3_store.write_bytes(f"{s3_root}/in/{file.name}", file.read_bytes())
    storage = {"endpoint_url": counting_s3.url, "access_key_id": "key", "secret_access_key": "secret"}
    config = config_of(
        inputs=[{"path": f"{s3_root}/in", "id": "id"}],
        output=f"{s3_root}/out",
        storage=storage,
        execution={"unit_mib": 1},
        corpus={"file_mib": 2},
        rules=None,
        boilerplate={},
        repeats={},
    )
    root, _, inputs = frozen_inputs(config)
    rates = measure_rates(config, draw_sample(inputs, config.limits))
    engine = CountingEngine(root, Session(), Silent()).counting(counting_s3)
    run_stages(config, inputs, engine.run)
    size = size_of(inputs, 12 * 20, round(12 * 20 * rates.document_bytes))
    found = {stage.name: stage for stage in plan_stages(config, size, rates, 0.0)}
    assert {name: stage.units for name, stage in found.items()} == engine.units
    for name, stage in found.items():
        seen = engine.requests[name]
        assert seen["get"] / 2 - 2 <= stage.gets <= 2 * seen["get"] + 2, (name, seen, stage.gets)
        assert seen["put"] / 2 <= stage.puts <= 2 * seen["put"] + 2, (name, seen, stage.puts)


# --- the arithmetic


def test_grouping_a_billion_documents_is_cut_as_its_sizes_say():
    found = planned(config_of(dedup={"connected_at_once": 10**10}))
    passed, ranges = 0.75e9, math.ceil(10**9 / 2**19)
    slices, batches = math.ceil(passed * 14 / 2**24), math.ceil(1.5 * 0.2 * passed / 2**19)
    of_texts = math.ceil(passed * 32 / 2**27)
    texts, copies = Levels.of(ranges, of_texts), Levels.of(of_texts, ranges)
    keys, candidates, rows = (
        Levels.of(ranges, slices), Levels.of(ranges, batches), Levels.of(batches, ranges + 1)
    )  # fmt: skip
    units = {name: stage.units for name, stage in found.items() if name.startswith("group")}
    assert units == {
        "group.texts": ranges, "group.texts-1": texts.parts(1) * texts.groups(1), "group.firsts": of_texts,
        "group.copies-1": copies.parts(1) * copies.groups(1), "group.keys": ranges,
        "group.keys-1": keys.parts(1) * keys.groups(1), "group.merge": slices,
        "group.mark": 1, "group.components": 1, "group.route": ranges,
        "group.candidates-1": candidates.parts(1) * candidates.groups(1), "group.compare": batches,
        "group.found-1": rows.parts(1) * rows.groups(1), "group": ranges,
    }  # fmt: skip
    assert found["group.keys-1"].read == found["group.keys-1"].written == passed * 14 * 8
    assert found["group.keys-1"].gets == 2 * keys.reads(1)
    assert found["group.merge"].gets == 2 * keys.reads(2)
    assert found["group"].gets == 4 * rows.reads(2), "its rows, and the pairs that a report may show"
    assert found["group.mark"].memory == (1 << 29) + 10**9 // 8
    assert found["group.components"].memory == (1 << 29) + 10**9 // 8 * 3 // 2 + 6 * round(1.5 * 0.2 * passed)
    shuffled = shuffle_bytes(list(found.values()))
    assert 2 * passed * (14 * 8 + 32) < shuffled < 2 * (passed * (14 * 8 + 32) + 0.3 * passed * 1000)


def test_more_edges_than_one_task_connects_are_planned_as_stars():
    found = planned()
    assert not {"group.mark", "group.components"} & found.keys()
    assert found["group.star"].memory < 4 << 30 and found["group.star"].read > 2.25e8 * 8 * STARS
    below = planned(size=BILLION.scaled(8 * 10**7, config_of()))
    assert "group.components" in below and "group.star" not in below


@pytest.mark.parametrize("duplicates", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("documents", [10**7, 10**8, 3 * 10**8, 10**9, 3 * 10**9, 10**10])
def test_a_unit_of_grouping_takes_less_than_half_of_the_time_until_a_run_counts_as_stalled(documents, duplicates):
    """A round ends without a committed unit for `stall_s`. That a unit is running does not count."""
    found = planned(size=BILLION.scaled(documents, config_of()), duplicates=duplicates)
    seconds = {name: stage.unit_s for name, stage in found.items() if name.startswith("group")}
    assert max(seconds.values()) < RetryLimits().stall_s / 2, max(seconds, key=seconds.get)


def test_the_largest_number_of_edges_that_one_task_connects_takes_less_than_a_minute():
    """The share of duplicates that makes just fewer edges than `connected_at_once`, of a billion documents."""
    most = Dedup().connected_at_once / EDGES_OF_A_CANDIDATE / (0.75e9 * 1.5)
    found = planned(duplicates=0.999 * most)
    assert 10 < found["group.components"].core_s < 60 and found["group.mark"].core_s < 10
    assert found["group.components"].unit_s < RetryLimits().stall_s / 2
    assert "group.components" not in planned(duplicates=1.001 * most)


def test_requests_of_grouping_and_of_counting_keys_grow_with_the_input_and_not_with_its_square():
    config = config_of(boilerplate={}, repeats={})
    gets = []
    for documents in (10**9, 10**10):
        found = plan_stages(config, BILLION.scaled(documents, config), RATES, 0.2)
        gets.append(sum(stage.gets for stage in found if stage.name.startswith(("group", "select"))))
    assert gets[1] < 14 * gets[0]


def test_grouping_opens_every_file_of_verdicts_and_attributes_twice():
    size = Size(1000, 10**6, 10**6, 10**6, 7, 7, 1 << 20)
    one_file = 2 * (1 + 1)  # verdicts and attributes, each read in one request as they are small
    assert planned(size=size)["group"].gets == 7 * one_file
    assert planned(size=replace(size, units=14))["group"].gets == 14 * one_file


def test_a_plan_without_deduplication_or_requests_has_none():
    assert not [name for name in planned(config_of(dedup=None)) if name.startswith(("group", "duplicates"))]
    local = planned(config_of(inputs=[{"path": "/in"}], output="/out"))
    assert all(stage.gets == stage.puts == 0 for stage in local.values())
    mixed = planned(config_of(output="/out"))
    assert mixed["measure"].gets > 0 == mixed["decide"].gets and mixed["measure"].puts == 0
    work = local["measure"].core_s
    assert work == pytest.approx(6147 * 0.1 + 10**9 * 1e-4)
    requests = planned()["measure"].gets + planned()["measure"].puts
    assert planned()["measure"].core_s == pytest.approx(work + REQUEST_CORE_S * requests)


def test_a_stage_takes_no_less_than_one_unit_however_many_cores_there_are():
    stage = StagePlan("s", 10, core_s=100.0)
    assert [round(stage.seconds(cores)) for cores in (1, 2, 3, 10, 1000)] == [100, 50, 40, 10, 10]
    waits = replace(stage, puts=10, gets=80)  # 30 ms each, eight reads at once
    assert waits.seconds(10) == pytest.approx(stage.seconds(10) + 0.06)


def test_money_is_that_of_machines_and_requests():
    stages = [StagePlan("s", 64, core_s=64 * 3600.0, read=1e12, gets=5e6, puts=2e6)]
    size = replace(BILLION, documents=10**6)
    prices = Prices(name="x", core_hour=1.0, gib_hour=0.1, thousand_puts=0.01, thousand_gets=0.001, egress_gb=0.02)
    found = on_cores(config_of(), size, stages, 64, prices)
    waiting = 0.03 * (2e6 + 5e6 / 8) / 64
    assert found.seconds == pytest.approx(START_S + 3600 + waiting + 64 * 0.0005)
    assert found.machine_gib == machine_of(config_of(), 16, 10**6, size.largest_unit).memory / 2**30
    machines = 4 * found.machine_gib * 0.1 + 64
    assert found.money == pytest.approx(found.seconds / 3600 * machines + 5 + 20 + 20)


def test_a_larger_input_has_more_and_larger_units():
    size = Size(10**6, 33 * 10**8, 33 * 10**8, 2 * 10**9, 100, 50, 1 << 26)
    found = size.scaled(10**9, config_of())
    assert found.text_bytes == 1000 * size.text_bytes and found.files == 50_000
    assert found.largest_unit == 512 << 20 and found.units == math.ceil(33 * 10**11 / (512 << 20))
    assert size.scaled(10**9, config_of(execution={"unit_mib": 64})).units == math.ceil(33 * 10**11 / (64 << 20))


# --- the verb


@pytest.fixture
def run_plan(tmp_path, capsys):
    write_stories(tmp_path / "in")
    given = {"kind": "curate", "name": "told", "output": str(tmp_path / "out"), "rules": None}
    given["inputs"] = [{"path": str(tmp_path / "in"), "id": "id"}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))

    def call(*words):
        with pytest.raises(SystemExit) as left:
            cli.main(["plan", str(tmp_path / "c.yaml"), *words])
        shown = capsys.readouterr()
        return left.value.code, shown.out, shown.err

    return call


def test_the_verb_prints_a_table_and_writes_nothing(run_plan, tmp_path):
    code, out, err = run_plan("--cores", "3", "--cores", "5")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "plan of told" and lines[1].startswith("input    about 36")
    named = [line.split()[0] for line in lines if line[:1].isalpha()]
    for stage in ("measure", "index", "ids", "decide", "group", "duplicates", "select", "merge", "all"):
        assert stage in named
    assert [line.split()[0] for line in lines if line.startswith("       ")] == ["cores", "3", "5"] or "cores" in out
    assert max(map(len, lines)) <= 120
    assert not (tmp_path / "out").exists()


def test_the_numbers_for_a_program_follow_the_given_size_and_share(run_plan):
    found = {}
    for documents in ("1e8", "1e9"):
        code, out, err = run_plan("--json", "--documents", documents, "--duplicates", "0.5")
        assert code == 0, err
        found[documents] = json.loads(out)
    assert found["1e8"]["input"]["documents"] == 10**8 and found["1e8"]["duplicates"] == 0.5
    assert [one["cores"] for one in found["1e8"]["on_cores"]] == [2, 16, 64, 256]
    assert found["1e9"]["shuffle_bytes"] == pytest.approx(10 * found["1e8"]["shuffle_bytes"], rel=0.2)
    assert any("(given)" in sentence for sentence in found["1e8"]["assumed"])


def test_an_option_of_another_kind_is_refused(run_plan):
    code, _, err = run_plan("--gpu", "h100")
    assert code == 2 and "--gpu: an option for configs of kind train" in err and "of kind curate" in err


def test_prices_come_from_a_file(run_plan, tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("name: ours\ncore_hour: 1000\n")
    code, out, _ = run_plan("--prices", str(file), "--json")
    found = json.loads(out)
    assert code == 0 and found["prices"]["name"] == "ours" and found["prices"]["gib_hour"] == 0
    two = found["on_cores"][0]
    assert two["money"] == pytest.approx(2 * 1000 * two["seconds"] / 3600)
    file.write_text("core_hours: 1\n")
    with pytest.raises(ConfigError, match=r"prices.yaml, core_hours: .*The settings are name, core_hour"):
        load_prices(str(file))
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a YAML mapping"):
        load_prices(str(file))


# --- parts of the arithmetic, each beside a plain computation


@settings(max_examples=50)
@given(st.integers(1, 300), st.floats(0, 1e6), st.floats(1, 1e6), st.one_of(st.none(), st.integers(1, 70)))
def test_units_are_joined_as_a_run_joins_them(units, of_unit, full, most):
    of_unit = round(of_unit)
    assert _joined(units, of_unit, full, most) == len(list(neighbours(range(units), [of_unit] * units, full, most)))


def test_a_small_file_is_one_request_and_a_large_one_has_requests_for_its_parts():
    """Read: the footer, then two of each 4 MiB of row groups. Written: the beginning, parts of 5 MiB, the end."""
    assert [_gets(size) for size in (0, 256 << 10, (256 << 10) + 1, 4 << 20, (4 << 20) + 1)] == [1, 1, 3, 3, 5]
    assert [_puts(size) for size in (0, 5 << 20, (5 << 20) + 1, 10 << 20, (10 << 20) + 1)] == [1, 1, 4, 4, 5]


def test_an_input_of_another_size_keeps_the_sizes_of_its_files_and_the_earlier_documents():
    size = Size(1000, 3000, 4000, 2000, 7, 10, 512, earlier=11)
    mib = config_of(execution={"unit_mib": 1})
    assert size.scaled(10**6, mib) == Size(10**6, 3 * 10**6, 4 * 10**6, 2 * 10**6, 4, 10_000, 1 << 20, 11)
    assert size.scaled(10, mib) == Size(10, 30, 40, 20, 1, 1, 40, 11), "one unit, no larger than the input"


def test_the_size_of_an_input_leaves_out_files_that_are_not_read():
    files = [InputFile(f"/{n}", 10**n, "", "input", "jsonl", None, "bad" if n == 2 else None) for n in range(4)]
    units = [Unit(n, "input", (), size) for n, size in enumerate((5, 9, 4))]
    manifest = InputManifest(Reading(Store(), (), pa.schema([])), tuple(files), tuple(units), {}, "f")
    assert size_of(manifest, 6, 17, 2) == Size(6, 17, 18, 1011, 3, 3, 9, 2)


def test_egress_is_of_the_stages_that_send_requests():
    prices = Prices(name="x", core_hour=0, gib_hour=0, thousand_puts=5, thousand_gets=3, egress_gb=2)
    stages = [StagePlan("a", 1, 0.0, read=4e9, gets=1000), StagePlan("b", 1, 0.0, read=9e9, written=7e9, puts=2000)]
    assert store_money(stages, prices) == pytest.approx(3 + 2 * 5 + 4 * 2)


# --- the sample in parts


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 20))
def test_the_units_of_the_sample_hold_the_middles_of_equal_parts(sizes, count):
    bytes_of = [number for number, size in enumerate(sizes) for _ in range(size)]  # of each byte, its unit
    middles = [len(bytes_of) * (2 * part + 1) // (2 * count) for part in range(count)]
    assert spread(sizes, count) == sorted({bytes_of[middle] for middle in middles})


def written_sample(tmp_path, format, unit_mib=1):
    """Lines of three files, the second of them broken, and what is drawn of them."""
    texts = [f"{number} {'ä' * 1000}" for number in range(1500)]
    (tmp_path / "in").mkdir()
    if format == "parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / "in" / "a.parquet", row_group_size=500)
    else:
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n{\n" for text in texts).encode()
        packed = gzip.compress(lines) if format == "jsonl.gz" else lines
        (tmp_path / "in" / f"a.{format}").write_bytes(packed)
    plain = {"inputs": [{"path": str(tmp_path / "in")}], "output": str(tmp_path / "o"), "execution": {"unit_mib": 8}}
    config = config_of(**plain)
    (tmp_path / "in" / "empty.jsonl").touch()
    _, _, inputs = frozen_inputs(config)
    return texts, draw_sample(inputs, config.limits)


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "parquet"])
def test_a_piece_is_the_first_mebibyte_of_text_of_its_unit(tmp_path, format):
    texts, sample = written_sample(tmp_path, format)
    (piece,) = sample.pieces
    drawn = piece.documents["text"].to_pylist()
    size = sum(len(text.encode()) for text in drawn)
    assert drawn == texts[: len(drawn)] and sample.documents == len(drawn) and sample.text_bytes == size
    if format == "parquet":  # the first row group is smaller
        assert len(drawn) == 500 and piece.unreadable == 0 == sample.unreadable_share == sample.read_s
    else:
        read_whole = format == "jsonl.gz"  # of a plain file only the first MiB of its lines
        assert size - len(drawn[-1].encode()) < 1 << 20 and (size >= 1 << 20) == read_whole
        assert abs(piece.unreadable - len(drawn)) <= 1, "every second line is broken"
        assert sample.unreadable_share == piece.unreadable / (piece.unreadable + len(drawn)) and sample.read_s > 0
    assert (piece.text_share is None) == (format == "parquet")


def piece_of(texts, unreadable=0, read_s=0.0, text_share=None, source="a"):
    return SampledUnit(source, pa.table({"text": pa.array(texts, pa.large_string())}), unreadable, read_s, text_share)


def test_a_sample_is_the_sum_of_its_pieces():
    pieces = (
        piece_of(["ä", "b", "c"], 2, 0.1, 0.5),
        piece_of(["dd"], 1, 0.3, None, "b"),
        piece_of(["e", "f"], 0, 0.2, 0.7),
    )
    sample = Sample(pieces)
    assert (sample.documents, sample.text_bytes) == (6, 8)
    assert sample.unreadable_share == 3 / 9
    assert (sample.read_s, sample.text_share) == (pytest.approx(0.2), pytest.approx(0.6))
    assert {source: table["text"].to_pylist() for source, table in sample.by_source(2).items()} == {
        "a": ["ä", "c", "f"], "b": ["dd"]
    }  # fmt: skip
    assert Sample((piece_of(["x"]),)).text_share == 1.0


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3), (9, 3), (100, 3)])
def test_a_table_is_cut_after_the_row_that_reaches_the_size(size, rows):
    assert _cut(pa.table({"text": ["abc", "dé", "fgh"]}), size).num_rows == rows


# --- rates


@pytest.mark.parametrize(
    ("units", "few", "many", "rates"),
    [
        (1, (10, 3.0), (110, 5.0), (2.8, 0.02)),
        (4, (10, 3.0), (110, 5.0), (0.7, 0.02)),
        (2, (10, 5.0), (110, 3.0), (1.5, 0.0)),  # noise: a document takes nothing
        (1, (10, 0.5), (110, 50.5), (0.0, 0.5)),  # noise: a unit takes nothing
        (2, (10, 3.0), (10, 5.0), (2.5, 0.0)),
    ],
)
def test_seconds_of_a_unit_and_of_a_document_are_a_line_through_two_runs(units, few, many, rates):
    assert line(units, few, many) == pytest.approx(rates)


def test_the_bytes_of_the_columns_of_an_artifact_are_its_bytes(tmp_path):
    def work(unit, scratch):
        scratch.write("x", pa.table({"one": range(unit), "text": [f"{n} {'ab' * n}" for n in range(unit)]}))
        return {}

    output = Output("x", pa.schema([("one", pa.int64()), ("text", pa.string())]), row_group_bytes=2000)
    made = run_inline(Stage("x", (output,), [300, 200], work, "f", Store()), str(tmp_path))["x"]
    columns = {"one": 0, "text": 0}
    for uri in made.file_uris:
        footer = pq.read_metadata(uri)
        for group in range(footer.num_row_groups):
            for at, name in enumerate(columns):
                columns[name] += footer.row_group(group).column(at).total_compressed_size
    assert column_bytes(made) == {name: size / 500 for name, size in columns.items()}
    assert _row_bytes(made) == sum(Path(uri).stat().st_size for uri in made.file_uris) / 500


# --- what is printed


def test_numbers_of_a_plan_are_short_and_keep_their_unit():
    assert [core_time(s) for s in (0, 119.9, 120, 5999, 6000, 7199, 7200, 359_999, 360_000)] == [
        "0.0 s", "119.9 s", "2.0 min", "100.0 min", "100 min", "120 min", "2.0 h", "100.0 h", "100 h"
    ]  # fmt: skip
    assert [amount_of_bytes(n) for n in (0, 1, 999, 999.6, 1500, 99_900, 99_960, 999_600, 2.5e9, 3e12, 4e15, 5e18)] == [
        "-", "1 B", "999 B", "1.0 kB", "1.5 kB", "99.9 kB", "100 kB", "1.0 MB", "2.5 GB", "3.0 TB", "4.0 PB", "5,000 PB"
    ]  # fmt: skip
    assert [gib(n) for n in (0, 1 << 29, 3 << 30, 2048 << 30)] == ["-", "0.5 GiB", "3.0 GiB", "2,048.0 GiB"]
    assert [rounded_count(n) for n in (0, 0.2, 12.5, 1999.5)] == ["-", "1", "13", "2k"]
    assert [money(n) for n in (0, 0.001, 0.01, 1234.5)] == ["0.00", "under 0.01", "0.01", "1,234.50"]


def test_a_plan_has_a_row_for_each_stage_and_their_sums():
    stages = [
        StagePlan("first", 1000, 10.0, read=1e9, written=2e6, gets=5, puts=7, memory=2 << 30, scratch=3e9),
        StagePlan("second", 2, 7200.0, read=3e9, written=0, gets=0, puts=11, memory=0, scratch=4e9),
    ]
    sample = {"documents": 1, "text_bytes": 2000, "pieces": 3, "unreadable": 0.25, "passed": 0.5}
    plan = {
        "name": "n", "sample": sample, "input": asdict(replace(BILLION, earlier=0)), "documents_exact": False,
        "stages": [asdict(stage) for stage in stages], "core_s": 7210.0, "shuffle_bytes": 6e6, "store_money": 1.5,
        "on_cores": [{"cores": 2000, "seconds": 3600.0, "machine_gib": 64.4, "money": 12.345}],
        "prices": Prices().model_dump(), "assumed": ["One.", "Two " * 40 + "end."],
    }  # fmt: skip
    lines = plan_text(plan).splitlines()
    rows = {line.split()[0]: re.split(r"  +", line.strip()) for line in lines if line}
    assert rows["first"] == ["first", "1,000", "10.0 s", "1.0 GB", "2.0 MB", "5", "7", "2.0 GiB", "3.0 GB"]
    assert rows["second"] == ["second", "2", "2.0 h", "3.0 GB", "-", "-", "11", "-", "4.0 GB"]
    assert rows["all"] == ["all", "2.0 h", "4.0 GB", "2.0 MB", "5", "18", "2.0 GiB", "4.0 GB"]
    assert rows["2,000"] == ["2,000", "1 h 0 min", "64 GiB", "12.35"]
    assert lines[1] == ("input    about 1,000,000,000 documents, 3.3 TB of text, 2.0 TB in 100,000 files, 6,147 units")
    assert lines[2] == "sample   1 document, 2.0 kB, from 3 units: 50.0% pass the rules, 25.0% cannot be read"
    ends = {
        line.rindex(cell) + len(cell)
        for line, cell in zip(lines[4:8], ("scratch", "3.0 GB", "4.0 GB", "4.0 GB"), strict=True)
    }
    assert len(ends) == 1, "columns are aligned"
    assert lines[-3] == "- One." and lines[-2].startswith("- Two") and lines[-1].startswith("  Two")
    assert max(map(len, lines)) <= 120
    exact = plan | {"documents_exact": True, "sample": sample | {"unreadable": 0.0}}
    assert plan_text(exact).splitlines()[1].startswith("input    1,000") and "cannot" not in plan_text(exact)


@pytest.mark.parametrize(
    ("share", "is_given", "origin"),
    [(0.2, False, "a guess; the sample shows 0.0%"), (0.2, True, "given"), (0.3, False, "as in the sample")],
)
def test_a_plan_says_where_its_share_of_duplicates_is_from(share, is_given, origin):
    found = assumed(config_of(), RATES, share, BILLION, False, is_given)
    assert f"{share:.1%} of the documents that pass are duplicates ({origin}" in found[1]
    more = assumed(config_of(repeats={}), RATES, share, BILLION, True, is_given)
    assert set(found) < set(more) and len(more) == len(found) + 2 and "100,000 files" in more[-1]


SMALL = Size(1000, 3_300_000, 3_300_000, 8 << 20, 10, 5, 1 << 20)


def numbers(stage: StagePlan) -> tuple:
    return stage.units, stage.read, stage.written, stage.gets, stage.puts


def test_each_number_of_a_small_plan_by_hand():
    """750 of 1,000 documents pass, 150 of these are duplicates. Each stage: units, bytes read and written, requests.

    Of 435 bytes of attributes a document, `index` reads 8, `decide` 11, `group` 419 and 429, and `select` 28.
    """
    found = planned(size=SMALL)
    assert {name: numbers(stage) for name, stage in found.items()} == {
        "measure": (10, 8 << 20, 435_000, 21, 20),
        "index": (1, 8000, 16_000, 10, 2),
        "decide": (1, 11_000, 2500, 10, 12),
        "group": (1, 848_000, 225 * 16, 40, 2),
        "duplicates": (1, 225 * 16, 0, 2, 3),
        "select": (1, (8 << 20) + 28_000 + 2500, 600 * 1500 + 400 * 60, 43, 5),
        "merge": (3, 0, 0, 3, 12),
    }
    assert {name: stage.core_s - REQUEST_CORE_S * (stage.gets + stage.puts) for name, stage in found.items()} == {
        "measure": pytest.approx(10 * 0.1 + 1000 * 1e-4),
        "index": pytest.approx(0, abs=1e-12),
        "decide": pytest.approx(0, abs=1e-12),
        "group": pytest.approx(750 * 4e-6),
        "duplicates": pytest.approx(0, abs=1e-12),
        "select": pytest.approx(1000 * 5e-5),
        "merge": pytest.approx(3 * 0.002),
    }
    assert found["group"].memory == (1 << 29) + 1500 * 1000 and found["measure"].memory == RATES.memory["measure"]
    kept = planned(config_of(dedup={"remove": False}), SMALL)["select"]
    assert kept.written == 750 * 1500 + 250 * 60
    with_ids = planned(config_of(inputs=[{"path": "s3://in/*.parquet", "id": "id"}]), SMALL)
    assert (numbers(with_ids["ids.ranges"]), numbers(with_ids["ids"])) == ((1, 16_000, 0, 1, 2), (1, 0, 0, 1, 2))


def test_each_number_of_a_plan_of_many_ranges_by_hand():
    """Of 9 million documents 6.75 pass, in 18 ranges. 100 kB of a unit's columns are one request, 43.5 MB are 23.

    2.025 million candidates are 4 batches; 14 keys of each document that passed are 6 slices, and their texts 2. Three
    ranges of hashes.
    """
    documents, passed, candidates = 9_000_000, 6_750_000, 2_025_000
    size = Size(documents, 3300 * documents, 3300 * documents, 8 << 30, 90, 50, 1 << 30)
    found = planned(config_of(inputs=[{"path": "s3://in/*.parquet", "id": "id"}]), size)
    shuffled, edges, texts = passed * 14 * 8, candidates * 10 * 16, passed * 32
    wanted = {
        "measure": (90, 8 << 30, 435 * documents, 2 * 90 + 1024, 90 * (1 + 11)),
        "index": (45, 8 * documents, 16 * documents, 90 * 23, 45 * 2),
        "ids.ranges": (3, 16 * documents, 0, 3 * 45 * 3, 3 * 2),
        "ids": (1, 0, 0, 3, 2),
        "decide": (30, 11 * documents, 2_250_000 * 10, 90 * 23, 90 + 30 * 2),
        "group.texts": (18, 19 * documents, texts, 107 * 24, 18 * (1 + 2 * 4)),
        "group.firsts": (2, texts, 8 * candidates, 2 * 18 * 2, 2 * (1 + 2)),
        "group.keys": (
            18, 403 * documents, shuffled + 16 * candidates / 18, 107 * 24 + 2 * 18 + 2 * 2 * 18, 18 * (1 + 2 * 7)
        ),
        "group.merge": (6, shuffled, edges, 2 * 18 * 6, 6 * (1 + 13)),
        "group.mark": (1, edges, documents / 8, 2 * (2 * 18 + 2 + 6), 2),
        "group.components": (1, edges, 8 * candidates, 2 * (2 * 18 + 2 + 6), 1 + 6),
        "group.route": (
            18, 429 * documents, 531 * candidates, 107 * 24 + 2 * 18 + 2 * 18 + 2 * 2 * 18, 18 * (1 + 14)
        ),
        "group.compare": (4, 531 * candidates, 125 * candidates, 2 * 18 * 4, 4 * (1 + 15)),
        "group": (18, 125 * candidates, 16 * candidates, 4 * 4 * 19, 2 * 18),
        "duplicates": (1, 16 * candidates, 0, 2 * 18, 3),
    }  # fmt: skip
    assert {name: numbers(stage) for name, stage in found.items() if name not in ("select", "merge")} == wanted
    work = {name: stage.core_s - REQUEST_CORE_S * (stage.gets + stage.puts) for name, stage in found.items()}
    of_passed = {
        "group.texts": 0.5e-6,
        "group.firsts": 0.3e-6,
        "group.keys": 1.9e-6,
        "group.merge": 0.7e-6,
        "group.route": 1.7e-6,
    }
    of_candidates = {"group.mark": 8e-8, "group.components": 7.5e-7, "group.compare": 3.6e-6, "group": 1.2e-6}
    for name in (*of_passed, *of_candidates):
        seconds = of_passed.get(name, 0) * passed + of_candidates.get(name, 0) * candidates
        assert work[name] == pytest.approx(seconds), name
    assert found["group.route"].scratch == pytest.approx(531 * candidates / 18)


def test_each_number_of_stars_by_hand():
    """1,908 ranges are 60 spans. Two stars of 2.25 billion edges, in 537 files, and six of 225 million, in 60 files."""
    star = planned()["group.star"]
    moved, files = 2 * 2_250_000_000 + 6 * 225_000_000, 2 * 537 + 6 * 60
    assert numbers(star) == (8 * 60 + files, 30 * moved, 30 * moved, 4 * 60 * files, 3 * (8 * 60 + files))
    work = star.core_s - REQUEST_CORE_S * (star.gets + star.puts)
    assert work == pytest.approx(moved * 0.5e-6) and star.scratch == 30 * moved / star.units


def test_each_number_of_what_counts_lines_and_runs_by_hand():
    """Of the 1.98 MB of text that stay: 0.4 bytes written for each of it, or 20 for each anchor and window."""
    found = planned(config_of(boilerplate={}, repeats={}), SMALL)
    text = 600 * 3300
    pieces, anchors, windows = text * 0.4, text * 0.15 * 4 / 50 * 20, text * 0.15 * 0.1 * 20
    wanted = {
        "select.pieces": (10, 8 << 20, pieces, 33, 20),
        "select.shared": (1, pieces, 0.3 * pieces, 20, 2),
        "select.anchors": (10, 8 << 20, anchors, 53, 20),
        "select.shared_anchors": (1, anchors, 0.3 * anchors, 20, 2),
        "select.windows": (10, 8 << 20, windows, 73, 20),
        "select.shared_windows": (1, windows, 0.3 * windows, 20, 2),
    }
    assert {name: numbers(stage) for name, stage in found.items() if name in wanted} == {
        name: pytest.approx(row) for name, row in wanted.items()
    }
    assert (found["select"].gets, found["select"].puts) == (43 + 2 * 20, 5 + 2), "the shared lines and windows"
    assert found["select.pieces"].scratch == pytest.approx(pieces / 10)


def test_earlier_runs_are_grouped_too():
    alone, beside = planned(size=SMALL), planned(size=replace(SMALL, earlier=3000))
    assert "group.keys" in beside and "group.keys" not in alone
    assert beside["group.keys"].core_s - REQUEST_CORE_S * (beside["group.keys"].gets + beside["group.keys"].puts) == (
        pytest.approx(3750 * 1.9e-6)
    )
