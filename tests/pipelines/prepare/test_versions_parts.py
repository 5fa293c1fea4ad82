"""Versions without a run: their order and names, what differs between two, and the words of a card."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions import export as card
from raymill.pipelines.prepare.versions import registry
from raymill.pipelines.prepare.versions.diff import (
    Beginning,
    ChangedRecord,
    Contents,
    Diff,
    Shift,
    _characters,
    _line,
    _shift,
    _shift_of_numbers,
    _shifts,
    diff_text,
    diff_values,
    metrics_text,
)
from raymill.pipelines.prepare.versions.registry import Registry, Version


def version(name: str, tagged: str = "2026-01-01T00:00:00+00:00", **more) -> Version:
    records = {"train": 8, "validation": 1, "test": 1}
    return replace(Version("help", name, "/out", "d" * 64, records, "", tagged), **more)


@pytest.fixture
def tagging(tmp_path, monkeypatch) -> Registry:
    """A registry where every output is a finished run; its digest is its name's."""
    runs = {"digest": "d" * 64}
    monkeypatch.setattr(
        registry.RunFolder, "require", lambda folder, kind: runs | {"digest": runs.get(folder.uri, "d" * 64)}
    )
    manifest = type("Manifest", (), {"rows": 3})
    rows = type("Rows", (), {"manifest": manifest, "refuse_damage": staticmethod(lambda: None)})
    monkeypatch.setattr(registry.Artifact, "load", lambda store, uri: rows)
    made = Registry(Store(), str(tmp_path))
    object.__setattr__(made, "runs", runs)
    return made


@pytest.mark.parametrize(
    ("key", "value"), [("digest", -1), ("digest", {}), ("note", None), ("tagged", 5), ("records", "~"),
                       ("name", "other"), ("version", "v7"),
                       ("records", dict.fromkeys(SPLITS, -1)), ("records", dict.fromkeys(SPLITS, 10**300)),
                       ("corrections", {"a": -1}), ("corrections", {"a": 1.5}), ("note", ["[" * 9]),
                       ("records", {"train": "8"}), ("records", {"train": [[]]}), ("records", {"train": True})],
)  # fmt: skip
def test_a_version_with_values_of_another_type_cannot_be_read(tagging, key, value):
    made = tagging.tag("help", "/out")
    (Path(tagging.uri) / "help" / "v1.json").write_text(json.dumps(asdict(made) | {key: value}))
    with pytest.raises(DataError, match="not the record of a version"):
        tagging.find("help")


def test_versions_are_in_the_order_in_which_they_were_tagged(tagging):
    times = {"v10": 5, "good": 1, "v2": 3, "v9": 5, "bad": 5}
    for name, second in times.items():
        tagging._create(version(name, f"2026-01-01T00:00:0{second}+00:00"))
    assert [one.version for one in tagging.versions("help")] == ["good", "v2", "bad", "v9", "v10"]
    assert tagging.find("help").version == "v10" and tagging.find("help:good").version == "good"


def test_numbers_go_on_after_the_highest_of_versions_that_are_numbers_alone(tagging):
    for name in ("v7-rc", "v3", "v012", "other", "V8"):
        tagging._create(version(name, output="/theirs"))
    assert tagging.tag("help", "/out").version == "v4"


def test_a_number_that_another_program_took_meanwhile_is_not_taken(tagging, monkeypatch):
    tagging._create(version("v1", output="/theirs"))
    seen = iter([0, 1])
    monkeypatch.setattr(Registry, "_last_number", lambda self, name: next(seen))
    assert tagging.tag("help", "/out", note="mine").version == "v2"
    assert tagging.find("help:v1").output == "/theirs"


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".a", "-a", "a:b", "a\n"])
def test_names_are_letters_digits_and_a_few_signs(tagging, name):
    with pytest.raises(ConfigError, match="names have letters"):
        tagging.tag(name, "/out")
    with pytest.raises(ConfigError, match="names have letters"):
        tagging.tag("help", "/out", name)
    assert tagging.tag("9_a.B-c", "/out", "1.0-rc_2").version == "1.0-rc_2"


def test_a_version_is_of_one_output_and_one_content(tagging):
    tagging.tag("help", "/out", "good")
    with pytest.raises(ConfigError, match="help:good is /out since"):
        tagging.tag("help", "/other", "good")
    tagging.runs["/out"] = "e" * 64
    with pytest.raises(ConfigError, match="A version never changes"):
        tagging.tag("help", "/out", "good")


# --- what differs


def contents(lengths: list[int], fields: dict[str, Counter], **records: int) -> Contents:
    ids = np.arange(len(lengths)).astype(np.uint64)
    return Contents(ids, ids, {"length": np.array(lengths)} if lengths else {}, fields, records)


