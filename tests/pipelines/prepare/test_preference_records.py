"""Answers that were compared or judged, through a run of `prepare`: cleaned, counted with a reason, split, exported."""

import json
from pathlib import Path

import datasets
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions.export import export
from raymill.pipelines.prepare.versions.registry import Registry
from tests.support.inline import prepare_inline
from tests.support.pack_runs import write_lines
from tests.support.tickets import answer, question

ANY_LENGTH = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"}


def turns(*said: str) -> list[dict]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]


def answered(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def of_turns(n: int) -> dict:
    """A pair in TRL's conversational form, of two questions."""
    prompt = [{"role": "system", "content": "Be brief."}, *turns(question(n), answer(n), f"{question(n + 100)} Now?")]
    return {"id": f"p{n}", "prompt": prompt, "chosen": answered(answer(n + 100)), "rejected": answered(answer(n + 50))}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares rows: (the run, its records by id, the problems of quarantine in order)."""

    def run(rows: list[dict], shape: str, records: dict | None = None, columns: dict | None = None, **more):
        source = {"path": write_lines(tmp_path / "in.jsonl", rows), "id": "id", "columns": columns or {}}
        settings = {
            "inputs": [source], "records": {"shape": shape} | (records or {}), "validate": ANY_LENGTH, "dedup": None,
            "execution": {"max_bad_documents": 1.0}, "output": str(tmp_path / "out"),
        }  # fmt: skip
        done = prepare_inline(settings | more, monkeypatch)
        found = {row["id"]: row for split in SPLITS for row in done.split(split).table().to_pylist()}
        return done, found, sorted(Artifact.load(Store(), f"{done.uri}/quarantine").table()["problem"].to_pylist())

    return run


def test_a_preference_of_several_turns_is_written_as_trl_has_it(prepared):
    _, found, problems = prepared([of_turns(n) for n in range(6)], "preference_messages")
    assert not problems and len(found) == 6
    names = ("id", "prompt", "chosen", "rejected")
    assert [{name: found[f"p{n}"][name] for name in names} for n in range(6)] == [of_turns(n) for n in range(6)]
    assert "margin" not in found["p0"], "no record has one"


def test_all_turns_are_cleaned_and_have_no_personal_data(prepared):
    row = {
        "id": "p0",
        "prompt": turns("Is ann@example.com\u200b right?", "No, bob@example.com is.", "And eve@example.com?"),
        "chosen": answered("Also dan@example.com."),
        "rejected": answered("Only jim@example.com."),
    }
    run, found, _ = prepared([row], "preference_messages", clean={"redact": ["email"], "pseudonyms": "per_record"})
    texts = [one["content"] for name in ("prompt", "chosen", "rejected") for one in found["p0"][name]]
    assert [text.count("<EMAIL_") for text in texts] == [1] * 5 and len({*texts}) == 5
    assert not any("\u200b" in text or "example" in text for text in texts)
    assert run.report["totals"]["personal_data"] == 5


def test_what_cannot_be_compared_is_counted_for_a_reason(prepared):
    rows = [
        of_turns(0),
        of_turns(1) | {"rejected": answered(f" {answer(101)}\n")},
        of_turns(2) | {"rejected": answered(" ")},
        of_turns(3) | {"chosen": turns(question(3), "Yes."), "rejected": turns("Else?", "No.")},
        of_turns(4) | {"margin": "wide"},
        {"id": "r0", "prompt": "Which?", "completions": [{"rank": 1, "completion": text} for text in ("one", "two")]},
    ]  # fmt: skip
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    run, found, problems = prepared(rows[:-1], "preference_messages")
    assert list(found) == ["p0"] and problems == ["bad_margin", "different_questions", "empty", "equal_answers"]
    assert {one["reason"]: one["records"] for one in run.report["reasons"]} == dict.fromkeys(problems, 1)
    ranked = columns | {"chosen": "completions", "rejected": "completions"}
    assert prepared(rows[-1:], "preference", columns=ranked, output=f"{run.uri}-2")[1:] == ({}, ["tied_answers"])


def test_margins_and_scores_of_ranked_answers_are_columns(prepared, tmp_path):
    ranked = [{"response": answer(n), "overall_score": score, "model": "m"} for n, score in enumerate((4, 1.5, 3))]
    _, found, _ = prepared([{"id": "u", "instruction": question(0), "completions": ranked}], "preference")
    assert {name: found["u"][name] for name in ("system", "prompt", "chosen", "rejected", "margin")} == {
        "system": "", "prompt": question(0), "chosen": answer(0), "rejected": answer(1), "margin": 2.5,
    }  # fmt: skip
    rows = [of_turns(0) | {"margin": 0.25}, of_turns(1) | {"margin": None}]
    _, found, _ = prepared(rows, "preference_messages", output=str(tmp_path / "two"))
    assert [found[id]["margin"] for id in ("p0", "p1")] == [0.25, None]
    _, found, _ = prepared(
        [of_turns(0) | {"strength": 3}],
        "preference_messages",
        columns={"margin": "strength"},
        output=str(tmp_path / "three"),
    )
    assert found["p0"]["margin"] == 3, "the other columns are recognised"


def test_a_margin_of_other_records_needs_another_name(prepared):
    with pytest.raises(
        ConfigError, match=r"columns.margin: is content of records with a chosen.*profit_margin: margin"
    ):
        prepared([{"id": "a", "text": "So.", "margin": 2}], "text", columns={"text": "text", "margin": "margin"})


def judged(n: int, desirable: object = True) -> dict:
    return {"id": f"a{n}", "prompt": question(n), "completion": answer(n), "label": desirable}


def test_judged_answers_keep_their_label_where_the_config_says_so(prepared, tmp_path):
    rows = [judged(0), judged(1, False), judged(2, 0), judged(3, "True"), judged(4, "spam"), judged(5, None)]
    for shape in ("pairs", "messages", "instruction"):
        run, found, problems = prepared(rows, shape, {"undesirable": "keep"}, output=str(tmp_path / shape))
        assert {id: row["label"] for id, row in found.items()} == {"a0": True, "a1": False, "a2": False, "a3": True}
        assert problems == ["bad_label"] * 2
        assert not any("label" in note for note in run.report["notes"]), "it is read"
    _, found, problems = prepared(rows, "pairs", output=str(tmp_path / "refused"))
    assert problems == ["undesirable"] and "label" not in found["a0"]


def test_an_answer_that_is_like_one_of_the_other_judgement_is_no_duplicate_and_does_not_contradict_it(prepared):
    asked = " ".join(question(n) for n in range(30))
    rows = [
        {"id": f"{label}{n}", "prompt": asked, "completion": text, "label": label == "good"}
        for label, texts in {"good": ["It is red."], "bad": ["It is blue.", "It is blue"]}.items()
        for n, text in enumerate(texts)
    ]
    run, found, _ = prepared(rows, "pairs", {"undesirable": "keep"}, dedup={})
    assert set(found) == {"good0", "bad0"} and len({row["split"] for row in found.values()}) == 1
    assert {one["reason"]: one["records"] for one in run.report["reasons"]} == {"near_duplicate": 1}
    assert Artifact.load(Store(), f"{run.uri}/listed").rows == 0


def test_all_answers_to_one_question_are_in_one_split(prepared):
    rows = [of_turns(n % 20) | {"id": f"p{n}", "rejected": answered(f"{answer(n)} {n}")} for n in range(100)]
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    _, found, _ = prepared(rows, "preference_messages", split=split)
    seen: dict[str, set[str]] = {}
    for row in found.values():
        seen.setdefault(json.dumps(row["prompt"]), set()).add(row["split"])
    assert len(found) == 100 and len(seen) == 20 and all(len(names) == 1 for names in seen.values())


def test_copies_of_a_preference_are_removed_and_answers_to_a_question_after_other_turns_are_no_repeats(prepared):
    copied, other = of_turns(0) | {"id": "copy"}, of_turns(1) | {"id": "other"}
    other["prompt"][-1] = of_turns(0)["prompt"][-1]  # the same last question after other turns
    run, found, _ = prepared(
        [of_turns(0), copied, other], "preference_messages", dedup={}, duplicates={"questions": "remove"}
    )
    assert set(found) == {"p0", "other"}
    assert [one["reason"] for one in run.report["reasons"]] == ["exact_duplicate"]


def test_variants_of_preferences_change_every_turn_and_keep_their_margin(prepared):
    augment = {"operations": {"case": {}}, "variants": 1, "max_similarity": None, "min_similarity": 0}
    rows = [of_turns(n) | {"margin": n} for n in range(4)]
    split = {"train": 1, "validation": 0, "test": 0}
    run, found, _ = prepared(rows, "preference_messages", augment=augment, split=split)
    made = [row for id, row in found.items() if "#case" in id]
    assert len(made) == run.report["totals"]["augmented"] > 0
    for row in made:
        before = found[row["provenance"]["parents"][0]]
        assert row["margin"] == before["margin"] and row["prompt"] != before["prompt"]
        assert [one["role"] for one in row["prompt"]] == [one["role"] for one in before["prompt"]]


def test_corrections_of_a_preference_are_those_of_its_last_question_and_answers(prepared, tmp_path):
    edits = [{"id": "p0", "field": "chosen", "old": answer(100), "new": "Press it twice.", "edited_by": "ann"},
             {"id": "p1", "field": "rejected", "old": answer(51), "new": answer(101), "edited_by": "ann"}]  # fmt: skip
    patches = [write_lines(tmp_path / "patch.jsonl", edits)]
    _, found, problems = prepared([of_turns(0), of_turns(1)], "preference_messages", patches=patches)
    assert found["p0"]["chosen"] == answered("Press it twice.") and problems == ["equal_answers"]


def test_exports_are_read_by_datasets_and_have_the_messages_of_trl(prepared, tmp_path):
    run, found, _ = prepared([of_turns(n) | {"margin": n} for n in range(9)], "preference_messages")
    registry = Registry(Store(), f"{tmp_path}/datasets")
    registry.tag("compared", run.uri)
    version = registry.find("compared")
    export(Store(), version, f"{tmp_path}/hf", "hf")
    export(Store(), version, f"{tmp_path}/lines", "jsonl")
    loaded = datasets.load_dataset(f"{tmp_path}/hf", cache_dir=f"{tmp_path}/cache")
    by_id = {row["id"]: row for split in loaded.values() for row in split}
    lines = [json.loads(line) for one in Path(tmp_path, "lines").glob("*.jsonl") for line in one.open()]
    for row in (*lines, *by_id.values()):
        for name in ("prompt", "chosen", "rejected", "margin"):
            assert row[name] == found[row["id"]][name]
    assert len(lines) == len(by_id) == 9
