"""The numbers of a preparation's plan from rates written by hand, and the words of plan and dry run."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import DataError
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.job import listed_inputs
from pipelines.prepare.plan import command, dry_run
from pipelines.prepare.plan.command import trial_text
from pipelines.prepare.plan.estimate import RowRates, plan_stages
from pipelines.prepare.plan.trial import Compared, Trial

MIB = 1 << 20
UNITS = {"lines.tables": 5, "collect": 2, "complexity": 1, "write": 2, "assess.assess": 1, "assess.learn": 1}


def trial() -> Trial:
    """A trial of 100 rows whose stages write 2 MiB each."""
    stages = dict.fromkeys(UNITS, 2 * MIB)
    return Trial(rows=100, units=UNITS, written=stages, memory=dict.fromkeys(UNITS, 7))


def config(folder: str = "/work", store: str = "", **more: Any) -> PrepareConfig:
    plain = {"kind": "prepare", "name": "x", "inputs": [{"source": "desk", "path": f"{store or folder}/in.jsonl"}]}
    return PrepareConfig.model_validate(plain | {"output": f"{folder}/out"} | more)


def rates() -> RowRates:
    row_s = dict.fromkeys(UNITS, 0.0) | {"collect": 0.01, "complexity": 0.001}
    return RowRates(trial(), {name: at + 1.0 for at, name in enumerate(UNITS)}, row_s, 1e-6)


def test_stages_of_a_plan_by_hand():
    """1,000 rows in 4 units: ten times the sample, so 20 MiB of splits, which are assessed in units of 8 MiB."""
    found = {stage.name: stage for stage in plan_stages(config(), rates(), 1000, 4, 2e6)}
    assert {name: (stage.units, stage.core_s) for name, stage in found.items()} == {
        "lines.tables": (1, 1.0),
        "collect": (4, pytest.approx(4 * 2 + 1000 * 0.01 + 2)),
        "complexity": (1, pytest.approx(3 + 1)),
        "write": (4, 16.0),
        "assess.assess": (3, 15.0),
        "assess.learn": (1, 6.0),
    }
    assert {(stage.gets, stage.puts, stage.written, stage.memory) for stage in found.values()} == {(0, 0, 20 * MIB, 7)}


@pytest.mark.parametrize(
    ("where", "collect", "write"),
    [
        ({"folder": "s3://b"}, (8, 12, 0.010), (8, 12, 0.010)),
        ({"store": "s3://b"}, (8, 0, 0.004), (0, 0, 0)),
        ({"folder": "s3://b", "store": "/work"}, (0, 12, 0.006), (8, 12, 0.010)),
    ],
)
def test_requests_are_those_of_inputs_and_output_on_a_store(where, collect, write):
    """Two reads and three writes a unit, of half a millisecond each."""
    found = {stage.name: stage for stage in plan_stages(config(**where), rates(), 1000, 4, 0)}
    for name, alone, (gets, puts, core_s) in (("collect", 18.0, collect), ("write", 16.0, write)):
        stage = found[name]
        assert (stage.gets, stage.puts) == (gets, puts) and stage.core_s == pytest.approx(alone + core_s, abs=1e-9)


def grouped(where: PrepareConfig, of: str, texts: int, duplicates: int) -> list:
    """The stage `of`, which compares so many texts of the sample."""
    stages, compared = (
        {"write": 2, "assess.assess": 1, of: 1},
        Compared(texts, {"text_hash": 10, "id": 100}, duplicates),
    )
    made = Trial(100, units=stages, written=dict.fromkeys(stages, 2 * MIB), memory=dict.fromkeys(stages, 7),
                 compared={of: compared})  # fmt: skip
    zero = dict.fromkeys(stages, 0.0)
    return [one for one in plan_stages(where, RowRates(made, zero, zero, 0.0), 1000, 4, 0) if one.name == of]


def test_grouping_is_planned_for_the_texts_that_are_compared():
    """80 of 100 rows are compared, 8 or 40 are duplicates; a fifth at least is planned, with 1.5 pairs of each."""
    (few,) = grouped(config(), "questions.group", 80, 8)
    assert (few.units, few.gets, few.puts) == (1, 0, 0) and few.core_s == pytest.approx(800 * 4e-6)
    assert (few.read, few.written) == (800 * (10 + 110), pytest.approx(240 * 16)), "the second time with ids"
    (many,) = grouped(config(dedup=None), "questions.group", 80, 40)
    assert many.written == pytest.approx(600 * 16)
    (stored,) = grouped(config("s3://b"), "questions.group", 80, 8)
    assert stored.gets == 2 * 4 * 2 and stored.puts == 2, "each of four files is opened and read twice"
    assert stored.core_s == pytest.approx(800 * 4e-6 + 18 * 0.0005)
    (assessed,) = grouped(config("s3://b"), "assess.questions.group", 80, 8)
    assert assessed.gets == 2 * 3 * 2, "of three units"
    assert grouped(config(), "answers.group", 0, 0) == []


def test_the_fate_of_a_sample_in_a_sentence():
    reasons = {"e": 1, "a": 3, "b": 12, "d": 1, "c": 3, "f": 1}
    assert trial_text(Trial(250, kept=200, problems=Counter(empty=8, odd=2), reasons=reasons)) == (
        "of 250 rows, 80.0% are in the data set; 4.0% are no records (empty 8, odd 2); 8.4% are removed (b 12, a 3, "
        "c 3, d 1, +2 more)"
    )
    assert trial_text(Trial(1, kept=1, reasons={})) == "of 1 row, 100.0% are in the data set"
    four = Trial(10, kept=6, reasons=dict.fromkeys("abcd", 1))
    assert trial_text(four).endswith("removed (a 1, b 1, c 1, d 1)")


def test_a_plan_has_time_and_money_of_each_number_of_cores(tmp_path, monkeypatch, capsys):
    """One stage of 100 s in one unit; machines have 16 cores at most."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\n' * 30)
    (tmp_path / "prices.yaml").write_text(
        "{name: of this test, core_hour: 2, gib_hour: 0.5, thousand_gets: 1, thousand_puts: 1}"
    )
    one = Trial(10, kept=10, units={"write": 1}, written={"write": 0}, memory={"write": 1 << 30})
    made = RowRates(one, {"write": 100.0}, {"write": 0.0}, 0.0)
    monkeypatch.setattr(command, "measure_rates", lambda *_: made)
    sample = SimpleNamespace(text_bytes=500, documents=10, text_share=1.0, unreadable_share=0.25)
    monkeypatch.setattr(command, "draw_sample", lambda *_: sample)
    asked = {"documents": 240, "cores": (2, 40), "prices": str(tmp_path / "prices.yaml")}
    command.print_plan(config(str(tmp_path)), as_json=True, **asked)
    plan = json.loads(capsys.readouterr().out)
    # 30 lines of 39 bytes are 24 rows of 50 bytes in one unit, so 240 are in ten.
    sizes = {"rows": 240, "text_bytes": 12_000, "files": 1, "units": 10, "core_s": 1000}
    assert {name: plan[name] for name in sizes} == sizes
    for found, cores, machines in zip(plan["on_cores"], (2, 40), (1, 3), strict=True):
        assert found["seconds"] == pytest.approx({2: 515, 40: 115}[cores] + 0.005)
        assert found["money"] == pytest.approx(
            found["seconds"] / 3600 * (cores * 2 + machines * found["machine_gib"] * 0.5)
        )
    assert plan["on_cores"][0]["machine_gib"] < plan["on_cores"][1]["machine_gib"]
    command.print_plan(config(str(tmp_path)), **asked)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "plan of x" and lines[1] == "input    about 240 rows, 12.0 kB of text, in 1 file, 10 units"
    assert lines[2] == "sample   of 10 rows, 100.0% are in the data set; besides, 25.0% of all rows cannot be read"
    (stage,) = [line.split() for line in lines if line.startswith("write ")]
    assert stage[1] == "10" and stage[-5:] == ["-", "-", "-", "1.0", "GiB"]
    assert "Prices: of this test: 2 a core-hour, 0.5 a GiB-hour (--prices)." in " ".join(lines)
    command.print_plan(config(str(tmp_path)), as_json=True)
    stated = json.loads(capsys.readouterr().out)
    assert (stated["units"], stated["rows"]) == (1, 24)
    assert [one["cores"] for one in stated["on_cores"]] == [2, 16, 64]