def test_the_characters_of_a_record_are_those_of_its_texts():
    messages = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}]
    assert _characters({"messages": messages, "system": None}) == 5
    assert _characters({"prompt": "abc", "completion": "de", "fold": 3, "metadata": None}) == 5


def test_the_shift_of_lengths_by_hand():
    ten = np.arange(1, 101)
    same = _shift_of_numbers("length", ten, ten)
    assert (same.psi, same.ks, same.largest) == (0, 0, "median 50 -> 50 characters")
    short = _shift_of_numbers("length", ten, np.ones(100, np.int64))
    # All are in the first of ten bins of a tenth each; a bin without records counts as 0.0001.
    assert short.psi == pytest.approx(0.9 * np.log(10) + 9 * 0.0999 * np.log(1000))
    assert short.ks == pytest.approx(0.99)
    quality = _shift_of_numbers("quality_score", np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6]))
    assert quality.ks == pytest.approx(0.5) and quality.largest == "median 2.500 -> 4.500"


def test_the_value_whose_share_changed_most_is_named():
    old, new = Counter({"a": 80, "b": 10, "": 10}), Counter({"a": 50, "b": 30, "c": 20})
    assert _shift("label", old, new).largest == "a 80.0% -> 50.0%"
    assert _shift("label", Counter({"": 9, "a": 1}), Counter({"a": 10})).largest == "(none) 90.0% -> 0.0%"
    assert _shift("label", Counter(), new) == Shift("label", 0.0, None, "")
    shares = {"(none)": (0.1, 0.0), "a": (0.8, 0.5), "b": (0.1, 0.3), "c": (0.0, 0.2)}
    assert _shift("label", old, new).shares == shares, "of up to 20 values all"
    assert len(_shift("n", Counter(map(str, range(20))), Counter("0")).shares) == 20
    assert _shift("n", Counter(map(str, range(21))), Counter("0")).shares == {}


def test_fields_of_both_versions_are_compared_the_most_different_first():
    old = contents([5] * 10, {"label": Counter(a=5, b=5), "gone": Counter(a=10), "even": Counter(a=10)}, train=10)
    new = contents([5] * 10, {"label": Counter(a=9, b=1), "new": Counter(a=10), "even": Counter(a=10)}, train=10)
    assert [one.name for one in _shifts(old, new)] == ["label", "even", "length", "split"]
    empty = contents([], {}, train=0)
    assert _shifts(empty, empty) == [Shift("split", 0.0, None, "")]


def test_the_difference_as_text():
    records = ({"train": 1234, "test": 5}, {"train": 12, "test": 6})
    one, other = Beginning("Why?", "So."), Beginning("Why?", "Because.")
    examples = {
        "added": [ChangedRecord("a", None, Beginning("A text.", ""))],
        "removed": [ChangedRecord("c", one, None)],
        "changed": [ChangedRecord("d", one, other, ("completion", "metadata.label"))],
    }
    labels = Shift("label", 0.0999, None, "a 1.0% -> 2.0%", {"a": (0.01, 0.02), "b": (0.99, 0.98)})
    shifts = [Shift("length", 0.1, 0.25, "median 5 -> 6 characters"), labels]
    found = Diff(records, 3, 1, 1, examples, shifts)
    assert diff_values("h:v1", "h:v2", found, {"score": (0.5, None)})["metrics"] == {"score": (0.5, None)}
    assert diff_text("h:v1", "h:v2", found).splitlines() == [
        "h:v1 -> h:v2",
        "train            1,234 -> 12",
        "test                 5 -> 6",
        "added                3",
        "  a",
        "    A text.",
        "  and 2 more",
        "removed              1",
        "  c",
        "    Why?",
        "    > So.",
        "changed              1",
        "  d  (differs in completion, metadata.label)",
        "    before  Why?",
        "            > So.",
        "    after   Why?",
        "            > Because.",
        "length       PSI 0.100, KS 0.250  median 5 -> 6 characters  (shifted)",
        "label        PSI 0.100  a 1.0% -> 2.0%",
        "             a 1.0% -> 2.0%, b 99.0% -> 98.0%",
    ]


def test_ids_columns_and_values_of_others_are_one_line_each_in_the_difference():
    forged = "x\nadded          1,000" + "y" * 1000
    shift = _shift(forged, Counter({forged: 1, "b": 2}), Counter({forged: 2, "b": 1}))
    changed = [ChangedRecord(forged, Beginning("a", "b"), Beginning("a", "c"), (forged,))]
    counts = {"train": 1}
    text = diff_text("h:v1", "h:v2", Diff((counts, counts), 0, 0, 1, {"added": [], "removed": [], "changed": changed},
                                          [shift]))  # fmt: skip
    assert sum(line.startswith("added") for line in text.splitlines()) == 1
    assert max(map(len, text.splitlines())) < 500
    one = assessment(0.5, {}, **{forged: 1.0})
    assert len(metrics_text("h:v1", "h:v2", one, one).splitlines()) == 2


