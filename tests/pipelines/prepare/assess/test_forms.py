"""The format of answers: JSON or not, forms of dates; and terms that cleaning replaces."""

import pytest

from pipelines.prepare.assess.facts import Terms
from pipelines.prepare.assess.metrics import DATES, JSON, TEXT, Forms, dates_in, form_of


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ('{"a": 1}', JSON), ("\n [1, 2] ", JSON), ("{}", JSON), ('{"a": 1', TEXT), ("[see the manual]", TEXT),
        ('{"a": NaN}', TEXT), ("12", TEXT), ('"text"', TEXT), ("", TEXT), ("Use {name}.", TEXT),
    ],
)  # fmt: skip
def test_the_form_of_an_answer_is_json_of_an_object_or_array_or_text(answer, form):
    assert form_of(answer) == form


@pytest.mark.parametrize(
    ("answer", "forms"),
    [
        *((f"It was on {example}, in the morning.", [example]) for example in DATES),
        *((example, [example]) for example in DATES),
        ("At 2026-11-23T08:30:00Z.", ["2026-11-23"]),
        ("On 1 Feb. 2026, or Feb 2nd, 2026.", ["23 November 2026", "November 23, 2026"]),
        ("On 3/4/2026 and 2026-03-04 and 2026-03-05.", ["2026-11-23", "11/23/2026"]),
        ("In November 2026, version 10.2, on 3/4.", []),
        ("Number 12026-11-234 and 1.2.20261.", []),
        ("", []),
    ],
)
def test_dates_are_told_apart_by_how_they_are_written(answer, forms):
    assert dates_in(["12", answer])[1] == forms


def test_the_usual_form_is_that_of_most_records_of_the_task_type():
    forms = Forms()
    forms.add(["qa", "qa", "qa", "policy", "policy"], [["a"], ["b"], ["b", "a"], ["c"], []])
    forms.add(["qa", "policy", "none"], [["b"], ["b"], []])
    assert forms.usual == {"qa": "b", "policy": "b"}, "of equally frequent ones the first by name"
    assert forms.total == {"b": 4, "a": 2, "c": 1}
    asked = (["qa", "qa", "qa", "policy", "policy", "none"], [["b"], ["b", "a"], [], ["c"], ["b"], []])
    assert forms.unusual(*asked).to_pylist() == [False, True, False, True, False, False]


def test_terms_are_found_where_cleaning_would_change_them():
    terms = Terms({"wifi": "Wi-Fi", "log in": "sign in", "PC": "the PC", "internet": "Internet"})
    assert terms.found([
        ["Is the WIFI on?", "Yes."], ["No.", "Please Log in."], ["My PC is slow.", "Wi-Fi, wifis, the Internet."], [],
        ["the internet"],
    ]) == [True, True, False, False, True]  # fmt: skip
    assert Terms({}).found([["wifi"]]) == [False]
