"""`raymill plan`: steps, memory, time and warnings, from a config alone or from what is packed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from raymill.cluster import cli
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.frame.commands import verb_of
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.inspection import config as config_verb
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.data.order import Order
from raymill.training.gpus import GPUS, AssumedGpu, gpu_named, peak_flops
from raymill.training.models.cost import multiplied, shape_of, transformers_config
from raymill.training.pack import job as packing
from raymill.training.plan.advice import PlannedTraining, advise
from raymill.training.plan.data import Data, bytes_per_token
from raymill.training.plan.memory import (
    GIB,
    USABLE,
    changes,
    check_memory,
    default_rows,
    first_that_fits,
    fits,
    memory,
    most_rows,
    possible_choices,
    smallest_change,
)
from raymill.training.plan.planning import machine, plan_run, plan_text, plan_training
from tests.support.inline import InlineEngine
from tests.support.plan_cases import BIG, LORA, TINY, big, config, facts

# Large enough for a choice of micro-batches on real GPUs, and counted in a tenth of a second.
MIDDLE = BIG | {"num_hidden_layers": 8, "vocab_size": 32000}


@pytest.fixture
def corpus(tmp_path) -> str:
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [json.dumps({"text": f"Document {number}. " + "Some words of it. " * 40}) for number in range(200)]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


# --- steps, tokens, epochs


def test_a_plan_before_packing_says_that_it_guesses_and_from_what(corpus, tmp_path):
    settings = config(corpus=corpus, output=str(tmp_path / "run"))
    [phase] = plan_run(settings, AssumedGpu())["phases"]
    size = (Path(corpus) / "documents.jsonl").stat().st_size
    assert not phase["data"]["exact"]
    assert "estimated" in phase["data"]["how"] and "raymill pack" in phase["data"]["how"]
    # Four fifths of the text train, and a vocabulary of 320 leaves 1 to 2 bytes a token.
    assert size * 0.8 / 2 < sum(phase["data"]["tokens"].values()) < size * 0.8
    assert phase["steps"] == 100
    assert phase["tokens"] == pytest.approx(100 * 1024, rel=0.03)


def test_a_plan_refuses_what_a_training_refuses(corpus, tmp_path):
    settings = config(corpus=corpus, output=str(tmp_path / "run"), activation_checkpointing="selective")
    with pytest.raises(ConfigError, match="these are not compiled: workers have no GPU"):
        plan_run(settings, AssumedGpu())
    large = config(corpus=corpus, output=str(tmp_path / "run"), tokens_per_step=1 << 20)
    few = r"about .* rows of 128 tokens to train on, and one step takes 8,192 .* less\."
    with pytest.raises(DataError, match=few):
        plan_training(large)


def test_epochs_become_steps_and_back(corpus, tmp_path):
    settings = config(corpus=corpus, output=str(tmp_path / "run"), steps=None, epochs=3)
    [phase] = plan_run(settings, AssumedGpu())["phases"]
    rows = sum(phase["data"]["rows"].values())
    assert phase["steps"] == math.ceil(3 * rows / 8)
    assert phase["epochs"] == pytest.approx(3, abs=8 / rows)


def test_bytes_a_token_grow_with_the_vocabulary_and_stay_within_what_is_known():
    sizes = [bytes_per_token(vocabulary) for vocabulary in (256, 1024, 32_000, 50_257, 128_256, 1_000_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert 4.0 <= sizes[3] <= 4.5 <= sizes[4] <= 4.7


def test_a_plan_after_packing_counts_what_training_will_do(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "Engine", InlineEngine)
    settings = config(
        corpus=corpus, output=str(tmp_path / "run"), steps=None, epochs=2, execution={"cpus": 1, "unit_mib": 1}
    )
    packed = packing.pack(settings, Session(), Progress())
    [phase] = plan_run(settings, AssumedGpu())["phases"]
    assert phase["data"]["exact"]
    assert phase["data"]["rows"] == {"corpus-0": packed.rows("train")}
    assert phase["steps"] == Order.for_training(settings, packed).steps(settings)
    assert phase["epochs"] == pytest.approx(2, abs=8 / packed.rows("train"))
    changed = settings.model_copy(update={"seed": 2})
    assert not plan_run(changed, AssumedGpu())["phases"][0]["data"]["exact"], "what is packed there is of another seed"


# --- time and cost


def test_time_is_flops_over_what_the_gpus_reach_and_cost_follows(corpus, tmp_path):
    settings = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 2, "gpus_each": 1})
    plan = plan_run(settings, AssumedGpu(memory_gib=80, peak_flops=1e12, mfu=0.5, price=3.0))
    [phase] = plan["phases"]
    expected = 100 * 1024 * phase["flops_per_token"] / (0.5 * 1e12 * 2)
    assert phase["seconds"] == pytest.approx(expected)
    assert phase["gpu_hours"] == pytest.approx(2 * expected / 3600)
    assert plan["cost"] == pytest.approx(3.0 * phase["gpu_hours"])


def test_a_gpus_name_tells_its_bf16_speed_and_nothing_of_float32(corpus, tmp_path):
    gpus = {"count": 2, "gpus_each": 1}
    half = config(corpus=corpus, output=str(tmp_path / "run"), workers=gpus)
    single = half.model_copy(update={"precision": "float32"})

    def planned(settings, tflops=None):
        return plan_run(settings, machine(settings, "H100", None, tflops, 0.4, 2.0))

    assert planned(half)["seconds"] > 0
    unknown = planned(single)
    assert (unknown["seconds"], unknown["cost"]) == (None, None)
    assert "time        and cost unknown: this trains in float32" in plan_text(unknown)
    assert "--peak-tflops" in plan_text(unknown)
    assert planned(single, 50)["seconds"] == pytest.approx(planned(half)["seconds"] * 989.4 / 50)
    phases = single.model_copy(update={"phases": ({"name": "a"}, {"name": "b", "precision": "bf16"})})
    assert [phase["peak_flops"] for phase in planned(phases)["phases"]] == [None, 989.4e12]


def test_a_very_short_training_takes_some_time_and_some_money(corpus, tmp_path):
    settings = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 1, "gpus_each": 1}, steps=1)
    said = plan_text(plan_run(settings, AssumedGpu(peak_flops=1e15, price=2.0)))
    assert "time        under 1 s on 1 GPU, under 0.01 GPU hours, cost under 0.01" in said
    assert "8 rows = 1 worker x 1 micro-batch x 8 rows" in said


def test_a_plan_on_gpus_of_a_config_without_them_says_so(corpus, tmp_path):
    without = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 2})
    having = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 2, "gpus_each": 1})

    def said(settings, **of_a_gpu):
        [phase] = plan_run(settings, AssumedGpu(**of_a_gpu))["phases"]
        return [warning for warning in phase["warnings"] if "gpus_each" in warning]

    for of_a_gpu in ({"name": "H100", "memory_gib": 79.1}, {"memory_gib": 80.0}, {"peak_flops": 1e12}):
        [warning] = said(without, **of_a_gpu)
        assert "trains on CPUs" in warning and "Set workers.gpus_each: 1" in warning
        assert said(having, **of_a_gpu) == []
    assert said(without) == []


def test_phases_are_planned_one_by_one_and_added_up(corpus, tmp_path):
    settings = config(
        corpus=corpus,
        output=str(tmp_path / "run"),
        method="lora",
        phases=[{"name": "first", "steps": 10}, {"name": "second", "steps": 30}],
    )
    plan = plan_run(settings, AssumedGpu(memory_gib=80, peak_flops=1e12, price=1.0))
    assert [phase["steps"] for phase in plan["phases"]] == [10, 30]
    assert plan["seconds"] == pytest.approx(sum(phase["seconds"] for phase in plan["phases"]))


def test_nothing_is_said_of_time_when_nothing_is_known_of_the_gpu(corpus, tmp_path):
    plan = plan_run(config(corpus=corpus, output=str(tmp_path / "run")), AssumedGpu())
    assert plan["seconds"] is None and plan["cost"] is None
    with pytest.raises(ConfigError, match="`gpu` or `peak_tflops`"):
        machine(config(), None, 80.0, None, 0.4, 2.5)


# --- memory


@pytest.mark.parametrize(
    ("gib", "engine", "offload"),
    [
        (250, "ddp", "none"),
        (148, "zero1", "none"),
        (90, "zero2", "none"),
        (56, "fsdp2", "none"),
        (50, "zero2", "optimizer"),
        (42, "zero3", "optimizer"),
    ],
)
def test_the_engine_of_least_communication_that_fits_is_proposed(gib, engine, offload):
    """A whole Llama-3.1-8B in bf16 on eight GPUs, 4,096 tokens at once, the logits of 1,024 of them."""
    settings = big(loss_chunk_tokens=1024)
    found = first_that_fits([settings], possible_choices(settings), shape_of(settings), gib * GIB)
    assert found is not None
    assert (found.engine, found.offload) == (engine, offload)


@pytest.mark.parametrize(
    ("engine", "bytes_per_value"),
    [
        ("ddp", 4 + 4 + 8),
        ("zero1", 2 + (4 + 2) + 12 / 8),
        ("zero2", 2 + 4 / 8 + 12 / 8),
        ("zero3", 2 / 8 + 4 / 8 + 12 / 8),
        ("fsdp2", 4 / 8 + 4 / 8 + 8 / 8),
    ],
)
def test_weights_gradients_and_optimizer_of_llama_8b_take_the_bytes_of_the_table(engine, bytes_per_value):
    """By hand, from the published 8,030,261,248 parameters: bytes of weights + gradients + AdamW, on eight workers."""
    settings = big(engine=engine)
    assert memory(settings, shape_of(settings)).states == pytest.approx(8_030_261_248 * bytes_per_value, rel=1e-4)


def test_engines_of_more_sharding_hold_less_and_nothing_fits_everywhere():
    settings = big()
    shape = shape_of(settings)
    held = {one.engine: memory(one, shape).states for one in possible_choices(settings) if one.offload == "none"}
    assert held["ddp"] > held["zero1"] > held["zero2"] > held["zero3"] > held["fsdp2"] == held["ddp"] / 8
    assert smallest_change(settings, shape, 8 * GIB) is None


def test_of_a_devices_memory_all_but_a_tenth_can_be_used():
    settings = big()
    need = memory(settings, shape_of(settings)).total
    for used, fitting in ((0.89, True), (0.91, False)):
        gib = need / used / GIB
        assert fits(settings, shape_of(settings), gib * GIB) is fitting
        limited = settings.model_copy(update={"device_memory_gib": gib})
        if fitting:
            check_memory(limited)
        else:
            with pytest.raises(ConfigError, match="10% is left"):
                check_memory(limited)


def test_the_smallest_change_is_fewer_rows_then_checkpointing_then_another_engine():
    settings = big(micro_batch=8)
    shape = shape_of(settings)
    selective, slim = (settings.model_copy(update={"activation_checkpointing": one}) for one in ("selective", True))

    def said(needed: int) -> str:
        found = smallest_change(settings, shape, needed / USABLE + 1)
        assert found is not None and fits(found, shape, needed / USABLE + 1)
        return changes(settings, found)

    assert said(memory(settings, shape).total) == ""
    assert said(memory(settings, shape).total - 10) == "micro_batch: 7"
    assert said(memory(settings, shape, 1).total) == "micro_batch: 1"
    assert said(memory(settings, shape, 1).total - 10).endswith("activation_checkpointing: selective")
    assert said(memory(selective, shape, 1).total) == "micro_batch: 1, activation_checkpointing: selective"
    assert said(memory(selective, shape, 1).total - 10).endswith("activation_checkpointing: true")
    assert said(memory(slim, shape, 1).total) == "micro_batch: 1, activation_checkpointing: true"
    assert said(memory(slim, shape, 1).total - 10).endswith("engine: zero1")


@pytest.mark.parametrize("gib", [12.0, 24.0, 44.4, 79.1])
@pytest.mark.parametrize("micro_batch", [None, 1, 8])
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_table_and_advice_of_a_plan_agree_on_every_gpu(corpus, tmp_path, engine, micro_batch, gib):
    settings = big(
        corpus=corpus, output=str(tmp_path / "run"), engine=engine, micro_batch=micro_batch, optimizer={}, steps=10
    )
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"config": MIDDLE})})
    plan = plan_run(settings, AssumedGpu(memory_gib=gib))
    [phase] = plan["phases"]
    limit = USABLE * gib * GIB
    assert phase["memory_usable"] == limit
    for row in phase["choices"]:
        assert row["fits"] == (row["total"] <= limit)
        assert row["total"] == sum(size for part, size in row["memory"].items() if part != "host")
    [own] = [row for row in phase["choices"] if row["chosen"]]
    assert (own["micro_batch"], own["total"]) == (phase["micro_batch"], phase["memory_total"])
    assert (phase["change"] == "") == own["fits"]
    text = plan_text(plan)
    assert f"limit       {limit / GIB:,.2f} of {gib:g} GiB a GPU: 10% is left for" in text
    assert ("too large;" in text) == bool(phase["change"])
    if own["fewer_rows"]:
        assert phase["change"] == f"micro_batch: {own['fewer_rows']}"
    if phase["simpler"] is not None:
        assert any(f"engine: {row['engine']}" in phase["simpler"] and not row["chosen"] for row in phase["choices"])


def test_a_total_a_hair_over_the_limit_is_too_large_in_every_line(corpus, tmp_path):
    """75.16 GiB on a GPU of 79.1 was "too large" in the table, beside the advice that it fits."""
    settings = big(corpus=corpus, output=str(tmp_path / "run"), micro_batch=2, engine="zero2")
    total = memory(settings, shape_of(settings)).total
    for over, fit in ((-1, False), (1, True)):
        [phase] = plan_run(settings, AssumedGpu(memory_gib=(total + over) / USABLE / GIB))["phases"]
        [own] = [row for row in phase["choices"] if row["chosen"]]
        assert (own["fits"], phase["change"]) == ((True, "") if fit else (False, "micro_batch: 1"))


# --- the default micro-batch


def test_without_a_gpus_size_the_default_micro_batch_is_about_8192_positions():
    settings = big(micro_batch=None)
    assert default_rows(settings, shape_of(settings), None) == 2
    assert settings.micro_rows(8) == 2


@pytest.mark.parametrize(("method", "gib"), [("lora", 24), ("lora", 79.1), ("full", 24), ("full", 79.1)])
def test_with_a_gpus_size_the_default_micro_batch_is_the_largest_that_fits(method, gib):
    settings = big(method=method, micro_batch=None, engine="zero3", tokens_per_step=8 * 13 * 4096)
    shape, device = shape_of(settings), gib * GIB
    most = most_rows(settings, shape, device, 13)
    assert most == 13 or memory(settings, shape, most + 1).total > USABLE * device
    assert most == 0 or memory(settings, shape, most).total <= USABLE * device
    # 13 rows a worker: as few at once as their number of micro-batches allows.
    assert default_rows(settings, shape, device) == -(-13 // -(-13 // max(1, most)))
    given = settings.model_copy(update={"micro_batch": 3})
    assert default_rows(given, shape, device) == 3


def test_a_worker_takes_the_size_of_its_gpu_or_the_configs_and_all_take_the_least(monkeypatch):
    import torch

    from raymill.training.fit.memory import device_bytes
    from raymill.training.fit.ranks import Ranks

    class Properties:
        total_memory = 79 * GIB

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    gpu, cpu = Ranks(0, 1, torch.device("cuda", 0)), Ranks(0, 1, torch.device("cpu"))
    assert device_bytes(None, gpu) == 79 * GIB
    assert device_bytes(40, gpu) == 40 * GIB
    assert device_bytes(None, cpu) is None
    monkeypatch.setattr(Ranks, "exchange", lambda self, values: [[48 * GIB], values])
    assert device_bytes(None, gpu) == 48 * GIB


def test_a_training_that_cannot_fit_is_refused_with_what_would():
    with pytest.raises(
        ConfigError, match=r"needs about 1\d\d\.\d GiB .*weights 29\.9.*The smallest change that fits: "
    ):
        check_memory(big(device_memory_gib=79))
    check_memory(big(device_memory_gib=250))
    check_memory(big())
    with pytest.raises(ConfigError, match="No engine fits on 8 workers: use method lora"):
        check_memory(big(device_memory_gib=4))
    with pytest.raises(ConfigError, match="No engine fits on 1 worker: use method lora"):
        check_memory(big(device_memory_gib=4, workers={"count": 1, "gpus_each": 1}))


def test_what_a_refusal_names_would_fit():
    settings = big(device_memory_gib=79)
    with pytest.raises(ConfigError) as refused:
        check_memory(settings)
    said = str(refused.value).partition("The smallest change that fits: ")[2].rstrip(".")
    changes = dict(change.split(": ") for change in said.split(", "))
    values = {
        name: json.loads(value) if value.isdigit() or value == "true" else value for name, value in changes.items()
    }
    check_memory(big(device_memory_gib=79, **values))


# --- warnings


@pytest.mark.parametrize(
    ("settings", "known", "said"),
    [
        (LORA | {"engine": "zero3"}, {}, "engine: zero3 with method lora"),
        (LORA | {"engine": "fsdp2", "workers": {"count": 2}}, {}, "engine: fsdp2 with method lora"),
        (LORA | {"engine": "fsdp2", "workers": {"count": {"min": 1, "max": 2}}}, {}, None),
        (LORA | {"engine": "ddp"}, {}, None),
        ({"optimizer": {"learning_rate": 1e-6}}, {}, "optimizer.learning_rate: 1e-06 is below"),
        ({"optimizer": {"learning_rate": 0.1}}, {}, "optimizer.learning_rate: 0.1 is above"),
        ({"optimizer": {"learning_rate": 1e-3}}, {}, None),
        ({"workers": {"count": 3}}, {}, "8 rows, which 3 workers cannot share evenly: 11%"),
        ({"workers": {"count": {"min": 2, "max": 7}}}, {}, "of 2 to 7 workers, 7 cannot share evenly: 43%"),
        (
            {"workers": {"count": 2}, "tokens_per_step": 384},
            {},
            "3 rows, which 2 workers cannot share evenly: 25% of "
            "their time is spent waiting. The rows divide evenly among 1, 3 workers.",
        ),
        ({"workers": {"count": 2}, "tokens_per_step": 640}, {}, "divide evenly among 1 worker alone."),
        ({"workers": {"count": 4}}, {}, None),
        ({}, {"documents": 10**9 // 128 * 40}, "a row of 128 holds 40 documents"),
        ({}, {"tokens": 20_000}, "epochs: 5.1 passes"),
        ({"optimizer": {"learning_rate": 1e-3, "warmup_steps": 30}}, {}, "warmup_steps: 30% of the 100 steps"),
        (
            {"engine": "zero2", "offload": "optimizer", "workers": {"count": 2, "gpus_each": 1}},
            {"gib": 80},
            "offload: zero2 fits the GPU without it",
        ),
        ({"workers": {"count": 8, "gpus_each": 1}}, {}, "8 GPUs compute 128 tokens each"),
    ],
)
def test_a_doubtful_pair_is_named_and_a_usual_one_is_not(settings, known, said):
    warnings = advise(facts(config(**settings), **known))
    if said is None:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert said in warnings[0]


def test_an_adapter_of_more_rank_than_the_model_has_dimensions_is_named():
    found = [[one for one in advise(facts(config(**LORA | {"lora": {"rank": rank}}))) if "above the model's" in one]
             for rank in (64, 100_000)]  # fmt: skip
    assert [len(one) for one in found] == [0, 1] and "lora.rank: 100,000 is above" in found[1][0]


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({"lora": {"rank": 2}}, ["lora"]),
        ({"prompt": {}}, ["prompt"]),
        ({"lora": {"rank": 2}, "probe": {"pool": "mean"}, "method": "lora"}, ["probe"]),
        ({"lora": {"rank": 2}, "phases": [{"name": "a"}, {"name": "b", "method": "lora"}]}, []),
        ({"phases": [{"name": "a"}, {"name": "b", "lora": {"rank": 2}}]}, ["lora"]),
    ],
)
def test_settings_of_a_method_that_is_not_used_are_named(settings, ignored):
    assert [line.partition(":")[0] for line in config(**settings).without_effect] == ignored


def test_a_check_of_a_config_and_a_dry_run_name_settings_without_effect(tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text('{"text": "some text"}\n' * 1000)
    plain = config(corpus=str(tmp_path / "corpus.jsonl"), output=str(tmp_path / "run"), lora={"rank": 4})
    place = tmp_path / "train.json"
    place.write_text(plain.model_dump_json(exclude_unset=True))
    said = "lora: only method lora or qlora uses it, so it has no effect. Set method: lora, or remove lora."
    config_verb("check", str(place))
    assert capsys.readouterr().err == f"warning: {said}\n"
    verb_of(kind_of("train"))(str(place), dry_run=True)
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"optimizer": {"decay_steps": 3}}, ["optimizer.decay_steps"]),
        ({"optimizer": {"decay_steps": 3, "schedule": "wsd"}}, []),
        ({"optimizer": {"schedule": "constant", "final_fraction": 0.1}}, ["optimizer.final_fraction"]),
        ({"evaluate": {"patience": 3}}, []),
        (
            {"evaluate": {"patience": 3, "every_steps": 5}, "split": {"train": 0.9, "validation": 0, "test": 0.1}},
            ["evaluate.every_steps", "evaluate.patience"],
        ),
        ({"corpus": [{"path": "a", "columns": {"text": "a"}}], "columns": {"text": "b"}}, ["columns"]),
        (
            {
                "corpus": [{"path": "a", "columns": {"text": "a"}}],
                "columns": {"text": "b"},
                "evaluate": {"sets": {"more": "c"}},
            },
            [],
        ),
        ({"corpus": [{"path": "a", "weight": 2}]}, ["corpus.0.weight"]),
        ({"corpus": [{"path": "a", "weight": 2}, {"path": "b", "weight": 1}]}, []),
        ({"split": {"fold": 1, "train": 0.6, "validation": 0.3}}, ["split.train", "split.validation"]),
        ({"split": {"fold": 1}}, []),
        ({"export": {"merged": False}}, ["export.merged"]),
        ({"export": {"dtype": "float32"}}, []),
        ({"method": "lora", "export": {"dtype": "float32", "merged": False}}, ["export.dtype"]),
        ({"generate": {"decimal_mark": ","}}, ["generate.decimal_mark"]),
        ({"phases": [{"name": "a", "optimizer": {"decay_steps": 3}}]}, ["optimizer.decay_steps"]),
        ({"model": {"name": "/models/a", "revision": "main"}}, ["model.revision"]),
    ],
)
def test_settings_without_effect_are_named(settings, named):
    assert [line.partition(":")[0] for line in config(**settings).without_effect] == named


# By hand, rank 16 of TINY: q and o 16 x (64 + 64), k and v 16 x (64 + 32), gate, up and down 16 x (64 + 192), two
# layers: 2 x (2 x 2,048 + 2 x 1,536 + 3 x 4,096) = 38,912 parameters, which store 77,824 bits. 100 steps of 8 rows of
# 128 tokens are 102,400 tokens.
@pytest.mark.parametrize(
    ("rank", "steps", "tokens", "share", "said"),
    [
        (16, 100, 30_000, 1.0, None),  # 30,000 bits fit 77,824: more room than data is right
        (1, 100, 4_000, 1.0, None),  # 2,432 parameters, 4,864 bits
        (1, 100, 6_000, 1.0, "2,432 parameters x 2 bits = 4,864 bits; 6,000 label tokens x 1 bit = 6,000 bits"),
        (16, 100, 77_824, 1.0, None),
        (16, 100, 10**9, 1.0, "38,912 parameters x 2 bits = 77,824 bits; 102,400 label tokens x 1 bit = 102,400 bits"),
        (16, 100, 10**9, 1.0, "use lora.rank: 22 or more"),  # 16 x 102,400 / 77,824 = 21.05
        (16, 100, 10**9, 0.5, None),  # half of the tokens are the user's: 51,200 bits
        (16, 1000, 10**9, 1.0, "use method: full"),  # rank 211 of matrices of 64 rows
    ],
)
def test_an_adapter_is_called_too_small_only_where_its_bits_are_fewer_than_the_tokens(rank, steps, tokens, share, said):
    settings = config(**LORA | {"lora": {"rank": rank}}, steps=steps)
    known = facts(settings, tokens=tokens)
    known = replace(known, data=replace(known.data, label_share=share))
    warnings = [warning for warning in advise(known) if warning.startswith("lora.rank")]
    assert [said in warning for warning in warnings] == ([] if said is None else [True])


def test_unpacked_rows_of_short_documents_are_called_padding():
    settings = config(packing={"mode": "none"})
    order = Order([1000], [1000], 8, 64, 1, [30.0])
    data = Data(True, "told", {"corpus-0": 1000}, {"corpus-0": 30_000}, 1000, order)
    warnings = advise(PlannedTraining(settings, shape_of(settings), data, 100, None))
    assert any("rows of 128 are 77% padding" in warning for warning in warnings)


def test_whole_logits_of_a_large_vocabulary_are_warned_of():
    warnings = advise(facts(big(loss_chunk_tokens=4096, engine="zero2", compile=False), gib=80))
    assert any(warning.startswith("loss_chunk_tokens: 4,096 positions of 128,256") for warning in warnings)
    default = advise(facts(big(engine="zero2"), gib=80))
    assert not any(warning.startswith("loss_chunk_tokens") for warning in default)


def test_a_trained_model_wants_smaller_steps_than_a_random_one(tmp_path):
    random = config(optimizer={"learning_rate": 1e-3})
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"architectures": ["LlamaForCausalLM"]}))
    trained = config(model=str(tmp_path), optimizer={"learning_rate": 1e-3})
    assert advise(facts(random)) == []
    assert ["2e-06 to 0.0002" in warning for warning in advise(facts(trained))] == [True]


# --- models and GPUs by name


def test_a_model_on_a_store_is_described_by_its_config_alone(s3_root, s3_store):

    s3_store.write_bytes(f"{s3_root}/model/config.json", json.dumps(TINY).encode())
    assert transformers_config(s3_store, Model(name=f"{s3_root}/model")).hidden_size == 64


def test_a_hub_name_that_cannot_be_reached_is_refused_after_one_try(monkeypatch, caplog):
    asked = []

    def unreachable(self, name, **how):
        asked.append(name)
        raise OSError("the name has no address")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    name = "nobody/nothing-of-this-name"
    with pytest.raises(StorageError, match=f"{name}: no folder of that name here.*cannot be reached: the name has no"):
        transformers_config(Store(), Model(name=name))
    assert asked == [name] and caplog.records == []


def test_an_unknown_gpu_is_refused_with_those_there_are():
    assert gpu_named("NVIDIA h100").memory_gib == 79.1
    with pytest.raises(ConfigError, match="Did you mean H200"):
        gpu_named("H20X0")


def test_the_peaks_of_the_table_are_in_operations_per_second():
    assert [gpu.name for gpu in GPUS if gpu.memory_gib and gpu.bf16_peak_flops < 1e13] == []
    assert peak_flops("NVIDIA A100-SXM4-40GB") == peak_flops("NVIDIA A100-SXM4-80GB") == 312e12


# --- the verb


def test_the_verb_prints_a_table_of_engines_and_the_same_as_json(corpus, tmp_path, capsys):
    path = tmp_path / "train.json"
    settings = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 2, "gpus_each": 1})
    path.write_text(settings.model_dump_json(exclude_unset=True))
    assert run_verb(str(path), "--gpu", "H100", "--price-per-gpu-hour", "2.5") == 0
    text = capsys.readouterr().out
    for word in ("ddp", "zero1", "zero2", "zero3 + parameters", "fsdp2", "activations", "cost", "100 steps"):
        assert word in text
    assert run_verb(str(path), "--gpu", "H100", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["phases"][0]["change"], plan["phases"][0]["simpler"]) == ("", None)
    assert plan["phases"][0]["micro_batch"] == 4
    assert not (tmp_path / "run").exists()


def run_verb(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *words])
    return int(ended.value.code or 0)


def test_planning_never_asks_for_a_gpu_and_starts_no_ray(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("asked for a GPU"))
    settings = config(corpus=corpus, output=str(tmp_path / "run"), workers={"count": 2, "gpus_each": 1}, method="lora")
    plan_training(settings, gpu="H100")
    assert not ray.is_initialized()


# --- answers that were compared or judged


@pytest.mark.parametrize(("objective", "passes"), [("dpo", 1), ("kto", 2), ("simpo", 0), ("reward", 0)])
def test_the_pass_of_the_reference_model_is_a_part_of_the_time(tmp_path, objective, passes):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "how long?", "chosen": "3 units", "rejected": "a fox"}\n' * 1000)
    settings = config(
        corpus=str(path), output=str(tmp_path / "run"), objective=objective, workers={"count": 2, "gpus_each": 1}
    )
    plan = plan_run(settings, AssumedGpu(memory_gib=80, peak_flops=1e12, mfu=0.5))
    (phase,) = plan["phases"]
    reference, rows = phase["reference"], sum(phase["data"]["rows"].values())
    steps = 100 * 1024 * phase["flops_per_token"] / (0.5 * 1e12 * 2)
    text = " ".join(plan_text(plan).split())
    if not passes:
        assert reference is None and phase["seconds"] == pytest.approx(steps)
        assert "reference" not in text
        return
    assert reference["rows"] == math.ceil(rows / 0.8)
    described = transformers_config(settings.store, settings.model)
    weights = multiplied(described)
    forward = 2 * weights.all
    least = passes * reference["rows"] * 128 * forward / (0.5 * 1e12 * 2)
    assert least < reference["seconds"] < 1.2 * least
    assert phase["seconds"] == pytest.approx(steps + reference["seconds"])
    assert (
        f"reference one forward pass over {reference['rows']:,} rows before the first step, under 1 s of the time "
        "below; later trainings with the same model and rows find its log-probabilities"
    ) in text
    unknown = plan_run(settings, AssumedGpu())
    assert unknown["phases"][0]["reference"] == {"rows": reference["rows"], "seconds": None}
    assert "before the first step; later trainings" in " ".join(plan_text(unknown).split())


def test_usual_learning_rates_of_answers_are_lower(tmp_path):
    def said(objective: str, rate: float) -> list[str]:
        columns = {"prompt": "p", "chosen": "c", "rejected": "r"} if objective != "sft" else {"text": "text"}
        model = {"name": "nowhere"}
        settings = config(objective=objective, columns=columns, optimizer={"learning_rate": rate})
        known = facts(settings)
        settings = settings.model_copy(update={"model": settings.model.model_copy(update=model | {"config": None})})
        return [one for one in advise(replace(known, config=settings)) if "learning_rate" in one]

    assert said("sft", 5e-7) and not said("dpo", 5e-7)
    assert said("dpo", 1e-9) and said("dpo", 1e-2)


def test_sampled_answers_are_counted_with_what_sampling_and_judges_take(tmp_path):
    """3 samplings of 8 prompts with 4 answers are 96. Of 2 layers with keys of 32 values in float32, a token has 512
    bytes of keys and values, an answer 128 tokens, and beside them 3 times 320 probabilities of 8 bytes: 73,216 bytes.
    """
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one and one?", "completion": "2"}\n' * 1000)
    judge = {"model": {"endpoint": "http://127.0.0.1:9/v1", "name": "m"}, "rubric": ["It is right."]}
    how = {"samples": 4, "max_new_tokens": 16, "updates": 2, "rewards": [{"score": "number_match"}]}
    usual = {"corpus": str(path), "columns": {"prompt": "prompt", "completion": "completion"}, "objective": "grpo"}
    usual |= {"packing": {"mode": "none"}, "output": str(tmp_path / "run"), "steps": 5, "grpo": how}
    plan = plan_run(config(**usual), AssumedGpu())
    found = {"answers": 96, "tokens": 1536, "together": 32, "cache_bytes": 32 * 73_216, "judged": 0, "judge_tokens": 0}
    found |= {"passes": 3 * 16, "seconds": None}  # all 32 answers of a sampling at once
    assert plan["phases"][0]["sampling"] == found
    text = " ".join(plan_text(plan).split())
    assert "sampling 96 answers, at most 1,536 tokens 0.00 GiB for 32 answers at the same time on a worker" in text
    assert "judges" not in text and "Sampling answers (objective grpo) is an estimate" in text
    # 48 passes of 2 layers of 0.8 ms, and 96 answers after prompts of the mean length, 2 operations a parameter.
    timed = plan_run(config(**usual), AssumedGpu(peak_flops=1e9, mfu=0.5))["phases"][0]
    tokens = 96 * (timed["tokens"] / (5 * 8) + 16)
    sampling = 48 * 2 * 8e-4 + tokens * 2 * timed["model"]["parameters"] / 5e8
    assert timed["sampling"]["seconds"] == pytest.approx(sampling, rel=1e-3)
    training = 5 * 8 * 128 * timed["flops_per_token"] / 5e8
    assert timed["seconds"] == pytest.approx(training + sampling, rel=1e-3)
    rewards = [{"judge": judge}, {"judge": judge | {"sampling": {"max_tokens": 100}}}]  # 512 tokens, and 100
    several = config(**usual | {"workers": {"count": 2}, "grpo": how | {"rewards": rewards}})
    plan = plan_run(several, AssumedGpu())
    judged = {"judged": 192, "judge_tokens": 96 * 612}
    assert plan["phases"][0]["sampling"] == found | judged | {"together": 16, "cache_bytes": 16 * 73_216}
    assert "judges score 192 answers and write at most 58,752 tokens" in " ".join(plan_text(plan).split())
    long = plan_run(config(**usual | {"sequence_length": 2048, "tokens_per_step": 2048 * 8}), AssumedGpu())
    assert long["phases"][0]["sampling"]["together"] == 16, "32,768 tokens at once"
    assert "sampling" not in plan_run(config(corpus=str(path), output="x"), AssumedGpu())["phases"][0]
    # With vLLM, whose part of a GPU is not the training's.
    by_vllm = config(**usual).model_copy(update={"grpo": config(**usual).grpo.model_copy(update={"engine": "vllm"})})
    assert (config(**usual).gpu_fraction, by_vllm.gpu_fraction) == (1, 0.6)
    plan = plan_run(by_vllm, AssumedGpu(memory_gib=80))
    assert plan["phases"][0]["sampling"] == found | {"together": 0, "cache_bytes": 0, "passes": None}
    assert "by vLLM; its part of a GPU's memory is not in the limit" in " ".join(plan_text(plan).split())
