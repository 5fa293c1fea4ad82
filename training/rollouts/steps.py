"""The rollouts of objective grpo: answers that the model samples for the prompts of a step, with rewards.

    prompts      a row of the packed corpus each, in the order that every training has; its answer is the reference
    sampling     by the worker that has the prompt, at temperature 1, with random numbers that are a function of the
                 seed, the step, the document and the number of the answer
    rewards      rewards.py
    advantages   of each answer in its group (objectives.py)
    rows         answers with an advantage that is not zero, after their prompts, packed; each token weighs as the loss
                 is defined. They are the rows of the step, and the rest of the step is as in any training.

The rollouts of a step are committed to OUTPUT/rollouts before the update. A training that continues reads those of the
steps that it repeats, so that they are not sampled again, and their update is the same.

With one update for each set of rollouts the policy that is trained is the one that sampled: the ratio of both is 1,
nothing is clipped, and the gradient is a weighted cross entropy. With several, or with a penalty of the divergence from
the base model, the log-probabilities of all sampled tokens are computed on the packed rows as the update computes them,
so that the ratio of the first update is exactly 1, and are committed with the rollouts.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast

from raymill.cluster.artifact import open_parquet
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.training.config import TrainConfig
from raymill.training.data.batch import POLICY, Batch, RowsOfSteps, collate
from raymill.training.data.order import HeldOut
from raymill.training.data.packed import PACKED, PackedRows
from raymill.training.evaluation.generate import complete_prompts, last_trained_span, stop_ids
from raymill.training.fit.ranks import Ranks
from raymill.training.models.answers import RolloutLoss
from raymill.training.models.objective import Objective
from raymill.training.objectives import SAMPLE_MEASURES, SAMPLED_TOKENS, Grpo
from raymill.training.pack.best_fit import best_fit
from raymill.training.records.job import Job
from raymill.training.records.schema import Measured, measured
from raymill.training.rollouts.reward_model import RewardModelScores
from raymill.training.rollouts.rewards import LOADED, SampledAnswer, Scores, advantages, rewards_of
from raymill.training.rollouts.sampling import answer_key, sample_answers, sampling_mode, uniforms
from raymill.training.rollouts.vllm_sampler import VllmSampler
from raymill.training.tokenizer.load_tokenizer import pad_id

_language_scores = Entry("raymill.pipelines.rewards:LanguageScores")  # it compiles kernels
_judge_scores = Entry("raymill.pipelines.rewards:JudgeScores")
# Least and largest value of rewards of a kind, by default 0 and 1.
_RANGES = {"model": (-np.inf, np.inf), "custom": (-np.inf, np.inf), "length": (-1.0, 0.0)}
_DELETE = "Delete it and run the same command again."
_LOGP = pa.list_(pa.float32())
# A token of a lower probability than exp(-80) is not sampled, and exp(80) is below the largest float32. The bound above
# allows for rounding.
_LEAST_LOGP, _MOST_LOGP = {"sampled_logp": -80.0, "base_logp": -10_000.0}, 0.01
# Largest sum of the probabilities of different tokens after the same ones. They are computed in different rows: in bf16
# a logit of 32 has an error of up to 0.06, so a probability has one of a tenth. Two tokens of probability 1 sum to 2.
_MOST_PROBABILITY = 1.5
ROLLOUTS = pa.schema(
    [
        ("document", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),  # of the answer, with the token that ends it
        ("ended", pa.bool_()),  # false: it was cut
        ("generated", pa.string()),
        ("rewards", pa.list_(pa.float64())),  # in the order of `grpo.rewards`, before their weights; null: no reward
        ("reward", pa.float64()),  # null: one of them is
        ("failed", pa.bool_()),  # a reward took too long, and counts as 0
        ("advantage", pa.float64()),
        # Of each token of an answer that is trained on, if the loss needs them (`needs_log_probabilities`); and of the
        # first answers of groups, if the divergence is measured.
        ("sampled_logp", _LOGP),  # by the model that sampled it
        ("base_logp", _LOGP),  # by the model without its adapter
    ]
)


@dataclass(frozen=True)
class PromptOfStep:
    """A prompt. document: its id. ids, text: the prompt. reference: text of the answer in the corpus."""

    document: str
    ids: list[int]
    text: str
    reference: str


def _placed(rollouts: Sequence[dict[str, Any]], length: int) -> list[list[dict[str, Any]]]:
    """The answers in each packed row."""
    sizes = np.array([len(one["prompt"]) + len(one["ids"]) for one in rollouts], np.int64)
    places, count = best_fit(sizes, length) if rollouts else (sizes, 0)
    rows: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for one, place in zip(rollouts, places.tolist(), strict=True):
        rows[place].append(one)
    return rows


def _trained(rollouts: Sequence[dict[str, Any]], how: Grpo) -> list[dict[str, Any]]:
    """The answers with an influence on the loss."""
    return [one for one in rollouts if one["reward"] is not None and one["ids"] and (one["advantage"] or how.kl)]


def rows_of(rollouts: Sequence[dict[str, Any]], how: Grpo, length: int) -> pa.Table:
    """The answers that are trained on, as rows of schema PACKED, in an order that their tokens decide.

    With the columns of POLICY if the loss needs them.

    The loss of a step is the weighted sum of the tokens' losses divided by the number of label tokens in these rows.
    So a token's weight is what `how.mean` asks for, times that number; without POLICY also times its advantage. Answers
    without a reward count in no mean.
    """
    scored, trained = [one for one in rollouts if one["reward"] is not None], _trained(rollouts, how)
    labels = sum(len(one["ids"]) for one in trained)
    whole = {
        "tokens": sum(len(one["ids"]) for one in scored),
        "answers": len(scored),
        "length": len(scored) * how.max_new_tokens,
    }[how.mean]
    return _packed(trained, how, length, labels / whole if trained else 0.0)


def _packed(rollouts: Sequence[dict[str, Any]], how: Grpo, length: int, scale: float) -> pa.Table:
    """Answers after their prompts as rows. scale: weight of a token; with `mean: answers` divided by its answer's."""
    schema = PACKED
    for name in POLICY if how.needs_log_probabilities else ():
        schema = schema.append(pa.field(name, _LOGP))
    rows = []
    for placed in _placed(rollouts, length):
        row: dict[str, Any] = {name: [] for name in schema.names} | {"label": None}
        for one in placed:
            prompt, answer, advantage = one["prompt"], one["ids"], one["advantage"]
            weight = scale / (len(answer) if how.mean == "answers" else 1)
            row["ids"] += prompt + answer
            row["labels"] += [False] * len(prompt) + [True] * len(answer)
            row["lengths"].append(len(prompt) + len(answer))
            row["documents"].append(f"{one['document']}#{one['sample']}")
            if how.needs_log_probabilities:
                row["weights"] += [1.0] * len(prompt) + [weight] * len(answer)
                values = [advantage] * len(answer), one["sampled_logp"], one["base_logp"]
                for name, of_tokens in zip(POLICY, values, strict=True):
                    row[name] += [0.0] * len(prompt) + list(of_tokens or [0.0] * len(answer))
            else:
                row["weights"] += [1.0] * len(prompt) + [advantage * weight] * len(answer)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema)


