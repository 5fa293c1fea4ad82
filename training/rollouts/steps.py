"""The rollouts of objective grpo: answers that the model samples for the prompts of a step, with rewards.

    prompts      a row of the packed corpus each, in the order that every training has; its answer is the reference
    sampling     by the worker that has the prompt, at temperature 1, with random numbers that are a function of the
                 seed, the step, the document and the number of the answer
    rewards      scores against the reference, and functions of the user, which run in a child process
    advantages   of each answer in its group (objectives.py)
    rows         answers with an advantage that is not zero, after their prompts, packed; each token weighs as the loss
                 is defined. They are the rows of the step, and the rest of the step is as in any training.

The rollouts of a step are committed to OUTPUT/rollouts before the update. A training that continues reads those of the
steps that it repeats, so that they are not sampled again, and their update is the same.

There is one update for each set of rollouts, so the policy that is trained is the one that sampled: the ratio of both
is 1, nothing is clipped, and the gradient is a weighted cross entropy.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast

from raymill.cluster.artifact import open_parquet
from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch, RowsOfSteps, collate
from raymill.training.data.order import HeldOut
from raymill.training.data.packed import PACKED, PackedRows
from raymill.training.evaluation.generate import complete_prompts, last_trained_span, stop_ids
from raymill.training.fit.ranks import Ranks
from raymill.training.models.objective import Objective
from raymill.training.objectives import SAMPLE_MEASURES, Grpo
from raymill.training.pack.best_fit import best_fit
from raymill.training.records.job import Job
from raymill.training.records.schema import Measured, measured
from raymill.training.rollouts.rewards import advantages, rewards_of
from raymill.training.rollouts.sampling import sample_answers, sampling_mode, uniforms
from raymill.training.tokenizer.load_tokenizer import pad_id

log = logging.getLogger(__name__)

_BATCH_TOKENS = 32_768  # of a batch of answers that are sampled together, with their prompts
ROLLOUTS = pa.schema(
    [
        ("document", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),  # of the answer, with the token that ends it
        ("ended", pa.bool_()),  # false: it was cut
        ("generated", pa.string()),
        ("reward", pa.float64()),
        ("failed", pa.bool_()),  # its custom rewards took too long, and count as 0
        ("advantage", pa.float64()),
    ]
)


@dataclass(frozen=True)
class PromptOfStep:
    """A prompt. ids: its tokens. reference: text of the answer in the corpus."""

    document: str
    ids: list[int]
    reference: str


def rows_of(rollouts: pa.Table, how: Grpo, length: int) -> pa.Table:
    """Rows of schema PACKED with the answers whose advantage is not zero, in an order that their tokens decide.

    The loss of a step is the weighted sum of the tokens' losses divided by the number of label tokens in these rows.
    So a token's weight is its answer's advantage, times what `how.mean` asks for, times that number.
    """
    every = rollouts.to_pylist()
    kept = [one for one in every if one["advantage"] and one["ids"]]
    labels = sum(len(one["ids"]) for one in kept)
    whole = {
        "tokens": sum(len(one["ids"]) for one in every),
        "answers": len(every),
        "length": len(every) * how.max_new_tokens,
    }[how.mean]
    sizes = np.array([len(one["prompt"]) + len(one["ids"]) for one in kept], np.int64)
    placed, count = best_fit(sizes, length) if len(kept) else (sizes, 0)
    rows: list[dict[str, Any]] = [
        {"ids": [], "labels": [], "lengths": [], "documents": [], "label": None, "weights": []} for _ in range(count)
    ]
    for one, at in zip(kept, placed.tolist(), strict=True):
        row, answer = rows[at], one["ids"]
        weight = one["advantage"] * labels / whole / (len(answer) if how.mean == "answers" else 1)
        row["ids"] += one["prompt"] + answer
        row["labels"] += [False] * len(one["prompt"]) + [True] * len(answer)
        row["weights"] += [1.0] * len(one["prompt"]) + [weight] * len(answer)
        row["lengths"].append(len(one["prompt"]) + len(answer))
        row["documents"].append(f"{one['document']}#{one['sample']}")
    return pa.Table.from_pylist(rows, PACKED)


def _as_parquet(rollouts: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rollouts, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


class Rollouts:
    """The micro-batches of each step, in place of a Loader of packed rows. All workers call it together.

    Args:
        order: the prompts of each step. prompts: packed rows of each corpus, one prompt a row.

    measures: of the last step, by the names of SAMPLE_MEASURES. waited_s: always 0, as nothing is prefetched.
    """

    mismatched = False
    documents_per_row = 4.0

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        ranks: Ranks,
        objective: Objective,
        tokenizer: PreTrainedTokenizerFast,
        order: RowsOfSteps,
        prompts: Sequence[PackedRows],
        micro_rows: int,
    ) -> None:
        self.job, self.config, self.ranks, self.objective = job, config, ranks, objective
        self.tokenizer, self.order, self.prompts = tokenizer, order, prompts
        self.micro_rows, self.length = micro_rows, config.sequence_length
        self.stops, self.pad = stop_ids(tokenizer), pad_id(tokenizer)
        self.bounds = prompts[0].bounds
        self.measures: dict[str, float] = {}
        self.waited_s = 0.0

    def close(self) -> None:
        """Close the files of prompts."""
        for rows in self.prompts:
            rows.close()

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step, counted from 0, equally many on each worker."""
        began = time.perf_counter()
        uri = paths.join(self.job.folder.uri, "rollouts", f"step-{step + 1:08d}.parquet")
        data, problem = self.ranks.from_first(self._read(step, uri) if self.ranks.first else (None, ""))
        if data is None and not problem:
            data, problem = self.ranks.from_first(self._make(step, uri))
        if problem or data is None:
            raise DataError(
                f"{uri}: was changed after it was written{problem}. Delete it and run the same command again."
            )
        rollouts = pq.read_table(pa.BufferReader(data))
        self.measures = self._measured(rollouts, time.perf_counter() - began)
        rows = rows_of(rollouts, self.config.grpo, self.length)
        self.bounds.refuse_wrong(rows, uri)
        own = [rows.slice(at, 1) for at in range(self.ranks.rank, len(rows), self.ranks.world)]
        count = -(-len(rows) // self.ranks.world)
        return [
            collate(own[at : at + self.micro_rows], self.micro_rows, self.length, self.pad, self.documents_per_row)
            for at in range(0, max(count, 1), self.micro_rows)
        ]

    def _read(self, step: int, uri: str) -> tuple[bytes | None, str]:
        """(content of the file of a step, or None, and what is wrong with it), as the first worker sees it.

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
                if parquet.metadata.num_rows > len(self.order.step(step)) * self.config.grpo.samples:
                    return None, " (it has more answers than the step)"
                table = parquet.read()
        except (DataError, pa.ArrowException) as error:
            return None, f" ({error!s:.300})"
        return (_as_parquet(table), "") if self._is_of_rollouts(table) else (None, " (it has other values)")

    def _make(self, step: int, uri: str) -> tuple[bytes | None, str]:
        """Sample and commit the rollouts of a step. Returns what `_read` does, on the first worker."""
        rows = self.order.step(step)
        own = rows[self.ranks.rank :: self.ranks.world]
        prompts = [self._prompt(corpus, row) for corpus, row in own]
        self.ranks.reached(f"step {step + 1}, sampling answers")
        problem, mine = "", list[dict[str, Any]]()
        try:
            mine = self._sampled(step, prompts)
        except DataError as error:  # of a custom reward; the other workers would wait for this one
            problem = str(error)
        self.ranks.reached(f"step {step + 1}, exchanging answers")
        everyone = self.ranks.gather((problem, mine))
        if problem := next((one for one, _ in everyone if one), ""):
            raise DataError(problem)
        if not self.ranks.first:
            return None, ""
        # In the order of the step's prompts, however they are divided among workers.
        groups = [
            [one for one in everyone[at % self.ranks.world][1] if one["at"] == at // self.ranks.world]
            for at in range(len(rows))
        ]
        rewards = np.array([[one["reward"] for one in group] for group in groups if group], np.float64)
        found = advantages(rewards, self.config.grpo.advantage) if len(rewards) else rewards
        flat = [one for group in groups for one in group]
        for one, advantage in zip(flat, found.ravel().tolist(), strict=True):
            one["advantage"] = advantage
        data = _as_parquet(pa.Table.from_pylist(flat, ROLLOUTS))
        if not self.job.folder.store.create(uri, data):
            # Another start of the workers, which lost its place, wrote first.
            there, problem = self._read(step, uri)
            return there or data, problem
        return data, ""

    def _prompt(self, corpus: int, row: int) -> PromptOfStep:
        (table,) = self.prompts[corpus].read([row])
        ids, labels = table["ids"][0].as_py(), table["labels"][0].values.to_numpy(zero_copy_only=False)
        span = last_trained_span(labels)
        assert span is not None  # a packed row has a token to train on
        return PromptOfStep(table["documents"][0].as_py()[0], ids[: span[0]], self._text(ids[span[0] : span[1]]))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _sampled(self, step: int, prompts: Sequence[PromptOfStep]) -> list[dict[str, Any]]:
        """The answers of all groups of this worker, with rewards."""
        how = self.config.grpo
        found: list[dict[str, Any]] = []
        # A prompt without room for an answer has none.
        fitting = [(at, one) for at, one in enumerate(prompts) if len(one.ids) + how.max_new_tokens <= self.length]
        for at, prompt in fitting:
            about = {"at": at, "document": prompt.document, "prompt": prompt.ids}
            found += [about | {"sample": number} for number in range(how.samples)]
        references = dict(fitting)
        with sampling_mode(self.objective), self._autocast():
            together = max(1, _BATCH_TOKENS // self.length)
            for start in range(0, len(found), together):
                some = found[start : start + together]
                randoms = [
                    uniforms(self.config.seed, step, one["document"], one["sample"], how.max_new_tokens) for one in some
                ]
                ids = sample_answers(
                    self.objective.model, [one["prompt"] for one in some], randoms, self.stops, self.pad
                )
                for one, answer in zip(some, ids, strict=True):
                    one["ids"], one["ended"] = answer, answer[-1] in self.stops
                    one["generated"] = self._text(answer)
        answers = [
            {
                "document": one["document"],
                "prompt": self.tokenizer.decode(one["prompt"]),
                "reference": references[one["at"]].reference,
                "generated": one["generated"],
            }
            for one in found
        ]
        for one, (reward, failed) in zip(found, rewards_of(how, ".", answers), strict=True):
            one["reward"], one["failed"] = reward, failed
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _is_of_rollouts(self, table: pa.Table) -> bool:
        """Whether a table has values that this class writes."""
        if not table.schema.equals(ROLLOUTS) or any(column.null_count for column in table):
            return False
        lists = [table[name].combine_chunks() for name in ("prompt", "ids")]
        if any(one.flatten().null_count for one in lists):
            return False
        values = [table[name].to_numpy() for name in ("reward", "advantage")]
        sizes = sum(pc.list_value_length(one).to_numpy() for one in lists)
        return bool(np.isfinite(values).all() and (sizes <= self.length).all())

    def _measured(self, rollouts: pa.Table, seconds: float) -> dict[str, float]:
        samples = self.config.grpo.samples
        if not len(rollouts) or len(rollouts) % samples:
            return {}
        rewards = rollouts["reward"].to_numpy().reshape(-1, samples)
        spread = rewards.std(1, ddof=1)
        ended, failed = (rollouts[name].to_numpy() for name in ("ended", "failed"))
        tokens = pc.list_value_length(rollouts["ids"]).to_numpy()
        means = (rewards.mean(), spread.mean(), (spread == 0).sum(), (~ended).mean(), tokens.mean(), failed.sum())
        values = (*means, seconds)
        return {name: float(value) for name, value in zip(SAMPLE_MEASURES, values, strict=True)}


class RewardMeasurement:
    """Measures the rewards of greedy answers to held-out prompts, in place of a Measurement of losses.

    rollouts: of the training. what, sources, rows: as of Measurement. seconds: duration of the last measurement.
    """

    def __init__(self, what: str, sources: Sequence[PackedRows], rows: Sequence[int], rollouts: Rollouts) -> None:
        self.what, self.rollouts, self.seconds = what, replace_prompts(rollouts, sources), 0.0
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
        prompts = [of._prompt(corpus, row) for corpus, row in rows[ranks.rank :: ranks.world]]
        how = of.config.grpo
        prompts = [one for one in prompts if len(one.ids) + how.max_new_tokens <= of.length]
        problem, rewards = "", list[tuple[float, bool]]()
        with sampling_mode(objective), of._autocast():
            ids = [one.ids for one in prompts]
            found = complete_prompts(objective.model, ids, how.max_new_tokens, of.stops, of.pad, padded=True)
        answers = [
            {
                "document": one.document,
                "prompt": of.tokenizer.decode(one.ids),
                "reference": one.reference,
                "generated": of._text(answer),
            }
            for one, answer in zip(prompts, found, strict=True)
        ]
        try:
            rewards = rewards_of(how, ".", answers)
        except DataError as error:
            problem = str(error)
        if problem := next((one for one in ranks.gather(problem) if one), ""):
            raise DataError(problem)
        mine = [-sum(one for one, _ in rewards), sum(one > 0 for one, _ in rewards), len(rewards), len(rewards)]
        sums = (sum(column) for column in zip(*ranks.exchange_floats(mine), strict=True))
        self.seconds = time.perf_counter() - began
        return measured(*sums)


def replace_prompts(rollouts: Rollouts, sources: Sequence[PackedRows]) -> Rollouts:
    """The same for other prompts."""
    return Rollouts(
        rollouts.job, rollouts.config, rollouts.ranks, rollouts.objective, rollouts.tokenizer, rollouts.order, sources,
        rollouts.micro_rows,
    )  # fmt: skip
