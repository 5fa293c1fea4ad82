"""Trainings by rewards of sampled answers: what is sampled, what an answer is worth, and what a step comes to."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raymill.cluster.errors import ConfigError, DataError
from raymill.training.config import TrainConfig
from raymill.training.data.batch import POLICY
from raymill.training.data.order import Order
from raymill.training.engines.engine import STATES
from raymill.training.models.build import build_objective
from raymill.training.objectives import Grpo
from raymill.training.plan import planning
from raymill.training.records.finished import refuse_or_delete_other_training
from raymill.training.records.job import Job
from raymill.training.rollouts import steps as rollout_steps
from raymill.training.rollouts.rewards import SampledAnswer, advantages, rewards_of
from raymill.training.rollouts.sampling import answer_key, sample_answers, uniforms
from raymill.training.rollouts.steps import ROLLOUTS, Rollouts, rows_of
from tests.support.fit_jobs import column, final_weights, fit_alone, fit_here, fit_until, state_of
from tests.support.pack_runs import packed_by, write_lines
from tests.support.ranks import RankPool
from tests.support.rollout_jobs import MODEL, pack_prompts, rollout_job, settings
from tests.support.sampled import sampled

torch.set_num_threads(1)
SCORE = [{"score": "exact_match"}]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    pack_prompts(root)
    return root


@pytest.fixture(scope="module")
def two():
    with RankPool(2) as ranks:
        yield ranks


@pytest.mark.parametrize(
    ("how", "rewards", "expected"),
    [
        ("normalised", [1, 0, 0, 1], [0.86588, -0.86588, -0.86588, 0.86588]),
        ("normalised", [3, 1, 2, 0, 0.5], [1.411656, -0.249116, 0.581270, -1.079502, -0.664309]),
        ("centred", [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ("leave_one_out", [1, 0, 0, 1], [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ("leave_one_out", [3, 1, 2, 0, 0.5], [2.125, -0.375, 0.875, -1.625, -1]),
        ("normalised", [2, 2, 2], [0, 0, 0]),
        # Answers without a reward are not in their group.
        ("normalised", [3, math.nan, 1, 2, 0, 0.5], [1.411656, 0, -0.249116, 0.581270, -1.079502, -0.664309]),
        ("leave_one_out", [1, 0, math.nan, 0, 1], [2 / 3, -2 / 3, 0, -2 / 3, 2 / 3]),
        ("centred", [math.nan, 5], [0, 0]),
        ("normalised", [math.nan, math.nan], [0, 0]),
    ],
)
def test_advantages_of_a_group(how, rewards, expected):
    assert advantages(np.array([rewards], float), how)[0].tolist() == pytest.approx(expected, abs=1e-5)


def file_of(job: Job, step: int) -> Path:
    return Path(job.folder.rollouts, job.folder.fingerprint, f"step-{step:08d}.parquet")


def rollouts(*answers: tuple[int, float]) -> list[dict]:
    """Answers of (tokens, advantage) to a prompt of two tokens."""
    return [
        {
            "document": "d", "sample": at, "prompt": [1, 2], "ids": [3] * size, "reward": 0.0, "advantage": advantage,
            "sampled_logp": [-1.0] * size, "base_logp": None,
        }
        for at, (size, advantage) in enumerate(answers)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        # By hand: sum of A times the tokens' losses, each l, over 6 tokens; over 3 answers; over 3 answers of 5 tokens.
        ("tokens", [2 / 6, 2 / 6, 2 / 6, -1 / 6]),
        ("answers", [2 / 9, 2 / 9, 2 / 9, -1 / 3]),
        ("length", [2 / 15, 2 / 15, 2 / 15, -1 / 15]),
    ],
)
def test_the_weight_of_each_token_in_the_loss(mean, expected):
    how = Grpo(mean=mean, max_new_tokens=5, rewards=SCORE)
    rows = rows_of(rollouts((3, 2.0), (1, -1.0), (2, 0.0)), how, 16)
    (row,) = rows.to_pylist()
    labels = np.array(row["labels"])
    assert labels.sum() == 4  # answers without an advantage change nothing, and are not computed
    weights = np.array(row["weights"])[labels] / labels.sum()
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert row["documents"] == ["d#0", "d#1"] and row["lengths"] == [5, 3]
    assert len(rows_of(rollouts((2, 0.0), (3, 0.0)), how, 16)) == 0


def test_several_updates_have_advantages_and_log_probabilities_beside_the_weight_of_each_token():
    """As above, over 2 answers: 1 / (2 x 3) of each token of the first, 1 / 2 of the second's, without advantages."""
    how = Grpo(mean="answers", max_new_tokens=5, rewards=SCORE, updates=2, kl=0.1)
    made = rollouts((3, 2.0), (1, -1.0))
    for one, logp, base in zip(made, ([-1.0, -2.0, -3.0], [-4.0]), ([-5.0, -6.0, -7.0], [-8.0]), strict=True):
        one |= {"sampled_logp": logp, "base_logp": base}
    (row,) = rows_of(made, how, 16).to_pylist()
    labels = np.array(row["labels"])
    weights = np.array(row["weights"])[labels] / labels.sum()
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2], rel=1e-6)
    assert np.array([row[name] for name in POLICY])[:, labels].tolist() == [
        [2, 2, 2, -1], [-1, -2, -3, -4], [-5, -6, -7, -8],
    ]  # fmt: skip


