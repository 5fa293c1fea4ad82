"""The report of a preparation from counters alone: its warnings, its order and the lines that are printed."""

from typing import Any

import pytest

from raymill.cluster.examples.splits import SPLITS
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.report.gather import (
    _fetched,
    _ranked,
    _reasons,
    class_warnings,
    data_set_warnings,
    split_warnings,
    time_warnings,
)
from raymill.pipelines.prepare.report.page import report_text, verdict_of

SOURCES = ("a", "b")


def config(**changes: Any) -> PrepareConfig:
    inputs = [{"source": name, "path": f"/in/{name}.jsonl"} for name in SOURCES]
    return PrepareConfig.model_validate({"kind": "prepare", "name": "x", "inputs": inputs, "output": "/out"} | changes)


def warned(kept: tuple[int, int] = (50, 50), straddling: dict[str, int] | None = None, **more: Any) -> list[str]:
    """The warnings of a run with these numbers of records of the sources."""
    config_, splits = more.pop("config", config()), more.pop("splits", {"train": 80, "validation": 10, "test": 10})
    totals = {"records": 100, "rejected": 0, "written": sum(kept)} | more
    sources = [
        {"source": name, "records": 60, "passed": 55, "splits": {"train": number // 2, "test": number - number // 2}}
        for name, number in zip(SOURCES, kept, strict=True)
    ]  # fmt: skip
    return data_set_warnings(config_, totals, splits, sources, {}, straddling or {})


def shared(one: float, other: float) -> PrepareConfig:
    inputs = [
        {"source": name, "path": f"/{name}", "share": share} for name, share in zip(SOURCES, (one, other), strict=True)
    ]
    return config(inputs=inputs)


def test_a_run_as_it_should_be_has_no_warnings():
    assert warned() == [] and warned(config=shared(0.5, 0.5)) == []
    assert time_warnings({"rejected/a/too_old": 3}, {"older": 0}) == [] == time_warnings({}, {})


def test_an_empty_split_is_reported_if_it_has_a_share():
    empty = {"train": 5, "validation": 0, "test": 0}
    assert warned(splits=empty, kept=(1, 4)) == [
        f"the split {split} is empty: 5 records are too few, or of one group." for split in ("validation", "test")
    ]
    assert warned(splits=empty, config=config(split={"train": 1, "validation": 0, "test": 0})) == []


def test_a_source_without_records_is_reported():
    assert warned(kept=(0, 100)) == ["source a: none of its 60 records is in the data set."]


@pytest.mark.parametrize(("kept", "told"), [((48, 52), 0), ((52, 48), 0), ((47, 53), 2), ((53, 47), 2)])
def test_sources_that_differ_from_their_share_by_more_than_two_percent_are_reported(kept, told):
    found = warned(kept=kept, config=shared(0.5, 0.5))
    assert len(found) == told
    if told:
        assert found[0] == (
            f"source a: {kept[0]}.0% of the data set, where its share is 50.0%; it has 55 records that meet all rules."
        )


def test_more_than_half_of_the_records_failing_is_reported():
    assert warned(rejected=50) == [] == warned(records=0)
    assert warned(rejected=51)[0].startswith("51.0% of the records fail a rule.")


def test_groups_in_several_splits_are_reported():
    (found,) = warned(straddling={"customer": 1200, "duplicates": 0})
    assert found.startswith("1,200 values of customer are in more than one split, because an earlier run (split.keep, ")


def test_records_without_a_time_and_older_ones_are_counted_over_all_sources():
    collected = {"rejected/a/no_time": 2, "rejected/b/no_time": 1, "rejected/b/too_old": 5}
    found = time_warnings(collected, {"older": 1})
    assert found[0] == "3 records without a time for split.by_time are in the ledger, as no_time."
    assert found[1].startswith("1 record for validation or testing are older") and len(found) == 2


def test_reasons_are_in_the_order_of_the_stages_then_the_most_frequent_first():
    collected = {"problem/a/empty": 2, "problem/b/empty": 3, "problem/b/bad_messages": 7, "rejected/a/refusal": 9}
    written = {"removed/balance/over_class": 1, "removed/validate/refusal": 2, "removed/validate/not_allowed": 2,
               "removed/validate/too_old": 5, "removed/table/outlier": 4, "split/train": 50}  # fmt: skip
    found = [(one["stage"], one["reason"], one["records"]) for one in _reasons(collected, written)]
    assert found == [
        ("collect", "bad_messages", 7), ("collect", "empty", 5), ("table", "outlier", 4), ("validate", "too_old", 5),
        ("validate", "not_allowed", 2), ("validate", "refusal", 2), ("balance", "over_class", 1),
    ]  # fmt: skip
    assert [one["reason"] for one in _ranked({("listed", "contradictory"): 1, ("listed", "outlier"): 3})] == [
        "outlier", "contradictory"
    ]  # fmt: skip


def test_the_lines_that_are_printed():
    counts = [("collect", "empty", 7), *(("validate", name, 10 - at) for at, name in enumerate(
        ("refusal", "too_old", "boilerplate", "not_json", "bad_words")
    )), ("mixture", "over_share", 1)]  # fmt: skip
    reasons = [{"stage": stage, "reason": reason, "records": number} for stage, reason, number in counts]
    report: dict[str, Any] = {
        "totals": {"records": 12_345, "repeated": 1500}, "reasons": reasons, "splits": {"train": 12_000, "test": 5},
        "cut": [{"kind": "quote", "pieces": 2}, {"kind": "signature", "pieces": 5}, {"kind": "quote", "pieces": 4}],
        "listed": [{"reason": "outlier", "records": 2}, {"reason": "contradictory", "records": 3}],
    }  # fmt: skip
    assert report_text(report).splitlines() == [
        "records       12,345",
        "not readable       7  empty 7",
        "fail a rule       40  refusal 10, too_old 9, boilerplate 8, not_json 7, +1 more",
        "duplicates         0",
        "over a share       1  over_share 1",
        "cut from text     11  quote 6, signature 5",
        "listed             5  outlier 2, contradictory 3",
        "train         12,000  1,500 of them repeated",
        "test               5",
    ]
    made = [{"generator": "m", "terms": None, "splits": {"train": 7, "test": 0}}]
    assert report_text(report | {"generated": made}).splitlines()[-2:] == [
        "train         12,000  1,500 of them repeated; 7 of them synthetic", "test               5",
    ]  # fmt: skip
    report |= {"cut": [], "listed": [], "reasons": reasons[1:5], "totals": {"records": 5, "repeated": 0}}
    report["splits"] = {"train": 1}
    assert report_text(report).splitlines() == [
        "records        5", "not readable   0", "fail a rule   34  refusal 10, too_old 9, boilerplate 8, not_json 7",
        "duplicates     0", "train          1",
    ]  # fmt: skip


def test_a_note_of_a_source_that_was_fetched():
    record = {"source": "desk", "rows": 1200, "answers": 1, "asked": "https://h/t", "ended": "2026-01-02", "failed": 0}
    assert _fetched(record) == "Source desk: 1,200 rows in 1 answer of https://h/t, fetched 2026-01-02."
    assert "of https://h/t, 1,500 not readable, fetched" in _fetched(record | {"failed": 1500})


def divided(counters: dict[str, float], a: dict[str, int], b: dict[str, int], **more: Any) -> list[str]:
    """The warnings of a split. a, b: records of the two sources in each split."""
    assigned = {f"assigned/{split}": float(a.get(split, 0) + b.get(split, 0)) for split in SPLITS}
    sources = [{"source": name, "splits": {**dict.fromkeys(SPLITS, 0), **of}} for name, of in (("a", a), ("b", b))]
    return split_warnings(more.pop("config", config()), assigned | counters, sources, more.pop("classes", {}))


EVEN = {"train": 80, "validation": 10, "test": 10}


def test_a_split_that_differs_from_its_share_is_stated():
    assert divided({"component/records": 1}, EVEN, EVEN) == []
    assert divided({}, {"train": 5, "validation": 0, "test": 1}, {}) == [], "a record more or less is rounding"
    (found,) = divided({"component/records": 15}, {"train": 65, "validation": 12, "test": 23}, {})
    assert found == (
        "split: train 65.0% of 80%, validation 12.0% of 10%, test 23.0% of 10%, 15 records off at the most, because "
        "groups of records are not divided; the largest group has 15 records."
    )
    (found,) = divided({"new": 10, "records": 100}, {"train": 65, "validation": 12, "test": 23}, {})
    assert found.endswith("because records of an earlier run stay where they are.")


def test_a_group_that_swallows_a_source_is_named_with_what_joins_it():
    joined = {
        "component/records": 100, "component/split": 0, "component/source/0": 100, "component/source/1": 0,
        "component/without/customer": 30, "component/without/questions": 4,
    }  # fmt: skip
    found = divided(joined, {"train": 100}, {"train": 60, "validation": 20, "test": 20},
                    config=config(split={"group": ["customer"]}))  # fmt: skip
    assert found == [
        "one group has 100 of 200 records (50.0%), more than the share of validation and test, and all of it is in "
        "train. Its records are joined by customer and equal questions (without customer its largest part has 30; "
        "without equal questions its largest part has 4). It has every record of source a. To divide it: `split.group` "
        "without customer, or `duplicates.questions: remove`.",
        "source a: none of its 100 records is in validation or test.",
    ]
    assert divided(joined | {"component/records": 19}, EVEN, EVEN) == [], "small groups are no warning"


def test_sources_and_strata_that_a_split_lacks_are_named():
    assert divided({}, {"train": 130}, {"train": 30, "validation": 20, "test": 20}) == [
        "source a: none of its 130 records is in validation or test. `split.stratify: [source]` gives each its share."
    ]
    assert divided({}, {"train": 40}, {"train": 120, "validation": 20, "test": 20}) == [], "4 expected, 0 is chance"
    classes = {"queue": [{"value": "it", "splits": EVEN | {"test": 0, "train": 90}, "removed": {}}]}
    (found,) = divided({}, EVEN, EVEN, config=config(split={"stratify": ["source"]}), classes=classes) or [""]
    assert found == "", "only strata"


def test_strata_with_too_few_records_for_each_split_are_counted_in_one_warning():
    rare = [{"value": name, "splits": {"train": 3, "validation": 0, "test": 0}, "removed": {}} for name in "bc"]
    classes = {"queue": [{"value": "a", "splits": EVEN, "removed": {}}, *rare]}
    found = divided({}, EVEN, EVEN, config=config(split={"stratify": ["queue"]}), classes=classes)
    assert found == [
        "queue: 2 of 3 values have too few records for one in each split (b, c), so a score on the splits that lack "
        "them says nothing of them."
    ]


def test_classes_that_a_rule_removes_whole_are_named_with_the_setting():
    def value(name: str, kept: int, **removed: int) -> dict:
        places = {place.replace("__", "/"): number for place, number in removed.items()}
        return {"value": name, "splits": {"train": kept, "validation": 0, "test": 0}, "removed": places}

    values = [value("open", 5, validate__answer_too_short=9), value("yes", 0, validate__answer_too_short=7),
              value("no", 0, validate__answer_too_short=4, duplicates__near_duplicate=2)]  # fmt: skip
    meanings = {"answer_too_short": "fewer characters than `validate.answer_chars`"}
    assert class_warnings({"intent": values}, meanings) == [
        "intent: 2 of 3 values have no record in the data set (yes, no): answer_too_short removed 11 of their 13 "
        "records, by `validate.answer_chars`. Change it if these records are good."
    ]
    by_chance = value("a date", 0, validate__answer_too_short=1, validate__too_old=1, duplicates__near_duplicate=1)
    meant = [value("other", 0, validate__not_allowed=9), value("rare", 0, validate__answer_too_short=1), by_chance]
    assert class_warnings({"intent": [*values[:1], *meant]}, meanings) == [] == class_warnings({}, meanings)


def judged(gates: tuple[tuple[str, float | None, str], ...] = (), leaked: int = 0) -> dict[str, Any]:
    """What the verdict reads of an assessment. gates: name, value, state."""
    leaks = {"compared": 20, "validation": leaked, "test": 0}
    found = [{"name": name, "value": value, "bound": 0.9, "state": state} for name, value, state in gates]
    return {"gates": found, "findings": {"leaks": leaks}}


def reported(
    written: int = 90, train: int = 72, test: int = 9, warnings: tuple[str, ...] = (), shares: tuple = (0.8, 0.1, 0.1)
) -> dict[str, Any]:
    totals = {"records": 100, "written": written, "repeated": 0}
    splits = {"train": train, "validation": 9, "test": test}
    asked = {"split": dict(zip(SPLITS, shares, strict=True))}
    return {"totals": totals, "splits": splits, "warnings": list(warnings), "config": asked}


def test_the_verdict_says_whether_a_data_set_is_fit_and_three_reasons():
    passed = (("coverage", 0.95, "passed"), ("relevance", None, "not measured"))
    verdict = verdict_of(reported(), judged(passed))
    assert (verdict.fit, verdict.words) == (True, "Fit for training")
    assert verdict.reasons == [
        "1 gate passed: `coverage`.",
        "No question of validation or test is in train.",
        "90.0% of 100 records were kept.",
    ]
    warned_of = verdict_of(reported(warnings=("the groups are large: two. Do this.", "b", "c", "d")), judged())
    assert (warned_of.fit, warned_of.words) == (True, "Fit for training, with 4 warnings")
    assert warned_of.reasons == ["the groups are large: two.", "b.", "c."]


def test_a_data_set_with_an_empty_split_leaks_or_a_failed_gate_is_not_fit():
    leaking = verdict_of(reported(warnings=("w",)), judged((("coverage", 0.8999999, "failed"),), leaked=3))
    assert (leaking.fit, leaking.words) == (False, "Not fit for training yet")
    assert leaking.reasons == [
        "3 of 20 records for validation and testing have a question that is in train, so scores on them are too high.",
        "`coverage` is 0.8999999; wanted at least 0.9.",
        "w.",
    ]
    for lacking in (reported(written=0, train=0), reported(train=0), reported(test=0)):
        verdict = verdict_of(lacking | {"warnings": ["the split is empty: few."]}, judged())
        assert (verdict.fit, verdict.words) == (False, "Not fit for training yet")
        assert verdict.reasons[0] == "the split is empty: few.", "the warning names it"
    assert verdict_of(reported(test=0, shares=(0.9, 0.1, 0)), judged()).fit, "none was asked for"
