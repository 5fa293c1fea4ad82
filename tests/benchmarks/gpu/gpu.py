"""python -m tests.benchmarks.gpu.gpu (`make gpu`): all measurements on a GPU in half an hour, as one table.

    A  correctness: correct.py, and resume.py, a training that is killed and run again; a wrong result ends the run
    B  single parts: products, attention with few and many documents, the loss by chunks, and the ceiling they give
    C  Llama 1B, all weights: compiled or not, fsdp2, recomputing, chunks, micro-batches, one profile
    D  Llama 8B by LoRA and QLoRA, HF Trainer for comparison, the time that a checkpoint stops training

Each line is a process of its own, so that running out of memory or a crash is the result of that line only. The order
is by what decides most. The file of results is written after each line, and a later call with the same file goes on
after the last one: `--limit` bounds one call where commands are ended after some minutes. --rehearse uses tiny shapes
in this process.
"""

import argparse
import contextlib
import io
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from raymill.cluster.entry import Entry
from tests.support.versions import BENCH_NEEDS, RUN_NEEDS, TORCH, TRANSFORMERS, installed, missing

# The packages that these import may be missing.
_predicted_ms = Entry("tests.benchmarks.gpu.predict:predicted_ms")
_planned_gib = Entry("tests.benchmarks.gpu.predict:planned_gib")

# Time kept for ending a process, and for the table.
_MARGIN_S = 5.0
# The shortest time in which a line can be measured.
_SHORTEST_S = 20.0
# Limit of one process.
_LONGEST_S = 480.0
# GPU memory that holds 4 rows of 8,192 tokens of 1B in full, and 2 of 8B by LoRA (plan: 96 and 116 GiB).
_LARGE_GIB = 120.0


@dataclass(frozen=True)
class Item:
    """One process. predicted: bench/predict.py predicts its setting. needs: further packages."""

    section: str
    name: str
    module: str
    words: tuple[str, ...]
    predicted: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultRow:
    """A line of the table. verdict: ok, off, WRONG, skipped, not run, failed, or empty."""

    section: str
    name: str
    found: str
    beside: str
    verdict: str


