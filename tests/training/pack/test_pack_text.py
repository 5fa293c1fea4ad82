"""The run's tokenizer, and the stage that makes examples of a corpus."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.packed import EXAMPLES
from raymill.training.pack import tokenise
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import Document
from raymill.training.pack.encode import Encoder
from raymill.training.pack.job import prepare_tokenizer
from raymill.training.pack.packed_run import TokenizerAt
from raymill.training.pack.split import Cuts, find_classes, survey_here
from raymill.training.pack.template import CHATML
from raymill.training.pack.tokenise import refuse_no_examples, tokenise_stage
from raymill.training.tokenizer.load_tokenizer import load_tokenizer
from tests.support.stages import run_inline
from tests.support.tiny_tokenizers import DOUBLED_BOS, FORGETFUL, LLAMA_LIKE, NO_END, encoder_of, saved, shown, tiny

OF_TEXTS = tiny()
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "naïve", "字", "🦊"]


def config(corpus, *, tokenizer="train", vocab_size=None, template=None, **settings):
    vocab_size = vocab_size or (320 if tokenizer == "train" else 400)
    model = {"config": {"model_type": "llama", "vocab_size": vocab_size}, "tokenizer": str(tokenizer)}
    if template:
        model["chat_template"] = str(template)
    plain = {"kind": "train", "name": "t", "corpus": str(corpus), "model": model, "steps": 1, "output": "out"}
    return TrainConfig.model_validate(plain | settings)


def corpus(folder, count=60, **columns):
    """JSON Lines of made-up texts, and what else is asked for by column -> function of the row's number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(count):
        text = " ".join(WORDS[(n * 7 + k * k) % len(WORDS)] for k in range(n % 9 + 1)) + f" {n}"
        rows.append({"id": f"d{n}", "text": text} | {name: make(n) for name, make in columns.items()})
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(root, settings, unit_bytes=1 << 20, classes=()):
    """The artifact of examples of the first corpus, by the stage alone."""
    packed = str(root / "packed")
    tokenizer = TokenizerAt(settings.store, f"{packed}/tokenizer", prepare_tokenizer(settings, packed))
    frozen = freeze_corpus(Store(), settings.corpus[0], settings.all_columns[0], unit_bytes)
    cuts = survey_here(frozen, settings.split).cuts
    stage = tokenise_stage("corpus-0", frozen, tokenizer, settings.split, cuts, settings.seed, classes)
    (made,) = run_inline(stage, packed).values()
    return made


def rows(artifact):
    return sorted(tuple(map(str, row.values())) for row in artifact.table().to_pylist())


# --- the tokenizer


