"""Prompts with examples: which are chosen, what is asked, and how variants are compared."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.asking.backends import Backends
from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.pipelines.prepare.assess.vectors import fit_embedding
from raymill.pipelines.prompting.choose import Pool
from raymill.pipelines.prompting.compare import compared
from raymill.pipelines.prompting.config import PromptConfig, PromptText
from raymill.pipelines.prompting.job import PromptJob, shown_examples
from raymill.pipelines.prompting.plan import plan_prompts
from raymill.pipelines.prompting.variants import Item, messages_of, refuse_wrong_prompts, variants_of
from tests.support.generate_inline import rows
from tests.support.inline import InlineEngine, prepare_inline
from tests.support.prompt_inline import TOPICS, questions
from tests.support.prompt_inline import prompt_inline as run


def pool_of(questions, answers=None, **how):
    model = fit_embedding(questions, 32)
    answers = answers or [f"answer {n}" for n in range(len(questions))]
    ids = [f"r{n}" for n in range(len(questions))]
    how = {"seed": 1, "near": 0.7} | how
    return Pool(ids, questions, answers, model.embed(questions), **how), model


def items_with(answers):
    return [Item(f"i{at}", f"question {at}", answer) for at, answer in enumerate(answers)]


def chosen(pool, model, method, number, question, item="i"):
    return pool.examples(method, number, item, question, model.embed([question])[0])


# --- choosing


def test_similar_examples_are_of_the_topic_and_the_nearest_stands_last():
    asked, labels = questions(30)
    pool, model = pool_of(asked, labels)
    found = chosen(pool, model, "similar", 4, "Does the courier with my parcel arrive at the house today?")
    assert {labels[at] for at in found} == {"delivery"}
    cosines = pool.vectors @ model.embed(["Does the courier with my parcel arrive at the house today?"])[0]
    assert [cosines[at] for at in found] == sorted(cosines[at] for at in found)


def test_diverse_examples_are_of_all_topics():
    asked, labels = questions(30)
    pool, model = pool_of(asked, labels)
    assert {labels[at] for at in chosen(pool, model, "diverse", 3, "What?")} == {*TOPICS}


def test_both_is_near_the_item_and_without_repetition():
    asked = ["the parcel arrives late by courier", "the parcel arrives late by a courier", "parcel lost by the driver",
             "password of the account", "invoice of the contract"]  # fmt: skip
    pool, model = pool_of(asked)
    question = "when does the parcel of the courier arrive late"
    assert {*chosen(pool, model, "similar", 2, question)} == {0, 1}
    assert len({*chosen(pool, model, "both", 2, question)} & {0, 1}) == 1


@pytest.mark.parametrize("method", ["random", "similar", "diverse", "both"])
def test_the_item_and_its_near_duplicates_are_never_examples(method):
    asked, _ = questions(30)
    item = asked[4]
    near = [item, item.upper(), item.replace("?", " ?"), f"{item} Please."]
    pool, model = pool_of([*asked, *near])
    found = chosen(pool, model, method, 30, item)
    assert not {pool.questions[at] for at in found} & {item, *near} and len(found) == 29
    loose, model = pool_of([*asked, *near], near=1.0)
    assert len(chosen(loose, model, method, 40, item)) == 30, "only equal words are near at 1"


@pytest.mark.parametrize("method", ["random", "similar", "diverse", "both"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(order=st.permutations(range(24)), number=st.integers(1, 8))
def test_a_choice_does_not_depend_on_the_order_of_the_pool_or_on_other_items(method, order, number):
    asked, labels = questions(24)
    model = fit_embedding(asked, 16)
    vectors, question = model.embed(asked), "Where is parcel 99?"
    ids = [f"r{n}" for n in range(24)]

    def found(at):
        at = sorted(at, key=lambda one: ids[one])  # as the job reads records: by their hashes
        pool = Pool([ids[n] for n in at], [asked[n] for n in at], [labels[n] for n in at], vectors[at], 1, 0.7)
        pool.examples(method, 3, "another item", "Something else?", model.embed(["Something else?"])[0])
        return [pool.ids[n] for n in pool.examples(method, number, "i", question, model.embed([question])[0])]

    assert found(order) == found(range(24))


def test_more_examples_begin_with_the_same_ones():
    asked, _ = questions(30)
    pool, model = pool_of(asked)
    for method in ("random", "similar", "diverse", "both"):
        assert chosen(pool, model, method, 8, "Where is it?")[-3:] == chosen(pool, model, method, 3, "Where is it?")


def test_random_examples_differ_by_item_and_by_seed():
    asked, _ = questions(60)
    pool, model = pool_of(asked)
    assert chosen(pool, model, "random", 4, "What?", "a") != chosen(pool, model, "random", 4, "What?", "b")
    other, _ = pool_of(asked, seed=2)
    assert chosen(pool, model, "random", 4, "What?", "a") != chosen(other, model, "random", 4, "What?", "a")


@pytest.mark.parametrize("method", ["random", "similar", "diverse", "both"])
def test_balanced_examples_have_each_answer_equally_often(method):
    asked, labels = questions(60)
    asked, labels = asked + ["My parcel and its courier?"] * 30, labels + ["delivery"] * 30
    pool, model = pool_of(asked, labels, balanced=True)
    counts = Counter(labels[at] for at in chosen(pool, model, method, 6, "Where is the parcel of the courier now?"))
    assert method == "both" or counts == dict.fromkeys(TOPICS, 2), counts


def test_a_small_pool_gives_what_it_has():
    pool, model = pool_of(["one question about lamps"])
    assert chosen(pool, model, "similar", 5, "Another text?") == [0]
    assert chosen(pool, model, "both", 5, "one question about lamps") == []


# --- prompts


def test_examples_are_turns_or_stand_in_the_prompt():
    shown = [Item("a", "2+2?", "4")]
    turns = messages_of(PromptText(system="Count.", prompt="Q: {{ prompt }}"), "3+3?", shown)
    assert [(one["role"], one["content"]) for one in turns] == [
        ("system", "Count."), ("user", "Q: 2+2?"), ("assistant", "4"), ("user", "Q: 3+3?"),
    ]  # fmt: skip
    text = "{% for one in examples %}{{ one.prompt }} -> {{ one.answer }}\n{% endfor %}{{ prompt }} ->"
    assert messages_of(PromptText(prompt=text), "3+3?", shown) == [{"role": "user", "content": "2+2? -> 4\n3+3? ->"}]


def test_the_word_examples_in_a_prompt_does_not_keep_them_from_being_turns():
    turns = messages_of(PromptText(prompt="Like the examples: {{ prompt }}"), "3+3?", [Item("a", "2+2?", "4")])
    assert [one["role"] for one in turns] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("text", "said"), [("{{ promt }}", "promt"), ("Answer!", "has no {{ prompt }}"), ("{{ x", "x")]
)
def test_wrong_prompts_are_refused(text, said):
    with pytest.raises(ConfigError, match=r"prompts\.a: ") as raised:
        refuse_wrong_prompts({"a": PromptText(prompt=text)})
    assert said in str(raised.value)


# --- comparing


def test_the_best_is_behind_nothing_and_intervals_are_paired():
    references = ["yes", "no"] * 50
    right, half = references, [one if at % 2 else "?" for at, one in enumerate(references)]
    best, other, none = compared("label", items_with(references), [right, half, [None] * 100])
    assert (best.score, best.behind, best.behind_interval) == (1.0, 0.0, (0.0, 0.0))
    assert other.score == 0.5 and other.behind == 0.5
    low, high = other.behind_interval
    # The standard error of a share of a half of 100 is 0.05.
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    assert none.score == 0 and none.scores == {}
    same = compared("label", items_with(references), [half, half])
    assert same[1].behind_interval == (0.0, 0.0), "the difference to itself is sure, though its score is not"


def test_numbers_and_texts_have_their_scores():
    (one,) = compared("number", items_with(["It is #### 5"] * 3), [["#### 5.0", "#### 6", "five"]])
    assert one.score == pytest.approx(1 / 3)
    (two,) = compared("text", items_with(["the red lamp"]), [["a red lamp"]])
    assert two.score == 1.0


# --- the run


def test_variants_are_all_combinations_once(config):
    found = variants_of(PromptConfig.model_validate(config))
    assert [(one.prompt, one.examples, one.by) for one in found] == [
        ("plain", 0, ""), ("plain", 3, "random"), ("plain", 3, "similar"), ("list", 0, ""),
    ]  # fmt: skip


def test_it_compares_variants_and_writes_the_best(config, server, monkeypatch, tmp_path):
    made = run(config, monkeypatch)
    report, items = made.report, rows(made, "items")
    assert report["items"] == len(items) == 18 and len(report["variants"]) == 4
    assert server.stats()["requests"] == 4 * 18
    by_score = [one["score"] for one in report["variants"]]
    assert by_score == sorted(by_score, reverse=True) and report["variants"][0]["behind"] == 0
    assert (
        sum(one["cost"] for one in report["variants"]) == pytest.approx(server.stats()["cost"], rel=1e-9)
        if ("cost" in server.stats())
        else True
    )
    assert "behind the best" in str(made) and "best first" in made.summary
    shown = {tuple(row["examples"]) for row in rows(made, "examples") if row["variant"] == 2}
    assert all(len(one) == 3 for one in shown)
    train = {row["id"] for row in rows(tmp_path / "data", "train")}
    assert {one for row in rows(made, "examples") for one in row["examples"]} <= train
    best = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    again = run(
        config | best | {"output": str(tmp_path / "again"), "answers": str(tmp_path / "out/answers")}, monkeypatch
    )
    (one,) = again.report["variants"]
    assert {name: one[name] for name in ("model", "prompt", "examples", "by", "score")} == {
        name: report["variants"][0][name] for name in ("model", "prompt", "examples", "by", "score")
    }
    assert server.stats()["requests"] == 4 * 18, "answers of the first run serve the second"


def test_the_same_command_again_and_a_stopped_run_ask_nothing_twice(config, server, monkeypatch, tmp_path):
    run(config, monkeypatch)
    asked = server.stats()["requests"]
    assert run(config, monkeypatch).manifest["digest"]
    (tmp_path / "out/manifest.json").unlink()
    run(config, monkeypatch)
    assert server.stats()["requests"] == asked


def test_fewer_items_are_some_of_the_same_with_the_same_examples(config, monkeypatch, tmp_path):
    every, few = run(config, monkeypatch), run(config | {"items": 5, "output": str(tmp_path / "few")}, monkeypatch)
    chosen = {(one["variant"], one["item"]): one["examples"] for one in rows(every, "examples")}
    of_few = {(one["variant"], one["item"]): one["examples"] for one in rows(few, "examples")}
    assert len({item for _, item in of_few}) == 5 and of_few.items() <= chosen.items()


def test_a_model_that_refuses_is_an_error_and_items_without_an_answer_score_0(config, server, monkeypatch):
    with FaultyServer(share=0.3, seed=3, faults=("refused", "null", "truncated", "bad_request")) as faulty:
        config["models"]["small"]["endpoint"] = faulty.url
        made = run(config, monkeypatch)
    without = [one for one in made.report["variants"] if one["answered"] < 18]
    nothing_right, *others = made.warnings
    assert without and len(others) == len(without) and all("with the score 0; the first: '" in one for one in others)
    assert nothing_right.startswith("No variant has a correct answer, so best.yaml is no better than the others. The ")
    assert re.search(r"The first answer: '.+'; wanted: '(billing|delivery|login)'\. State in the prompt", nothing_right)
    shown = [one.split(":")[0] for one in others]
    every = variants_of(PromptConfig.model_validate(config))
    in_config = [f"{one.model}, prompt {one.prompt}, {shown_examples(vars(one))}" for one in every]
    assert shown == [one for one in in_config if one in shown], "in the order of the config"


def test_fewer_examples_than_wanted_are_a_warning(config, monkeypatch):
    made = run(config | {"examples": {"number": [0, 400], "by": "random"}}, monkeypatch)
    (about,) = [one for one in made.warnings if "has only" in one]
    least = min(len(row["examples"]) for row in rows(made, "examples") if row["variant"] == 1)
    assert about.startswith(f"small, prompt plain, 400 examples, random: an item has only {least} examples, ")


def test_variants_with_the_same_score_are_a_warning(config):
    job = PromptJob(PromptConfig.model_validate(config))
    rows = [{"score": 0.5}, {"score": 0.5}, {"score": 0.1}]
    assert job._warnings_on_scores(rows, [["a"]] * 3, ["a"]) == [
        "2 variants have the best score; best.yaml has the first of them in the config."
    ]
    assert job._warnings_on_scores(rows[1:], [["a"]] * 2, ["a"]) == []
    assert "The first answer" not in job._warnings_on_scores([{"score": 0}], [[None]], ["a"])[0]


def test_what_is_no_data_set_is_refused_before_anything_is_asked(config, server, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="there is no run"):
        run(config | {"data": str(tmp_path / "nothing")}, monkeypatch)
    with pytest.raises(ConfigError, match=r"prompts\.plain"):
        run(config | {"prompts": {"plain": {"prompt": "{{ nothing }}"}}}, monkeypatch)
    assert server.stats()["requests"] == 0


def test_a_data_set_without_records_in_the_split_is_refused_before_ray_starts(config, monkeypatch, tmp_path):
    records = [{"id": f"r{n}", "prompt": f"Where is parcel {n}?", "completion": "delivery"} for n in range(20)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    split = {"train": 0.5, "validation": 0, "test": 0.5}
    settings = {"records": {"shape": "pairs"}, "validate": {"answer_chars": None}, "dedup": None, "split": split}
    inputs = [{"path": str(tmp_path / "b.jsonl"), "id": "id"}]
    prepare_inline(settings | {"inputs": inputs, "output": str(tmp_path / "empty")}, monkeypatch)
    with pytest.raises(DataError, match="empty/validation: no record, and items are records of this split"):
        PromptJob(PromptConfig.model_validate(config | {"data": str(tmp_path / "empty")})).check_config()


@pytest.mark.parametrize(
    ("output", "said"),
    [("data", "its kind is prepare, not prompt"), ("data/run", "lies inside"), (".", "contains data")],
)
def test_an_output_in_or_above_the_data_set_is_refused(config, monkeypatch, tmp_path, output, said):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        run(config | {"output": str(tmp_path / output)}, monkeypatch)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_and_a_dry_run_ask_nothing(config, server):
    plan = plan_prompts(PromptConfig.model_validate(config))
    assert plan["models"]["small"]["requests"] == 72 and plan["models"]["small"]["cost"] > 0
    lines = "\n".join(dry_run_lines(PromptConfig.model_validate(config)))
    assert "small, prompt plain: 3 examples, similar" in lines and "to be made" in lines
    assert server.stats()["requests"] == 0


def test_vectors_of_equal_length_make_cosines():
    asked, _ = questions(9)
    pool, _ = pool_of(asked)
    assert np.allclose(np.linalg.norm(pool.vectors, axis=1), 1, atol=1e-5)


# --- scores of one's own


def brevity(answer):
    """1 for an answer of one word, less for longer ones."""
    return 1 / max(1, len(answer["generated"].split()))


class Names:
    """Whether an answer names one of some words."""

    def __init__(self, words=("router",)):
        self.words = words

    def score(self, answer):
        assert answer.keys() == {"document", "prompt", "reference", "generated"} and answer["prompt"]
        return any(one in answer["generated"] for one in self.words)


def test_scores_of_ones_own_are_in_the_table_and_rank_with_intervals(config, server, monkeypatch, tmp_path):
    plain = run(config, monkeypatch)
    asked = server.stats()["requests"]
    shared = {"answers": str(tmp_path / "out/answers"), "output": str(tmp_path / "own"), "custom": [brevity, Names]}
    made = run(config | shared | {"rank_by": "brevity"}, monkeypatch)
    assert server.stats()["requests"] == asked, "a score asks nothing"
    assert made.report["score"] == "brevity" and "score brevity" in made.summary
    before = {(one["prompt"], one["examples"], one["by"]): one for one in plain.report["variants"]}
    for one in made.report["variants"]:
        other = before[one["prompt"], one["examples"], one["by"]]["scores"]
        assert {**other} == {name: one["scores"][name] for name in other}, "the other scores are the same"
        assert one["scores"].keys() - other.keys() == {"brevity", "names"}
        assert one["score"] == pytest.approx(one["scores"]["brevity"]) and one["interval"][0] <= one["score"]
    ranked = [one["score"] for one in made.report["variants"]]
    assert ranked == sorted(ranked, reverse=True) and made.report["variants"][0]["behind"] == 0


def test_an_answer_with_more_characters_than_its_tokens_have_is_none(config, monkeypatch):
    """A server may send a megabyte for any number of tokens; its scores would take a minute."""

    class Long(FaultyServer):
        def said(self, schema, text, draw):
            return "login " * 600 if "password" in text else "login"

    with Long() as server:
        model = {"endpoint": server.url, "name": "small"}
        settings = {"models": {"small": model}, "sampling": {"max_tokens": 100}, "prompts": {"plain": {}}}
        made = run(config | settings | {"examples": {"number": [0]}}, monkeypatch)
    (one,) = made.report["variants"]
    assert 0 < one["answered"] < made.report["items"]
    assert "3,600 characters, more than `sampling.max_tokens` have" in str(made.report["warnings"])


def test_an_own_score_of_an_item_without_an_answer_is_0_in_the_rank_and_left_out_of_the_mean():
    plugin = PromptConfig.model_validate(
        {"kind": "prompt", "data": "d", "models": {"m": {"endpoint": "http://x/v1", "name": "m"}}, "output": "o",
         "custom": [brevity]}
    ).custom[0].loaded()  # fmt: skip
    (one,) = compared("text", items_with(["a", "b"]), [["short", None]], [plugin], "brevity")
    assert one.score == 0.5 and one.scores["brevity"] == 1.0


def wrong(answer):
    return "seven"


def endless(answer):
    return 10**400


def failing(answer):
    return 1 / 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"custom": [wrong]}, r"custom: .*wrong: returned 'seven', for the answer .* to document .*Correct the score"),
        ({"custom": [endless]}, r"custom: .*endless: returned 1000.*wanted a finite number"),
        ({"custom": [failing]}, r"custom: .*failing: .*ZeroDivisionError"),
    ],
)
def test_an_own_score_that_fails_is_named_and_no_answer_is_lost(config, server, monkeypatch, tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        run(config | changes, monkeypatch)
    asked = server.stats()["requests"]
    run(config, monkeypatch, replace=True)
    assert server.stats()["requests"] == asked


def test_a_rank_by_a_score_that_is_not_there_is_refused(config):
    with pytest.raises(ValueError, match=r"rank_by: beauty is none of the scores in `custom` \(brevity\)"):
        PromptConfig.model_validate(config | {"custom": [brevity], "rank_by": "beauty"})
    with pytest.raises(ValueError, match="two scores have the name brevity"):
        PromptConfig.model_validate(config | {"custom": [brevity, brevity]})
    assert "custom" not in PromptConfig.model_validate(config).model_dump()


def test_models_are_asked_in_ranges_of_their_own_with_the_same_result(config, monkeypatch, tmp_path):
    config["models"]["other"] = config["models"]["small"] | {"name": "other"}
    counts, units = {"small": 5, "other": 2}, {}

    class Counting(InlineEngine):
        def run(self, stage):
            units[stage.name] = len(stage.units)
            return super().run(stage)

    def scores(output):
        report = run(config | {"output": str(tmp_path / output)}, monkeypatch, engine=Counting).report
        return [{name: one for name, one in row.items() if name != "seconds"} for row in report["variants"]]

    whole = scores("whole")
    assert (units["ask.small"], units["ask.other"]) == (1, 1)
    monkeypatch.setattr(Backends, "ranges", lambda self, requests, most: counts[self.model.name])
    assert scores("divided") == whole and (units["ask.small"], units["ask.other"]) == (5, 2)
