"""The printed plan line by line, from a plan given by hand, and its figures against plain computations."""

import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from raymill.cluster.cost import Cost
from raymill.cluster.plan.plan import costs_of, load_prices
from raymill.training.config import TrainConfig
from raymill.training.gpus import AssumedGpu
from raymill.training.models.cost import flops_per_token, shape_of, transformers_config
from raymill.training.plan import planning
from raymill.training.plan.advice import advise
from raymill.training.plan.memory import (
    GIB,
    MARGIN,
    Memory,
    Parameter,
    Pass,
    Shape,
    check_memory,
    forward_pass,
    frozen_bytes,
    kept_bytes,
    logit_bytes,
    loss_bytes,
    memory,
    most_rows,
    saved_by_layer,
    states,
    step_bytes,
    suggested_change,
    work_bytes,
)
from raymill.training.plan.planning import plan_phase, plan_text
from tests.support.plan_cases import LORA, big, config, facts

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "step", "context", "host")


def choice(engine: str, gib: list[float], **more: Any) -> dict[str, Any]:
    usual = {"offload": "none", "chosen": False, "micro_batch": 4, "fits": True, "fewer_rows": None}
    sizes = {part: int(size * GIB) for part, size in zip(PARTS, gib, strict=True)}
    return usual | {"engine": engine, "memory": sizes, "total": sum(sizes.values()) - sizes["host"]} | more


def phase(**more: Any) -> dict[str, Any]:
    usual = {
        "name": "one", "method": "lora", "engine": "ddp", "offload": "none", "precision": "bf16", "workers": [2, 2],
        "model": {"type": "llama", "parameters": 1_234_567, "trained": 12_345, "activations_exact": True},
        "data": {"exact": True, "how": "counted", "rows": {"a": 1000, "b": 234}, "tokens": {"a": 50_000, "b": 6_000}},
        "steps": 1500, "tokens": 7_654_321, "epochs": 2.345, "rows_per_step": 24, "micro_batch": 4, "accumulation": 3,
        "memory_total": 12 * GIB, "memory_usable": 72 * GIB, "change": "", "simpler": None, "warnings": [],
        "continues": [], "packing": None, "context": {"workers": 1, "exchanged_bytes": 0},
        "choices": [
            choice("ddp", [1, 2, 3, 4, 0.5, 0.25, 0, 1, 0], chosen=True),
            choice("zero2", [1, 1, 0, 4, 0.5, 1234, 0, 1, 6], offload="optimizer", fits=False, fewer_rows=3),
        ],
        "seconds": 7200.0, "gpu_hours": 4.0, "cost": None, "flops_per_token": 2.5e9, "peak_flops": 989.4e12,
    }  # fmt: skip
    return usual | more


H100 = {"name": "H100", "memory_gib": 79.1, "bf16_peak_flops": 989.4e12, "mfu": 0.35}
NO_GPU = {"name": None, "memory_gib": None, "bf16_peak_flops": None, "mfu": 0.4}


def lines(*phases: dict[str, Any], machine: dict[str, Any] = H100, **more: Any) -> list[str]:
    totals = {"seconds": None, "gpu_hours": None, "cost": None} | more
    plan = {"kind": "train", "name": "demo", "machine": machine, "phases": list(phases), **totals, "assumed": ["One."]}
    *found, empty, heading, assumed = plan_text(plan).splitlines()
    assert (empty, heading, assumed) == ("", "Assumed:", "- One.")
    return found