@pytest.mark.parametrize(("unreadable", "problems", "refused"), [(4, 6, False), (5, 6, True), (0, 11, True)])
def test_a_sample_with_more_bad_rows_than_the_run_allows_is_refused(unreadable, problems, refused):
    made = Trial(100 - unreadable, problems=Counter(empty=problems))
    sample: Any = SimpleNamespace(unreadable=unreadable)
    if not refused:
        dry_run._refuse_too_many(0.1, sample, made)
        return
    with pytest.raises(
        DataError, match=rf"11 of 100 rows .* are no records \(empty {problems}.*max_bad_documents=0.11"
    ):
        dry_run._refuse_too_many(0.1, sample, made)


def test_a_dry_run_names_fields_shape_and_split(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"q": "Why?", "a": "So.", "team": "x", "day": "2026-01-01"}\n')
    columns = {"prompt": "q", "completion": "a", "team": "team", "day": "day"}
    inputs = [{"source": "desk", "path": str(tmp_path / "in.jsonl"), "columns": columns}]
    split = {"train": 0.7, "validation": 0.2, "test": 0.1}

    def of(**more: Any) -> PrepareConfig:
        return config(str(tmp_path), inputs=inputs, **more)

    (fields,) = dry_run._fields(of(), listed_inputs(of())[1])
    assert fields == "desk: prompt (q), completion (a), team, day"
    assert dry_run._records(of()) == "of shape messages, by rules"
    assert dry_run._records(of(dedup=None, clean={"redact": ["email", "phone"]}, curriculum={"stages": 3})) == (
        "of shape messages, by rules, without email, phone; duplicates stay; 3 stages from easy to hard"
    )
    assert dry_run._split(of(split=split)) == "train 70%, validation 20%, test 10%"
    assert dry_run._split(of(split=split | {"stratify": ["team"], "keep": ["/a"]})).endswith(
        "test 10%; by strata of team; records of 1 earlier run stay where they are"
    )
    assert dry_run._split(of(split=split | {"group": ["team", "day"]})).endswith("; groups of team, day")
    assert dry_run._split(of(split=split | {"by_time": "day"})).endswith("test 10%; oldest first, by day")
