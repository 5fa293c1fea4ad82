"""Numbers, dates and names, replaced in the whole record."""

import re
from datetime import date

import pytest

from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.entities import Dependent, replaced
from raymill.pipelines.prepare.augment.pieces import Keep

KEEP = Keep(("code", "quotes", "links"))


def of(question: str, answer: str | None = None, seed: int = 1, **options) -> list[str]:
    texts = [question] if answer is None else [question, answer]
    settings = {"numbers": True, "dates": True, "names": ()} | options
    return replaced(texts, [False, True][: len(texts)], KEEP, Draws(str(seed)), **settings)


def numbers(text: str) -> list[int]:
    return [int(one) for one in re.findall(r"\d+", text)]


@pytest.mark.parametrize("seed", range(20))
def test_a_number_is_replaced_by_one_of_as_many_digits_in_question_and_answer(seed):
    question, answer = of("Does 4711 cost 99 or 120 euros?", "It costs 120 euros, not 99.", seed)
    product, low, high = numbers(question)
    assert numbers(answer) == [high, low] and (product, low, high) != (4711, 99, 120)
    assert [len(str(one)) for one in (product, low, high)] == [4, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_numbers_keep_their_order_their_separators_and_leading_zeros(seed):
    (text,) = of("From 1,250.50 or 2,000.00 to 9,999.99 for 0042; 1250.50 too.", seed=seed)
    found = re.fullmatch(
        r"From (\d,\d{3}\.\d\d) or (\d,\d{3}\.\d\d) to (\d,\d{3}\.\d\d) for (00\d\d); (\d{4}\.\d\d) too.", text
    )
    assert found and found[5] == found[1].replace(",", "")
    assert sorted(found.groups()[:3]) == list(found.groups()[:3]) and found[4] != "0042"


@pytest.mark.parametrize("seed", range(20))
def test_a_new_number_is_none_of_the_old_ones(seed):
    old = {str(number) for number in range(10, 55)}
    assert not old & set(of(" and ".join(sorted(old)), seed=seed)[0].split(" and "))


def test_numbers_without_enough_others_of_as_many_digits_stay():
    text = " and ".join(str(number) for number in range(10, 60))
    assert of(text) == [text]


@pytest.mark.parametrize("number", ["7" * 5000, "12," * 3000 + "12"], ids=["digits", "groups"])
def test_a_number_of_thousands_of_digits_stays(number):
    text = f"It is {number}."
    assert of(text) == [text]


def test_digits_years_and_marks_of_lists_stay():
    text = "1. In 2019 he had 7 cats\n2. and 3 dogs\n10. and `x = 55`"
    assert of(text) == [text]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("I pay 12 and 15 euros, how much is it?", "It is 27 euros."),
        ("I pay 12 and get 5 back?", "You pay 7."),
        ("What is `12`, and what is 12?", "A number."),
        ("Use 12 or 12-15.", "Yes."),
    ],
)
def test_an_answer_that_may_depend_on_a_number_and_a_value_that_stays_elsewhere_make_no_variant(question, answer):
    with pytest.raises(Dependent):
        of(question, answer)


@pytest.mark.parametrize("seed", range(20))
def test_dates_are_moved_by_the_same_days_in_their_form(seed):
    question, answer = of("From 2026-11-02 to 5 November 2026?", "Until 05.11.2026, or Nov 5, 2026.", seed)
    start = date.fromisoformat(re.search(r"\d{4}-\d\d-\d\d", question)[0])
    months = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
    day, month, year = re.search(r"to (\d+) (\w+) (\d{4})", question).groups()
    end = date(int(year), months.index(month) + 1, int(day))
    assert (end - start).days == 3 and start != date(2026, 11, 2)
    assert answer == f"Until {end:%d.%m.%Y}, or {months[end.month - 1][:3]} {end.day}, {end.year}."


@pytest.mark.parametrize("seed", range(20))
def test_days_keep_their_leading_zero_or_have_none(seed):
    padded, plain = of("On 05 March 2026", "On 5 March 2026", seed)
    day = re.search(r"On (\d+) ", plain)[1]
    assert plain.startswith(f"On {int(day)} ") and padded == plain.replace(f"On {day} ", f"On {int(day):02} ")


def test_dates_with_a_weekday_and_days_of_no_calendar_stay():
    for text in ("On Monday, 2026-11-02.", "On 2026-02-31 and 2026-13-01."):
        assert of(text, numbers=False) == [text]


def test_names_are_replaced_by_others_of_their_list_in_the_whole_record():
    names = [["Ann", "Bob", "Chris Lee"], ["Oslo", "Rome"]]
    question, answer = of("Ann's flight to Oslo", "Ann flies to Oslo.", names=names)
    (name,) = {"Bob", "Chris Lee"} & {question.partition("'")[0]}
    assert question == f"{name}'s flight to Rome" and answer == f"{name} flies to Rome."
    assert of("Annual report of Rome and Oslo", names=names) == ["Annual report of Rome and Oslo"], "no other is left"
    with pytest.raises(Dependent):
        of("Ann or ANN?", names=names)


def test_what_is_not_asked_for_stays():
    assert of("Order 4711 of 2026-11-02", numbers=False, dates=False) == ["Order 4711 of 2026-11-02"]
    assert of("Order 4711 of 2026-11-02", dates=False)[0].endswith(" of 2026-11-02")
