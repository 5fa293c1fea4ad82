"""Hugging Face data sets of `save_to_disk`: nested messages of a split are records, and what is damaged is named."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question

disable_progress_bars()


def chat(n: int, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")) -> list:
    return [{role: name, content: text} for name, text in zip(names, (question(n), answer(n)), strict=True)]


CHATS = [{"key": n, "messages": chat(n), "about": {"topic": "mail", "tags": ["a"]}, "stars": n / 2} for n in range(12)]
SHARED = [{"key": n, "conversations": chat(n, "from", "value", ("human", "gpt"))} for n in range(12)]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares the saved data set: (the records by id, the rows of quarantine)."""

    def run(**source) -> tuple[dict[str, dict], list[dict]]:
        settings = {
            "inputs": [{"path": str(tmp_path / "saved"), "id": "key"} | source], "output": str(tmp_path / "out"),
            "execution": {"max_bad_documents": 1},
        }  # fmt: skip
        done = prepare_inline(settings, monkeypatch)
        found = {row["id"]: row for split in SPLITS for row in done.split(split).table().to_pylist()}
        return found, Artifact.load(Store(), f"{done.uri}/quarantine").table().to_pylist()

    return run


@pytest.mark.parametrize("rows", [CHATS, SHARED])
def test_nested_messages_of_all_shards_are_chats(prepared, tmp_path, rows):
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=3)
    found, quarantined = prepared()
    assert {id: row["messages"] for id, row in found.items()} == {str(n): chat(n) for n in range(12)}
    assert not quarantined


def test_a_split_is_read_by_its_name_and_its_columns_are_metadata(prepared, tmp_path):
    splits = {"train_sft": CHATS[:9], "test_sft": CHATS[9:]}
    DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(tmp_path / "saved")
    columns = {"messages": "messages", "about": "about", "quality_score": "stars"}
    found, _ = prepared(split="test_sft", columns=columns)
    assert set(found) == {"9", "10", "11"}
    assert json.loads(found["9"]["metadata"]["about"]) == {"topic": "mail", "tags": ["a"]}
    assert found["9"]["metadata"]["quality_score"] == 4.5
    with pytest.raises(DataError, match=r"no split train\. It has: train_sft, test_sft\. Set `split` to one of them"):
        prepared()


BAD = [
    {"key": 20, "messages": None, "stars": 1.5},
    {"key": 21, "messages": [], "stars": 2.5},
    {"key": 22, "messages": [{"role": None, "content": "Who said this?"}], "stars": 3.5},
    {"key": 23, "messages": [{"role": "user", "content": "Is nobody there?"}], "stars": 4.5},
]


def test_rows_without_a_chat_are_in_quarantine_with_their_fields(prepared, tmp_path):
    rows = [{name: row[name] for name in BAD[0]} for row in CHATS] + BAD
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    found, quarantined = prepared(columns={"messages": "messages", "stars": "stars"})
    assert len(found) == 12
    shown = {row["problem"]: json.loads(row["content"]) for row in quarantined}
    assert list(shown) == ["null_text", "empty", "bad_messages", "wrong_order"]
    assert shown["null_text"] == {"id": "20", "stars": "1.5"}
    assert json.loads(shown["wrong_order"]["messages"]) == BAD[3]["messages"]


def arrow_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "saved").glob("*.arrow"))


def cut(tmp_path: Path) -> None:
    whole = arrow_files(tmp_path)[-1].read_bytes()
    arrow_files(tmp_path)[-1].write_bytes(whole[: len(whole) // 2])


def test_of_a_file_that_was_cut_off_the_rest_is_one_row_of_quarantine(prepared, tmp_path):
    Dataset.from_list(CHATS).save_to_disk(tmp_path / "saved", num_shards=2)
    cut(tmp_path)
    found, (rest,) = prepared()
    assert set(found) == {str(n) for n in range(6)}
    assert rest["problem"] == "truncated" and rest["where"] == f"{arrow_files(tmp_path)[1]} row 0"


@pytest.mark.parametrize(
    ("harm", "source", "message"),
    [
        (lambda folder: arrow_files(folder)[1].unlink(), {}, "1 of 2 files of the data set are missing. Save it again"),
        (lambda folder: [one.write_bytes(b"no Arrow" * 99) for one in arrow_files(folder)], {}, "not an Arrow stream"),
        (lambda folder: (folder / "saved" / "state.json").unlink(), {"format": "hf"}, "no state.json or dataset_dict"),
        (lambda folder: None, {"columns": {"messages": "turns"}}, "no column turns .*It has: key, messages, about"),
        (lambda folder: None, {"columns": {"messages": "messages"}, "id": "about"}, "wanted strings or whole numbers"),
    ],
    ids=["a lost file", "rubbish", "no state", "another column", "no id"],
)  # fmt: skip
def test_a_data_set_that_cannot_be_read_is_an_error_that_names_it(prepared, tmp_path, harm, source, message):
    Dataset.from_list(CHATS).save_to_disk(tmp_path / "saved", num_shards=2)
    harm(tmp_path)
    with pytest.raises(DataError, match=message):
        prepared(**source)