def test_a_tokenizer_has_all_its_chat_templates_also_those_in_a_folder_of_their_own(tmp_path):
    templates = {"default": LLAMA_LIKE, "tool_use": FORGETFUL}
    folder = saved(tmp_path / "two", tiny(templates))
    assert (tmp_path / "two" / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert load_tokenizer(Store(), folder).chat_template == templates


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "\x1b[2J", "x" * 300, "a\x00"])
def test_a_chat_template_with_a_name_that_no_file_can_have_is_refused_with_its_file(name, tmp_path):
    folder = Path(saved(tmp_path / "two", tiny(LLAMA_LIKE)))
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    named = [{"name": "default", "template": LLAMA_LIKE}, {"name": name, "template": FORGETFUL}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    with pytest.raises(ConfigError, match=re.escape(f"{file}, chat_template: the template ")) as refused:
        load_tokenizer(Store(), str(folder))
    assert str(refused.value).isprintable() and "Give it another name" in str(refused.value)


def test_a_chat_template_that_is_no_text_is_refused_with_its_file(tmp_path):
    folder = Path(saved(tmp_path / "two", tiny(LLAMA_LIKE)))
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    for template in (7, {"default": LLAMA_LIKE, "x": 7}, {"default": ["a"]}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
        with pytest.raises(ConfigError, match=r"tokenizer_config\.json, chat_template: the template '\w+' is no text"):
            load_tokenizer(Store(), str(folder))


def test_a_fitted_tokenizer_learns_no_token_from_what_occurs_once(tmp_path):
    folder = corpus(tmp_path / "c")
    (folder / "b.jsonl").write_text(json.dumps({"id": "once", "text": "zqxjk"}) + "\n")
    prepare_tokenizer(config(folder, split={"train": 1.0, "validation": 0, "test": 0}), str(tmp_path / "p"))
    trained = load_tokenizer(Store(), f"{tmp_path}/p/tokenizer").get_vocab()
    assert not {"zq", "qx", "xj", "jk"} & trained.keys() and any("fo" in token for token in trained)


def test_a_fitted_tokenizer_writes_any_text_and_gives_it_back(tmp_path):
    settings = config(corpus(tmp_path / "c"))
    prepare_tokenizer(settings, str(tmp_path / "p"))
    tokenizer = load_tokenizer(Store(), f"{tmp_path}/p/tokenizer")
    for text in ("the quick fox", "\x00\x7f é字🦊\u200b\r\n\t  x", "", "  two  spaces "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 320
    assert tokenizer("the")["input_ids"] == [tokenizer.convert_tokens_to_ids("the")]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template) == ("<|endoftext|>", "<|pad|>", CHATML)


def test_the_same_documents_give_the_same_tokenizer_in_every_process(tmp_path):
    settings = config(corpus(tmp_path / "c", 200))
    here = prepare_tokenizer(settings, str(tmp_path / "here"))
    code = (
        "import sys; from raymill.training.config import TrainConfig\n"
        "from raymill.training.pack.job import prepare_tokenizer\n"
        "print(prepare_tokenizer(TrainConfig.model_validate_json(sys.argv[1]), sys.argv[2]))"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, settings.model_dump_json(exclude={"storage"}), str(tmp_path / "there")]
    there = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout.split()[-1]
    assert here == there


def test_a_fitted_tokenizer_does_not_see_held_out_documents(tmp_path):
    words = {"a": "fjordfjord", "b": "glyphglyph"}
    documents = corpus(tmp_path / "c", 40, text=lambda n: f"{words['ab'[n % 2]]} {n}", group_id=lambda n: "ab"[n % 2])
    made = run(tmp_path, config(documents, split={"train": 0.5, "validation": 0.5, "test": 0}))
    split = {row["document"]: row["split"] for row in made.table().to_pylist()}
    seen, unseen = (words["a"], words["b"]) if split["d0"] == 0 else (words["b"], words["a"])
    tokenizer = load_tokenizer(Store(), f"{tmp_path}/packed/tokenizer")
    assert len(tokenizer(seen)["input_ids"]) == 1
    assert len(tokenizer(unseen)["input_ids"]) == len(unseen)


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(tmp_path):
    settings = config(corpus(tmp_path / "c"), tokenizer=saved(tmp_path / "t", tiny()), vocab_size=100)
    with pytest.raises(ConfigError, match=r"model.tokenizer: it has \d+ tokens, and the model has 100 embeddings"):
        prepare_tokenizer(settings, str(tmp_path / "p"))


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model.config.vocab_size: 259; .* needs 260 or more"):
        prepare_tokenizer(config(corpus(tmp_path / "c"), vocab_size=259), str(tmp_path / "p"))


def test_a_prepared_tokenizer_is_found_again_and_another_is_refused(tmp_path):
    settings = config(corpus(tmp_path / "c"), tokenizer=saved(tmp_path / "t", tiny(CHATML)))
    packed = tmp_path / "p"
    first = prepare_tokenizer(settings, str(packed))
    shutil.rmtree(tmp_path / "t")
    assert prepare_tokenizer(settings, str(packed)) == first
    other = config(tmp_path / "c")
    with pytest.raises(DataError, match="holds another tokenizer than the config's"):
        prepare_tokenizer(other, str(packed))
    assert prepare_tokenizer(other, str(packed), replace=True) != first
    record = packed / "tokenizer" / "prepared.json"
    record.write_bytes(record.read_bytes()[:9])
    with pytest.raises(DataError, match=r"prepared\.json: not the record of a tokenizer .*Delete it"):
        prepare_tokenizer(other, str(packed))
    record.unlink()  # as after an interrupt: made again
    assert prepare_tokenizer(other, str(packed)) != first


def test_a_prepared_tokenizer_gives_the_ids_of_the_one_it_was_made_from(tmp_path):
    source = tiny(CHATML, adds_bos=True)
    prepare_tokenizer(config(corpus(tmp_path / "c"), tokenizer=saved(tmp_path / "t", source)), str(tmp_path / "p"))
    kept = load_tokenizer(Store(), f"{tmp_path}/p/tokenizer")
    assert kept("the quick fox <|im_end|>")["input_ids"] == source("the quick fox <|im_end|>")["input_ids"]
    assert kept.chat_template == CHATML


def test_a_tokenizer_on_an_object_store(tmp_path, s3_root, s3_store):

    saved(tmp_path / "t", tiny(CHATML))
    for file in (tmp_path / "t").iterdir():
        s3_store.write_bytes(f"{s3_root}/models/tiny/{file.name}", file.read_bytes())
    settings = config(corpus(tmp_path / "c"), tokenizer=f"{s3_root}/models/tiny", storage=s3_store.options)
    prepare_tokenizer(settings, f"{s3_root}/packed")
    kept = load_tokenizer(s3_store, f"{s3_root}/packed/tokenizer")
    assert kept("the fox")["input_ids"] == tiny()("the fox")["input_ids"]


@pytest.mark.parametrize(
    ("template", "columns", "message"),
    [
        (None, {"messages": "m"}, "the tokenizer has no chat template"),
        ("nowhere.jinja", {"text": "text"}, "model.chat_template: no file nowhere.jinja"),
    ],
)
def test_a_tokenizer_that_cannot_do_what_is_asked_is_refused(tmp_path, template, columns, message):
    tokenizer = saved(tmp_path / "t", tiny())
    settings = config(corpus(tmp_path / "c"), tokenizer=tokenizer, template=template, columns=columns)
    with pytest.raises(ConfigError, match=message):
        prepare_tokenizer(settings, str(tmp_path / "p"))


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer here"):
        load_tokenizer(Store(), str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer here"):
        load_tokenizer(Store(), str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer can be loaded"):
        load_tokenizer(Store(), str(tmp_path))


def test_chatml_is_refused_where_its_marks_are_no_tokens(tmp_path):
    tokenizer = tiny()
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<|im_")]
    saved(tmp_path / "t", tokenizer)
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(plain))
    told = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    told["extra_special_tokens"] = []
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(told))
    settings = config(corpus(tmp_path / "c"), tokenizer=tmp_path / "t", template="chatml")
    with pytest.raises(ConfigError, match=r"chatml needs <\|im_start\|> and <\|im_end\|> as tokens"):
        prepare_tokenizer(settings, str(tmp_path / "p"))


# --- examples


def test_a_text_is_trained_on_whole_but_for_its_first_token(tmp_path):
    settings = config(corpus(tmp_path / "c", 3), tokenizer=saved(tmp_path / "t", tiny(adds_bos=True)))
    table = run(tmp_path, settings).table()
    by_id = {row["document"]: row for row in table.to_pylist()}
    lines = [json.loads(line) for line in (tmp_path / "c" / "a.jsonl").read_text().splitlines()]
    for line in lines:
        row = by_id[line["id"]]
        assert shown(tiny(), np.array(row["ids"]), np.array(row["labels"])) == f"<s>[{line['text']}</s>]"
    assert table.schema.equals(EXAMPLES)


@pytest.mark.parametrize("text", ["the fox", "<s>the fox", "the fox</s>", "<s>the fox</s>"])
def test_a_text_that_brings_its_own_beginning_and_end_does_not_get_them_twice(text):
    (example,) = encoder_of(tiny(adds_bos=True)).encode([Document("d", text, 1, 1, "", None)]).examples
    assert shown(tiny(), example.ids, example.trained) == "<s>[the fox</s>]"


def test_examples_are_the_same_however_the_corpus_is_cut(tmp_path):
    settings = config(corpus(tmp_path / "c"))
    whole = run(tmp_path / "one", settings)
    cut = run(tmp_path / "many", settings, unit_bytes=200)
    assert len(cut.manifest.files) > 10
    assert rows(whole) == rows(cut)
    assert whole.manifest.counters == cut.manifest.counters


def test_rows_of_a_unit_are_sorted_by_split_and_place_and_counted(tmp_path):
    made = run(tmp_path, config(corpus(tmp_path / "c")))
    table, counters = made.table(), made.manifest.counters
    order = list(zip(table["split"].to_pylist(), table["place"].to_pylist(), strict=True))
    assert order == sorted(order)
    assert [counters[f"examples/{name}"] for name in SPLITS] == [48, 6, 6]
    assert counters["documents"] == counters["examples"] == 60
    assert sum(counters[f"tokens/{name}"] for name in SPLITS) == sum(map(len, table["ids"].to_pylist()))
    assert sum(counters[f"label_tokens/{name}"] for name in SPLITS) == sum(map(sum, table["labels"].to_pylist()))


def test_another_seed_gives_another_order_and_the_same_splits(tmp_path):
    tables = [run(tmp_path / str(seed), config(corpus(tmp_path / "c"), seed=seed)).table() for seed in (1, 2)]
    first, second = ([row["document"] for row in table.to_pylist()] for table in tables)
    assert first != second
    splits = [{row["document"]: row["split"] for row in table.to_pylist()} for table in tables]
    assert splits[0] == splits[1]


def test_what_cannot_be_trained_on_is_left_out_and_counted(tmp_path):
    messages = [
        [{"role": "user", "content": "the"}, {"role": "assistant", "content": "fox"}],
        [{"role": "user", "content": "the"}],
        "no JSON",
        None,
        [],
    ]
    documents = corpus(tmp_path / "c", 10, messages=lambda n: messages[n % 5])
    made = run(tmp_path, config(documents, columns={"messages": "messages"}))
    counted = {name: value for name, value in made.manifest.counters.items() if name.startswith("left_out/")}
    assert counted == {
        "left_out/no_assistant_turn": 2,
        "left_out/bad_messages": 2,
        "left_out/null": 2,
        "left_out/empty": 2,
    }
    assert made.manifest.counters["examples"] == 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (DOUBLED_BOS, r"(?s)doubled_bos.*reads:\n<s><s>the"),
        (NO_END, r"(?s)no_end_of_turn.*reads:\nuser: the\nassistant: fox"),
        ("{{ nothing.at.all }}", r"(?s)template_error.*UndefinedError"),
    ],
)
def test_a_template_that_fails_for_everything_stops_the_run_and_shows_what_it_wrote(tmp_path, template, message):
    turns = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "fox"}]
    documents = corpus(tmp_path / "c", 3, messages=lambda n: turns)
    tokenizer = saved(tmp_path / "t", tiny(template))
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, config(documents, tokenizer=tokenizer, columns={"messages": "messages"}))


