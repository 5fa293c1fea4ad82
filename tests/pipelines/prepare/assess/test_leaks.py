"""Questions of validation and test that are planted in train are found and fixed; none where there is none."""

import json

import pytest

from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.report.page import assessment_text
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline

PLACES = ("harbour", "market", "library", "theatre", "station", "museum", "castle", "bridge", "garden", "tower")
WHO = ("mason", "mayor", "miller", "monk", "merchant", "sailor", "teacher", "painter", "smith", "baker")


def question(n: int, last: str = "now") -> str:
    """About 30 words; two with other last words are near, those with other numbers are not."""
    of = f"{WHO[n // 10]} who lived at number {n} beside the {PLACES[n % 10]}"
    return f"What did the {of} say about the {PLACES[n % 10]} and the {WHO[n // 10]} in letter {n} of the year, {last}?"


def rows(*of: tuple[str, str]) -> list[dict]:
    return [
        {"id": id, "prompt": asked, "completion": f"This is what {id} says of it, and no other."} for id, asked in of
    ]


PLAIN = rows(*((f"r{n:02}", question(n)) for n in range(40)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(given: list[dict], name: str = "out", replace: bool = False, **more):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
        columns = {key: key for key in given[0] if key != "id"}
        plain = {"inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id", "columns": columns}], "dedup": None,
                 "split": {"train": 0.5, "validation": 0.25, "test": 0.25}, "assess": {"embeddings": None},
                 "output": str(tmp_path / name)}  # fmt: skip
        return prepare_inline(plain | more, monkeypatch, replace=replace)

    return run


def split_of(run) -> dict[str, str]:
    return {id: split for split in SPLITS for id in run.split(split).table()["id"].to_pylist()}


def test_a_data_set_without_alike_questions_has_no_leak(run):
    made = run(PLAIN)
    assert made.assessment["findings"]["leaks"] == {
        "compared": 20, "validation": 0, "test": 0, "exact": 0, "ids": []
    }  # fmt: skip
    assert metric(made.assessment, "leakage") == 0 and made.assessment["warnings"] == []
    assert "warning" not in assessment_text(made.assessment)


def test_planted_questions_in_other_splits_are_found_by_id(run, tmp_path, monkeypatch):
    """An alike question to each of 40: those that the split put elsewhere than the first one are leaks, if one of the
    two is in train. Units of one file each and rows do not matter."""
    alike = rows(*((f"p{n:02}", question(n, "today")) for n in range(40)))
    made = run(PLAIN + alike)
    split = split_of(made)
    pairs = [(split[f"r{n:02}"], split[f"p{n:02}"], n) for n in range(40)]
    wanted = {
        f"{'p' if first == 'train' else 'r'}{n:02}": second if first == "train" else first
        for first, second, n in pairs
        if first != second and "train" in (first, second)
    }
    assert len(wanted) > 10 and any(first != second and "train" not in (first, second) for first, second, _ in pairs)
    found = made.assessment["findings"]["leaks"]
    of = list(wanted.values())
    assert (found["compared"], found["exact"]) == (40, 0)
    assert (found["validation"], found["test"]) == (of.count("validation"), of.count("test"))
    assert len(found["ids"]) == 5 and set(found["ids"]) <= set(wanted)
    assert metric(made.assessment, "leakage") == len(wanted) / 40
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.ROWS", 2)
    assert run(PLAIN + alike, "other").assessment["findings"]["leaks"] == found


def test_leaks_are_warned_of_and_the_setting_named_fixes_them(run, tmp_path):
    records = PLAIN + rows(*((f"p{n:02}", question(n, "today")) for n in range(40)))
    made = run(records)
    (warning,) = made.assessment["warnings"]
    setting = "-o duplicates.questions=list -o split.stable=false --replace`."
    assert warning.startswith("Questions of validation and test that are in train: ") and warning.endswith(setting)
    assert all(id in warning for id in made.assessment["findings"]["leaks"]["ids"])
    assert f"warning: {warning}" in assessment_text(made.assessment)
    page, leaks = Store().read_bytes(f"{made.uri}/report.html").decode(), made.assessment["findings"]["leaks"]
    assert "<li>Questions of validation and test that are in train" in page
    number = leaks["validation"] + leaks["test"]
    assert f"{number} of 40 records for validation and testing have a question, or text, that is in train" in page
    judged = run(records, gates={"leakage": 0.0}, replace=True)
    assert gate(judged.assessment, "leakage")["state"] == "failed" and judged.assessment["warnings"] == []
    assert gate(judged.assessment, "leakage")["mend"] == warning and "at most 0" in assessment_text(judged.assessment)
    split = {"train": 0.5, "validation": 0.25, "test": 0.25, "stable": False}
    fixed = run(records, duplicates={"questions": "list"}, split=split, gates={"leakage": 0.0}, replace=True)
    assert gate(fixed.assessment, "leakage")["state"] == "passed" and metric(fixed.assessment, "leakage") == 0