def test_answers_are_drawn_from_the_models_distribution_up_to_a_stop_token():
    objective = build_objective(TrainConfig.model_validate(settings("nowhere").model_dump())).eval()
    prompt, count = [1, 2, 3, 10], 4000
    randoms = [uniforms(answer_key(1, 0, "d", at), 2) for at in range(count)]
    found = sample_answers(objective.model, [prompt] * count, randoms, [11], 11)
    with torch.no_grad():
        expected = objective.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    seen = np.bincount([one[0] for one in found], minlength=len(expected)) / count
    assert np.abs(seen - expected).max() < 4 * math.sqrt(0.25 / count)
    assert all(len(one) == 1 if one[0] == 11 else len(one) == 2 for one in found)
    shorter = sample_answers(objective.model, [[7, 8, 9, 1, 2, 3, 10], prompt], [randoms[0], randoms[1]], [11], 11)
    assert shorter[1] == found[1]  # padding on the left changes nothing


@pytest.mark.parametrize("seed", sampled(range(5), 1))
def test_a_model_that_has_seen_nothing_learns_to_copy(packed, tmp_path, seed):
    more = {"steps": 200, "seed": seed, "evaluate": {"every_steps": 200, "rows": 64}}
    job = rollout_job(packed, output=str(tmp_path / "run"), checkpoint={"every_steps": 200}, **more)
    fit_alone(job)
    first, *_, last = (-one["loss"] for one in column(job, "validation"))
    assert first < 0.3 and last > 0.9
    assert np.mean(column(job, "reward_mean")[:5]) < 0.2 and np.mean(column(job, "reward_mean")[-10:]) > 0.8


def test_the_first_step_is_the_policy_gradient(packed, tmp_path):
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=1, optimizer={"clip": None})
    fit_alone(job)
    table = pq.read_table(file_of(job, 1))
    model = build_objective(job.config).model
    total = torch.zeros((), dtype=torch.float64)
    for one in table.to_pylist():
        logits = model(torch.tensor([one["prompt"] + one["ids"]])).logits[0].double()
        logp = logits[len(one["prompt"]) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(one["ids"])[:, None]).sum()
        total = total - one["advantage"] * logp
    total = total / sum(len(one["ids"]) for one in table.to_pylist())
    total.backward()
    norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
    assert column(job, "loss")[0] == pytest.approx(total.item(), abs=1e-6)
    assert column(job, "grad_norm")[0] == pytest.approx(norm.item(), rel=1e-5)


