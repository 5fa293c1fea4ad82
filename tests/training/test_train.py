"""The whole of `raymill train`: what it leaves, finds again and refuses; from and to an object store too."""

import json
import os
import re
import shutil
import signal
import uuid
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import torch
from pydantic import SecretStr
from safetensors.torch import load_file

from raymill.cluster.errors import BusyError, ClusterError, ConfigError, DataError, StorageError, UserError
from raymill.cluster.frame.commands import print_outcome, verb_of
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.inspection import inspect
from raymill.cluster.lease import held
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session, in_worker
from raymill.cluster.store.interface import NotFound, StorageOptions
from raymill.cluster.store.store import Store
from raymill.training import job as job
from raymill.training.commands import export_config
from raymill.training.commands import pack as pack_verb
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Workers
from raymill.training.export import job as export_job
from raymill.training.job import TrainJob, exported_model, train
from raymill.training.pack import job as packing
from raymill.training.pack.job import located_config
from raymill.training.records.finished import export_digests
from raymill.training.records.job import OUTCOME, Job, TrainingFolder
from tests.support import train_inline as inline
from tests.support.fit_jobs import fit_until
from tests.support.hub_commits import raymill
from tests.support.inline import InlineEngine
from tests.support.processes import Command, wait_until
from tests.support.sampled import sampled
from tests.support.servers import CREDENTIALS
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.train_inline import MODEL, PLAIN, sentences, train_inline, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def full(corpus, tmp_path_factory):
    """A finished run, its settings, and the run."""
    settings = {"corpus": corpus, "output": str(tmp_path_factory.mktemp("full") / "run")}
    with pytest.MonkeyPatch.context() as patch:
        return settings, train_inline(settings | {"generate": {"prompts": 2, "max_new_tokens": 4}}, patch)


def never(*_, **__):
    raise AssertionError("nothing was to be done")


def test_a_warm_up_longer_than_the_epochs_of_the_corpus_is_refused_after_packing(corpus, tmp_path, monkeypatch):
    settings = {
        "corpus": corpus,
        "output": str(tmp_path),
        "steps": None,
        "epochs": 1,
        "optimizer": {"warmup_steps": 99},
    }
    with pytest.raises(ConfigError, match=r"optimizer.warmup_steps: 99 of \d+ steps; use fewer"):
        train_inline(settings, monkeypatch)
    assert not (tmp_path / "steps.jsonl").exists()


def test_generation_without_held_out_documents_is_a_warning_of_the_report(corpus, tmp_path, monkeypatch):
    split = {"train": 1, "validation": 0, "test": 0}
    train_inline({"corpus": corpus, "output": str(tmp_path), "steps": 1, "split": split, "generate": {}}, monkeypatch)
    warnings = json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert "No answers were generated (`generate`), because no held-out document has a prompt." in warnings


def test_the_outcome_names_a_run_that_was_finished_before(full, capsys):
    _, run = full
    finished = f"{run.uri}: finished before, nothing to do.\n"
    for fresh in (True, False):
        print_outcome(replace(run, fresh=fresh))
        shown = capsys.readouterr().out
        assert shown.startswith(finished) is not fresh and shown.endswith(f"report  {run.uri}/report.html\n")


def test_a_run_leaves_all_that_it_promises(full):
    settings, run = full
    root = Path(settings["output"])
    for name in ("manifest.json", "steps.jsonl", "evaluation.json", "report.html", "report.json", "packed/pack.json"):
        assert (root / name).is_file(), name
    assert list((root / "checkpoints").glob("step-*/manifest.json"))
    assert (root / "export/full/model.safetensors").is_file()
    evaluation = json.loads((root / "evaluation.json").read_text())
    assert evaluation["after"]["test"]["loss"] < evaluation["before"]["test"]["loss"]
    records = [json.loads(line) for line in (root / "steps.jsonl").read_text().splitlines()]
    timed = [record["step"] for record in records if record.get("validation_s", 0) > 0]
    assert timed == [record["step"] for record in records if "validation" in record] == [0, 3, 6]
    assert 0 < run.report["fits"][0]["totals"]["validation_s"] < run.report["fits"][0]["totals"]["seconds"]
    assert {"exact_match", "rougeL", "bleu"} <= evaluation["generation"].keys()
    assert run.manifest["export"]["folders"] == {"full": "full"}
    assert "tiny" in (root / "report.html").read_text()


