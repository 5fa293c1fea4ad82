"""The verb `prepare-demo`: a first run of `raymill prepare`, without a download.

It writes its inputs to OUTPUT-input: tickets, chats, notes and orders of an invented help desk, of which the last ones
have a defect each (data/helpdesk), and docstrings of Python's standard library as questions and answers. It writes
three commented configs and prepares a data set with each:

    OUTPUT          questions and answers of all sources; most rules
    OUTPUT-next     those of the next month: earlier records stay in their split, and duplicates are removed
    OUTPUT-orders   rows of a table to answers in JSON, split by time

Inputs and configs are written once: a second call continues the runs or finds them finished, and edits of the configs
remain.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from raymill.cluster.cli import shell_command
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import ShownProgress, run_of
from raymill.cluster.frame.commands import make_and_print
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.demo.installed import CollectionLimits, collect, standard_library
from raymill.pipelines.prepare.job import PrepareRun

DATA = Path(__file__).parent / "data" / "helpdesk"
_CONFIGS = Path(__file__).parents[1] / "configs"
# What an output's name ends with -> its config.
CONFIGS = {
    "": _CONFIGS / "prepare_demo.yaml",
    "-next": _CONFIGS / "prepare_demo_next.yaml",
    "-orders": _CONFIGS / "prepare_demo_orders.yaml",
}
OUTPUT = "runs/prepare-demo"  # the output in the first of CONFIGS
_DOCSTRINGS = 200


def prepare_demo(
    output: Annotated[str, typer.Option(help="folder for the run; its input goes to OUTPUT-input")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="write the input and prepare everything again")] = False,
) -> None:
    """Prepare data sets of a help desk's tickets with planted defects, and of docstrings of Python. No download."""
    for config in write_prepare_demo(output, replace):
        print(f"{shell_command('prepare', config)}\n", flush=True)
        make_and_print("prepare", config, address="local", replace=replace)
        print(flush=True)
    print(next_steps(output.rstrip("/")))


def run_prepare_demo(output: str = OUTPUT, replace: bool = False, progress: ShownProgress = None) -> list[PrepareRun]:
    """Prepare data sets of a help desk's tickets with planted defects, and of docstrings of Python. No download.

    Args:
        output: folder for the run; its input goes to OUTPUT-input.
        replace: write the input and prepare everything again.
        progress: as of `raymill.prepare`.
    """
    configs = write_prepare_demo(output, replace)
    return [run_of("prepare", config, address="local", replace=replace, progress=progress) for config in configs]


def write_prepare_demo(output: str, replace: bool) -> list[str]:
    """Write the input and the configs, unless they are there. Returns the paths of the configs.

    Raises:
        ConfigError: the output is not on this machine.
    """
    if paths.is_remote(output):
        raise ConfigError(
            f"--output {output}: the demo writes its input beside the output, so that has to be a folder on this "
            "machine. Give a local path."
        )
    output, store = output.rstrip("/"), Store()
    configs = {end: paths.join(f"{output}{end}", "prepare.yaml") for end in CONFIGS}
    if replace or not all(map(store.exists, configs.values())):
        write_inputs(f"{output}-input")
        for end, config in configs.items():
            store.write_bytes(config, config_text(output, end).encode())
    return list(configs.values())


def write_inputs(folder: str) -> None:
    """Write the files of the help desk, and questions about Python's standard library."""
    store = Store()
    for file in sorted(DATA.iterdir()):
        store.write_bytes(paths.join(folder, file.name), store.read_bytes(str(file)))
    lines = (json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in questions())
    store.write_bytes(paths.join(folder, "python.jsonl"), b"".join(lines))


def questions() -> Iterator[dict[str, str]]:
    """A record for each of some docstrings: `id`, `question`, `answer`, `queue`, `module` and `created`."""
    bounds = CollectionLimits(docstrings_of_package=2000, source_chars_of_package=8_000_000)
    found = (one for one in collect([standard_library()], bounds) if one.source == "docstrings")
    docstrings = (one for one in found if "/_" not in one.id and "#_" not in one.id and "#module" not in one.id)
    for one in islice(docstrings, _DOCSTRINGS):
        file, _, name = one.id.removeprefix("python/").partition("#")
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        yield {
            "id": one.id,
            "question": f"What does {module}.{name} do?",
            "answer": one.text,
            "queue": "python",
            "module": module,
            "created": "2026-01-01",
        }


def config_text(output: str, end: str = "") -> str:
    """One of CONFIGS with its output and inputs at another path."""
    text = Store().read_bytes(str(CONFIGS[end])).decode()
    # YAML in double quotes accepts the escapes of JSON.
    return text.replace(f'"{OUTPUT}', json.dumps(output, ensure_ascii=False)[:-1])


def next_steps(output: str) -> str:
    """Commands to continue with, as text. Each works as printed."""
    steps = {
        "Why records were removed, with what was seen and wanted":
            shell_command("sample", paths.join(output, "removed"), "-n", "5"),
        "The records of one split":
            shell_command("sample", paths.join(output, "train"), "-n", "3"),
        "A name for this version, and a card that describes it":
            shell_command("dataset", "tag", "helpdesk", output)
            + "\n    " + shell_command("dataset", "card", "helpdesk"),
        "The gates as an exit status, for CI":
            shell_command("assess", output, "--gate"),
    }  # fmt: skip
    return "What next:\n" + "\n".join(f"  {what}:\n    {line}" for what, line in steps.items())