TWICE = {"grpo": {"samples": 8, "max_new_tokens": 1, "rewards": SCORE, "updates": 2}}
# Workers, settings of the way, settings of both.
WAYS = {
    "two workers": (2, {}, {}),
    "two workers, two updates": (2, {}, TWICE),
    "zero2": (2, {"engine": "zero2"}, {}),
    "two rows at once": (1, {"micro_batch": 2}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_losses_and_rewards_do_not_depend_on_how_they_are_computed(packed, tmp_path, two, way):
    workers, more, both = WAYS[way]
    # AdamW divides gradients that are nearly zero by themselves, and so makes much of their last digits.
    even = both | {"optimizer": {"learning_rate": 3e-3, "schedule": "constant", "epsilon": 1e-4}}
    plain = rollout_job(packed, output=str(tmp_path / "plain"), **even)
    fit_alone(plain)
    job = rollout_job(packed, output=str(tmp_path / "run"), **even, **more)
    if workers == 2:
        two.run(fit_here, job)
    else:
        fit_alone(job)
    assert column(job, "reward_mean") == column(plain, "reward_mean")
    assert column(job, "loss") == pytest.approx(column(plain, "loss"), abs=1e-6)
    assert [one["loss"] for one in column(job, "validation")] == [one["loss"] for one in column(plain, "validation")]


def test_a_killed_training_goes_on_with_the_same_rollouts_and_comes_to_the_same_weights(packed, tmp_path):
    whole = rollout_job(packed, output=str(tmp_path / "whole"))
    weights = final_weights(fit_alone(whole))
    job = rollout_job(packed, output=str(tmp_path / "run"))
    fit_until(job, 3, alone=True)  # the checkpoint is of step 2, so step 3 is repeated
    files = sorted(file_of(job, 1).parent.iterdir())
    assert [file.name for file in files] == [f"step-{step:08d}.parquet" for step in (1, 2, 3)]
    written = files[-1].stat().st_mtime_ns
    again = final_weights(fit_alone(job))
    assert files[-1].stat().st_mtime_ns == written
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def policy_of(table: pa.Table, job: Job, step: int):
    """(loss of the step by a plain loop over its answers, gradient norm, means of clipped and divergence)."""
    how, model = job.config.grpo, build_objective(job.config).model
    if step > 1:
        load_trained_weights(model, job, step - 1)
    total, clipped, divergence, count = torch.zeros((), dtype=torch.float64), 0, 0.0, 0
    for one in table.to_pylist():
        ids = torch.tensor([one["prompt"] + one["ids"]])
        wanted = torch.tensor(one["ids"])[:, None]

        def logp(ids=ids, wanted=wanted):
            logits = model(ids).logits[0].double()[-len(wanted) - 1 : -1]
            return logits.log_softmax(-1).gather(1, wanted)[:, 0]

        now, sampled, advantage = logp(), torch.tensor(one["sampled_logp"] or [0.0]).double(), one["advantage"]
        if not advantage and not how.kl:
            continue
        ratio = (now - sampled).exp()
        bounded = ratio.clamp(1 - how.clip, 1 + how.high)
        total = total - torch.minimum(ratio * advantage, bounded * advantage).sum()
        clipped += int((ratio * advantage > bounded * advantage).sum())
        if how.kl:
            with torch.no_grad(), model.disable_adapter():
                base = logp()
            assert base.tolist() == pytest.approx(one["base_logp"], abs=1e-5)
            gap = base - now
            total = total + how.kl * (gap.exp() - gap - 1).sum()
            divergence += (gap.exp() - gap - 1).sum().item()
        count += len(now)
    total = total / sum(len(one["ids"]) for one in table.to_pylist())
    total.backward()
    norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
    return total.item(), norm.item(), clipped / count, divergence / count


def load_trained_weights(model, job: Job, step: int) -> None:
    (folder,) = Path(job.folder.checkpoints).glob(f"step-{step:08d}*")
    values = state_of(str(folder))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.from_numpy(values[f"model.{name}.{STATES[0]}"]).view_as(parameter))


UPDATES = {
    "full": {"grpo": {"updates": 3, "clip": 0.02, "clip_high": 0.03}},
    "lora with a penalty": {
        "grpo": {"kl": 0.5}, "method": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
    },
}  # fmt: skip


@pytest.mark.parametrize("way", UPDATES)
def test_several_updates_and_the_penalty_are_those_of_a_plain_loop(packed, tmp_path, way):
    more = dict(UPDATES[way])
    how = {"samples": 8, "max_new_tokens": 1, "rewards": SCORE} | more.pop("grpo")
    rate = {"learning_rate": 2e-2, "schedule": "constant", "clip": None}
    job = rollout_job(
        packed,
        output=str(tmp_path / "run"),
        steps=3,
        optimizer=rate,
        grpo=how,
        checkpoint={"every_steps": 1, "keep": 9},
        **more,
    )
    fit_alone(job)
    seen = zip(
        *(column(job, name) for name in ("loss", "grad_norm", "clipped")), column(job, "kl") or [0.0] * 3, strict=True
    )
    for step, (loss, norm, clipped, divergence) in enumerate(seen, 1):
        table = pq.read_table(file_of(job, (step - 1) // job.config.grpo.updates * job.config.grpo.updates + 1))
        expected = policy_of(table, job, step)
        assert (loss, clipped, divergence) == pytest.approx((expected[0], *expected[2:]), abs=2e-6), step
        assert norm == pytest.approx(expected[1], rel=1e-4), step
    if job.config.grpo.updates == 3:
        assert column(job, "clipped")[0] == 0 and column(job, "clipped")[2] > 0.1
        assert len(list(file_of(job, 1).parent.iterdir())) == 1
    else:
        assert column(job, "kl")[0] == 0 and column(job, "kl")[2] > 1e-4


def test_a_killed_training_goes_on_between_two_updates_of_the_same_rollouts(packed, tmp_path):
    how = {"grpo": {"samples": 8, "max_new_tokens": 1, "rewards": SCORE, "updates": 4}}
    whole = rollout_job(packed, output=str(tmp_path / "whole"), **how)
    weights = final_weights(fit_alone(whole))
    job = rollout_job(packed, output=str(tmp_path / "run"), **how)
    fit_until(job, 3, alone=True)
    again = final_weights(fit_alone(job))
    assert [path.name for path in sorted(file_of(job, 1).parent.iterdir())] == [file_of(job, s).name for s in (1, 5)]
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert column(job, "clipped")[0] == 0


def test_an_epoch_has_as_many_passes_with_several_updates():
    """400 prompts in steps of 16, 25 samplings, each with 3 steps."""
    order = Order([400], [400.0], 16, 8, 1, [4.0])
    for updates, steps in ((1, 25), (3, 75)):
        how = {"samples": 8, "max_new_tokens": 1, "rewards": SCORE, "updates": updates}
        assert order.steps(settings("nowhere", steps=None, epochs=1, grpo=how)) == steps


def test_rollouts_of_other_settings_are_not_used(packed, tmp_path):
    output = str(tmp_path / "run")
    job = rollout_job(packed, output=output)
    fit_until(job, 1, alone=True)
    other = rollout_job(packed, output=output, grpo={"samples": 4, "max_new_tokens": 1, "rewards": SCORE})
    refuse_or_delete_other_training(other.folder, replace=False)  # there is no checkpoint yet
    fit_until(other, 1, alone=True)
    tables = [pq.read_table(file_of(one, 1)) for one in (job, other)]
    assert [len(table) for table in tables] == [16 * 8, 16 * 4]


def test_a_training_that_replaces_another_samples_anew(packed, tmp_path):
    output = str(tmp_path / "run")
    job = rollout_job(packed, output=output)
    fit_until(job, 3, alone=True)
    other = rollout_job(packed, output=output, seed=7)
    with pytest.raises(DataError, match=r"seed was 0, now 7|other settings"):
        refuse_or_delete_other_training(other.folder, replace=False)
    refuse_or_delete_other_training(other.folder, replace=True)
    assert not file_of(job, 1).exists()


def test_prompts_without_room_for_an_answer_are_counted(packed, tmp_path):
    how = {"samples": 2, "max_new_tokens": 4, "rewards": SCORE}  # a prompt has 4 tokens
    job = rollout_job(packed, output=str(tmp_path / "fits"), steps=1, grpo=how)
    fit_alone(job)
    assert column(job, "prompts_too_long") == [0]
    job = rollout_job(packed, output=str(tmp_path / "none"), steps=1, grpo=how | {"max_new_tokens": 5})
    with pytest.raises(DataError, match=r"none of its 16 prompts leaves room for grpo.max_new_tokens \(5\)"):
        fit_alone(job)


def test_answers_that_are_sampled_in_several_batches_are_those_of_one(packed, tmp_path, monkeypatch):
    found = []
    for name, tokens in (("one", 32_768), ("several", 24)):  # the rows have 8 tokens: 3 answers at once
        monkeypatch.setattr(rollout_steps, "SAMPLED_TOKENS", tokens)
        job = rollout_job(packed, output=str(tmp_path / name), steps=1)
        fit_alone(job)
        found.append(pq.read_table(file_of(job, 1), columns=["document", "sample", "ids", "reward"]))
    assert found[0].equals(found[1]) and len(found[0]) == 128


def test_the_plan_has_the_forward_passes_of_sampling(packed, tmp_path, monkeypatch):
    """Each of 3 samplings has 128 answers of up to 2 tokens, 50 at a time: 3 x 3 x 2 passes, where none ends early."""
    for module in (rollout_steps, planning):
        monkeypatch.setattr(module, "SAMPLED_TOKENS", 50 * 8)
    passes = []

    def counted(model, prompts, randoms, stops, pad):
        with monkeypatch.context() as patch:
            forward = type(model).forward
            patch.setattr(type(model), "forward", lambda *given, **more: (passes.append(1), forward(*given, **more))[1])
            return sample_answers(model, prompts, randoms, stops, pad)

    monkeypatch.setattr(rollout_steps, "sample_answers", counted)
    how = {"samples": 8, "max_new_tokens": 2, "rewards": SCORE, "updates": 2}
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=6, grpo=how)
    fit_alone(job)
    assert len(passes) == planning._passes(job.config, 6) == 18


def test_a_step_in_which_all_answers_are_worth_the_same_changes_nothing(packed, tmp_path):
    how = {"samples": 4, "max_new_tokens": 1, "rewards": [{"score": "f1", "weight": 0.0}]}
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=2, grpo=how)
    outcome = fit_alone(job)
    assert outcome["steps"] == 2
    lines = [json.loads(line) for line in Path(job.folder.step_log).read_text().splitlines()]
    assert [one["groups_without_spread"] for one in lines if one["step"]] == [16, 16]
    assert not any("loss" in one for one in lines)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("use", "answers", "expected"),
    [
        ({"pattern": "<think>.*</think>[0-9]+"}, ["<think>a\nb</think>12", "12", "<think></think>1 "], [1, 0, 0]),
        ({"json_schema": SCHEMA}, ['{"n": 1}', '{"n": "1"}', "{", "[" * 100_000, "NaN"], [1, 0, 0, 0, 0]),
        ({"json_schema": {"multipleOf": 0.5}}, ["1" + "0" * 400, "1.5", "1.7"], [0, 1, 0]),
    ],
)
def test_rewards_of_the_form_of_an_answer(use, answers, expected):
    made = [SampledAnswer("d", "p", "", text) for text in answers]
    assert rewards_of(Grpo(rewards=[use]), made)[0][:, 0].tolist() == expected


