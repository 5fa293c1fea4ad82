"""What records were made of is read, kept, and decides their split: relatives are in one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.examples.splits import SPLITS
from pipelines.prepare.records.fields import provenance_of
from pipelines.prepare.stages.split import relatives
from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ()),
        ({"parents": None, "operation": "repeat"}, ()),
        ({"parents": "t1"}, ("t1",)),
        ({"parents": '["t1", 2, null]', "operation": "merge"}, ("t1", "2", "by merge")),
        ({"provenance": '{"parents": ["t1"], "operation": "repeat"}'}, ("t1", "by repeat")),
        ({"provenance": '["t1"]'}, ("t1",)),
        ({"provenance": "found on the web"}, ()),  # a text is no parent, or all records would be relatives
        ({"provenance": '"web"'}, ()),
        ({"provenance": "[" * 100_000}, ()),
        ({"provenance": '{"parents": "t1"}'}, ()),
        ({"provenance": '["t1"]', "parents": "t2"}, ("t2",)),
    ],
)  # fmt: skip
def test_the_provenance_of_a_row(fields, found):
    parents, operation = provenance_of(fields)
    assert (*parents, *(f"by {one}" for one in operation)) == found


def plain_relatives(ids: list[int], parents: list[list[int]]) -> list[frozenset[int]]:
    """Of each record those that share an id or a parent with it, by looking at all until nothing changes."""
    named = {one for some in parents for one in some}
    names = [{*some, *({id} & named)} for id, some in zip(ids, parents, strict=True)]
    groups = [{at} for at in range(len(ids))]
    changed = True
    while changed:
        changed = False
        for a in range(len(ids)):
            for b in range(len(ids)):
                if names[a] & names[b] and groups[a] != groups[b]:
                    both = groups[a] | groups[b]
                    for one in both:
                        groups[one] = both
                    changed = True
    return [frozenset(group) for group in groups]


@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 14), max_size=2)), max_size=8))
def test_relatives_are_those_of_looking_at_all_pairs(records):
    ids, parents = [id for id, _ in records], [some for _, some in records]
    rows = np.repeat(np.arange(len(ids)), [len(some) for some in parents])
    flat = np.array([one for some in parents for one in some], np.uint64)
    found = relatives(np.array(ids, np.uint64), rows, flat).tolist()
    groups = [
        frozenset(np.flatnonzero(np.array(found) == one).tolist()) if one else frozenset({at})
        for at, one in enumerate(found)
    ]
    assert groups == plain_relatives(ids, parents)


def test_children_of_one_record_are_in_its_split(tmp_path, monkeypatch):
    rows = [{"id": f"t{n}", "question": question(n), "answer": answer(n), "parents": []} for n in range(40)]
    for n in range(40, 100):
        made_of = [f"t{n % 20}"] if n < 80 else [f"gone{n % 10}"]  # the latter are no records
        rows.append({"id": f"t{n}", "question": question(n), "answer": answer(n), "parents": made_of})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(path), "id": "id"}
    run = prepare_inline({"inputs": [source], "dedup": None, "output": str(tmp_path / "out")}, monkeypatch)
    found = {row["id"]: row for split in SPLITS for row in run.split(split).table().to_pylist()}
    assert len(found) == 100 and {row["split"] for row in found.values()} == set(SPLITS)
    families: dict[str, set[str]] = {}
    for id, row in found.items():
        of = row["provenance"]["parents"] if row["provenance"] else [id]
        assert of == ([id] if int(id[1:]) < 40 else rows[int(id[1:])]["parents"])
        families.setdefault(of[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in families.values()) and run.report["straddling"]["parents"] == 0
    assert run.report["notes"] == [], "the column of parents is read"
    named = source | {"columns": {"parents": "id", "operation": "answer"}}
    run = prepare_inline({"inputs": [named], "dedup": None, "output": str(tmp_path / "named")}, monkeypatch)
    row = run.split("train").table().to_pylist()[0]
    assert row["provenance"]["parents"] == [row["id"]] and row["metadata"].keys().isdisjoint({"parents", "operation"})
