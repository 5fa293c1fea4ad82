"""Stages on a sample: what they read, and what a unit and a row takes."""

import pyarrow as pa
import pytest

from raymill.cluster.artifact import open_parquet
from raymill.cluster.plan.trial import Growth, ObservedStore, Trial
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from tests.support.toy_plan import numbers_stage, sums_stage


@pytest.mark.parametrize(
    ("few", "many", "line"),
    [
        ((10, 3.0), (110, 5.0), (2.8, 0.02)),
        ((10, 5.0), (110, 3.0), (3.0, 0.0)),  # noise: a row takes nothing
        ((10, 0.5), (110, 50.5), (0.0, 0.5)),  # noise: a unit takes nothing
        ((10, 3.0), (10, 5.0), (5.0, 0.0)),
    ],
)
def test_what_is_fixed_and_what_a_row_takes_is_a_line_through_two_runs(few, many, line):
    found = Growth.through(few, many)
    assert (found.fixed, found.of_row) == pytest.approx(line)
    assert found.at(3, 1000) == pytest.approx(3 * line[0] + 1000 * line[1])


def test_an_observed_store_notes_each_read_with_its_bytes(tmp_path):
    store = ObservedStore()
    made = Trial(str(tmp_path), store).run(numbers_stage([300, 200], store))["numbers"]
    assert store.read_bytes(made.file_uris[0])[:4] == b"PAR1" and store.read_range(made.file_uris[1], 4, 9)
    sizes = [file.bytes for file in made.manifest.files]
    assert store.seen[-2:] == [(made.file_uris[0], sizes[0]), (made.file_uris[1], 5)]
    with open_parquet(store, made.file_uris[0]) as parquet:
        assert parquet.read(["n"])["n"].to_pylist() == list(range(300))
    uri, size = store.seen[-1]
    assert uri == made.file_uris[0] and 0 < size < sizes[0], "one of its two columns"


def test_a_trial_has_what_each_stage_took_and_those_that_prepare_it(tmp_path):
    store = ObservedStore()
    trial = Trial(str(tmp_path), store)
    made = trial.run(numbers_stage([3, 2], store), "part")["numbers"]

    def prepare(run):
        return run(sums_stage(made, store))["sums"].file_uris

    def work(uri, scratch):
        scratch.write("all", pa.table({"n": [sum(pa.parquet.read_table(uri)["n"].to_pylist())]}))
        return {"files": 1}

    outputs = (Output("all", pa.schema([("n", pa.int64())])),)
    trial.run(Stage("all", outputs, (), work, "f", store, prepare=prepare), "part")
    assert list(trial.stages) == ["part.numbers", "part.sums", "part.all"]
    assert [one.units for one in trial.stages.values()] == [2, 1, 1]
    assert trial.made["part/all"].table()["n"].to_pylist() == [0 + 1 + 2 + 0 + 1]
    assert {uri for uri, _ in trial.stages["part.sums"].seen} == set(made.file_uris)
    assert trial.seconds_of("part.all") > 0 == trial.seconds_of("other")
    assert Store() != store, "a store that is observed is another one"
