"""Rewards by length, language and a judge, by hand."""

import math

import pytest

from raymill.cluster.answer_rewards import JudgeReward, LanguageReward, LengthReward, ScoringReward
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.pipelines.rewards import JudgeScores, LanguageScores, LengthScores, RunJudge, RunReward, scored
from tests.support.points_server import PointsServer, judge


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
    with PointsServer() as server:
        yield server


def asked(*answers: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": "what?"}, {"role": "assistant", "content": one}] for one in answers]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 0), (16_384, 0), (17_408, -0.25), (18_432, -0.5), (20_480, -1), (20_481, -1), (10**6, -1)],
)
def test_the_soft_overlong_punishment_of_dapo(length, expected):
    """Yu et al. 2025: answers of at most 16,384 tokens, and 4,096 more in which the reward falls."""
    assert LengthReward(max=20_480, soft=4_096).of(length) == expected


def test_a_length_without_a_soft_part_is_a_bound():
    how = LengthReward(max=3, unit="characters")
    assert LengthScores(how).scores(asked("abc", "abcd", "")) == [0, -1, 0]
    with pytest.raises(ValueError, match="soft: 4 is above max, 3"):
        LengthReward(max=3, soft=4)


def test_the_language_of_an_answer():
    texts = ["Der Hund schläft heute unter dem großen Tisch.", "The dog sleeps under the big table today.", "42", ""]
    assert LanguageScores(Store(), LanguageReward(code="de"), "language").scores(asked(*texts)) == [1, 0, 0, 0]
    assert LanguageScores(Store(), LanguageReward(code="de", min_score=1), "language").scores(asked(texts[0])) == [0]
    with pytest.raises(ConfigError, match=r"rewards.x.language: 'German' is not a label"):
        LanguageScores(Store(), LanguageReward(code="German"), "rewards.x.language")


def run_judge(server, output, **more) -> RunJudge:
    how = JudgeReward.model_validate(judge(server, **more))
    return RunJudge.of(Store(), str(output), "run", how, "reward.judge")


def test_points_of_a_judge_are_fractions_of_the_rubric_and_are_stored(server, tmp_path):
    judged = run_judge(server, tmp_path)
    answers = asked("yes", "no", "yes yes", "garbled", "yes yes yes", "yes")
    found = JudgeScores(judged).scores(answers)
    assert found[:3] == [0.5, 0, 1] and found[5] == 0.5
    assert math.isnan(found[3]) and math.isnan(found[4]), "three points of two"
    assert server.stats()["requests"] == 5, "equal answers are judged once"
    again = JudgeScores(judged).scores(answers[:5])
    assert again[:3] == [0.5, 0, 1] and math.isnan(again[3]) and server.stats()["requests"] == 5
    spent = judged.close()
    assert (spent["tries"], spent["outcomes"]) == (5, {"answered": 5})
    assert spent["cost"] == pytest.approx((server.tokens[0] + server.tokens[1]) / 1e6)


def test_the_budget_of_a_judge_stops_the_run(server, tmp_path):
    with pytest.raises(DataError, match=r"reward.judge: .*budget"):
        JudgeScores(run_judge(server, tmp_path, budget=1e-9)).scores(asked("yes"))
    assert server.stats()["requests"] == 0


def test_a_judge_that_scores_nothing_is_an_error_with_its_first_reason(server, tmp_path):
    with pytest.raises(DataError, match=r"none of 8 answers scored; the first: unparsable \(I would say two points\)"):
        JudgeScores(run_judge(server, tmp_path)).scores(asked(*(f"garbled {n}" for n in range(8))))


def test_a_server_that_answers_no_request_is_an_error(server, tmp_path):
    server.share, server.faults = 1.0, ("error",)
    how = judge(server)
    how["model"] |= {"tries": 1}
    judged = RunJudge.of(Store(), str(tmp_path), "run", JudgeReward.model_validate(how), "reward.judge")
    with pytest.raises(DataError, match="no answer to 2 of 2 requests after 1 tries"):
        JudgeScores(judged).scores(asked("yes", "no"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "none given; wanted exactly one of path, length, language, judge"),
        ({"path": "m", "language": "de"}, "path and language given"),
        ({"length": {"max": 9}}, "set unit: characters"),
        ({"language": "de", "gpus": 1}, "gpus: are of a reward model"),
        ({"judge": {"model": {"path": "m", "engine": "vllm"}, "rubric": ["a"]}}, "start vLLM, and give `endpoint`"),
        ({"judge": {"model": {"path": "m"}, "rubric": ["a"], "budget": 1}}, "budget: goes with `model.prices`"),
        ({"judge": {"model": {"path": "m"}, "rubric": []}}, "rubric"),
    ],
)
def test_rewards_that_are_none_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        ScoringReward.model_validate(given)


def test_what_decides_a_reward_is_in_its_identity(server, tmp_path):
    def identity(**given) -> str:
        return RunReward.of(Store(), str(tmp_path), "run", ScoringReward.model_validate(given), "reward").identity

    first = identity(judge=judge(server))
    assert first == identity(judge=judge(server, budget=2.0)) != identity(judge=judge(server, rubric=["It is short."]))
    assert identity(language="de") != identity(language="en") != identity(length={"max": 9, "unit": "characters"})
    how = ScoringReward.model_validate({"language": "en"})
    assert scored(RunReward.of(Store(), str(tmp_path), "run", how, "reward").setup(), asked("a b", "")) == [0, 0]