def test_a_corpus_without_an_example_is_refused_with_what_became_of_it(tmp_path):
    documents = corpus(tmp_path / "c", 3, messages=lambda n: [{"role": "user", "content": "the"}])
    made = run(tmp_path, config(documents, columns={"messages": "messages"}))
    with pytest.raises(DataError, match=r"no document gives an example to train on. Left out: 3 no_assistant_turn"):
        refuse_no_examples(made, "c")


def test_classes_are_numbered_for_a_probe(tmp_path):
    documents = corpus(tmp_path / "c", 6, label=lambda n: ["b", "a", None][n % 3])
    settings = config(
        documents,
        method="probe",
        columns={"text": "text", "label": "label"},
        packing={"mode": "none", "overflow": "truncate"},
    )
    frozen = freeze_corpus(Store(), settings.corpus[0], settings.all_columns[0], 1 << 20)
    classes = find_classes([frozen], [survey_here(frozen, settings.split, classes=True)])
    made = run(tmp_path, settings, classes=classes)
    labels = {row["document"]: row["label"] for row in made.table().to_pylist()}
    assert labels == {"d0": 1, "d1": 0, "d3": 1, "d4": 0}
    assert made.manifest.counters["left_out/no_class"] == 2


def test_a_unit_is_tokenised_in_tables_of_bounded_size(tmp_path, monkeypatch):
    seen = []
    encode = Encoder.encode
    monkeypatch.setattr(tokenise, "_TABLE_BYTES", 300)
    monkeypatch.setattr(Encoder, "encode", lambda self, documents: seen.append(documents) or encode(self, documents))
    run(tmp_path, config(corpus(tmp_path / "c")))
    assert max(sum(document.bytes for document in documents) for documents in seen) < 300 + 100
    assert sum(map(len, seen)) == 60


