"""`continue_from`: a finished run goes on as another run, without Ray."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.frame.job import Run
from raymill.training.config import TrainConfig
from raymill.training.continuing import ParentRun, find_parent
from raymill.training.data.order import Order, Position
from raymill.training.job import TrainJob, packed_job
from raymill.training.pack.packed_run import PackedRun
from raymill.training.plan.planning import machine, plan_run, plan_text
from raymill.training.records.job import Job
from tests.support import train_inline as inline
from tests.support.fit_jobs import Interrupted, fit_here, fit_until
from tests.support.ranks import RankPool
from tests.support.train_inline import PLAIN, sentences, train_inline, write_corpus

CONSTANT = {"learning_rate": 3e-3, "schedule": "constant"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("continuing")
    write_corpus(made)
    return made


def trained(folder: Path, patch: pytest.MonkeyPatch, name: str, replace: bool = False, **more: Any) -> Run:
    settings = {"corpus": str(folder / "corpus.jsonl"), "optimizer": CONSTANT, "output": str(folder / name)}
    settings |= {"packed": str(folder / "packed")}
    return train_inline(settings | more, patch, replace=replace)


@pytest.fixture(scope="module")
def parent(folder) -> str:
    with pytest.MonkeyPatch.context() as patch:
        return trained(folder, patch, "parent").uri


def steps_of(run: str) -> list[dict]:
    lines = Path(run, "steps.jsonl").read_text().splitlines()
    return [record for line in lines if "loss" in (record := json.loads(line))]


def losses(run: str) -> list[float]:
    return [record["loss"] for record in steps_of(run)]


def test_steps_on_the_same_prompts_count_their_samples_once():
    """Of grpo with 4 updates: 5 steps of 8 rows take the prompts of 2 samplings."""
    plain = {"settings.tokens_per_step": "64", "settings.sequence_length": "8"}
    of_grpo = plain | {"settings.grpo": '{"updates": 4}'}
    for settings, samples in ((plain, 40 + 3), (of_grpo, 16 + 3)):
        parent = SimpleNamespace(settings=settings, before={"samples": 3}, checkpoint=SimpleNamespace(step=5))
        assert ParentRun.samples.fget(parent) == samples


def test_a_continued_run_has_the_losses_and_rows_of_an_undisturbed_one(folder, parent, monkeypatch):
    whole = trained(folder, monkeypatch, "whole", steps=12).uri
    child = trained(folder, monkeypatch, "child", continue_from=parent).uri
    assert losses(parent) + losses(child) == losses(whole)
    rows = [[record["samples"] for record in steps_of(run)] for run in (parent, child, whole)]
    assert rows[0] + rows[1] == rows[2]


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_run_without_an_average_of_the_weights_is_continued_with_one_that_begins_with_its_weights(
    folder, parent, monkeypatch, engine
):
    averaging = CONSTANT | {"ema_decay": 0.999}
    child = trained(folder, monkeypatch, f"averaged-{engine}", continue_from=parent, optimizer=averaging, engine=engine)
    plain = trained(folder, monkeypatch, f"plain-{engine}", continue_from=parent, engine=engine)
    assert losses(child.uri) == losses(plain.uri)
    first, second = (run.report["fits"][0]["validation"] for run in (child, plain))
    assert first[0]["loss"] == second[0]["loss"] != second[-1]["loss"]
    # Six updates after six: an average of the weights before and of these.
    assert second[-1]["loss"] < first[-1]["loss"] < second[0]["loss"]


def test_a_run_that_continues_a_continued_one_goes_on_too(folder, parent, monkeypatch):
    lora = {"method": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.1}}
    whole = trained(folder, monkeypatch, "lora-whole", steps=9, **lora).uri
    runs = [trained(folder, monkeypatch, "lora-1", steps=3, **lora).uri]
    for number in (2, 3):
        runs.append(trained(folder, monkeypatch, f"lora-{number}", steps=3, continue_from=runs[-1], **lora).uri)
    assert [loss for run in runs for loss in losses(run)] == losses(whole)


def test_a_run_of_its_own_says_what_it_keeps_and_what_is_new(folder, parent, monkeypatch):
    schedule = {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 1}
    found = trained(folder, monkeypatch, "schedule", continue_from=parent, optimizer=schedule, steps=4, engine="fsdp2")
    rates = [record["learning_rate"] for record in steps_of(found.uri)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True)
    digest = json.loads(Path(parent, "manifest.json").read_text())["digest"]
    assert digest in found.manifest["told"]["continues"] and found.manifest["digest"] != digest
    lines = found.report["fits"][0]["continues"]
    kept, new, changed = lines[1:]
    for word in ("weights and optimizer state after 6 updates", "tokenizer", "position in the data, after 24 samples"):
        assert word in kept
    assert "4 steps with schedule cosine at learning rate 0.001 from step 1 on, on engine fsdp2" in new
    assert 'engine was "ddp", now "fsdp2"' in changed and 'optimizer.schedule was "constant", now "cosine"' in changed
    assert "Continued run" in Path(found.uri, "report.html").read_text()
    assert f"digest {digest}" in Path(found.uri, "export", "full", "README.md").read_text()
    ended = json.loads(Path(parent, "report.json").read_text())["fits"][0]
    assert ended["best_step"] == 6  # its last
    assert found.report["fits"][0]["before"] == ended["after"]
    again = trained(folder, monkeypatch, "schedule", continue_from=parent, optimizer=schedule, steps=4, engine="fsdp2")
    assert not again.fresh


LARGER = {"lora": {"rank": 4, "alpha": 4}}
OTHER_MODEL = PLAIN["model"]["config"] | {"hidden_size": 64}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parent", '{"samples": "x", "taken": "abc"}'),
        ("parent", '{"samples": -5}'),
        ("parent", '{"samples": 1000000000000000000}'),
        ("parent", "[1]"),
        ("settings.sequence_length", "0"),
        ("settings.tokens_per_step", None),
        ("settings.seed", "no JSON"),
        ("corpora", "[1, 2]"),
        ("data", None),
        ("model", 7),
    ],
)
def test_a_checkpoint_whose_identity_was_changed_is_not_continued(folder, parent, tmp_path, name, value):
    run = shutil.copytree(parent, tmp_path / "run")
    for path in run.glob("checkpoints/*/manifest.json"):
        plain = json.loads(path.read_text())
        plain["identity"].pop(name, None)
        plain["identity"] |= {} if value is None else {name: value}
        path.write_text(json.dumps(plain))
    config = PLAIN | {"corpus": str(folder / "corpus.jsonl"), "output": str(tmp_path / "o"), "continue_from": str(run)}
    with pytest.raises(DataError, match=r"its identity (lacks parts|is no object)"):
        find_parent(TrainConfig.model_validate(config))


@pytest.fixture(scope="module")
def adapter(folder) -> str:
    with pytest.MonkeyPatch.context() as patch:
        return trained(folder, patch, "adapter", method="lora", lora={"rank": 2, "alpha": 4}, steps=2).uri


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "full"}, ['method was "lora", now "full"']),
        (LARGER, ["lora.rank was 2, now 4"]),
        ({"lora": {"rank": 2, "alpha": 8, "target": ["q_proj"]}}, ["alpha was 4.0, now 8.0", 'was "all-linear", now']),
        ({"model": {"config": OTHER_MODEL, "tokenizer": "train"}}, ["model was llama", "now llama", "(random-"]),
        ({"seed": 9}, ["model was llama", "now llama"]),  # the frozen base is drawn by the seed
    ],
    ids=["method", "rank", "alpha and target", "base model", "seed of the base"],
)
def test_what_cannot_be_continued_is_refused_with_both_values_before_packing(
    folder, adapter, monkeypatch, changes, said
):
    plain = {"method": "lora", "lora": {"rank": 2, "alpha": 4}, "continue_from": adapter, "packed": None}
    with pytest.raises(ConfigError) as refused:
        trained(folder, monkeypatch, "refused", **plain | changes)
    for words in said:
        assert words in str(refused.value)
    assert not (folder / "refused" / "packed").exists()


def test_a_tokenizer_that_another_corpus_gives_is_refused_and_the_one_of_the_run_is_named(folder, parent, monkeypatch):
    (folder / "other.jsonl").write_text(
        "".join(json.dumps({"text": f"Bees {n} and hives " * 9}) + "\n" for n in range(80))
    )
    other = {"corpus": str(folder / "other.jsonl"), "packed": None, "continue_from": parent}
    with pytest.raises(ConfigError, match=r"tokenizer was \"\w+\", now \"\w+\"") as refused:
        trained(folder, monkeypatch, "bees", **other)
    tokenizer = str(folder / "packed" / "tokenizer")
    assert tokenizer in str(refused.value)
    model = {"config": PLAIN["model"]["config"], "tokenizer": tokenizer}
    found = trained(folder, monkeypatch, "bees", replace=True, model=model, **other)
    assert "begins at its first sample, because the packed rows are others" in found.report["fits"][0]["continues"][1]


def test_the_samples_follow_those_of_the_parent_in_other_batches(folder, parent, monkeypatch):
    half = trained(folder, monkeypatch, "half", continue_from=parent, tokens_per_step=2 * 64, steps=12).uri
    whole = trained(folder, monkeypatch, "whole", steps=12).uri
    pairs = [int(one["samples"], 16) for one in steps_of(half)]
    sums = [(one + other) % (1 << 64) for one, other in zip(pairs[::2], pairs[1::2], strict=True)]
    assert sums == [int(one["samples"], 16) for one in steps_of(whole)[6:]]


def test_several_workers_continue_a_run_of_several_workers_to_the_bit_and_one_worker_nearly(
    folder, parent, monkeypatch
):
    sharded = {"engine": "fsdp2", "workers": {"count": 2}}
    with RankPool(2) as ranks:
        monkeypatch.setattr(inline, "fit_alone", lambda job: ranks.run(fit_here, job)[0])
        whole = trained(folder, monkeypatch, "two-whole", steps=6, **sharded).uri
        first = trained(folder, monkeypatch, "two-first", steps=3, **sharded).uri
        second = trained(folder, monkeypatch, "two-second", steps=3, continue_from=first, **sharded).uri
    assert losses(first) + losses(second) == losses(whole)
    monkeypatch.undo()
    alone = trained(folder, monkeypatch, "one-second", steps=3, continue_from=first).uri
    assert losses(alone) == pytest.approx(losses(second), rel=1e-5)


def test_with_other_shares_each_corpus_goes_on_after_its_own_samples(folder, monkeypatch):
    corpora = []
    for name, rows in (("few", sentences(40)), ("many", sentences(80))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        corpora.append({"name": name, "path": str(folder / f"{name}.jsonl")})
    rows: dict[int, list[int]] = {0: [], 1: []}
    run, taken = None, []
    for number, weights in enumerate(((1, 1), (3, 1), (3, 1), (1, 2))):
        mixed = [one | {"weight": weight} for one, weight in zip(corpora, weights, strict=True)]
        settings = {"corpus": mixed, "packed": str(folder / "packed-mixed"), "steps": 2}
        run = trained(folder, monkeypatch, f"mixed-{number}", continue_from=run, **settings).uri
        config = TrainConfig.model_validate(
            PLAIN | settings | {"output": run, "continue_from": str(folder / f"mixed-{number - 1}") if number else None}
        )
        packed = PackedRun.load(config.store, str(folder / "packed-mixed"))
        before = packed_job(config, packed).parent
        order = Order.for_training(config, packed, before.position if before else Position())
        for corpus, row in (pair for step in range(2) for pair in order.step(step)):
            rows[corpus].append(row)
        taken.append([len(rows[0]), len(rows[1])])
        if number:
            kept = json.loads(Path(run, "report.json").read_text())["fits"][0]["continues"][1]
            assert f"position in the data, after {8 * number} samples" in kept
    swapped = TrainConfig.model_validate(
        PLAIN | settings | {"corpus": mixed[::-1], "output": "x", "continue_from": run}
    )
    assert "because the corpora have another order" in packed_job(swapped, packed).parent.words[1]
    undisturbed = Order.for_training(config, packed)
    for corpus, found in rows.items():
        whole = [row for step in range(20) for one, row in undisturbed.step(step) if one == corpus]
        assert found == whole[: len(found)]
    assert taken[1][0] - taken[0][0] > taken[3][0] - taken[2][0], "the shares are those of each run"


def test_the_best_checkpoint_is_continued_where_that_is_stated(folder, monkeypatch):
    hot = {"learning_rate": 3e-2, "schedule": "constant"}
    steep = trained(folder, monkeypatch, "steep", steps=9, optimizer=hot, evaluate={"every_steps": 1})
    best = json.loads(Path(steep.uri, "fit.json").read_text())["best_step"]
    for which, step in (("best", best), ("newest", 9)):
        settings = PLAIN | {"corpus": str(folder / "corpus.jsonl"), "output": str(folder / "x")}
        config = TrainConfig.model_validate(settings | {"continue_from": {"run": steep.uri, "checkpoint": which}})
        found = find_parent(config)
        assert found is not None and found.checkpoint.step == step and found.samples == 4 * step


def test_another_seed_continues_the_weights_and_begins_the_data(folder, parent):
    settings = PLAIN | {"corpus": str(folder / "corpus.jsonl"), "output": str(folder / "x"), "seed": 9}
    config = TrainConfig.model_validate(settings | {"continue_from": parent, "optimizer": CONSTANT})
    found = packed_job(config, PackedRun.load(config.store, str(folder / "packed"))).parent
    assert found is not None and found.position == Position() and found.updates == 6
    assert "begins at its first sample, because seed was 1, now 9" in found.words[1]


def test_a_run_is_needed_that_is_finished_and_one_training(folder, parent, monkeypatch):
    with pytest.raises(DataError, match="nowhere: there is no run"):
        trained(folder, monkeypatch, "none", continue_from=str(folder / "nowhere"))
    phases = trained(folder, monkeypatch, "phases", phases=[{"name": "a"}, {"name": "b"}], steps=2, packed=None).uri
    with pytest.raises(DataError, match="name one of its phases"):
        trained(folder, monkeypatch, "none", continue_from=phases)
    with pytest.raises(ConfigError, match="the run to continue"):
        trained(folder, monkeypatch, "parent", continue_from=parent)
    with pytest.raises(ValueError, match="every phase would continue the same run"):
        TrainConfig.model_validate(
            PLAIN | {"corpus": "x", "output": "y", "phases": [{"name": "a"}], "continue_from": "z"}
        )


def test_a_finished_run_stays_finished_when_the_one_before_is_gone(folder, monkeypatch):
    first = trained(folder, monkeypatch, "first", steps=2).uri
    second = trained(folder, monkeypatch, "second", steps=2, continue_from=first)
    Path(first).rename(folder / "moved")
    again = trained(folder, monkeypatch, "second", steps=2, continue_from=first)
    assert not again.fresh and again.manifest == second.manifest
    third = trained(folder, monkeypatch, "third", steps=2, continue_from=str(folder / "moved"))
    assert losses(third.uri) == losses(second.uri)


@pytest.mark.parametrize("record", ["kept", "gone"])
def test_an_interrupted_run_is_finished_after_the_one_before_is_gone(folder, monkeypatch, record):
    first = trained(folder, monkeypatch, "gone", steps=3).uri
    orphan = f"orphan-{record}"

    def interrupted(job):
        fit_until(job, 5, alone=True)
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(inline, "fit_alone", interrupted)
        trained(folder, monkeypatch, orphan, continue_from=first)
    shutil.rmtree(first)
    held_out = folder / orphan / "held_out" / "before.json"
    if record == "gone":
        held_out.unlink()
    [fit] = trained(folder, monkeypatch, orphan, continue_from=first).report["fits"]
    assert fit["after"].keys() == {"test"}
    if record == "kept":
        assert fit["before"].keys() == {"test"} and fit["evaluation_notes"] == []
        return
    assert fit["before"] == {}
    assert fit["evaluation_notes"] == [
        f"The loss before training was not measured: the checkpoint of the run {first} is gone or damaged."
    ]


def test_a_run_that_was_trained_again_is_another_one_to_continue(folder, monkeypatch):
    first = trained(folder, monkeypatch, "again", steps=2).uri
    second = trained(folder, monkeypatch, "after-again", steps=2, continue_from=first).uri
    trained(folder, monkeypatch, "again", steps=3, replace=True)
    with pytest.raises(DataError, match="the run in continue_from changed"):
        trained(folder, monkeypatch, "after-again", steps=2, continue_from=first)
    assert trained(folder, monkeypatch, "after-again", steps=2, continue_from=first, replace=True).uri == second


def test_the_plan_and_a_submitted_job_name_the_run(folder, parent):
    settings = PLAIN | {"corpus": str(folder / "corpus.jsonl"), "output": str(folder / "planned")}
    config = TrainConfig.model_validate(settings | {"continue_from": parent})
    text = plan_text(plan_run(config, machine(config, None, None, None, 0.4, None)))
    assert f"continues {parent}" in text and "position in the data, after 24 samples" in text
    submitted = TrainJob(config).work()
    assert submitted.config["continue_from"]["run"] == parent and f"{parent}/manifest.json" in submitted.must_exist
    assert submitted.result != TrainJob(TrainConfig.model_validate(settings)).work().result


def test_a_job_of_torchrun_has_the_run_to_continue(folder, parent, monkeypatch):
    settings = PLAIN | {"corpus": str(folder / "corpus.jsonl"), "output": str(folder / "job")}
    config = TrainConfig.model_validate(settings | {"packed": str(folder / "packed"), "continue_from": parent})
    job = packed_job(config, PackedRun.load(config.store, str(folder / "packed")))
    assert job.parent is not None and Job.from_json(job.to_json()).parent == job.parent


def test_a_phase_that_is_a_link_out_of_the_output_is_refused(folder, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (folder / "linked").mkdir()
    (folder / "linked/a").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match="a link to"):
        trained(folder, monkeypatch, "linked", phases=[{"name": "a"}, {"name": "b"}], steps=2, packed=None)
    assert not any((tmp_path / "mine").iterdir())
