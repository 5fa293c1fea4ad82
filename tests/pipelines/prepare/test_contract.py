"""The config that other tools rely on runs as it is written, and what it names is there."""

import csv
import json
from collections import Counter

import pytest
import yaml

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.sources import with_named_columns
from tests.support.inline import prepare_inline
from tests.support.pdf import pdf
from tests.support.shown import print_dry_run
from tests.support.tickets import WORDS, answer, question

CONTRACT = """
kind: prepare
name: helpdesk
inputs:
  - {source: tickets, path: tickets.csv, columns: {prompt: subject, completion: resolution, category: queue}, licence: internal, share: 0.6}
  - {source: manuals, path: "manuals/*.pdf", licence: internal, share: 0.4}
records: {shape: messages, task_type: qa}                      # text | pairs | instruction | messages | preference
clean: {terminology: terms.yaml, redact: [email, phone], pseudonyms: per_record}
validate: {question_chars: [10, 500], answer_chars: [20, 2000], require: [category]}
split: {train: 0.8, validation: 0.1, test: 0.1, stratify: [category], group: [conversation_id]}
gates: {coverage: 0.95, duplication: 0.01, source_diversity: 0.8}
output: data/helpdesk
"""  # noqa: E501


def page(manual: int, part: int) -> list[str]:
    """The lines of a page, with a heading."""
    seen, *others = (WORDS[(part * step + manual) % 12] for step in (1, 5, 7, 11))
    return [
        f"{seen.capitalize()} {('one', 'two')[part // 12]}",
        f"The {others[0]} of device {manual} has a {seen} beside its {others[1]}, and a lamp above both of them,",
        "which is green while the device is ready and red while it starts. Hold the button for three",
        f"seconds until the {seen} moves, then write to desk{manual}@example.com or wait for the {others[2]}.",
    ]


