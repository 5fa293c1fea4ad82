"""python -m tests.benchmarks [FILE.parquet] [NAME ...]: every benchmark, or those named, on one input in one run."""

import importlib
import sys

from tests.benchmarks.timing import load_texts

DEDUP = ("signatures", "duplicates", "group", "ray_groupby", "ray_data")
TEXT = (
    "compile",
    "excerpt",
    "normalize",
    "language",
    "distil",
    "rules",
    "decontamination",
    "boilerplate",
    "repeats",
    "measure",
)
RUNS = (
    "startup",
    "demo",
    "curate",
    "files",
    "ahead",
    "scale",
    "units",
    "terabyte",
    "requests",
    "asking",
    "plan",
    "guard",
    "walk",
)
CURATE = (*TEXT, *DEDUP, *RUNS, "prepare", "labels", "augment", "detectors", "personal_data", "annotate")
TRAIN = ("pack", "shuffle", "rows", "training", "restart", "fixed", "methods")
NAMES = CURATE + TRAIN


def main(arguments: list[str]) -> None:
    path = next((word for word in arguments if word.endswith(".parquet")), None)
    names = [word for word in arguments if word != path] or list(NAMES)
    for name in names:
        if name not in NAMES:
            raise SystemExit(f"{name}: no such benchmark. There are {', '.join(NAMES)}.")
    texts = load_texts(path)
    for name in names:
        print(f"\n== {name}")
        importlib.import_module(f"tests.benchmarks.bench_{name}").run(texts)


if __name__ == "__main__":
    main(sys.argv[1:])