def _as_parquet(rollouts: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rollouts, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


class Rollouts:
    """The micro-batches of each step, in place of a Loader of packed rows. All workers call it together.

    Args:
        order: the prompts of each sampling. prompts: packed rows of each corpus, one prompt a row.

    measures: of the last step, by the names of SAMPLE_MEASURES, and `rewards`. waited_s: always 0, as nothing is
    prefetched.
    """

    mismatched = False
    documents_per_row = 4.0

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        ranks: Ranks,
        objective: RolloutLoss,
        tokenizer: PreTrainedTokenizerFast,
        order: RowsOfSteps,
        prompts: Sequence[PackedRows],
        micro_rows: int,
    ) -> None:
        self.job, self.config, self.ranks, self.objective = job, config, ranks, objective
        self.how, self.tokenizer, self.order, self.prompts = config.grpo, tokenizer, order, prompts
        self.micro_rows, self.length = micro_rows, config.sequence_length
        self.stops, self.pad = stop_ids(tokenizer), pad_id(tokenizer)
        self.bounds = prompts[0].bounds
        # Without a penalty, whose loss measures it.
        self.measures_kl = not (config.training_method.trains_base or config.lora.init == "pissa" or self.how.kl)
        self.scores = [self._scores(at) for at, one in enumerate(self.how.rewards) if one.kind in LOADED]
        self.sampler: VllmSampler | None = None  # started by the first answers that it samples
        self.measures: dict[str, Any] = {}
        self.waited_s = 0.0

    def close(self) -> None:
        """Close the files of prompts."""
        for rows in self.prompts:
            rows.close()

    def end_sampler(self) -> None:
        """End the server that samples, if there is one, whose memory export and evaluation need."""
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def _scores(self, number: int) -> Scores:
        """What computes a reward of the kinds LOADED. number: in `grpo.rewards`."""
        use, config, setting = self.how.rewards[number], self.config, f"grpo.rewards.{number}"
        if use.model is not None:
            return RewardModelScores(
                config.store, use.model, self.tokenizer, self.ranks.device, config.bf16, self.length
            )
        if use.language is not None:
            return partial(_of_texts, _language_scores(config.store, use.language, f"{setting}.language"))
        assert use.judge is not None
        return partial(_of_texts, _judge_scores(self.job.judge(number, use.judge)))

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step, counted from 0, equally many on each worker."""
        began = time.perf_counter()
        sampling = step // self.how.updates
        first_step = sampling * self.how.updates + 1
        uri = paths.join(self.job.folder.rollouts, self.job.folder.fingerprint, f"step-{first_step:08d}.parquet")
        data, problem = self.ranks.from_first(self._read(sampling, uri) if self.ranks.first else (None, ""))
        if data is None and not problem:
            data, problem = self.ranks.from_first(self._make(step, sampling, uri))
        if problem or data is None:
            raise DataError(f"{uri}: was changed after it was written{problem}. {_DELETE}")
        rollouts = pq.read_table(pa.BufferReader(data)).to_pylist()
        prompts = len(self.order.step(sampling))
        if not rollouts:
            raise DataError(
                f"step {step + 1}: none of its {prompts} prompts leaves room for grpo.max_new_tokens "
                f"({self.how.max_new_tokens}) in sequence_length ({self.length}). Increase sequence_length, or "
                "decrease max_new_tokens; `raymill pack CONFIG --preview 3` shows some."
            )
        self.measures = self._measured(rollouts, prompts, time.perf_counter() - began)
        rows = rows_of(rollouts, self.how, self.length)
        if wrong := self.bounds.wrong(rows.select(PACKED.names)):
            raise DataError(f"{uri}: was changed after it was written ({wrong}). {_DELETE}")
        return self._batches(rows)

    def _batches(self, rows: pa.Table) -> list[Batch]:
        """The micro-batches of this worker's rows, equally many on each worker."""
        own = [rows.slice(at, 1) for at in range(self.ranks.rank, len(rows), self.ranks.world)]
        count = -(-len(rows) // self.ranks.world)
        return [
            collate(own[at : at + self.micro_rows], self.micro_rows, self.length, self.pad, self.documents_per_row)
            for at in range(0, max(count, 1), self.micro_rows)
        ]

    def _read(self, sampling: int, uri: str) -> tuple[bytes | None, str]:
        """(content of the file of a sampling, or None, and what is wrong with it), as the first worker sees it.

        Anybody may have written the file. So it is read with bounds, and its values are written again for the other
        workers.
        """
        store = self.job.folder.store
        try:
            store.info(uri)
        except NotFound:
            return None, ""
        try:
            with open_parquet(store, uri) as parquet:
                if parquet.metadata.num_rows > len(self.order.step(sampling)) * self.how.samples:
                    return None, " (it has more answers than the step)"
                table = parquet.read()
        except (DataError, pa.ArrowException) as error:
            return None, f" ({error!s:.300})"
        if not self._is_of_rollouts(table):
            return None, " (it has other values)"
        prompts = [one for one in (self.prompt(*row) for row in self.order.step(sampling)) if self.leaves_room(one)]
        wanted = [(one.document, one.ids, number) for one in prompts for number in range(self.how.samples)]
        found = zip(*(table[name].to_pylist() for name in ("document", "prompt", "sample")), strict=True)
        return (_as_parquet(table), "") if list(found) == wanted else (None, " (it has answers to other prompts)")

    def _make(self, step: int, sampling: int, uri: str) -> tuple[bytes | None, str]:
        """Sample and commit rollouts. Returns what `_read` does, on the first worker."""
        rows = self.order.step(sampling)
        prompts = [self.prompt(corpus, row) for corpus, row in rows[self.ranks.rank :: self.ranks.world]]
        self.ranks.reached(f"step {step + 1}, sampling answers")
        mine, error = list[dict[str, Any]](), None
        try:
            mine = self._sampled(sampling, prompts)
        except (DataError, ConfigError) as raised:  # of a reward; the other workers would wait for this one
            error = raised
        self.ranks.reached(f"step {step + 1}, exchanging answers")
        everyone = self.ranks.gather((error, mine))
        _raise_first([one for one, _ in everyone])
        # In the order of the step's prompts, however they are divided among workers.
        flat = [
            one
            for at in range(len(rows))
            for one in everyone[at % self.ranks.world][1]
            if one["at"] == at // self.ranks.world
        ]
        if flat:
            rewards = np.array([one["reward"] for one in flat], float).reshape(-1, self.how.samples)
            with np.errstate(all="ignore"):
                found = advantages(rewards, self.how.advantage)
            if not np.isfinite(found).all():
                raise DataError(
                    f"grpo.rewards: rewards between {np.nanmin(rewards):g} and {np.nanmax(rewards):g} are too large "
                    "for their mean and deviation. Scale them down with `weight`."
                )
            for one, advantage in zip(flat, found.ravel().tolist(), strict=True):
                one["advantage"] = advantage
        if self.how.needs_log_probabilities or self.measures_kl:
            self.ranks.reached(f"step {step + 1}, log-probabilities")
            self._add_log_probabilities(flat)
        if not self.ranks.first:
            return None, ""
        data = _as_parquet(pa.Table.from_pylist(flat, ROLLOUTS))
        if not self.job.folder.store.create(uri, data):
            # Another start of the workers, which lost its place, wrote first.
            there, problem = self._read(sampling, uri)
            return there or data, problem
        return data, ""

    def _add_log_probabilities(self, rollouts: Sequence[dict[str, Any]]) -> None:
        """Add log-probabilities by the model that samples and by its base to the answers that need them.

        For the loss those of all answers that are trained on; else, to measure the divergence, of the first answer of
        each group, which costs two passes without gradients over one in `samples` of the answers.
        """
        for one in rollouts:
            one["sampled_logp"] = one["base_logp"] = None
        trained = _trained(rollouts, self.how)
        first = [one for one in rollouts if one["sample"] == 0 and self.measures_kl]
        self.objective.eval()
        if self.how.needs_log_probabilities:
            self._add("sampled_logp", trained)
        self._add("sampled_logp", [one for one in first if one["sampled_logp"] is None])
        if others := trained if self.how.kl else first:
            with self.objective.model.disable_adapter():
                self._add("base_logp", others)
        self.objective.train()

    def _add(self, name: str, rollouts: Sequence[dict[str, Any]]) -> None:
        """Add the log-probabilities of the tokens of answers, computed in packed rows by the weights of this moment."""
        placed = _placed(rollouts, self.length)
        batches = self._batches(_packed(rollouts, self.how, self.length, 1.0)) if rollouts else []
        mine = [self.objective.log_probabilities(batch, self.ranks.device).tolist() for batch in batches]
        everyone = [iter([value for batch in one for value in batch]) for one in self.ranks.gather(mine)]
        for row, answers in enumerate(placed):
            values = everyone[row % self.ranks.world]
            for one in answers:
                one[name] = [next(values) for _ in one["ids"]]

    def prompt(self, corpus: int, row: int) -> PromptOfStep:
        """The prompt of a packed row."""
        (table,) = self.prompts[corpus].read([row])
        ids, labels = table["ids"][0].as_py(), table["labels"][0].values.to_numpy(zero_copy_only=False)
        span = last_trained_span(labels)
        assert span is not None  # a packed row has a token to train on
        given, reference = ids[: span[0]], self.text(ids[span[0] : span[1]])
        return PromptOfStep(table["documents"][0].as_py()[0], given, str(self.tokenizer.decode(given)), reference)

    def text(self, ids: Sequence[int]) -> str:
        """An answer's text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def leaves_room(self, prompt: PromptOfStep) -> bool:
        """Whether the longest answer fits in a row after the prompt."""
        return len(prompt.ids) + self.how.max_new_tokens <= self.length

    def autocast(self) -> torch.autocast:
        """The number type in which the model samples."""
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bf16)

    def rewards(self, prompts: Sequence[PromptOfStep], answers: Sequence[Sequence[int]]) -> tuple[Any, Any, Any]:
        """(texts of the answers, their rewards, whether one took too long); see `rewards_of`. answers: their tokens."""
        made = [
            SampledAnswer(one.document, one.text, one.reference, self.text(ids), one.ids, ids)
            for one, ids in zip(prompts, answers, strict=True)
        ]
        # A judge in a folder draws by torch's random numbers, which those of dropout must not depend on.
        with torch.no_grad(), self.autocast(), torch.random.fork_rng():
            return [one.generated for one in made], *rewards_of(self.how, made, self.scores)

    def total(self, rewards: np.ndarray) -> np.ndarray:
        """The reward of each answer; NaN if it lacks one. rewards: float64[answers, rewards], NaN: none."""
        return rewards @ np.array([one.weight for one in self.how.rewards])

    def _sampled(self, sampling: int, prompts: Sequence[PromptOfStep]) -> list[dict[str, Any]]:
        """The answers of all groups of this worker, with rewards; none to prompts that leave no room."""
        wanted = [
            (at, prompt, number)
            for at, prompt in enumerate(prompts)
            if self.leaves_room(prompt)
            for number in range(self.how.samples)
        ]
        answers = self._answers(sampling, [(prompt.document, prompt.ids, number) for _, prompt, number in wanted])
        generated, rewards, slow = self.rewards([prompt for _, prompt, _ in wanted], answers)
        totals = self.total(rewards)
        return [
            {
                "at": at, "document": prompt.document, "sample": number, "prompt": prompt.ids, "ids": answers[one],
                "ended": answers[one][-1] in self.stops, "generated": generated[one],
                "rewards": _without_nan(rewards[one]), "reward": _without_nan(totals[one : one + 1])[0],
                "failed": bool(slow[one]),
            }
            for one, (at, prompt, number) in enumerate(wanted)
        ]  # fmt: skip

    def _answers(self, sampling: int, wanted: Sequence[tuple[str, list[int], int]]) -> list[list[int]]:
        """Tokens of sampled answers. wanted: (document, token ids of the prompt, number of the answer)."""
        if self.how.engine == "vllm":
            self.sampler = self.sampler or VllmSampler(self.config, self.ranks.device)
            return self.sampler.answers(self.objective.model, sampling, wanted, self.stops)
        answers: list[list[int]] = []
        with sampling_mode(self.objective), self.autocast():
            together = max(1, SAMPLED_TOKENS // self.length)
            for start in range(0, len(wanted), together):
                some = wanted[start : start + together]
                keys = [answer_key(self.config.seed, sampling, document, number) for document, _, number in some]
                randoms = [uniforms(key, self.how.max_new_tokens) for key in keys]
                ids = [one for _, one, _ in some]
                answers += sample_answers(self.objective.model, ids, randoms, self.stops, self.pad)
        return answers

    def _is_of_rollouts(self, table: pa.Table) -> bool:
        """Whether a table has values that this class writes."""
        optional = ("sampled_logp", "base_logp")
        if not table.schema.equals(ROLLOUTS) or len(table) % self.how.samples:
            return False
        if any(table[name].null_count for name in ROLLOUTS.names if name not in ("reward", *optional)):
            return False
        lists = {name: table[name].combine_chunks() for name in ("prompt", "ids", "rewards", *optional)}
        if any(one.flatten().null_count for name, one in lists.items() if name != "rewards"):
            return False
        values = [table["reward"], table["advantage"], *(lists[name].flatten() for name in ("rewards", *optional))]
        if not all(np.isfinite(one.drop_null().to_numpy()).all() for one in values):
            return False
        sizes = {name: pc.list_value_length(one).fill_null(-1).to_numpy() for name, one in lists.items()}
        needed = optional[: self.how.needs_log_probabilities + (self.how.kl > 0)]
        scored = table["reward"].is_valid().to_numpy()
        trained = scored & ((table["advantage"].to_numpy() != 0) | (self.how.kl > 0))
        if not (
            (sizes["prompt"] + sizes["ids"] <= self.length).all()
            and (sizes["ids"] <= self.how.max_new_tokens).all()
            and (sizes["rewards"] == len(self.how.rewards)).all()
            and all((sizes[name] == sizes["ids"])[trained].all() for name in needed)
            and all(((sizes[name] == sizes["ids"]) | (sizes[name] < 0)).all() for name in optional)
            and all(
                ((least <= one) & (one <= _MOST_LOGP)).all()
                for name, least in _LEAST_LOGP.items()
                for one in [lists[name].flatten().to_numpy()]
            )
        ):
            return False
        for ids, ended in zip(lists["ids"].to_pylist(), table["ended"].to_pylist(), strict=True):
            if not ids or (ids[-1] in self.stops) != ended or not set(self.stops).isdisjoint(ids[:-1]):
                return False
            if not ended and len(ids) < self.how.max_new_tokens:
                return False
        ids = lists["ids"].to_pylist()
        for name in optional:
            values = lists[name].to_pylist()
            for first in range(0, len(ids), self.how.samples):
                group = slice(first, first + self.how.samples)
                if _largest_sum(ids[group], values[group]) > _MOST_PROBABILITY:
                    return False
        return self._are_sums(lists["rewards"], table["reward"].to_numpy(), table["advantage"].to_numpy())

    def _are_sums(self, rewards: pa.ListArray, reward: np.ndarray, advantage: np.ndarray) -> bool:
        """Whether rewards, their weighted sums and the advantages of groups agree. rewards: one list an answer."""
        each = rewards.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self.how.rewards))
        for use, values in zip(self.how.rewards, each.T, strict=True):
            least, most = _RANGES.get(use.kind, (0.0, 1.0))
            if use.kind in ("judge", "custom"):  # which may have given none
                values = values[~np.isnan(values)]
            if not ((values >= least) & (values <= most)).all():
                return False
        with np.errstate(all="ignore"):  # sums of other values may overflow, and then they differ
            expected = advantages(reward.reshape(-1, self.how.samples), self.how.advantage).ravel()
            # Other machines round sums otherwise.
            return np.allclose(reward, self.total(each), equal_nan=True) and np.allclose(advantage, expected)

    def _measured(self, rollouts: Sequence[Mapping[str, Any]], prompts: int, seconds: float) -> dict[str, Any]:
        rewards = np.array([one["reward"] for one in rollouts], float).reshape(-1, self.how.samples)
        scored = ~np.isnan(rewards)
        missing = int((~scored).sum())
        spread = np.array([row[there].std(ddof=1) if there.sum() > 1 else 0.0
                           for row, there in zip(rewards, scored, strict=True)])  # fmt: skip
        cut, tokens = (np.mean([value(one) for one in rollouts]) for value in (_is_cut, _tokens))
        failed, too_long = sum(one["failed"] for one in rollouts), prompts - len(rewards)
        values = (_mean(rewards), spread.mean(), (spread == 0).sum(), cut, tokens, failed, missing, too_long, seconds)
        found: dict[str, Any] = {
            name: float(value) for name, value in zip(SAMPLE_MEASURES, values, strict=True) if value is not None
        }
        if len(self.how.rewards) > 1:
            means = map(_mean, np.array([one["rewards"] for one in rollouts], float).T)
            found["rewards"] = {name: one for name, one in zip(self.how.names, means, strict=True) if one is not None}
        if self.measures_kl and (gaps := [_gaps(one) for one in rollouts if one["base_logp"] and one["sampled_logp"]]):
            gap = np.concatenate(gaps)
            found["kl"] = float((np.exp(gap) - gap - 1).mean())
        return found


def _raise_first(errors: Sequence[Exception | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _mean(values: np.ndarray) -> float | None:
    """The mean of those that are not NaN; None: there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _without_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(one) else one for one in values.tolist()]


