"""The main job of `raymill prompt`: prompts, examples and models on the items of a data set, compared.

    items      the items, and the examples before each in each variant   -> items, examples
    ask.MODEL  the answers of a model                                    -> answers_of.MODEL
    report     scores with intervals, cost and latency                   -> report.json, report.html, best.yaml

Answers are in the answer store as soon as they come. The same command continues a run that was stopped, and asks
nothing again that has an answer.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.asking.backends import located
from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.money import TokenCounts
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.asking.vllm_server import vllm_program
from raymill.cluster.entry import require_extra
from raymill.cluster.formats import money, plural, table_lines
from raymill.cluster.frame.job import Made, Making, Run, RunJob, digests_of
from raymill.cluster.output import changed_run
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.report.sections import Tile
from raymill.cluster.run import RunFolder
from raymill.cluster.secret_values import shortened
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.prompting.asking import MOST_RANGES, ask_variants, refuse_unusable
from raymill.pipelines.prompting.compare import compared, ranked_by
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.stages import EXAMPLES, ITEMS
from raymill.pipelines.prompting.variants import Item, PromptVariant, variants_of

VERSION = "3"
BEST = "best.yaml"
_NO_EFFECT_ON_RESULT = STORES | dict.fromkeys(("output", "answers", "budget", "execution", "models"), True)
_LARGEST = 1 << 31  # of tokens and seconds of an answer


_PAGE_NOTES = {
    "variants": "The best first. Intervals are bootstraps over items, those of differences paired. Seconds: median "
    "of an answer.",
    "all_scores": "Of the items with an answer. `answered`: fraction of the answers that are one of the labels.",
    "answers": "Items with an answer, answers that were truncated at `sampling.max_tokens`, and tokens of all items.",
}


class PromptRun(Run):
    """A finished comparison."""

    @property
    def summary(self) -> str:
        head, rows = self.table
        first = f"{plural(self.report['items'], 'item')}, score {self.report['score']}; best first:"
        return "\n".join([first, *table_lines([head, *rows])])

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
            "-" if one["cost"] is None else money(one['cost']), f"{one['seconds']:.2f}",
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
    page_notes = _PAGE_NOTES

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """The models; those of folders with their place, and the fingerprint of their files as their revision."""
        return {name: located(self.store, one) for name, one in self.config.models.items()}

    @cached_property
    def variants(self) -> list[PromptVariant]:
        """The variants, in the order of the config."""
        return variants_of(self.config)

    @cached_property
    def embedding_run(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [*self.config.embedding_models.values()])

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))
        return plain | {"models": {name: one.decisive for name, one in self.models.items()}}

    def inputs(self) -> str | None:
        return RunFolder(self.store, self.config.data).require(
            "prepare", "Point `data` at the output of `raymill prepare`."
        )["digest"]

    def input_changes(self) -> str:
        return f"the data set {self.config.data} was made again"

    def variables(self) -> tuple[str, ...]:
        asked = (*self.config.models.values(), *self.config.embedding_models.values())
        return tuple(dict.fromkeys(one.key_env for one in asked if one.key_env))

    def require_extras(self, *, computes: bool = True) -> None:
        require_extra("train", "raymill prompt")
        if computes and any(one.engine == "vllm" for one in self.config.models.values()):
            vllm_program("models.engine")
        if computes:
            require_models(self.config.embedding_models)

    def check(self, session: Session, replace: bool) -> None:
        self.check_config()
        for name, model in self.config.models.items():
            model.secret(f"models.{name}")
        check_models(self.config.embedding_models, self.store)

    def check_config(self) -> None:
        """Verify the prompts, the models, the data set and the output.

        Raises:
            UserError: one cannot be used.
        """
        _ = self.models, self.inputs()
        refuse_unusable(self.config, self.root, self.variants, "data", self.kind)

    def make(self, making: Making) -> Made:
        config = self.config
        made_from = fingerprint([VERSION, self.settings(), self.inputs()])
        artifacts = ask_variants(config, self.root, self.models, self.variants, self.embedding_run, made_from, making)
        report = self._report(artifacts)
        if asked := self.embedding_run.close([*config.embedding_models.values()]):
            report["embeddings"] = asked
        self.store.write_bytes(paths.join(self.root, BEST), self._best(report, artifacts).encode())
        results = {name: one for name, one in artifacts.items() if not name.startswith("_")}
        return Made(report, digests_of(results), {"finished": report["finished"]})

    def page_facts(self, report: dict[str, Any]) -> dict[str, Any]:
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
        if asked := report.get("embeddings"):
            tables["embeddings"] = [{name: one for name, one in row.items() if name != "outcomes"} for row in asked]
        items = Tile(report["items"], f"of the split {report['split']}")
        return {"warnings": report["warnings"], "items": items, **tables}

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        config, items = self.config, artifacts[ITEMS].table().to_pylist()
        answers: list[list[str | None]] = [[None] * len(items) for _ in self.variants]
        seconds: list[list[float]] = [[] for _ in self.variants]
        tokens, truncated = [TokenCounts() for _ in self.variants], Counter[int]()
        lacking = dict[int, str]()  # variant -> why an item has no answer
        for name in self.models:
            self._refuse_changed(name, artifacts[f"answers_of.{name}"], len(items))
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
        plugins = [one.loaded() for one in config.custom]
        found = compared(config.answer, [Item(**one) for one in items], answers, plugins, config.rank_by)
        rows = []
        for number, (variant, one) in enumerate(zip(self.variants, found, strict=True)):
            prices = config.models[variant.model].request_prices
            rows.append(
                vars(variant)
                | {
                    "variant": number,
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
        warnings = self._warnings_on_scores(rows, answers, [one["answer"] for one in items])
        fewest = self._fewest_examples(artifacts[EXAMPLES])
        for variant, row in enumerate(rows):
            about = f"{row['model']}, prompt {row['prompt']}, {shown_examples(row)}"
            if (least := fewest.get(variant, row["examples"])) < row["examples"]:
                warnings.append(
                    f"{about}: an item has only {plural(least, 'example')}, as train has no more records that are not "
                    "like it."
                )
            if variant in lacking:
                without = plural(len(items) - row["answered"], "item")
                first = shortened(lacking[variant].rstrip("."), 200)
                warnings.append(f"{about}: {without} without an answer, with the score 0; the first: {first!r}.")
        return {
            "name": config.name,
            "items": len(items),
            "split": config.split,
            "score": config.rank_by or ranked_by(config.answer),
            "variants": sorted(rows, key=lambda one: -one["score"]),
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _warnings_on_scores(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str | None]], references: Sequence[str]
    ) -> list[str]:
        """Warnings about scores that do not tell variants apart."""
        best = max(one["score"] for one in rows)
        if best == 0:
            pairs = (pair for each in answers for pair in zip(each, references, strict=True) if pair[0])
            given, wanted = (shortened(text or "", 100) for text in next(pairs, ("", "")))
            shown = f" The first answer: {given!r}; wanted: {wanted!r}." if given else ""
            return [
                f"No variant has a correct answer, so {BEST} is no better than the others.{shown} State in the prompt "
                "what an answer looks like, or choose another `answer`."
            ]
        if len(equal := [one for one in rows if one["score"] == best]) > 1:
            return [f"{plural(len(equal), 'variant')} have the best score; {BEST} has the first of them in the config."]
        return []

    def _fewest_examples(self, examples: Artifact) -> dict[int, int]:
        """Variant -> number of examples of the item with the fewest."""
        fewest = dict[int, int]()
        for table in examples.tables(["variant", "examples"]):
            for row in table.to_pylist():
                number = len(row["examples"])
                fewest[row["variant"]] = min(number, fewest.get(row["variant"], number))
        return fewest

    def _refuse_changed(self, name: str, answers: Artifact, items: int) -> None:
        """Verify that a model has one answer for each of its variants and items, with possible numbers.

        Raises:
            DataError: it has not, as in a file that somebody changed.
        """
        table = answers.table(["variant", "item", "tokens", "seconds"])
        numbers = [table["seconds"], *(pc.struct_field(table["tokens"], at) for at in range(4))]
        possible = not table.num_rows or all(
            one.null_count == 0 and pc.all(pc.less_equal(pc.abs(one), _LARGEST)).as_py() and pc.min(one).as_py() >= 0
            for one in numbers
        )
        of_model = [number for number, one in enumerate(self.variants) if one.model == name]
        pairs = sorted(zip(table["variant"].to_pylist(), table["item"].to_pylist(), strict=True), key=str)
        wanted = sorted(((variant, item) for variant in of_model for item in range(items)), key=str)
        if not possible or pairs != wanted:
            raise changed_run(self.root, "_work", f"answers_of.{name}")

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
        return 1 + MOST_RANGES * len(self.config.models)

    def machines(self, seconds: float | None) -> Machines:
        gpus = max(one.worker_gpus for one in self.config.models.values())
        return Machines("gpu" if gpus else "cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, gpus=gpus, largest_task=2 * GIB)
