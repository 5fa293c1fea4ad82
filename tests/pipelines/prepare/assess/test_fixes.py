"""What would fix a gate, word for word, from findings written by hand."""

import pytest

from raymill.pipelines.prepare.assess.fixes import FixContext, fix_of
from tests.support.assessments import findings, some

SOURCES = ("x", "y", "z")
OUT = FixContext("/out", SOURCES)
REPEATED = {"compared": 10, "exact": 4, "near": 2, "ids": ["a", "b", "c", "d", "e"]}
NO_ANSWERS = {"compared": 0, "exact": 0, "near": 0, "ids": []}
AGAIN = "`raymill prepare CONFIG --replace`"
WIDER = "`raymill prepare CONFIG -o dedup.scope=all -o dedup.remove=true -o dedup.threshold=0.6 --replace`"


def labels(errors: int | None, *ids: str, **changes) -> dict:
    suspects = [{"id": id, "label": "x", "suggested": f"of-{id}", "probability": 0.1} for id in ids]
    none: dict = {"rare": {}, "rare_ids": [], "missed": 0, "hardest": [], "judged": 10}
    return {"records": 10, "left_out": 4, "classes": 3, "most_frequent": 0.5, "scores": {}, "errors": errors,
            "suspects": suspects} | none | changes  # fmt: skip


def learned(groups: tuple[int, ...] = (), ids: tuple[str, ...] = (), **of_fields: dict) -> dict:
    similar = {"records": 10, "mean": 0.5, "ids": list(ids)}
    return {"groups": list(groups), "similar": similar, "relevant": similar, "largest": list(ids), "labels": of_fields}


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
    assert fix_of("duplication", findings(**changes), FixContext("/out", SOURCES, removed)) == said


CONTRADICTORY = (
    "Equal questions with different answers: 2 records (a, b). Keep one answer of each in the source, or remove them "
    "all: `raymill prepare CONFIG -o duplicates.contradictory=remove --replace`."
)
EQUAL = (
    "`raymill prepare CONFIG -o inputs.0.share=0.3333 -o inputs.1.share=0.3333 -o inputs.2.share=0.3334 "
    "-o mixture.fill=false --replace`"
)
TAKE_OUT = (
    f"Take such records out of the source, then {AGAIN}; or name further examples and topics in CONFIG: "
    "`raymill assess /out --config CONFIG`."
)


@pytest.mark.parametrize(
    ("gate", "changes", "said"),
    [
        ("consistency", {"contradictory": some(2, "a", "b"), "not_allowed": some(1, "c")},
         f"{CONTRADICTORY} Values that are not allowed: 1 record (c). Name the allowed value of each spelling in "
         f"`clean.labels`, then {AGAIN}."),
        ("consistency", {"contradictory": some(2, "a", "b")}, CONTRADICTORY),
        ("consistency", {"other_format": some(1, "c"), "forms": {"text": 9, "JSON": 1}, "dates": {"2026-11-23": 3}},
         "Answers in another format than most of their task type (text 9, JSON 1, 2026-11-23 3): 1 record (c). Write "
         f"them alike in the source, then {AGAIN}."),
        ("consistency", {"terms": some(6, "d")},
         "With terms that `clean.terminology` replaces: 6 records (d, ...). Replace them, by a CONFIG with these "
         f"terms: {AGAIN}."),
        ("completeness", {"incomplete": some(2, "a", "b"), "missing": {"queue": 1, "content": 1, "team": 1}},
         "Records with empty fields: 2 records (a, b). Fill these in the source, or leave them out: "
         "`raymill prepare CONFIG -o 'validate.require=[queue,team]' --replace`."),
        ("completeness", {"incomplete": some(1, "a"), "missing": {"content": 1}},
         f"Records with empty fields: 1 record (a). Fill these in the source, then {AGAIN}."),
        ("language_quality", {"other_language": some(1, "a"), "languages": {"en": 5, "de": 2, "fr": 1, "it": 1}},
         "In another language: 1 record (a). Leave them out: `raymill prepare CONFIG -o 'validate.language.keep=[en]' "
         "--replace`; or name all languages that are expected: `raymill assess /out -o "
         "'assess.languages=[en,de,fr]'`."),
        ("language_quality", {"damaged": some(1, "b")},
         f"With damaged characters: 1 record (b). Export them again as UTF-8, then {AGAIN}."),
        ("coverage", {"topics": {"f": 6, "a": 1, "b": 0, "c": 3, "d": 2, "e": 4}},
         "Least mentioned topics: b (0 records), a (1 record), d (2 records), c (3 records), e (4 records). Add an "
         f"input with records about them, then {AGAIN}."),
        ("coverage", {"topics": {"paper jam": 0}, "off_topic": some(2, "r", "s")},
         "Least mentioned topics: paper jam (0 records). Mention no topic: 2 records (r, s); if some are about these "
         "in other words, name the words: `raymill assess /out -o 'assess.topics.paper jam=[WORD, WORD]'`. Add an "
         f"input with records about them, then {AGAIN}."),
        ("source_diversity",
         {"copies": 2, "values": {"source": {"distinct": 3, "evenness": 0.5, "shown": {"x": 9, "y": 2, "z": 1},
                                             "ids": {"x": ["a", "b"], "z": ["c"]}}}},
         "x has 9 of 12 records (such as a, b), z has 1 (such as c). Add records of the smaller sources, or take "
         f"equally many of each, about 3 in all: {EQUAL}."),
        ("relevance",
         {"topics": {"a": 3}, "on_topic": 3, "off_topic": some(7, "c"), "learned": learned(ids=("a", "b"))},
         f"Least similar to the examples: a, b. Mention no topic: 7 records (c, ...). {TAKE_OUT}"),
        ("relevance", {"learned": learned()}, TAKE_OUT),
        ("answer_relevance", {"learned": learned(ids=("a", "b"))},
         "Least similar to their questions: a, b. Correct these answers in the source, or remove those that have no "
         "word of their question: `raymill prepare CONFIG -o validate.relevance=0.1 --replace`."),
        ("diversity", {"learned": learned((7, 2, 1), ("f", "g")), "questions": REPEATED},
         "The largest of 3 groups of like texts has 7 of 10 records (such as f, g). Repeat an earlier one: a, b, c, d, "
         "e. Remove these: `raymill prepare CONFIG -o duplicates.questions=remove --replace`. "
         f"Add an input about other things or with other lengths, then {AGAIN}."),
        ("diversity", {}, f"Add an input about other things or with other lengths, then {AGAIN}."),
        ("extrinsic_f1",
         {"learned": learned(first=labels(None), last=labels(
             None, left_out=3, rare={"odd": 1, "a b": 2}, rare_ids=["h"], missed=2,
             hardest=[{"id": "i", "label": "x", "suggested": "y", "probability": 0.1}]))},
         "Predicted otherwise than their last: 2 records (i: y?, ...). Correct those that are wrong. Values of fewer "
         "than five records: odd 1, a b 2, 3 records in all (such as h). Give them the VALUE of a similar one: "
         "`raymill prepare CONFIG -o 'clean.labels.last.VALUE=[odd,a b]' --replace`. Add records of the values that "
         f"are rare or predicted wrongly, then {AGAIN}."),
    ],
)  # fmt: skip
def test_a_fix_names_the_records_and_the_command(gate, changes, said):
    assert fix_of(gate, findings(**changes), OUT) == said


