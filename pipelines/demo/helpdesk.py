"""The verb `prepare-demo`: a first run of `raymill prepare`, without a download.

It writes two inputs to OUTPUT-input: tickets of an invented help desk, the last of which have one defect each
(data/helpdesk), and docstrings of Python's standard library as questions and answers. It writes a commented config to
OUTPUT/prepare.yaml and prepares a data set with it. Input and config are written once: a second call continues the run
or finds it finished, and edits of the config remain.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import shell_command
from cluster.errors import ConfigError
from cluster.store import paths
from cluster.store.store import Store
from pipelines.demo.installed import Bounds, collect, standard_library
from pipelines.prepare import commands

DATA = Path(__file__).parent / "data" / "helpdesk"
CONFIG = Path(__file__).parents[1] / "configs" / "prepare_demo.yaml"
OUTPUT = "runs/prepare-demo"  # the output in CONFIG
_DOCSTRINGS = 200


def prepare_demo(
    output: Annotated[str, typer.Option(help="folder for the run; its input goes to OUTPUT-input")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="write the input and prepare everything again")] = False,
) -> None:
    """Prepare a data set of a help desk's tickets with planted defects, and of docstrings of Python. No download."""
    if paths.is_remote(output):
        raise ConfigError(
            f"--output {output}: the demo writes its input beside the output, so that has to be a folder on this "
            "machine. Give a local path."
        )
    config, store = paths.join(output, "prepare.yaml"), Store()
    if replace or not store.exists(config):
        write_inputs(f"{output.rstrip('/')}-input")
        store.write_bytes(config, config_text(output).encode())
    print(f"{shell_command('prepare', config)}\n", flush=True)
    commands.prepare(config, address="local", replace=replace)
    print(f"\n{next_steps(output)}")


def write_inputs(folder: str) -> None:
    """Write the tickets, the list of bad words, and questions about Python's standard library."""
    store = Store()
    for file in sorted(DATA.iterdir()):
        store.write_bytes(paths.join(folder, file.name), store.read_bytes(str(file)))
    lines = (json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in questions())
    store.write_bytes(paths.join(folder, "python.jsonl"), b"".join(lines))


def questions() -> Iterator[dict[str, str]]:
    """A record for each of some docstrings: `id`, `question`, `answer`, `queue`, `module` and `created`."""
    bounds = Bounds(docstrings_of_package=2000, source_chars_of_package=8_000_000)
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


def config_text(output: str) -> str:
    """CONFIG with its output and inputs at another path."""
    text = Store().read_bytes(str(CONFIG)).decode()
    # YAML in double quotes accepts the escapes of JSON.
    return text.replace(f'"{OUTPUT}', json.dumps(output.rstrip("/"), ensure_ascii=False)[:-1])


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
