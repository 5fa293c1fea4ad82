"""A data set of `raymill prepare` is trained on as it is: its splits, and its columns by their names."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raymill.cluster.dataset_versions import versions_of
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions.registry import Registry
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Columns, Corpus, Split
from raymill.training.export.card import lineage
from raymill.training.export.training_content import RunsBehind
from raymill.training.pack import job as packing
from raymill.training.pack.corpus import freeze_corpus, with_columns
from raymill.training.pack.documents import Chat, LeftOut, Pair, all_documents
from raymill.training.pack.split import split_of, survey_here
from raymill.training.pack.template import CHATML
from tests.support.inline import InlineEngine, curate_inline, prepare_inline
from tests.support.pack_runs import packed_by, write_lines
from tests.support.sampled import sampled
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.tool_chats import FORMS
from tests.support.train_inline import sentences, train_inline


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
    assert frozen.columns.named["split"] == "split" and frozen.columns.named["id"] == "id"
    cuts = survey_here(frozen, Split()).cuts
    found = {document.id: SPLITS[split_of(document, cuts)] for document in all_documents(frozen)}
    assert found == {row["id"]: split for split in SPLITS for row in run.split(split).table().to_pylist()}
    assert isinstance(next(all_documents(frozen)).content, kind)
    assert sorted(found.values()).count("test") == 10


def test_the_columns_that_raymill_writes_beside_the_texts_need_no_warning(prepared, tmp_path, monkeypatch):
    run = prepared("messages")
    columns = Columns(messages="messages")
    for path in (run.uri, f"{run.uri}/train"):
        assert freeze_corpus(Store(), Corpus(path=path), columns, 1 << 20).unread == {}
    web = tmp_path / "web.jsonl"
    web.write_text("".join(json.dumps(one) + "\n" for one in sentences(9)))
    plain = {
        "inputs": [{"path": str(web)}],
        "output": str(tmp_path / "web"),
        "language": None,
        "rules": {"packs": []},
        "dedup": None,
    }
    corpus = curate_inline(plain, monkeypatch).corpus.uri
    assert freeze_corpus(Store(), Corpus(path=corpus), Columns(text="text"), 1 << 20).unread == {}
    copied = tmp_path / "copied"
    shutil.copytree(corpus, copied, ignore=shutil.ignore_patterns("_manifest.json"))
    assert "source" in freeze_corpus(Store(), Corpus(path=str(copied)), Columns(text="text"), 1 << 20).unread


def test_another_folder_has_no_splits_of_its_own_unless_a_column_is_named(tmp_path):
    rows = [{"text": "a", "split": "test"}, {"text": "b", "split": "train"}, {"text": "c", "split": "other"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus(path=str(tmp_path / "c.jsonl"))
    plain = freeze_corpus(Store(), corpus, Columns(text="text"), 1 << 20)
    assert [document.split for document in all_documents(plain)] == [None] * 3
    left_out = LeftOut()
    named = freeze_corpus(Store(), corpus, Columns(text="text", split="split"), 1 << 20)
    assert [document.split for document in all_documents(named, left_out)] == [2, 0]
    assert left_out.reasons == {"bad_split": 1} and "'other'" in left_out.first["bad_split"][1]


def test_an_unfinished_data_set_is_not_trained_on(prepared, tmp_path):
    run = prepared("messages")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match="a run that is not finished"):
        freeze_corpus(Store(), Corpus(path=run.uri), Columns(messages="messages"), 1 << 20)


def test_a_split_that_a_data_set_does_not_have_is_refused_with_those_that_it_has(prepared):
    run = prepared("messages")
    with pytest.raises(DataError, match=r"the run of `raymill.prepare` in .* has no dev. It has: .*\btrain\b"):
        freeze_corpus(Store(), Corpus(path=f"{run.uri}/dev"), Columns(messages="messages"), 1 << 20)
    (Path(run.uri) / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"but the run beside it was started\. Run its command again"):
        freeze_corpus(Store(), Corpus(path=f"{run.uri}/dev"), Columns(messages="messages"), 1 << 20)


# --- classes of method probe

PROBE = {"method": "probe", "packing": {"mode": "none", "overflow": "truncate"}}


def labelled(tmp_path, monkeypatch, columns: dict[str, str], shape: str = "text", **more) -> str:
    """A data set of sentences, each with the votes of three annotators on its kind."""
    votes = {"river": ["river", "mountain", "river"], "mountain": [None, "mountain", "mountain"]}
    rows = [row | {"votes": votes[row["kind"]]} for row in sentences(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {"text": "text"} if shape == "text" else {"prompt": "question", "completion": "text"}
    source = {"path": str(tmp_path / "in.jsonl"), "id": "id", "columns": content | columns}
    plain = {"inputs": [source], "records": {"shape": shape}, "dedup": None, "output": str(tmp_path / "out")}
    return prepare_inline(plain | more, monkeypatch).uri


def probe(corpus: str, **more) -> TrainConfig:
    plain = {"kind": "train", "name": "t", "model": "m", "steps": 1, "output": "o", "corpus": corpus}
    return with_columns(TrainConfig.model_validate(plain | PROBE | more))


def classes(config: TrainConfig) -> dict[str, str | None]:
    (columns,) = config.all_columns
    frozen = freeze_corpus(config.store, config.corpus[0], columns, 1 << 20)
    return {document.id: document.label for document in all_documents(frozen)}


KINDS = {f"d{n}": ("river", "mountain")[n % 2] for n in range(40)}


@pytest.mark.parametrize(
    ("field", "column", "taken"),
    [
        ("labels", "votes", "annotations.labels"), ("label", "kind", "annotations.labels"),
        ("category", "kind", "annotations.categories"), ("categories", "kind", "annotations.categories"),
    ],
)  # fmt: skip
def test_a_probe_learns_the_labels_or_categories_of_a_data_set(tmp_path, monkeypatch, field, column, taken):
    config = probe(labelled(tmp_path, monkeypatch, {field: column}))
    assert config.all_columns[0].label == taken and config.all_columns[0].text == "text"
    assert classes(config) == KINDS, "of several labels the most frequent one"


def test_a_field_of_a_column_is_named_with_a_dot(tmp_path, monkeypatch):
    path = labelled(tmp_path, monkeypatch, {"kind": "kind"}, "pairs")
    config = probe(path, columns={"text": "prompt", "label": "metadata.kind"})
    assert classes(config) == KINDS
    (tmp_path / "plain.jsonl").write_text(json.dumps({"id": "d0", "text": "a", "about": {"kind": "river"}}) + "\n")
    lines = probe(str(tmp_path / "plain.jsonl"), columns={"text": "text", "label": "about.kind"})
    assert classes(lines) == {"d0": "river"}
    for name in ("metadata.colour", "metadata.kind.more", "nothing.kind"):
        with pytest.raises(ConfigError, match=f"no column {name}"):
            classes(probe(path, columns={"text": "prompt", "label": name}))


def test_a_probe_without_classes_or_texts_is_refused_with_the_fix(tmp_path, monkeypatch):
    path = labelled(tmp_path, monkeypatch, {"customer": "kind"})
    with pytest.raises(ConfigError, match=r"have no labels or categories.*`columns: \{labels: COLUMN\}`"):
        probe(path)
    with pytest.raises(ConfigError, match=r"no column of classes, which method probe predicts\. Name it"):
        probe(str(tmp_path / "in.jsonl"), columns={"text": "text"})
    other = labelled(tmp_path, monkeypatch, {"label": "kind"}, "pairs", output=str(tmp_path / "pairs"))
    with pytest.raises(ConfigError, match=r"method probe classifies plain texts\. Name one column"):
        probe(other)


def test_a_probe_is_trained_on_a_data_set_whose_version_its_report_and_card_name(tmp_path, monkeypatch):
    path = labelled(tmp_path, monkeypatch, {"labels": "votes"}, assess={"embeddings": None})
    monkeypatch.setenv("RAYMILL_DATASETS", str(tmp_path / "datasets"))
    tagged = Registry(Store(), str(tmp_path / "datasets")).tag("helpdesk", path)
    run = train_inline({"corpus": path, "output": str(tmp_path / "run"), **PROBE}, monkeypatch)
    exported = json.loads(Store().read_bytes(f"{run.uri}/export/probe/probe.json"))
    assert exported["labels"] == ["mountain", "river"]
    assert run.report["fits"][0]["after"]["test"]["loss"] > 0
    assert run.report["fits"][0]["corpora"][0]["prepared"] == {
        "name": "test", "versions": ["helpdesk:v1"], "digest": tagged.digest, "report": f"{path}/report.html",
    }  # fmt: skip
    page = Store().read_bytes(f"{run.uri}/report.html").decode()
    link = re.search(r'<a href="([^"]*)">its report</a>', page)[1]
    assert "helpdesk:v1" in page and (Path(run.uri) / link).samefile(f"{path}/report.html")
    card = Store().read_bytes(f"{run.uri}/export/probe/README.md").decode()
    assert "data set helpdesk:v1 of the prepare run test, Raymill 0" in card and tagged.digest in card
    assert "source input: licence not stated" in card and str(tmp_path) not in card


def test_a_split_and_what_is_made_again_have_the_data_set_that_was_packed(prepared, tmp_path):
    run = prepared("pairs")
    digest = run.manifest["digest"]
    for path in (run.uri, f"{run.uri}/train"):
        frozen = freeze_corpus(Store(), Corpus(path=path), Columns(text="prompt"), 1 << 20)
        assert (frozen.prepared.name, frozen.prepared.output, frozen.prepared.digest) == ("test", run.uri, digest)
    # The manifest of another run, with another train, stands above a split.
    written = tmp_path / "out" / "manifest.json"
    own = written.read_text()
    manifest = json.loads(own)
    manifest["artifacts"]["train"] = "another"
    written.write_text(json.dumps(manifest))
    assert freeze_corpus(Store(), Corpus(path=f"{run.uri}/train"), Columns(text="prompt"), 1 << 20).prepared is None
    assert lineage(RunsBehind(Store()), Corpus(path=run.uri), frozen.prepared).licences == {}
    written.write_text(own)
    known = lineage(RunsBehind(Store()), Corpus(path=run.uri), frozen.prepared)
    assert known.licences == {"input": None} and known.digest == digest
    later = lineage(RunsBehind(Store()), Corpus(path=run.uri), replace(frozen.prepared, digest="of before"), ["a:v1"])
    assert later.licences == {} and (later.digest, later.tags) == ("of before", ("a:v1",))


def test_versions_of_a_digest_are_found_among_other_files(tmp_path):
    def put(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    put("b/v2.json", json.dumps({"digest": "d", "tagged": "2026-01-01"}))
    put("a/v1.json", json.dumps({"digest": "d", "tagged": "2026-01-02"}))
    put("a/v2.json", json.dumps({"digest": "e", "tagged": "2026-01-03"}))
    put("a/deeper/v3.json", json.dumps({"digest": "d", "tagged": "2026-01-03"}))
    put("a/list.json", "[1]")
    put("a/data.json", "not JSON")
    put("a/large.json", json.dumps({"digest": "d", "text": "x" * (1 << 20)}))
    put("a/table.csv", "a,b")
    assert versions_of(Store(), str(tmp_path), "d") == ["b:v2", "a:v1"]
    assert versions_of(Store(), str(tmp_path / "none"), "d") == []


# --- tools


@pytest.mark.parametrize("form", sampled([*FORMS, "alpaca"], 3))
def test_a_prepared_data_set_is_packed_into_the_same_rows_as_the_file_that_it_was_made_of(form, tmp_path, monkeypatch):
    make = FORMS.get(form, earlier_turns)
    raw = write_lines(tmp_path / "raw.jsonl", [make(number) for number in range(12)])
    whole = {"train": 1, "validation": 0, "test": 0}
    rules = {"question_chars": None, "answer_chars": None}
    source = {"path": raw, "id": "id"}
    plain = {"inputs": [source], "output": f"{tmp_path}/out", "dedup": None, "split": whole, "validate": rules}
    prepared = prepare_inline(plain, monkeypatch).uri
    monkeypatch.setattr(packing, "Engine", InlineEngine)
    model = {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": saved(tmp_path / "t", tiny(CHATML))}
    lengths = {"sequence_length": 1024, "tokens_per_step": 1024}
    fingerprints = [
        packed_by(corpus, tmp_path / name, model=model, split=whole, **lengths).fingerprint
        for name, corpus in (("of-raw", raw), ("of-prepared", prepared))
    ]
    assert fingerprints[0] == fingerprints[1]


def earlier_turns(number: int) -> dict:
    turns = [["What is one?", "It is the first number."]]
    return {"id": f"a{number}", "instruction": "Add.", "input": f"1 and {number}", "output": "Ok.", "history": turns}
