"""The main job of `raymill prompt`: prompts, examples and models on the items of a data set, compared.

    items      the items, and the examples before each in each variant   -> items, examples
    ask.MODEL  the answers of a model                                    -> answers_of.MODEL
    report     scores with intervals, cost and latency                   -> report.json, report.html, best.yaml

Answers are in the answer store as soon as they come. The same command continues a run that was stopped, and asks
nothing again that has an answer.
"""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.backends import Backends, Connected
from raymill.cluster.asking.money import TokenCounts
from raymill.cluster.asking.requests import ModelRequest, address_class, boundaries, range_of
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.examples.splits import hash64
from raymill.cluster.formats import plural
from raymill.cluster.frame.job import Made, Making, Run, RunJob, digests_of
from raymill.cluster.output import Output, read_slices, table_of, table_slice
from raymill.cluster.output_folder import path_below, refuse_output_in_folder
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.run import RunFolder
from raymill.cluster.secret_values import remember
from raymill.cluster.session import Session
from raymill.cluster.stage import Scratch, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.prompting.choose import Pool
from raymill.pipelines.prompting.compare import compared, ranked_by
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.variants import (
    ANSWERS_SCHEMA,
    EXAMPLES_SCHEMA,
    ITEMS_SCHEMA,
    REQUESTS_SCHEMA,
    Item,
    PromptVariant,
    items_of,
    messages_of,
    refuse_wrong_prompts,
    request_for,
    variants_of,
)

_located = Entry("raymill.training.model_folder.folder:located_with_fingerprint")
# They load scikit-learn, or torch.
_fit_embedding = Entry("raymill.pipelines.prepare.assess.vectors:fit_embedding")
_sentence_model = Entry("raymill.pipelines.prepare.assess.sentence_model:load")

VERSION = "1"
ITEMS, EXAMPLES, BEST = "items", "examples", "best.yaml"
_DIMENSIONS = 128  # of vectors
_RANGE_REQUESTS = 250  # about: progress is shown by ranges of keys
_MOST_RANGES = 64
_NO_EFFECT_ON_RESULT = STORES | dict.fromkeys(("output", "answers", "budget", "execution", "models"), True)
_NO_EFFECT_ON_MODEL = {"endpoint", "key_env", "prices", "concurrency", "requests_per_minute", "tokens_per_minute"} | {
    "timeout_s", "tries", "give_up_s", "batch", "gpus", "path",
}  # fmt: skip
_NO_COLUMNS = pa.schema([])


