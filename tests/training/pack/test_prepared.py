"""A data set of `raymill prepare` is trained on as it is: its splits, and its columns by their names."""

import json

import pytest

from cluster.errors import DataError
from cluster.store.store import Store
from tests.support.inline import prepare_inline
from training.config_parts import Columns, Corpus, Split
from training.data.packed import SPLITS
from training.pack.documents import Chat, LeftOut, Pair, all_documents
from training.pack.sources import freeze_corpus
from training.pack.split import split_of
from training.pack.survey import survey_here


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    rows = [
        {"question": f"What is number {n} of all?", "answer": f"It is the number {n}, after {n - 1}."}
        for n in range(40)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(shape: str, name: str = "out"):
        plain = {
            "inputs": [{"path": str(tmp_path / "in.jsonl")}],
            "output": str(tmp_path / name),
            "records": {"shape": shape},
            "dedup": None,
            "split": {"train": 0.5, "validation": 0.25, "test": 0.25},
        }
        return prepare_inline(plain, monkeypatch)

    return run


@pytest.mark.parametrize(
    ("shape", "columns", "kind"),
    [
        ("messages", Columns(messages="messages"), Chat),
        ("pairs", Columns(prompt="prompt", completion="completion", system="system"), Pair),
        ("instruction", Columns(prompt="instruction", completion="output", input="input"), Pair),
    ],
)
def test_documents_have_the_split_that_was_prepared(prepared, shape, columns, kind):
    run = prepared(shape)
    frozen = freeze_corpus(Store(), Corpus(path=run.uri), columns, 1 << 20)
    assert frozen.columns.split == "split" and frozen.columns.id == "id"
    cuts = survey_here(frozen, Split()).cuts
    found = {document.id: SPLITS[split_of(document, cuts)] for document in all_documents(frozen)}
    assert found == {row["id"]: split for split in SPLITS for row in run.split(split).table().to_pylist()}
    assert isinstance(next(all_documents(frozen)).content, kind)
    assert sorted(found.values()).count("test") == 10


def test_another_folder_has_no_splits_of_its_own_unless_a_column_is_named(tmp_path):
    rows = [{"text": "a", "split": "test"}, {"text": "b", "split": "train"}, {"text": "c", "split": "dev"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus(path=str(tmp_path / "c.jsonl"))
    plain = freeze_corpus(Store(), corpus, Columns(text="text"), 1 << 20)
    assert [document.split for document in all_documents(plain)] == [None] * 3
    left_out = LeftOut()
    named = freeze_corpus(Store(), corpus, Columns(text="text", split="split"), 1 << 20)
    assert [document.split for document in all_documents(named, left_out)] == [2, 0]
    assert left_out.reasons == {"bad_split": 1} and "'dev'" in left_out.first["bad_split"][1]


def test_an_unfinished_data_set_is_not_trained_on(prepared, tmp_path):
    run = prepared("messages")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match="a run that is not finished"):
        freeze_corpus(Store(), Corpus(path=run.uri), Columns(messages="messages"), 1 << 20)
