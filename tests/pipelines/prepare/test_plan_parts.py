"""The words of plan and dry run of a preparation."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from raymill.pipelines.prepare import plan
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob
from raymill.pipelines.prepare.plan import Fate


def config(folder: str = "/work", store: str = "", **more: Any) -> PrepareConfig:
    plain = {"kind": "prepare", "name": "x", "inputs": [{"source": "desk", "path": f"{store or folder}/in.jsonl"}]}
    return PrepareConfig.model_validate(plain | {"output": f"{folder}/out"} | more)


def test_the_fate_of_a_sample_in_a_sentence():
    reasons = {"e": 1, "a": 3, "b": 12, "d": 1, "c": 3, "f": 1}
    assert Fate(250, 200, {"empty": 8, "odd": 2}, reasons).text == (
        "of 250 rows, 80.0% are in the data set; 4.0% are no records (empty 8, odd 2); 8.4% are removed (b 12, a 3, "
        "c 3, d 1, +2 more)"
    )
    assert Fate(1, 1, {}, {}).text == "of 1 row, 100.0% are in the data set"
    assert Fate(10, 6, {}, dict.fromkeys("abcd", 1)).text.endswith("removed (a 1, b 1, c 1, d 1)")


@pytest.mark.parametrize(("unreadable", "problems", "refused"), [(4, 6, False), (5, 6, True), (0, 11, True)])
def test_a_sample_with_more_bad_rows_than_the_run_allows_is_refused(unreadable, problems, refused):
    made = Fate(100 - unreadable, 0, {"empty": problems}, {})
    sample: Any = SimpleNamespace(unreadable=unreadable)
    refusal = plan._too_many_bad(0.1, sample, made)
    assert (refusal is not None) is refused
    wanted = rf'11 of 100 rows .* are no records \(empty {problems}.*max_bad_documents": 0.11'
    assert refusal is None or re.match(wanted, str(refusal))


def test_a_dry_run_names_fields_shape_and_split(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"q": "Why?", "a": "So.", "team": "x", "day": "2026-01-01"}\n')
    columns = {"prompt": "q", "completion": "a", "team": "team", "day": "day"}
    inputs = [{"source": "desk", "path": str(tmp_path / "in.jsonl"), "columns": columns}]
    split = {"train": 0.7, "validation": 0.2, "test": 0.1}

    def of(**more: Any) -> PrepareConfig:
        return config(str(tmp_path), inputs=inputs, **more)

    def about(**more: Any) -> dict[str, str]:
        return dict(PrepareJob(of(**more)).about())

    shown = about()
    assert shown["fields"] == "desk: prompt (q), completion (a), team, day"
    assert shown["records"] == "of shape messages, by rules"
    assert about(dedup=None, clean={"redact": ["email", "phone"]}, curriculum={"stages": 3})["records"] == (
        "of shape messages, by rules, without email, phone; duplicates stay; 3 stages from easy to hard"
    )
    assert about(split=split)["split"] == "train 70%, validation 20%, test 10%"
    assert about(split=split | {"stratify": ["team"], "keep": ["/a"]})["split"].endswith(
        "test 10%; by strata of team; records of 1 earlier run stay where they are"
    )
    assert about(split=split | {"group": ["team", "day"]})["split"].endswith("; groups of team, day")
    assert about(split=split | {"by_time": "day"})["split"].endswith("test 10%; oldest first, by day")