def test_a_finished_run_is_found_again_and_nothing_is_done(full, monkeypatch):
    settings, _ = full
    monkeypatch.setattr(inline, "_fit", never)
    whole = settings | {"generate": {"prompts": 2, "max_new_tokens": 4}}
    again = train_inline(whole, monkeypatch)
    assert not again.fresh and again.report["fits"][0]["totals"]["steps"] == PLAIN["steps"]
    assert TrainJob(TrainConfig.model_validate(PLAIN | whole)).work().finished, "submitting it sends nothing"


def test_a_job_that_pack_writes_is_trained_without_ray_and_train_finds_it_finished(corpus, tmp_path, monkeypatch):
    settings = PLAIN | {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 1}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    monkeypatch.setattr(packing, "Engine", InlineEngine)
    pack_verb(str(tmp_path / "train.json"), job=str(tmp_path / "job.json"))
    written = Job.from_json((tmp_path / "job.json").read_bytes())
    outcome = inline.fit_alone(written)
    # The workers may have run on other machines: the one that evaluates and exports need not hold them.
    elsewhere = TrainConfig.model_validate(settings | {"workers": {"cpus_each": 4096}})
    asked = []

    def in_worker(session, function, *arguments, **resources):
        asked.append(resources)
        return function(*arguments)

    monkeypatch.setattr(job, "in_worker", in_worker)
    run = train(elsewhere, Session(), Progress())
    assert asked == [{"gpus": 0}] and run.fresh and run.report["fits"][0]["totals"]["steps"] == outcome["steps"] == 1


def test_workers_that_no_machine_here_holds_are_refused_before_packing(corpus, tmp_path, capsys):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "workers": {"cpus_each": 4096}}
    with pytest.raises(ConfigError, match="4096 CPUs"):
        train(TrainConfig.model_validate(PLAIN | settings), Session(), Progress())
    (tmp_path / "c.json").write_text(json.dumps(PLAIN | settings))
    with pytest.raises(ConfigError, match="4096 CPUs"):
        verb_of(kind_of("train"))(str(tmp_path / "c.json"), dry_run=True)
    assert "plan of tiny" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_while_another_run_writes_at_the_output_nothing_is_done_there_and_a_finished_run_is_shown(
    full, corpus, tmp_path, monkeypatch
):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 1}
    with (
        held(Store(), settings["output"]),
        pytest.raises(BusyError, match=f"another run is writing here: process {os.getpid()}"),
    ):
        train_inline(settings, monkeypatch)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["_lease"]
    assert train_inline(settings, monkeypatch).fresh
    with held(Store(), full[0]["output"]):
        assert not train_inline(full[0] | {"generate": {"prompts": 2, "max_new_tokens": 4}}, monkeypatch).fresh


def test_a_shared_folder_of_rows_that_another_run_is_packing_is_left_to_it(corpus, tmp_path, monkeypatch):
    settings = packed_elsewhere(corpus, tmp_path, "run", steps=1)
    packed = Path(settings["packed"])
    with held(Store(), str(packed)), pytest.raises(BusyError, match=rf"{packed}: another run is writing here: process"):
        train_inline(settings, monkeypatch)
    assert [path.name for path in packed.iterdir()] == ["_lease"]
    assert train_inline(settings, monkeypatch).fresh
    with held(Store(), str(packed)):  # nothing is written there any more
        assert train_inline(settings | {"output": str(tmp_path / "other")}, monkeypatch).fresh


@pytest.mark.parametrize("damage", ["zeros", "gone"])
def test_damaged_best_weights_of_a_finished_fit_are_named_with_the_fix_and_replace_trains_anew(
    corpus, tmp_path, monkeypatch, damage
):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 2, "evaluate": {"every_steps": 1}}
    first = train_inline(settings, monkeypatch)
    for name in ("manifest.json", "export/manifest.json"):
        (tmp_path / "run" / name).unlink()
    best = Path(json.loads((tmp_path / "run" / OUTCOME).read_text())["best_checkpoint"])
    (path,) = best.glob("*.safetensors")
    path.write_bytes(bytes(path.stat().st_size)) if damage == "zeros" else path.unlink()
    seen = "another sha256" if damage == "zeros" else "is missing"
    said = rf"{best}: the checkpoint with the best validation loss .*{seen}.*raymill\.train\(CONFIG, replace=True\)"
    for _ in range(2):
        with pytest.raises(DataError, match=said):
            train_inline(settings, monkeypatch)
    again = train_inline(settings, monkeypatch, replace=True)
    assert again.fresh and again.manifest["artifacts"] == first.manifest["artifacts"]
    kept = (tmp_path / "run" / OUTCOME).stat().st_mtime_ns
    (tmp_path / "run" / "manifest.json").unlink()
    train_inline(settings, monkeypatch, replace=True)
    assert (tmp_path / "run" / OUTCOME).stat().st_mtime_ns == kept, "whole weights are not trained anew"


