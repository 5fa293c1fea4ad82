"""What is refused before Ray starts: files that are not what their names state, tokenizers and templates."""

import gzip
import json

import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Columns, Corpus
from raymill.training.job import train
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import check_corpora
from raymill.training.tokenizer.preview import preview
from tests.support.tiny_tokenizers import tiny
from tests.support.train_inline import MODEL, PLAIN

ROWS = "".join(json.dumps({"text": f"Text number {n}."}) + "\n" for n in range(20))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("b.jsonl", ROWS.encode("utf-16"), "the file is UTF-16, .*iconv -f UTF-16"),
        ("b.jsonl", ROWS.encode("utf-16-le"), "the file is UTF-16, .*iconv -f UTF-16"),
        ("b.jsonl", ROWS.replace("Text", "T\xe4xt").replace("\xe4", "\\u00e4").encode(), None),
        ("b.jsonl", "".join(f'{{"text": "Stra\xdfe \xe4\xf6\xfc {n}"}}\n' for n in range(9)).encode("latin-1"),
         "one byte a character"),
        ("b.jsonl", json.dumps([{"text": "a"}]).encode(), "the file is one JSON array; .*jq -c"),
        ("b.jsonl", json.dumps([{"text": "a"}], indent=1).encode(), "the file is one JSON array; .*jq -c"),
        ("b.jsonl", ROWS.replace("\n", "\r").encode(), "carriage returns alone"),
        ("b.jsonl", gzip.compress(ROWS.encode()), "compressed with gzip, zstd, bzip2 or lz4 and its name lacks"),
        ("b.jsonl.gz", gzip.compress(ROWS.encode()), None),
        ("b.jsonl.gz", ROWS.encode(), "not compressed as its ending"),
        ("b.jsonl.zst", gzip.compress(ROWS.encode()), "compressed"),
        ("b.jsonl.gz", gzip.compress(ROWS.encode("utf-16")), "the file is UTF-16"),
        ("b.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ("b.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ("b.jsonl", ROWS.encode(), None),
    ],
)  # fmt: skip
def test_a_file_beside_good_ones_that_is_not_what_its_name_states_is_named_with_the_fix(tmp_path, name, content, told):
    (tmp_path / "a.jsonl").write_text(ROWS)
    (tmp_path / name).write_bytes(content)

    def look() -> None:
        corpus = freeze_corpus(Store(), Corpus(path=str(tmp_path)), Columns(text="text"), 1 << 20)
        check_corpora({"corpus-0": corpus})

    if told is None:
        look()
    else:
        with pytest.raises(DataError, match=f"{tmp_path}/{name}: .*{told}"):
            look()


@pytest.fixture
def settings(tmp_path) -> dict:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "chats.jsonl").write_text((json.dumps(chat) + "\n") * 20)
    (tmp_path / "words").mkdir()
    model = {"config": MODEL | {"vocab_size": 400}, "tokenizer": str(tmp_path / "words")}
    return PLAIN | {"corpus": str(tmp_path / "chats.jsonl"), "output": str(tmp_path / "run"), "model": model}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("template", "no chat template"),
        ("syntax", "is not a Jinja template .line 2"),
        ("eos", "no end-of-text token"),
        ("tokenizer.json", "tokenizer.json"),
        ("corpus", "one JSON array"),
    ],
)
def test_training_refuses_data_and_tokenizers_before_it_starts_ray(settings, tmp_path, change, told):
    tokenizer = tiny("{% for m in messages %}\n{% if %}{% endfor %}" if change == "syntax" else None)
    if change == "eos":
        tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "words")
    if change == "tokenizer.json":
        (tmp_path / "words" / "tokenizer.json").write_text('{"model": {"type": "none of any library"}}')
    if change == "corpus":
        (tmp_path / "chats.jsonl").write_text(json.dumps([{"messages": []}]))
    config = TrainConfig.model_validate(settings)
    with pytest.raises((ConfigError, DataError), match=told):
        train(config, Session(address="nowhere:1"), Progress())
    with pytest.raises((ConfigError, DataError), match=told):
        preview(config, 1)
