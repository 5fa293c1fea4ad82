"""Scores of the user: the setting `generate.custom`."""

import pickle
import textwrap

import pytest

from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.score_plugins import SCORES
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Generate
from raymill.training.evaluation.scores import custom_scores, scores

MODULE = """
    class WithinWords:
        def __init__(self, most: int = 2) -> None:
            self.most = most

        def score(self, answer: dict) -> float:
            return float(len(answer["generated"].split()) <= self.most)

    def names_the_prompt(answer: dict) -> bool:
        return answer["prompt"] in answer["generated"]

    def fails(answer: dict) -> float:
        return 1 / 0

    def nothing(answer: dict) -> float:
        pass

    def bleu(answer: dict) -> float:
        return 0.0

    def pair(reference: str, answer: str) -> float:
        return 0.0
"""
ANSWERS = [
    {"document": "d1", "prompt": "tea", "reference": "four minutes", "generated": "tea: four minutes"},
    {"document": "d2", "prompt": "bread", "reference": "ten minutes", "generated": "ten minutes"},
]


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "corpus.jsonl").write_text('{"text": "Boats."}\n')
    monkeypatch.chdir(tmp_path)

    def make(*custom, **settings) -> TrainConfig:
        given = {
            "kind": "train", "name": "own", "corpus": "corpus.jsonl", "sequence_length": 64, "tokens_per_step": 256,
            "model": {"config": {"model_type": "llama", "vocab_size": 300, "hidden_size": 32}, "tokenizer": "train"},
            "steps": 1, "generate": {"custom": list(custom)}, "output": str(tmp_path / "out"),
        }  # fmt: skip
        return load_values(given | settings, "train")

    return make


def measured(config: TrainConfig) -> dict[str, float]:
    return custom_scores([one.loaded() for one in config.generate.custom], ANSWERS)


def test_a_score_is_the_mean_over_all_answers_under_its_name(config):
    made = config("my_scores:names_the_prompt", {"use": "my_scores:WithinWords", "most": 2})
    assert measured(made) == {"names_the_prompt": 0.5, "within_words": 0.5}
    assert measured(config({"use": "my_scores:WithinWords", "most": 3})) == {"within_words": 1}
    assert custom_scores([one.loaded() for one in made.generate.custom], []) == {}


def test_workers_and_phases_have_it(config):
    assert measured(pickle.loads(pickle.dumps(config("my_scores:WithinWords")))) == {"within_words": 0.5}
    phases = [{"name": "one"}, {"name": "two", "generate": {"prompts": 3}}]
    for phase in config("my_scores:WithinWords", phases=phases).trainings:
        assert measured(phase) == {"within_words": 0.5}


def test_its_code_and_settings_are_part_of_what_an_evaluation_is_made_from(config):
    plain = config({"use": "my_scores:WithinWords", "most": 3}).run_settings()["generate"]["custom"]
    assert plain[0]["most"] == 3 and len(plain[0]["code"]) == 64
    assert "custom" not in Generate().model_dump(mode="json"), "as earlier versions recorded it"


@pytest.mark.parametrize(
    ("use", "seen"),
    [("my_scores:fails", "ZeroDivisionError: division by zero"), ("my_scores:nothing", "returned None")],
)
def test_one_that_fails_is_named_with_the_answer_and_what_to_do(config, use, seen):
    message = rf"generate\.custom: {use}: {seen}, for the answer 'tea: four minutes' to document d1; .*training is not"
    with pytest.raises(DataError, match=message):
        measured(config(use))


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        (["my_scores:bleu"], "the score's name, bleu, is a score of Raymill"),
        (["my_scores:fails", "my_scores:fails"], "two scores have the name fails"),
        (["my_scores:pair"], r"answer has no default; wanted a function of \(answer\)"),
    ],
)
def test_mistakes_are_told_with_the_config(config, custom, message):
    with pytest.raises(ConfigError, match=message):
        config(*custom)


def test_a_score_in_a_phase_is_refused_with_where_it_goes(config):
    with pytest.raises(ConfigError, match=r"give `generate\.custom` beside `phases`"):
        config(phases=[{"name": "one", "generate": {"custom": ["my_scores:fails"]}}])


@pytest.mark.parametrize("kind", ["text", "label", "number"])
def test_the_names_that_are_taken_are_those_of_all_scores(kind):
    assert scores(["#### 1"], ["#### 1"], kind).keys() <= {*SCORES}