def test_a_plan_is_printed_line_by_line():
    columns = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "context", "total")
    assert lines(phase(warnings=["first.", "second."]), seconds=7200.0, gpu_hours=4.0) == [
        "plan of demo",
        "",
        "one: lora, ddp, bf16",
        "  model       llama, 1,234,567 parameters, 12,345 trained (1.00%)",
        "  data        56,000 tokens, 1,234 rows (counted)",
        "  training    1,500 steps, 7,654,321 tokens, 2.35 epochs",
        "  step        24 rows = 2 workers x 3 micro-batches x 4 rows",
        "  memory, GiB           micro-batch" + "".join(f"{name:>12}" for name in (*columns, "CPU memory")),
        "  > ddp                           4        1.00        2.00        3.00        4.00        0.50        0.25"
        "        1.00       11.75        0.00  fits",
        "    zero2 + optimizer             4        1.00        1.00        0.00        4.00        0.50    1,234.00"
        "        1.00    1,241.50        6.00  fits with micro_batch: 3",
        f"  limit       72.00 of 79.1 GiB a GPU: {MARGIN}",
        "  time        2.0 h on 2 GPUs, 4.00 GPU hours",
        "              at MFU 35% of 989.4 TFLOP/s, 2.5 GFLOP a token; without validation, checkpoints and export",
        "  warning     first.",
        "  warning     second.",
    ]


