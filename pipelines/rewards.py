"""Rewards of answers in `generate` and `compare`, by reward models and without; those by language and by a judge are
also of objective grpo.

A reward is computed by an object with `scores(conversations)`: a number for the last message of each, NaN where there
is none. conversations: messages {role, content}, of which the last is of the assistant.
"""

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from raymill.cluster.answer_rewards import JudgeReward, LanguageReward, LengthReward, ScoringReward
from raymill.cluster.artifact import canonical_json
from raymill.cluster.asking.answers import ANSWERS, Answers, run_name
from raymill.cluster.asking.backends import Backends, located
from raymill.cluster.asking.calls import Calls
from raymill.cluster.asking.compaction import compact
from raymill.cluster.asking.endpoint import judged_chat, most_bytes
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.secret_values import shortened
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.parse import AnswerReader
from raymill.pipelines.generate.rows import Asker, Row
from raymill.pipelines.generate.template import Refusal, load_template
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import LanguageId, identify
from raymill.pipelines.text.texts import Texts

Conversation = Sequence[Mapping[str, Any]]
_FOLDER = "judge"  # in the answer store
_DIGITS = 6  # of scores, whose last bits depend on the number of threads
_ENOUGH = 8  # answers of which the judge has to score one
_MOST_CHARACTERS = 1 << 20  # of an answer that a judge is shown
_LANGUAGE = LanguageId()
_reward_folder = Entry("raymill.training.rollouts.reward_model:RewardFolder")  # it loads transformers


class Scoring(Protocol):
    """Computes a reward."""

    def scores(self, conversations: Sequence[Conversation]) -> list[float]:
        """The reward of the last message of each conversation; NaN: none."""
        ...


@dataclass(frozen=True)
class LengthScores:
    """Rewards by the number of characters."""

    how: LengthReward

    def scores(self, conversations: Sequence[Conversation]) -> list[float]:
        return [self.how.of(len(one[-1]["content"])) for one in conversations]


class LanguageScores:
    """Rewards by language identification, as of `curate`.

    Raises:
        ConfigError: the classifier has no such language.
    """

    def __init__(self, store: Store, how: LanguageReward, setting: str) -> None:
        self._how, self._classifier = how, fasttext_classifier.load(store, None)
        self._classifier.require(how.code, setting)

    def scores(self, conversations: Sequence[Conversation]) -> list[float]:
        if not conversations:
            return []
        texts = Texts.from_strings([one[-1]["content"] for one in conversations])
        names, found = identify(texts, self._classifier, _LANGUAGE.max_chars)
        least = np.float32(self._how.min_score)
        pairs = zip(names.to_pylist(), found, strict=True)
        return [float(name == self._how.code and score >= least) for name, score in pairs]


@dataclass(frozen=True)
class RunJudge:
    """A judge of a run: where its answers are stored, and what the workers share.

    Attributes:
        store: store of the output. output: URI of the output. name: name of the run.
        how: the settings; a model folder is located. setting: their path, for errors.
        key: of the endpoint. throttle: part of the name of the throttle.
    """

    store: Store
    output: str
    name: str
    how: JudgeReward
    setting: str
    key: str = field(default="", repr=False)
    throttle: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @classmethod
    def of(cls, store: Store, output: str, name: str, how: JudgeReward, setting: str, **more: str) -> Self:
        """The judge, with the key in the environment; empty if it is not there, which `check` of the reward reports."""
        found = how.model_copy(update={"model": located(store, how.model)})
        return cls(store, output, name, found, setting, **{"key": os.environ.get(how.model.key_env or "", ""), **more})

    @property
    def identity(self) -> str:
        """What decides its scores, as JSON."""
        return canonical_json(self.how.decisive).decode()

    @property
    def answers(self) -> Answers:
        """The store of its answers. Tries of the run have its name and a hash of the judge and the output."""
        run = run_name(f"{self.name}-judge", canonical_json([self.identity, self.output]).decode())
        folder = self.how.answers or paths.join(self.output, ANSWERS)
        return Answers(self.store, paths.join(folder, _FOLDER), run)

    def close(self) -> dict[str, Any]:
        """Close the store of its answers. Returns tries, tokens and cost, for the report."""
        answers, prices = self.answers, self.how.model.prices
        answers.close()
        compact(answers.store, answers.uri)
        spent = answers.spending()
        return {
            "setting": self.setting,
            "model": self.how.model.name,
            "tries": spent.tries.total(),
            "outcomes": dict(sorted(spent.tries.items())),
            "tokens": vars(spent.tokens),
            "cost": None if prices is None else round(spent.cost(prices), 9),
            "cost_uncounted": None if prices is None else round(spent.cost_unknown(prices), 9),
        }


