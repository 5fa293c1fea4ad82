"""`raymill plan` of a curation: the sample, the arithmetic beside real runs, time and money, and what is printed."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from cluster import cli
from cluster.errors import ConfigError
from cluster.levels import Levels
from cluster.progress import Silent
from cluster.session import Session
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import frozen_inputs, run_stages
from pipelines.curate.plan.estimate import (
    REQUEST_CORE_S,
    STARS,
    START_S,
    Size,
    StagePlan,
    on_cores,
    plan_stages,
    shuffle_bytes,
    size_of,
)
from pipelines.curate.plan.prices import Prices, load_prices
from pipelines.curate.plan.rates import Rates, measure_rates
from pipelines.curate.plan.sample import draw
from tests.pipelines.curate.test_curate import story
from tests.support.inline import InlineEngine

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
    one, other = draw(manifest, config.limits), draw(manifest, config.limits)
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
    rates = measure_rates(config, draw(inputs, config.limits))
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
    found = planned()
    passed, ranges = 0.75e9, math.ceil(10**9 / 2**19)
    slices, batches = math.ceil(passed * 15 / 2**24), math.ceil(1.5 * 0.2 * passed / 2**19)
    keys, candidates, rows = (
        Levels.of(ranges, slices), Levels.of(ranges, batches), Levels.of(batches, ranges + 1)
    )  # fmt: skip
    units = {name: stage.units for name, stage in found.items() if name.startswith("group")}
    assert units == {
        "group.keys": ranges, "group.keys-1": keys.parts(1) * keys.groups(1), "group.merge": slices,
        "group.mark": 1, "group.components": 1, "group.route": ranges,
        "group.candidates-1": candidates.parts(1) * candidates.groups(1), "group.compare": batches,
        "group.found-1": rows.parts(1) * rows.groups(1), "group": ranges,
    }  # fmt: skip
    assert found["group.keys-1"].read == found["group.keys-1"].written == passed * 15 * 8
    assert found["group.keys-1"].gets == 2 * keys.reads(1)
    assert found["group.merge"].gets == 2 * keys.reads(2)
    assert found["group"].gets == 4 * rows.reads(2), "its rows, and the pairs that a report may show"
    assert found["group.mark"].memory == (1 << 29) + 10**9 // 8
    assert found["group.components"].memory == (1 << 29) + 10**9 // 8 * 9 // 8 + 6 * round(1.5 * 0.2 * passed)
    shuffled = shuffle_bytes(list(found.values()))
    assert 2 * passed * 15 * 8 < shuffled < 2 * (passed * 15 * 8 + 0.3 * passed * 1000)


def test_more_candidates_than_one_task_connects_are_planned_as_stars():
    found = planned(config_of(dedup={"connected_at_once": 10**8}))
    assert "group.components" not in found
    assert found["group.star"].memory < 4 << 30 and found["group.star"].read > 2.25e8 * 8 * STARS


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