ALL = {"generate": {"prompts": 2, "max_new_tokens": 4}}


@pytest.mark.parametrize(
    ("name", "how", "digests"),
    [
        ("export/full/model.safetensors", "gone", {}),
        ("export/full/model.safetensors", "short", {}),
        ("export/full/model.safetensors", "flipped", {"verify": True}),
        ("export/full/model.safetensors", "flipped", {"replace": True}),
        ("export/full/README.md", "gone", {}),
        ("export/manifest.json", "gone", {}),
        ("evaluation.json", "gone", {}),
        ("evaluation.json", "short", {}),
        ("report.json", "short", {}),
        ("report.html", "gone", {}),
        ("packed/corpus-0/validation/_manifest.json", "gone", {}),
    ],
)
def test_what_is_damaged_or_gone_of_a_finished_run_is_made_again_without_training(
    full, monkeypatch, caplog, name, how, digests
):
    settings, first = full
    path = Path(settings["output"], name)
    data = path.read_bytes()
    if how == "flipped":
        path.write_bytes(data[:-9] + bytes(one ^ 1 for one in data[-9:]))
        assert not train_inline(settings | ALL, monkeypatch).fresh, "sizes alone do not show it"
    else:
        path.unlink() if how == "gone" else path.write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(inline, "fit_alone", never)
    again = train_inline(settings | ALL, monkeypatch, **digests)
    assert str(path) in caplog.text
    assert again.manifest["artifacts"] == first.manifest["artifacts"]
    assert path.is_file()
    if name.startswith("export/full/model"):
        assert path.read_bytes() == data
    caplog.clear()
    assert not train_inline(settings | ALL, monkeypatch, verify=True).fresh and not caplog.text


def packed_elsewhere(corpus: str, folder: Path, name: str, **settings) -> dict:
    packed = str(folder / settings.get("method", "full"))
    return {"corpus": corpus, "packed": packed, "output": str(folder / name), "generate": None} | settings


def test_equal_trainings_have_equal_digests_and_others_do_not_wherever_the_rows_lie(corpus, tmp_path, monkeypatch):
    made = [
        train_inline(packed_elsewhere(corpus, tmp_path, name, optimizer={"learning_rate": rate}), monkeypatch).manifest
        for name, rate in (("one", 3e-3), ("same", 3e-3), ("other", 2e-3))
    ]
    assert [list(manifest["artifacts"]) for manifest in made] == [["export/full"]] * 3
    one, same, other = (manifest["digest"] for manifest in made)
    assert one == same != other


@pytest.mark.parametrize(("method", "file"), [("lora", "adapter/adapter_config.json"), ("probe", "probe/probe.json")])
def test_where_the_base_is_found_and_the_order_of_a_set_are_no_part_of_a_digest(
    corpus, tmp_path, monkeypatch, method, file
):
    more: dict = {"method": method, "lora": {"rank": 2}} if method == "lora" else {"method": method}
    if method == "probe":
        more |= {"columns": {"text": "text", "label": "kind"}, "packing": {"mode": "none", "overflow": "truncate"}}
    one, two = (train_inline(packed_elsewhere(corpus, tmp_path, name, **more), monkeypatch) for name in ("one", "two"))
    folder = file.partition("/")[0]
    texts = [Path(run.uri, "export", file).read_text() for run in (one, two)]
    assert "one/export/base" in texts[0] and "two/export/base" in texts[1]
    assert {f"export/{folder}", "export/base"} <= one.manifest["artifacts"].keys()
    assert one.manifest["artifacts"] == two.manifest["artifacts"]
    settings = json.loads(texts[1])
    if method == "lora":
        settings["target_modules"].reverse()
    Path(two.uri, "export", file).write_text(json.dumps(settings))
    root = f"{two.uri}/export"
    assert export_digests(Store(), root, two.manifest["export"]) == export_digests(
        Store(), f"{one.uri}/export", one.manifest["export"]
    )
    Path(two.uri, "export", file).write_text(json.dumps(settings | {"lora_alpha": 99}))
    assert (
        export_digests(Store(), root, two.manifest["export"])[folder] != one.manifest["artifacts"][f"export/{folder}"]
    )


