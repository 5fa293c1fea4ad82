"""A finished training as an object: its losses, its exported folders, and answers of its model."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import count, duration
from raymill.cluster.frame.job import Run
from raymill.cluster.run import RunFolder
from raymill.cluster.session import in_worker, opened
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.records.finished import EXPORT
from raymill.training.records.job import STEP_LOG
from raymill.training.records.schema import read_steps
from raymill.training.report.text import Fit, exported_validation, loss_words, summary_text

_answer_prompts = Entry("raymill.training.evaluation.answers:answer_prompts")

# Columns of `TrainRun.losses`: those of steps.jsonl, without what only the report needs.
_NUMBERS = ("loss", "aux_loss", "grad_norm", "learning_rate", "tokens", "seconds", "tokens_per_s", "mfu", "memory_gib")
_LOSSES = pa.schema(
    [
        ("run", pa.string()),
        ("step", pa.int64()),
        *((name, pa.float64()) for name in (*_NUMBERS, "validation_loss", "validation_accuracy")),
    ]
)


class TrainRun(Run):
    """A finished training."""

    @classmethod
    def opened(cls, store: Store, uri: str, manifest: dict[str, Any]) -> Self:
        found = super().opened(store, uri, manifest)
        if "export" in manifest:
            return found
        phases = [RunFolder(store, paths.join(uri, name)) for name in manifest["artifacts"]]
        return dataclasses.replace(
            found, parts=tuple(cls.opened(store, one.uri, one.require("train")) for one in phases)
        )

    @property
    def export(self) -> dict[str, str]:
        """URI of each exported folder (`adapter`, `merged`, `full`, ...), which transformers and peft load.

        Of a training in phases, those of the last phase.
        """
        if self.parts:
            last = self.parts[-1]
            assert isinstance(last, TrainRun)
            return last.export
        folders = self.manifest["export"]["folders"]
        return {name: paths.join(self.uri, EXPORT, folder) for name, folder in folders.items()}

    @property
    def losses(self) -> pa.Table:
        """A row for each logged step, in order; of a training in phases, those of all phases.

        Columns: run, step, loss, learning_rate, tokens, seconds and others of steps.jsonl; validation_loss and
        validation_accuracy, null where no validation followed the step.
        """
        rows = [row for run in self.parts or (self,) for row in _rows_of(run)]
        return pa.Table.from_pylist(rows, _LOSSES)

    def generate(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]],
        *,
        max_new_tokens: int = 128,
        chat: bool | None = None,
    ) -> list[str]:
        """Answers of the exported model, by greedy decoding, in the prompts' order.

        The model is loaded in a worker of Ray for this call: on a GPU if Ray has one. Pass all prompts at once; within
        `raymill.session()` Ray is started once for several calls.

        Args:
            prompts: texts, or conversations of {role, content} that end with the user's message.
            max_new_tokens: the most tokens of an answer.
            chat: whether a text is put into the tokenizer's chat template as the user's message; None: if the model was
                trained with it.

        Raises:
            ConfigError: the training exported no folder that is loaded alone, as with `export: {merged: false}`.
        """
        folder = next((self.export[name] for name in ("merged", "full") if name in self.export), None)
        if folder is None:
            raise ConfigError(
                f"{self.uri}: exported {' and '.join(self.export) or 'nothing'}, and generating needs a folder that is "
                "loaded alone. Train with `export: {merged: true}`, or load the adapter with peft."
            )
        if chat is None:
            # The card of the exported folder has the chat template if the model was trained with it.
            chat = any("apply_chat_template" in one["code"] for one in self.report["fits"][-1]["folders"])
        with opened() as session:
            gpus = int(session.own_resources(gpus=True)["GPU"] > 0) if session.embedded else 0
            return in_worker(session, _answer_prompts, self.store, folder, prompts, max_new_tokens, chat, gpus=gpus)

    @property
    def summary(self) -> str:
        return summary_text(self.report)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Steps, validation loss before and after, and duration of each training."""
        head = ("training", "method", "steps", "validation loss before", "after", "time")
        return head, [_row_of_fit(fit) for fit in self.report["fits"]]

    @property
    def _results(self) -> dict[str, str]:
        return self.export


def _rows_of(run: Run) -> Iterator[dict[str, Any]]:
    for step in read_steps(run.store, paths.join(run.uri, STEP_LOG)):
        validation: Mapping[str, Any] = step.get("validation", {})
        measured = {f"validation_{name}": validation.get(name) for name in ("loss", "accuracy")}
        yield {"run": run.name, **step, **measured}


def _row_of_fit(fit: Fit) -> tuple[str, ...]:
    best, totals = exported_validation(fit), fit["totals"]
    losses = (loss_words(fit["validation"][0]["loss"]), loss_words(best["loss"])) if best else ("", "")
    return (fit["name"], fit["recipe"]["method"], count(totals["steps"]), *losses, duration(totals["seconds"]))
