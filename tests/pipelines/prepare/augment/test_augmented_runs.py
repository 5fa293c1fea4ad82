"""Whole runs with variants: in train alone, with a parent and an operation, the same in any order and any units."""

import json
import re
from collections import Counter

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob
from raymill.pipelines.prepare.records.fields import AUGMENT
from raymill.pipelines.prepare.report.page import render
from raymill.pipelines.prepare.stages.augment import AUGMENTED, NOT_AUGMENTED
from raymill.pipelines.prepare.versions.export import card_text
from tests.support.inline import prepare_inline
from tests.support.many_units import cut_into_many_units, write_small_row_groups
from tests.support.prepared_runs import ledger, records
from tests.support.tickets import answer, question

ALL = {"typos": {}, "ocr": {}, "case": {}, "punctuation": {}, "drop": {}, "swap": {}, "spelling": {}, "entities": {}}


def tickets(path, numbers, more=()) -> None:
    rows = [
        {"ticket": f"t{n}", "q": question(n), "a": answer(n), "queue": "billing" if n % 5 == 0 else "login"}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepares 60 tickets, of which a fifth is of the queue billing."""

    def prepared(augment: dict | None, name: str = "out", numbers=range(60), more=(), **settings):
        folder = tmp_path / name
        folder.mkdir()
        tickets(folder / "t.jsonl", numbers, more)
        columns = {"prompt": "q", "completion": "a", "queue": "queue"}
        source = {"source": "t", "path": f"{folder}/t.jsonl", "id": "ticket", "columns": columns}
        given = {"inputs": [source], "output": f"{folder}/out", "split": {"stratify": ["queue"]}, "augment": augment}
        return prepare_inline(given | settings, monkeypatch)

    return prepared


def variants(run) -> dict[str, dict]:
    return {id: row for id, row in records(run).items() if is_variant(row)}


def is_variant(row: dict) -> bool:
    return bool(row["provenance"]) and row["provenance"]["operation"].startswith(AUGMENT)


def test_variants_are_in_train_alone_and_name_their_record_and_operation(prepared):
    plain, run = prepared(None, "plain"), prepared({"operations": ALL, "variants": 2})
    before, after, made = records(plain), records(run), variants(run)
    assert after.keys() - made.keys() == before.keys()
    assert all(after[id]["messages"] == row["messages"] for id, row in before.items()), "records stay as they are"
    assert len(made) == run.report["totals"]["augmented"] == 96 and run.report["totals"]["written"] == 60 + 96
    for id, row in made.items():
        record, name = re.fullmatch(r"(t\d+)#(\w+)-[12]", id).groups()
        assert row["provenance"] == {"parents": [record], "operation": f"augment/{name}"}
        assert row["split"] == before[record]["split"] == "train" and row["metadata"] == after[record]["metadata"]
        assert row["messages"] != before[record]["messages"]
        if name != "entities":
            assert row["messages"][1] == before[record]["messages"][1], "answers stay"
    operations = Counter(row["provenance"]["operation"] for row in made.values())
    assert run.report["made"] == {one: {"train": n, "validation": 0, "test": 0} for one, n in operations.items()}
    assert run.assessment["records"] == 60 and run.assessment["findings"]["copies"] == 96


def test_a_variant_is_the_same_in_any_order_beside_any_records_and_in_any_units(prepared, monkeypatch):
    augment = {"operations": ALL, "variants": 3}
    run = prepared(augment)
    shuffled = prepared(augment, "shuffled", [*range(59, -1, -2), *range(0, 60, 2)])
    cut_into_many_units(monkeypatch, 1000)
    units = prepared(augment, "units")
    assert len({file.unit for file in Artifact.load(Store(), f"{units.uri}/_work/augmented").manifest.files}) > 3
    found = [{id: row["messages"] for id, row in variants(one).items()} for one in (run, shuffled, units)]
    assert len(found[0]) > 130 and found[0] == found[1] == found[2]
    few = prepared(augment, "few", range(30), split={"train": 1, "validation": 0, "test": 0})
    others = {id: row["messages"] for id, row in variants(few).items()}
    shared = found[0].keys() & others.keys()
    assert len(shared) > 50 and all(found[0][id] == others[id] for id in shared)


def test_rare_classes_are_filled_up_to_the_largest_one(prepared):
    run = prepared({"operations": ALL, "by": ["queue"], "to": "largest"})
    of_train = Counter(row["metadata"]["queue"] for row in records(run).values() if row["split"] == "train")
    assert of_train == {"login": 38, "billing": 38}
    assert run.report["variants"] == {
        "billing": {"records": 10, "variants": 28}, "login": {"records": 38, "variants": 0}
    }  # fmt: skip
    each = Counter(row["provenance"]["parents"][0] for row in variants(run).values())
    assert set(each.values()) <= {2, 3}, "evenly"


def test_a_class_that_cannot_be_filled_up_is_a_warning(prepared):
    run = prepared({"operations": ALL, "by": ["queue"], "to": {"billing": 100}, "most_variants": 2})
    assert run.report["variants"]["billing"] == {"records": 10, "variants": 20}
    assert any(one.startswith("augment: 1 class cannot be filled up to augment.to") for one in run.report["warnings"])


def test_the_share_of_variants_in_training_is_bounded_and_rare_classes_come_first(prepared):
    augment = {"operations": ALL, "by": ["queue"], "to": 40}
    run = prepared(augment, split={"stratify": ["queue"], "synthetic": {"train": 0.25}})
    assert run.report["totals"]["augmented"] == 16 and run.report["variants"]["billing"]["variants"] == 16
    (warning,) = [one for one in run.report["warnings"] if "split.synthetic" in one]
    assert warning == (
        "augment: 16 variants were not made, because split.synthetic.train allows 25% of the training split."
    )


def test_what_may_not_stay_is_in_the_ledger_with_the_reason(prepared):
    augment = {"operations": {"entities": {"numbers": False, "dates": False}, "case": {}}, "max_similarity": 0.99}
    run = prepared(augment)
    removed = ledger(run)
    assert len(removed) == 48 and run.report["totals"]["augmented"] == 0
    row = removed[next(iter(removed))]
    assert (row["stage"], row["reason"], row["value"], row["limit"], row["similarity"]) == (
        "augment", "too_near", "1", "0.99", 1.0
    )  # fmt: skip
    assert f"{row['partner']}#case-1" == row["id"] and row["partner_source"] == row["source"] == "t"
    assert json.loads(row["content"])["messages"][0]["content"] != question(int(row["partner"][1:]))
    (reason,) = run.report["reasons"]
    assert reason["meaning"].startswith("the similarity of the variant to its record is `augment.max_similarity`")
    assert reason["records"] == 48
    assert any(one.startswith("augment: 100.0% of the variants are left out") for one in run.report["warnings"])


def test_no_variant_has_the_question_of_another_split(prepared):
    """Both orders of two words are questions of the data set, so none is made of the other."""
    more = [{"ticket": f"m{n}", "q": f"card{n} {a} {b}", "a": answer(n), "queue": "x"}
            for n in range(40) for a, b in (("lost", "abroad"), ("abroad", "lost"))]  # fmt: skip
    run = prepared({"operations": {"swap": {}}}, numbers=(), more=more, dedup=None, validate={"question_chars": None})
    asked = {row["messages"][0]["content"]: row["split"] for id, row in records(run).items() if "#" not in id}
    for row in variants(run).values():
        assert asked.get(row["messages"][0]["content"]) is None
    assert "known_text" in {row["reason"] for row in ledger(run).values()} or len(variants(run)) == 64


def test_variants_have_the_fold_the_stage_and_the_shape_of_their_record(prepared, monkeypatch):
    write_small_row_groups(monkeypatch)
    run = prepared({"operations": ALL}, split={"folds": 3}, curriculum={"stages": 2}, records={"shape": "instruction"})
    found = records(run)
    for row in variants(run).values():
        record = found[row["provenance"]["parents"][0]]
        assert [row[name] for name in ("fold", "stage", "complexity")] == [
            record[name] for name in ("fold", "stage", "complexity")
        ]
        assert row["instruction"] != record["instruction"]


def test_repeated_records_and_variants_add_up(prepared):
    split = {"stratify": ["queue"], "balance": {"by": ["queue"], "to": 20}}
    run = prepared({"operations": ALL, "by": ["queue"], "to": 30}, split=split)
    totals = run.report["totals"]
    assert totals["repeated"] == 10 and totals["augmented"] == 20 and totals["written"] == 60 - 18 + 10 + 20
    assert run.report["straddling"] == {"contradictory": 0, "duplicates": 0, "questions": 0}
    assert "10 of them repeated; 20 of them variants" in run.summary
    assert run.report["variants"] == {name: {"records": 20, "variants": 10} for name in ("billing", "login")}


@pytest.mark.parametrize("output, max_similarity", [(AUGMENTED, None), (NOT_AUGMENTED, 0.7)])
def test_copies_and_variants_are_written_in_tables_of_bounded_size(prepared, monkeypatch, output, max_similarity):
    def content(run) -> list[dict]:
        return [row | {"metadata": row["metadata"] | {"collected_at": ""}} for row in records(run).values()]

    split = {"stratify": ["queue"], "balance": {"by": ["queue"], "to": 80, "most_copies": 9}}
    asked = {"operations": ALL, "by": ["queue"], "to": 200, "most_variants": 9, "max_similarity": max_similarity}
    wanted = content(prepared(asked, "whole", split=split))
    written, write = {"train": [], output: []}, Scratch.write

    def noted(self, name, table, unit=None):
        # The variants of AUGMENTED are copied to the training records as they were written.
        if name in written and not (name == "train" and is_variant(table.slice(0, 1).to_pylist()[0])):
            written[name].append(table.nbytes)
        write(self, name, table, unit)

    monkeypatch.setattr(Scratch, "write", noted)
    monkeypatch.setattr("raymill.pipelines.prepare.stages.augment._MOST_HELD", 4000)
    monkeypatch.setattr("raymill.pipelines.prepare.stages.write._MOST_COPIED", 4000)
    assert content(prepared(asked, split=split)) == wanted
    assert all(len(sizes) > 3 and max(sizes) < 8000 for sizes in written.values()), written


def test_the_page_and_the_card_count_what_was_made(prepared):
    run = prepared({"operations": {"typos": {}}, "by": ["queue"], "to": "largest"})
    page = render(run.report, run.assessment)
    assert "Synthetic records" in page and "augment/typos" in page and "are variants of others" in page
    version = run.tag("desk", registry=f"{run.uri}/registry")
    text = card_text(version, run.report, run.assessment, None)
    assert "- augmented" in text and "| augment/typos | 28 | 0 | 0 |" in text.replace("`", "")


def test_a_field_that_no_input_has_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"augment\.by: no input has a field or column length"):
        prepared({"operations": ALL, "by": ["length"], "to": 5})


def test_the_dry_run_says_what_becomes_variants(tmp_path):
    tickets(tmp_path / "t.jsonl", range(3))
    source = {"path": f"{tmp_path}/t.jsonl", "columns": {"prompt": "q", "completion": "a", "queue": "queue"}}
    given = {"kind": "prepare", "inputs": [source], "output": f"{tmp_path}/out"}
    for augment, said in (
        (
            {"operations": {"typos": {}, "case": {}}, "variants": 2},
            "2 variants of every training record, by typos, case",
        ),
        ({"operations": {"drop": {}}, "by": ["queue"], "to": 9}, "classes of queue filled up to 9, by drop"),
    ):
        job = PrepareJob(PrepareConfig.model_validate(given | {"augment": augment}))
        assert ("augment", said) in list(job.about())
