"""Make careless changes in the code, one at a time, and print which of them the tests catch.

    python -m tests.careless --seed 5 --count 30 [--in pipelines/rules]

Lines are drawn by seed from cluster/, pipelines/ and training/. Each gets one change (changes.py), in a copy of the
tree in the temporary folder. The tests that import the file run there until one fails: first those that import it
directly, then those that import it through one step or lie in the folder that mirrors its own, and the golden cases;
none that start Ray or are slow.
Prints a line for each change, `caught` with the test or `lived`, with the difference; then the number that was caught.
Whether a change that lived changes any behaviour, a person judges. Takes about a minute a change on two shared cores.
"""

import argparse
import ast
import difflib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.careless.changes import Change, draw

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "pipelines", "training")
NOT_DRAWN = ("tests/",)
MARKS = "not ray and not slow and not cluster and not rgw"
HANG_S = 240  # of a test that hangs, which counts as caught
# Loaded once, before processes are forked.
LIBRARIES = (
    "tests.conftest", "numba", "obstore", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "pydantic",
    "ray.data", "rich.console", "typer",
)  # fmt: skip
OF_TRAINING = ("peft", "torch", "transformers.models.auto.modeling_auto")


def imported(source: str) -> set[str]:
    """The modules that a file names: in imports, also inside functions, and as the text "module:function"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            found.add(node.value.partition(":")[0])
    return found


def tests_of(file: str, imports: dict[str, set[str]]) -> tuple[list[str], list[str]]:
    """The test files that import `file`; and the others that do so through one step, or lie in the folder of its tests.

    The golden cases are among the others of every file. imports: for each file, what `imported` returns. In each list
    those of the folder come first, by likeness of name.
    """
    tests = [name for name in imports if re.search(r"^tests/.*/test_\w+\.py$", name)]
    folder = Path("tests", file).parent
    while not any(Path(name).parent == folder for name in tests):
        folder = folder.parent
    users = {name for name, modules in imports.items() if module_of(file) in modules}
    steps = {module_of(name) for name in users}
    tests.sort(key=lambda name: (Path(name).parent != folder, Path(file).stem not in name, name))
    direct = [name for name in tests if name in users]
    near = [name for name in tests if name not in users and (steps & imports[name] or Path(name).parent == folder)]
    return direct, list(dict.fromkeys([*near, *(name for name in tests if name.endswith("/test_golden.py"))]))


def module_of(file: str) -> str:
    """The name by which a file is imported."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"raymill.{name}" if file.startswith(PACKAGES) else name


class Copy:
    """A copy of the tree, of what git knows or would add, in the folder `place`."""

    def __init__(self, place: Path) -> None:
        self.root, self.place = place / "tree", place
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).exists():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name, follow_symlinks=False)
        if (data := ROOT.parent / "shared").is_dir():  # inputs of some tests, beside the checkout
            (place / "shared").symlink_to(data.resolve())
        files = sorted(path for top in (*PACKAGES, "tests") for path in (self.root / top).rglob("*.py"))
        self.sources = {path.relative_to(self.root).as_posix(): path.read_text() for path in files}
        self.imports = {name: imported(source) for name, source in self.sources.items()}

    def caught(self, change: Change, limit_s: float) -> str:
        """The test that fails with this change; empty if none does in `limit_s` seconds."""
        deadline = time.monotonic() + limit_s
        (self.root / change.file).write_text(change.source)
        try:
            direct, distant = tests_of(change.file, self.imports)
            for tests in (direct[:1], direct[1:], distant):  # most changes are caught by the first file
                if tests and (failed := self.failed(tests, deadline, self.kernels(change.file))):
                    return failed
            return ""
        finally:
            (self.root / change.file).write_text(self.sources[change.file])

    def failed(self, tests: list[str], deadline: float, environment: dict[str, str]) -> str:
        """The first test that fails or hangs; empty if none does, or none before the deadline."""
        with tempfile.TemporaryFile("w+") as output:
            child = os.fork()  # has the libraries loaded, which takes longer than most tests
            if not child:
                self._run(tests, environment, output.fileno())
            done, status = 0, 0
            while not done and time.monotonic() < deadline:
                time.sleep(0.1)
                done, status = os.waitpid(child, os.WNOHANG)
            with suppress(ProcessLookupError):  # also what the tests started
                os.killpg(child, signal.SIGKILL)
            if not done:
                os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read()
        if code in (0, 5):  # all passed; all have other marks
            return ""
        named = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        return (named or re.findall(r"^tests/\S+", text, re.MULTILINE)[-1:] or [f"no test ran: {text[-300:]}"])[0]

    def _run(self, tests: list[str], environment: dict[str, str], output: int) -> NoReturn:
        """Run the tests in this process, which is a fork, until one fails. Exits with pytest's code."""
        os.setsid()
        for number in (1, 2):
            os.dup2(output, number)
        os.chdir(self.root)
        os.environ |= {"PYTHONPATH": str(self.root)} | environment
        sys.path[:] = [str(self.root), *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("raymill", "tests")]:
            del sys.modules[name]
        options = ["-xvv", "--tb=no", "-rfE", "-m", MARKS, "-o", f"faulthandler_timeout={HANG_S}"]
        code = 3
        try:
            code = int(pytest.main([*options, "-o", "faulthandler_exit_on_timeout=true", *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)

    def kernels(self, file: str) -> dict[str, str]:
        """The cache of kernels: one for all changes of files that no kernel depends on; else the default."""
        users = {name for name, source in self.sources.items() if name.startswith("pipelines/") and "kernel" in source}
        used = file in users or any(module_of(file) in self.imports[name] for name in users)
        return {} if used else {"NUMBA_CACHE_DIR": str(self.place / "kernels")}


def main() -> None:
    """Draw, run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.careless")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--in", dest="folder", default="", help="a package, folder or file")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a change counts as not caught")
    parser.add_argument("--list", action="store_true", help="print the changes and run no tests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymill-careless-") as place:
        tree = Copy(Path(place))
        inside = (arguments.folder,) if arguments.folder else PACKAGES
        sources = {name: source for name, source in tree.sources.items()
                   if name.startswith(inside) and not name.startswith(NOT_DRAWN)}  # fmt: skip
        catching = []
        if not arguments.list:
            for library in LIBRARIES + OF_TRAINING * "training".startswith(arguments.folder[:8]):
                importlib.import_module(library)
        for change in draw(sources, arguments.seed, arguments.count):
            test = "" if arguments.list else tree.caught(change, arguments.limit)
            catching += [test] * bool(test)
            before, after = sources[change.file].splitlines(), change.source.splitlines()
            verdict = "drawn" if arguments.list else "caught" if test else "lived"
            print(f"{verdict} {change.file}:{change.line} {test}".rstrip())
            print(*list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:], sep="\n", flush=True)
        print(f"caught {len(catching)} of {arguments.count}")
        single = sorted({test.partition("[")[0] for test in catching if "::" in test})
        if single and (failed := tree.failed(single, time.monotonic() + arguments.limit, {})):
            print(f"{failed} also fails without a change: what it caught does not count")


if __name__ == "__main__":
    main()
