"""Units of splits, and what of a record is missing or not allowed."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from raymill.cluster.examples.content import Sides
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.prepare.assess.facts import FactsSettings, is_copy, smallest_of_sample, units_of
from raymill.pipelines.prepare.assess.summary import Counted, _Chosen

MIB = 1 << 20


def split(name: str, *mib: int) -> Any:
    """A split with files of these sizes."""
    files = [SimpleNamespace(bytes=size * MIB) for size in mib]
    return SimpleNamespace(file_uris=[f"{name}{at}" for at in range(len(mib))], manifest=SimpleNamespace(files=files))


@pytest.mark.parametrize(
    ("splits", "units"),
    [
        ([split("a", 3, 5, 1), split("b", 7, 1)], [("a0", "a1"), ("a2", "b0"), ("b1",)]),
        ([split("a", 9, 20), split("b", 1)], [("a0",), ("a1",), ("b0",)]),
        ([split("a", 4, 4, 4, 4)], [("a0", "a1"), ("a2", "a3")]),
        ([split("a")], [()]),
    ],
)
def test_files_are_joined_to_units_of_eight_mebibytes_at_most(splits, units):
    assert units_of(splits) == units


def test_a_sample_is_the_texts_with_the_smallest_hashes_of_all_tables():
    tables = [pa.table({"hash": [5, 1], "text": ["five", "one"]}), pa.table({"hash": [3, 0], "text": ["three", "nil"]})]
    sample: Any = SimpleNamespace(tables=lambda: tables)
    assert smallest_of_sample(sample, 3) == ["nil", "one", "three"]
    assert smallest_of_sample(sample, 9) == ["nil", "one", "three", "five"]


SETTINGS = FactsSettings("messages", {}, 10, Dedup(), ("team", "tone"), {"team": ("a", "b"), "tone": ("c",)}, (), (),
                         None)  # fmt: skip


def answered(question: str, answer: str, turns: int = 1) -> Sides:
    return Sides(system="", question=question, answer=answer, turns=turns)


@pytest.mark.parametrize(
    ("metadata", "one", "missing"),
    [
        ({"team": "a", "tone": "c"}, answered("Why?", "So."), []),
        ({"team": None, "tone": " "}, answered("Why?", "So."), ["team", "tone"]),
        ({"team": "a", "tone": ""}, answered(" ", "So."), ["tone", "content"]),
        ({"team": "a", "tone": "c"}, answered("Why?", "\n"), ["content"]),
        ({"team": "a", "tone": "c"}, answered("A text.", "", turns=0), []),
    ],
)
def test_fields_that_are_empty_are_missing(metadata, one, missing):
    assert SETTINGS.missing(metadata, one) == missing


@pytest.mark.parametrize(
    ("team", "tone", "refused"),
    [("a", "c", False), ("b", None, False), (None, None, False), ("a", "d", True), ("x", "c", True)],
)
def test_a_value_that_is_given_must_be_one_of_those_that_are_allowed(team, tone, refused):
    assert SETTINGS.refuses({"team": team, "tone": tone}) is refused
    assert not replace(SETTINGS, allowed={}).refuses({})


def test_a_copy_is_a_record_that_balancing_repeated():
    assert is_copy({"provenance": {"operation": "repeat"}})
    assert not is_copy({"provenance": {"operation": "merge"}}) and not is_copy({"provenance": None})


def test_of_chosen_records_all_are_counted_and_the_first_five_named():
    chosen = _Chosen()
    for ids, mask in ((["a", "b", "c"], [True, False, True]), (["d", "e", "f", "g"], [True] * 4)):
        chosen.add(pa.chunked_array([ids]), pa.array(mask))
    assert chosen.some() == {"records": 6, "ids": ["a", "c", "d", "e", "f"]}


def facts(copy: list[bool], characters: list[int], day: list[str | None], **columns: list) -> pa.Table:
    rows = len(copy)
    return pa.table(
        {
            "copy": copy, "question": pa.array(range(rows), pa.uint64()), "answer": pa.array(range(rows), pa.uint64()),
            "hash": pa.array(range(rows), pa.uint64()), "language": ["en", None, "de", "en"][:rows],
            "missing": pa.array([["tone"], [], ["tone", "team"], []][:rows], pa.list_(pa.string())),
            "violation": ["short", None, "long", "short"][:rows], "characters": characters, "turns": [1] * rows,
            "form": ["text"] * rows, "dates": pa.array([["2026-11-23"]] * rows, pa.list_(pa.string())),
            "kept/day": day, "value/task_type": ["qa"] * rows, "value/team": ["a", None, "b", "a"][:rows],
        } | columns
    )  # fmt: skip


def test_values_and_dates_count_copies_and_everything_else_does_not():
    counted = Counted({name: Counter() for name in ("task_type", "team", "length", "turns")}, {}, {}, "day")
    day = ["2026-01-31", "2026-02-01", None, "2026-01-02"]
    counted.add(facts([False, True, False, False], [7, 8, 0, 1024], day))
    assert counted.values["team"] == {"a": 2, "": 1, "b": 1} and counted.values["turns"] == {"1": 4}
    assert counted.values["length"] == {"below 8": 1, "below 16": 1, "below 1": 1, "below 2048": 1}
    assert counted.dates == {"2026-01": 2, "2026-02": 1}
    assert counted.languages == {"en": 2, "de": 1} and counted.missing == {"tone": 2, "team": 1}
    assert counted.rules == {"short": 2, "long": 1}
    assert counted.forms.total == {"text": 3} and counted.date_forms.total == {"2026-11-23": 3}
    assert [one.tolist() for one in counted.questions] == [[], [0, 2, 3]] and len(counted.answers[1]) == 3