def test_inspect_tells_what_a_training_was(full, capsys):
    run = full[1]
    validation = run.report["fits"][0]["validation"]
    inspect(run.uri)
    lines = capsys.readouterr().out.splitlines()
    assert "method    full" in lines and "steps     6" in lines and "exported  full" in lines
    assert any(re.fullmatch(r"base +llama with random weights, hidden 32, layers 2, vocabulary \d+", x) for x in lines)
    assert f"packed    {run.uri}/packed" in lines
    best = min(validation[1:], key=lambda one: one["loss"])
    fell = f"{validation[0]['loss']:.3f} -> {best['loss']:.3f} at step {best['step']}"
    assert f"loss      validation {fell}" in lines
    assert any(re.match(r"  packed/corpus-0/train +\d+ rows ", line) for line in lines)
    (exported,) = [line for line in lines if line.startswith("  export/full")]
    assert " 7 files " in exported and exported.endswith(run.manifest["artifacts"]["export/full"])


def test_a_damaged_checkpoint_is_named_in_the_report_with_what_was_trained_again(corpus, tmp_path, monkeypatch):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "checkpoint": {"every_steps": 2, "keep": 9}}
    with monkeypatch.context() as patch:
        patch.setattr(inline, "fit_alone", lambda job: fit_until(job, 5, alone=True))
        with pytest.raises(TypeError):
            train_inline(settings, patch)
    newest = max((tmp_path / "run" / "checkpoints").glob("*/manifest.json")).parent
    (path,) = newest.glob("*.safetensors")
    path.write_bytes(bytes(path.stat().st_size))
    step = int(newest.name.split("-")[1])
    report = train_inline(settings, monkeypatch).report
    (said,) = [warning for warning in report["warnings"] if "damaged" in warning]
    assert said.startswith(f"The checkpoint of step {step} is damaged and was not used: {path}: ")
    assert re.search(rf"has another sha256 than was .* Steps? .*{step} (is|are) trained again\.$", said)