def test_labels_annotators_and_rules_are_fixed_in_one_text():
    wrong = labels(7, "a", "b", "c", "d", "e", "f")
    asked = findings(
        learned=learned(queue=wrong, topic=labels(0), tone=labels(None)),
        agreement={"records": 10, "alpha": 0.5, "differing": some(2, "g", "h")},
        rules={"too_short": 3, "too_long": 1},
        violating=some(4, "i"),
    )
    assert fix_of("accuracy", asked, OUT) == (
        "Values of queue that are probably wrong: 7 records (a: of-a?, b: of-b?, c: of-c?, d: of-d?, e: of-e?, ...). "
        f"`raymill sample /out/_work/assess/suspects` shows more. Correct them in the source, then {AGAIN}. "
        "Annotators differ: 2 records (g, h). Settle these in the source and make the annotators' guideline clearer, "
        f"then {AGAIN}. Rules are broken (too_short 3, too_long 1): 4 records (i, ...). Remove them, by a CONFIG with "
        f"these rules: {AGAIN}."
    )


BIAS = f"Add or rewrite records of these, then {AGAIN}; or state other shares: `raymill assess /out --config CONFIG`."
LEVEL = "Level them: `raymill prepare CONFIG -o 'split.balance.by=[field]' -o split.balance.to=smallest --replace`. "


@pytest.mark.parametrize(
    ("represented", "said"),
    [
        # 7, 2 and 1 of 10, and a third of each is wanted; records without a value are left out.
        ({"likeness": 0.6, "wanted": {}, "shown": {"x": 7, "y": 2, "z": 1, "": 90}},
         f"field: z has 1 of 10 records, and 33% are wanted; x has 7, of 33% (such as a). {LEVEL}"),
        # y has 0.2 of the wanted 0.7, z has 0.1 of the wanted 0.2, x is not wanted.
        ({"likeness": 0.4, "wanted": {"y": 0.7, "z": 0.2}, "shown": {"x": 7, "y": 2, "z": 1}},
         "field: y has 2 of 10 records, and 70% are wanted; x has 7, of 0% (such as a). "),
        ({"likeness": 1.0, "wanted": {}, "shown": {"x": 5, "y": 5}}, ""),
        ({"likeness": None, "wanted": {}, "shown": {"x": 5}}, ""),
        ({"likeness": 0.0, "wanted": {"x": 1.0}, "shown": {"": 5, "x": 0}}, ""),
    ],
)  # fmt: skip
def test_the_values_that_lack_and_have_the_largest_share_too_many_are_named(represented, said):
    values = {"field": {"distinct": 3, "evenness": 0.5, "shown": {}, "ids": {"x": ["a"]}}}
    found = fix_of("bias", findings(represented={"field": represented}, values=values), OUT)
    assert found == said + BIAS


