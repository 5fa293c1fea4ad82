"""Terms of generated records: kept, shown, and refused where a config forbids them."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.versions.export import card
from raymill.pipelines.prepare.versions.registry import Registry
from raymill.training.config_parts import Columns, Corpus
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import LeftOut, all_documents
from tests.support.generate_inline import generate_inline, rows
from tests.support.inline import prepare_inline


@pytest.fixture
def generated(settings, monkeypatch, tmp_path):
    """The output of a model whose answers may not be trained on."""
    settings["model"]["terms"] = "no-training"
    generate_inline(settings, monkeypatch)
    return tmp_path / "out"


def prepared(tmp_path, monkeypatch, generated, **more):
    people = tmp_path / "people.jsonl"
    pairs = [(f"Where is cable {n} kept?", f"Cable {n} is in drawer number {n}.") for n in range(40)]
    people.write_text("".join(json.dumps({"prompt": one, "completion": two}) + "\n" for one, two in pairs))
    inputs = [{"source": "made", "path": str(generated)}, {"source": "people", "path": str(people), "licence": "MIT"}]
    return prepare_inline({"inputs": inputs, "output": str(tmp_path / "data"), "dedup": None} | more, monkeypatch)


def taken(run):
    return [row for split in ("train", "validation", "test") for row in rows(run, split)]


def test_a_data_set_keeps_the_model_the_terms_and_the_licence_of_each_record(generated, monkeypatch, tmp_path):
    run = prepared(tmp_path, monkeypatch, generated)
    marks = Counter(
        tuple(row["metadata"][name] for name in ("source", "synthetic", "generator", "terms", "licence"))
        for row in taken(run)
    )
    made = len([row for row in taken(run) if row["metadata"]["source"] == "made"])
    assert marks == {
        ("made", "true", "small", "no-training", "CC-BY-4.0"): made,
        ("people", None, None, None, "MIT"): 40,
    }
    (counted,) = run.report["generated"]
    assert (counted["generator"], counted["terms"], sum(counted["splits"].values())) == ("small", "no-training", made)
    assert "Records that models generated" in (tmp_path / "data/report.html").read_text()


def test_the_card_has_a_table_of_models_and_terms(generated, monkeypatch, tmp_path):
    run = prepared(tmp_path, monkeypatch, generated)
    text = card(Store(), Registry(Store(), str(tmp_path / "registry")).tag("made", run.uri, note=""))
    front = yaml.safe_load(text.split("---")[1])
    made = sum(run.report["generated"][0]["splits"].values())
    assert "synthetic" in front["tags"] and front["annotations_creators"] == ["machine-generated"]
    assert f"| small | no-training | {made} |" in text


def test_forbidden_terms_are_removed_with_the_reason(generated, monkeypatch, tmp_path):
    run = prepared(tmp_path, monkeypatch, generated, terms={"forbid": ["no-training"]})
    assert {row["metadata"]["source"] for row in taken(run)} == {"people"}
    assert run.report["generated"] == []
    gone = [row for row in rows(run, "removed") if row["reason"] == "terms_forbidden"]
    assert gone and {(row["value"], row["limit"]) for row in gone} == {("no-training", "none of no-training")}


@pytest.mark.parametrize("of", ["records", "data set", "files", "lines"])
def test_records_under_forbidden_terms_are_not_trained_on(generated, monkeypatch, tmp_path, of):
    columns, path = Columns(prompt="prompt", completion="completion"), generated / "records"
    made = len(rows(generated, "records"))
    if of == "data set":
        run = prepared(tmp_path, monkeypatch, generated, records={"shape": "pairs"})
        path, made = tmp_path / "data", sum(run.report["generated"][0]["splits"].values())
    elif of != "records":  # the column is in some files or lines alone
        path = tmp_path / "mixed"
        path.mkdir()
        texts = [{"prompt": one["prompt"], "completion": one["completion"], "terms": one["terms"]}
                 for one in rows(generated, "records")]  # fmt: skip
        own = [{"prompt": "Where?", "completion": "Here."}]
        if of == "files":
            pq.write_table(pa.Table.from_pylist(own), path / "a.parquet")
            pq.write_table(pa.Table.from_pylist(texts), path / "b.parquet")
        else:
            (path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in own + texts))

    def read(forbidden):
        corpus, left_out = Corpus(path=str(path)), LeftOut()
        frozen = freeze_corpus(Store(), corpus, columns, 1 << 20, forbidden_terms=forbidden)
        return len(list(all_documents(frozen, left_out))), left_out.reasons["terms_forbidden"]

    everything, none = read(())
    others = 0 if of == "records" else 40 if of == "data set" else 1
    assert (everything, none) == (made + others, 0)
    if others:
        assert read(("no-training",)) == (others, made)
