"""Every kernel of the tree, and a small run that compiles all of them.

A kernel is compiled for the types of its arguments when it is first called. So the stages of curate run here, in this
process, on the demo's small sets of documents with every rule in both dialects: the types are those of a real run.
"""

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from raymill import pipelines
from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.lease import held
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import temporary_folder
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.curate.stages.decide import VERDICTS
from raymill.pipelines.curate.stages.measure import ATTRIBUTES
from raymill.pipelines.dedup.cost import DEFAULT_SIZES, Sizes
from raymill.pipelines.dedup.group import group_stage
from raymill.pipelines.demo.commands import DATA, expand_repeated
from raymill.pipelines.kernel_cache import COMPLETE, kernel_sources, mark_cache
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_file import Loss, ModelFile
from raymill.pipelines.language.fasttext_training import TrainingSettings, train
from raymill.pipelines.text.kernel import InnerKernel
from raymill.pipelines.text.texts import Texts

_HERE = Path(pipelines.__file__).parent
_SEVERAL_RANGES = Sizes(documents=16, pairs=64, batch=4)


@dataclass(frozen=True)
class Kernels:
    """Names of all kernels, as module.function below `pipelines`, and of those that this process compiled."""

    kernels: tuple[str, ...]
    compiled: tuple[str, ...]


def kernels() -> dict[str, Dispatcher]:
    """Every function that numba compiles and caches, by its name. Inner kernels are parts of these."""
    found: dict[str, Dispatcher] = {}
    for path in kernel_sources():
        parts = path.relative_to(_HERE).with_suffix("").parts
        module = importlib.import_module(".".join(("raymill", "pipelines", *parts)).removesuffix(".__init__"))
        for name, value in vars(module).items():
            compiled = isinstance(value, Dispatcher) and not isinstance(value, InnerKernel)
            if compiled and value.py_func.__module__ == module.__name__:
                found[f"{'.'.join(parts)}.{name}"] = value
    return found


def compile_kernels() -> Kernels:
    """Run the stages of curate on a few documents. What the cache holds is loaded, the rest is compiled and stored.

    Raises:
        AssertionError: a kernel was not called.
    """
    folder = temporary_folder("warm")
    try:
        documents = _write_documents(folder)
        for dialect, sizes in (("paper", DEFAULT_SIZES), ("datatrove", _SEVERAL_RANGES)):
            _run(_config(folder, documents, dialect), sizes)
        _classify_without_tree()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = kernels()
    idle = [name for name, kernel in found.items() if not any(_cache_files(kernel))]
    assert not idle, f"kernels that this run does not call: {', '.join(idle)}"
    mark_cache(COMPLETE)
    compiled = tuple(name for name, kernel in found.items() if kernel.stats.cache_misses)
    return Kernels(tuple(found), compiled)


def _cache_files(kernel: Dispatcher) -> Iterator[Path]:
    """The index files of a kernel. One that is called by other kernels alone is not loaded with them."""
    path, folder = Path(kernel.py_func.__code__.co_filename), kernel.stats.cache_path
    assert folder is not None, "kernels are cached"
    return Path(folder).glob(f"{path.stem}.{kernel.py_func.__qualname__}-*.nbi")


class InProcess(Engine):
    """An engine that does the units of every stage in this process, without Ray."""

    def run(self, stage: Stage) -> dict[str, Artifact]:
        return super().run(replace(stage, small=True))


def _write_documents(folder: Path) -> str:
    """One file with the demo's documents, each with a URL; and the lists that rules read.

    Each document stands there with another start, too, and with the document before it: the one is a duplicate, the
    other has runs of words in common with both.
    """
    store, lines, before = Store(), [], ""
    for name in ("planted.jsonl", "languages.jsonl"):
        for line in store.read_bytes(str(DATA / name)).splitlines():
            document = json.loads(expand_repeated(line + b"\n")) | {"url": "https://example.com/page?id=1"}
            # Without the citation at its start a text begins with a space, which C4 strips.
            starts = ("", "[1] ", f"{before}\n\n")
            lines += [json.dumps(document | {"text": start + document["text"]}).encode() for start in starts]
            before = document["text"]
    uri = paths.join(str(folder), "documents.jsonl")
    store.write_bytes(uri, b"\n".join(lines) + b"\n")
    store.write_bytes(paths.join(str(folder), "list.txt"), b"example.org\nexample.com/other/\n")
    store.write_bytes(paths.join(str(folder), "examples.jsonl"), lines[0] + b"\n")
    return uri


def _config(folder: Path, documents: str, dialect: str) -> CurateConfig:
    a_list, examples = (paths.join(str(folder), name) for name in ("list.txt", "examples.jsonl"))
    settings: dict[str, Any] = {
        "kind": "curate",
        "name": "warm",
        "inputs": [{"path": documents, "id": "id", "columns": ["url"]}],
        "output": paths.join(str(folder), dialect),
        "rules": {
            "dialect": dialect,
            "decontamination": {"sets": [{"name": "set", "path": examples, "columns": ["text"]}]},
            "url_blocklist": {"paths": [a_list]},
            "url_words": {"banned": [a_list], "soft": [a_list], "substrings": [a_list]},
            "bad_words": {"paths": {"en": a_list}},
            "line_edits": {"max_removed_fraction": 0.99},
            "quality_classifier": {"model": str(fasttext_classifier.built_in()), "label": "en"},
        },
        "dedup": {"threshold": 0.8, "bands": 14, "rows_per_band": 8},
        "execution": {"max_bad_documents": 1},
    }
    # One each: what boilerplate cuts is no repeat.
    cuts = {"repeats": {"min_words": 10, "cut": True}}
    if dialect == "datatrove":
        cuts = {"boilerplate": {"max_documents": 1, "min_words_left": 0}}
    return CurateConfig.model_validate(settings | cuts)


def _classify_without_tree() -> None:
    """Run a classifier of the kind that most quality classifiers are; the language model finds its labels in a tree."""
    label = np.frombuffer(b"__label__yes", np.uint8).copy()  # written arrays have types of their own
    numbers = np.zeros((1, 4), np.float32)
    model = ModelFile(
        loss=Loss.SOFTMAX, dimension=4, minn=0, maxn=0, word_ngrams=2, buckets=1, words=0,
        entries=Texts(label, np.array([0, len(label)])), label_counts=np.ones(1, np.int64), kept_buckets=None,
        rows_of_buckets=None, rows=numbers, output=numbers, output_scales=np.ones(1, np.float32),
    )  # fmt: skip
    classifier = fasttext_classifier.Classifier(Path("yes.bin"), model)
    classifier.best(Texts.from_strings(["a text"]))
    classifier.score(Texts.from_strings(["a text"]), "yes")
    classifier.probabilities(Texts.from_strings(["a text"]))
    train(Texts.from_strings(["a text"]), np.zeros(1, np.int64), ["yes"], TrainingSettings(buckets=1))


def _run(config: CurateConfig, sizes: Sizes) -> None:
    store, root = config.store, paths.absolute(config.output)
    inputs = freeze(store, config.inputs)
    with held(store, root):
        made = run_stages(config, inputs, InProcess(root, Session(), Progress()).run, sizes)
    assert config.dedup is not None
    units, chains = len(inputs.units), paths.join(root, "chains")
    chained = group_stage(config.dedup, config.inputs, made[ATTRIBUTES], made[VERDICTS], units, sizes, chained=True)
    with held(store, chains):
        InProcess(chains, Session(), Progress()).run(chained)
