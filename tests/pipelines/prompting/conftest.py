"""A data set of questions of three topics, and the settings of a comparison."""

import json

import pytest

from tests.support.inline import prepare_inline
from tests.support.prompt_inline import questions


@pytest.fixture
def data(tmp_path, monkeypatch):
    asked, labels = questions(90)
    made = [
        {"id": f"r{n}", "prompt": one, "completion": label}
        for n, (one, label) in enumerate(zip(asked, labels, strict=True))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    prepare_inline(
        {
            "inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "id"}],
            "records": {"shape": "pairs"},
            "validate": {"answer_chars": None},
            "dedup": None,
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "output": str(tmp_path / "data"),
        },
        monkeypatch,
    )
    return tmp_path / "data"


@pytest.fixture
def config(data, server, tmp_path):
    model = {"endpoint": server.url, "name": "small", "prices": {"input": 0.1, "output": 0.4}}
    return {
        "kind": "prompt", "name": "topics", "data": str(data), "models": {"small": model}, "answer": "label",
        "prompts": {"plain": {}, "list": {"system": "Answer with billing, delivery or login.", "examples": 0}},
        "examples": {"number": [0, 3], "by": ["random", "similar"]}, "output": str(tmp_path / "out"),
    }  # fmt: skip