def test_an_estimated_plan_of_a_range_of_workers_says_which_numbers_are_about():
    data = {"exact": False, "how": "estimated", "rows": {"a": 7}, "tokens": {"a": 900}}
    model = {"type": "mamba", "parameters": 100, "trained": 100, "activations_exact": False}
    one = phase(
        data=data, model=model, workers=[1, 8], accumulation=1, rows_per_step=1, micro_batch=1, seconds=None,
        memory_total=GIB // 10 - 1, choices=[choice("ddp", [2**-10, 0, 0, 0, 0, 0, 2**-9, 0, 0], chosen=True)],
    )  # fmt: skip
    found = lines(one, machine=NO_GPU)
    assert found[3:] == [
        "  model       mamba, 100 parameters, 100 trained (100.00%)",
        "  data        about 900 tokens, 7 rows (estimated)",
        "  training    1,500 steps, about 7,654,321 tokens, about 2.35 epochs",
        "  step        1 row = 1 to 8 workers x 1 micro-batch x 1 row (with 1 worker)",
        "  memory, MiB           micro-batch     weights        step       total  CPU memory",
        "  > ddp                           4        1.00        2.00        3.00        0.00  fits",
        "              activations are estimated as if mamba were a Llama",
        "  time        unknown without a GPU: give --gpu or --peak-tflops",
    ]
    at_limit = lines(one | {"memory_total": GIB // 10 + 1}, machine=NO_GPU)
    assert "  memory, GiB           micro-batch     weights        step       total  CPU memory" in at_limit
    unknown = lines(one | {"precision": "float32"})[-1]
    assert unknown == (
        "  time        and cost unknown: this trains in float32, and the table has only the bf16 peak of H100; give "
        "--peak-tflops"
    )


@pytest.mark.parametrize(
    ("change", "simpler", "said"),
    [
        ("", None, []),
        ("", "engine: ddp", ["a simpler engine fits too: engine: ddp"]),
        ("micro_batch: 2", "engine: ddp", ["too large; the smallest change that fits: micro_batch: 2"]),
        (None, None, ["too large on 3 workers: no engine fits, even with one row at a time and activation "
                      "checkpointing"]),
    ],
)  # fmt: skip
def test_the_advice_under_the_table_equals_the_one_of_the_plan(change, simpler, said):
    found = lines(phase(change=change, simpler=simpler, workers=[3, 5]))
    limit = next(number for number, line in enumerate(found) if line.startswith("  limit"))
    assert found[limit + 1 : -2] == [f"              {line}" for line in said]
    assert found[-2].startswith("  time        2.0 h on 5 GPUs,")
    without = lines(phase(change=change, simpler=simpler), machine=NO_GPU)
    assert not any(re.search("limit|too large;|no engine|simpler", line) for line in without)


def test_packing_follows_its_phase_as_the_stages_of_other_runs():
    stages = [Cost("tokenise-a", 3, 7200.0, read=1e9, written=2e9, memory=1 << 30), Cost("pack-a", 2, 10.0)]
    packing = costs_of(stages, lambda cores: cores << 30, (2, 16), load_prices(None))
    found = lines(phase(packing=packing))
    at = found.index("packing of one, before it")
    assert (
        found[at - 2]
        == "              at MFU 35% of 989.4 TFLOP/s, 2.5 GFLOP a token; without validation, checkpoints and export"
    )
    assert re.split(r"  +", found[at + 3].strip()) == [
        "tokenise-a", "3", "2.0 h", "1.0 GB", "2.0 GB", "-", "-", "1.0 GiB", "-"
    ]  # fmt: skip
    cores = [re.split(r"  +", line.strip()) for line in found if re.match(r" +(2|16)  ", line)]
    assert [row[:3] for row in cores] == [["2", "1 h 20 min", "2 GiB"], ["16", "40 min 20 s", "16 GiB"]]


def test_several_phases_end_with_their_sum():
    phases = phase(cost=0.5), phase(name="two", seconds=60.0, gpu_hours=0.004, cost=0.0)
    found = lines(*phases, seconds=7260.0, gpu_hours=4.004, cost=1234.5)
    assert found[-2:] == ["", "all phases  2.0 h, 4.00 GPU hours, cost 1,234.50"]
    assert [line for line in found if line.startswith("  time")] == [
        "  time        2.0 h on 2 GPUs, 4.00 GPU hours, cost 0.50",
        "  time        60 s on 2 GPUs, under 0.01 GPU hours, cost 0.00",
    ]
    assert lines(phase(), seconds=7200.0, gpu_hours=4.0)[-1].startswith("              at MFU")
    assert not any(line.startswith("all phases") for line in lines(*phases))


def test_the_figures_of_a_phase_follow_from_its_rows_and_machine(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "some text"}\n' * 1000)
    settings = config(
        corpus=str(tmp_path / "a.jsonl"), output=str(tmp_path / "run"), method="lora", engine="zero1", micro_batch=2,
        tokens_per_step=128 * 13, workers={"count": {"min": 2, "max": 5}, "gpus_each": 1}, steps=70,
    )  # fmt: skip
    found = plan_phase(settings, AssumedGpu("H100", 79.1, None, 1e13, 0.25, 3.0))
    shape = shape_of(settings)
    rows, tokens = (sum(found["data"][name].values()) for name in ("rows", "tokens"))
    names = ("name", "method", "engine", "offload", "precision", "workers", "gpus", "steps", "rows_per_step")
    assert [found[name] for name in names] == ["planned", "lora", "zero1", "none", "bf16", [2, 5], 5, 70, 13]
    assert (found["micro_batch"], found["accumulation"]) == (2, 4)  # 13 rows by 2 workers in 2 rows at a time
    assert found["tokens"] == pytest.approx(70 * 13 * tokens / rows, abs=1)
    assert found["epochs"] == pytest.approx(70 * 13 / rows)
    assert found["model"] == {
        "type": "llama", "parameters": shape.total, "trained": shape.trained, "activations_exact": True,
    }  # fmt: skip
    model = transformers_config(settings.store, settings.model)
    flops = flops_per_token(model, shape.trained, "lora", (tokens / rows + 1) / 2)
    assert found["flops_per_token"] == pytest.approx(flops)
    # Five workers have 3 rows of 13 at most, and padding is computed.
    seconds = 70 * 3 * 5 * 128 * flops / (0.25 * 1e13 * 5)
    assert found["seconds"] == pytest.approx(seconds)
    assert found["gpu_hours"] == pytest.approx(5 * seconds / 3600)
    assert found["cost"] == pytest.approx(3.0 * 5 * seconds / 3600)
    assert (found["change"], found["simpler"]) == ("", "engine: ddp")
    assert [one["engine"] for one in found["choices"] if one["chosen"]] == ["zero1"]
    for one in found["choices"]:
        assert (one["fits"], one["fewer_rows"], one["micro_batch"]) == (True, None, 2)
    unknown = plan_phase(settings, AssumedGpu())
    assert [unknown[name] for name in ("change", "simpler", "seconds", "gpu_hours", "cost", "memory_usable")] == [
        None
    ] * 6
    assert {(one["fits"], one["fewer_rows"]) for one in unknown["choices"]} == {(None, None)}
    counted = replace(facts(settings).data, documents=facts(settings).data.order.rows_per_pass * 4)
    spread = planning._duration(settings, shape, counted, 70, AssumedGpu(peak_flops=1e13))
    assert spread["flops_per_token"] == pytest.approx(flops_per_token(model, shape.trained, "lora", (128 / 4 + 1) / 2))


# --- memory of a shape whose parts are easy to tell apart


def parameter(name: str, shape: tuple[int, ...], trained: bool = True, layer: int | None = None) -> Parameter:
    return Parameter(name, shape, trained, layer)


SHAPE = Shape(
    "llama",
    (
        parameter("embed", (1003, 100)),
        parameter("0.w", (1001, 300), layer=0),
        parameter("0.n", (7,), layer=0),
        parameter("1.w", (1001, 500), layer=1),
        parameter("1.f", (11, 500), False, layer=1),
        parameter("norm", (5,), False),
    ),
    layers=2, hidden=100, feed_forward=300, query=100, key=50, heads=4, vocabulary=1003, exact=True, varlen=True,
)  # fmt: skip
TRAINED = 100_300 + 300_300 + 7 + 500_500
FROZEN = 5_500 + 5
GPUS = {"count": 3, "gpus_each": 1}


def of(engine: str, precision: str, **more: Any) -> TrainConfig:
    return config(engine=engine, precision=precision, workers=GPUS, tokens_per_step=128 * 6, **more)


def up(number: int) -> int:
    return -(-number // 3)


@pytest.mark.parametrize(("precision", "wide"), [("bf16", 2), ("float32", 4)])
def test_what_each_engine_holds_is_counted_parameter_by_parameter(precision, wide):
    half = precision == "bf16"
    part = up(TRAINED)
    ddp = states(of("ddp", precision), SHAPE, 3)
    assert ddp["weights"] == 4 * TRAINED + wide * FROZEN
    assert (ddp["gradients"], ddp["optimizer"], ddp["host"]) == (4 * TRAINED, 8 * TRAINED, 0)
    assert ddp["buffers"] == (2 * (TRAINED - 7) if half else 0)

    # Rows are dealt evenly and rounded up: 335 of 1003, 334 of 1001, 3 of 7; frozen 4 of 11, 2 of 5.
    own = 335 * 100 + 334 * 300 + 3 + 334 * 500
    for every, extra in ((True, 0), (False, 4 * TRAINED)):
        sharded = states(of("fsdp2", precision, reduce_every_micro_batch=every), SHAPE, 3)
        assert sharded["weights"] == 4 * own + wide * (4 * 500 + 2)
        assert (sharded["gradients"], sharded["optimizer"]) == (4 * own + extra, 8 * own)
        layer, outside = 500_500 + 5_500, 100_300 + 5
        gathered = wide * (2 * layer + outside)
        assert sharded["buffers"] == gathered + (wide + 4) * (500_500 + 100_300)
    alone = states(of("fsdp2", precision), SHAPE, 1)
    assert alone["buffers"] == (gathered if half else 0)

    for stage in (1, 2, 3):
        found = states(of(f"zero{stage}", precision), SHAPE, 3)
        assert (found["optimizer"], found["host"]) == (12 * part, 0)
        assert found["gradients"] == ((6 if half else 4) * TRAINED if stage == 1 else 4 * part)
        if stage < 3:
            assert found["weights"] == wide * (TRAINED + FROZEN)
            assert found["buffers"] == TRAINED * (2 * wide + 4)
        else:
            shards = up(100_300) + up(300_300) + up(7) + up(500_500) + up(5_500) + up(5)
            whole = 7 + 5_500 + 5  # below 100,000 values
            assert found["weights"] == wide * (shards + whole)
            large = 100_300 + 300_300 + 500_500
            assert found["buffers"] == 4 * (1 << 26) + TRAINED * 2 * wide + wide * large
    for offload, kept in (("optimizer", wide * (shards + whole)), ("parameters", 0)):
        away = states(of("zero3", precision, offload=offload), SHAPE, 3)
        assert (away["weights"], away["optimizer"], away["gradients"]) == (kept, 0, wide * part)
        assert away["host"] == (20 + wide) * part + wide * (shards + whole) - kept


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_only_a_float32_zero_1_or_2_copies_its_gradients_in_a_step(precision):
    for engine in ("ddp", "fsdp2", "zero1", "zero2", "zero3"):
        copies = engine in ("zero1", "zero2") and precision == "float32"
        assert step_bytes(of(engine, precision), SHAPE, 3) == (4 * up(TRAINED) if copies else 0)
    assert step_bytes(of("zero2", precision, offload="optimizer"), SHAPE, 3) == 0


def test_the_total_is_all_but_cpu_memory_and_a_worker_on_a_cpu_has_no_context():
    parts = Memory(1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert (parts.total, parts.states) == (255, 7)
    assert asdict(parts) == dict(zip(PARTS, (1, 2, 4, 8, 16, 32, 64, 128, 256), strict=True))
    on_gpu, on_cpu = of("ddp", "bf16"), config(precision="bf16", tokens_per_step=128 * 6, workers={"count": 3})
    assert [memory(one, SHAPE).context for one in (on_gpu, on_cpu)] == [GIB, 0]
    assert logit_bytes(SHAPE, 10, 2) == 10 * 1003 * 14
    asked = [of("zero3", p, loss_chunk_tokens=50) for p in ("bf16", "float32")]
    zero3 = [loss_bytes(one, SHAPE, forward_pass(one, SHAPE, 1)) for one in asked]
    assert zero3 == [50 * 1003 * 14 + 100_300 * 6, 50 * 1003 * 16 + 100_300 * 4]
    # A chunk is not longer than the micro-batch.
    long = of("zero3", "bf16", loss_chunk_tokens=10_000, method="lora")
    assert loss_bytes(long, SHAPE, forward_pass(long, SHAPE, 2)) == 2 * 128 * 1003 * 14
    # The loss of the last chunk is over when the last layer's backward pass begins.
    assert memory(long, SHAPE, 2).logits == 2 * 128 * 1003 * 14 - work_bytes(SHAPE, forward_pass(long, SHAPE, 2))


def test_four_bit_weights_are_the_frozen_matrices_of_the_layers():
    settings = of("ddp", "bf16")
    assert frozen_bytes(settings, SHAPE) == 2 * FROZEN
    quantised = settings.model_copy(update={"method": "qlora"})
    assert frozen_bytes(quantised, SHAPE) == int(5_500 * 4.127 / 8) + 2 * 5


# Bytes of a token in a layer, by hand from the table of training/plan/memory.py: H 100, F 300, Q 120, K 60, 4 heads,
# rows of 7. The norms keep two scales of 4 bytes besides, attention a number of 4 bytes for each head.
PASS = Pass(
    10, 7, 1, 2, 2, True, 0, False, "mask", checkpointing=False, kept_share=1.0, compiled=False, compiles_loss=False,
    backward=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "bytes_of_a_layer", "bytes_outside", "bytes_of_work"),
    [
        ({"residual_bytes": 4, "attention": "kernel"}, 1608 + 1000 + 736 + 2400, 400 + 800 + 240 + 32, 1800 + 1600),
        ({"compute_bytes": 4, "residual_bytes": 4}, 1608 + 800 + 1964 + 4800, 400 + 800 + 240 + 32, 3600 + 1600),
        # Two key-value heads, each repeated for two of four workers, and the result before and after it is exchanged.
        ({"sharing": 4, "attention": "kernel"}, 1208 + 400 + 1216 + 2400, 400 + 400 + 240 + 32, 1800 + 1200),
        ({"attention": "scores"}, 1208 + 400 + 1144 + 2400, 400 + 400 + 240 + 32, 1800 + 1200),
        ({"whole": False, "adapter_rank": 8}, 808 + 512 + 990 + 2400, 400 + 400 + 240 + 32, 1800 + 1200),
        (
            {"whole": False, "adapter_rank": 8, "adapter_casts": True},
            808 + 1952 + 990 + 1800,
            400 + 400 + 240 + 32,
            1800 + 1200,
        ),
        ({"compiled": True, "residual_bytes": 4}, 408 + 600 + 990 + 1800, 400 + 800 + 240 + 32, 1800 + 1600),
        ({"compiled": True, "whole": False, "adapter_rank": 8}, 208 + 712 + 990 + 1800, 1072, 1800 + 1200),
        (
            {"whole": False, "compute_bytes": 4, "residual_bytes": 4, "attention": "scores"},
            808 + 800 + 2048 + 3600,
            400 + 800 + 240 + 32,
            3600 + 1600,
        ),
    ],
)
def test_activations_are_what_each_operation_keeps(changes, bytes_of_a_layer, bytes_outside, bytes_of_work):
    shape, how = replace(SHAPE, query=120, key=60), replace(PASS, **changes)
    layer, residual = 10 * bytes_of_a_layer, 10 * how.residual_bytes * 100
    assert saved_by_layer(shape, how) == layer
    assert kept_bytes(shape, how) == 2 * layer + 10 * bytes_outside
    assert work_bytes(shape, how) == 10 * bytes_of_work
    slim = replace(how, checkpointing=True)
    assert kept_bytes(shape, slim) == 2 * residual + 10 * bytes_outside
    assert work_bytes(shape, slim) == layer + 10 * bytes_of_work
    last = replace(how, backward=False)
    assert (kept_bytes(shape, last), work_bytes(shape, last)) == (residual, layer)


def test_selective_recomputing_keeps_a_share_of_a_compiled_layer_and_computes_one_layer_again_at_a_time():
    shape, how = replace(SHAPE, query=120, key=60), replace(PASS, compiled=True)
    half = replace(how, kept_share=0.5)
    whole = saved_by_layer(shape, how)
    assert saved_by_layer(shape, half) == whole // 2
    assert work_bytes(shape, half) == work_bytes(shape, how) + whole // 2


@pytest.mark.parametrize(
    ("precision", "gpus", "chunk", "expected"),
    [
        # Three peaks of the fused loss: the logits beside the head's gradient; that gradient as it is added; two heads.
        ("bf16", 1, 100, 8 * 100_300),
        ("bf16", 1, 1000, 128 * 1003 * 4 + 4 * 100_300),
        ("bf16", 1, 5, 8 * 100_300),
        ("bf16", 0, 5, 5 * 1003 * 2 + 10 * 100_300),
        ("float32", 1, 100, 100 * 1003 * 8 + 4 * 100_300),
    ],
)
def test_logits_take_the_largest_of_the_three_peaks_of_the_loss(precision, gpus, chunk, expected):
    full = of("ddp", precision, loss_chunk_tokens=chunk)
    full = full.model_copy(update={"workers": full.workers.model_copy(update={"gpus_each": gpus})})

    def found(config: TrainConfig) -> int:
        return loss_bytes(config, SHAPE, forward_pass(config, SHAPE, 1))

    assert found(full) == expected
    adapter = full.model_copy(update={"method": "lora"})
    value = 2 * (2 if precision == "bf16" else 4) if gpus else 14 if precision == "bf16" else 12
    assert found(adapter) == min(chunk, 128) * 1003 * value
    assert found(adapter.model_copy(update={"compile": False})) == min(chunk, 128) * 1003 * (
        14 if precision == "bf16" else 12
    )
    assert found(full.model_copy(update={"method": "probe"})) == 0


# --- choices and advice


def test_the_most_rows_are_the_last_that_fit_up_to_the_limit():
    settings = of("zero2", "bf16")
    for rows in (1, 3, 6):
        enough = memory(settings, SHAPE, rows, 8).total / 0.9 + 2
        assert [most_rows(settings, SHAPE, enough, limit, 8) for limit in (0, 1, rows, rows + 3)] == [0, 1, rows, rows]
        assert most_rows(settings, SHAPE, enough - 4, rows + 3, 8) == rows - 1


def test_workers_that_share_rows_are_groups_in_the_plan():
    context = {"workers": 4, "exchanged_bytes": 12_345_678_901}
    found = lines(phase(workers=[8, 8], context=context, rows_per_step=6))
    assert "  step        6 rows = 2 groups of 4 workers x 3 micro-batches x 4 rows" in found
    assert "  context     4 workers share each row; each sends 12.3 GB to the others in a step" in found
    alone = lines(phase(workers=[4, 4], context=context, rows_per_step=6))
    assert "  step        6 rows = 1 group of 4 workers x 3 micro-batches x 4 rows" in alone


def test_a_refusal_has_the_bytes_of_each_part():
    settings = big(device_memory_gib=79, engine="zero2", offload="optimizer")
    small = settings.model_copy(update={"device_memory_gib": 20.0})
    need = memory(settings, shape_of(settings), 1)
    with pytest.raises(Exception) as refused:
        check_memory(small)
    parts = {name: size / GIB for name, size in asdict(need).items() if size and name != "host"}
    said = str(refused.value)
    assert f"needs about {need.total / GIB:.1f} GiB ({', '.join(f'{n} {s:.1f}' for n, s in parts.items())})" in said
    assert "with engine zero2 and micro_batch 1; the GPU has 20, of which 18.0 can be used" in said
    hopeless = suggested_change(big(method="lora"), shape_of(big()), GIB)
    assert hopeless == "No engine fits on 8 workers: use more workers, or a shorter sequence_length."


def test_advice_names_the_numbers_that_it_was_given_for():
    def said(settings: TrainConfig, **known: Any) -> list[str]:
        return advise(facts(settings, **known))

    adapter = config(**LORA | {"engine": "zero3"})
    shape = shape_of(adapter)
    plain = (
        f"engine: zero3 with method lora gathers all {shape.total:,} weights in every pass to save the optimizer state "
        f"of {shape.trained:,}; ddp sends those alone"
    )
    assert said(adapter) == [f"{plain}, unless the base does not fit a GPU (set --gpu)."]
    assert said(adapter, gib=80) == [f"{plain} and fits."]
    assert said(adapter, gib=0.001) == []
    large = big(loss_chunk_tokens=4096, engine="zero2", compile=False)
    logits = loss_bytes(large, shape_of(large), forward_pass(large, shape_of(large), 1))
    [chunks] = [line for line in said(large) if line.startswith("loss_chunk")]
    assert chunks == (
        f"loss_chunk_tokens: 4,096 positions of 128,256 logits take {logits / GIB:.1f} GiB; a quarter of them takes "
        "less and is hardly slower."
    )
    limit = logits / GIB * 10
    for gib, count in ((limit * 1.001, 0), (limit * 0.999, 1)):
        found = said(large, gib=gib)
        assert sum(line.startswith("loss_chunk") for line in found) == count
    small = config(workers={"count": 8, "gpus_each": 1}, tokens_per_step=8192, engine="fsdp2")
    found = [line for line in said(small, gib=80) if line.startswith(("workers", "engine"))]
    assert found == [
        "workers.count: 8 GPUs compute 1,024 tokens each in a step of a model of "
        f"{shape_of(small).total / 1e9:.2g}B parameters and spend the rest of it communicating. Use fewer GPUs, or "
        "more tokens_per_step.",
        "engine: fsdp2 gathers weights in every pass, and ddp fits the GPU.",
    ]
    assert not [line for line in said(small) if line.startswith("engine")]
    rate = config(optimizer={"learning_rate": 0.5}, **{k: v for k, v in LORA.items() if k != "optimizer"})
    total = f"{shape_of(rate).total / 1e9:.2g}"
    assert [line for line in said(rate) if line.startswith("optimizer")] == [
        f"optimizer.learning_rate: 0.5 is above what is usual for method lora on random weights of {total}B "
        "parameters, 2e-05 to 0.01."
    ]
