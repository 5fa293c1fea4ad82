"""Hostile inputs: python -m tests.end_to_end.hostile_inputs [--seed N] [--count 500] [--only NUMBER]

Draws inputs that end a run, write or delete files outside of it, or show a secret, if they can: files of every format,
records and files of runs, configs, answers of servers, models with their tokenizers, and lists that rules read.
Each goes through the command line, with everything of a run but Ray. Asserted of each:

    no crash        exit code 0, or 2 with a message; what cannot be read is in quarantine, with its reason
    nothing outside files beside the run, inputs, the home folder and temporary folders are as they were
    no secret       no secret of the environment or config and no private file is in an output or message
    no escapes      nothing printed has a character that a terminal obeys

Prints a line for each input, then counts by kind. Exits with 1 if there is a violation. `--only` repeats one input.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raymill.cluster import cli
from raymill.cluster.errors import RaymillError
from raymill.cluster.logs import printable
from tests.benchmarks.timing import machine
from tests.support import hostile_runs, inline
from tests.support.hostile_answers import ROBOTS, hostile_answer, hostile_body, server
from tests.support.hostile_files import FORMATS, PRIVATE, hostile_file
from tests.support.hostile_settings import hostile_config, hostile_list, hostile_model
from tests.support.record_types import RECORDS
from tests.support.train_inline import train_without_ray

SECRET = "hf_QmVzYXJ0Q2FuYXJ5S2V5Rm9yVGVzdHM"  # looks like a token, and is none
IN_PRIVATE_FILE = "these words stand in a private file alone"
# As commands find them where they run.
ENVIRONMENT = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "API_TOKEN", "PSEUDONYM_KEY"), SECRET)
ENVIRONMENT |= {"AWS_ACCESS_KEY_ID": "AKIA" + SECRET[3:19].upper(), "HF_HUB_OFFLINE": "1"}

STORAGE = dict.fromkeys(("access_key_id", "secret_access_key", "session_token"), "${HOSTILE_KEY}")
ENVIRONMENT["HOSTILE_KEY"] = SECRET

NEIGHBOUR = "The neighbour of a hostile file is an ordinary text about a mill at the river, and it is read each time."


@dataclass
class Outcome:
    """What a command came to. code: its exit code. text: all that it printed. error: the traceback of a crash."""

    code: int
    text: str
    error: str = ""

    @property
    def message(self) -> str:
        """The last line that was printed, shortened."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip()[:160] if lines else ""


@dataclass
class Result:
    """An input with what came of it. outcome: read, quarantined, refused or a violation."""

    number: int
    kind: str
    what: str
    outcome: str = ""
    reason: str = ""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