def test_a_pattern_that_takes_too_long_is_worth_nothing():
    how = Grpo(rewards=[{"pattern": "(a|a)*b"}], reward_s=0.5)
    made = [SampledAnswer("d", "p", "", text) for text in ("aab", "a" * 60, "b")]
    values, slow = rewards_of(how, made)
    assert (values.tolist(), slow.tolist()) == ([[1], [0], [1]], [False, True, False])


@pytest.mark.parametrize(
    ("use", "seen"),
    [
        ({}, "none given; wanted exactly one of score, pattern"),
        ({"score": "f1", "pattern": "a"}, "score and pattern given"),
        ({"pattern": "("}, "pattern: no regular expression"),
        ({"json_schema": {"type": "no such"}}, "json_schema: "),
        ({"json_schema": {"properties": {"z": {"$ref": "#/$defs/z"}}}}, "json_schema: the reference #/.defs/z is not"),
    ],
)
def test_rewards_that_are_none_are_refused(use, seen):
    with pytest.raises(ValueError, match="grpo.rewards" if seen is None else seen):
        Grpo(rewards=[use])


def test_rollouts_that_others_changed_are_refused(packed, tmp_path):
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=2)
    fit_until(job, 1, alone=True)
    file = file_of(job, 1)
    table = pq.read_table(file)
    for name, values in (
        ("advantage", pa.array([math.nan] * len(table))),
        ("ids", pa.array([[len(MODEL) + 500]] * len(table), pa.list_(pa.int32()))),
        ("prompt", pa.array([[1] * 100] * len(table), pa.list_(pa.int32()))),
    ):
        at = table.schema.get_field_index(name)
        pq.write_table(table.set_column(at, table.schema.field(at), values), file)
        with pytest.raises(DataError, match="step-00000001"):
            fit_alone(job)
    repeated = pa.concat_tables([table] * 2)
    at = table.schema.get_field_index("ids")
    long = pa.array(np.ones(300_000_000, np.int32))
    bomb = pa.ListArray.from_arrays(pa.array([0, len(long)], pa.int32()), long)
    bomb = table.slice(0, 1).set_column(at, table.schema.field(at), bomb.cast(table.schema.field(at).type))
    nulls = pa.array([[1, None]] * len(table), pa.list_(pa.int32()))
    for changed, seen in (
        (repeated, "it has more answers than the step"),
        (bomb, "takes far more memory"),
        (table.slice(0, 0), "it has answers to other prompts"),
        (table.slice(8), "it has answers to other prompts"),
        (table.take([*range(8, 16), *range(8), *range(16, len(table))]), "it has answers to other prompts"),
        (table.set_column(at, table.schema.field(at), nulls), "other values"),
    ):
        pq.write_table(changed, file)
        assert file.stat().st_size < 1 << 20
        with pytest.raises(DataError, match=rf"step-00000001\.parquet: was changed .*{seen}.*Delete it"):
            fit_alone(job)
    file.write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read"):
        fit_alone(job)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"grpo": {}}, "grpo: no reward"),
        ({"engine": "fsdp2"}, "sampling needs whole ones"),
        ({"packing": {"mode": "best_fit"}}, "one prompt a row"),
        ({"grpo": {"rewards": SCORE, "max_new_tokens": 8}}, "leave no prompt"),
        ({"method": "prompt"}, "trains methods full, lora and qlora, not prompt"),
        ({"neftune_alpha": 5.0}, "neftune_alpha: objective grpo samples without noise"),
        ({"columns": {"text": "text"}}, "needs {prompt: COLUMN, completion: COLUMN}"),
    ],
)
def test_what_cannot_be_is_refused(changes, seen):
    with pytest.raises(ValueError) as refused:
        settings("nowhere", **changes)
    assert seen in str(refused.value)