def _largest_sum(ids: Sequence[Sequence[int]], logp: Sequence[Sequence[float] | None]) -> float:
    """The largest sum of the probabilities of different tokens after the same tokens.

    ids: tokens of the answers to one prompt. logp: log-probabilities of these tokens; None: not known.
    """
    found, left = 0.0, [(0, [(one, values) for one, values in zip(ids, logp, strict=True) if values])]
    while left:
        at, answers = left.pop()
        by_token: dict[int, list[tuple[Sequence[int], Sequence[float]]]] = {}
        for one, values in answers:
            if at < len(one):
                by_token.setdefault(one[at], []).append((one, values))
        found = max(found, sum(math.exp(max(values[at] for _, values in some)) for some in by_token.values()))
        left += [(at + 1, some) for some in by_token.values() if len(some) > 1]
    return found


def _gaps(rollout: Mapping[str, Any]) -> np.ndarray:
    """Log ratios of an answer's tokens, base to model, float64[tokens]."""
    return np.array(rollout["base_logp"], float) - np.array(rollout["sampled_logp"], float)


def _of_texts(reward: Any, answers: Sequence[SampledAnswer]) -> list[float]:
    """The rewards of answers by an object of pipelines/rewards.py."""
    asked = [
        [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.generated}] for one in answers
    ]
    found: list[float] = reward.scores(asked)
    return found


