"""Small prepared data sets."""

import json

from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question


def prepared(folder, monkeypatch, name: str, rows: list[dict], *, replace: bool = False, **more):
    file, text = folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    if not file.exists() or file.read_text() != text:  # the time of a file is part of the inputs
        file.write_text(text)
    columns = {"prompt": "q", "completion": "a", "label": "label"}
    source = {"source": "s", "path": str(file), "id": "id", "columns": columns}
    return prepare_inline(
        {"inputs": [source | more], "output": str(folder / name), "split": {"stratify": ["label"]}},
        monkeypatch,
        replace=replace,
    )


def rows(count: int) -> list[dict]:
    return [{"id": f"r{n}", "q": question(n), "a": answer(n), "label": "ab"[n % 2]} for n in range(count)]