def test_the_beginning_of_a_text_is_one_line():
    assert _line("a  b\n\nc") == "a b c"
    assert _line("x" * 160) == "x" * 160 and _line("x" * 161) == "x" * 160 + "…"
    assert _line(" " * 400 + "end") == "…"


def assessment(score: float | None, languages: dict[str, int], **metrics: float | None) -> dict:
    found = [{"name": name, "value": value} for name, value in metrics.items()]
    return {"score": score, "metrics": found, "findings": {"languages": languages}}


def test_metrics_side_by_side():
    old = assessment(0.5, {"en": 9, "de": 1}, coverage=None, mtld=0.5, gone=0.25, same=0.1)
    new = assessment(0.75, {"en": 5, "fr": 5}, coverage=None, mtld=0.4905, same=0.109, new=1.0)
    found = [line.split() for line in metrics_text("a", "b", old, new).splitlines()]
    assert found == [
        ["score", "0.500", "->", "0.750", "(+0.250)"],
        ["mtld", "0.500", "->", "0.490"],
        ["gone", "0.250", "->", "–"],
        ["same", "0.100", "->", "0.109"],
        ["language", "de", "0.100", "->", "0.000", "(-0.100)"],
        ["language", "en", "0.900", "->", "0.500", "(-0.400)"],
        ["language", "fr", "0.000", "->", "0.500", "(+0.500)"],
        ["new", "–", "->", "1.000"],
    ]
    for pair in ((None, new), (old, None)):
        name = "a" if pair[0] is None else "b"
        assert metrics_text("a", "b", *pair).startswith(f"{name} has no assessment.json")


# --- the card


@pytest.fixture
def report() -> dict:
    def source(name: str, licence: str | None, task: str | None = None) -> tuple[dict, dict]:
        counts = {"source": name, "licence": licence, "records": 1234, "splits": {"train": 8, "test": 2}}
        return counts, {"source": name, "task_type": task, "columns": {}}

    pairs = [source("a|b", "mit"), source("c", None, "policy")]
    split = {"group": [], "stratify": []}
    config = {
        "records": {"task_type": "qa"},
        "inputs": [one for _, one in pairs],
        "clean": {"redact": []},
        "split": split,
    }
    return {
        "shape": "pairs", "sources": [one for one, _ in pairs], "totals": {"repeated": 0, "personal_data": 7},
        "reasons": [], "warnings": [], "config": config, "version": "1.0", "finished": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


def front(made: Version, report: dict, found: dict | None = None) -> dict:
    return yaml.safe_load(card.card_text(made, report, found, None).split("---\n")[1])


def section(title: str, made: Version, report: dict, found: dict | None = None, collected: Any = None) -> str:
    text = card.card_text(made, report, found, collected)
    return f"## {title}" + text.partition(f"## {title}")[2].partition("\n## ")[0].rstrip()


@pytest.mark.parametrize(
    ("total", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**9, "n>1T")],
)
def test_the_head_of_a_card_has_the_size_the_licence_and_the_tasks(report, total, size):
    made = version("v1", records={"train": total, "validation": 0, "test": 0})
    assert front(made, report)["size_categories"] == [size]
    made = version("v1", records={"train": 8, "validation": 0, "test": 2})
    head = front(made, report)
    assert (head["license"], head["license_name"]) == ("other", "mit, not stated")
    assert head["task_categories"] == ["question-answering", "text-generation"]
    assert [one["split"] for one in head["configs"][0]["data_files"]] == ["train", "test"], "not the empty one"
    report["sources"][1]["licence"] = "mit"
    assert front(made, report)["license"] == "mit"
    report["sources"][1]["licence"] = "isc"
    report["config"]["inputs"][0]["task_type"] = "classification"
    head = front(made, report)
    assert head["license"] == "other"
    assert head["task_categories"] == ["text-classification", "text-generation"]


