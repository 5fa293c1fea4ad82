"""What would mend a gate, word for word, from findings written by hand."""

import pytest

from pipelines.prepare.assess.mend import mend_of
from tests.support.assessments import findings, some

REPEATED = {"compared": 10, "exact": 4, "near": 2, "ids": ["a", "b", "c", "d", "e"]}
NO_ANSWERS = {"compared": 0, "exact": 0, "near": 0, "ids": []}
AGAIN = "`raymill prepare CONFIG --replace`"
WIDER = "`raymill prepare CONFIG -o dedup.scope=all -o dedup.remove=true -o dedup.threshold=0.6 --replace`"


def labels(errors: int | None, *ids: str, classes: int = 3, left_out: int = 4) -> dict:
    suspects = [{"id": id, "label": "x", "suggested": f"of-{id}", "probability": 0.1} for id in ids]
    return {"records": 10, "left_out": left_out, "classes": classes, "most_frequent": 0.5, "scores": {},
            "errors": errors, "suspects": suspects}  # fmt: skip


def learned(groups: tuple[int, ...] = (), ids: tuple[str, ...] = (), **of_fields: dict) -> dict:
    similar = {"records": 10, "mean": 0.5, "ids": list(ids)}
    return {"groups": list(groups), "similar": similar, "relevant": similar, "labels": of_fields}


def compared(value: str, ratio: float, low: float, high: float) -> dict:
    return {"value": value, "records": 30, "ratio": ratio, "low": low, "high": high}


def differing(value: str, mean: float, difference: float, low: float, high: float) -> dict:
    return {"value": value, "records": 30, "mean": mean, "difference": difference, "low": low, "high": high}


@pytest.mark.parametrize(
    ("changes", "removed", "said"),
    [
        ({"questions": REPEATED}, False,
         "Questions that repeat an earlier one: 6 records (a, b, c, d, e, ...). Remove them: "
         "`raymill prepare CONFIG -o duplicates.questions=remove --replace`."),
        ({"questions": REPEATED | {"exact": 3}}, True,
         f"Questions that repeat an earlier one: 5 records (a, b, c, d, e). Remove them: {WIDER}."),
        ({"questions": REPEATED, "answers": NO_ANSWERS}, False,
         f"Texts that repeat an earlier one: 6 records (a, b, c, d, e, ...). Remove them: {WIDER}."),
    ],
)  # fmt: skip
def test_repeated_questions_are_removed_by_the_setting_that_does_it(changes, removed, said):
    assert mend_of("duplication", findings(**changes), "/out", removed) == said


@pytest.mark.parametrize(
    ("gate", "changes", "said"),
    [
        ("consistency", {"contradictory": some(2, "a", "b"), "not_allowed": some(1, "c")},
         "Equal questions with different answers: 2 records (a, b). Keep one answer. "
         f"Values that are not allowed: 1 record (c). Correct them. Then {AGAIN}."),
        ("consistency", {"not_allowed": some(1, "c")},
         f"Values that are not allowed: 1 record (c). Correct them. Then {AGAIN}."),
        ("consistency", {"contradictory": some(2, "a", "b")},
         f"Equal questions with different answers: 2 records (a, b). Keep one answer. Then {AGAIN}."),
        ("completeness", {"incomplete": some(2, "a", "b"), "missing": {"queue": 1, "content": 1, "team": 1}},
         "Records with empty fields: 2 records (a, b). Fill these in the source, or leave them out: "
         "`raymill prepare CONFIG -o validate.require=[queue,team] --replace`."),
        ("completeness", {"incomplete": some(1, "a"), "missing": {"content": 1}},
         "Records with empty fields: 1 record (a). Fill these in the source."),
        ("language_quality", {"other_language": some(1, "a"), "languages": {"en": 5, "de": 2, "fr": 1, "it": 1}},
         "In another language: 1 record (a). Leave them out by `validate.language.keep`, or name all that are "
         "expected: `raymill assess /out --config CONFIG -o assess.languages=[en,de,fr]`."),
        ("language_quality", {"damaged": some(1, "b")},
         f"With damaged characters: 1 record (b). Export them again as UTF-8, then {AGAIN}."),
        ("coverage", {"topics": {"f": 6, "a": 1, "b": 0, "c": 3, "d": 2, "e": 4}},
         "Least mentioned topics: b (0 records), a (1 record), d (2 records), c (3 records), e (4 records). Add inputs "
         f"about them, then {AGAIN}."),
        ("source_diversity",
         {"copies": 2, "values": {"source": {"distinct": 3, "evenness": 0.5, "shown": {"x": 9, "y": 2, "z": 1}}}},
         f"x has 9 of 12 records, z has 1. Add records of the smaller sources, then {AGAIN}."),
        ("relevance", {"topics": {"a": 3}, "on_topic": 3, "learned": learned(ids=("a", "b"))},
         "Least similar to the examples: a, b. Leave such records out. 7 records mention no topic; name more topics, "
         f"or leave these out. Then {AGAIN}, or `raymill assess /out --config CONFIG`."),
        ("answer_relevance", {"learned": learned(ids=("a", "b"))},
         "Least similar to their questions: a, b. Correct these answers, or remove those that have no word of their "
         "question: `raymill prepare CONFIG -o validate.relevance=0.1 --replace`."),
        ("relevance", {"learned": learned()}, f"Then {AGAIN}, or `raymill assess /out --config CONFIG`."),
        ("diversity", {"learned": learned((7, 2, 1)), "questions": REPEATED},
         "The largest of 3 groups of like texts has 7 records. Questions that repeat an earlier one: a, b, c, d, e. "
         f"Add inputs about other things or of other lengths, then {AGAIN}."),
        ("diversity", {}, f"Add inputs about other things or of other lengths, then {AGAIN}."),
        ("extrinsic_f1", {"learned": learned(first=labels(None), last=labels(None, classes=2, left_out=1))},
         "last has 2 values with 5 records or more, and 1 record have rarer ones. Add records of the rare values, or "
         f"merge these by `clean.labels`, then {AGAIN}."),
        ("score", {}, "Look at the parts with the lowest value: `raymill assess /out`."),
    ],
)  # fmt: skip
def test_a_mend_names_the_records_and_the_command(gate, changes, said):
    assert mend_of(gate, findings(**changes), "/out", False) == said


