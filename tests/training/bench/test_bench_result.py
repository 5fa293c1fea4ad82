"""The result of a benchmark and its text, from times given by hand: every field and every printed number."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from raymill.training.config import TrainConfig
from raymill.training.fit.ranks import Ranks
from raymill.training.gpus import peak_flops
from tests.benchmarks.gpu import gpu
from tests.benchmarks.gpu.command import make_config, parser
from tests.benchmarks.gpu.measure import STEPS_DRAWN, Kernel, Step, Timing, worker_steps
from tests.benchmarks.gpu.parts import MeasuredPart
from tests.benchmarks.gpu.predict import predicted_ms, setting, summed
from tests.benchmarks.gpu.result import benchmark_result, peer_text, result_text
from tests.benchmarks.gpu.workload import bench_config, random_batch

CPU = torch.device("cpu")
KERNELS = tuple(Kernel(f"kernel-{n}", 12.5 - n, n + 1, (12.5 - n) / 84) for n in range(12))
OURS = Timing((0.5, 0.2, 0.3), 768, 5.4321, 1.25, 150_000, 10_416, "sdpa", 12.34, KERNELS, ("optimize_ddp",))
PEER = Timing((0.9, 0.4), 768, 5.5, 2.5, 150_000, 10_416, "eager")
PARTS = [
    MeasuredPart("products", 4.0, 2e9, True),
    MeasuredPart("scores", 6.0, 3e9, True),
    MeasuredPart("whole rows", 5.0, 9e9, False),
]


def tiny(**settings: Any) -> TrainConfig:
    plain = {"method": "lora", "precision": "bf16", "loss_chunk_tokens": 40, "activation_checkpointing": True}
    sizes = {"world": 2, "gpus": False, "sequence_length": 64, "micro_batch": 2, "accumulation": 3, "steps": 9}
    return bench_config("tiny", **sizes | plain | settings)


def drawn() -> list[Step]:
    return [[random_batch((1, step, micro), 2, 64, 3, 320) for micro in range(3)] for step in range(4)]


def result(monkeypatch, **more: Any) -> dict[str, Any]:
    monkeypatch.setattr("platform.processor", lambda: "a CPU")
    given: dict[str, Any] = {"config": tiny(), "ours": OURS, "peak_tflops": 0.5, "peer": PEER, "parts": PARTS} | more
    return benchmark_result(
        given["config"], Ranks(0, 2, CPU), drawn(), given["ours"], given["peak_tflops"], peer=given["peer"],
        parts=given["parts"],
    )  # fmt: skip


def test_every_field_of_a_result_equals_the_one_of_the_times_and_rows(monkeypatch):
    found = result(monkeypatch)
    assert found["setting"] == {
        "shape": "tiny", "method": "lora", "engine": "ddp", "precision": "bf16", "attention": "sdpa", "compile": True,
        "put_back": ["optimize_ddp"], "activation_checkpointing": True, "loss_chunk_tokens": 40, "sequence_length": 64,
        "micro_batch": 2, "accumulation": 3, "workers": 2,
    }  # fmt: skip
    batches = [batch for step in drawn() for batch in step]
    lengths: list[int] = []
    for batch in batches:
        for position in batch.position_ids.ravel().tolist():
            if position == 0:
                lengths.append(0)
            lengths[-1] += 1
    context = sum(sum(range(1, n + 1)) for n in lengths) / sum(lengths)
    assert found["mean_context"] == pytest.approx(context)
    assert found["documents"] == [sum(int((batch.position_ids == 0).sum()) for batch in step) for step in drawn()]
    assert found["label_share"] == pytest.approx(1 - len(lengths) / sum(lengths))
    # 2 layers of q, o: 64 x 64, k, v: 64 x 32, gate, up, down: 64 x 192; the lm_head: 320 x 64.
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192) + 320 * 64
    flops, whole = (4 * weights + 6 * 10_416 + 3 * 2 * 2 * 4 * (16 + 16) * seen for seen in (context, 64))
    assert found["flops_per_token"] == pytest.approx(flops)
    assert found["flops_per_token_whole_rows"] == pytest.approx(whole)
    assert (found["parameters"], found["trainable_parameters"], found["steps"]) == (150_000, 10_416, 3)
    assert (found["device"], found["peak_flops"]) == ("a CPU", 0.5e12)
    for side, timing, step_s in ((found["ours"], OURS, 0.3), (found["peer"], PEER, 0.65)):
        assert side["seconds"] == list(timing.seconds) and side["step_s"] == pytest.approx(step_s)
        assert side["tokens_per_s"] == pytest.approx(768 / step_s)
        assert side["mfu"] == pytest.approx(768 / step_s * flops / (2 * 0.5e12))
        assert side["mfu_whole_rows"] == pytest.approx(768 / step_s * whole / (2 * 0.5e12))
        seen = (side["peak_memory_gib"], side["first_loss"], side["attention"])
        assert seen == (timing.peak_memory_gib, timing.first_loss, timing.attention)
    assert found["ours"]["compile_s"] == 12.34 and "compile_s" not in found["peer"]
    assert found["ratio"] == pytest.approx(0.65 / 0.3) and found["peer_failed"] is None
    assert found["parts"]["ceiling_ms"] == 10
    assert found["parts"]["ceiling_tokens_per_s"] == pytest.approx(2 * 2 * 64 / 10e-3)
    assert found["parts"]["ceiling_mfu"] == pytest.approx(2 * 2 * 64 / 10e-3 * flops / (2 * 0.5e12))
    assert [part["tflops_per_s"] for part in found["parts"]["parts"]] == pytest.approx([0.5, 0.5, 1.8])
    kernels = found["kernels"]
    assert (kernels["count"], kernels["ms"]) == (12, sum(kernel.ms for kernel in KERNELS))
    assert [tuple(one.values()) for one in kernels["costliest"]] == [
        (kernel.name, kernel.ms, kernel.calls, kernel.share) for kernel in KERNELS[:10]
    ]


def test_a_result_of_the_plainest_run_lacks_what_was_not_measured(monkeypatch):
    plain = replace(OURS, compile_s=None, kernels=(), put_back=())
    found = result(
        monkeypatch, config=tiny(activation_checkpointing=False), ours=plain, peak_tflops=None, peer=None, parts=[]
    )
    setting_ = found["setting"]
    assert (setting_["compile"], setting_["put_back"], setting_["activation_checkpointing"]) == (False, [], False)
    assert {name for name, value in found.items() if value is None} == {
        "peak_flops", "peer", "peer_failed", "ratio", "parts", "kernels",
    }  # fmt: skip
    assert [found["ours"][name] for name in ("mfu", "mfu_whole_rows", "mfu_formula")] == [None] * 3
    assert result_text(found).splitlines()[1:2] == ["setting     lora, ddp, bf16, 2 x a CPU"]
    assert "MFU unknown: no peak of this device in bf16 in the table" in result_text(found)
    assert [line[:12].strip() for line in result_text(found).splitlines()] == [
        "model", "setting", "rows", "raymill", "", "versions",
    ]  # fmt: skip
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "NVIDIA H200")
    known = benchmark_result(tiny(), Ranks(0, 2, CPU), drawn(), plain, None)
    assert (known["device"], known["peak_flops"]) == ("NVIDIA H200", peak_flops("NVIDIA H200"))
    assert benchmark_result(tiny(precision="float32"), Ranks(0, 2, CPU), drawn(), plain, None)["peak_flops"] is None


def test_the_text_of_a_result_has_its_numbers_with_their_words(monkeypatch):
    found = result(monkeypatch)
    context, documents = found["mean_context"], found["documents"]
    giga = f"{found['flops_per_token'] / 1e9:,.4g}"

    def mfu(rate: float, kind: str = "flops_per_token") -> str:
        return f"{rate * found[kind] / 1e12:.1%}"

    versions = [f"{name} {number or 'not installed'}" for name, number in found["versions"].items()]
    blank, whole = " " * 11, "flops_per_token_whole_rows"
    wanted = [
        "model       tiny: 10,416 of 150,000 parameters",
        "setting     lora, ddp, bf16, compiled, with optimize_ddp, activation checkpointing, 2 x a CPU",
        f"rows        2 x 64 tokens a micro-batch, 3 a step and worker, {min(documents)} to {max(documents)} documents "
        f"a step; a token attends to {context:.0f} positions on average; {100 * found['label_share']:.1f}% of tokens "
        "have a label",
        "raymill     2,560 tokens/s (median of 3 steps, 300.0 ms); peak 1.25 GiB; attention sdpa; first loss 5.4321",
        f"{blank} MFU {mfu(2560)} = 2,560 tokens/s x {giga} GFLOP/token / (2 x 0.5 TFLOP/s); FLOP a token: see "
        "training/models/cost.py",
        f"{blank} MFU {mfu(2560, whole)} with whole rows attended to, as torchtitan and TRL count",
        f"{blank} torch.compile took 12.3 s, before the measured steps",
        "parts       of a micro-batch, forward and backward, each alone; + counts to the ceiling",
        "          + products                                  4.00 ms      0.50 TFLOP/s",
        "          + scores                                    6.00 ms      0.50 TFLOP/s",
        "            whole rows                                5.00 ms      1.80 TFLOP/s",
        f"ceiling     25,600 tokens/s, MFU {mfu(25600)}, 10.00 ms a micro-batch; training reaches 10% of it",
        "kernels     84.00 ms a step in 12 kinds; the 10 costliest:",
        *(
            f"            {f'{one.ms / 84:.1%}':>6}{one.ms:>10.2f} ms{one.calls:>7} calls  {one.name}"
            for one in KERNELS[:10]
        ),
        f"versions    {', '.join(versions)}",
    ]
    assert result_text(found).splitlines() == wanted
    rate = PEER.tokens_per_step / 0.65
    assert peer_text(found).splitlines() == [
        "HF Trainer  1,182 tokens/s (median of 3 steps, 650.0 ms); peak 2.50 GiB; attention eager; first loss 5.5000",
        f"{blank} MFU {mfu(rate)} = 1,182 tokens/s x {giga} GFLOP/token / (2 x 0.5 TFLOP/s); FLOP a token: see "
        "training/models/cost.py",
        f"{blank} MFU {mfu(rate, whole)} with whole rows attended to, as torchtitan and TRL count",
        "ratio       2.17 times the Trainer's tokens/s",
    ]


ITEM = gpu.Item("C", "fast", "tests.benchmarks.gpu", ("--steps", "9"))


def lines_of(
    monkeypatch, found: dict[str, Any], item: gpu.Item = ITEM, failed: str | None = None
) -> list[gpu.ResultRow]:
    monkeypatch.setattr(gpu, "_planned_gib", lambda setting: 1.2)
    monkeypatch.setattr(
        gpu, "_predicted_ms", lambda setting, device, rehearsed: f"predicted on {device}, rehearsed {rehearsed}"
    )
    return list(gpu._lines(item, [{"ours": "of a line before"}, found], failed))


def test_the_lines_of_the_table_have_the_numbers_of_the_result(monkeypatch):
    found = result(monkeypatch)
    mfu, whole = found["ours"]["mfu"], found["ours"]["mfu_whole_rows"]
    assert lines_of(monkeypatch, found, failed="ended after 9 s") == [
        gpu.ResultRow("C", "fast", f"2,560 tokens/s, 300 ms, MFU {mfu:.1%} (whole rows {whole:.1%}), sdpa", "", ""),
        gpu.ResultRow("C", "  memory, micro-batch 2", "1.25 GiB", "plan: 1.20 GiB", "ok"),
        gpu.ResultRow("C", "  products", "4.00 ms", "0.5 TFLOP/s", ""),
        gpu.ResultRow("C", "  scores", "6.00 ms", "0.5 TFLOP/s", ""),
        gpu.ResultRow("C", "  whole rows", "5.00 ms", "1.8 TFLOP/s", ""),
        gpu.ResultRow("C", "  ceiling", "25,600 tokens/s", "reached: 10%", ""),
        *(
            gpu.ResultRow("C", f"  {one.name}", f"{one.ms:.2f} ms a step", f"{one.ms / 84:.1%}", "")
            for one in KERNELS[:10]
        ),
        gpu.ResultRow("C", "  HF Trainer", "1,182 tokens/s", "ours is 2.17 times as fast", ""),
        gpu.ResultRow("C", "  and then", "ended after 9 s", "", ""),
    ]
    plain = result(monkeypatch, ours=replace(OURS, kernels=()), peak_tflops=None, peer="out of memory", parts=[])
    assert lines_of(monkeypatch, plain, replace(ITEM, predicted=True)) == [
        gpu.ResultRow("C", "fast", "2,560 tokens/s, 300 ms, sdpa", "predicted on a CPU, rehearsed True", ""),
        gpu.ResultRow("C", "  memory, micro-batch 2", "1.25 GiB", "plan: 1.20 GiB", "ok"),
        gpu.ResultRow("C", "  HF Trainer", "out of memory", "", ""),
    ]


@pytest.mark.parametrize(("gib", "verdict"), [(1.07, "off"), (1.09, "ok"), (1.31, "ok"), (1.32, "off")])
def test_memory_within_a_tenth_of_the_plan_is_ok(monkeypatch, gib, verdict):
    found = result(monkeypatch, ours=replace(OURS, peak_memory_gib=gib))
    memory = lines_of(monkeypatch, found)[1]
    assert (memory.found, memory.verdict) == (f"{gib:.2f} GiB", verdict)
    assert lines_of(monkeypatch, found, replace(ITEM, words=("--cpu",)))[1].verdict == ""


def test_checks_and_checkpoints_have_lines_of_their_own():
    checks = [{"name": f"n{right}", "found": "f", "wanted": "w", "right": right} for right in (True, False, None)]
    correct = gpu.Item("A", "correct", "tests.benchmarks.gpu.correct", ())
    assert list(gpu._lines(correct, checks, "ended after 9 s")) == [
        gpu.ResultRow("A", "nTrue", "f", "w", "ok"), gpu.ResultRow("A", "nFalse", "f", "w", "WRONG"),
        gpu.ResultRow("A", "nNone", "f", "w", "skipped"),
        gpu.ResultRow("A", "the other checks", "ended after 9 s", "", "failed"),
    ]  # fmt: skip
    stall = gpu.Item("D", "stops", "tests.benchmarks.gpu.stall", ())
    times = {"first_s": 1.234, "later_s": 0.5, "gib": 13.81, "written_s": 7.25}
    [line] = gpu._lines(stall, [times], None)
    assert line == gpu.ResultRow("D", "stops", "1.23 s the first time, then 0.50 s", "13.81 GiB, written in 7.2 s", "")
    verdicts = {"skipped: no time left": "skipped", "not run: x is not installed": "not run", "crashed": "failed"}
    for reason, verdict in (verdicts | {"": "skipped"}).items():
        [line] = gpu._lines(correct, [], reason or None)
        assert line == gpu.ResultRow("A", "correct", reason or "skipped: nothing printed", "", verdict)
    assert gpu._row(gpu.ResultRow("A", "n", "f", "b", "ok")) == f"A  n{' ' * 63}f{' ' * 63}b{' ' * 43}ok"
    assert gpu.table([gpu.ResultRow("A", "  n", "f", "b", "ok")]).splitlines()[2:] == ["| A | n | f | b | ok |"]


@pytest.mark.parametrize("item", gpu.items(True), ids=lambda item: f"{item.section}-{item.name}")
def test_a_rehearsed_line_is_the_real_one_with_tiny_shapes_on_the_cpu(item):
    real = next(one for one in gpu.items(False) if (one.section, one.name) == (item.section, item.name))
    assert "--cpu" in item.words
    if item.module != "tests.benchmarks.gpu":
        return
    asked, rehearsed = (vars(parser().parse_args(one.words)) for one in (real, item))
    tiny_sizes = {"shape": "tiny", "sequence": 64, "steps": 1, "cpu": True}
    if asked["loss_chunk_tokens"]:
        tiny_sizes["loss_chunk_tokens"] = 32
    assert rehearsed == asked | tiny_sizes


def test_an_option_of_the_benchmark_is_the_setting_of_its_name():
    words = (
        "--shape tiny --method lora --lora-rank 3 --sequence 96 --micro-batch 2 --accumulation 3 --steps 5 --engine "
        "zero2 --no-compile --attention eager --precision bf16 --activation-checkpointing --loss-chunk-tokens 33 "
        "--learning-rate 0.5"
    )
    config = make_config(parser().parse_args(words.split()), Ranks(1, 4, CPU))
    assert (config.method, config.lora.rank, config.sequence_length, config.micro_batch) == ("lora", 3, 96, 2)
    assert (config.tokens_per_step, config.workers.range, config.workers.gpus_each) == (4 * 3 * 2 * 96, (4, 4), 0)
    assert (config.steps, config.engine, config.compile, config.attention) == (3 + 5, "zero2", False, "eager")
    assert (config.precision, config.activation_checkpointing, config.loss_chunk_tokens) == ("bf16", True, 33)
    assert config.optimizer.learning_rate == 0.5
    usual = make_config(parser().parse_args([]), Ranks(0, 1, CPU))
    assert (usual.model.config or {})["hidden_size"] == 64 and usual.micro_batch == 1
    assert (usual.method, usual.lora.rank, usual.sequence_length, usual.tokens_per_step) == ("full", 16, 4096, 4096)
    assert (usual.steps, usual.engine, usual.offload, usual.attention) == (23, "ddp", "none", "auto")
    assert (usual.precision, usual.activation_checkpointing, usual.loss_chunk_tokens) == ("auto", False, None)
    assert usual.optimizer.learning_rate == 1e-5


def test_workers_draw_different_rows_and_every_step_its_own():
    config = tiny(world=2)
    steps = [worker_steps(config, Ranks(rank, 2, CPU), 3) for rank in (0, 1)]
    assert [len(one) for one in steps] == [STEPS_DRAWN] * 2
    assert {len(step) for one in steps for step in one} == {3}
    batches = [batch for one in steps for step in one for batch in step]
    assert {batch.input_ids.shape for batch in batches} == {(2, 64)}
    assert len({batch.digest for batch in batches}) == len(batches)
    assert max(int(batch.input_ids.max()) for batch in batches) in range(310, 320)


@pytest.mark.parametrize("rehearsed", [False, True])
def test_a_predicted_time_is_of_the_settings_rows(rehearsed):
    given = {"shape": "1b", "method": "full", "micro_batch": 2, "sequence_length": 1024}
    config = setting("1b", "full", 2, 1024 if rehearsed else 8192)
    for device, card in (("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("NVIDIA A100", "H200")):
        whole = summed(config, 4, "NVIDIA H200" if card == "H200" else device)
        wanted = f"predicted on an {card}: {whole.slow:,.0f} to {whole.fast:,.0f} ms"
        assert predicted_ms(given, device, rehearsed) == wanted