class PromptRun(Run):
    """A finished comparison."""

    @property
    def summary(self) -> str:
        lines = [f"{plural(self.report['items'], 'item')}, score {self.report['score']}; best first:"]
        head, rows = self.table
        wide = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
        for row in (head, *rows):
            lines.append("  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip())
        return "\n".join(lines)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The variants, the best first."""
        return table_of_variants(self.report)

    @property
    def _results(self) -> dict[str, str]:
        return super()._results | {"best": paths.join(self.uri, BEST)}


def table_of_variants(report: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """(names of columns, rows of cells) of the variants of a report."""
    rows = [
        (
            one["model"], one["prompt"], str(one["examples"]), one["by"] or "-",
            _with_interval(one["score"], one["interval"]), _with_interval(one["behind"], one["behind_interval"]),
            "-" if one["cost"] is None else f"{one['cost']:.4g}", f"{one['seconds']:.2f}",
        )
        for one in report["variants"]
    ]  # fmt: skip
    return ("model", "prompt", "examples", "by", "score (95%)", "behind the best (95%)", "cost", "seconds"), rows


def shown_examples(variant: Mapping[str, Any]) -> str:
    """How a variant's examples are chosen, in words."""
    return f"{plural(variant['examples'], 'example')}, {variant['by']}" if variant["examples"] else "no examples"


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


class PromptJob(RunJob[PromptConfig]):
    """Compare prompts, examples in them and models on the items of a data set.

    A second run continues where the first stopped, and asks nothing again that has an answer. Report:
    OUTPUT/report.html
    """

    kind, run_type = "prompt", PromptRun

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """The models; those of folders with their place, and the fingerprint of their files as their revision."""

        def located(given: ModelSettings) -> ModelSettings:
            if given.path is None:
                return given
            path, found = _located.load()(self.store, given.path)
            return given.model_copy(update={"path": path, "revision": found, "name": found[:16]})

        return {name: located(one) for name, one in self.config.models.items()}

    @cached_property
    def variants(self) -> list[PromptVariant]:
        """The variants, in the order of the config."""
        return variants_of(self.config)

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT))
        return plain | {
            "models": {
                name: one.model_dump(mode="json", exclude=_NO_EFFECT_ON_MODEL)
                | ({"at": address_class(one.endpoint)} if one.endpoint else {})
                for name, one in self.models.items()
            }
        }

    def inputs(self) -> str | None:
        return RunFolder(self.store, self.config.data).require(
            "prepare", "Point `data` at the output of `raymill prepare`."
        )["digest"]

    def input_changes(self) -> str:
        return f"the data set {self.config.data} was made again"

    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.key_env for one in self.config.models.values() if one.key_env))

    def require_extras(self, *, computes: bool = True) -> None:
        require_extra("train", "raymill prompt")

    def check(self, session: Session, replace: bool) -> None:
        self.check_config()
        for name, model in self.config.models.items():
            self._secret(name, model)

    def check_config(self) -> None:
        """Verify the prompts, the models, the data set and the output.

        Raises:
            UserError: one cannot be used.
        """
        refuse_wrong_prompts(self.config.prompts)
        read = {"data": self.config.data} | {f"models.{name}": one.path for name, one in self.config.models.items()}
        for named, path in read.items():
            if path is None:
                continue
            refuse_output_in_folder("output", self.root, named, path, (f"{ITEMS}/part.parquet",), "prompt")
            if path_below(path, self.root) is not None:
                raise ConfigError(
                    f"output: {self.root} contains {named}, and a run may not write above what it reads. Choose a "
                    "folder that is not above it."
                )
        _ = self.models, self.inputs()

    def _secret(self, name: str, model: ModelSettings) -> str:
        if model.key_env is None:
            return ""
        if not (value := os.environ.get(model.key_env)):
            seen = f"the environment variable {model.key_env} is not set"
            at, fix = f"models.{name}.key_env", f"Set {model.key_env}."
            raise ConfigError.about(Problem.of(at, seen, "the endpoint's key", fix))
        remember(value)
        return value

    def _answers(self, name: str) -> Answers:
        """The answer store of a model. Its tries have the run's name, the model's, and a hash of the output."""
        mark = hashlib.blake2b(self.root.encode(), digest_size=4).hexdigest()
        return Answers(self.store, self.config.answer_store, f"{self.config.name}-{name}-{mark}")

    def make(self, making: Making) -> Made:
        config = self.config
        made_from = fingerprint([VERSION, self.settings(), self.inputs()])
        requests = len(self.variants) * (config.items or 100_000) // len(self.models)
        count = max(1, min(_MOST_RANGES, requests // _RANGE_REQUESTS))
        firsts = tuple(boundaries(count))
        draft = Draft(config, self.models, firsts)
        outputs = (
            Output(ITEMS, ITEMS_SCHEMA),
            Output(EXAMPLES, EXAMPLES_SCHEMA),
            *(Output(f"_work/requests.{name}", _NO_COLUMNS) for name in self.models),
        )
        artifacts = dict(making.run(Stage("items", outputs, (0,), draft, made_from, self.store, memory=2 * GIB)))
        for name, model in self.models.items():
            backends = Backends(
                model, config.sampling, config.budget, self._answers(name),
                f"raymill-asking-{name}-{uuid.uuid4().hex[:8]}", self._secret(name, config.models[name]),
            )  # fmt: skip
            uris = tuple(artifacts[f"_work/requests.{name}"].file_uris)
            ask = AskModel(name, backends, uris, firsts, config.sampling.max_tokens, config.execution.max_unanswered)
            artifacts |= making.run(
                Stage(
                    f"ask.{name}",
                    (Output(f"answers_of.{name}", ANSWERS_SCHEMA),),
                    range(count),
                    ask,
                    f"{made_from}/{name}",
                    self.store,
                    memory=2 * GIB,
                    setup=backends.setup,
                    cpus=backends.cpus,
                    gpus=backends.gpus,
                    concurrency=backends.workers,
                )
            )
        for name in self.models:
            self._answers(name).close()
        report = self._report(artifacts)
        self.store.write_bytes(paths.join(self.root, BEST), self._best(report, artifacts).encode())
        results = {name: one for name, one in artifacts.items() if not name.startswith("_")}
        return Made(report, digests_of(results), {"finished": report["finished"]})

    def page(self, made: Made) -> str:
        report = made.report
        names, rows = table_of_variants(report)
        scores = dict.fromkeys(name for one in report["variants"] for name in one["scores"])
        tables = {
            "variants": [dict(zip(names, row, strict=True)) for row in rows],
            "all_scores": [
                dict(zip(names[:4], row, strict=False)) | {name: one["scores"].get(name, "") for name in scores}
                for row, one in zip(rows, report["variants"], strict=True)
            ],
            "answers": [
                dict(zip(names[:4], row, strict=False))
                | {name: one[name] for name in ("answered", "truncated", "input_tokens", "output_tokens")}
                for row, one in zip(rows, report["variants"], strict=True)
            ],
        }
        facts = {"warnings": report["warnings"], "items": report["items"], **tables}
        return super().page(replace(made, report=facts))

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        config, items = self.config, artifacts[ITEMS].table().to_pylist()
        answers: list[list[str | None]] = [[None] * len(items) for _ in self.variants]
        seconds: list[list[float]] = [[] for _ in self.variants]
        tokens, truncated = [TokenCounts() for _ in self.variants], Counter[int]()
        lacking = dict[int, str]()  # variant -> why an item has no answer
        for name in self.models:
            for table in artifacts[f"answers_of.{name}"].tables():
                for row in table.to_pylist():
                    variant = row["variant"]
                    tokens[variant] += TokenCounts(**row["tokens"])
                    seconds[variant].append(row["seconds"])
                    truncated[variant] += row["finish"] == "length"
                    if row["content"] is not None:
                        answers[variant][row["item"]] = row["content"]
                    else:
                        lacking.setdefault(variant, row["reason"] or "the answer has no text")
        found = compared(config.answer, [one["answer"] for one in items], answers)
        rows = []
        for number, (variant, one) in enumerate(zip(self.variants, found, strict=True)):
            prices = config.models[variant.model].request_prices
            rows.append(
                vars(variant)
                | {
                    "score": one.score,
                    "interval": one.interval,
                    "behind": one.behind,
                    "behind_interval": one.behind_interval,
                    "answered": sum(answer is not None for answer in answers[number]),
                    "truncated": truncated[number],
                    "cost": None if prices is None else round(tokens[number].cost(prices), 9),
                    "seconds": float(np.median(seconds[number])) if seconds[number] else 0.0,
                    "input_tokens": tokens[number].input,
                    "output_tokens": tokens[number].output,
                    "scores": one.scores,
                }
            )
        warnings = []
        for variant, reason in lacking.items():
            row = rows[variant]
            without = f"{plural(len(items) - row['answered'], 'item')} without an answer, which score 0"
            warnings.append(
                f"{row['model']}, prompt {row['prompt']}, {shown_examples(row)}: {without}; the first: "
                f"{reason.rstrip('.')}."
            )
        return {
            "name": config.name,
            "items": len(items),
            "split": config.split,
            "score": ranked_by(config.answer),
            "variants": sorted(rows, key=lambda one: -one["score"]),
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _best(self, report: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> str:
        """The best variant as settings of another run of this kind."""
        best = report["variants"][0]
        prompt = self.config.prompts[best["prompt"]].model_dump(mode="json", exclude_defaults=True)
        prompt |= {"examples": best["examples"]} | ({"by": best["by"]} if best["by"] else {})
        about = (
            f"# The best of {plural(len(report['variants']), 'variant')} on {report['split']} of {self.config.data}\n"
        )
        model = self.config.models[best["model"]].model_dump(mode="json", exclude_defaults=True)
        shown = {"models": {best["model"]: model}, "prompts": {best["prompt"]: prompt}}
        examples = self.config.examples.model_dump(mode="json", exclude={"number", "by"}, exclude_defaults=True)
        sampling = self.config.sampling.model_dump(mode="json", exclude_unset=True)
        shown |= {name: one for name, one in (("examples", examples), ("sampling", sampling)) if one}
        return about + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)

    def unit_count(self) -> int:
        return 1 + _MOST_RANGES * len(self.config.models)

    def machines(self, seconds: float | None) -> Machines:
        gpus = max(one.worker_gpus for one in self.config.models.values())
        return Machines("gpu" if gpus else "cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, gpus=gpus, largest_task=2 * GIB)


@dataclass(frozen=True)
class Draft:
    """The work of the stage `items`. firsts: the first key of each range of requests."""

    config: PromptConfig
    models: Mapping[str, ModelSettings]
    firsts: tuple[str, ...]

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `items`, `pool`, `requests`, and `fewer`, requests with fewer examples than wanted."""
        config, store = self.config, self.config.store
        items = items_of(store, config.data, config.split, config.sampling.seed, config.items)
        scratch.write(ITEMS, pa.Table.from_pylist([vars(one) for one in items], ITEMS_SCHEMA))
        variants = variants_of(config)
        shown = examples_of(config, items) if any(one.examples for one in variants) else None
        by_model: dict[str, list[list[dict[str, Any]]]] = {name: [[] for _ in self.firsts] for name in self.models}
        chosen, fewer = [], 0
        for number, variant in enumerate(variants):
            for at, item in enumerate(items):
                examples = shown(variant, at) if shown and variant.examples else []
                fewer += len(examples) < variant.examples
                messages = messages_of(config.prompts[variant.prompt], item.question, examples)
                one = request_for(self.models[variant.model], config.sampling, messages)
                row = {"variant": number, "item": at, "key": one.key, "body": one.body}
                by_model[variant.model][range_of(one.key, self.firsts)].append(row)
                chosen.append({"variant": number, "item": item.id, "examples": [one.id for one in examples]})
        scratch.write(EXAMPLES, pa.Table.from_pylist(chosen, EXAMPLES_SCHEMA))
        for name, ranges in by_model.items():
            tables = (pa.Table.from_pylist(rows, REQUESTS_SCHEMA) if rows else None for rows in ranges)
            scratch.write_slices(f"_work/requests.{name}", [b"" if one is None else table_slice(one) for one in tables])
        return {"items": len(items), "requests": len(chosen), "fewer": fewer}


def examples_of(config: PromptConfig, items: Sequence[Item]) -> Any:
    """`examples(variant, number of the item)`: the examples before an item, in the order in which they stand."""
    examples, seed = config.examples, config.sampling.seed
    records = items_of(config.store, config.data, "train", seed, examples.pool)
    records.sort(key=lambda one: hash64(str(seed).encode(), one.id.encode()))
    questions = [one.question for one in records]
    if examples.model is None:
        embedder = _fit_embedding.load()(questions, _DIMENSIONS)
    else:
        embedder = _sentence_model.load()(config.store, examples.model)
    pool = Pool(
        [one.id for one in records], questions, [one.answer for one in records], embedder.embed(questions), seed,
        examples.near, examples.balanced,
    )  # fmt: skip
    vectors = embedder.embed([one.question for one in items])

    def shown(variant: PromptVariant, at: int) -> list[Item]:
        item = items[at]
        found = pool.examples(variant.by, variant.examples, item.id, item.question, vectors[at])
        return [records[one] for one in found]

    return shown


@dataclass(frozen=True)
class AskModel:
    """The work of a stage `ask.MODEL`.

    name: of the model. uris: the sliced files with its requests. firsts: the first key of each range of these.
    """

    name: str
    backends: Backends
    uris: tuple[str, ...]
    firsts: tuple[str, ...]
    max_tokens: int
    most_unanswered: float

    def __call__(self, unit: int, scratch: Scratch, backend: Connected) -> Counters:
        """Counters: `asked`, different requests."""
        store: Store = self.backends.answers.store
        tables = [one for one in read_slices(store, self.uris, unit, table_of) if one is not None]
        rows = pa.concat_tables([REQUESTS_SCHEMA.empty_table(), *tables]).to_pylist()
        requests = {row["key"]: ModelRequest(row["key"], row["body"]) for row in rows}
        last = self.firsts[unit + 1] if unit + 1 < len(self.firsts) else ""
        keys = AnswerRange(self.firsts[unit], last)
        found = self.backends.ask(backend, requests, keys, self.max_tokens, self.most_unanswered) if rows else {}
        made = []
        for row in rows:
            reply = found[row["key"]].reply
            made.append(
                {
                    "variant": row["variant"],
                    "item": row["item"],
                    "key": row["key"],
                    "outcome": reply.outcome,
                    "reason": reply.reason or reply.refusal or None,
                    "finish": reply.finish,
                    "content": reply.content if reply.outcome == "answered" and not reply.refusal else None,
                    "tokens": vars(reply.tokens),
                    "seconds": reply.seconds,
                }
            )
        if made:
            scratch.write(f"answers_of.{self.name}", pa.Table.from_pylist(made, ANSWERS_SCHEMA))
        return {"asked": len(requests)}
