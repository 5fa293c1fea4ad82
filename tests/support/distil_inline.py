"""`distil` in this process, without Ray; documents of lessons and others, and a judge that tells them apart."""

import argparse
import inspect
import json
import random
import re
import subprocess
import tarfile
import typing
from pathlib import Path
from pydoc_data.topics import topics

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.distil.job import DistilJob, DistilRun
from tests.support import inline

# Of each word that a text has, the judge gives it a point.
POINTS = ("because", "example", "therefore", "exercise", "lesson")
_LESSONS = ("angle", "atom", "cell", "energy", "equation", "force", "fraction", "gene", "metal", "planet", "verb")
_OTHERS = ("bargain", "cheap", "click", "coupon", "deal", "gift", "offer", "order", "prize", "sale", "shop")
_COMMON = ("the", "a", "of", "and", "to", "is", "in", "that", "it", "for", "on", "with", "as", "was", "at", "by")


def document(number: int) -> str:
    """A text of some 60 words: the more of a lesson it is, the more points the judge gives it."""
    draw = random.Random(number)
    level = draw.choice([0, 0, 0, 1, 2, 3, 4, 5])
    words = [draw.choice(_LESSONS if draw.random() < level / 5 else _OTHERS) for _ in range(30)]
    words += [draw.choice(_COMMON) for _ in range(30)] + draw.sample(POINTS, level)
    draw.shuffle(words)
    return f"Number {number}. " + " ".join(words)


def points(text: str) -> int:
    """The score of the judge."""
    return sum(f" {word}" in text for word in POINTS)


def write_documents(folder: Path, count: int = 400, files: int = 4) -> Path:
    """JSON Lines files with documents, numbered over all files."""
    folder.mkdir()
    for part in range(files):
        rows = [{"id": f"d{n}", "text": document(n)} for n in range(part, count, files)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class JudgeServer(FaultyServer):
    """A judge by a rule. points: of a text. shift: added to each score below 5, as of a milder judge."""

    points = staticmethod(points)
    shift = 0

    def said(self, schema, text, draw):
        if schema is None or "score" not in schema["properties"]:
            return super().said(schema, text, draw)
        return json.dumps({"reason": "By the rule.", "score": min(5, self.points(text) + self.shift)})


def distil_inline(
    settings: dict, monkeypatch, *, replace: bool = False, verify: bool = False, engine=None, session=None
) -> DistilRun:
    """A run of a config given as plain settings."""
    config = DistilConfig.model_validate({"kind": "distil", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        inline.without_ray(patch, engine, session)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return DistilJob(config).run(session or Session(), Progress(), replace=replace, verify=verify)


def numbers_of(text: str) -> list[int]:
    """The numbers of the documents that stand in a text."""
    return [int(one) for one in re.findall(r"Number (\d+)\.", text)]


# Of each of these that a text does not have, `prose_points` gives it a point.
CODE = ("self.", "def ", "return ", "import ", "raise ")


def prose_points(text: str) -> int:
    """The score of a judge of prose: texts of the reference of Python have 3 to 5, of its library 0 to 4."""
    return sum(mark not in text for mark in CODE)


def texts_of_python() -> list[str]:
    """Pieces of some 1,000 characters of what comes with Python: its reference, and modules of its library."""
    pieces = []
    for text in (*topics.values(), *map(inspect.getsource, (argparse, subprocess, tarfile, typing))):
        lines: list[str] = []
        for paragraph in text.split("\n\n"):
            lines.append(paragraph)
            if sum(map(len, lines)) > 1000:
                pieces.append("\n\n".join(lines))
                lines = []
    return pieces
