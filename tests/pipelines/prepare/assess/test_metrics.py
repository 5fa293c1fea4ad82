"""The measures of an assessment, on counts and texts that a person can check."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from raymill.cluster.errors import ConfigError
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.prepare.assess.facts import Terms
from raymill.pipelines.prepare.assess.metrics import (
    DATES,
    JSON,
    TEXT,
    Agreement,
    Forms,
    Samples,
    compared_lengths,
    compared_scores,
    contradictory,
    coverage,
    dates_in,
    difference_of_means,
    distinct,
    evenness,
    evenness_of_months,
    form_of,
    length_parity,
    mean,
    mtld,
    ratio,
    ratio_of_means,
    representation,
    score_parity,
)
from tests.support.inline import prepare_inline


def words(text: str) -> np.ndarray:
    return np.array([hash(word) & 0xFFFFFFFF for word in text.split()], np.uint64)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ([5, 5], 1.0),
        ([7], 0.0),
        ([], None),
        ([0, 0], None),
        ([3, 1], (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)),  # 0.811 bits
        ([4, 4, 0, 0], 0.5),  # 1 bit of 2
    ],
)
def test_evenness_is_entropy_by_its_maximum(counts, value):
    assert evenness(counts) == (value if value is None else pytest.approx(value))


def test_a_topic_is_covered_from_the_least_number_of_records():
    assert coverage([0, 1, 2, 9], 1) == 0.75
    assert coverage([0, 1, 2, 9], 2) == 0.5
    assert coverage([], 1) is None


def test_distinct_counts_ngrams_within_texts():
    texts = [words("a b a b"), words("b a"), words("c")]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 2 / 4, "ab, ba; the end of a text and the start of the next are no pair"
    assert distinct([words("a")], 2) is None


def test_mtld_counts_rows_whose_ratio_stays_above_the_threshold():
    # a a: a ratio of 1/2 after two words, so a factor for every two.
    assert mtld([1] * 10) == 2
    # Five distinct words, then the same: 5/6, 5/7 = 0.714 < 0.72, a factor of seven words, and none is left.
    assert mtld([1, 2, 3, 4, 5, 1, 2]) == 7
    # Without repetition there is no factor.
    assert mtld([1, 2, 3]) == 3
    # 3/4 is above the threshold: (1 - 0.75) / 0.28 of a factor.
    assert mtld([1, 2, 3, 1]) == pytest.approx(4 / (0.25 / 0.28))
    # Forwards 1 1 is a factor and 2 3 is none: 4 words. Backwards 3 2 1 1 has 3/4: 4.48 words.
    assert mtld([1, 1, 2, 3]) == pytest.approx((4 + 4.48) / 2)
    assert mtld([]) is None


def test_records_contradict_that_answer_one_question_differently():
    questions = np.array([9, 1, 9, 2, 1, 9], np.uint64)
    answers = np.array([5, 3, 5, 5, 3, 6], np.uint64)
    assert contradictory(questions, answers).tolist() == [True, False, True, False, False, True]
    assert contradictory(questions[:0], answers[:0]).tolist() == []


def test_what_is_not_measured_is_no_number():
    assert ratio(1, 4) == 0.25 and ratio(0, 0) is None
    assert mean([0.5, None, 1.0]) == 0.75 and mean([None]) is None


@pytest.mark.parametrize(
    ("counts", "shares", "value"),
    [
        ({"a": 5, "b": 5}, {}, 1.0),
        ({"a": 9, "b": 1}, {}, 0.6),  # 0.4 too much and 0.4 too little
        ({"a": 9, "b": 1, "": 90}, {}, 0.6),
        ({"a": 9, "b": 1}, {"a": 0.9, "b": 0.1}, 1.0),
        ({"a": 10}, {"a": 0.5, "b": 0.5}, 0.5),
        ({"c": 10}, {"a": 0.5, "b": 0.5}, 0.0),
        ({"a": 10}, {}, None),  # nothing to compare it with
        ({"": 10}, {}, None),
    ],
)
def test_representation_is_one_minus_half_the_differences(counts, shares, value):
    assert representation(counts, shares) == (value if value is None else pytest.approx(value))


def test_months_without_records_count():
    value, periods = evenness_of_months({"2026-01": 3, "2026-03-15": 3, "soon": 9})
    assert periods == {"2026-01": 3, "2026-02": 0, "2026-03": 3}
    assert value == pytest.approx(math.log(2) / math.log(3))
    assert evenness_of_months({"2026-01": 3}) == (0.0, {"2026-01": 3})
    assert evenness_of_months({"soon": 3}) == (None, {})
    assert evenness_of_months({"9999-12-31": 5, "0001-01-01": 2}) == (None, {}), "in place of no date"
    assert list(evenness_of_months({"9999-12-31": 5, "2026-02": 1, "2026-01": 3})[1]) == ["2026-01", "2026-02"]


def test_more_than_four_years_are_counted_by_years():
    _, periods = evenness_of_months({"2020-11": 1, "2026-02": 2})
    assert periods == {"2020": 1, "2021": 0, "2022": 0, "2023": 0, "2024": 0, "2025": 0, "2026": 2}
    assert len(evenness_of_months({"2020-01": 1, "2023-12": 1})[1]) == 48, "exactly four years are months"
    assert evenness_of_months({"2020-01": 1, "2024-01": 1}) == (
        pytest.approx(math.log(2) / math.log(5)), {"2020": 1, "2021": 0, "2022": 0, "2023": 0, "2024": 1}
    )  # fmt: skip


def test_the_confidence_interval_has_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(100):
        lengths, others = (random.lognormal(mean, 0.5, 60) * 1000 for mean in (math.log(0.8), 0))
        _, low, high = ratio_of_means(lengths, others)
        inside += low <= 0.8 <= high
    assert 88 <= inside <= 100, "95 of 100 are expected"


def test_lengths_are_compared_with_the_most_frequent_value():
    random = np.random.default_rng(1)
    samples = Samples()
    for _ in range(3):  # tables
        values = np.array(["north"] * 300 + ["south"] * 100 + ["east"] * 100 + ["few"] * 5 + [""] * 9, object)
        means = np.array([400] * 300 + [100] * 100 + [400] * 100 + [10] * 14)
        lengths = (means * random.lognormal(0, 0.2, len(means))).astype(np.int64)
        samples.add(values, random.integers(0, 1 << 63, len(means), np.uint64), lengths)
    found = compared_lengths(samples)
    assert found["against"] == "north" and [one["value"] for one in found["ratios"]] == ["east", "south"]
    east, south = found["ratios"]
    assert east["low"] < 1 < east["high"] and south["ratio"] == pytest.approx(0.25, rel=0.1)
    assert south["records"] == 300 and length_parity(found) == south["ratio"]
    assert length_parity({"against": "north", "ratios": [east]}) == 1.0, "a difference that may be chance is none"
    assert length_parity(None) is None


def test_mean_scores_are_compared_with_those_of_the_most_frequent_value():
    random = np.random.default_rng(2)
    samples = Samples()
    values = np.array(["north"] * 600 + ["south"] * 300 + ["east"] * 300 + ["few"] * 5, object)
    scores = np.clip(random.normal([0.7] * 600 + [0.4] * 300 + [0.7] * 300 + [0.0] * 5, 0.1), 0, 1).astype(np.float32)
    samples.add(values, random.integers(0, 1 << 63, len(values), np.uint64), scores)
    found = compared_scores(samples)
    assert found["against"] == "north" and found["mean"] == pytest.approx(0.7, abs=0.02)
    east, south = found["differences"]
    assert (east["value"], south["value"]) == ("east", "south")
    assert east["low"] < 0 < east["high"] and east["high"] - east["low"] < 0.05
    assert south["difference"] == pytest.approx(south["mean"] - found["mean"]) == pytest.approx(-0.3, abs=0.02)
    assert south["low"] < south["difference"] < south["high"] < 0
    assert score_parity(found) == pytest.approx(1 + south["difference"])
    assert score_parity(found | {"differences": [east]}) == 1.0, "a difference that may be chance is none"
    assert score_parity(None) is None


def test_lengths_do_not_depend_on_the_order_of_tables():
    random = np.random.default_rng(1)
    values = np.array(["a", "b"] * 4000, object)
    hashes, lengths = random.integers(0, 1 << 63, 8000, np.uint64), random.integers(1, 999, 8000)
    found = []
    for starts, size in (([0], 8000), (range(0, 8000, 1000), 1000), (range(7000, -1, -1000), 1000)):
        samples = Samples()
        for at in starts:
            samples.add(values[at : at + size], hashes[at : at + size], lengths[at : at + size])
        found.append(compared_lengths(samples))
        smallest = np.sort(hashes[values == "a"])[:2000]
        assert samples.values["a"][0].tolist() == smallest.tolist(), "of 4,000 records"
    assert found[0] == found[1] == found[2]


def of_sizes(**sizes: int) -> Samples:
    """Samples of a number of records of each value."""
    samples = Samples()
    values = np.array([value for value, size in sizes.items() for _ in range(size)], object)
    samples.add(values, np.arange(len(values), dtype=np.uint64), np.ones(len(values), np.float32))
    return samples


def test_values_of_20_records_are_compared_if_there_are_two():
    assert of_sizes(b=20, a=21, c=19, d=21).large == ["a", "d", "b"]
    for alone in (of_sizes(a=30, b=19), of_sizes(a=30), of_sizes()):
        assert alone.large == [] and compared_lengths(alone) is None and compared_scores(alone) is None
    many = of_sizes(**{f"v{n:03}": 1 for n in range(101)})
    assert sorted(many.values) == [f"v{n:03}" for n in range(100)], "memory is bounded"
    many.add(np.array(["v000", "other"], object), np.arange(2, dtype=np.uint64), np.zeros(2, np.float32))
    assert many.records["v000"] == 2 and len(many.values) == 100


def test_the_difference_of_two_means_by_hand():
    """Records that are all alike have an interval without width."""
    assert difference_of_means(np.full(5, 3), np.full(9, 1.5)) == (1.5, 1.5, 1.5)
    assert ratio_of_means(np.full(5, 7), np.full(9, 3)) == pytest.approx((2, 2, 2))  # of lengths + 1: 8 / 4
    low, high = difference_of_means(np.array([0, 1] * 50), np.zeros(3))[1:]
    assert low == pytest.approx(0.5 - 0.098, abs=0.01) and high == pytest.approx(0.5 + 0.098, abs=0.01)  # 1.96 * 0.05


def interval(value: float, low: float, high: float) -> dict:
    return {"value": "x", "records": 30, "ratio": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("ratios", "parity"),
    [([(2.5, 2.0, 3.0), (0.5, 0.4, 0.6)], 0.4), ([(0.3, 0.2, 0.4), (2.0, 1.5, 3.0)], 0.3), ([(0.1, 0.01, 1.1)], 1.0)],
)
def test_length_parity_is_the_largest_certain_difference(ratios, parity):
    assert length_parity({"against": "a", "ratios": [interval(*one) for one in ratios]}) == parity


@pytest.mark.parametrize(
    ("differences", "parity"),
    [([(0.2, 0.1, 0.3), (-0.5, -0.6, -0.4)], 0.5), ([(0.75, 0.5, 0.9), (-0.5, -0.6, -0.4)], 0.25),
     ([(0.9, -0.1, 1.0)], 1.0)],
)  # fmt: skip
def test_score_parity_is_the_largest_certain_difference(differences, parity):
    made = [interval(0, low, high) | {"difference": value} for value, low, high in differences]
    assert score_parity({"against": "a", "mean": 0.5, "differences": made}) == parity


def test_alpha_of_the_published_example():
    # Krippendorff 2011, Computing Krippendorff's alpha-reliability, section C: nominal data with missing values.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    agreement = Agreement()
    differing = [
        agreement.add(None if label == "." else label for label in unit) for unit in zip(*observers, strict=True)
    ]
    assert agreement.alpha == pytest.approx(0.743, abs=0.0005)
    assert agreement.records == 11 and [at + 1 for at, one in enumerate(differing) if one] == [2, 6, 8]


def test_a_record_of_many_labels_takes_as_much_memory_as_it_has_labels():
    agreement, few = Agreement(), Agreement()
    tracemalloc.start()
    assert agreement.add([f"label {number}" for number in range(1000)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1000 * 1000, "a million pairs take over 100 MB"
    assert agreement.alpha == pytest.approx(0), "all of these differ"
    # Of aab 4 of 6 ordered pairs differ, each counts 1 / 2; of 5 labels, 4 are a: 25 - 16 - 1 ordered pairs differ.
    assert few.add("aab") and not few.add("aa")
    assert few.alpha == 1 - (5 - 1) * (4 / 2) / (5**2 - 4**2 - 1**2)


def test_alpha_is_0_by_chance_and_1_without_differences():
    random = np.random.default_rng(0)
    agreement = Agreement()
    for pair in random.choice(["a", "b", "c"], (3000, 2)).tolist():
        agreement.add(pair)
    assert abs(agreement.alpha) < 0.03
    same = Agreement()
    assert not any(same.add(pair) for pair in ("aa", "bb", "ab"[:1])) and same.alpha == 1
    alike = Agreement()
    assert not any(alike.add(["a"] * 3) for _ in range(7)) and alike.records == 7
    assert Agreement().alpha is alike.alpha is None


GERMAN = "Bitte schalten Sie das Gerät aus und warten Sie eine Minute, danach sollte alles wieder gut laufen."
ENGLISH = "Please switch the device off and wait for a minute, after which everything should work well again."


def test_the_scores_of_a_classifier_are_compared_by_group(tmp_path, monkeypatch):
    """The built-in model stands for one of sentiment: German is what it is asked for."""
    rows = [
        {
            "prompt": f"Ticket {n}: what now?",
            "completion": f"{GERMAN if n % 3 == 0 else ENGLISH} {n}",
            "team": "ab"[n % 3 > 0],
        }
        for n in range(90)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "prompt", "completion": "completion", "team": "team"}
    sentiment = {"model": str(fasttext_classifier.built_in()), "label": "__label__de"}
    plain = {
        "inputs": [{"path": str(tmp_path / "in.jsonl"), "columns": columns}], "output": str(tmp_path / "out"),
        "dedup": None, "assess": {"groups": ["team"], "embeddings": None, "sentiment": sentiment},
        "gates": {"bias": 0.99},
    }  # fmt: skip
    run = prepare_inline(plain, monkeypatch)
    scores = run.assessment["findings"]["sentiments"]["team"]
    (difference,) = scores["differences"]
    assert scores["against"] == "b" and scores["mean"] < 0.1 and difference["value"] == "a"
    assert difference["mean"] > 0.8 and 0.7 < difference["low"] < difference["high"] <= 1
    (metric,) = [one for one in run.assessment["metrics"] if one["name"] == "sentiment_parity_team"]
    assert metric["value"] == pytest.approx(1 - difference["difference"])
    (bias,) = [one for one in run.assessment["gates"] if one["name"] == "bias"]
    assert "team: the mean score of a is" in bias["mend"]
    assert "Mean score by team, less" in (tmp_path / "out" / "report.html").read_text()
    plain["assess"]["sentiment"]["label"] = "positive"
    with pytest.raises(ConfigError, match=r"assess\.sentiment\.label: 'positive' is not a label"):
        prepare_inline(plain | {"output": str(tmp_path / "other")}, monkeypatch)
    assert not (tmp_path / "other" / "train").exists(), "it is found before anything is made"


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


def test_the_usual_form_equals_the_one_of_most_records_of_the_task_type():
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
