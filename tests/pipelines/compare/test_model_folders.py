"""Comparisons of model folders: log-likelihoods by hand, a model against itself, outputs of `train`, kills."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raymill.cluster.asking.backends import exported, located
from raymill.cluster.engine import Engine
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.store.store import Store
from raymill.pipelines.compare.approaches import training_facts, training_root
from raymill.pipelines.compare.config import CompareConfig, ComparedModel
from raymill.pipelines.compare.forgetting import base_of, forgetting
from raymill.pipelines.compare.job import CompareJob
from raymill.pipelines.compare.plan import plan_comparison
from raymill.pipelines.paired import holm, paired_difference
from raymill.training.evaluation.answering import LEAST_LOG, ModelFolder, folder_model
from raymill.training.evaluation.scores import bleu, bleu_of_sums, bleu_sums
from raymill.training.model_folder.folder import located_with_fingerprint
from tests.support.compare_inline import compare_inline as run
from tests.support.compare_inline import tickets
from tests.support.generate_inline import rows
from tests.support.inline import InlineEngine
from tests.support.model_folders import chat_model
from tests.support.train_inline import MODEL, train_inline, write_corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [chat_model(root / f"m{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return tickets(tmp_path_factory.mktemp("tickets"), patch, 30)


@pytest.fixture
def config(folders, data, tmp_path):
    return {"models": folders, "on": str(data), "sampling": {"temperature": 0, "max_tokens": 6},
            "output": str(tmp_path / "out")}  # fmt: skip


def test_log_likelihoods_are_those_of_the_tokens_one_by_one(folders):
    messages, answer = [{"role": "user", "content": "What is it?"}], "the lazy dog"
    found, count = ModelFolder(Store(), folders[0]).log_likelihood(messages, answer)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    loaded, expected = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32).eval(), 0.0
    wanted = tokenizer(answer, add_special_tokens=False)["input_ids"]
    for token in wanted:
        with torch.no_grad():
            expected += float(loaded(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
        ids = [*ids, token]
    assert count == len(wanted) and found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("longest", [256, 5])
def test_a_plain_text_is_measured_token_by_token_in_windows(folders, longest):
    measured = ModelFolder(Store(), folders[0])
    measured.longest = longest
    text = "the quick brown fox jumps over the lazy dog"
    found, count = measured.text_log_likelihood(text)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    loaded, expected = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32).eval(), 0.0
    for at in range(1, len(ids)):
        first = (at - 1) // (longest - 1) * (longest - 1)  # of its window
        with torch.no_grad():
            expected += float(loaded(torch.tensor([ids[first:at]])).logits[0, -1].log_softmax(-1)[ids[at]])
    assert count == len(ids) - 1 > 5 and found == pytest.approx(expected, abs=1e-4)
    assert np.isnan(measured.text_log_likelihood("")[0])
    measured.tokenizer.bos_token = measured.tokenizer.eos_token = None
    assert measured.text_log_likelihood(text)[1] == count, "the first token is counted for every tokenizer"


def test_forgetting_is_the_rise_of_bits_per_byte_beside_the_base(folders, config, monkeypatch, tmp_path):
    """A model whose scores are five times as large is as unsure of the text, and surer of the wrong tokens."""
    changed = Path(shutil.copytree(folders[0], tmp_path / "changed"))
    loaded = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    with torch.no_grad():
        loaded.lm_head.weight *= 20
    loaded.save_pretrained(changed)
    texts = [f"the quick brown fox {n} jumps over the lazy dog" * (1 + n % 3) for n in range(60)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in [*texts, "  "]))
    general = {"path": str(tmp_path / "general.jsonl"), "documents": 50, "characters": 60, "base": folders[0]}
    config |= {"models": [str(changed), folders[0]], "items": 2, "likelihood": False, "general": general}
    made = run(config, monkeypatch)
    read = [one["text"] for one in rows(made, "general")]
    assert len(read) == 50 == len({*read}) and max(map(len, read)) == 60
    assert {*read} <= {one[:60] for one in texts}
    sizes = sum(map(len, read))
    after, before = (sum(-one["log"] for one in rows(made, f"general_of.{name}")) / np.log(2) / sizes
                     for name in ("A", "A-base"))  # fmt: skip
    of_changed, of_base = (one["forgetting"] for one in made.report["approaches"])
    assert (of_changed["after"], of_changed["before"]) == (pytest.approx(after), pytest.approx(before))
    assert of_changed["difference"] == pytest.approx(after - before) and of_changed["low"] > 0.05
    assert of_changed["p_corrected"] < 0.001 and of_changed["documents"] == 50 and of_base is None
    assert f"{after - before:+.4f}" in (tmp_path / "out/report.html").read_text()
    assert run(config, monkeypatch).fresh is False
    with (tmp_path / "general.jsonl").open("a") as file:
        file.write('{"text": "another"}\n')
    with pytest.raises(DataError, match="general text or a base changed"):
        run(config, monkeypatch)


def test_a_probability_of_0_counts_as_the_smallest_float(folders):
    """A model that is sure of something else is not measured less often, and is not infinitely worse."""
    messages, answer = [{"role": "user", "content": "What is it?"}], "the lazy dog"
    sure = ModelFolder(Store(), folders[0])
    sure.model.lm_head.weight.data *= 1e30
    found, count = sure.log_likelihood(messages, answer)
    assert pytest.approx(-103.2789, abs=1e-4) == LEAST_LOG and found == pytest.approx(LEAST_LOG * count)


@pytest.mark.parametrize("lost", [" lazy", " "])
def test_what_a_tokenizer_loses_has_no_log_likelihood(folders, tmp_path, lost):
    """What is left is another text, and so is its probability."""
    changed = Path(shutil.copytree(folders[0], tmp_path / "changed"))
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": lost}, "content": ""}
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    lossy, messages = ModelFolder(Store(), str(changed)), [{"role": "user", "content": "What?"}]
    assert np.isnan(lossy.log_likelihood(messages, "the lazy dog")[0])
    assert np.isnan(lossy.text_log_likelihood("the lazy dog")[0])
    kept = [lossy.log_likelihood(messages, "dog")[0], lossy.text_log_likelihood("dog")[0]]
    assert np.isfinite(kept).all()


@pytest.mark.parametrize("change", [{"is_causal": False}, {"model_type": "bert"}])
def test_a_folder_whose_attention_includes_later_tokens_is_refused(folders, tmp_path, change):
    changed = Path(shutil.copytree(folders[0], tmp_path / "changed"))
    settings = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ConfigError, match="its attention includes later tokens"):
        ModelFolder(Store(), str(changed))


def test_predictions_that_depend_on_later_tokens_are_no_log_likelihoods(folders):
    """Whatever makes them so: here each position is told the next token."""
    text = "the quick brown fox jumps over the lazy dog"
    told = ModelFolder(Store(), folders[0])
    told.text_log_likelihood(text)
    assert told._moved < 1e-4 and told._to_compare == 15
    forward = told.model.forward

    def copying(input_ids):
        found = forward(input_ids=input_ids)
        found.logits[0, :-1] += 20 * torch.nn.functional.one_hot(input_ids[0, 1:], found.logits.shape[-1])
        return found

    told.model.forward = copying
    with pytest.raises(DataError, match="depend on later tokens, so it has no log-probabilities"):
        told.text_log_likelihood(text)


def test_an_answer_without_tokens_has_no_log_likelihood(folders):
    found, count = ModelFolder(Store(), folders[0]).log_likelihood([{"role": "user", "content": "What?"}], "")
    assert np.isnan(found) and count == 0


def test_folders_have_likelihoods_and_calibration(config, monkeypatch):
    made = run(config, monkeypatch)
    likelihoods = rows(made, "likelihood_of.A")
    assert len(likelihoods) == made.report["items"] == 24
    by_item = {one["item"]: one for one in likelihoods}
    items = rows(made, "items")
    bits = sum(-by_item[at]["reference_log"] for at in range(24)) / np.log(2)
    others = {one["item"]: one for one in rows(made, "likelihood_of.B")}
    of_b = sum(-others[at]["reference_log"] for at in range(24)) / np.log(2)
    size = sum(len(one["answer"]) for one in items)
    found = made.report["comparisons"][0]["measures"]["bits_per_byte"]
    assert found["difference"] == pytest.approx((bits - of_b) / size, abs=1e-9)
    better = "A" if found["difference"] < 0 else "B"
    assert found["verdict"] in (better, "undecided"), "of bits per byte less is better"
    assert 0 <= made.report["models"]["A"]["calibration"]["error"] <= 1
    assert made.report["models"]["A"]["revision"].startswith("model-")


def test_two_folders_of_one_model_are_a_warning_and_folders_have_no_prices(config, folders, caplog, tmp_path):
    copied = shutil.copytree(folders[0], tmp_path / "copied")

    def warned(*models) -> list[str]:
        caplog.clear()
        plan = plan_comparison(CompareConfig.model_validate({"kind": "compare"} | config | {"models": models}))
        assert "out, computed here; the time is not estimated" in str(plan) and "prices" not in str(plan)
        return [one.getMessage() for one in caplog.records]

    assert warned(*folders) == []
    assert warned(*folders, str(copied)) == ["models: C is the same model as A, with the same prompt"]
    assert warned(folders[0], {"path": str(copied), "system": "Be brief."}) == []


def test_a_folder_against_itself_differs_in_nothing(config, folders, monkeypatch):
    made = run(config | {"models": [folders[0], folders[0]]}, monkeypatch)
    optional = {"judges_of_rewards"}
    assert tuple(made.report) == tuple(one for one in kind_of("compare").report if one not in optional)
    for name, row in made.report["comparisons"][0]["measures"].items():
        assert row["verdict"] == "undecided", name
        assert row["difference"] == 0 or name == "seconds", name


def test_a_run_that_was_killed_between_any_two_units_ends_with_the_same_bytes(config, monkeypatch, tmp_path):
    whole = run(config | {"output": str(tmp_path / "whole")}, monkeypatch)
    tries = 0

    class Killed(InlineEngine):
        """Does two units of a stage, and ends."""

        def _round(self, stage, missing, records, failures):
            super()._round(stage, list(missing)[:2], records, failures)
            if len(missing) > 2:
                raise UserError("killed")

    while True:
        try:
            made = run(config, monkeypatch, engine=Killed)
            break
        except UserError as error:
            assert str(error) == "killed"
            tries += 1
    assert tries > 3 and issubclass(Killed, Engine)
    assert made.manifest["artifacts"] == whole.manifest["artifacts"]


def test_the_output_of_a_training_is_the_model_that_it_exported(monkeypatch, tmp_path):
    made = train_inline(
        {
            "corpus": {"path": write_corpus(tmp_path), "columns": {"text": "text"}},
            "output": str(tmp_path / "lora"),
            "steps": 1,
            "method": "lora",
        },
        monkeypatch,
    )
    assert exported(Store(), ComparedModel(path=made.uri)).path == f"{made.uri}/export/merged"
    merged, found = located_with_fingerprint(Store(), f"{made.uri}/export/merged")
    of_run = located(Store(), ComparedModel(path=made.uri))
    assert (of_run.path, of_run.revision) == (merged, found)
    for path in (made.uri, f"{made.uri}/export/merged"):
        assert training_root(Store(), ComparedModel(path=path)) == made.uri
    assert training_root(Store(), ComparedModel(path=f"{made.uri}/export/base")) is None
    facts = training_facts(Store(), made.uri)
    assert facts["method"].startswith("lora") and facts["tokens"] > 0 < facts["seconds"]
    assert {*facts["losses"]} == {"test"} and facts["trainable_parameters"] < 100_000
    report = Path(made.uri, "report.json")
    whole = json.loads(report.read_text())
    assert (facts["examples"], facts["gpu_hours"], facts["cpu_hours"]) == (64, 0, facts["seconds"] / 3600)
    for *place, wrong in (  # by others
        *(("fits", 0, "totals", "seconds", one) for one in (math.nan, "long", [1], -1)),
        ("fits", 0, "totals", {"seconds": 10**18, "workers": ["a"], "tokens": 1, "trainable_parameters": 1}),
        ("fits", 0, "recipe", "method", "lora\x1b[31m"),
        ("fits", 0, "corpora", 0, "splits", 0, "documents", "64"),
        ("fits", 0, "curves", "memory_gib", [[1, "2"]]),
        ("run", "config", "workers", "cpus_each", "1"),
        ("run", "config", {}),
        ("fits", []),
    ):
        changed = json.loads(json.dumps(whole))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = wrong
        report.write_text(json.dumps(changed))
        with pytest.raises(DataError, match="not the report of this run"):
            training_facts(Store(), made.uri)
    report.write_text(json.dumps(whole))
    exported_one = exported(Store(), ComparedModel(path=made.uri))
    assert base_of(Store(), made.uri, exported_one).path == f"{made.uri}/export/base"
    moved = Path(made.uri, "export/base").rename(tmp_path / "moved-base")
    manifest = Path(made.uri, "manifest.json")
    kept = manifest.read_text()
    for base, said in (
        ({"name": "s3://others/base", "revision": None}, "on another store"),
        ({"name": ["base"], "revision": None}, "no name and revision"),
        *(({"name": one, "revision": None}, "is no name of a model") for one in ("x" * 300, "~root/x", "/x\0y", "a\n")),
        ({"name": str(moved), "revision": "f" * 40}, "is not at the revision"),
        ({}, "not the report of this run"),
    ):
        plain = json.loads(kept)
        plain["export"]["base"] = base
        manifest.write_text(json.dumps(plain))
        with pytest.raises(DataError, match=said):
            base_of(Store(), made.uri, exported_one)
    plain["export"]["base"] = {"name": None, "revision": None}
    manifest.write_text(json.dumps(plain))
    assert base_of(Store(), made.uri, exported_one) is None, "random weights that were not exported"
    # A training that started from this one makes it a base, whose own training is no cost of the comparison.
    second = shutil.copytree(made.uri, tmp_path / "second")
    plain["export"]["base"] = {"name": exported_one.path, "revision": None}
    (second / "manifest.json").write_text(json.dumps(plain))
    models = [str(second), {"path": exported_one.path, "examples": 2}]
    compared = {"kind": "compare", "models": models, "on": str(tmp_path), "output": str(tmp_path / "out")}
    assert CompareJob(CompareConfig.model_validate(compared)).roots == {"A": str(second), "B": None}
    manifest.write_text(kept)
    moved.rename(f"{made.uri}/export/base")
    # The adapter alone, on the random base beside it, computes what the merged model computes.
    merged, adapter = (folder_model(Store(), f"{made.uri}/export/{name}") for name in ("merged", "adapter"))
    asked = [{"role": "user", "content": "How long is river 4?"}], "12"
    assert adapter.log_likelihood(*asked)[0] == pytest.approx(merged.log_likelihood(*asked)[0], abs=1e-3)
    _, first = located_with_fingerprint(Store(), f"{made.uri}/export/adapter")
    moved = shutil.copytree(tmp_path / "lora/export", tmp_path / "moved")
    assert located_with_fingerprint(Store(), f"{moved}/adapter")[1] == first
    settings = json.loads((moved / "adapter/adapter_config.json").read_text())
    no_size, other = "'r' is 1000000000", "is none that is loaded here"
    for wrong, said in (({"r": 10**9}, no_size), ({"task_type": None}, other), ({"peft_type": "VERA"}, other)):
        (moved / "adapter/adapter_config.json").write_text(json.dumps(settings | wrong))
        with pytest.raises(DataError, match=said):
            folder_model(Store(), f"{moved}/adapter")


def test_forgetting_of_a_trained_model_is_not_known_without_its_base(monkeypatch, tmp_path, data):
    """A run of others may state no base, one on another store, or its own result."""
    corpus = write_corpus(tmp_path)
    model = {"config": MODEL | {"max_position_embeddings": 256}, "tokenizer": "train"}
    settings = {"corpus": {"path": corpus, "columns": {"text": "text"}}, "model": model, "steps": 1}
    made = train_inline(settings | {"output": str(tmp_path / "run")}, monkeypatch)
    full, manifest = f"{made.uri}/export/full", Path(made.uri, "manifest.json")
    base = str(shutil.copytree(full, tmp_path / "base"))
    for at, (named, said) in enumerate([
        (None, "states random weights as its base"),
        ("s3://others/base", "on another store"),
        (full, "states its own result as its base"),
        (base, None),
    ]):  # fmt: skip
        plain = json.loads(manifest.read_text())
        plain["export"]["base"] = {"name": named, "revision": None}
        manifest.write_text(json.dumps(plain))
        config = {"models": [made.uri, base], "on": str(data), "items": 2, "likelihood": False,
                  "sampling": {"temperature": 0, "max_tokens": 2}, "output": str(tmp_path / f"out{at}"),
                  "general": {"path": corpus, "documents": 2}}  # fmt: skip
        compared = run(config, monkeypatch)
        of_trained, of_base = compared.report["approaches"]
        assert of_base["forgetting_unknown"] is None and of_trained["is_trained"]
        if said is None:
            assert of_trained["forgetting_unknown"] is None, "its base has its weights"
        else:
            assert said in of_trained["forgetting_unknown"]
            assert f"A: forgetting is not known. {of_trained['forgetting_unknown']}" in compared.warnings


def test_prompt_tuning_and_a_probe_are_compared_with_their_base(monkeypatch, tmp_path, data):
    """They have no whole model: virtual tokens on a base, and a head of three labels."""
    rows_of = [json.loads(line) for line in (data.parent / "a.jsonl").read_text().splitlines()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": one["prompt"], "label": one["completion"]}) + "\n"
                                              for one in rows_of * 8))  # fmt: skip
    usual = {"corpus": {"path": str(tmp_path / "a.jsonl")}, "steps": 20,
             "model": {"config": MODEL | {"max_position_embeddings": 256}, "tokenizer": "train"},
             "tokens_per_step": 1024,
             "evaluate": {"every_steps": 10}, "checkpoint": {"every_steps": 10},
             "packing": {"mode": "none", "overflow": "truncate"}}  # fmt: skip
    of_probe = {"method": "probe", "columns": {"text": "text", "label": "label"}, "output": str(tmp_path / "probe")}
    of_tuned = {"method": "prompt", "columns": {"text": "text"}, "output": str(tmp_path / "tuned")}
    probe, tuned = (train_inline(usual | own, monkeypatch) for own in (of_probe, of_tuned))
    models = [probe.uri, tuned.uri, f"{tuned.uri}/export/base"]
    config = {"models": models, "on": str(data), "answer": "label", "sampling": {"temperature": 0, "max_tokens": 4},
              "general": {"path": str(tmp_path / "a.jsonl"), "documents": 20}}  # fmt: skip
    made = run(config | {"output": str(tmp_path / "out")}, monkeypatch)
    assert {one["content"] for one in rows(made, "answers_of.A")} <= {"billing", "delivery", "login"}
    assert made.report["models"]["A"]["training"]["method"].startswith("probe")
    assert made.report["models"]["B"]["training"]["method"].startswith("prompt")
    assert made.report["models"]["C"]["training"] is None
    assert made.report["models"]["A"]["uncounted"] == 0 < made.report["approaches"][0]["answer"]["input_tokens"]
    logs = {letter: [one["reference_log"] for one in rows(made, f"likelihood_of.{letter}")] for letter in "ABC"}
    assert np.isfinite([*logs["A"], *logs["B"], *logs["C"]]).all() and logs["B"] != logs["C"]
    assert "Cost to train" in (tmp_path / "out/report.html").read_text()
    of_probe, of_tuned, of_base = made.report["approaches"]
    head, virtual = of_probe["training"]["trainable_parameters"], of_tuned["training"]["trainable_parameters"]
    assert (head, virtual) == (3 * 32 + 3, 20 * 32) and of_probe["training"]["examples"] > 0
    assert of_probe["stored_bytes"] < of_tuned["stored_bytes"] < of_base["stored_bytes"]
    assert (of_base["method"], of_base["training"], of_base["is_trained"]) == ("base", None, False)
    assert (of_probe["forgetting"], of_base["forgetting"]) == (None, None), "its base is as it was"
    assert of_tuned["forgetting"]["documents"] == 20 and of_tuned["forgetting"]["difference"] != 0
    report = tmp_path / "probe/report.json"
    report.write_text(report.read_text().replace('"seconds":', '"seconds": -1, "of":'))
    damaged = run(config | {"output": str(tmp_path / "damaged"), "likelihood": False}, monkeypatch)
    of_probe = damaged.report["approaches"][0]
    assert (of_probe["method"], of_probe["training"], of_probe["is_trained"]) == (None, None, True)
    assert any("A: the cost of its training is left out" in one for one in damaged.warnings)


def test_forgetting_by_hand():
    """8 and 16 bits beside 4 and 8, of documents of 4 and 8 bytes; neither measured the third."""
    after, before = (np.array([-bits * np.log(2) for bits in some]) for some in ((8, 16, np.nan), (4, 8, np.nan)))
    found = forgetting(["four", "eight888", "x"], {"A": (after, before)}, paired_difference, holm)["A"]
    assert (found["after"], found["before"], found["difference"]) == pytest.approx((2, 1, 1))
    assert found["documents"] == 2 and found["p_corrected"] == pytest.approx(0.5)
    nothing = np.full(3, np.nan)
    for one_sided in (nothing, np.array([-1, -1, np.nan])):
        pairs = {"B": (one_sided, nothing), "C": (after, np.array([-1, np.nan, np.nan]))}
        assert forgetting(["a", "b", "c"], pairs, paired_difference, holm) == {"B": None, "C": None}


def test_bleu_of_sums_is_the_one_of_the_corpus():
    references = ["the cat sat on the mat", "a dog barks at night", "no"]
    answers = ["the cat sat on a mat", "dogs bark at night loudly", ""]
    sums = np.array([bleu_sums(*pair) for pair in zip(references, answers, strict=True)]).sum(axis=0)
    assert bleu_of_sums(sums) == pytest.approx(bleu(references, answers), abs=1e-9)
    assert bleu_of_sums(sums) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score, abs=1e-9)
