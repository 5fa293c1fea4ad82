"""Recommendations in planted cases, of rows that a person can read."""

import pytest

from raymill.pipelines.compare.recommend import recommended


def row(letter, score, seconds, *, money=None, trained=None, training_money=None, forgetting=None):
    """trained: seconds of the training; None: it is not trained; `unknown`: what it took is not known."""
    took = {"seconds": trained, "money": training_money}
    return {
        "model": letter,
        "score": {"value": score, "low": score - 0.05, "high": score + 0.05},
        "answer": {"seconds": seconds, "money": money},
        "is_trained": trained is not None,
        "training": None if trained in (None, "unknown") else took,
        "forgetting": forgetting,
        "forgetting_unknown": None,
    }


def beside(difference, *, worse, needed=None):
    return {"difference": difference, "low": difference - 0.05, "high": difference + 0.05,
            "p_corrected": 0.001 if worse else 0.4, "worse": worse, "needed": 0 if worse else needed}  # fmt: skip


def forgot(difference, p=0.001):
    return {"difference": difference, "low": difference - 0.02, "high": difference + 0.02, "p_corrected": p}


def test_the_cheaper_of_two_equal_models_is_recommended():
    rows = [row("A", 0.90, 0.30, trained=100), row("B", 0.89, 0.10, trained=900)]
    found = recommended(rows, {"best": "A", "others": {"B": beside(-0.01, worse=False, needed=963)}}, None)
    assert found == {
        "model": "B",
        "reasons": [
            "A has the highest score: 0.900 (0.850 to 0.950).",
            "B is not decidedly worse than A: -0.010 (-0.060 to +0.040); about 963 more items decide a difference of "
            "this size.",
            "So no score is decided: more items may change this recommendation.",
            "An answer costs: B 0.1 s, A 0.3 s.",
            "B costs least to answer, so it is recommended.",
        ],
    }


def test_the_better_model_is_recommended_although_it_is_dearer():
    rows = [row("A", 0.90, 0.30, trained=100), row("B", 0.60, 0.10)]
    found = recommended(rows, {"best": "A", "others": {"B": beside(-0.3, worse=True)}}, None)
    assert found["model"] == "A"
    assert found["reasons"][1:] == [
        "B is decidedly worse than A: -0.300 (-0.350 to -0.250, p 0.001).",
        "So A is recommended.",
    ]


def test_of_equal_costs_to_answer_the_one_that_cost_least_to_train():
    rows = [row("A", 0.90, 0.100, trained=100), row("B", 0.90, 0.105, trained=30), row("C", 0.9, 0.12)]
    others = {letter: beside(0.0, worse=False) for letter in "BC"}
    found = recommended(rows, {"best": "A", "others": others}, None)
    assert found["model"] == "B", "C is not trained, and 20% dearer to answer"
    assert found["reasons"][-2:] == [
        "A, B cost about the same to answer (within 10%). To train: B 30 s, A 100 s.",
        "B cost least to train, so it is recommended.",
    ]
    assert found["reasons"][1].endswith("no difference was seen.")


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({}, "A and B cost the same to train, so A, the first of them, is recommended."),
        ({"trained": "unknown"}, "A and B cost an unknown amount to train, so A, the first of them, is recommended."),
    ],
)  # fmt: skip
def test_of_models_that_cost_the_same_the_first_is_recommended_for_that_reason(trained, said):
    rows = [row(letter, 0.90, 0.1, **trained) for letter in "AB"]
    found = recommended(rows, {"best": "A", "others": {"B": beside(0.0, worse=False)}}, None)
    assert found["model"] == "A" and found["reasons"][-1] == said


@pytest.mark.parametrize(("p", "model"), [(0.001, "B"), (0.2, "A")])
def test_a_model_that_has_decidedly_forgotten_is_named_and_passed_over(p, model):
    rows = [row("A", 0.9, 0.1, trained=100, forgetting=forgot(0.2, p)), row("B", 0.9, 0.3, forgetting=forgot(0.0, 1))]
    standing = {"best": "A", "others": {"B": beside(0.0, worse=False)}}
    found = recommended(rows, standing, 0.05)
    assert found["model"] == model
    words = "Against A: its loss on general text is 0.200 bits per byte above the loss of its base (0.180 to 0.220);"
    assert any(words in one for one in found["reasons"]) == (model == "B")
    assert recommended(rows, standing, 0.19)["model"] == "A", "a bound inside the interval is not decided"


def test_a_model_of_which_forgetting_is_not_known_is_passed_over():
    """As one whose tokenizer loses some texts, which its base measures, or whose base cannot be read."""
    rows = [row("A", 0.9, 0.1) | {"forgetting_unknown": "Gone."}, row("B", 0.9, 0.3, forgetting=forgot(0.0, 1))]
    standing = {"best": "A", "others": {"B": beside(0.0, worse=False)}}
    found = recommended(rows, standing, 0.05)
    assert found["model"] == "B" and "Against A: its forgetting is not known. Gone." in found["reasons"]
    assert recommended(rows, standing, None)["model"] == "A"


def test_if_each_has_forgotten_that_does_not_decide():
    rows = [row(letter, 0.9, cost, trained=1, forgetting=forgot(0.2)) for letter, cost in (("A", 0.1), ("B", 0.3))]
    found = recommended(rows, {"best": "B", "others": {"A": beside(0.0, worse=False)}}, 0.05)
    assert found["model"] == "A" and "All candidates are affected, so forgetting does not decide." in found["reasons"]


def test_money_decides_where_it_is_known_of_all_else_seconds():
    standing = {"best": "A", "others": {"B": beside(0.0, worse=False)}}
    rows = [row("A", 0.9, 0.1, money=0.002), row("B", 0.9, 0.3, money=0.0001)]
    found = recommended(rows, standing, None)
    assert found["model"] == "B" and "An answer costs: B 0.0001, A 0.002." in found["reasons"]
    assert recommended([rows[0], row("B", 0.9, 0.3)], standing, None)["model"] == "A"


def test_an_unknown_cost_is_not_zero():
    standing = {"best": "A", "others": {"B": beside(0.0, worse=False)}}
    rows = [row("A", 0.9, 0.1, trained="unknown"), row("B", 0.9, 0.1, trained=50)]
    found = recommended(rows, standing, None)
    assert found["model"] == "B" and "To train: B 50 s, A not known." in found["reasons"][-2]
    assert recommended([row("A", 0.9, None), row("B", 0.9, 5.0)], standing, None)["model"] == "B"


def test_without_a_right_answer_no_model_is_recommended():
    rows = [row("A", 0.0, 0.1), row("B", 0.0, 0.1)]
    found = recommended(rows, {"best": "A", "others": {"B": beside(0.0, worse=False)}}, None)
    assert found == {"model": None, "reasons": ["No model has a score above 0, so none is recommended."]}
