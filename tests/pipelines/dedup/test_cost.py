"""What a grouping of several ranges takes, by its model."""

import math

import pyarrow as pa
import pytest

from raymill.cluster.artifact import DataFile, Manifest, describe_schema
from raymill.cluster.cost import Cost
from raymill.cluster.engine import RetryLimits
from raymill.cluster.exchange import Levels
from raymill.cluster.plan.whole import PlannedArtifact
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup import cost
from raymill.pipelines.dedup.cost import (
    DEFAULT_SIZES,
    EDGES_OF_A_CANDIDATE,
    STARS,
    GroupCost,
    column_bytes,
    duplicates_among,
)
from raymill.pipelines.dedup.settings import Dedup
from tests.support.stages import run_inline

COLUMNS = {"row": 2, "id": 8, "source": 1, "text_hash": 16, "characters": 2, "bytes": 2, "signature": 400, "words": 4}
OF_A_DOCUMENT = sum(COLUMNS.values())


class Planned:
    """A plan with this share of duplicates."""

    def __init__(self, **assumed):
        self.assumed = assumed

    def bytes_of(self, uris):
        raise AssertionError


def planned(monkeypatch, documents, *, units, passed=0.75, earlier=0, duplicates=0.2, sampled=None, **dedup):
    """The stages of a grouping, by name. duplicates: None: not given."""
    monkeypatch.setattr(cost, "column_bytes", lambda artifact: COLUMNS)
    of_unit = documents // units
    files = [
        DataFile(paths.RelativePath(str(unit)), unit, of_unit, of_unit * OF_A_DOCUMENT, "") for unit in range(units)
    ]
    manifest = Manifest("attributes", "f", **describe_schema(pa.schema([])), files=files, counters={}, seconds=0,
                        made="", version="", digest="d")  # fmt: skip
    attributes = PlannedArtifact(None, Store(), "/attributes", manifest)
    ranges = math.ceil(documents / DEFAULT_SIZES.documents) + math.ceil(earlier / DEFAULT_SIZES.documents)
    number = round(documents * passed) + earlier
    model = GroupCost(Dedup(**dedup), DEFAULT_SIZES, attributes, ranges, number, earlier)
    plan = Planned(**({} if duplicates is None else {"duplicates": duplicates}))
    return {one.name: one for one in model(plan, sampled)}


@pytest.fixture
def billion(monkeypatch):
    return lambda **more: planned(monkeypatch, 10**9, units=6250, **more)


