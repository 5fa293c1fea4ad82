"""The verb `raymill tune-demo`: two trainings of a tiny model on the corpus of `raymill demo`, without a download.

The commented configs OUTPUT/tune-lora.yaml and OUTPUT/tune-full.yaml are written once and passed to `raymill train`. A
second call continues or finds the runs finished, and keeps configs that were edited. Both runs share the packed rows.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.artifact import Artifact
from cluster.cli import shell_command
from cluster.errors import UserError
from cluster.formats import duration, share
from cluster.frame.commands import load_of_kind, make_and_print
from cluster.store import paths
from cluster.store.store import Store
from training.report.text import exported_validation

CONFIGS = Path(__file__).parent / "configs"
OUTPUT = "runs/demo"  # the output in the shipped configs
RUNS = {"lora": "LoRA", "full": "all weights"}


def tune_demo(
    output: Annotated[str, typer.Option(help="the folder of `raymill demo`; the trainings go below it")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="write the configs again and train anew")] = False,
) -> None:
    """Fine-tune a tiny model with random weights on the demo's corpus: with LoRA, then in full. No download."""
    corpus, store = paths.join(output, "corpus"), Store()
    if Artifact.find(store, corpus) is None:
        first = shell_command("demo", *([] if output == OUTPUT else ["--output", output]))
        raise UserError(f"{corpus}: there is no finished corpus here, and this demo trains on it. Run `{first}` first.")
    for run in RUNS:
        config = _config(output, run)
        if replace or not store.exists(config):
            store.write_bytes(config, config_text(run, output).encode())
        print(f"\n{shell_command('train', config)}\n", flush=True)
        make_and_print("train", load_of_kind("train", config), "local", replace=replace)
    reports = {run: json.loads(store.read_bytes(paths.join(_folder(output, run), "report.json"))) for run in RUNS}
    print(f"\n{comparison(reports)}\n\n{whats_next(output)}")


def config_text(run: str, output: str) -> str:
    """The text of a shipped config with its output replaced."""
    text = Store().read_bytes(str(CONFIGS / f"demo-{run}.yaml")).decode()
    # In double quotes YAML reads JSON's escapes.
    return text.replace(f'"{OUTPUT}', json.dumps(output.rstrip("/"), ensure_ascii=False)[:-1])


def comparison(reports: dict[str, dict[str, Any]]) -> str:
    """A table of the runs: validation loss and perplexity before and after, share of trained parameters, time."""
    head = ("validation loss", "before", "after", "perplexity", "trained", "time")
    rows = [head, *(_row(RUNS[run], report["fits"][0]) for run, report in reports.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in rows
    ]
    return "\n".join(lines)


def _row(name: str, fit: dict[str, Any]) -> tuple[str, ...]:
    first, best = fit["validation"][0], exported_validation(fit)  # type: ignore[arg-type]
    assert best is not None
    totals = fit["totals"]
    return (
        name,
        f"{first['loss']:.3f}",
        f"{best['loss']:.3f}",
        f"{first['perplexity']:,.0f} -> {best['perplexity']:,.0f}",
        share(totals["trainable_parameters"], totals["all_parameters"]),
        duration(totals["seconds"]),
    )


def whats_next(output: str) -> str:
    """Commands to try next. Each can be run as printed, except that the last needs a folder."""
    lora, full = (_config(output, run) for run in RUNS)
    zero = ("-o", "name=demo-zero2", "-o", "engine=zero2", "-o", f"output={paths.join(output, 'tune-zero2')}")
    own = ("-o", "name=mine", "-o", "output=runs/mine", "-o", "packed=runs/mine/packed", "-o", "corpus=FOLDER")
    steps = {
        "Curves, data and numbers, in a browser":
            "\n    ".join(paths.join(_folder(output, run), "report.html") for run in RUNS),
        "Documents as the model sees them, and which tokens the loss counts":
            shell_command("pack", full, "--preview", "3"),
        "What a training would take in steps, memory and time, without starting it":
            shell_command("plan", full),
        "The same losses from DeepSpeed, whose workers share the optimizer's state and the gradients":
            shell_command("train", full, *zero),
        "The same on your own corpus: write its folder instead of FOLDER":
            shell_command("train", lora, *own),
    }  # fmt: skip
    return "What next:\n" + "\n".join(f"  {what}:\n    {line}" for what, line in steps.items())


def _config(output: str, run: str) -> str:
    return paths.join(output, f"tune-{run}.yaml")


def _folder(output: str, run: str) -> str:
    return paths.join(output, f"tune-{run}")
