"""The files that a config passes through, from the command to the last stage, and how often its way climbs back.

A file counts if one of its functions is called with the config, or with a part of it, as an argument; a store, which
is opened once, is none, and a method or property of the settings themselves is a reading of them. A climb is a pair of
files: one of them calls into the other, which the way had reached before. The runs are tiny and in this process.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic import BaseModel

from raymill.cluster.store.store import StorageOptions
from tests.support.inline import curate_inline, prepare_inline
from tests.support.train_inline import train_inline, write_corpus

_ROOT = str(Path(__file__).parents[2])
_PACKAGE = f"{_ROOT}/raymill/"


def run(texts: object) -> None:
    print(f"{'kind':<10}{'files':>8}{'climbs':>8}")
    for kind, make in (("curate", _curate), ("prepare", _prepare), ("train", _train)):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            files, climbs = walk(lambda: make(Path(folder), patch))  # noqa: B023 - called here
        print(f"{kind:<10}{len(files):>8}{climbs:>8}")


def walk(run: Callable[[], object]) -> tuple[list[str], int]:
    """(files in the order in which a config reaches them, number of climbs)."""
    order: dict[str, int] = {}
    climbs: set[tuple[str, str]] = set()

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(_PACKAGE):
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not any(_is_setting(frame.f_locals.get(name)) for name in names):
            return
        if names[0] == "self" and _is_group(frame.f_locals["self"]):
            return
        file, caller = code.co_filename, frame.f_back
        order.setdefault(file, len(order))
        while caller is not None and caller.f_code.co_filename not in order:
            caller = caller.f_back
        if caller is not None and order[file] < order[caller.f_code.co_filename]:
            climbs.add((caller.f_code.co_filename, file))

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(order), len(climbs)


def _is_setting(value: Any) -> bool:
    """Whether a value is a config, a group of its settings, or has one as an attribute, as the work of a stage has."""
    if isinstance(value, type):
        return False
    ours = type(value).__module__.partition(".")[0] == "raymill"
    held = value.__dict__.values() if ours and hasattr(type(value), "__dict__") and hasattr(value, "__dict__") else ()
    return any(map(_is_group, (value, *held)))


def _is_group(value: Any) -> bool:
    """Whether a value is a config or a group of its settings."""
    return isinstance(value, BaseModel) and not isinstance(value, StorageOptions)


def _curate(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "in.jsonl").write_text('{"id": "1", "text": "A text of some words, which stays."}\n')
    curate_inline({"inputs": [{"path": str(folder / "in.jsonl")}], "output": str(folder / "run")}, patch)


def _prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    rows = [
        {"question": f"How do I print page {n}?", "answer": f"Press the key with the number {n}."} for n in range(9)
    ]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare_inline({"inputs": [{"path": str(folder / "in.jsonl")}], "output": str(folder / "run")}, patch)


def _train(folder: Path, patch: pytest.MonkeyPatch) -> None:
    train_inline({"corpus": write_corpus(folder), "output": str(folder / "run"), "steps": 1, "evaluate": {}}, patch)