def test_examples_are_sorted_in_pieces_of_bounded_size_and_memory_is_stated(tmp_path, monkeypatch):
    settings = config(corpus(tmp_path / "c", 300))
    monkeypatch.setattr(tokenise, "_TABLE_BYTES", 300)
    whole = run(tmp_path / "whole", settings)
    monkeypatch.setattr(tokenise, "_SORTED_BYTES", 4000)
    sorted_bytes, write = [], tokenise.Tokenise._write

    def written(self, tables, scratch):
        sorted_bytes.append(sum(one.table.nbytes for one in tables))
        write(self, tables, scratch)

    monkeypatch.setattr(tokenise.Tokenise, "_write", written)
    pieces = run(tmp_path / "pieces", settings)
    assert rows(pieces) == rows(whole) and pieces.manifest.counters == whole.manifest.counters
    assert len(sorted_bytes) > 3 and max(sorted_bytes) < 4000 + 5 * 1000
    frozen = freeze_corpus(Store(), settings.corpus[0], settings.all_columns[0], 1 << 20)
    place = TokenizerAt(Store(), str(tmp_path), "0" * 32)
    stage = tokenise_stage(
        "c", dataclasses.replace(frozen, unit_bytes=(32 << 20,)), place, settings.split, Cuts((0, 0)), 1
    )
    assert stage.memory == (704 << 20) + 2 * 4000
    monkeypatch.undo()
    for unit_bytes, memory in ((32 << 20, 1 << 30), (64 << 30, (704 + 512) << 20)):
        sized = dataclasses.replace(frozen, unit_bytes=(unit_bytes,))
        assert tokenise_stage("c", sized, place, settings.split, Cuts((0, 0)), 1).memory == memory


