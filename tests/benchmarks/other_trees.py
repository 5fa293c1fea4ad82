"""Source trees of other commits, and one process for each that measures its parts on request."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.pipelines.text.texts import Texts

HERE = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).with_name("measure_parts.py")


def in_history(commit: str) -> bool:
    """Whether the history at hand has this commit; a shallow clone lacks old ones."""
    command = ["git", "-C", str(HERE), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit. SystemExit if the history at hand lacks it."""
    if not in_history(commit):
        raise SystemExit(f"{commit}: no such commit in this clone. Give another one, or fetch the whole history.")
    with tempfile.TemporaryDirectory(prefix="tree-") as folder:
        archive = Path(folder, "tree.tar")
        command = ["git", "-C", str(HERE), "archive", "--output", str(archive), commit]
        subprocess.run(command, check=True)
        tree = Path(folder, "tree")
        tree.mkdir()
        subprocess.run(["tar", "-xf", str(archive), "-C", str(tree)], check=True)
        yield tree


class Parts:
    """A process that measures parts of the measure stage of a source tree. Its kernels are kept in a folder beside."""

    def __init__(self, tree: Path, kernels: str | None = None) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree)} | ({"NUMBA_CACHE_DIR": kernels} if kernels else {})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, str(_SCRIPT)], **pipes, text=True, env=environment, cwd=tree)

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def seconds(self, path: Path, part: str) -> float | None:
        """Processor seconds of a part on the texts of a file; None: this tree has no such part."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{path}\t{part}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"the tree at {self.process.args} ended; its error is above")
        return None if answer == "-" else float(answer)


def in_turns(
    trees: Sequence[Path], texts: Mapping[str, Texts], parts: Sequence[str], rounds: int
) -> dict[tuple[str, str], list[list[float]]]:
    """(name of texts, part) -> the processor seconds of each tree, one list of `rounds` for each.

    In every round all trees do the same part one right after the other, in an order that turns with each round. A part
    that one of the trees lacks is left out. The first call of a part, which compiles, is not counted.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = [
            stack.enter_context(Parts(tree, None if tree == HERE else f"{folder}/kernels-{at}"))
            for at, tree in enumerate(trees)
        ]
        for number, (name, some) in enumerate(texts.items()):
            path = Path(folder, f"{number}.parquet")
            pq.write_table(pa.table({"text": some.to_arrow()}), path)
            for part in parts:
                if None in [process.seconds(path, part) for process in processes]:
                    continue
                taken: list[list[float]] = [[] for _ in trees]
                for turn in range(rounds):
                    for place in range(len(trees)):
                        at = (place + turn) % len(trees)
                        taken[at].append(processes[at].seconds(path, part) or 0.0)
                found[name, part] = taken
    return found


def ratio(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """(ratio of the medians, lower and upper quartile of the ratios of the pairs), after divided by before."""
    pairs = sorted(one / other for one, other in zip(after, before, strict=True))
    quarter = len(pairs) // 4
    return median(after) / median(before), pairs[quarter], pairs[-1 - quarter]
