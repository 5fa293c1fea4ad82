"""ShareGPT and Alpaca: what is exported is read as the same records, and what does not fit a format is refused."""

import json

import pytest
from hypothesis import given

from cluster import cli
from cluster.errors import DataError
from cluster.examples.content import FORMS, content_of, pair
from cluster.examples.splits import SPLITS
from cluster.store.store import Store
from pipelines.prepare.versions.export import as_alpaca, as_sharegpt, export
from pipelines.prepare.versions.registry import Registry
from tests.support.contents import chats, maybe, some_text
from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question


@given(chats)
def test_sharegpt_is_read_as_the_chat_that_was_written(chat):
    row = json.loads(json.dumps(as_sharegpt(chat)))
    assert content_of({"messages": json.dumps(row["conversations"])}) == chat


@given(maybe, some_text, maybe, some_text)
def test_alpaca_is_read_as_the_pair_that_was_written(system, prompt, input, answer):
    whole = pair(system, prompt, input, answer)
    row = json.loads(json.dumps(as_alpaca(whole)))
    needed, optional = next(one for one in FORMS if one[0].get("prompt") == "instruction")
    assert set(row) == {"instruction", "input", "output", "system"}
    assert content_of({field: row[name] for field, name in (needed | optional).items() if name in row}) == whole


TURNS = [("user", question(1)), ("assistant", answer(1)), ("user", question(2)), ("assistant", answer(2))]
ROWS = {
    "messages": [{"key": f"k{n}", "messages": [{"role": role, "content": f"{text} {n}"} for role, text in TURNS]}
                 for n in range(9)],
    "instruction": [{"key": f"k{n}", "instruction": question(n), "input": f"number {n}", "output": answer(n),
                     "system": "Be brief." if n % 2 else ""} for n in range(9)],
    "text": [{"key": f"k{n}", "text": f"{question(n)} {answer(n)}"} for n in range(9)],
    "preference": [{"key": f"k{n}", "prompt": question(n), "chosen": answer(n), "rejected": answer(n + 50)}
                   for n in range(9)],
}  # fmt: skip


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares a file or a folder, and returns the records by id."""

    def run(path: str, shape: str, id: str = "id") -> dict[str, dict]:
        source = {"path": path, "id": id}
        settings = {"inputs": [source], "records": {"shape": shape}, "dedup": None, "validate": {"answer_chars": None}}
        done = prepare_inline(settings | {"output": f"{tmp_path}/{shape}-{id}"}, monkeypatch)
        rows = [row for split in SPLITS for row in done.split(split).table().to_pylist()]
        Registry(Store(), f"{tmp_path}/datasets").tag(f"{shape}-{id}", done.uri)
        return {row["id"]: {name: row[name] for name in row if name in ROWS[shape][0]} for row in rows}

    return run


@pytest.mark.parametrize(("shape", "format"), [("messages", "sharegpt"), ("instruction", "alpaca")])
def test_an_export_is_prepared_as_the_same_records(prepared, tmp_path, monkeypatch, capsys, shape, format):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    first = prepared(str(tmp_path / "a.jsonl"), shape, "key")
    assert len(first) == 9
    monkeypatch.setenv("RAYMILL_DATASETS", f"{tmp_path}/datasets")
    with pytest.raises(SystemExit) as left:
        cli.main(("dataset", "export", f"{shape}-key", f"{tmp_path}/export", "--format", format))
    assert not left.value.code and "3 files written" in capsys.readouterr().out
    assert prepared(f"{tmp_path}/export", shape) == first


@pytest.mark.parametrize(
    ("shape", "format", "message"),
    [
        ("messages", "alpaca", "more than one question and answer"),
        ("text", "sharegpt", "a plain text"),
        ("preference", "sharegpt", r"records.preferences: chosen"),
    ],
)
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(prepared, tmp_path, shape, format, message):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    prepared(str(tmp_path / "a.jsonl"), shape, "key")
    version = Registry(Store(), f"{tmp_path}/datasets").find(f"{shape}-key")
    with pytest.raises(DataError, match=rf"record k\d does not fit the format {format} \(.*{message}"):
        export(Store(), version, f"{tmp_path}/export", format)
    assert not (tmp_path / "export").exists()