def test_the_sections_of_a_card_say_what_was_done(report):
    made = version("v1")
    assert section("Collection", made, report, collected=None).splitlines()[-4:-2] == [
        "| a\\|b | mit | 1,234 | 10 |",
        "| c | not stated | 1,234 | 10 |",
    ]
    assert "repeated" not in section("Composition", made, report)
    assert section("Preprocessing", version("v1"), report).endswith("No record was removed.")
    assert section("Uses", version("v1"), report).endswith("records of one group are in one split.")
    gaps = section("Known gaps", version("v1"), report).splitlines()[2:]
    assert gaps == ["* The licence of c is not stated.", "* Personal data was not looked for."]
    report["totals"]["repeated"] = 1500
    report["reasons"] = [{"meaning": "a text of `x`", "records": 1200}]
    report["config"]["clean"]["redact"] = ["email", "phone"]
    report["config"]["split"] = {"group": ["customer_id"], "stratify": ["queue", "day"]}
    report["warnings"], report["sources"][1]["licence"] = ["source <b>: none"], "isc"
    assert "1,500 records of train are repeated to balance classes." in section("Composition", made, report)
    assert section("Preprocessing", version("v1"), report).splitlines()[2:] == [
        "* 1,200 records removed: a text of \\`x\\`",
        "* Personal data (email, phone) replaced by placeholders: 7 findings.",
    ]
    assert section("Uses", version("v1"), report).endswith(" (groups: customer\\_id), with equal shares of queue, day.")
    assert section("Known gaps", version("v1"), report).splitlines()[2:] == ["* source &lt;b&gt;: none"]
    report["warnings"] = []
    assert section("Known gaps", version("v1"), report).endswith("None that the preparation found.")


def test_a_card_has_the_languages_tags_and_dates(report):
    languages = {"en": 900, "de": 95, "fr": 4, "not a code": 500, "": 1}
    head = front(version("v1"), report, assessment(0.5, languages) | {"records": 10, "gates": []})
    assert head["language"] == ["en", "de"], "not those of less than a hundredth"
    assert head["tags"] == ["raymill", "policy", "qa"]
    assert "language" not in front(version("v1"), report, None)
    report["config"]["inputs"][0]["domain"] = "support *desk*"
    assert front(version("v1"), report, None)["tags"][-1] == "support *desk*"
    assert "of 2 sources for" in section("Motivation", version("v1"), report) and "type policy, qa." in section(
        "Motivation", version("v1"), report
    )
    assert "Their domains are support \\*desk\\*." in section("Motivation", version("v1"), report)
    dated = section(
        "Collection", version("v1", "2026-03-04T00:00:00+00:00"), report, collected=("2026-01-01", "2026-02-03")
    )
    assert "collected from 2026-01-01 to 2026-02-03: " in dated
    assert dated.endswith("Prepared on 2026-01-02, tagged on 2026-03-04.")
    assert "on 2026-01-01: " in section("Collection", version("v1"), report, collected=("2026-01-01", "2026-01-01"))
    assert "collected" not in section("Collection", version("v1"), report, collected=None)


def test_a_card_says_under_which_licence_it_is_passed_on(report):
    assert section("Distribution", version("v1"), report).endswith("each holds for its records.")
    report["sources"][1]["licence"] = "mit"
    assert section("Distribution", version("v1"), report).endswith(" The licence of all sources is mit.")
    report["config"]["inputs"][1]["columns"] = {"licence": "licence"}
    assert section("Distribution", version("v1"), report).endswith("their own licences in `metadata.licence`.")
    report["config"]["inputs"][1]["columns"] = {}
    report["sources"][0]["licence"] = report["sources"][1]["licence"] = None
    assert "No licence is stated" in section("Distribution", version("v1"), report)


def test_a_card_has_the_metrics_and_gates_of_the_assessment(report):
    found = assessment(0.5, {}, completeness=0.98765, relevance=None)
    for one in found["metrics"]:
        one["meaning"] = "1: | none lacks"
    gate = {"name": "duplication", "value": 0.02, "bound": 0.01, "state": "failed", "seen": "", "mend": ""}
    found |= {"records": 1200, "gates": [gate]}
    assert section("Assessment", version("v1"), report, found).splitlines()[2:] == [
        "Of 1,200 records. Score 0.500.",
        "",
        "| metric | value | meaning |",
        "|---|---|---|",
        "| completeness | 0.988 | 1: \\| none lacks |",
        "",
        "| gate | value | bound | state |",
        "|---|---|---|---|",
        "| duplication | 0.020 | at most 0.01 | failed |",
    ]
    assert section("Assessment", version("v1"), report) == "## Assessment\n\nNot assessed."


def test_the_recipe_of_a_card_stays_in_its_block(report):
    report["config"]["clean"]["terminology"] = {"```": "größer"}
    recipe = section("Recipe", version("v1"), report)
    assert recipe.count("```") == 2 and "'''" in recipe and "größer" in recipe
    assert recipe.startswith("## Recipe\n\nMade by Raymill 1.0 on 2026-01-02; digest `dddd")


def test_versions_are_written_as_json(tagging, tmp_path):
    made = tagging.tag("help", "/out", note="größer")
    written = json.loads(Path(tmp_path, "help", "v1.json").read_text(encoding="utf-8"))
    assert Version.parse(json.dumps(written).encode()) == made and written["note"] == "größer"