def items(rehearse: bool, gib: float = _LARGE_GIB, jobs: str | None = None) -> list[Item]:
    """The processes, in order.

    Args:
        rehearse: with tiny shapes on the CPU.
        gib: memory of the GPU in GiB; below 120 micro-batches are halved.
        jobs: folder that `resume.py --prepare` wrote on another machine.
    """

    def bench(section: str, name: str, *words: str, predicted: bool = False, needs: tuple[str, ...] = ()) -> Item:
        return Item(section, name, "tests.benchmarks.gpu", (*words, "--json"), predicted, needs)

    full = ("--shape", "1b", "--sequence", "8192", "--steps", "10")
    lora = ("--shape", "8b", "--method", "lora", "--sequence", "8192", "--steps", "10")
    full_rows, lora_rows = (4, 2) if gib >= _LARGE_GIB else (2, 1)
    in_full, by_lora = (*full, "--micro-batch", str(full_rows)), (*lora, "--micro-batch", str(lora_rows))
    by_qlora = tuple("qlora" if word == "lora" else word for word in by_lora)
    # HF Trainer computes the logits of all positions at once, and a mask of all pairs.
    beside = ("--sequence", "4096", "--steps", "10", "--micro-batch", str(lora_rows), "--peer")
    chunk = ("--loss-chunk-tokens", "4096")
    fsdp2 = (*in_full, *chunk, "--engine", "fsdp2")
    resume = Item("A", "killed, then run again", "tests.benchmarks.gpu.resume", (), needs=RUN_NEEDS)
    found = [
        Item("A", "correct", "tests.benchmarks.gpu.correct", ()),
        # cuBLAS reads its setting at the first product of a process.
        Item("A", "deterministic", "tests.benchmarks.gpu.correct", ("--deterministic",)),
        Item("A", "paths of a training", "tests.benchmarks.gpu.correct", ("--paths",)),
        replace(resume, words=("--jobs", jobs), needs=()) if jobs else resume,
        bench("C", f"compiled, micro-batch {full_rows}, chunk 4,096", *in_full, *chunk, "--profile", predicted=True),
        bench("D", f"compiled, micro-batch {lora_rows}", *by_lora, *chunk, "--profile", predicted=True),
        bench("D", "beside HF Trainer", "--shape", "8b", "--method", "lora", *beside, *chunk),
        bench("C", "fsdp2, recomputing", *fsdp2, "--activation-checkpointing"),
        bench("C", "fsdp2, recomputing what is cheap", *fsdp2, "--activation-checkpointing", "selective"),
        bench("C", f"eager, micro-batch {full_rows}, chunk 4,096", *in_full, *chunk, "--no-compile"),
        Item("D", "a checkpoint of 1B stops training", "tests.benchmarks.gpu.stall", ("--shape", "1b")),
        bench("D", f"eager, micro-batch {lora_rows}", *by_lora, *chunk, "--no-compile"),
        bench("C", "fsdp2", *fsdp2),
        bench("C", "beside HF Trainer", "--shape", "1b", *beside, *chunk),
        bench("B", "parts, heads of 64, 4 documents", *full, "--micro-batch", "1", "--parts"),
        bench("B", "parts, heads of 128, 4 documents", *lora, "--micro-batch", "1", *chunk, "--parts"),
        bench("C", "compiled, micro-batch 1, chunk 4,096", *full, "--micro-batch", "1", *chunk, predicted=True),
        bench("C", "chunk 1,024", *in_full, "--loss-chunk-tokens", "1024"),
        bench("C", "1 document a row", *in_full, *chunk, "--documents", "1"),
        bench("C", "16 documents a row", *in_full, *chunk, "--documents", "16"),
        bench("D", "compiled, peft's input casts on", *by_lora, *chunk, "--peft-input-casts"),
        bench("C", "compiled, optimize_ddp on", *in_full, *chunk, "--optimize-ddp"),
        bench("C", "sdpa with a mask", *full, "--micro-batch", "1", *chunk, "--attention", "sdpa"),
        bench("D", f"QLoRA, micro-batch {lora_rows}", *by_qlora, *chunk, needs=("bitsandbytes",)),
        bench("C", "largest micro-batch of the memory model", *full, *chunk),
        bench("D", "largest micro-batch of the memory model", *lora, *chunk),
        bench("B", "parts, heads of 64, 16 documents", *full, "--micro-batch", "1", "--parts", "--documents", "16"),
        bench(
            "D", "beside HF Trainer compiled", "--shape", "8b", "--method", "lora", *beside, *chunk, "--peer-compiled"
        ),
    ]
    # Compiling needs a minute for each path on a CPU.
    return [_tiny(item) for item in found if "--paths" not in item.words] if rehearse else found


