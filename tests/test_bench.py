"""`python -m training.bench`: it runs on a CPU without Ray or data, and its numbers follow from each other."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.bench.__main__ import main
from training.bench.rows import document_lengths, random_batch
from training.bench.shapes import SHAPES
from training.bench.text import result_text
from training.plan.shape import shape_of

ROOT = Path(__file__).parents[1]
QUICK = ["--cpu", "--shape", "tiny", "--sequence", "64", "--micro-batch", "2", "--steps", "2", "--peak-tflops", "0.1"]


def run(capsys, *words: str) -> dict:
    assert main([*QUICK, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_rate_the_mfu_and_the_ratio_follow_from_the_times(capsys):
    found = run(capsys, "--accumulation", "2", "--peer")
    ours, peer = found["ours"], found["peer"]
    assert len(ours["seconds"]) == len(peer["seconds"]) == found["steps"] == 2
    assert ours["tokens_per_s"] == pytest.approx(2 * 2 * 64 / ours["step_s"])
    assert ours["mfu"] == pytest.approx(ours["tokens_per_s"] * found["flops_per_token"] / 0.1e12)
    assert found["ratio"] == pytest.approx(ours["tokens_per_s"] / peer["tokens_per_s"])
    assert found["parameters"] == found["trainable_parameters"] == 139_584


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_peer_computes_the_same_model_on_the_same_rows(capsys, method):
    """Else the comparison would mean nothing: equal weights and equal data show in an equal first loss."""
    found = run(capsys, "--method", method, "--peer")
    assert found["ours"]["first_loss"] == pytest.approx(found["peer"]["first_loss"], rel=1e-4)


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
    assert ("MFU not known: no peak of this device in float32" in result_text(found)) == (peak is None)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "fsdp2"])
def test_it_runs_under_torchrun_and_only_the_first_worker_prints(engine):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    done = subprocess.run(
        [*command, "-m", "training.bench", *QUICK, "--json", "--engine", engine],
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
        (["--documents", "64"], "--documents 64"),
        (["--offload", "optimizer"], "only engines zero1"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(capsys, words, said):
    assert main([*QUICK, *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_are_full_packed_and_the_same_every_time():
    one, again = (random_batch((1, 2), 3, 50, 4, 320) for _ in range(2))
    assert (one.input_ids == again.input_ids).all()
    assert one.tokens == 150 and one.label_tokens == 150 - 3 * 4
    lengths = document_lengths([one])
    assert len(lengths) == 12 and sum(lengths) == 150
    assert random_batch((1, 3), 3, 50, 4, 320).digest != one.digest


@pytest.mark.parametrize(("shape", "parameters"), [("1b", 1_235_814_400), ("8b", 8_030_261_248)])
def test_the_named_shapes_have_the_published_sizes(shape, parameters):
    from training.bench.shapes import bench_config

    config = bench_config(shape, world=1, gpus=False, sequence_length=64, micro_batch=1, accumulation=1, steps=9)
    assert shape_of(config).total == parameters
    assert config.model.config is not None and config.model.config == SHAPES[shape]