def test_a_part_of_a_run_is_assessed_again_by_its_own_command():
    of_split = FixContext("/there", data="/out/train")
    found = fix_of("relevance", findings(), of_split)
    assert found.endswith("`raymill assess /out/train --output /there --config CONFIG`.")


def test_shares_are_written_out_for_up_to_twelve_inputs():
    shown = {"x": 7, "y": 2}
    equal = findings(represented={"source": {"likeness": 0.7, "wanted": {}, "shown": shown}})
    twelve, thirteen = (fix_of("bias", equal, FixContext("/out", ("x", "y", *"z" * more))) for more in (10, 11))
    assert "-o inputs.11.share=0.0337 -o mixture.fill=false" in twelve
    assert "`raymill prepare CONFIG -o mixture.fill=false --replace` with an equal `share` for each source" in thirteen


def test_sources_are_levelled_by_their_shares():
    shown = {"x": 7, "y": 2}
    equal = findings(represented={"source": {"likeness": 0.7, "wanted": {}, "shown": shown}})
    stated = findings(represented={"source": {"likeness": 0.7, "wanted": {"x": 0.5, "y": 0.5}, "shown": shown}})
    twice = FixContext("/out", ("x", "y", "x"))
    for found, prepared, command in (
        (equal, twice, "-o inputs.0.share=0.25 -o inputs.1.share=0.5 -o inputs.2.share=0.25 -o mixture.fill=false"),
        (stated, twice, "-o mixture.fill=false"),
        (equal, FixContext("/out", ("x",) * 13), "-o mixture.fill=false"),
    ):
        assert f"Level them: `raymill prepare CONFIG {command} --replace`" in fix_of("bias", found, prepared)


def test_the_most_different_lengths_and_scores_are_named_where_they_are_certain():
    ratios = [compared("x", 0.9, 0.8, 0.95), compared("y", 2.5, 2.0, 3.0), compared("z", 0.1, 0.05, 1.2)]
    differences = [differing("x", 0.6, 0.1, 0.05, 0.2), differing("y", 0.3, -0.2, -0.3, -0.1),
                   differing("z", 0.9, 0.4, -0.1, 0.9)]  # fmt: skip
    found = fix_of(
        "bias",
        findings(
            lengths={"region": {"against": "w", "ratios": ratios}, "team": None},
            sentiments={"region": {"against": "w", "mean": 0.5, "differences": differences}, "team": None},
        ),
        OUT,
    )
    assert found == (
        "region: texts of y have 2.50 times the length of w's (2.00 to 3.00). "
        "region: the mean score of y is 0.300, and of w 0.500. " + BIAS
    )
    unsure = findings(
        lengths={"region": {"against": "w", "ratios": ratios[2:]}},
        sentiments={"region": {"against": "w", "mean": 0.5, "differences": differences[2:]}},
    )
    assert fix_of("bias", unsure, OUT) == BIAS


@pytest.mark.parametrize(("empty", "shown"), [(5, "m0, m1, m2, m3, m4"), (6, "m0, m1, m2, m3, m4, ...")])
def test_the_first_months_without_records_are_named(empty, shown):
    months = {f"m{at}": 0 for at in range(empty)} | {"full": 3}
    found = fix_of("bias", findings(periods={"evenness": 0.1, "records": months}), OUT)
    assert found == f"Without records: {shown}. {BIAS}"
    whole = findings(periods={"evenness": 1.0, "records": {"full": 3}})
    assert fix_of("bias", whole, OUT) == BIAS


LEAKS = {"compared": 9, "validation": 2, "test": 1, "exact": 1, "ids": ["a", "b", "c"]}
REMOVE = "Remove those that repeat an earlier one: `raymill prepare CONFIG -o duplicates.questions=remove"
LIST = "Keep alike ones in one split: `raymill prepare CONFIG -o duplicates.questions=list"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, f"{LIST} -o split.stable=false --replace`."),
        ({"by_source": True}, f"{LIST} -o dedup.scope=all -o split.stable=false --replace`."),
        ({"keep": True}, f"{REMOVE} --replace`."),
        ({"questions_listed": True, "by_source": True}, f"{REMOVE} -o dedup.scope=all --replace`."),
    ],
)
def test_leaks_are_fixed_by_a_setting_that_the_data_set_was_not_made_with(settings, said):
    records = "Questions of validation and test that are in train: 3 records (a, b, c). "
    assert fix_of("leakage", findings(leaks=LEAKS), FixContext("/out", **settings)) == records + said