class JudgeScores:
    """Rewards by a judge: the points of the template `score`, divided by the statements of the rubric.

    An answer that the judge refuses, or to which its answer cannot be read, has none.

    first: why the first answer was not scored, by generate/parse.py; empty: each was.
    """

    def __init__(self, judge: RunJudge) -> None:
        how, self._setting = judge.how, judge.setting
        self._most, self._max_tokens = len(how.rubric), how.sampling.max_tokens
        self._template = load_template("score", judge.store)
        variables = self._template.variables | {"rubric": [*how.rubric], "max_chars": _MOST_CHARACTERS}
        self._asker = Asker(self._template, variables, how.model, how.sampling)
        throttle = f"raymill-judge-{judge.answers.run}-{judge.throttle}"
        self._backends = Backends(how.model, how.sampling, how.budget, judge.answers, throttle, judge.key)
        self._throttle, self._budget = throttle, how.budget
        self.first = ""

    @cached_property
    def _calls(self) -> Calls:
        backends = self._backends
        most = most_bytes(self._max_tokens, backends.sampling.logprobs)
        return Calls(
            backends.answers, backends.model, backends.model.request_prices, self._budget, backends.setup().open,
            self._throttle, judged_chat, self._max_tokens, most,
        )  # fmt: skip

    def scores(self, conversations: Sequence[Conversation]) -> list[float]:
        """See Scoring.

        Raises:
            DataError: the budget is spent, the server refuses the key, more than half of the requests have no
                answer, or no answer is scored. Answers are stored.
        """
        step = self._template.steps[0]
        asked: list[ModelRequest | None] = []
        for one in conversations:
            try:
                asked += self._asker.requests(Row("", "", "0.0.0", {"text": _shown(one), "id": ""}), step, 0)
            except Refusal as refusal:  # a text that is too large
                asked.append(None)
                self._note(refusal)
        requests = {one.key: one for one in asked if one is not None}
        try:
            replies = self._calls.replies(requests)
        except AskingStopped as error:
            raise DataError(f"{self._setting}: {error}") from error
        without = [one for one in replies.values() if one.outcome == "again"]
        if 2 * len(without) > len(replies):
            raise DataError(
                f"{self._setting}: no answer to {len(without):,} of {plural(len(replies), 'request')} after "
                f"{self._backends.model.tries} tries: {without[0].reason}. Is the server running? Answers are stored: "
                "run the same command again to ask the others."
            )
        reader, values = AnswerReader(step, self._max_tokens), dict[str, float]()
        for key, reply in replies.items():
            try:
                (found,) = reader.items(reply)
                if not 0 <= found["score"] <= self._most:
                    raise Refusal("other_form", f"{found['score']} points of {self._most}")
                values[key] = found["score"] / self._most
            except Refusal as refusal:
                values[key] = math.nan
                self._note(refusal)
        rewards = [math.nan if one is None else values[one.key] for one in asked]
        if len(rewards) >= _ENOUGH and all(map(math.isnan, rewards)):
            raise DataError(
                f"{self._setting}: none of {plural(len(rewards), 'answer')} scored; the first: {self.first}. Correct "
                "the judge's model, `sampling.max_tokens` or rubric, and run the same command again."
            )
        return rewards

    def _note(self, refusal: Refusal) -> None:
        self.first = self.first or f"{refusal.reason} ({shortened(refusal.seen or '', 200)})"


def _shown(conversation: Conversation) -> str:
    """The text of a conversation that a judge is shown."""
    *before, last = conversation
    if len(before) == 1:
        return f"Question:\n{before[0]['content']}\n\nAnswer:\n{last['content']}"
    turns = "\n\n".join(f"{one['role']}: {one['content']}" for one in before)
    return f"Conversation:\n{turns}\n\nAnswer:\n{last['content']}"


@dataclass(frozen=True)
class RunReward:
    """A reward of a run.

    Attributes:
        store: store of the output. how: the settings. setting: their path.
        model: the reward model, located; None: another kind.
        judge: the judge; None: another kind.
    """

    store: Store
    how: ScoringReward
    setting: str
    model: ModelSettings | None
    judge: RunJudge | None

    @classmethod
    def of(cls, store: Store, output: str, name: str, how: ScoringReward, setting: str) -> Self:
        """Raises StorageError, DataError: there is no model."""
        model = None
        if how.path is not None:
            model = located(store, ModelSettings(path=how.path, gpus=how.gpus))
        judge = None if how.judge is None else RunJudge.of(store, output, name, how.judge, f"{setting}.judge")
        return cls(store, how, setting, model, judge)

    @property
    def identity(self) -> str:
        """What decides its scores: the fingerprint of the reward model's files, or settings as JSON."""
        if self.model is not None:
            return self.model.revision
        if self.judge is not None:
            return self.judge.identity
        return canonical_json(self.how.model_dump(mode="json", include={"length", "language"})).decode()

    @property
    def gpus(self) -> int:
        """GPUs that each worker reserves."""
        if self.judge is not None:
            return self.judge.how.model.worker_gpus
        return self.how.gpus

    def setup(self) -> Scoring:
        """What computes it, opened once in each worker."""
        if self.judge is not None:
            return JudgeScores(self.judge)
        if self.how.language is not None:
            return LanguageScores(self.store, self.how.language, f"{self.setting}.language")
        if self.how.length is not None:
            return LengthScores(self.how.length)
        assert self.model is not None
        found: Scoring = _reward_folder(self.store, self.model.path)
        return found

    def check(self) -> None:
        """Verify the key of the judge, and the language. Raises ConfigError."""
        if self.judge is not None:
            self.judge.how.model.secret(f"{self.judge.setting}.model")
        if self.how.language is not None:
            self.setup()


def scored(reward: Scoring, conversations: Sequence[Conversation]) -> list[float]:
    """The reward of the last message of each conversation; NaN: none."""
    return [round(one, _DIGITS) for one in reward.scores(conversations)]
