"""The model card: what it says, that it is escaped, and that no document's text gets into it."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Corpus
from raymill.training.export.card import Lineage, card, lineage
from raymill.training.export.training_content import RunsBehind
from raymill.training.methods import FOLDERS
from raymill.training.model_folder.loading import Base, literal, loading
from tests.support.card_cases import config, facts


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def code_of(text: str) -> str:
    return re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]


def test_the_front_matter_is_what_the_hub_reads():
    origin = Lineage("c", datasets=("org/data", "org/data", "../evil"))
    assert front_matter(card(facts(origin=origin), "adapter")) == {
        "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["raymill", "lora"],
        "base_model": "org/model", "base_model_relation": "adapter", "datasets": ["org/data"],
    }  # fmt: skip
    found = {folder: front_matter(card(facts(), folder)) for folder in FOLDERS}
    names = ("library_name", "pipeline_tag", "base_model", "base_model_relation")
    assert {folder: [one.get(name) for name in names] for folder, one in found.items()} == {
        "full": ["transformers", "text-generation", "org/model", "finetune"],
        "adapter": ["peft", "text-generation", "org/model", "adapter"],
        "merged": ["transformers", "text-generation", "org/model", "finetune"],
        "base": ["transformers", "text-generation", "org/model", None],
        "probe": ["transformers", "text-classification", "org/model", None],
    }
    random = config(model={"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"}, seed=7)
    assert "base_model" not in front_matter(card(facts(random), "full"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "org/model", "revision": "main"}, "org/model, revision main"),
        ({"name": "org/model"}, "org/model"),
        ({"name": "/home/someone/models/llama-tiny/"}, "llama-tiny"),
        ({"name": "s3://bucket/models/llama"}, "s3\\://bucket/models/llama"),
        ({"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "t"}, "llama with random weights, seed 7"),
    ],
)
def test_a_base_is_named_for_readers_elsewhere(model, said):
    assert f"Base model: {said}.\n" in card(facts(config(model=model, seed=7)), "full")


@pytest.mark.parametrize("name", ["/home/someone/models/llama-tiny", "s3://bucket/llama-tiny"])
def test_a_base_that_is_no_hub_name_is_not_claimed_to_be_one(name):
    text = card(facts(config(model=name), base=Base(name)), "full")
    assert "base_model" not in front_matter(text)
    assert "llama-tiny" in text and "/home/someone" not in text


def test_numbers_recipe_and_data_are_reported():
    origin = Lineage("c", "d1g3st", "demo-curate", "0.1.0", {"peps": "CC0-1.0", "web": None})
    text = card(facts(origin=origin), "merged")
    for told in (
        "| step 0 | 6.0000 |", "| step 100 | 2.0000 |", "| test, before | 5.5000 |", "| test, after | 1.2500 |",
        "62.50%", "12,345", "| Exact match | 0.4375 |", "2.5e-06", "0.0003",
        "rank 16, alpha 32", "0.0002, cosine after 20 steps", "4,000 of 1,000,000 (0.40%)", "150 (ended: patience)",
        "100, the best on the validation split", "300 (180 with a label)", "float32", "ddp, 1 worker |",
        "| peps | train | 1,000 | 1,003 | 1,006 |", "curate run demo-curate", "d1g3st", "CC0-1.0", "not stated",
    ):  # fmt: skip
        assert told in text, told
    assert "step 150 |" not in text.replace("step 150 (", "")  # neither first nor best


def test_a_probes_card_counts_documents_and_has_no_perplexity():
    probe = config(
        method="probe", columns={"text": "text", "label": "label"}, packing={"mode": "none", "overflow": "truncate"}
    )
    text = card(facts(probe, classes=("a", "b")), "probe")
    assert "| Loss | Accuracy | Documents |" in text
    assert "Perplexity" not in text and "abel tokens" not in text


def test_a_card_says_of_how_many_rows_the_losses_while_training_are():
    assert "at most 64 rows of it" in card(facts(config(evaluate={"rows": 64})), "merged")
    assert "at most 512 rows of it" in card(facts(), "merged")
    assert "rows of it" not in card(facts(config(evaluate={"tokens": None})), "merged")


def test_what_4_bits_lost_is_reported_where_it_matters():
    gpu = config(method="qlora", workers={"gpus_each": 1})
    assert "4 bits" in card(facts(gpu), "merged")
    assert "4 bits" not in card(facts(gpu), "adapter") and "4 bits" not in card(facts(), "merged")


def test_no_text_of_a_document_is_quoted():
    assert not any("SECRET" in card(facts(), folder) for folder in FOLDERS)


def test_a_run_without_held_out_documents_says_so():
    text = card(facts(evaluation=None, steps=[]), "adapter")
    assert "the run held no documents back" in text


HOSTILE = st.text(
    alphabet=st.sampled_from(list("a<>&|`*_[]()#!\\\"'{}$~:@-=\n\r\t\x00\u2028é")), min_size=1, max_size=30
)


@given(HOSTILE, st.booleans())
@settings(max_examples=20)
def test_nothing_a_run_is_called_becomes_markup(name, prepared):
    origin = Lineage(f"s3://bucket/{name}", name, name, name, {name: name}, (name,), prepared, (name,), f"s3://{name}")
    given = facts(config(model=f"s3://bucket/{name}x"), origin, base=Base(f"s3://bucket/{name}x"), classes=[name])
    for folder in ("adapter", "probe"):
        text = card(given, folder)
        front_matter(text)
        ast.parse(code_of(text))
        command = re.search(r"^```shell\n(vllm serve [ -~]*)\n```$", text, re.MULTILINE)
        assert text.count("```") == (4 if folder == "adapter" else 2) and (folder == "adapter") == bool(command)
        outside = text.split("---\n", 2)[2].replace(code_of(text), "").replace(command[1] if command else "", "")
        assert "<" not in outside
        lines = outside.splitlines()
        assert {line for line in lines if line.startswith("#")} == {"# demo"} | {
            f"## {title}" for title in ("Load", *["Serve"] * bool(command), "Numbers", "Recipe", "Data")
        }


@given(HOSTILE)
@settings(max_examples=200)
def test_a_literal_is_that_text_on_one_line_without_a_fence(text):
    assert ast.literal_eval(literal(text)) == text
    assert not set(literal(text)) & set("`\n\r")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("base", [Base("org/x", "0a1b"), Base("s3://b/x"), Base("/r/base", shown="../base")], ids=str)
def test_the_code_is_python_and_names_the_base_where_one_is_wanted(folder, chat, base):
    code = loading(folder, base, chat)
    ast.parse(code)
    shown = base.shown or base.name.removeprefix("s3://b/")
    assert (f'from_pretrained("{shown}"' in code) == (folder in ("adapter", "probe"))
    assert ('revision="0a1b"' in code) == (folder in ("adapter", "probe") and base.revision == "0a1b")


# --- lineage


def test_a_curated_corpus_tells_its_run_licences_and_data_sets(tmp_path, monkeypatch):
    from tests.support.inline import curate_inline

    (tmp_path / "in").mkdir()
    text = "The quick brown fox jumps over the lazy dog, and the dog is not amused by it at all. " * 8
    (tmp_path / "in" / "a.jsonl").write_text(f'{{"text": "{text}"}}\n')
    inputs = [{"path": str(tmp_path / "in"), "source": "foxes", "licence": "CC0-1.0"}]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "out"), "rules": {"packs": []}}, monkeypatch)
    found = lineage(RunsBehind(Store()), Corpus(path=f"{run.uri}/corpus"))
    assert found.run == "test" and found.digest and found.version
    assert found.licences == {"foxes": "CC0-1.0"}


def test_data_sets_of_the_hub_are_those_of_all_sources_by_organisation_and_name(tmp_path, monkeypatch):
    """Of the run of the corpus, and of a run whose output that one read."""
    first = [("web", "hf://org/data/config@main"), ("none", "s3://hf://org/none")]
    for name, inputs in (("first", first), ("out", [("other", "hf://org/other"), ("first", f"{tmp_path}/first")])):
        sources = [{"source": source, "licence": "CC0-1.0", "splits": {"train": 1}} for source, _ in inputs]
        settings = [{"source": source, "path": path, "columns": {}} for source, path in inputs]
        report = {
            "sources": sources, "splits": {"train": 2}, "totals": {"personal_data": 0}, "config": {"inputs": settings},
        }  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        RunFolder(Store(), f"{tmp_path}/{name}").put("prepare", name, {}, "i", {"train": "d"})
    manifest = SimpleNamespace(digest="d1", version="0.3")
    found = SimpleNamespace(manifest=manifest)
    monkeypatch.setattr(Artifact, "find", lambda _, uri: found if uri.endswith("corpus") else None)
    known = lineage(RunsBehind(Store()), Corpus(path=f"{tmp_path}/out/corpus"))
    assert (known.digest, known.run, known.datasets) == ("d1", "out", ("org/other", "org/data"))
    assert known.licences == dict.fromkeys(("other", "first/web", "first/none"), "CC0-1.0")


def test_a_plain_folder_has_no_lineage(tmp_path: Path):
    assert lineage(RunsBehind(Store()), Corpus(path=str(tmp_path))) == Lineage(str(tmp_path))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text("{}")
    assert lineage(RunsBehind(Store()), Corpus(path=str(tmp_path / "corpus"))).digest == ""