def of_two_groups() -> list[dict]:
    """Four answers to two prompts by two rewards: of the first group one is right, of the second both."""
    return [
        {"document": "d", "sample": at % 2, "prompt": [1, 2], "ids": [3] * (size - 1) + [9 if ended else 3],
         "ended": ended, "generated": "x", "rewards": [right, 0.5], "reward": right + 0.25, "failed": False,
         "advantage": advantage,
         "sampled_logp": [-1.0] * size if advantage else None, "base_logp": None}
        for at, (size, ended, right, advantage) in enumerate(
            [(3, False, 1.0, 0.5), (1, True, 0.0, -0.5), (2, True, 1.0, 0.0), (2, True, 1.0, 0.0)]
        )
    ]  # fmt: skip


def rollouts_of(**how) -> Rollouts:
    made = Rollouts.__new__(Rollouts)
    rewards = [*SCORE, {"score": "f1", "weight": 0.5}]
    made.how = Grpo(rewards=rewards, samples=2, max_new_tokens=3, advantage="centred", **how)
    made.length, made.stops, made.measures_kl = 6, [9], False
    return made


def test_what_is_measured_of_answers_by_hand():
    """Deviations of the groups: of 1 and 0 it is 0.7071, of 1 and 1 it is 0."""
    found = rollouts_of()._measured(of_two_groups(), 5, 1.5)
    assert found == {
        "reward_mean": 1.0, "reward_std": pytest.approx(0.5**0.5 / 2), "groups_without_spread": 1, "truncated": 0.25,
        "answer_tokens": 2, "rewards_failed": 0, "rewards_missing": 0, "prompts_too_long": 3, "rollout_s": 1.5,
        "rewards": {"exact_match": 0.75, "f1": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kl"),
    [
        ({"rewards": [1.0]}, 0.0),
        ({"reward": math.inf}, 0.0),
        ({"sampled_logp": [math.nan] * 3}, 0.0),
        ({"sampled_logp": [-1.0] * 2}, 0.0),
        ({"sampled_logp": None}, 0.0),
        ({"ids": [3] * 5, "sampled_logp": [-1.0] * 5}, 0.0),  # longer than a row
        ({}, 0.1),  # log-probabilities by the base model are missing
        ({"ids": [3] * 4, "sampled_logp": [-1.0] * 4}, 0.0),  # longer than max_new_tokens
        ({"ids": [3] * 2, "sampled_logp": [-1.0] * 2}, 0.0),  # cut before max_new_tokens
        ({"ids": [3, 3, 9]}, 0.0),  # ended
        ({"ids": [9, 3, 3]}, 0.0),  # goes on after its end
        ({"ended": True}, 0.0),
        ({"ids": [], "sampled_logp": []}, 0.0),
        ({"sampled_logp": [-1.0, 1.0, -1.0]}, 0.0),
        ({"sampled_logp": [-1.0, -3e38, -1.0]}, 0.0),
        ({"base_logp": [-3e38] * 3}, 0.0),
        ({"advantage": 1e6}, 0.0),
        ({"advantage": -0.5}, 0.0),
        ({"reward": 1e6}, 0.0),
        ({"rewards": [0.5, 0.5]}, 0.0),
        ({"rewards": [0.5, 1.5]}, 0.0),  # with the right sum
        ({"rewards": [1e308, 1e308], "reward": 1.5e308}, 0.0),
    ],
)
def test_values_that_no_training_writes_are_no_rollouts(changes, kl):
    first, *others = of_two_groups()
    assert rollouts_of(updates=2)._is_of_rollouts(pa.Table.from_pylist([first, *others], ROLLOUTS))
    wrong = pa.Table.from_pylist([first | changes, *others], ROLLOUTS)
    assert not rollouts_of(updates=2, kl=kl)._is_of_rollouts(wrong)


@pytest.mark.parametrize("name", ["sampled_logp", "base_logp"])
@pytest.mark.parametrize(("logp", "second", "fits"), [
    ([-0.6, 0.0, 0.0], [-0.7], True),  # 0.55 + 0.5
    ([0.0, 0.0, 0.0], [0.0], False),  # two tokens of a probability of 1 each
    ([-3.0, 0.0, 0.0], [-3.0, 0.0], False),  # after the same first one
    ([-3.0, -0.7, 0.0], [-2.0, -0.7], True),
])  # fmt: skip
def test_probabilities_of_different_tokens_after_the_same_ones_have_a_sum_of_at_most_1(name, logp, second, fits):
    first, other, *others = of_two_groups()
    for one in (first, other):
        one["base_logp"] = [-5.0] * len(one["ids"])
    other |= {"ids": [3, 9] if len(second) == 2 else [9], "sampled_logp": [-5.0] * len(second)}
    other |= {"base_logp": [-5.0] * len(second), name: second}
    table = pa.Table.from_pylist([first | {name: logp}, other, *others], ROLLOUTS)
    assert rollouts_of(updates=2)._is_of_rollouts(table) == fits


@pytest.mark.parametrize("how", ["normalised", "centred", "leave_one_out"])
@pytest.mark.parametrize("others", [[], [0.1] * 7])
def test_rollouts_of_any_setting_are_their_own(how, others):
    """Rewards of a function of the user may have any value; sums are the same to the last places."""
    made = Rollouts.__new__(Rollouts)
    made.how = Grpo(
        rewards=[{"model": "m", "weight": 0.1}, *({"score": "f1", "weight": one} for one in others)], samples=3,
        max_new_tokens=1, advantage=how,
    )  # fmt: skip
    made.length, made.stops, made.measures_kl = 8, [9], False
    each = np.array([[value, *[0.3] * len(others)] for value in (1e9, -7.3, 0.1, 5, 5, 5)])
    sums = made.total(each)
    found = advantages(sums.reshape(-1, 3), how).ravel().tolist()
    table = [
        {"document": "d", "sample": at % 3, "prompt": [1], "ids": [9], "ended": True, "generated": "", "failed": False,
         "rewards": each[at].tolist(), "reward": float(sums[at]), "advantage": found[at], "sampled_logp": None,
         "base_logp": None}
        for at in range(6)
    ]  # fmt: skip
    assert made._is_of_rollouts(pa.Table.from_pylist(table, ROLLOUTS))


def test_rewards_whose_deviation_is_too_large_are_named(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(Rollouts, "total", lambda self, rewards: np.where(rewards[:, 0] > 0, 1e308, -1e308))
    job = rollout_job(packed, output=str(tmp_path / "run"), steps=1)
    with pytest.raises(DataError, match=r"grpo.rewards: rewards between -1e\+308 and 1e\+308 are too large"):
        fit_alone(job)


def test_texts_without_prompts_are_refused(tmp_path):
    corpus = write_lines(tmp_path / "texts.jsonl", [{"text": "a b c"}] * 4)
    more = {"objective": "grpo", "grpo": {"rewards": SCORE, "max_new_tokens": 4}, "packing": {"mode": "none"}}
    with pytest.raises(ConfigError, match=r"texts.jsonl: has texts, and objective grpo needs prompts"):
        packed_by(corpus, tmp_path / "out", **more)