def test_grouping_a_billion_documents_is_cut_as_its_sizes_say(billion):
    found = billion(connected_at_once=10**10)
    passed, ranges = 0.75e9, math.ceil(10**9 / 2**19)
    slices, batches = math.ceil(passed * 14 / 2**24), math.ceil(1.5 * 0.2 * passed / 2**19)
    of_texts = math.ceil(passed * 32 / 2**27)
    texts, copies = Levels.of(ranges, of_texts), Levels.of(of_texts, ranges)
    keys, candidates, rows = (
        Levels.of(ranges, slices), Levels.of(ranges, batches), Levels.of(batches, ranges + 1)
    )  # fmt: skip
    assert {name: stage.units for name, stage in found.items()} == {
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
    shuffled = sum(stage.written for name, stage in found.items() if name != "group")
    assert 2 * passed * (14 * 8 + 32) < shuffled < 2 * (passed * (14 * 8 + 32) + 0.3 * passed * 1000)


def test_more_edges_than_one_task_connects_are_planned_as_stars(billion, monkeypatch):
    found = billion()
    assert not {"group.mark", "group.components"} & found.keys()
    assert found["group.star"].memory < 4 << 30 and found["group.star"].read > 2.25e8 * 8 * STARS
    below = planned(monkeypatch, 8 * 10**7, units=500)
    assert "group.components" in below and "group.star" not in below


@pytest.mark.parametrize("duplicates", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("documents", [10**7, 10**8, 3 * 10**8, 10**9, 3 * 10**9, 10**10])
def test_a_unit_of_grouping_takes_less_than_half_of_the_time_until_a_run_counts_as_stalled(
    documents, duplicates, monkeypatch
):
    """A round ends without a committed unit for `stall_s`. That a unit is running does not count."""
    found = planned(monkeypatch, documents, units=max(64, documents // 500_000), duplicates=duplicates)
    seconds = {name: stage.unit_s for name, stage in found.items()}
    assert max(seconds.values()) < RetryLimits().stall_s / 2, max(seconds, key=seconds.get)


def test_the_largest_number_of_edges_that_one_task_connects_takes_less_than_a_minute(billion):
    """The share of duplicates that makes just fewer edges than `connected_at_once`, of a billion documents."""
    most = Dedup().connected_at_once / EDGES_OF_A_CANDIDATE / (0.75e9 * 1.5)
    found = billion(duplicates=0.999 * most)
    assert 10 < found["group.components"].core_s < 60 and found["group.mark"].core_s < 10
    assert found["group.components"].unit_s < RetryLimits().stall_s / 2
    assert "group.components" not in billion(duplicates=1.001 * most)


def test_requests_of_exchanges_grow_with_the_input_and_not_with_its_square(monkeypatch):
    gets = []
    for documents in (10**9, 10**10):
        found = planned(monkeypatch, documents, units=documents // 160_000)
        gets.append(sum(stage.gets for name, stage in found.items() if name != "group.star"))
    assert gets[1] < 14 * gets[0]


def numbers(stage: Cost) -> tuple:
    return stage.units, stage.read, stage.written, stage.gets, stage.puts


def test_each_number_of_a_plan_of_many_ranges_by_hand(monkeypatch):
    """Of 9 million documents 6.75 pass, in 18 ranges. 43.5 MB of a file are 23 requests.

    2.025 million candidates are 4 batches; 14 keys of each document that passed are 6 slices, and their texts 2.
    """
    documents, passed, candidates = 9_000_000, 6_750_000, 2_025_000
    found = planned(monkeypatch, documents, units=90)
    shuffled, edges, texts = passed * 14 * 8, candidates * 10 * 16, passed * 32
    assert {name: numbers(stage) for name, stage in found.items()} == {
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
    }  # fmt: skip
    assert {name: stage.core_s for name, stage in found.items()} == {
        name: pytest.approx(seconds)
        for name, seconds in {
            "group.texts": 0.5e-6 * passed, "group.firsts": 0.3e-6 * passed, "group.keys": 1.9e-6 * passed,
            "group.merge": 0.7e-6 * passed, "group.route": 1.7e-6 * passed, "group.mark": 8e-8 * candidates,
            "group.components": 7.5e-7 * candidates, "group.compare": 3.6e-6 * candidates, "group": 1.2e-6 * candidates,
        }.items()
    }  # fmt: skip
    assert found["group.route"].scratch == pytest.approx(531 * candidates / 18)
    assert found["group"].rows == candidates


def test_each_number_of_stars_by_hand(billion):
    """1,908 ranges are 60 spans. Two stars of 2.25 billion edges, in 537 files, and six of 225 million, in 60 files."""
    star = billion()["group.star"]
    moved, files = 2 * 2_250_000_000 + 6 * 225_000_000, 2 * 537 + 6 * 60
    assert numbers(star) == (8 * 60 + files, 30 * moved, 30 * moved, 4 * 60 * files, 3 * (8 * 60 + files))
    assert star.core_s == pytest.approx(moved * 0.5e-6) and star.scratch == 30 * moved / star.units


def test_earlier_runs_are_grouped_too(monkeypatch):
    found = planned(monkeypatch, 1000, units=10, earlier=3000)
    assert found["group.keys"].core_s == pytest.approx(3750 * 1.9e-6)
    assert found["group.compare"].core_s == pytest.approx(225 * 3.6e-6), "those of the earlier run are no candidates"


def test_the_share_of_duplicates_is_given_or_the_one_of_the_sample_or_a_fifth(monkeypatch):
    def written(**more):
        return planned(monkeypatch, 1000, units=10, **more)["group"].written / 16 / 1.5 / 750

    counters = {"documents": 900.0, "reason/exact": 200.0, "reason/near": 175.0}
    assert duplicates_among(counters, 750) == 0.5
    assert written(duplicates=0.4, sampled=Cost(counters=counters)) == pytest.approx(0.4)
    assert written(duplicates=None, sampled=Cost(counters=counters)) == pytest.approx(0.5)
    few = Cost(counters=counters | {"reason/exact": 0.0, "reason/near": 1.0})
    assert written(duplicates=None, sampled=few) == written(duplicates=None) == pytest.approx(0.2)


def test_the_bytes_of_the_columns_of_an_artifact_are_those_of_its_footers(tmp_path):
    def work(unit, scratch):
        scratch.write("x", pa.table({"one": range(unit), "text": [f"{n} {'ab' * n}" for n in range(unit)]}))
        return {}

    output = Output("x", pa.schema([("one", pa.int64()), ("text", pa.string())]), row_group_bytes=2000)
    made = run_inline(Stage("x", (output,), [300, 200], work, "f", Store()), str(tmp_path))["x"]
    columns = {"one": 0, "text": 0}
    for uri in made.file_uris:
        footer = pa.parquet.read_metadata(uri)
        for group in range(footer.num_row_groups):
            for at, name in enumerate(columns):
                columns[name] += footer.row_group(group).column(at).total_compressed_size
    assert column_bytes(made) == {name: size / 500 for name, size in columns.items()}
