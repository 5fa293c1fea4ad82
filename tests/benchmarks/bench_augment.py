"""Accuracy of a linear probe with variants of its training records and without: python -m tests.benchmarks augment

The texts are first sentences of docstrings of Python's standard library, and the label of each is its module: short
texts of people, with labels of which some are hard to tell apart, as intents are. From each draw of training records
the same probe (a linear support vector classifier) is fitted to them alone, to them repeated, and to them with
variants; it is tested on records of which none is a variant: as they are, and with typos of another seed. Its vectors
are TF-IDF of sequences of one to four characters within words, of the training records and their variants. A difference
is the mean over the draws of the paired differences, with its 95% interval by Student's t.
"""

import ast
import os
import re
import sysconfig
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.augment.variants import Variants
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

DRAWS = int(os.environ.get("DRAWS", "20"))
_LEAST = 60  # texts of a module
_TESTED = 30  # texts of each module
_NOISE = {"typos": {"words": 0.3}}  # of the second test
_MIX = ("typos", "case", "punctuation", "drop", "swap", "spelling")
# Training records of each label, and of the rare half of the labels.
_SIZES = ((5, 5), (20, 20), (30, 3))
_KINDS: dict[str, dict[str, dict[str, float]]] = {
    "repeated": {},
    "typos": {"typos": {}},
    "drop": {"drop": {}},
    "mix": {name: {} for name in _MIX},
}
_VARIANTS = 4


def run(texts: Texts) -> None:
    print(machine("scikit-learn"))
    modules = labelled_texts()
    print(f"{sum(map(len, modules.values())):,} texts of {len(modules)} modules; {DRAWS} draws")
    speeds([text for some in modules.values() for text in some][:2000])
    for size, rare in _SIZES:
        print(f"\n{size} training records of each label" + (f", {rare} of every second one" if rare != size else ""))
        print(f"{'variants':>10}{'accuracy':>10}{'less none':>27}{'less repeated':>27}{'typos':>8}{'less none':>27}")
        found = defaultdict[str, list[tuple[float, float]]](list)
        for draw in range(DRAWS):
            for kind, scores in _scores(modules, size, rare, draw).items():
                found[kind].append(scores)
        by_kind = {kind: np.array(of_draws).T for kind, of_draws in found.items()}
        for kind, (plain, noisy) in by_kind.items():
            less = [_difference(plain - by_kind[other][0]) for other in ("none", "repeated")]
            less_noisy = _difference(noisy - by_kind["none"][1])
            print(f"{kind:>10}{plain.mean():>10.3f}{less[0]:>27}{less[1]:>27}{noisy.mean():>8.3f}{less_noisy:>27}")


def speeds(texts: list[str]) -> None:
    """Variants a second of one core, of these texts and of longer ones that are made of them."""
    longer = [" ".join(texts[at : at + 20]) for at in range(0, len(texts), 20)]
    for some in (texts, longer):
        shown = []
        for name in (*_MIX, "ocr", "entities"):
            makes = Variants(Augment.model_validate({"operations": {name: {}}}), lambda hashed: False)
            began = time.process_time()
            for at, text in enumerate(some):
                next(makes.of(f"{at}", text, 1))
            shown.append(f"{name} {len(some) / (time.process_time() - began):,.0f}")
        print(f"variants a second, {sum(map(len, some)) // len(some)} characters: {', '.join(shown)}")


def labelled_texts() -> dict[str, list[str]]:
    """Different first sentences of docstrings, by module."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), defaultdict[str, dict[str, str]](dict)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & {*parts}:
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            is_documented = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if is_documented and (doc := ast.get_docstring(node)):
                first = " ".join(re.split(r"(?<=[.!?])\s|\n\n", doc.strip())[0].split())
                if 4 <= len(first.split()) <= 30:
                    found[parts[0].removesuffix(".py")].setdefault(first.lower(), first)
    return {name: [*texts.values()] for name, texts in sorted(found.items()) if len(texts) >= _LEAST}


def _scores(modules: dict[str, list[str]], size: int, rare: int, draw: int) -> dict[str, tuple[float, float]]:
    """Kind of variants -> accuracy (mean over the labels) on the test as it is, and with typos."""
    random = np.random.default_rng(draw)
    train, tested = list[tuple[str, int]](), list[tuple[str, int]]()
    for label, texts in enumerate(modules.values()):
        order = [texts[at] for at in random.permutation(len(texts))]
        tested += [(text, label) for text in order[:_TESTED]]
        train += [(text, label) for text in order[_TESTED:][: size if label % 2 == 0 else rare]]
    noisy = Variants(Augment.model_validate({"operations": _NOISE, "seed": 99}), lambda hashed: False)
    with_typos = [next(noisy.of(f"{at}", text, 1)).content or text for at, (text, _) in enumerate(tested)]
    tests = [[text for text, _ in tested], [str(one) for one in with_typos]]
    labels = np.array([label for _, label in tested])
    counts = np.bincount([label for _, label in train])
    found: dict[str, tuple[float, float]] = {}
    for kind, operations in {"none": None, **_KINDS}.items():
        texts, of_texts = [text for text, _ in train], [label for _, label in train]
        for at, (text, label) in enumerate(train):
            # As many as `to: largest` makes of rare labels, else of all the same number.
            wanted = _VARIANTS if size == rare else int(counts.max() / counts[label] + 0.5) - 1
            made = [text] * wanted
            if operations:
                augment = Augment.model_validate({"operations": operations, "seed": draw})
                variants = Variants(augment, lambda hashed: False).of(f"{at}", text, wanted)
                made = [str(one.content) for one in variants if one.reason is None]
            texts += made if operations is not None else []
            of_texts += [label] * len(made) if operations is not None else []
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        probe = LinearSVC(random_state=0).fit(vectors.fit_transform(texts), of_texts)
        scores = [_accuracy(probe.predict(vectors.transform(one)), labels) for one in tests]
        found[kind] = scores[0], scores[1]
    return found


def _accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float((predicted == labels).mean())


def _difference(values: Sequence[float] | np.ndarray) -> str:
    values = np.asarray(values)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if values.any() else 0.0
    return f"{values.mean():+.3f} ({values.mean() - half:+.3f} to {values.mean() + half:+.3f})"
