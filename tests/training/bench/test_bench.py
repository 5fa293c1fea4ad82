"""`python -m tests.benchmarks.gpu`: it runs on a CPU without Ray or data, and its numbers follow from each other."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from raymill.training.models.cost import shape_of
from tests.benchmarks.gpu.__main__ import main
from tests.benchmarks.gpu.result import result_text
from tests.benchmarks.gpu.workload import SHAPES, document_lengths, random_batch

ROOT = Path(__file__).parents[3]
QUICK = ["--cpu", "--shape", "tiny", "--sequence", "64", "--micro-batch", "2", "--steps", "2", "--peak-tflops", "0.1"]


def run(capsys, *words: str) -> dict:
    assert main([*QUICK, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_the_rate_the_mfu_and_the_ratio_follow_from_the_times(capsys):
    found = run(capsys, "--accumulation", "2", "--peer")
    ours, peer = found["ours"], found["peer"]
    assert len(ours["seconds"]) == len(peer["seconds"]) == found["steps"] == 2
    assert ours["tokens_per_s"] == pytest.approx(2 * 2 * 64 / ours["step_s"])
    assert ours["mfu"] == pytest.approx(ours["tokens_per_s"] * found["flops_per_token"] / 0.1e12)
    # Full fine-tuning: 3 passes x 2 layers x 4 heads x 2 x (16 + 16) FLOP for each position that a token attends to.
    more = 3 * 2 * 4 * 2 * (16 + 16) * (64 - found["mean_context"])
    assert found["flops_per_token_whole_rows"] == pytest.approx(found["flops_per_token"] + more)
    assert ours["mfu_whole_rows"] / ours["mfu"] == pytest.approx(1 + more / found["flops_per_token"])
    assert found["ratio"] == pytest.approx(ours["tokens_per_s"] / peer["tokens_per_s"])
    assert found["parameters"] == found["trainable_parameters"] == 139_584


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_peer_computes_the_same_model_on_the_same_rows(capsys, method):
    """Else the comparison would mean nothing: equal weights and equal data show in an equal first loss."""
    found = run(capsys, "--method", method, "--peer")
    assert found["ours"]["first_loss"] == pytest.approx(found["peer"]["first_loss"], rel=1e-4)


@pytest.mark.slow
def test_our_numbers_are_printed_before_the_peer_starts_and_its_lack_of_memory_is_its_result(capsys, monkeypatch):
    before = []

    def measure_peer(*_):
        before.append(capsys.readouterr().out)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 65.00 GiB.")

    monkeypatch.setattr("tests.benchmarks.gpu.command.measure_peer", measure_peer)
    assert main([*QUICK, "--peer"]) == 0
    assert "raymill " in before[0] and "tokens/s" in before[0]
    assert capsys.readouterr().out == (
        "HF Trainer  out of memory with 2 rows of 64 tokens at once "
        "(CUDA out of memory. Tried to allocate 65.00 GiB.)\n"
    )
    assert main([*QUICK, "--peer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["peer"], found["ratio"]) == (None, None) and "out of memory" in found["peer_failed"]


@pytest.mark.slow
def test_what_training_leaves_out_is_put_back_where_it_is_asked_for(capsys, monkeypatch):
    import torch._dynamo
    from peft.tuners import lora

    from tests.benchmarks.gpu import measure

    seen = []

    def make_engine(config, objective, device):
        casts = {one.cast_input_dtype_enabled for one in objective.modules() if isinstance(one, lora.Linear)}
        seen.append((casts, torch._dynamo.config.optimize_ddp))
        return engine_of(config, objective, device)

    engine_of = measure.make_engine
    monkeypatch.setattr(measure, "make_engine", make_engine)
    monkeypatch.setattr("raymill.training.models.compiling.BACKEND", "eager")
    compiled = ("--method", "lora", "--precision", "bf16", "--compile")
    found = [run(capsys, *compiled), run(capsys, *compiled, "--peft-input-casts", "--optimize-ddp")]
    assert seen == [({False}, False), ({True}, True)]
    assert [one["setting"]["put_back"] for one in found] == [[], ["optimize_ddp", "peft_input_casts"]]
    assert found[0]["ours"]["first_loss"] == found[1]["ours"]["first_loss"], "the casts change no bit"


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_qlora_is_measured_on_the_weights_that_transformers_would_quantise(capsys, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    from raymill.training.models.build import four_bit_settings
    from tests.benchmarks.gpu.measure import quantise

    found = run(capsys, "--method", "qlora", "--precision", "bf16")
    assert found["setting"]["method"] == "qlora" and found["parameters"] > 139_584 > found["trainable_parameters"]
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES["tiny"]), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=four_bit_settings()
    )
    ours, theirs = dict(quantise(model).named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys() and sum(one.dtype == torch.uint8 for one in ours.values()) == 14
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_qlora_without_bitsandbytes_is_refused(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert main([*QUICK, "--method", "qlora"]) == 2
    assert capsys.readouterr().err == (
        "--method qlora: bitsandbytes is not installed here. Use pip install bitsandbytes.\n"
    )


def test_our_lack_of_memory_names_the_rows_and_what_to_do(capsys, monkeypatch):
    def measure_ours(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("tests.benchmarks.gpu.command.measure_ours", measure_ours)
    assert main(QUICK) == 2
    assert "out of memory with 2 rows of 64 tokens at once" in (said := capsys.readouterr().err)
    assert "smaller --micro-batch" in said


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_parts_alone_make_the_ceiling_and_the_costliest_kernels_their_shares(capsys, method):
    more = ["--profile"] if method == "full" else []
    found = run(capsys, "--parts", "--method", method, "--documents", "1", *more)
    parts = {part["name"]: part for part in found["parts"]["parts"]}
    counted = [part["ms"] for part in parts.values() if part["ceiling"]]
    assert [name for name, part in parts.items() if part["ceiling"]] == [
        "products of the layers", "attention, sdpa with a mask", "loss, chunks of 1,024",
    ]  # fmt: skip
    assert found["parts"]["ceiling_ms"] == pytest.approx(sum(counted))
    assert found["parts"]["ceiling_tokens_per_s"] == pytest.approx(2 * 64 / sum(counted) * 1e3)
    # q, o: 64 x 64; k, v: 64 x 32; gate, up, down: 64 x 192; of two layers. A frozen weight has no gradient.
    each = 6 if method == "full" else 4
    products = each * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192) * 2 * 64
    part = parts["products of the layers"]
    assert part["tflops_per_s"] == pytest.approx(products / part["ms"] / 1e9)
    # The first token of a document is no target.
    part, tiny = parts["loss, chunks of 1,024"], SHAPES["tiny"]
    targets = each * tiny["vocab_size"] * tiny["hidden_size"] * 2 * 63
    assert part["tflops_per_s"] == pytest.approx(targets / part["ms"] / 1e9)
    assert "ceiling     " in result_text(found)
    if method == "lora":
        return
    kernels = found["kernels"]["costliest"]
    assert len(kernels) == 10 and found["kernels"]["count"] > 10
    assert [one["ms"] for one in kernels] == sorted((one["ms"] for one in kernels), reverse=True)
    assert kernels[0]["share"] == pytest.approx(kernels[0]["ms"] / found["kernels"]["ms"])
    assert "the 10 costliest" in result_text(found)


@pytest.mark.slow
def test_the_printed_lines_name_the_formula_and_its_numbers(capsys):
    assert main(QUICK) == 0
    text = capsys.readouterr().out
    assert "tokens/s x" in text and "GFLOP/token / (1 x 0.1 TFLOP/s)" in text
    assert "139,584 of 139,584 parameters" in text


@pytest.mark.parametrize(("precision", "peak"), [("bf16", 989.4e12), ("float32", None)])
def test_a_device_known_by_name_is_known_in_bf16_alone(capsys, monkeypatch, precision, peak):
    monkeypatch.setattr("platform.processor", lambda: "NVIDIA H100 80GB HBM3")
    words = [*QUICK[: QUICK.index("--peak-tflops")], "--precision", precision]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_flops"] == peak
    assert (found["ours"]["mfu"] is None) == (peak is None)
    assert ("MFU unknown: no peak of this device in float32" in result_text(found)) == (peak is None)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "fsdp2"])
def test_it_runs_under_torchrun_and_only_the_first_worker_prints(engine):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    done = subprocess.run(
        [*command, "-m", "tests.benchmarks.gpu", *QUICK, "--json", "--engine", engine],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["setting"]["workers"] == 2
    assert found["ours"]["tokens_per_s"] == pytest.approx(2 * 2 * 64 / found["ours"]["step_s"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peer", "--engine", "zero2"], "engine ddp"),
        (["--documents", "64"], "documents=64"),
        (["--offload", "optimizer"], "only engines zero1"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(capsys, words, said):
    assert main([*QUICK, *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_are_full_packed_and_the_same_every_time():
    one, again = (random_batch((1, 2), 3, 50, 4, 320) for _ in range(2))
    assert (one.input_ids == again.input_ids).all()
    lengths = document_lengths([one])
    assert one.tokens == sum(lengths) == 150 and one.label_tokens == 150 - len(lengths)
    assert random_batch((1, 3), 3, 50, 4, 320).digest != one.digest
    assert [len(document_lengths([random_batch((n,), 3, 50, 1, 320)])) for n in range(5)] == [3] * 5


def test_numbers_of_documents_differ_from_batch_to_batch_around_their_mean():
    batches = [random_batch((number,), 4, 200, 8, 320) for number in range(100)]
    counts = [len(document_lengths([batch])) for batch in batches]
    assert len(set(counts)) > 20 and sum(counts) / 400 == pytest.approx(8, rel=0.1)
    assert {batch.starts.shape for batch in batches} == {batches[0].starts.shape}


@pytest.mark.parametrize(("shape", "parameters"), [("1b", 1_235_814_400), ("8b", 8_030_261_248)])
def test_the_named_shapes_have_the_published_sizes(shape, parameters):
    from tests.benchmarks.gpu.workload import bench_config

    config = bench_config(shape, world=1, gpus=False, sequence_length=64, micro_batch=1, accumulation=1, steps=9)
    assert shape_of(config).total == parameters
    assert config.model.config is not None and config.model.config == SHAPES[shape]
