"""Small prepared data sets."""

import json

from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question


def prepared(folder, monkeypatch, name: str, rows: list[dict], **more):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "q", "completion": "a", "label": "label"}
    source = {"source": "s", "path": str(folder / f"{name}.jsonl"), "id": "id", "columns": columns}
    return prepare_inline(
        {"inputs": [source | more], "output": str(folder / name), "split": {"stratify": ["label"]}}, monkeypatch
    )


def rows(count: int) -> list[dict]:
    return [{"id": f"r{n}", "q": question(n), "a": answer(n), "label": "ab"[n % 2]} for n in range(count)]
