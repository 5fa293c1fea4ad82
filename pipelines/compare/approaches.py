"""The table of approaches: for each model its method, score, cost to train and to answer, data, size and forgetting.

A training's numbers are from its report.json, which anybody may have written: types, signs and the characters of its
method are checked. A number that is not known is None.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.inspection import is_run, read_run_manifest
from raymill.cluster.record import check_types
from raymill.cluster.run import RunFolder, reading_report
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.compare.config import ComparedModel, HourPrices

_METHOD = re.compile(r"[\w ,.+%()-]{1,100}", re.ASCII)
_SMALL = ("adapter", "probe")  # exports that are stored beside a base


class TrainingFacts(TypedDict):
    """What a training took.

    Attributes:
        method: name and main settings.
        seconds: on all workers together. cpu_hours, gpu_hours: of the CPUs and GPUs that they reserved.
        memory_gib: largest peak of a worker, of its GPU if it has one.
        trainable_parameters: number of trained values.
        examples: documents of the split train. tokens: that were trained on, with repetitions.
        losses: held-out split or set that it measured -> loss before and after.
    """

    method: str
    seconds: float
    cpu_hours: float
    gpu_hours: float
    memory_gib: float | None
    trainable_parameters: int
    examples: int
    tokens: int
    losses: dict[str, list[float]]


class _Workers(TypedDict):
    cpus_each: float
    gpus_each: int


class _Totals(TypedDict):
    seconds: float
    workers: list[int]
    tokens: int
    trainable_parameters: int


class _Curves(TypedDict):
    memory_gib: list[list[float]]


class _Split(TypedDict):
    split: str
    documents: int


class _Corpus(TypedDict):
    splits: list[_Split]


class _Fit(TypedDict):
    totals: _Totals
    curves: _Curves
    corpora: list[_Corpus]


def training_root(store: Store, model: ModelSettings) -> str | None:
    """The output of `train` that made a model: the model's path, or two levels above `export/NAME`; None of another.

    Raises:
        DataError: the manifest there is damaged.
    """
    if model.path is None or not model.is_folder:
        return None
    above, _, name = model.path.rstrip("/").rpartition("/")
    roots = [model.path]
    if above.endswith("/export") and name != "base":
        roots.append(above.removesuffix("/export"))
    for root in roots:
        found = read_run_manifest(store, root)
        if is_run(found) and found.get("kind") == "train":
            return root
    return None


def training_facts(store: Store, root: str) -> TrainingFacts:
    """What the training with this output took, from its report.

    Raises:
        DataError: its report has other values.
    """
    with reading_report(root):
        report = RunFolder(store, root).report("fits", "run")
        fits, workers = report["fits"], report["run"]["config"]["workers"]
        check_types(_Workers, workers)
        check_types(list[_Fit], fits)  # before anything is computed: a text times a number takes any memory
        totals, last = [one["totals"] for one in fits], fits[-1]
        peaks = [peak for one in fits for _, peak in one["curves"]["memory_gib"]]
        seconds = sum(one["seconds"] * max(one["workers"], default=1) for one in totals)
        facts: TrainingFacts = {
            "method": last["recipe"]["method"],
            "seconds": seconds,
            "cpu_hours": seconds * workers["cpus_each"] / 3600,
            "gpu_hours": seconds * workers["gpus_each"] / 3600,
            "memory_gib": max(peaks, default=None),
            "trainable_parameters": max(one["trainable_parameters"] for one in totals),
            "examples": sum(
                split["documents"]
                for fit in fits
                for corpus in fit["corpora"]
                for split in corpus["splits"]
                if split["split"] == "train"
            ),
            "tokens": sum(one["tokens"] for one in totals),
            "losses": {
                name: [fits[0]["before"][name]["loss"], one["loss"]]
                for name, one in last["after"].items()
                if name in fits[0]["before"]
            },
        }
        check_types(TrainingFacts, facts)
        if not _METHOD.fullmatch(facts["method"]):
            raise ValueError("its method has other characters than a name and settings")
        amounts = [value for value in facts.values() if isinstance(value, int | float)]
        losses = [one for pair in facts["losses"].values() for one in pair]
        if not all(map(math.isfinite, [*amounts, *losses])) or min(amounts) < 0:
            raise ValueError("a number is negative or not finite")
        return facts


def stored_bytes(store: Store, model: ModelSettings, root: str | None) -> int | None:
    """Bytes of the files of a model, of a training the adapter or head alone, which is used on its base.

    Args:
        model: with the place of its files. root: of its training.

    Returns:
        None of an endpoint, and of a model of the hub.
    """
    if model.path is None or not model.is_folder:
        return None
    places = [model.path] if root is None else [*(paths.join(root, "export", name) for name in _SMALL), model.path]
    sizes = (sum(file.size for file in store.list_files(place)) for place in places)
    return next((size for size in sizes if size), None)


def approach(
    letter: str,
    model: ComparedModel,
    found: Mapping[str, Any],
    training: TrainingFacts | None,
    is_trained: bool,
    size: int | None,
    prices: HourPrices | None,
) -> dict[str, Any]:
    """The row of a model, as JSON values.

    Args:
        found: its facts in the report. training: what its training took. is_trained: whether it has one, also if what
            it took is not known.
        size: as from `stored_bytes`. prices: of machines.

    Returns:
        training: None without one, and where it is not known; then `is_trained` tells which. Its `money`: for its
        machines. answer: means of an item.
    """
    untrained = "few-shot" if model.examples else "base" if model.path else "endpoint"
    method = untrained if not is_trained else training["method"] if training else None
    seconds = found["measures"].get("seconds", {}).get("value")
    cost = found["measures"].get("cost", {}).get("value")
    if cost is None and prices and seconds is not None and model.path and model.engine == "transformers":
        cost = prices.money(seconds / 3600, seconds * model.worker_gpus / 3600)
    took = None
    if training is not None:
        money = prices and prices.money(training["cpu_hours"], training["gpu_hours"])
        took = {name: value for name, value in training.items() if name != "losses"} | {"money": money}
    return {
        "model": letter,
        "title": model.title,
        "method": method,
        "examples_shown": model.examples,
        "score": found["measures"]["score"],
        "is_trained": is_trained,
        "training": took,
        "stored_bytes": size,
        "answer": {
            "seconds": seconds,
            "input_tokens": found["input_tokens"],
            "output_tokens": found["measures"].get("output_tokens", {}).get("value"),
            "money": cost,
        },
    }