def test_a_tokenizer_that_changed_after_it_was_prepared_is_noticed(tmp_path):
    settings = config(corpus(tmp_path / "c"))
    packed = str(tmp_path / "packed")
    prepare_tokenizer(settings, packed)
    frozen = freeze_corpus(Store(), settings.corpus[0], settings.all_columns[0], 1 << 20)
    with pytest.raises(DataError, match="the tokenizer has changed since it was prepared"):
        run_inline(
            tokenise_stage(
                "c", frozen, TokenizerAt(Store(), f"{packed}/tokenizer", "0" * 32), settings.split, Cuts((0, 0)), 1
            ),
            packed,
        )


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30).filter(str.strip), min_size=1, max_size=5))
def test_the_tokens_of_any_text_are_the_tokenizers_own_and_decode_to_it(texts):
    documents = [Document(str(n), text, 1, 1, "", None) for n, text in enumerate(texts)]
    for text, example in zip(texts, encoder_of(OF_TEXTS).encode(documents).examples, strict=True):
        assert example.ids.tolist() == [*OF_TEXTS(text)["input_ids"], OF_TEXTS.eos_token_id]
        assert OF_TEXTS.decode(example.ids) == text + "</s>"
        assert len(example.ids) == len(example.trained)
        assert example.trained.tolist() == [False] + [True] * (len(example.ids) - 1)


def test_technical_texts_of_a_parquet_corpus(tmp_path, shared_data):
    table = pq.read_table(shared_data / "peps.parquet").slice(0, 40)
    pq.write_table(table.select(["id", "text"]), tmp_path / "peps.parquet")
    made = run(tmp_path, config(tmp_path / "peps.parquet", vocab_size=600), unit_bytes=200_000)
    found = pa.table({"document": table["id"], "text": table["text"]}).to_pylist()
    tokenizer = load_tokenizer(Store(), f"{tmp_path}/packed/tokenizer")
    texts = {row["document"]: tokenizer.decode(row["ids"]) for row in made.table().to_pylist()}
    assert texts == {row["document"]: row["text"] + "<|endoftext|>" for row in found}