class Arena:
    """Folders in which commands run, beside what they must not touch.

    run: the folder of inputs and config. output: the only one in which files may change. The folder is emptied for each
    input.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run, self.output = folder / "work" / "run", folder / "work" / "run" / "out"
        self.private = folder / "elsewhere" / "diary.txt"
        for one in (self.private.parent, folder / "home" / ".aws", folder / "tmp", folder / "work"):
            one.mkdir(parents=True)
        for one in (self.private, folder / "work" / "diary.txt", folder / "home" / ".aws" / "credentials"):
            one.write_text(f"# {IN_PRIVATE_FILE}\n")

    def empty(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()

    def text(self, hostile: bytes) -> bytes:
        """The bytes with the place of the private file in them."""
        return hostile.replace(PRIVATE.encode(), str(self.private).encode())

    def outside(self, inside: Path) -> dict[str, tuple]:
        """Kind, permissions, time and content of every file and link that is not `inside`, which may change."""
        found = dict[str, tuple]()
        for folder, folders, files in os.walk(os.fsencode(self.folder)):
            folders[:] = [name for name in folders if os.path.join(folder, name) != os.fsencode(inside)]
            for name in [*files, *folders]:
                path = os.path.join(folder, name)
                if path == os.fsencode(inside):
                    continue
                seen = os.lstat(path)
                content = (
                    os.readlink(path) if stat.S_ISLNK(seen.st_mode)
                    else (seen.st_mtime_ns, hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest())
                    if stat.S_ISREG(seen.st_mode)
                    else None
                )  # fmt: skip
                found[os.fsdecode(path)] = (seen.st_mode, content)
        return found

    def secrets_in_outputs(self) -> list[str]:
        """Files below the output that hold a secret."""
        found = []
        for path in self.output.rglob("*"):
            if not path.is_file() or path.is_symlink():
                continue
            content = path.read_bytes()
            if path.suffix == ".parquet" and not _has_secret(content):
                with contextlib.suppress(Exception):  # damaged by the input itself
                    content = str(pq.read_table(path).to_pydict()).encode("utf-8", "replace")
            if _has_secret(content):
                found.append(f"a secret is in {path.relative_to(self.output)}")
        return found


def _has_secret(content: bytes) -> bool:
    return any(one.encode() in content for one in (SECRET, IN_PRIVATE_FILE))


def call(*words: str) -> Outcome:
    """`raymill WORDS` in this process."""
    out, crashes = io.StringIO(), list[str]()
    known = cli._call

    def recording(*arguments: Any) -> int:
        try:
            return known(*arguments)
        except RaymillError as error:
            if error.exit_code != 2:
                crashes.append(_end_of_traceback())
            raise
        except BaseException:
            crashes.append(_end_of_traceback())
            raise

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.setattr(cli, "_call", recording)
        try:
            cli.main(words)
        except SystemExit as leaving:
            return Outcome(leaving.code if isinstance(leaving.code, int) else 1, out.getvalue(), "".join(crashes))
        except BaseException:
            return Outcome(1, out.getvalue(), _end_of_traceback())
    return Outcome(0, out.getvalue())


def _end_of_traceback() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])


@dataclass
class Trial:
    """A hostile input that lies in the arena. commands: what is called, one after the other.

    judge: (outcomes) -> (outcome, reason), or raises AssertionError; None: by the last message.
    may_change: the folder in which files may change; None: the output.
    """

    what: str
    commands: list[tuple[str, ...]]
    judge: Callable[[list[Outcome]], tuple[str, str]] | None = None
    may_change: Path | None = None


Kind = Callable[[Arena, random.Random], contextlib.AbstractContextManager[Trial]]


def _config(arena: Arena, **settings: Any) -> str:
    path = arena.run / "config.json"
    path.write_text(json.dumps({"name": "hostile", "output": str(arena.output), "storage": STORAGE} | settings))
    return str(path)


_MEASURED: tuple[dict[str, Any], ...] = (
    {"rules": None, "language": None, "personal_data": None, "dedup": None},
    {"rules": {"packs": ["gopher_quality", "gopher_repetition", "c4", "fineweb"]}, "language": {"keep": ["en", "de"]}},
    {"rules": None, "personal_data": {"redact": ["email", "phone", "credit_card", "iban", "ip"]}},
    {
        "rules": None,
        "boilerplate": {"max_documents": 2, "min_words_left": 1},
        "repeats": {"min_words": 10, "cut": True},
    },
)
_PREPARED: tuple[dict[str, Any], ...] = (
    {"records": {"shape": "text"}},
    {"records": {"shape": "messages"}, "clean": {"html": True, "email": ["quotes", "signatures", "disclaimers"]}},
    {"records": {"shape": "text"}, "clean": {"redact": ["email", "phone"], "pseudonyms": "per_record"}},
)


def _file(format: str) -> Kind:
    """A file of the format, beside an ordinary one, read by curate or prepare."""

    @contextmanager
    def trial(arena: Arena, draw: random.Random) -> Iterator[Trial]:
        made = hostile_file(draw, format)
        folder, near = arena.run / "in", arena.run / "near"
        folder.mkdir()
        near.mkdir()
        (near / "near.txt").write_text(NEIGHBOUR)
        with open(os.path.join(os.fsencode(folder), made.name), "wb") as file:
            file.write(arena.text(made.content))
        for name, target in made.links:
            os.symlink(arena.text(target.encode()), os.path.join(os.fsencode(folder), name))
        if format == "hf":
            (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": made.name.decode()}]}))
        source: dict[str, Any] = {"source": "hostile", "path": str(folder)}
        if made.format and format != "hf":
            source["format"] = made.format
        if draw.random() < 0.3 and format in ("jsonl", "json", "csv", "tsv", "parquet", "hf"):
            source["id"] = "id"
        bounds = {"max_bad_documents": 1.0, "max_bad_files": 1.0}
        inputs = [source, {"source": "near", "path": str(near)}]
        verb = draw.choice(["curate", "prepare"])
        more = draw.choice(_MEASURED if verb == "curate" else _PREPARED)
        config = _config(arena, kind=verb, inputs=inputs, execution=bounds, limits={"document_s": 1}, **more)
        shown = draw.choice([("inspect", "corpus"), ("sample", "quarantine"), ("sample", "removed"), ("inspect", "")])
        commands = [(verb, config), (shown[0], str(arena.output / shown[1]))]
        yield Trial(f"{verb}: {made.what}", commands, lambda outcomes: _read(arena, outcomes[0]))

    return trial


def _read(arena: Arena, run: Outcome) -> tuple[str, str]:
    """What a run of files came to. The neighbour must have been read by a run that came to its end."""
    if not (arena.output / "report.json").exists():
        assert run.code, "the run has no report"
        return "refused", run.message
    report = json.loads((arena.output / "report.json").read_text())
    sources = {one["source"]: one for one in report["sources"]}
    near = sources["near"]
    read = near["input"]["documents"] if "input" in near else near["records"] + near["quarantined"]
    assert read == 1, f"the ordinary file beside it was read {read} times"
    problems = Counter[str]()
    for path in (arena.output / "quarantine").glob("*.parquet"):
        problems.update(pq.read_table(path, columns=["problem"])["problem"].to_pylist())
    reasons = ", ".join(f"{problem} {count}" for problem, count in sorted(problems.items()))
    if reasons:
        return "quarantined", reasons
    hostile = sources.get("hostile", {})
    documents = hostile["input"]["documents"] if "input" in hostile else hostile.get("records", 0)
    return "read", f"{documents} rows, none of them with a problem"


def _records(area: str) -> Kind:
    """A run with a record or a file that somebody changed, and a command that uses it."""

    @contextmanager
    def trial(arena: Arena, draw: random.Random) -> Iterator[Trial]:
        base = _built(arena)
        shutil.rmtree(arena.run)
        shutil.copytree(base, arena.run, symlinks=True)
        words, inside = draw.choice(hostile_runs.commands(arena.run, area, draw))
        what = hostile_runs.damage(arena.output / area, draw, arena.private)
        yield Trial(
            f"{' '.join(words[:2]).replace(f'{arena.run}/', '')}: {what}", [words], None, arena.output / (inside or "-")
        )

    return trial


def _built(arena: Arena) -> Path:
    """The folder with runs that nobody changed, which is made at its first use, where it will be used."""
    base = arena.folder.parent / "base"
    if not base.exists():

        def succeeds(*words: str) -> None:
            outcome = call(*words)
            assert outcome.code == 0, f"{words}: {outcome.text}{outcome.error}"

        arena.empty()
        hostile_runs.build(arena.run, succeeds)
        lost = [place for place, files in hostile_runs.FILES_OF_RECORDS.items() if not any(arena.output.glob(files))]
        assert not lost and hostile_runs.FILES_OF_RECORDS.keys() == RECORDS.keys(), f"no record of {lost}"
        shutil.copytree(arena.run, base, symlinks=True)
    return base


@contextmanager
def _config_alone(arena: Arena, draw: random.Random) -> Iterator[Trial]:
    """A config that is hostile, or careless with a secret."""
    what, name, content = hostile_config(draw, arena.run, SECRET)
    (arena.run / "in").mkdir()
    (arena.run / "in" / "x.jsonl").write_text(json.dumps({"text": NEIGHBOUR, "id": "1", "q": "a", "a": "b"}) + "\n")
    (arena.run / name).write_bytes(content)
    verb = draw.choice([("config", "check"), ("config", "check"), ("plan",)])
    yield Trial(what, [(*verb, str(arena.run / name))])


@contextmanager
def _answers(arena: Arena, draw: random.Random) -> Iterator[Trial]:
    """Pages, an API or a store whose server is hostile."""
    what, body = hostile_body(draw)
    robots = draw.choice(list(ROBOTS))
    answers = [hostile_answer(draw, arena.text(body)) for _ in range(draw.choice([1, 2]))]
    place = draw.choice(["pages", "api", "store"])
    served = [answer for _, answer in answers]
    with server({"/robots.txt": [ROBOTS[robots]], "*": served}) as url:
        bounds = {"allow_private": True, "timeout_s": 3, "attempts": 2, "longest_wait_s": 0, "max_mib": 5}
        auth = {"variable": "API_TOKEN"}
        sources = {
            "pages": {"pages": {"urls": [f"{url}/a", f"{url}/b"], "delay_s": 0} | bounds},
            "api": {"api": {"url": f"{url}/a", "records": "items", "auth": auth, "requests_per_s": 1000,
                            "paging": {"by": "next", "field": "next"}} | bounds},
            "store": {"path": "s3://bucket/in"},
        }  # fmt: skip
        storage = STORAGE | {"endpoint_url": url, "timeout_s": 3, "retries": 0, "retry_deadline_s": 5}
        (arena.run / "near.txt").write_text(NEIGHBOUR)
        inputs = [{"source": "hostile"} | sources[place], {"source": "near", "path": str(arena.run / "near.txt")}]
        config = _config(
            arena, kind="prepare", inputs=inputs, storage=storage, records={"shape": "text"},
            execution={"max_bad_documents": 1.0, "max_bad_files": 1.0},
        )  # fmt: skip
        shown = f"{place}: {', '.join(one for one, _ in answers)} ({what}), robots.txt {robots}"
        yield Trial(shown, [("prepare", config)], lambda outcomes: _read(arena, outcomes[0]))


@contextmanager
def _model(arena: Arena, draw: random.Random) -> Iterator[Trial]:
    """A model with its tokenizer and template."""
    what = hostile_model(draw, arena.run / "model")
    turns = [{"role": "user", "content": "t1 t2"}, {"role": "assistant", "content": "t3 t4"}]
    (arena.run / "x.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 60)
    config = _config(
        arena, kind="train", corpus=str(arena.run / "x.jsonl"), columns={"messages": "messages"}, sequence_length=64,
        tokens_per_step=64, steps=1, model=str(arena.run / "model"), track={"tensorboard": False},
    )  # fmt: skip
    verb = draw.choice([("pack",), ("pack", "--preview", "2"), ("plan",), ("train",), ("train", "--dry-run")])
    yield Trial(f"{' '.join(verb)}: {what}", [(verb[0], config, *verb[1:])])


@contextmanager
def _list(arena: Arena, draw: random.Random) -> Iterator[Trial]:
    """A model, list or schema that a rule reads."""
    what, kind, settings = hostile_list(draw, arena.run)
    rows = [{"text": NEIGHBOUR, "question": "Where is the mill?", "answer": '{"at": "the river"}'}] * 2
    (arena.run / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source: dict[str, Any] = {"source": "near", "path": str(arena.run / "x.jsonl")}
    if kind == "prepare":
        source["columns"] = {"prompt": "question", "completion": "answer"}
    plain = {"dedup": None, "rules": None, "language": None} if kind == "curate" else {}
    yield Trial(what, [(kind, _config(arena, kind=kind, inputs=[source], **(plain | settings)))])


def attempt(number: int, seed: int, arena: Arena, kind: str) -> Result:
    """Draw an input of the kind and call its commands."""
    draw = random.Random(f"{seed} {number} {kind}")
    arena.empty()
    result, began = Result(number, kind, "?"), time.perf_counter()
    with KINDS[kind](arena, draw) as trial:
        result.what = trial.what
        inside = trial.may_change or arena.output
        before = arena.outside(inside)
        outcomes = [call(*words) for words in trial.commands]
        after = arena.outside(inside)
    for words, outcome in zip(trial.commands, outcomes, strict=True):
        if outcome.code not in (0, 2):
            result.violations.append(
                f"raymill {words[0]} ended with {outcome.code}: {outcome.message}\n{outcome.error}"
            )
        if outcome.code == 2 and not outcome.message:
            result.violations.append(f"raymill {words[0]} ended without a message")
        if _has_secret(outcome.text.encode("utf-8", "replace")):
            result.violations.append(f"raymill {words[0]} printed a secret")
        if printable(outcome.text) != outcome.text:
            result.violations.append(f"raymill {words[0]} printed a character that a terminal obeys")
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path):
            seen = "written" if path not in before else "deleted" if path not in after else "changed"
            result.violations.append(f"{printable(path)} was {seen}")
    result.violations += arena.secrets_in_outputs()
    if not result.violations:
        try:
            result.outcome, result.reason = (trial.judge or _by_message)(outcomes)
        except AssertionError as error:
            result.violations.append(str(error))
    if result.violations:
        result.outcome, result.reason = "VIOLATION", "; ".join(result.violations)
    result.seconds = time.perf_counter() - began
    return result


def _by_message(outcomes: list[Outcome]) -> tuple[str, str]:
    refused = [one for one in outcomes if one.code]
    return ("refused", refused[0].message) if refused else ("read", "as valid")


# Runs with a changed record or file.
AREAS = (
    *("curated", "saved", "prepared", "versions", "trained", "continued", "annotated"),
    *("answered", "prompted", "logs", "errors_of_logs", "models", "promoted", "chained"),
)

KINDS: dict[str, Kind] = {
    **{format: _file(format) for format in FORMATS},
    **{f"run {area}": _records(area) for area in AREAS},
    "config": _config_alone,
    "answers": _answers,
    "model": _model,
    "list": _list,
}


@contextmanager
def without_ray(folder: Path) -> Iterator[Arena]:
    """An arena in which commands run in this process: with its own environment, home and temporary folder."""
    arena = Arena(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        # Compiled kernels are kept where they are.
        patch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder.parent / "torch"))
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        inline.without_ray(patch)
        train_without_ray(patch)
        patch.chdir(folder / "work")
        yield arena


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", type=int)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    print(machine())
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    results, began = [], time.perf_counter()
    with without_ray(folder / "arena") as arena:
        for number in range(options.count):
            kind = options.kinds[number % len(options.kinds)]
            if options.only in (None, number):
                results.append(attempt(number, options.seed, arena, kind))
                print(line(results[-1]), flush=True)
    _print_counts(results, options.seed, time.perf_counter() - began)
    shutil.rmtree(folder)
    return sum(len(one.violations) for one in results)


def line(result: Result) -> str:
    reason = printable(result.reason).replace("\n", "\n    ")
    what = printable(result.what)
    return f"{result.number:>4}  {result.kind:<12}{result.outcome:<12}{result.seconds:>6.1f} s  {what}: {reason}"


def _print_counts(results: list[Result], seed: int, seconds: float) -> None:
    columns = ("read", "quarantined", "refused", "VIOLATION")
    print(f"\n{'':<12}{'inputs':>8}" + "".join(f"{one.lower():>13}" for one in columns))
    for kind in dict.fromkeys(one.kind for one in results):
        counts = Counter(one.outcome for one in results if one.kind == kind)
        print(f"{kind:<12}{counts.total():>8}" + "".join(f"{counts[one]:>13}" for one in columns))
    print(f"\nseed {seed}, inputs {len(results)}, {seconds:.0f} s")
    print(f"violations {sum(len(one.violations) for one in results)}")


if __name__ == "__main__":
    sys.exit(main() > 0)
