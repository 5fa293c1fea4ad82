"""`compare` in this process, without Ray, and an endpoint with planted models."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.job import CompareJob, CompareRun
from tests.support import inline
from tests.support.inline import prepare_inline
from tests.support.prompt_inline import TOPICS, questions


def compare_inline(config: dict, monkeypatch, *, engine=None, **how) -> CompareRun:
    """A run of a config given as plain settings."""
    job = CompareJob(CompareConfig.model_validate({"kind": "compare"} | config))
    with monkeypatch.context() as patch:
        inline.without_ray(patch, engine)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return job.run(Session(), Progress(), **how)


def tickets(folder: Path, monkeypatch, count: int = 300, writers: Sequence[str] = ("",)) -> Path:
    """A data set of tickets with their topic as answer, most of them in the split test, of two channels.

    writers: words before the questions, each before as many of each topic.
    """
    asked, labels = questions(count)
    asked = [f"{writers[n // 3 % len(writers)]}{one}" for n, one in enumerate(asked)]
    rows = [
        {"id": f"r{n}", "prompt": one, "completion": label, "channel": ("mail", "phone")[n % 4 == 0]}
        for n, (one, label) in enumerate(zip(asked, labels, strict=True))
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    columns = {"prompt": "prompt", "completion": "completion", "channel": "channel"}
    prepare_inline(
        {
            "inputs": [{"path": str(folder / "a.jsonl"), "id": "id", "columns": columns}],
            "records": {"shape": "pairs"},
            "validate": {"answer_chars": None},
            "dedup": None,
            "split": {"train": 0.1, "validation": 0.1, "test": 0.8},
            "output": str(folder / "data"),
        },
        monkeypatch,
    )
    return folder / "data"


class Planted(FaultyServer):
    """Models by their names: `right-90` answers 90 of 100 tickets rightly, the same ones each time; `right-60-of-phone`
    answers those of item numbers that are multiples of 4 so, and all others rightly. `judge` prefers the right answer;
    `first` the one that it is shown first. `silent-90` answers as `right-90`, and counts no tokens. `unfair-90` does so
    and answers no ticket of Maria.
    """

    def _answer(self, request, name, fault):
        self._model = request["model"]
        self._text = "\n".join(str(one.get("content")) for one in request["messages"])
        answer = super()._answer(request, name, fault)
        if self._model.startswith("silent"):
            answer["usage"] = dict.fromkeys(answer["usage"], 0)
        return answer

    def said(self, schema, text, draw) -> str:
        right = next(topic for topic, words in TOPICS.items() if words.split("{")[0] in self._text)
        if self._model == "first":
            return json.dumps({"reason": "it is first", "better": "A"})
        if self._model == "judge":
            a, b = re.findall(r"^[AB]:\n(.*?)$", self._text, re.MULTILINE)
            better = "tie" if (a == right) == (b == right) else "A" if a == right else "B"
            return json.dumps({"reason": "it is right", "better": better})
        kind, percent, *of = self._model.split("-")
        number = int(re.findall(r"\d+", self._text)[-1])
        drawn = int.from_bytes(hashlib.sha256(f"{number} {percent}".encode()).digest()[:4]) % 100
        wrong = drawn >= int(percent) and (not of or number % 4 == 0)
        wrong |= kind == "unfair" and "Maria" in self._text
        return ("**I’m sorry**, no." if kind == "refuses" else "I do not know") if wrong else right


def planted(server: FaultyServer, name: str, **more: Any) -> dict[str, Any]:
    """The settings of a planted model."""
    return {"endpoint": server.url, "name": name} | more
