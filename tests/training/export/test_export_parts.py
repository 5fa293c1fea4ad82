"""The parts of an export without a training: every line of a card, the loading code, stop tokens, the manifest."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from raymill import cluster
from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import DataError, RaymillError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.export.card import CorpusFacts, Lineage, card
from raymill.training.export.job import base_of, generation_settings
from raymill.training.export.merging import compare
from raymill.training.model_folder.loading import Base, loading
from raymill.training.records.finished import export_damage, export_file, export_fingerprint, finish_export, put_folder
from tests.support.card_cases import COUNTERS, OUTCOME, config, evaluation, facts, measured
from tests.support.export_runs import byte_tokenizer


def section(text: str, title: str) -> list[str]:
    """The lines of a section that are not empty, without table heads."""
    body = text.partition(f"## {title}\n")[2].partition("\n## ")[0].partition("\nMade by")[0]
    return [line for line in body.splitlines() if line and not line.startswith("|---")]


def test_the_numbers_of_a_card_are_those_of_the_records_in_order():
    both: Any = evaluation(
        before={"validation": measured(5.0), "test": measured(5.5)}, after={"validation": measured(1.0)}
    )
    given = facts(evaluation=both)
    row = "2.5 | 62.50% | 12,345 |"
    numbers = [
        "Validation split (while training, at most 512 rows of it), first and exported:",
        "|  | Loss | Perplexity | Accuracy | Label tokens |",
        f"| step 0 | 6.0000 | {row}",
        f"| step 100 | 2.0000 | {row}",
        "Held out, before and after training:",
        "|  | Loss | Perplexity | Accuracy | Label tokens |",
        f"| validation, before | 5.0000 | {row}",
        f"| validation, after | 1.0000 | {row}",
        f"| test, before | 5.5000 | {row}",
        "Answers on held-out documents:",
        "| Score |  |",
        "| Exact match | 0.4375 |",
        "| Number right (strict) | 0.5 |",
    ]
    assert section(card(given, "adapter"), "Numbers") == numbers
    assert section(card(given, "merged"), "Numbers") == [
        *numbers,
        "Merged in float32. Each of 14 merged matrices was compared with the adapter on 8 random inputs; of the one "
        "nearest to its tolerance, outputs differ by up to 2.5e-06, 0.0003 is allowed, and the adapter itself moves "
        "them by up to 0.5. Stored as float32.",
    ]
    # Without a best step the last validation measured the exported weights.
    last = facts(outcome=OUTCOME | {"best_step": None}, evaluation=None)
    assert [line[:18] for line in section(card(last, "adapter"), "Numbers")[2:]] == [
        "| step 0 | 6.0000 ", "| step 150 | 2.500",
    ]  # fmt: skip
    assert "Weights of step" not in card(last, "adapter")


USUAL = [
    "| Trained parameters | 4,000 of 1,000,000 (0.40%) |",
    "| Steps | 150 (ended: patience) |",
    "| Weights of step | 100, the best on the validation split |",
    "| Tokens a step | {step} in rows of {row} |",
    "| Tokens seen | 300 (180 with a label) |",
]


@pytest.mark.parametrize(
    ("method", "more", "own"),
    [
        ("full", {}, []),
        ("lora", {"lora": {"rank": 4, "alpha": 9, "dropout": 0.25, "rslora": True, "target": ["q_proj", "v_proj"]}},
         ["| LoRA | rank 4, alpha 9, dropout 0.25, rsLoRA |", "| LoRA on | q\\_proj, v\\_proj |"]),
        ("lora", {"lora": {"rank": 4, "alpha": 9, "dora": True, "loraplus_ratio": 16}},
         ["| LoRA | rank 4, alpha 9, dropout 0, DoRA, LoRA\\+ with ratio 16 |", "| LoRA on | all-linear |"]),
        ("prompt", {"prompt": {"tokens": 7}, "prefix": {"tokens": 3}, "packing": {"mode": "none"}},
         ["| Virtual tokens | 7 |"]),
        ("prefix", {"prompt": {"tokens": 7}, "prefix": {"tokens": 3}, "packing": {"mode": "none"}},
         ["| Virtual tokens | 3 |"]),
        ("probe", {"probe": {"pool": "mean"}, "columns": {"text": "text", "label": "label"},
                   "packing": {"mode": "none", "overflow": "truncate"}},
         ["| Head on | mean hidden state |", "| Classes | a, b |"]),
    ],
)  # fmt: skip
def test_the_recipe_equals_the_one_of_the_config(method, more, own):
    given = config(method=method, workers={"count": {"min": 2, "max": 5}}, seed=7, **more)
    found = section(card(facts(given, classes=("a", "b")), "adapter"), "Recipe")
    optimizer = given.optimizer
    step, row = f"{given.tokens_per_step:,}", f"{given.sequence_length:,}"
    assert found == [
        "|  |  |",
        f"| Method | {method} |",
        *own,
        *(line.format(step=step, row=row) for line in USUAL),
        f"| Packing | {given.packing.mode.replace('_', chr(92) + '_')}; longer documents: "
        f"{given.overflow(given.forms[0])} |",
        f"| Optimizer | AdamW, betas {optimizer.betas[0]:g} and {optimizer.betas[1]:g}, weight decay "
        f"{optimizer.weight_decay:g}, clip {optimizer.clip:g} |",
        "| Learning rate | 0.0002, cosine after 20 steps of warm-up |",
        "| Precision | float32 |",
        "| Engine | ddp, 2 to 5 workers |",
        "| Seed | 7 |",
    ]
    others = {"clip": None, "restarts": 2, "warmup_fraction": 0.03, "layer_decay": 0.9}
    changed = card(facts(given.model_copy(update={"optimizer": optimizer.model_copy(update=others)})), "adapter")
    assert "no clipping |" in changed
    rates = "0.0002, cosine with 2 restarts after 3% of the steps as warm-up, layer decay 0.9"
    assert f"| Learning rate | {rates} |" in changed.replace(chr(92), "")


def test_the_data_of_a_card_are_counted_by_corpus_and_split_with_their_origin():
    origin = Lineage("s3://b/c", "d1", "curated", "0.3", {"web": None, "peps": "CC0"})
    given = facts()
    corpora = {"one": CorpusFacts(origin, COUNTERS), "two": CorpusFacts(Lineage("/c"), {"tokens/test": 5.0})}
    assert section(card(replace(given, corpora=corpora), "adapter"), "Data") == [
        "| Corpus | Split | Documents | Tokens | Label tokens |",
        "| one | train | 1,000 | 1,003 | 1,006 |",
        "| one | validation | 1,001 | 1,004 | 1,007 |",
        "| one | test | 1,002 | 1,005 | 1,008 |",
        "| two | train | 0 | 0 | 0 |",
        "| two | validation | 0 | 0 | 0 |",
        "| two | test | 0 | 5 | 0 |",
        "- one: read from s3\\://b/c",
        "- one: artifact of the curate run curated, Raymill 0.3, content digest d1",
        "- one: source web: licence not stated",
        "- one: source peps: licence CC0",
    ]
    end = card(given, "adapter").splitlines()[-1]
    assert end == f"Made by Raymill {cluster.__version__} from the run's manifests. Run: {'f' * 32}"


@pytest.mark.parametrize(
    ("base", "line"),
    [
        (Base("org/m"), ['base = AutoModelForCausalLM.from_pretrained("org/m").eval()']),
        (Base("org/m", "r1"), ['base = AutoModelForCausalLM.from_pretrained("org/m", revision="r1").eval()']),
        (Base("/r/base", None, "../base"), ['base = AutoModelForCausalLM.from_pretrained("../base").eval()']),
        (Base("s3://b/a/m/"), ['# A copy of "s3://b/a/m/" on this machine.',
                               'base = AutoModelForCausalLM.from_pretrained("m").eval()']),
    ],
)  # fmt: skip
def test_the_code_loads_the_base_by_its_shown_name(base, line):
    found = loading("adapter", base, chat=False).splitlines()
    at = found.index("model = PeftModel.from_pretrained(base, folder).eval()")
    assert found[4 : at + 1] == [*line, "model = PeftModel.from_pretrained(base, folder).eval()"]
    assert found[0] == "from peft import PeftModel"
    assert "apply_chat_template" in loading("full", base, chat=True)
    assert not any("apply_chat_template" in one for one in found)


def test_the_base_of_an_adapter_is_its_commit_its_revision_or_the_folder_beside_it():
    named = Model(name="org/m", revision="main")
    assert base_of(named, "org/m@0a1b", "/x") == Base("org/m", "0a1b")
    assert base_of(named, "org/model@0a1b", "/x") == Base("org/m", "main")
    random = Model(config={"model_type": "llama"}, tokenizer="t")
    assert base_of(random, "random-1", "/x") == Base("/x/base", None, "../base")


@pytest.mark.parametrize(
    ("own", "eos", "stops"),
    [
        (True, None, [256, 259]), (True, 7, [7, 256, 259]), (True, [7, 9], [7, 9, 256, 259]),
        (True, [259, 7], [259, 7, 256]), (False, 7, [256, 259]),
    ],
)  # fmt: skip
def test_a_models_own_stop_tokens_come_first_if_the_tokenizer_is_its_own(own, eos, stops):
    tokenizer = byte_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")]
    stops = [{256: ids[0], 259: ids[1]}.get(stop, stop) for stop in stops]
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=eos, do_sample=True, temperature=0.5))
    found = generation_settings(model, tokenizer, own)
    assert found.eos_token_id == stops
    assert (found.temperature == 0.5) is own
    assert (found.pad_token_id, found.bos_token_id) == (tokenizer.pad_token_id, None)


def test_settings_that_transformers_does_not_save_are_left_out(caplog):
    """As `do_sample: false` beside a temperature, of which saving would raise an error after the whole training."""
    model = SimpleNamespace(generation_config=GenerationConfig(do_sample=False, temperature=0.1, eos_token_id=7))
    found = generation_settings(model, byte_tokenizer(), True)
    assert found.temperature is None or found.temperature == 1.0
    assert 7 in found.eos_token_id
    assert "the model's generation_config.json is left out" in caplog.text


def test_a_merge_is_compared_with_the_sum_of_both_tolerances():
    wanted, before = torch.full((8, 3), 4.0), torch.full((8, 3), 3.5)
    tolerance = 1e-5 * 4.0 + 1e-2 * 0.5
    found = compare("layers.0", wanted + 0.9 * tolerance, wanted, before)
    assert (found["matrices"], found["inputs"], found["adapter_effect"], found["largest_output"]) == (1, 8, 0.5, 4.0)
    assert found["tolerance"] == pytest.approx(tolerance)
    assert found["max_abs_difference"] == pytest.approx(0.9 * tolerance, rel=1e-3)
    said = r"layers\.0: .*by up to 0\.0055\d? on 8 inputs; 0\.00504 was allowed \(largest output 4, .* by up to 0\.5\)"
    with pytest.raises(RaymillError, match=said):
        compare("layers.0", wanted + 1.1 * tolerance, wanted, before)
    for none in (torch.nan, torch.inf):
        for values in (
            (wanted * none, wanted, before),
            (wanted, wanted * none, before),
            (wanted, wanted, before * none),
        ):
            with pytest.raises(RaymillError, match=r"nan|inf"):
                compare("layers.0", *values)


def test_a_manifest_has_every_file_with_its_size_and_damage_is_named(tmp_path):
    root, store, folder = str(tmp_path / "export"), Store(), tmp_path / "full"
    store.write_bytes(f"{root}/old/left.bin", b"of an earlier export")
    (folder / "inner").mkdir(parents=True)
    for name, content in (("b.json", b"bb"), ("a.json", b"a"), ("inner/c.json", b"ccc")):
        (folder / name).write_bytes(content)
    files = put_folder(store, folder, root)
    assert [(file["path"], file["bytes"]) for file in files] == [
        ("full/a.json", 1), ("full/b.json", 2), ("full/inner/c.json", 3),
    ]  # fmt: skip
    assert not folder.exists()
    manifest = finish_export(store, root, {"made_from": "x", "folders": {"full": "full"}}, files)
    assert (manifest["bytes"], manifest["files"]) == (6, files)
    assert not store.exists(f"{root}/old/left.bin")
    assert export_file(store, root).read() == manifest
    assert export_damage(store, root, manifest) == export_damage(store, root, manifest, compare_sha256=True) == {}
    store.write_bytes(f"{root}/full/b.json", b"bx")
    assert export_damage(store, root, manifest) == {}
    assert set(export_damage(store, root, manifest, compare_sha256=True)) == {f"{root}/full/b.json"}
    store.write_bytes(f"{root}/full/b.json", b"longer")
    store.delete([f"{root}/full/a.json"])
    assert set(export_damage(store, root, manifest)) == {f"{root}/full/a.json", f"{root}/full/b.json"}
    assert export_damage(store, root, manifest | {"made_from": "y"})[f"{root}/manifest.json"] == "is gone or damaged"


@pytest.mark.parametrize("changed", [None, "version", "fingerprint", "best_checkpoint", "dtype"])
def test_an_export_is_another_one_if_anything_that_decides_it_changed(changed, monkeypatch):
    settings = config()
    job: Any = SimpleNamespace(config=settings)
    outcome = dict(OUTCOME)
    usual = export_fingerprint(job, OUTCOME)
    assert usual == fingerprint(
        {"version": cluster.__version__, "fit": "f" * 32, "checkpoint": "b", "export": settings.export.model_dump()}
    )
    if changed == "version":
        monkeypatch.setattr(cluster, "__version__", "0.0.0.other")
    elif changed == "dtype":
        export = settings.export.model_copy(update={"dtype": "float16"})
        job = SimpleNamespace(config=settings.model_copy(update={"export": export}))
    elif changed:
        outcome[changed] = "other"
    assert (export_fingerprint(job, outcome) == usual) is (changed is None)  # type: ignore[arg-type]
    assert export_fingerprint(job, OUTCOME | {"best_checkpoint": None, "checkpoint": "b"}) == (
        export_fingerprint(job, OUTCOME)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": [{"path": "full/a", "bytes": 1}]}, r"files\.0\.sha256"),
        ({"files": [{"path": "full/a", "bytes": "1", "sha256": "a"}]}, r"files\.0\.bytes"),
        ({"files": 5}, "files"),
        ({"folders": {}}, "no folder of a trained model"),
        ({"folders": {"base": "base"}}, "no folder of a trained model"),
        ({"folders": {"other": "full"}}, "folders that no training exports: other"),
    ],
)
def test_a_manifest_of_others_with_other_values_is_named(tmp_path, change, said):
    plain = {"made_from": "x", "files": [], "folders": {"full": "full"}} | change
    (tmp_path / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(DataError, match=rf"manifest\.json: not the manifest of an export \(.*{said}"):
        export_file(Store(), str(tmp_path)).read()