def _tiny(item: Item) -> Item:
    """The same item with a tiny shape on a CPU."""
    if item.module == "tests.benchmarks.gpu.correct":
        return replace(item, words=(*item.words, "--cpu", "--steps", "4"))
    if item.module == "tests.benchmarks.gpu.resume":
        return replace(item, words=(*item.words, "--cpu"))
    words = list(item.words)
    for name, value in (("--shape", "tiny"), ("--sequence", "64"), ("--steps", "1"), ("--loss-chunk-tokens", "32")):
        if name in words:
            words[words.index(name) + 1] = value
    # Compiling needs a compiler of C++, and a minute.
    words = ["--no-compile" if word == "--compile" else word for word in words]
    return replace(item, words=(*words, "--cpu"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen sections and print a line for each item and a table. Returns 1 if an item failed or was wrong."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.gpu.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", default="ABCD", help="which, as in CD")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of this call")
    parser.add_argument("--jobs", help="folder of resume.py --prepare, to resume a training without Ray")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU, in this process")
    parser.add_argument("--output", default="gpu.json", help="file of all results, also of earlier calls")
    arguments = parser.parse_args(words)
    if lacking := missing(BENCH_NEEDS):
        wanted = " ".join(lacking)
        print(f"make gpu: {', '.join(lacking)} not installed here. Use pip install {wanted}.", file=sys.stderr)
        return 2
    gib = _LARGE_GIB if arguments.rehearse else _gpu_gib()
    if not gib:
        print("make gpu: torch finds no GPU here. --rehearse goes through it with tiny shapes.", file=sys.stderr)
        return 2
    chosen = [one for one in items(arguments.rehearse, gib, arguments.jobs) if one.section in arguments.sections]
    results = run(chosen, arguments)
    lines = [ResultRow(**line) for one in results for line in one["lines"]]
    print("\n" + table(lines), flush=True)
    return 1 if any(line.verdict in ("WRONG", "failed") for line in lines) else 0


def about() -> str:
    """A line with the card, the versions of Python and packages, the supported versions and the date."""
    versions = ", ".join(
        f"{name} {installed(name) or 'not installed'}" for name in (*BENCH_NEEDS, "bitsandbytes", "deepspeed", "ray")
    )
    supported = f"supported: torch {' to '.join(TORCH)}, transformers {' to '.join(TRANSFORMERS)}"
    day = time.strftime("%Y-%m-%d")
    return f"{_card()}; python {platform.python_version()}, {versions}; {supported}; {day}"


def _card() -> str:
    """The card's name, driver, memory, power limit and highest clocks, as the driver's tool prints them."""
    if not (tool := shutil.which("nvidia-smi")):
        return "no GPU"
    names = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"
    done = subprocess.run([tool, f"--query-gpu={names}", "--format=csv,noheader"], capture_output=True, text=True)
    return done.stdout.strip().replace("\n", "; ")


def _gpu_gib() -> float:
    """Memory of the GPU in GiB; 0 if there is none."""
    # Asked in another process: this one must not use the GPU's memory.
    code = "import torch; print(torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(done.stdout or 0) / (1 << 30)


def run(wanted: Sequence[Item], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of all items that were measured by this call or by earlier ones with the same file.

    Each has the item's section and name, `about` when it was measured, the JSON that its process printed, why it
    failed, and the lines of the table, which are also printed. An item for which no time is left has none.
    """
    started = time.monotonic()
    output = Path(arguments.output)
    results: list[dict[str, Any]] = json.loads(output.read_text()) if output.exists() else []
    measured = {(one["section"], one["name"]) for one in results}
    print(here := about(), flush=True)
    for item in wanted:
        if (item.section, item.name) in measured:
            continue
        printed: list[dict[str, Any]] = []
        failed: str | None
        left = min(started + arguments.limit - time.monotonic() - _MARGIN_S, _LONGEST_S)
        if lacking := missing(item.needs):
            failed = f"not run: {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed"
        elif arguments.rehearse:
            printed, failed = _in_this_process(item)
        elif left < _SHORTEST_S:
            print(f"{item.section}  {item.name}: no time left", flush=True)
            break
        else:
            printed, failed = _in_process(item, left)
        lines = list(_lines(item, printed, failed))
        for line in lines:
            print(_row(line), flush=True)
        what = {"section": item.section, "name": item.name, "about": here, "printed": printed, "failed": failed}
        results.append(what | {"lines": [asdict(line) for line in lines]})
        output.write_text(json.dumps(results, indent=1))
        if item.section == "A" and any(line.verdict in ("WRONG", "failed") for line in lines):
            break
    return results


def _in_process(item: Item, seconds: float) -> tuple[list[dict[str, Any]], str | None]:
    """(JSON objects that a process printed, why it ended early or None)."""
    command = [sys.executable, "-m", item.module, *item.words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return _objects(output), f"ended after {seconds:.0f} s"
    printed = _objects(done.stdout)
    return printed, _why_failed(done.returncode, done.stderr, printed)


def _why_failed(code: int, err: str, printed: Sequence[dict[str, Any]]) -> str | None:
    """Why a process ended early; None if it did not. Checks exit with 1 if one of them is wrong, which is a result."""
    if code == 0 or (code == 1 and any(one.get("right") is False for one in printed)):
        return None
    reason = (err.strip().splitlines() or ["no message"])[-1][:300]
    return f"exit code {code}: {reason}"


def _in_this_process(item: Item) -> tuple[list[dict[str, Any]], str | None]:
    out, err = io.StringIO(), io.StringIO()
    name = f"{item.module}.__main__" if item.module == "tests.benchmarks.gpu" else item.module
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = import_module(name).main(list(item.words))
    printed = _objects(out.getvalue())
    return printed, _why_failed(code, err.getvalue(), printed)


def _objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _lines(item: Item, printed: Sequence[dict[str, Any]], failed: str | None) -> Iterator[ResultRow]:
    if not printed:
        reason = failed or "skipped: nothing printed"
        verdict = next((word for word in ("skipped", "not run") if reason.startswith(word)), "failed")
        yield ResultRow(item.section, item.name, reason, "", verdict)
        return
    if item.section == "A":
        for check in printed:
            verdict = {True: "ok", False: "WRONG", None: "skipped"}[check["right"]]
            yield ResultRow("A", check["name"], check["found"], check["wanted"], verdict)
        if failed:
            yield ResultRow("A", "the other checks", failed, "", "failed")
    elif item.module == "tests.benchmarks.gpu.stall":
        one = printed[-1]
        found = f"{one['first_s']:.2f} s the first time, then {one['later_s']:.2f} s"
        yield ResultRow("D", item.name, found, f"{one['gib']:.2f} GiB, written in {one['written_s']:.1f} s", "")
    else:
        yield from _bench_lines(item, printed[-1], failed)


def _bench_lines(item: Item, result: dict[str, Any], failed: str | None) -> Iterator[ResultRow]:
    ours, setting = result["ours"], result["setting"]
    mfu = f", MFU {ours['mfu']:.1%} (whole rows {ours['mfu_whole_rows']:.1%})" if ours["mfu"] else ""
    found = f"{ours['tokens_per_s']:,.0f} tokens/s, {1e3 * ours['step_s']:,.0f} ms{mfu}, {ours['attention']}"
    yield ResultRow(item.section, item.name, found, _prediction(item, result), "")
    gib, planned = ours["peak_memory_gib"], _planned_gib(setting)
    yield ResultRow(
        item.section, f"  memory, micro-batch {setting['micro_batch']}", f"{gib:.2f} GiB", f"plan: {planned:.2f} GiB",
        "" if "--cpu" in item.words else "ok" if 0.9 < gib / planned < 1.1 else "off",
    )  # fmt: skip
    beside: list[tuple[str, str, str]] = []
    if result["parts"]:
        for part in result["parts"]["parts"]:
            beside.append((part["name"], f"{part['ms']:.2f} ms", f"{part['tflops_per_s']:.1f} TFLOP/s"))
        ceiling = result["parts"]["ceiling_tokens_per_s"]
        beside.append(("ceiling", f"{ceiling:,.0f} tokens/s", f"reached: {ours['tokens_per_s'] / ceiling:.0%}"))
    for kernel in result["kernels"]["costliest"] if result["kernels"] else ():
        beside.append((kernel["name"][:60], f"{kernel['ms']:.2f} ms a step", f"{kernel['share']:.1%}"))
    if result["peer_failed"] or result["peer"]:
        peer = result["peer_failed"] or f"{result['peer']['tokens_per_s']:,.0f} tokens/s"
        beside.append(("HF Trainer", peer, f"ours is {result['ratio']:.2f} times as fast" if result["ratio"] else ""))
    for name, number, other in beside:
        yield ResultRow(item.section, f"  {name}", number, other, "")
    if failed:
        # The results of a process that ran out of time are whole; those of one that crashed are not.
        yield ResultRow(item.section, "  and then", failed, "", "failed" if failed.startswith("exit code") else "")


def _prediction(item: Item, result: dict[str, Any]) -> str:
    """The predicted time of the item's setting; empty if it is not predicted."""
    setting = result["setting"]
    return _predicted_ms(setting, result["device"], setting["shape"] == "tiny") if item.predicted else ""


def _row(line: ResultRow) -> str:
    return f"{line.section}  {line.name:<64}{line.found:<64}{line.beside:<44}{line.verdict}".rstrip()


def table(lines: Sequence[ResultRow]) -> str:
    """The lines as a Markdown table."""
    cells = [(line.section, line.name.strip(), line.found, line.beside, line.verdict) for line in lines]
    rows = [f"| {' | '.join(one)} |" for one in cells]
    return "\n".join(["| | what | found | beside | |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.exit(main())