def _is_cut(rollout: Mapping[str, Any]) -> bool:
    return not rollout["ended"]


def _tokens(rollout: Mapping[str, Any]) -> int:
    return len(rollout["ids"])


class RewardMeasurement:
    """Measures the rewards of greedy answers to held-out prompts, in place of a Measurement of losses.

    rollouts: of the training. what, sources, rows, tables, seconds: as of Measurement.
    """

    tables: Mapping[str, Any] = {}

    def __init__(self, what: str, sources: Sequence[PackedRows], rows: Sequence[int], rollouts: Rollouts) -> None:
        self.what, self.seconds = what, 0.0
        self.rollouts = copy.copy(rollouts)
        self.rollouts.prompts = sources
        self.held_out = HeldOut(rows, sum(rows) or 1)

    @property
    def loader(self) -> Rollouts:
        """What is closed after the measurement."""
        return self.rollouts

    def measure(self, call: Any, objective: Objective) -> Measured | None:
        """The loss is minus the mean reward; accuracy is the share of answers with a positive one."""
        began, of, ranks = time.perf_counter(), self.rollouts, self.rollouts.ranks
        rows = self.held_out.step(0) if len(self.held_out) else []
        ranks.reached(f"{self.what}, answers")
        prompts = [of.prompt(corpus, row) for corpus, row in rows[ranks.rank :: ranks.world]]
        prompts = [one for one in prompts if of.leaves_room(one)]
        error, rewards = None, np.zeros(0)
        with sampling_mode(objective), of.autocast():
            ids = [one.ids for one in prompts]
            found = complete_prompts(objective.model, ids, of.how.max_new_tokens, of.stops, of.pad, padded=True)
        try:
            rewards = of.total(of.rewards(prompts, found)[1])
            rewards = rewards[~np.isnan(rewards)]
        except (DataError, ConfigError) as raised:
            error = raised
        _raise_first(ranks.gather(error))
        mine = [-rewards.sum(), (rewards > 0).sum(), len(rewards), len(rewards)]
        sums = (sum(column) for column in zip(*ranks.exchange_floats(list(map(float, mine))), strict=True))
        self.seconds = time.perf_counter() - began
        return measured(*sums)
