"""Counterfactual swaps: texts by hand and by property, measures by hand, and models that are and are not biased."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import config_of
from raymill.cluster.store.store import Store
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.plan import plan_comparison
from raymill.pipelines.compare.swaps import SwappedAnswers, WordSwaps, load_pairs
from raymill.pipelines.paired import mean_interval, paired_difference
from tests.support.compare_inline import compare_inline as run
from tests.support.compare_inline import planted, tickets
from tests.support.generate_inline import rows

PAIRS = (("he", "she"), ("his", "her"), ("him", "her"), ("Peter", "Maria"), ("going to", "gonna"), ("他", "她"))
ONE_TO_ONE = (
    ("he", "she"),
    ("Peter", "Maria"),
    ("going to", "gonna"),
    ("don't", "doan"),
    ("他", "她"),
    ("किताब", "पुस्तक"),
)


@pytest.mark.parametrize(
    ("text", "swapped", "columns"),
    [
        ("He says that she is here.", "She says that he is here.", {0, 1}),
        ("HE, then he", "SHE, then she", {0}),
        ("the theme of Peter's shed", "the theme of Maria's shed", {0}),
        ("PETER and peter", "MARIA and maria", {0}),
        ("hE", "hE", set()),  # a spelling that no list has
        ("he'll, he's, he-goat", "she'll, she's, she-goat", {0}),
        ("her book, for him", "his book, for her", {0, 1}),  # the first pair with `her`
        ("I'm going to go, Going to", "I'm gonna go, Gonna", {0}),
        ("gonna", "going to", {1}),
        ("I am going now", "I am going now", set()),
        ("我认识他们", "我认识她们", {0}),
        ("he\u0301 is another letter", "he\u0301 is another letter", set()),
        ("", "", set()),
    ],
)
def test_words_are_exchanged_in_their_case(text, swapped, columns):
    assert WordSwaps(PAIRS).exchange(text) == (swapped, columns)


def test_a_name_before_an_apostrophe_and_t_is_another_word():
    swap = WordSwaps((("Don", "Ann"),))
    assert swap("Don't ask Don's friend Don.") == "Don't ask Ann's friend Ann."
    assert WordSwaps((("don't", "doan"),))("Don't! don't") == "Doan! doan"


def test_the_longest_words_at_a_place_are_exchanged():
    swap = WordSwaps((("New York", "Lagos"), ("York", "Kano")))
    assert swap("New York, York, NEW YORK") == "Lagos, Kano, LAGOS"


@given(st.lists(st.sampled_from([*WordSwaps(ONE_TO_ONE).table, "the", "shed", ".", ",", "'s", "x1", "者"])))
def test_two_swaps_give_the_original_text(parts):
    swap, text = WordSwaps(ONE_TO_ONE), " ".join(parts)
    assert swap(swap(text)) == text


@given(st.text(alphabet="heshHES .,'’t-\u0301他她i"))
def test_any_text_is_swapped_back_and_a_text_without_words_stays(text):
    swap = WordSwaps((("he", "she"), ("他", "她")))
    new, columns = swap.exchange(text)
    assert swap(new) == text and (new != text) == bool(columns)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "- [he, she]\n- [no, yes]\n",
            r"\[False, True\] given, wanted two words, such as \[he, she\]; quote yes and no",
        ),
        ("- [he, she, they]\n", "wanted two words"),
        ("- [he, he]\n", "are the same word"),
        ("- [he, '-']\n", "wanted two words"),
        ("he: she\n", "wanted a list of pairs"),
        ("", "wanted a list of pairs"),
        ("- [he, she\n", "Correct the file"),
    ],
)
def test_a_file_that_is_no_list_of_pairs_is_refused(tmp_path, content, said):
    (tmp_path / "pairs.yaml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_pairs(Store(), str(tmp_path / "pairs.yaml"))


@pytest.mark.parametrize(("content", "said"), [
    (f"- [he, {'x ' * 51}y]", "has a word of more than 100 characters"),
    ("- [he, she]\n" * 10_001, "has 10,001 pairs; at most 10,000"),
    (f"- [he, {'[' * 5000}{']' * 5000}]", "recursion depth"),
], ids=["a long phrase", "many pairs", "deep"])  # fmt: skip
def test_a_list_of_others_is_bounded(tmp_path, content, said):
    (tmp_path / "pairs.yaml").write_text(content)
    with pytest.raises(ConfigError, match=f"swaps: .*pairs.yaml: .*{said}"):
        load_pairs(Store(), str(tmp_path / "pairs.yaml"))


def answers(columns, same, original, swapped):
    ids = [f"i{at}" for at in range(len(same))]
    return SwappedAnswers(
        ids, [("p", "q")] * len(ids), [("a", "b")] * len(ids), columns, np.array(same, float),
        {"score": (np.array(original, float), np.array(swapped, float))}, None, len(ids) + 1,
    )  # fmt: skip


def test_differences_by_hand():
    """He: right, then wrong as she; she: wrong, then right as he; both words: wrong, then right; no difference."""
    found = answers([{0}, {1}, {0, 1}, {0}], [0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1])
    differences = found.differences(paired_difference, lambda *_: True)
    assert differences["score", "swapped"].difference == pytest.approx((-1 + 1 + 1 + 0) / 4)
    assert differences["score", "words"].difference == pytest.approx((1 + 1 + 0) / 3)
    assert differences["score", "words"].items == 3
    facts = found.facts(mean_interval)
    assert (facts["items"], facts["compared"], facts["consistency"]["value"]) == (5, 4, 0.25)
    assert [one["id"] for one in facts["changed"]] == ["i0", "i1", "i2"]


def test_what_is_not_measured_is_left_out():
    found = answers([{0}, {0}], [1, 1], [1, np.nan], [0, 1]).differences(paired_difference, lambda *_: True)
    assert found["score", "swapped"].items == 1
    none = answers([], [], [], [])
    assert none.differences(paired_difference, lambda *_: True) == {}
    assert none.facts(mean_interval)["consistency"] == {"value": None, "low": None, "high": None}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Tickets of Peter, of Maria and of nobody."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("named")
        return str(tickets(folder, patch, writers=("Peter writes: ", "Maria writes: ", "")))


def swaps_of(made, letter):
    found = made.report["models"][letter]["swaps"]
    return found, {(row["measure"], row["by"]): row for row in found["differences"]}


def test_a_model_that_answers_by_the_name_is_found_and_a_fair_one_is_not(config, named, server, monkeypatch, tmp_path):
    models = [planted(server, "unfair-100"), planted(server, "right-80")]
    changes = {"on": named, "models": models, "swaps": [["Peter", "Maria"]]}
    made = run(config | changes, monkeypatch)
    items = made.report["items"]
    swapped = rows(made, "swapped")
    originals = {at: one["question"] for at, one in enumerate(rows(made, "items"))}
    assert {one["item"] for one in swapped} == {at for at, one in originals.items() if "writes" in one}
    assert all(
        one["question"].startswith(("Peter", "Maria")) != (one["question"] == originals[one["item"]]) for one in swapped
    )
    assert server.stats()["requests"] == 2 * (items + len(swapped))
    unfair, differences = swaps_of(made, "A")
    assert (unfair["items"], unfair["compared"], unfair["consistency"]["value"]) == (len(swapped), len(swapped), 0)
    words = differences["score", "words"]
    assert words["difference"] == 1 and words["low"] > 0.9 and words["p_corrected"] < 0.001
    assert abs(differences["score", "swapped"]["difference"]) < 0.3, "Peter's losses and Maria's gains cancel out"
    assert len(unfair["changed"]) == 10
    one = unfair["changed"][0]
    assert {one["answer_original"], one["answer_swapped"]} >= {"I do not know"}
    fair, differences = swaps_of(made, "B")
    assert fair["consistency"]["value"] == 1 and fair["consistency"]["low"] < 1 and not fair["changed"]
    for row in differences.values():
        assert row["difference"] == 0 and row["low"] < 0 < row["high"] and row["p_corrected"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "Swapped words" in page and one["swapped"].replace("'", "&#39;") in page
    assert made.report["models"]["A"]["measures"]["score"]["value"] < 1, "measured on the originals alone"
    plan = plan_comparison(CompareConfig.model_validate({"kind": "compare"} | config | changes))
    assert plan["models"]["A"]["requests"] == items + len(swapped)


def tone(answer):
    return float("not know" not in answer["generated"])


def test_refusals_and_scores_of_ones_own_are_compared_too(config, named, server, monkeypatch):
    models = [planted(server, "unfair-100"), planted(server, "right-80")]
    changes = {"on": named, "models": models, "swaps": [["Peter", "Maria"]], "custom": (tone,)}
    made = run(config | changes | {"gaps": ["channel"]}, monkeypatch)
    _, differences = swaps_of(made, "A")
    assert {measure for measure, _ in differences} == {"score", "refused", "tone"}
    assert differences["tone", "words"]["difference"] == 1 and differences["refused", "words"]["difference"] == 0
    measures = {row["measure"] for row in made.report["models"]["A"]["gaps"]}
    assert {"refused", "tone", "score", "errors"} <= measures


def test_a_list_in_a_file_is_the_same_run_until_a_pair_changes(config, named, server, monkeypatch, tmp_path):
    file = tmp_path / "pairs.yaml"
    file.write_text("- [Peter, Maria]\n")
    given = config | {"on": named, "swaps": str(file)}
    first = run(given, monkeypatch)
    asked = server.stats()["requests"]
    same = run(config | {"on": named, "swaps": [["Peter", "Maria"]]}, monkeypatch)
    assert same.fresh is False and first.report["models"]["A"]["swaps"]["items"] > 0
    file.write_text("- [Maria, Peter]\n")
    made = run(given, monkeypatch, replace=True)
    assert made.fresh and server.stats()["requests"] == asked, "the same prompts are not asked again"
    _, differences = swaps_of(made, "A")
    _, before = swaps_of(first, "A")
    assert differences["score", "words"]["difference"] == -before["score", "words"]["difference"]


@pytest.mark.parametrize(("fault", "is_left_out"), [("bad_request", True), ("refused", False)])
def test_failed_requests_are_left_out_and_withheld_answers_are_other_answers(
    config, named, server, monkeypatch, fault, is_left_out
):
    server.share, server.faults = 0.2, (fault,)
    changes = {"on": named, "swaps": [["Peter", "Maria"]], "models": [planted(server, "right-100")] * 2}
    found = run(config | changes, monkeypatch).report["models"]["A"]["swaps"]
    assert found["compared"] > 0 and (found["compared"] < found["items"]) == is_left_out
    assert (found["consistency"]["value"] == 1) == is_left_out and bool(found["changed"]) != is_left_out


def test_a_list_without_a_word_of_the_items_is_a_warning(config, monkeypatch, data):
    made = run(config | {"swaps": [["Ayşe", "Emma"]]}, monkeypatch)
    assert "No item has a word of `swaps`, so nothing was swapped." in made.report["warnings"]
    assert made.report["models"]["A"]["swaps"]["differences"] == []


def test_without_a_list_nothing_is_swapped(config, monkeypatch):
    made = run(config, monkeypatch)
    assert made.report["models"]["A"]["swaps"] is None and "swapped" not in json.dumps(made.manifest)


def test_a_pair_of_one_word_is_refused(config):
    with pytest.raises(ConfigError, match="are the same word"):
        config_of(None, config | {"swaps": [["he", "he"]]}, None, "compare")
