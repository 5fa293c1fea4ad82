"""What is measured, decided, removed and trained is what the golden files say; `make golden` writes them anew."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden.cases import CASES, FOLDER


def differences(found: Any, wanted: Any, relative: float, place: str = "") -> Iterator[str]:
    """A line for each value that is another; numbers may differ by `relative`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in wanted.keys() | found.keys():
            yield from differences(found.get(name, "(none)"), wanted.get(name, "(none)"), relative, f"{place}/{name}")
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, relative, f"{place}/{number}")
    elif isinstance(found, float) or isinstance(wanted, float):
        if found != pytest.approx(wanted, rel=relative):
            yield f"{place}: {found} was {wanted}"
    elif found != wanted:
        yield f"{place}: {found} was {wanted}"


@pytest.mark.parametrize("name", CASES)
def test_the_program_makes_what_the_golden_file_says(tmp_path, name):
    make, relative = CASES[name]
    wanted = json.loads((FOLDER / name).read_text())
    assert sorted(differences(make(tmp_path), wanted, relative)) == []


def test_a_difference_is_named_by_its_place_and_rounding_is_none():
    wanted = {"a": [{"loss": 1.0, "reason": "x"}], "b": None}
    assert list(differences({"a": [{"loss": 1.00001, "reason": "x"}], "b": None}, wanted, 1e-4)) == []
    found = {"a": [{"loss": 1.01, "reason": "y"}], "c": 1}
    assert sorted(differences(found, wanted, 1e-4)) == [
        "/a/0/loss: 1.01 was 1.0",
        "/a/0/reason: y was x",
        "/b: (none) was None",
        "/c: 1 was (none)",
    ]