def test_any_checkpoint_is_exported_while_the_training_goes_on_and_its_end_where_it_belongs(
    corpus, tmp_path, monkeypatch, capfd
):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "checkpoint": {"every_steps": 2, "keep": 9}}
    with pytest.raises(UserError, match="this training has not begun"):
        export_config(PLAIN | settings)
    run = train_inline(settings, monkeypatch)
    ended = [OUTCOME, "evaluation.json", "report.json", "manifest.json"]
    (tmp_path / "ended").mkdir()
    for name in ended:  # as before the last step
        (tmp_path / "run" / name).rename(tmp_path / "ended" / name)
    [newest], [second] = export_config(PLAIN | settings), export_config(PLAIN | settings, step=2)
    steps = sorted({int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").iterdir()})
    assert newest == f"{run.uri}/exports/step-{steps[-1]:08d}/full"
    assert second == f"{run.uri}/exports/step-00000002/full"
    last, middle = (load_file(Path(one, "model.safetensors")) for one in (newest, second))
    assert any(not torch.equal(last[name], middle[name]) for name in last)
    assert "(ended: not ended)" in Path(second, "README.md").read_text()
    with pytest.raises(DataError, match=rf"no checkpoint of step 99\. .*: {', '.join(map(str, steps))}$"):
        export_config(PLAIN | settings, step=99)
    with pytest.raises(DataError, match=r"of other settings, model or data: optimizer\.weight_decay"):
        export_config(PLAIN | settings, {"optimizer.weight_decay": 0.5})
    (folder,) = (tmp_path / "run" / "checkpoints").glob(f"step-{steps[-1]:08d}-*")
    written = export_job._written

    def removed(*given) -> dict:  # by the training, which goes on
        if folder.exists():
            folder.rename(tmp_path / "removed")
        return written(*given)

    with monkeypatch.context() as patch:
        patch.setattr(export_job, "_written", removed)
        with pytest.raises(DataError, match="the training removed this checkpoint while it was exported; it keeps"):
            export_config(PLAIN | settings, step=steps[-1])
        (tmp_path / "removed").rename(folder)
        [before] = export_config(PLAIN | settings)
        assert before == f"{run.uri}/exports/step-{steps[-2]:08d}/full"
    (tmp_path / "removed").rename(folder)
    outside = tmp_path / "outside"
    (outside / "step-00000002").mkdir(parents=True)
    for name in ("mine.txt", "manifest.json"):
        (outside / "step-00000002" / name).write_text("mine")
    (tmp_path / "run" / "exports").rename(tmp_path / "moved")
    (tmp_path / "run" / "exports").symlink_to(outside)
    with pytest.raises(StorageError, match="neither reads nor deletes"):
        export_config(PLAIN | settings, step=2)
    assert {path.name for path in outside.rglob("*")} == {"step-00000002", "mine.txt", "manifest.json"}
    (tmp_path / "run" / "exports").unlink()
    with monkeypatch.context() as patch, pytest.raises(DataError, match="no file of a start of this training"):
        patch.setattr(TrainingFolder, "attempts", f"{tmp_path}/none")
        export_config(PLAIN | settings, step=2)
    for name in ended:
        (tmp_path / "ended" / name).rename(tmp_path / "run" / name)
    before = Path(run.uri, "export", "full", "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="bfloat16"):  # what a finished run exported is not replaced
        export_config(PLAIN | settings, {"export.dtype": "bfloat16"})
    assert export_config(PLAIN | settings) == [f"{run.uri}/export/full"]
    shutil.rmtree(tmp_path / "run" / "export")
    with pytest.raises(BusyError), held(Store(), run.uri):
        export_config(PLAIN | settings)
    (tmp_path / "run.json").write_text(json.dumps(PLAIN | settings))
    capfd.readouterr()  # of the training
    assert raymill(capfd, "export", tmp_path / "run.json") == (0, f"{run.uri}/export/full\n")
    assert Path(run.uri, "export", "full", "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("part", ["export", "export/full", "checkpoints", "checkpoints/*"])
def test_inspect_of_a_part_of_a_finished_training_points_at_the_training(full, part):
    run = full[1]
    place = next(Path(run.uri).glob(part))
    with pytest.raises(DataError, match=rf"is part of the finished run at {run.uri}\. Run `raymill\.inspect") as told:
        inspect(str(place))
    assert "makes it again" not in str(told.value)


def test_inspect_of_a_part_of_an_unfinished_training_says_how_to_go_on(full, tmp_path):
    shutil.copytree(full[1].uri, tmp_path / "run", ignore=lambda folder, names: {"manifest.json", "packed"} & {*names})
    for place in (tmp_path / "run", tmp_path / "run" / "export" / "full", tmp_path / "run" / "checkpoints"):
        with pytest.raises(DataError, match="run the command that makes it again: it continues"):
            inspect(str(place))


def test_a_finished_run_whose_corpus_changed_is_refused_with_the_file_until_it_is_replaced(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path)
    model = {"config": MODEL | {"vocab_size": 400}, "tokenizer": saved(tmp_path / "t", tiny())}
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "model": model, "steps": 1}
    first = train_inline(settings, monkeypatch)
    with open(corpus, "a") as file:
        file.write(json.dumps({"id": "new", "text": "A line that was appended."}) + "\n")
    for verify in (False, True):
        with pytest.raises(DataError, match=r"files of .*/corpus\.jsonl changed \(corpus\.jsonl had .* replace=True"):
            train_inline(settings, monkeypatch, verify=verify)
    with pytest.raises(DataError, match=r"corpus\.jsonl changed"):
        TrainJob(TrainConfig.model_validate(PLAIN | settings)).find()
    again = train_inline(settings, monkeypatch, replace=True)
    assert again.fresh and again.report["fits"][0]["corpora"][0]["documents"] == 81
    assert again.manifest["digest"] != first.manifest["digest"]


def test_another_setting_at_the_same_output_is_refused_with_both_values(full, monkeypatch):
    settings, _ = full
    with pytest.raises(DataError, match=r"optimizer\.learning_rate was 0\.003, now 0\.001"):
        train_inline(settings | {"optimizer": {"learning_rate": 1e-3}, "generate": None}, monkeypatch)


def test_replace_makes_it_anew(corpus, tmp_path, monkeypatch):
    settings = {"corpus": corpus, "output": str(tmp_path / "run"), "steps": 2}
    first = train_inline(settings, monkeypatch)
    second = train_inline(settings | {"steps": 3}, monkeypatch, replace=True)
    assert second.fresh and second.report["fits"][0]["totals"]["steps"] == 3
    one, two = first.manifest["artifacts"], second.manifest["artifacts"]
    assert {name for name in one if one[name] != two[name]} == {"export/full"}, "the packed rows still apply"


def test_the_next_phase_starts_from_what_the_last_one_left(corpus, tmp_path, monkeypatch, capsys):
    columns = {"prompt": "question", "completion": "answer"}
    phases = [{"name": "first", "method": "full"}, {"name": "second", "columns": columns, "steps": 3}]
    lora = {"method": "lora", "lora": {"rank": 2}, "phases": phases}
    run = train_inline({"corpus": corpus, "output": str(tmp_path / "run")} | lora, monkeypatch)
    first, second = run.parts
    assert exported_model(first) in second.report["fits"][0]["recipe"]["base_model"]
    assert [fit["name"] for fit in run.report["fits"]] == ["tiny-first", "tiny-second"]
    assert Path(second.uri, "export/merged/model.safetensors").is_file()
    assert "apply_chat_template" in Path(second.uri, "export/merged/README.md").read_text(), "pairs became turns"
    assert "apply_chat_template" not in Path(first.uri, "export/full/README.md").read_text(), "texts did not"
    assert (tmp_path / "run/report.html").is_file()
    assert run.manifest["artifacts"] == {"first": first.manifest["digest"], "second": second.manifest["digest"]}
    Path(first.uri, "export/full/model.safetensors").unlink()
    Path(second.uri, "export/merged/model.safetensors").write_bytes(b"")
    (tmp_path / "run/report.html").unlink()
    config = TrainConfig.model_validate(PLAIN | {"corpus": corpus, "output": str(tmp_path / "run")} | lora)
    assert not TrainJob(config).work().finished
    again = train_inline({"corpus": corpus, "output": str(tmp_path / "run")} | lora, monkeypatch)
    assert TrainJob(config).work().finished
    assert again.manifest["artifacts"] == run.manifest["artifacts"] and (tmp_path / "run/report.html").is_file()
    found = train_inline({"corpus": corpus, "output": str(tmp_path / "run")} | lora, monkeypatch)
    assert again.fresh and not found.fresh and found.manifest == again.manifest
    assert Path(exported_model(again.parts[0]), "model.safetensors").is_file()
    assert Path(second.uri, "export/merged/model.safetensors").stat().st_size
    inspect(run.uri)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("phase 1   tiny-first; method full; base llama") for line in lines)
    assert any(line.startswith("  second ") and line.endswith(second.manifest["digest"]) for line in lines)


@pytest.mark.parametrize("method", sampled(["lora", "prefix", "prompt", "probe"], 2))
def test_every_method_runs_from_corpus_to_export(full, corpus, tmp_path, monkeypatch, method):
    base = exported_model(full[1])
    whole = {"packing": {"mode": "none", "overflow": "truncate"}}
    more: dict = whole if method != "lora" else {}
    if method != "lora":
        more = more | {"steps": 30, "optimizer": {"learning_rate": 0.1}}  # little is trained, from noise
    if method == "probe":
        more = more | {"columns": {"text": "text", "label": "kind"}}
    run = train_inline(
        {"corpus": corpus, "output": str(tmp_path / "run"), "method": method, "model": base} | more, monkeypatch
    )
    fit = run.report["fits"][0]
    # Virtual tokens begin as noise, for which so little training need not make up: the loss falls after the first look.
    looks = fit["validation"][1:] if method in ("prefix", "prompt") else [fit["before"]["test"], fit["after"]["test"]]
    assert looks[-1]["loss"] < looks[0]["loss"]
    assert fit["unmoved"] == []
    assert ("probe" if method == "probe" else "adapter") in run.manifest["export"]["folders"]


def test_before_training_every_method_is_worth_what_the_base_model_is(full, corpus, tmp_path, monkeypatch):
    base = exported_model(full[1])
    more = {"corpus": corpus, "model": base, "steps": 1, "packing": {"mode": "none", "overflow": "truncate"}}
    found = []
    for method in ("lora", "prefix", "prompt"):
        run = train_inline({"output": str(tmp_path / method), "method": method} | more, monkeypatch)
        fit = run.report["fits"][0]
        found.append((fit["validation"][0]["loss"], fit["before"]["test"]["loss"]))
    assert found[1] == pytest.approx(found[0], rel=1e-6) and found[2] == pytest.approx(found[0], rel=1e-6)


def test_what_workers_receive_names_a_hub_models_commit(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.training.model_folder.folder._commit", lambda name, revision: "a" * 40)
    plain = PLAIN | {"corpus": corpus, "output": str(tmp_path), "model": "some/model"}
    assert located_config(TrainConfig.model_validate(plain)).model.revision == "a" * 40


@pytest.fixture(params=["moto", pytest.param("ceph", marks=[pytest.mark.rgw, pytest.mark.slow])])
def object_stores(request) -> tuple[tuple[Store, str], tuple[Store, str]]:
    """A store with a folder on it; and one of another user, with keys of its own, on another server or the same."""
    if request.param == "moto":
        names = ("s3_store", "s3_root", "s3_with_keys", "private")
        store, root, with_keys, private = (request.getfixturevalue(name) for name in names)
        return (store, root), (with_keys, private)
    ceph, found = request.getfixturevalue("ceph"), []
    ceph.add_user("writer", "other-key", "other-secret")
    for key, secret in (tuple(CREDENTIALS.values()), ("other-key", "other-secret")):
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        client = {"endpoint_url": ceph.url, "region_name": "us-east-1"}
        boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret, **client).create_bucket(Bucket=bucket)
        options = StorageOptions(endpoint_url=ceph.url, access_key_id=key, secret_access_key=secret, retries=2)
        found.append((Store(options), f"s3://{bucket}"))
    first, second = found
    with pytest.raises(StorageError, match="refused"):
        first[0].write_bytes(f"{second[1]}/x", b"")
    return first, second


def test_corpus_model_and_output_may_all_lie_on_object_stores(object_stores, full, tmp_path, monkeypatch):
    """The corpus on another one than the rest, with keys of its own."""
    (s3_store, s3_root), (s3_with_keys, private) = object_stores
    text = "".join(json.dumps(row) + "\n" for row in sentences())
    s3_with_keys.write_bytes(f"{private}/corpus/part.jsonl", text.encode())
    for path in sorted(Path(exported_model(full[1])).iterdir()):
        s3_store.write_bytes(f"{s3_root}/base/{path.name}", path.read_bytes())
    settings = {
        "corpus": [{"path": f"{private}/corpus", "storage": s3_with_keys.options}],
        "model": f"{s3_root}/base",
        "method": "lora",
        "output": f"{s3_root}/run",
        "storage": s3_store.options,
    }
    run = train_inline(settings, monkeypatch)
    assert run.uri == f"{s3_root}/run"
    names = {file.uri.removeprefix(f"{s3_root}/run/") for file in s3_store.list_files(f"{s3_root}/run")}
    assert {"manifest.json", "steps.jsonl", "report.html", "export/merged/model.safetensors"} <= names
    secret = s3_with_keys.options.secret_access_key.get_secret_value().encode()
    assert not [name for name in names if secret in s3_store.read_bytes(f"{s3_root}/run/{name}")]
    assert not train_inline(settings, monkeypatch).fresh
    wrong = s3_with_keys.options.model_copy(update={"secret_access_key": SecretStr("wrong")})
    with pytest.raises(StorageError, match=r"refused these credentials.*keys under `corpus\[0\]\.storage:`"):
        train_inline(settings | {"corpus": [{"path": f"{private}/corpus", "storage": wrong}]}, monkeypatch)
    elsewhere = train_inline(
        {"corpus": write_corpus(tmp_path), "model": exported_model(full[1]), "method": "lora",
         "output": str(tmp_path / "run")}, monkeypatch
    )  # fmt: skip
    losses = [run.report["fits"][0]["after"]["test"]["loss"], elsewhere.report["fits"][0]["after"]["test"]["loss"]]
    assert losses[0] == losses[1], "the same from a local disk"


def test_a_model_that_is_not_there_is_reported_before_anything_is_packed(corpus, tmp_path):
    config = TrainConfig.model_validate(
        PLAIN | {"corpus": corpus, "output": str(tmp_path / "run"), "model": str(tmp_path / "nowhere")}
    )
    with pytest.raises(StorageError, match="no such folder on this machine"):
        train(config, Session(address="nowhere:1"), Progress())
    assert not (tmp_path / "run").exists()


def refuse(path: str) -> None:
    raise NotFound(path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
def test_on_ray_two_workers_come_to_the_loss_of_one(corpus, tmp_path, monkeypatch):
    """And what the parts that need one worker say, they say as if they ran here."""
    package = tmp_path / "packages" / "of_a_user-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: of-a-user\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[raymill.train_callbacks]\nreported = tests.support.train_callback:Reported\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("REPORTED", str(tmp_path / "reported"))
    results = []
    monkeypatch.setattr(
        "raymill.training.driver.launch._fit", lambda trainer, ended: ended.put(results.append(trainer.fit()))
    )
    settings = {"corpus": corpus, "method": "lora", "generate": {"prompts": 2, "max_new_tokens": 4}}
    alone = train_inline(settings | {"output": str(tmp_path / "alone")}, monkeypatch)
    config = TrainConfig.model_validate(
        PLAIN | settings | {"output": str(tmp_path / "two"), "workers": {"count": {"min": 1, "max": 2}}}
    )
    with Session(cpus=2) as session:
        two = train(config, session, Progress())
        with pytest.raises(StorageError, match="nowhere/at/all"):
            in_worker(session, refuse, "nowhere/at/all")
        with pytest.raises(ClusterError, match="its worker failed"):
            in_worker(session, die)
        many = config.model_copy(update={"workers": Workers(count=5), "output": str(tmp_path / "many")})
        with pytest.raises(ConfigError, match=r"5 workers with 1 CPU each were requested; .* 2 CPUs, enough for 2"):
            train(many, session, Progress())
        assert not list((tmp_path / "many").rglob("*.parquet")), "told before anything is packed"
    losses = [run.report["fits"][0]["after"]["test"]["loss"] for run in (alone, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert two.report["fits"][0]["totals"]["workers"] == [2]
    reports = [json.loads(line) for line in (tmp_path / "reported").read_text().splitlines()]
    lines = (tmp_path / "two" / "steps.jsonl").read_text().splitlines()
    steps = {record["step"]: record for record in map(json.loads, lines)}
    assert [first["step"] for (first, _), _ in reports] == [3, 6]
    for (first, second), name in reports:
        assert first["loss"] == steps[first["step"]]["loss"] and second == {}
        assert first["validation/loss"] == steps[first["step"]]["validation"]["loss"]
        assert Path(first["checkpoint"]).parent == tmp_path / "two" / "checkpoints"
        assert Path(first["checkpoint"]).name == Path(name).name, "a reference: nothing is copied"
    (result,) = results
    assert result.metrics == reports[-1][0][0] and len(result.metrics_dataframe) == 2
    assert not train(config, Session(address="nowhere:1"), Progress()).fresh, "found again without Ray"


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_that_a_scheduler_tells_to_end_says_so_and_leaves_nothing_running(corpus, tmp_path):
    steps = 400
    config = PLAIN | {
        "corpus": corpus,
        "output": str(tmp_path / "run"),
        "steps": steps,
        "checkpoint": {"every_steps": 5},
    }
    (tmp_path / "train.yaml").write_text(json.dumps(config))
    words = ("train", str(tmp_path / "train.yaml"))
    first = Command(*words)
    try:
        saved = tmp_path / "run" / "checkpoints"
        assert wait_until(lambda: len(list(saved.glob("*/manifest.json"))) > 1, 180)
        second = Command(*words)
        code, out, err = second.wait(60)
        assert (code, out) == (2, "") and re.search(
            rf"another run is writing here: process {first.process.pid} of", err
        )
        first.kill(first.process.pid, signal.SIGTERM)
        code, _, err = first.wait(60)
        assert code == 130, err
        (lease,) = (tmp_path / "run" / "_lease").iterdir()
        assert json.loads(lease.read_text())["released"]
        assert not (tmp_path / "run" / "manifest.json").exists()
        assert wait_until(lambda: not first.others(), 20), "workers and Ray are gone"
    finally:
        first.end_all()
    log = [json.loads(line)["step"] for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert 5 <= log[-1] < steps
