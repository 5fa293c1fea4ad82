"""What is found of the answers of two models, by hand: families of p-values, verdicts of a judge, groups and slices."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from raymill.cluster.errors import DataError
from raymill.pipelines.compare import analyse
from raymill.pipelines.compare.analyse import _Analysis, _is_counted, _is_fraction, _Measured, _rows
from raymill.pipelines.compare.config import GateBounds
from raymill.pipelines.compare.gate import decided
from raymill.pipelines.compare.swaps import SwappedAnswers, WordSwaps
from raymill.pipelines.paired import PairedDifference


def difference(value, low, high, p):
    return PairedDifference(value, low, high, p, 100, 100, 0.1)


def analysis(items, **known):
    """An analysis of items of which only the questions count, with these values in place of those of files."""
    config = SimpleNamespace(group=known.pop("group", None))
    work = SimpleNamespace(config=config, store=None, judged={"B": ("verdicts",)})
    made = _Analysis(work, [SimpleNamespace(question=one) for one in items], {})
    vars(made).update(known)
    return made


def test_p_values_of_a_family_are_corrected_and_the_better_model_is_named():
    """0.01 by 3 and 0.03 by 2; the items that are needed are those of the level 0.05 / 3."""
    family = {
        ("B", "score"): difference(0.2, 0.1, 0.3, 0.01),
        ("C", "score"): difference(-0.2, -0.3, -0.1, 0.03),
        ("D", "score"): difference(0.02, -0.1, 0.14, 0.6),
    }
    found = _rows(family, "A")
    assert [row["p_corrected"] for row in found.values()] == pytest.approx([0.03, 0.06, 0.6])
    assert [row["verdict"] for row in found.values()] == ["A", "undecided", "undecided"]
    assert found["B", "score"]["needed"] == 0
    # (2.39398 + 0.84162)^2 x 0.1 / 0.02^2 = 2617.2
    assert found["D", "score"]["needed"] == 2618 - 100


@pytest.mark.parametrize(("measure", "better"), [("score", "A"), ("seconds", "B"), ("bits_per_byte", "B")])
def test_of_some_measures_the_smaller_one_is_better(measure, better):
    found = _rows({("B", measure): difference(0.2, 0.1, 0.3, 0.01)}, "A")
    assert found["B", measure]["verdict"] == better


@pytest.mark.parametrize(
    ("name", "values", "is_one"),
    [("score", [0, 1], True), ("own", [0, 1.5], False), ("own", [-0.1, 1], False), ("seconds", [0.2, 0.3], False),
     ("log_likelihood", [0.0, 0.5], False)],
)  # fmt: skip
def test_a_measure_is_a_fraction_by_its_name_and_values(name, values, is_one):
    assert _is_fraction(name, np.array(values)) == is_one


@pytest.mark.parametrize(
    ("content", "outcome", "refused"),
    [
        ("**I’m sorry**, no.", "answered", 1),
        ("i'm SORRY", "answered", 1),
        ("Well, I'm sorry", "answered", 0),
        ("", "answered", 0),
        (None, "answered", 1),  # withheld
        (None, "failed", None),
    ],
)
def test_a_refusal_begins_with_one_of_the_phrases(content, outcome, refused):
    work = SimpleNamespace(config=SimpleNamespace(refusals=("I'm sorry",)))
    found = _Measured(work, "A", []).refuses({"content": content, "outcome": outcome})
    assert np.isnan(found) if refused is None else found == refused


@pytest.mark.parametrize(
    ("tokens", "content", "is_counted"),
    [((5, 2), "x", True), ((0, 2), "x", False), ((5, 0), "x", False), ((5, 0), "", True), ((5, 0), None, True)],
)
def test_tokens_are_counted_if_the_prompt_and_a_text_have_some(tokens, content, is_counted):
    row = {"tokens": dict(zip(("input", "output"), tokens, strict=True)), "content": content}
    assert _is_counted(row) == is_counted


def test_items_with_a_value_of_one_model_alone_decide_nothing():
    """A is measured for three items, B for two of these and a fourth one: two items are one-sided."""
    nan = math.nan
    a, b = (SimpleNamespace(by_measure={"f1": np.array(one)}) for one in ([1, 1, 1, nan, nan], [1, 0, nan, 1, nan]))
    found = analysis("vwxyz")
    assert found._one_sided("f1", a, b) == 2 and found._one_sided("f1", a, a) == found._one_sided("bleu", a, b) == 0
    assert analyse._undecided(2) == {"one_sided": 2, "verdict": "undecided", "needed": None}
    assert analyse._undecided(0) == {"one_sided": 0}


def test_an_item_without_a_value_is_a_group_by_itself():
    found = analysis("wxyz", group="customer", fields={"customer": ["0", None, "0", None]})
    assert found.groups[0] == found.groups[2] and len({*found.groups}) == 3
    assert found._groups(np.array([True, False, True, True])) == [found.groups[at] for at in (0, 2, 3)]


def test_the_confidence_of_an_answer_is_the_mean_probability_of_its_tokens():
    """Answers of 2, 1 and no tokens, whose mean probabilities are 0.9 and 0.6; the groups are drawn together."""
    log = np.array([2 * np.log(0.9), np.log(0.6), np.nan] * 20)
    answers = {"answer_log": log, "answer_tokens": np.array([2.0, 1, 0] * 20)}
    one = SimpleNamespace(likelihood=answers, right=np.array([1.0, 1, 0] * 20))
    each, together = (analysis("", groups=groups)._calibration(one) for groups in (None, ["x"] * 30 + ["y"] * 30))
    assert each["bins"] == [(0.6, 20, pytest.approx(0.6), 1), (0.9, 20, pytest.approx(0.9), 1)]
    assert each["error"] == pytest.approx(0.25) and each["high"] > together["high"] == pytest.approx(0.25)
    assert analysis("", groups=None)._calibration(SimpleNamespace(likelihood=None)) is None


def test_slices_are_of_two_items_or_more_not_of_all_and_once():
    """Ten items of each channel; `place` has the same ones, `year` one value, and all prompts one length."""
    channels = ["mail"] * 10 + ["phone"] * 10
    fields = {"channel": channels, "place": [one[:1] for one in channels], "year": ["2026"] * 20}
    scores = [np.array([right] * 10 + [1.0] * 10) for right in (1.0, 0.0)]
    pair = [SimpleNamespace(by_measure={"score": one}) for one in scores]
    found = analysis(["same"] * 20, fields=fields, _languages=["en"] * 20)._slices(*pair)
    assert {key: one.difference for key, one in found.items()} == {
        ("field", "channel = mail"): 1, ("field", "channel = phone"): 0,
    }  # fmt: skip


def test_at_most_100_fields_have_slices():
    """Each of 130 fields divides the items otherwise; `channel` has a value for all items, the others for 30 of 40."""
    draws = np.random.default_rng(0)
    fields = {f"other {at}": [None] * 10 + draws.permuted(["a"] * 15 + ["b"] * 15).tolist() for at in range(130)}
    fields["channel"] = ["mail", "phone"] * 20
    pair = [SimpleNamespace(by_measure={"score": one}) for one in (np.ones(40), np.zeros(40))]
    made = analysis(["same"] * 40, fields=fields, _languages=["en"] * 40)
    found = {rule.partition(" = ")[0] for _, rule in made._slices(*pair)}
    assert len(found) == 100 and "channel" in found and made._divided[1] == 31


def test_what_a_judge_says_by_hand(monkeypatch):
    """A wins 0 (longer), 1 (shorter) and 9, where B has no answer; B wins 3, where A has none, and 8 (longer)."""
    a = ["a longer one", "bb", "same", "", "no one", "x", None, "p", "c", "said"]
    b = ["short", "b much longer", "same", "text", "two", "y", " ", "q", "ccc", None]
    said = {0: ("a", "A", "A"), 1: ("a", "A", "A"), 4: ("tie", "A", "B"), 5: ("tie", "tie", "A"), 8: ("b", "B", "B")}
    rows = [
        {"provenance": {"parents": [str(at)]}, "better": better, "in_order": first, "swapped": second}
        for at, (better, first, second) in said.items()
    ]
    monkeypatch.setattr(analyse, "read_tables", lambda store, uris: [pa.Table.from_pylist(rows)])
    row, found = analysis(a)._judged("B", *(SimpleNamespace(answers=one) for one in (a, b)))
    assert (row.difference, row.items, row.p) == (pytest.approx(0.1), 10, 1.0)
    shares = {name: found.pop(name)["share"] for name in ("first_shown_wins", "longer_wins")}
    assert found == {
        "win_rate": 0.55, "wins": 3, "ties": 5, "losses": 2, "asked": 6, "unread": 1, "flipped": 2,
    }  # fmt: skip
    # The answer shown first has both votes of item 4, and one of items 0, 1 and 8, of nine that are no tie.
    assert shares == {"first_shown_wins": pytest.approx(5 / 9), "longer_wins": pytest.approx(2 / 3)}
    assert analysis(a)._judged("C", *(SimpleNamespace(answers=one) for one in (a, b))) is None


def test_pairs_without_a_verdict_may_have_been_won_by_either():
    """A wins 8 items of 72 and B 27, whose answers by A make the judge refuse; then 1, where A has 40 without it."""
    won = np.array([1.0] * 8 + [0.0] * 64)
    nobody, won_by_b, unread = won.copy(), won.copy(), np.zeros(72, bool)
    won_by_b[8:35], unread[8:35] = -1, True
    found, known = (analysis([""] * 72)._whoever_won(nobody, one) for one in (unread, unread & False))
    assert known.verdict(known.p) == "A" and known.low > 0
    assert found.verdict(found.p) == "undecided" and found.p == 1.0 and found.difference == known.difference
    of_b = analysis([""] * 72)._whoever_won(won_by_b, unread & False)
    assert found.low == of_b.low < -0.3 and found.high > 0.35
    judge = _rows({("B", "judge"): found}, "A")["B", "judge"] | {"one_sided": 0}
    compared = {"b": "B", "slices": [], "measures": {"judge": judge}, "equal_groups": None}
    (row,) = decided({"judge": GateBounds(least_gain=0.0)}, [compared])["gate"]
    assert row["state"] == "undecided"
    few = np.zeros(72, bool)
    few[60] = True
    surely = analysis([""] * 72)._whoever_won(np.array([1.0] * 41 + [0.0] * 31), few)
    assert surely.verdict(surely.p) == "A", "one pair does not change it"


@pytest.mark.parametrize("answered", [[0], [0, 1, 2], [0, 2]])
def test_answers_to_other_prompts_than_the_swapped_ones_are_of_a_changed_file(monkeypatch, answered):
    rows = pa.table({"item": answered, "outcome": ["answered"] * len(answered), "content": ["x"] * len(answered)})
    monkeypatch.setattr(analyse, "read_tables", lambda store, uris: [rows])
    found = analysis("wx")
    vars(found.work).update(swap=WordSwaps((("w", "x"),)), swapped=("out/swapped/part.parquet",))
    vars(found.work)["models"] = {"A": SimpleNamespace(swapped=("out/swapped_answers_of.A/part.parquet",))}
    questions = [{"item": 0, "question": "x"}, {"item": 1, "question": "w"}]
    with pytest.raises(DataError, match=r"swapped_answers_of.A/part.parquet: was changed after it was written"):
        found._swapped(SimpleNamespace(name="A"), questions)


def test_values_of_swapped_answers_beyond_the_bound_are_counted(monkeypatch):
    """As scores of numbers in answers, of which the largest count as equal."""
    one = np.ones(12)
    side = SwappedAnswers(
        ["i"] * 12, [("a", "b")] * 12, [("x", "y")] * 12, [{0}] * 12, one, {"score": (one, one * 1e100)}, None, 12
    )
    monkeypatch.setattr(analyse, "read_tables", lambda store, uris: [])
    monkeypatch.setattr(_Analysis, "_swapped", lambda self, measured, questions: side)
    found = analysis("w")
    vars(found.work).update(swap=WordSwaps((("w", "x"),)), swapped=(), is_fraction=lambda *given: False)
    vars(found)["measured"] = {"A": None}
    assert found._swaps()["A"]["beyond"] == {"score": 12}
