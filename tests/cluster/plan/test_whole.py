"""A run that is planned: its stages are built as in the run, and the rest is scaled from a sample."""

from dataclasses import replace

import pytest

from raymill.cluster.cost import PIECE_BYTES, REQUEST_CORE_S, Cost, requests_to_read, requests_to_write
from raymill.cluster.plan.plan import START_S, Prices, costs_of, store_money
from raymill.cluster.plan.trial import Growth, Sampled, Trial, Tried, sampled
from raymill.cluster.plan.whole import PlannedInput, Whole
from raymill.cluster.store.store import Store
from tests.support.toy_plan import FILES_OF_A_SUM, numbers_stage, sums_stage


def toy(counts, run, store, **more):
    """The artifacts of the toy run. counts: rows of each unit of input."""
    numbers = run(numbers_stage(counts, store))["numbers"]
    return {"numbers": numbers} | run(sums_stage(numbers, store, **more))


@pytest.fixture
def planned(monkeypatch):
    """planned(units, rows, root) -> the planned toy run of `units` units with rows alike, from a sample of 2 units."""
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)

    def plan(units, rows, root="/out", factors=None, **more):
        store = Store()

        def try_out(trial, every):
            rows = 400 // every
            trial.rows += 2 * rows
            for number in range(2):
                trial.store.write_bytes(f"{trial.input_folder}{number}", b"x")
            return toy([rows, rows], trial.run, trial.store, **more)

        with sampled(store, try_out) as found:
            whole = Whole(root, PlannedInput(rows, 10 * rows, 4 * rows, units, [5.0] * units, units), found)
            whole.factors |= factors or {}
            artifacts = toy([rows // units] * units, whole.run, store, **more)
        return {cost.name: cost for cost in whole.costs}, artifacts

    return plan


def test_units_and_memory_are_those_of_the_run(planned):
    found, artifacts = planned(41, 41_000)
    assert {name: cost.units for name, cost in found.items()} == {"numbers": 41, "sums": -(-41 // FILES_OF_A_SUM)}
    assert found["numbers"].memory == 1 << 20
    assert found["sums"].memory == pytest.approx(100 * 41_000, rel=0.01), "follows from the planned rows"
    manifest = artifacts["numbers"].manifest
    assert len(manifest.files) == 41 and {file.rows for file in manifest.files} == {1000}
    assert manifest.counters == {"rows": pytest.approx(41_000)}


def test_bytes_grow_with_the_rows(planned):
    few, many = planned(4, 4_000)[0], planned(4, 4_000_000)[0]
    for what in ("written", "scratch"):
        assert getattr(many["numbers"], what) == pytest.approx(1000 * getattr(few["numbers"], what), rel=0.2)
    assert 0.1 * many["numbers"].written < many["sums"].read < 0.9 * many["numbers"].written, "one of two columns"
    assert few["numbers"].scratch == pytest.approx(few["numbers"].written / 4)


def test_requests_are_those_to_files_on_a_store(planned):
    local, stored = planned(8, 8_000)[0], planned(8, 8_000, "s3://b/out")[0]
    assert all(cost.gets == cost.puts == 0 for cost in local.values())
    assert (stored["numbers"].gets, stored["numbers"].puts) == (0, 8 + 8), "a file and a record of each unit"
    assert (stored["sums"].gets, stored["sums"].puts) == (8, 2 + 2)
    large = planned(8, 8_000_000, "s3://b/out")[0]["sums"]
    size = planned(8, 8_000_000)[0]["numbers"].written / 8
    assert large.gets == 8 * requests_to_read(size) > 8 * 3


def test_an_output_may_be_another_share_of_the_input_than_in_the_sample(planned):
    whole, half = planned(4, 4_000)[1], planned(4, 4_000, factors={"numbers": 0.5})[1]
    assert half["numbers"].manifest.rows == whole["numbers"].manifest.rows // 2
    assert half["numbers"].manifest.bytes == pytest.approx(whole["numbers"].manifest.bytes / 2, abs=2)


def test_a_model_says_what_a_sample_does_not_show(planned):
    def model(planning, cost):
        yield Cost("sums.before", 7, 1.0, written=5, puts=3)
        yield replace(cost, units=9, written=900.0, rows=90, counters={"files": 33})

    found, artifacts = planned(8, 8_000, "s3://b/out", model=model)
    before, after = found["sums.before"], found["sums"]
    assert (before.units, before.puts) == (7, 3) and before.core_s == pytest.approx(1.0 + 3 * REQUEST_CORE_S)
    assert (after.units, after.written) == (9, 900)
    manifest = artifacts["sums"].manifest
    assert (len(manifest.files), manifest.rows, manifest.bytes) == (9, 90, 900) and manifest.counters == {"files": 33}


@pytest.fixture
def fixed_sample(tmp_path):
    """A sample of 10 rows in 2 units. Its stage takes a second a unit and 0.1 s a row, and reads each file so often."""

    def made(times):
        trial = Trial(str(tmp_path), Store())
        outputs, trial.rows = trial.run(numbers_stage([5, 5], Store())), 10
        seen = [(f"{trial.input_folder}{n}", 5) for n in range(2)] * times
        trial.stages["numbers"] = Tried(2, 3.0, outputs, seen)
        return Sampled(trial, trial, trial, {"numbers": Growth(2.0, 0.1)}, outputs)

    return made


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_stage_that_reads_the_input_has_its_bytes_requests_and_reading(times, fixed_sample):
    stored = 3 * PIECE_BYTES
    input = PlannedInput(1000, 5000, stored, 4, [1.0] * 8, 9, is_remote=True, read_s=0.01)
    whole = Whole("/out", input, fixed_sample(times))
    whole.run(numbers_stage([0] * 8, Store()))
    (cost,) = whole.costs
    assert (cost.read, cost.gets) == (times * stored, times * (2 * 9 + 3))
    assert cost.core_s == pytest.approx(4 * 2.0 + 1000 * 0.1 + times * 50 + REQUEST_CORE_S * cost.gets)


@pytest.mark.parametrize(("flag", "seconds"), [({}, 2.0 + 100), ({"per_input": True}, 8.0 + 100)])
def test_fixed_seconds_are_of_a_unit_or_of_each_of_its_units_of_input(flag, seconds, fixed_sample):
    whole = Whole("/out", PlannedInput(1000, 0, 0, 1, [1.0] * 8, 1), fixed_sample(0))
    whole.run(numbers_stage([0] * 2, Store(), **flag))
    assert whole.costs[0].core_s == pytest.approx(seconds)


def test_seconds_of_a_stage_that_joins_small_files_grow_with_the_files(planned):
    few, many = planned(8, 8_000, per_file=True)[0], planned(800, 8_000, per_file=True)[0]
    assert many["sums"].core_s > 20 * few["sums"].core_s, "noise apart, a hundred times the files"


# --- time and money


def test_a_stage_takes_no_less_than_one_unit_however_many_cores_there_are():
    stage = Cost("s", 10, core_s=100.0)
    assert [round(stage.seconds(cores)) for cores in (1, 2, 3, 10, 1000)] == [100, 50, 40, 10, 10]
    waits = replace(stage, puts=10, gets=80)  # 30 ms each, eight reads at once
    assert waits.seconds(10) == pytest.approx(stage.seconds(10) + 0.06)


def test_money_equals_the_one_of_machines_and_requests():
    stages = [Cost("s", 64, core_s=64 * 3600.0, read=1e12, gets=5e6, puts=2e6)]
    prices = Prices(name="x", core_hour=1.0, gib_hour=0.1, thousand_puts=0.01, thousand_gets=0.001, egress_gb=0.02)
    (found,) = costs_of(stages, lambda cores: cores << 31, [64], prices)["on_cores"]
    waiting = 0.03 * (2e6 + 5e6 / 8) / 64
    assert found["seconds"] == pytest.approx(START_S + 3600 + waiting + 64 * 0.0005)
    assert found["machine_gib"] == 32, "of 16 cores"
    assert found["money"] == pytest.approx(found["seconds"] / 3600 * (4 * 32 * 0.1 + 64) + 5 + 20 + 20)


def test_egress_is_of_the_stages_that_send_requests():
    prices = Prices(name="x", core_hour=0, gib_hour=0, thousand_puts=5, thousand_gets=3, egress_gb=2)
    stages = [Cost("a", 1, 0.0, read=4e9, gets=1000), Cost("b", 1, 0.0, read=9e9, written=7e9, puts=2000)]
    assert store_money(stages, prices) == pytest.approx(3 + 2 * 5 + 4 * 2)


def test_a_small_file_is_one_request_and_a_large_one_has_requests_for_its_parts():
    """Read: the footer, then two of each 4 MiB of row groups. Written: the beginning, parts of 5 MiB, the end."""
    sizes = (0, 256 << 10, (256 << 10) + 1, 4 << 20, (4 << 20) + 1)
    assert [requests_to_read(size) for size in sizes] == [1, 1, 3, 3, 5]
    sizes = (0, 5 << 20, (5 << 20) + 1, 10 << 20, (10 << 20) + 1)
    assert [requests_to_write(size) for size in sizes] == [1, 1, 4, 4, 5]