def test_equal_questions_are_counted_apart_from_near_ones(run, tmp_path):
    """An earlier run keeps a question in test; then the same one, and one that is near it, come to train."""
    made = run(PLAIN, "before")
    split = split_of(made)
    train, test = (next(id for id in sorted(split) if split[id] == name) for name in ("train", "test"))
    moved = [one | ({"prompt": PLAIN[int(train[1:])]["prompt"].upper()} if one["id"] == test else {}) for one in PLAIN]
    keep = {"train": 0.5, "validation": 0.25, "test": 0.25, "keep": [str(tmp_path / "before")]}
    again = run(moved, split=keep)
    assert split_of(again) == split
    leaks = again.assessment["findings"]["leaks"]
    assert leaks == {"compared": 20, "validation": 0, "test": 1, "exact": 1, "ids": [test]}
    (warning,) = again.assessment["warnings"]
    assert "1 record" in warning and "-o duplicates.questions=remove --replace" in warning, "kept ones are not moved"
    removed = run(moved, "removed", split=keep, duplicates={"questions": "remove"})
    assert metric(removed.assessment, "leakage") == 0


def test_a_copy_of_a_near_question_is_not_an_equal_one(run, tmp_path):
    """Of train one question; in test two equal ones that are near it, of which the second repeats the first exactly."""
    made = run(PLAIN, "before")
    split = split_of(made)
    train = next(id for id in sorted(split) if split[id] == "train")
    tests = [id for id in sorted(split) if split[id] == "test"][:2]
    near = question(int(train[1:]), "today")
    moved = [one | ({"prompt": near} if one["id"] in tests else {}) for one in PLAIN]
    keep = {"train": 0.5, "validation": 0.25, "test": 0.25, "keep": [str(tmp_path / "before")]}
    leaks = run(moved, split=keep).assessment["findings"]["leaks"]
    assert (leaks["test"], leaks["exact"], sorted(leaks["ids"])) == (2, 0, tests)


def chained(n: int) -> list[str]:
    """Three questions: the second is near the first and the third, which are not near each other."""
    words = question(n).split()
    second = [*words[:-2], "in", words[-1]]
    return [" ".join(words), " ".join(second), " ".join([words[0], "might", *second[2:]])]


def test_a_chain_of_alike_questions_is_found_by_its_middle(run, tmp_path):
    """Two of train are near each other, one of test is near the second alone: of alike questions in train, each is
    compared. `duplicates.questions: list` puts the chain into one split."""
    split = split_of(run(PLAIN, "before"))
    first, second = [id for id in sorted(split) if split[id] == "train"][:2]
    last = next(id for id in sorted(split) if split[id] == "test")
    asked = dict(zip((first, second, last), chained(77), strict=True))
    moved = [one | {"prompt": asked.get(one["id"], one["prompt"])} for one in PLAIN]
    keep = {"train": 0.5, "validation": 0.25, "test": 0.25, "keep": [str(tmp_path / "before")]}
    leaks = run(moved, split=keep).assessment["findings"]["leaks"]
    assert leaks == {"compared": 20, "validation": 0, "test": 1, "exact": 0, "ids": [last]}
    chains = [one for n in range(20) for one in rows(*((f"c{n:02}-{at}", text) for at, text in enumerate(chained(n))))]
    fixed = run(chains, "fixed", duplicates={"questions": "list"})
    assert metric(fixed.assessment, "leakage") == 0
    placed = split_of(fixed)
    assert all(len({placed[f"c{n:02}-{at}"] for at in range(3)}) == 1 for n in range(20))


def test_copies_that_balancing_made_do_not_shift_the_records(run):
    """Copies stand between the records of train, and validation and test come after them."""
    alike = rows(*((f"p{n:02}", question(n, "today")) for n in range(40)))
    records = [one | {"queue": "rare" if n % 7 == 0 else "it"} for n, one in enumerate(PLAIN + alike)]
    plain = run(records, "plain").assessment
    split = {"train": 0.5, "validation": 0.25, "test": 0.25, "balance": {"by": ["queue"], "to": "largest"}}
    made = run(records, split=split)
    assert made.assessment["findings"]["copies"] > 10
    assert made.assessment["findings"]["leaks"] == plain["findings"]["leaks"]


def test_plain_texts_are_compared_whole(run):
    texts = [{"id": f"r{n:02}", "text": question(n // 2, ("now", "today")[n % 2])} for n in range(60)]
    made = run(texts, records={"shape": "text"})
    split = split_of(made)
    pairs = [{split[f"r{n:02}"], split[f"r{n + 1:02}"]} for n in range(0, 60, 2)]
    assert metric(made.assessment, "leakage") == sum(len(one) == 2 and "train" in one for one in pairs) / 30 > 0
    (warning,) = made.assessment["warnings"]
    assert warning.startswith("Texts of ") and warning.endswith("-o dedup.scope=all -o dedup.remove=true --replace`.")
    fixed = run(texts, "fixed", records={"shape": "text"}, dedup={"scope": "all", "remove": True})
    assert metric(fixed.assessment, "leakage") == 0


def test_without_validation_and_test_there_is_nothing_to_leak(run):
    made = run(PLAIN, split={"train": 1, "validation": 0, "test": 0}, gates={"leakage": 0})
    assert gate(made.assessment, "leakage")["state"] == "not measured"
    assert gate(made.assessment, "leakage")["seen"] == "no validation or test"