@pytest.fixture
def contract(tmp_path, monkeypatch) -> dict:
    """The settings, with files where they name them."""
    with open(tmp_path / "tickets.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "resolution", "queue", "conversation_id"])
        for n in range(60):
            rows.writerow([question(n), answer(n), ("login", "billing")[n % 3 == 0], f"c{n // 2}"])
    (tmp_path / "manuals").mkdir()
    for n in range(3):
        pages = [[f"Manual of device {n}"], *(page(n, part) for part in range(20))]
        (tmp_path / "manuals" / f"m{n}.pdf").write_bytes(pdf(pages))
    (tmp_path / "terms.yaml").write_text("lamp: light\n")
    monkeypatch.chdir(tmp_path)
    return yaml.safe_load(CONTRACT)


def test_the_contract_runs_and_everything_that_it_names_is_there(contract, monkeypatch, tmp_path):
    run = prepare_inline(contract, monkeypatch)
    for name in ("manifest.json", "assessment.json", "report.html"):
        assert (tmp_path / "data/helpdesk" / name).stat().st_size
    rows = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    removed = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    assert {row["reason"] for row in removed} == {"over_share"}, "tickets, of which the manuals have too few sections"
    assert Artifact.load(Store(), f"{run.uri}/quarantine").manifest.rows == 0
    assert all(run.split(split).manifest.rows for split in SPLITS)
    shares = Counter(row["metadata"]["source"] for row in rows)
    assert abs(shares["tickets"] / shares.total() - 0.6) < 0.02, shares
    assert all(row["metadata"]["category"] for row in rows if row["metadata"]["source"] == "tickets")
    conversations, manuals = {}, {}
    for row in rows:
        if row["metadata"]["source"] == "tickets":
            conversations.setdefault(row["metadata"]["conversation_id"], set()).add(row["split"])
        else:
            (manual,) = row["provenance"]["parents"]
            manuals.setdefault(manual, set()).add(row["split"])
    assert len(conversations) > 20 and all(len(splits) == 1 for splits in conversations.values())
    assert len(manuals) == 3 and all(len(splits) == 1 for splits in manuals.values()), "sections of one manual"
    part = next(row for row in rows if row["provenance"])
    asked, said = (one["content"] for one in part["messages"])
    assert asked.startswith("What do I need to know about Manual of device ") and "light" in said
    assert any("validate.require" in note for note in run.report["notes"])
    assert any("3 texts longer than" in note for note in run.report["notes"])
    assert run.report["straddling"] == dict.fromkeys(
        ("conversation_id", "contradictory", "duplicates", "parents", "questions"), 0
    )


def test_a_dry_run_says_what_is_not_required_of_documents(contract, capsys):
    print_dry_run(PrepareConfig.model_validate(contract))
    out = capsys.readouterr().out
    assert "manuals: text" in out and "conversation_id" in out
    assert "note     Source manuals: its records have no category, which `validate.require` names" in out


def test_a_field_that_no_input_has_is_refused_with_what_there_is(contract):
    for setting, change in {
        "split.group": {"split": {"group": ["conversation"]}},
        "split.stratify": {"split": {"stratify": ["conversation"]}},
        "split.by_time": {"split": {"by_time": "conversation"}},
        "split.balance.by": {"split": {"balance": {"by": ["conversation"]}}},
        "assess.fields": {"assess": {"fields": ["conversation"]}},
        "assess.period": {"assess": {"period": "conversation"}},
        "assess.extrinsic": {"assess": {"extrinsic": "conversation"}},
        "assess.groups": {"assess": {"groups": ["conversation"]}},
        "assess.annotators": {"assess": {"annotators": ["category", "conversation"]}},
        "validate.allowed": {"validate": {"allowed": {"conversation": ["a"]}}},
        "validate.until": {"validate": {"until": {"conversation": "2026-01-01"}}},
        "validate.outliers.by": {"validate": {"outliers": {"by": ["conversation"]}}},
        "clean.labels": {"clean": {"labels": {"conversation": {"a": []}}}},
    }.items():
        config = PrepareConfig.model_validate(contract | change)
        message = r"there are .*queue, .*Did you mean conversation_id\?"
        with pytest.raises(ConfigError, match=rf"^{setting}.*{message}"):
            with_named_columns(config)
    for name in ("length", "prompt"):
        with pytest.raises(ConfigError, match=f"split.group: no input has a field or column {name}"):
            with_named_columns(PrepareConfig.model_validate(contract | {"split": {"group": [name]}}))


def test_a_table_without_a_required_column_is_refused_before_it_is_read(contract):
    inputs = [one | {"share": None} for one in contract["inputs"]]
    inputs[1] |= {"path": "tickets.csv", "columns": {"prompt": "subject", "completion": "resolution"}}
    for setting, change in {
        "validate.require": {"validate": {"require": ["category"]}},
        "split.by_time": {"split": {"by_time": "category"}},
    }.items():
        plain = contract | {"inputs": inputs, "split": {}, "validate": {}} | change
        config = PrepareConfig.model_validate(plain)
        message = (
            rf"inputs\[1\] \(manuals\): no column category \({setting}\)\. It has: conversation_id, .* would be removed"
        )
        with pytest.raises(ConfigError, match=message):
            with_named_columns(config)


def test_records_of_json_may_have_a_field_that_others_lack(contract, tmp_path, monkeypatch):
    chats = [{"prompt": question(n), "completion": answer(n)} for n in range(60, 70)]
    chats[-1]["conversation_id"] = chats[-2]["conversation_id"] = "c0"
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chats))
    inputs = [*contract["inputs"][:1], {"source": "chats", "path": "chats.jsonl", "columns": {"queue": "queue"}}]
    for one in inputs:
        one.pop("share", None)
    plain = contract | {"inputs": inputs, "split": {"group": ["conversation_id"]}, "validate": {}}
    run = prepare_inline(plain, monkeypatch)
    rows = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    together = [row for row in rows if row["metadata"]["conversation_id"] == "c0"]
    assert len(together) == 4 and len({row["split"] for row in together}) == 1
    assert sum(row["metadata"]["conversation_id"] is None for row in rows) == 8


def test_a_data_set_without_a_name_has_the_one_of_its_output():
    for output, name in {
        "data/helpdesk": "helpdesk", "s3://bucket/data/desk/": "desk", "/x/two words": "two-words", "/x/..": "dataset",
    }.items():  # fmt: skip
        assert (
            PrepareConfig.model_validate({"kind": "prepare", "inputs": [{"path": "x"}], "output": output}).name == name
        )
