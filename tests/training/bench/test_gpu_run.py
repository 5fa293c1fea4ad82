"""`make gpu`, rehearsed on the CPU with tiny shapes and without the packages that a GPU machine's image may lack."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu import gpu

ROOT = Path(__file__).parents[3]

# A package that is None in sys.modules can be neither imported nor found.
WITHOUT = """
import sys, importlib.metadata as metadata
absent = sys.argv[1].split(",")
sys.modules.update(dict.fromkeys(absent))
known = metadata.version
def version(name):
    if name in absent:
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.version = version
from tests.benchmarks.gpu.gpu import main
sys.exit(main(sys.argv[2:]))
"""


def without(packages: str, *words: str) -> subprocess.CompletedProcess:
    # bf16 products end the process on CPUs that lack these instructions.
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    command = [sys.executable, "-c", WITHOUT, packages, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("sections", ["AD", "ABCD"])
def test_it_runs_with_tiny_shapes_and_without_what_an_image_may_lack(sections, tmp_path):
    """Ray and DeepSpeed, stores and the command line, what fits tokenizers and what curation needs."""
    lacking = "ray,deepspeed,bitsandbytes,boto3,obstore,typer,datasets,numba,tensorboard,sacrebleu,datasketch"
    done = without(lacking, "--rehearse", "--sections", sections, "--output", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert all("bitsandbytes not installed, deepspeed not installed, ray not" in one["about"] for one in results)
    lines = [line for one in results for line in one["lines"]]
    assert {line["section"] for line in lines} == set(sections)
    right = [line for line in lines if line["verdict"] == "ok"]
    assert len(right) == 14  # of 18 checks: four are the kernel's, which needs a GPU
    assert [line["name"] for line in lines if line["verdict"] in ("WRONG", "failed")] == []
    assert len(results) == len([item for item in gpu.items(True) if item.section in sections])
    not_run = {line["name"]: line["found"] for line in lines if line["verdict"] == "not run"}
    assert not_run.pop("QLoRA, micro-batch 2") == "not run: bitsandbytes is not installed"
    assert not_run.pop("killed, then run again") == ("not run: ray, typer, obstore, boto3 are not installed")
    assert not not_run
    names = [line["name"].strip() for line in lines]
    assert {"HF Trainer", "a checkpoint of 1B stops training"} <= set(names)
    assert ({"ceiling", "products of the layers", "fsdp2"} <= set(names)) == ("C" in sections)
    assert done.stdout.count("| D | HF Trainer |") == 2 and "| A | float32: fused" in done.stdout


def test_it_names_what_it_needs_and_that_there_is_no_gpu(tmp_path):
    done = without("pydantic,peft")
    assert (done.returncode, done.stderr) == (
        2, "make gpu: peft, pydantic not installed here. Use pip install peft pydantic.\n",
    )  # fmt: skip


def test_what_is_wrong_ends_the_run_before_anything_is_measured(monkeypatch, tmp_path):
    def here(item):
        return [{"name": "losses", "found": "3.0", "wanted": "1.0", "right": item.section != "A"}], None

    monkeypatch.setattr(gpu, "_in_this_process", here)
    arguments = argparse.Namespace(rehearse=True, limit=1800.0, output=str(tmp_path / "first.json"))
    [result] = gpu.run(gpu.items(True), arguments)
    assert [(line["section"], line["verdict"]) for line in result["lines"]] == [("A", "WRONG")]
    assert gpu.main(["--rehearse", "--output", str(tmp_path / "gpu.json")]) == 1


def test_a_process_that_takes_too_long_or_crashes_is_its_lines_result():
    slow = gpu.Item("C", "slow", "timeit", ("-n", "1", "-r", "1", "import time; time.sleep(60)"))
    assert gpu._in_process(slow, 0.5) == ([], "ended after 0 s")
    printed, failed = gpu._in_process(gpu.Item("C", "crash", "no.such.module", ()), 60)
    assert printed == [] and "no" in (failed or "")
    [line] = gpu._lines(slow, printed, failed)
    assert line.verdict == "failed"


CHECK = {"name": "losses", "found": "3.0", "wanted": "3.0", "right": True}


@pytest.mark.parametrize(
    ("code", "right", "verdicts"),
    [
        ("0", True, ["ok"]),
        ("1", False, ["WRONG"]),
        ("1", True, ["ok", "failed"]),
        ("-6", True, ["ok", "failed"]),
        ("2", False, ["WRONG", "failed"]),
    ],
)
def test_a_crash_after_some_checks_is_a_failure(tmp_path, code, right, verdicts, monkeypatch):
    printed = json.dumps(CHECK | {"right": right})
    (tmp_path / "crashing.py").write_text(f"import os\nprint({printed!r}, flush=True)\nos._exit({code} % 256)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    item = gpu.Item("A", "correct", "crashing", ())
    printed_by, failed = gpu._in_process(item, 60)
    assert [line.verdict for line in gpu._lines(item, printed_by, failed)] == verdicts


def test_micro_batches_are_those_that_fit_the_card():
    for gib, full, lora in ((79.1, "2", "1"), (139.8, "4", "2")):
        words = {item.name: item.words for item in gpu.items(False, gib)}
        pairs = (
            (f"compiled, micro-batch {full}, chunk 4,096", full),
            (f"compiled, micro-batch {lora}", lora),
        )
        for name, rows in pairs:
            assert words[name][words[name].index("--micro-batch") + 1] == rows


def test_the_deterministic_check_has_a_process_of_its_own():
    checks = [item.words for item in gpu.items(False) if item.module == "tests.benchmarks.gpu.correct"]
    assert checks == [(), ("--deterministic",), ("--paths",)]


def test_a_call_ends_at_its_limit_and_the_next_one_goes_on(monkeypatch, tmp_path):
    began: list[str] = []

    def measured(item, seconds):
        began.append(f"{item.name}, {seconds:.0f} s")
        return [], "exit code 1: out of memory"

    monkeypatch.setattr(gpu, "_in_process", measured)
    chosen = [one for one in gpu.items(False) if one.section == "B"]
    output = str(tmp_path / "gpu.json")
    none = argparse.Namespace(rehearse=False, limit=24.0, output=output)
    assert gpu.run(chosen, none) == [] and not began
    first = gpu.run(chosen[:1], argparse.Namespace(rehearse=False, limit=65.0, output=output))
    assert began == [f"{chosen[0].name}, 60 s"] and json.loads(Path(output).read_text()) == first
    both = gpu.run(chosen, argparse.Namespace(rehearse=False, limit=1800.0, output=output))
    assert began[1:] == [f"{one.name}, 480 s" for one in chosen[1:]]
    assert [one["name"] for one in both] == [one.name for one in chosen]


def test_a_machine_without_ray_resumes_the_jobs_that_another_one_prepared(tmp_path):
    resumed = [one for one in gpu.items(False, jobs="/jobs") if one.module.endswith("resume")]
    assert [(one.words, one.needs) for one in resumed] == [(("--jobs", "/jobs"), ())]


@pytest.mark.parametrize("item", gpu.items(False), ids=lambda item: f"{item.section}-{item.name}")
def test_every_line_of_the_real_run_is_a_command_that_parses(item):
    if item.module == "tests.benchmarks.gpu":
        from tests.benchmarks.gpu.command import parser

        assert parser().parse_args(item.words).shape in ("1b", "8b")