def test_labels_annotators_and_rules_are_mended_in_one_text():
    wrong = labels(7, "a", "b", "c", "d", "e", "f")
    asked = findings(
        learned=learned(queue=wrong, topic=labels(0), tone=labels(None)),
        agreement={"records": 10, "alpha": 0.5, "differing": some(2, "g", "h")},
        rules={"too_short": 3, "too_long": 1},
        violating=some(4, "i"),
    )
    assert mend_of("accuracy", asked, "/out", False) == (
        "Values of queue that are probably wrong: 7 records (a: of-a?, b: of-b?, c: of-c?, d: of-d?, e: of-e?, ...). "
        "Correct them in the source; `raymill sample /out/_work/assess/suspects` shows more. "
        "Annotators differ: 2 records (g, h). Settle these, and make their guideline clearer. "
        "Rules are broken (too_short 3, too_long 1): 4 records (i, ...). Correct them, or prepare with these rules. "
        f"Then {AGAIN}."
    )
    agreed = findings(agreement={"records": 10, "alpha": 1.0, "differing": some(0)})
    assert mend_of("accuracy", agreed, "/out", False) == f"Then {AGAIN}."


BIAS = f"Add records of these, then {AGAIN}; or state other shares: `raymill assess /out --config CONFIG`."


@pytest.mark.parametrize(
    ("represented", "said"),
    [
        # 7, 2 and 1 of 10, and a third of each is wanted; records without a value are left out.
        ({"likeness": 0.6, "wanted": {}, "shown": {"x": 7, "y": 2, "z": 1, "": 90}},
         "field: z has 1 of 10 records, and 33% are wanted. "),
        # y has 0.2 of the wanted 0.7, z has 0.1 of the wanted 0.2, x is not wanted.
        ({"likeness": 0.4, "wanted": {"y": 0.7, "z": 0.2}, "shown": {"x": 7, "y": 2, "z": 1}},
         "field: y has 2 of 10 records, and 70% are wanted. "),
        ({"likeness": 1.0, "wanted": {}, "shown": {"x": 5, "y": 5}}, ""),
        ({"likeness": None, "wanted": {}, "shown": {"x": 5}}, ""),
        ({"likeness": 0.0, "wanted": {"x": 1.0}, "shown": {"": 5, "x": 0}}, ""),
    ],
)  # fmt: skip
def test_the_value_that_lacks_the_largest_share_is_named(represented, said):
    assert mend_of("bias", findings(represented={"field": represented}), "/out", False) == said + BIAS


def test_the_most_different_lengths_and_scores_are_named_where_they_are_certain():
    ratios = [compared("x", 0.9, 0.8, 0.95), compared("y", 2.5, 2.0, 3.0), compared("z", 0.1, 0.05, 1.2)]
    differences = [differing("x", 0.6, 0.1, 0.05, 0.2), differing("y", 0.3, -0.2, -0.3, -0.1),
                   differing("z", 0.9, 0.4, -0.1, 0.9)]  # fmt: skip
    found = mend_of(
        "bias",
        findings(
            lengths={"region": {"against": "w", "ratios": ratios}, "team": None},
            sentiments={"region": {"against": "w", "mean": 0.5, "differences": differences}, "team": None},
        ),
        "/out",
        False,
    )
    assert found == (
        "region: texts of y have 2.50 times the length of w's (2.00 to 3.00). "
        "region: the mean score of y is 0.300, and that of w 0.500. " + BIAS
    )
    unsure = findings(
        lengths={"region": {"against": "w", "ratios": ratios[2:]}},
        sentiments={"region": {"against": "w", "mean": 0.5, "differences": differences[2:]}},
    )
    assert mend_of("bias", unsure, "/out", False) == BIAS


@pytest.mark.parametrize(("empty", "shown"), [(5, "m0, m1, m2, m3, m4"), (6, "m0, m1, m2, m3, m4, ...")])
def test_the_first_months_without_records_are_named(empty, shown):
    months = {f"m{at}": 0 for at in range(empty)} | {"full": 3}
    found = mend_of("bias", findings(periods={"evenness": 0.1, "records": months}), "/out", False)
    assert found == f"Without records: {shown}. {BIAS}"
    whole = findings(periods={"evenness": 1.0, "records": {"full": 3}})
    assert mend_of("bias", whole, "/out", False) == BIAS
