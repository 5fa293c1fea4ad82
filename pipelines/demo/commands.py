"""The verb `demo`: a first run of `raymill curate` on real text, without a download.

It writes text found on this machine (installed.py) and small sets written for the demo (data/) to OUTPUT-input, and a
commented config to OUTPUT/curate.yaml; then it curates with that config. Input and config are written once: a second
call continues the run or finds it finished, and edits of the config remain.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from raymill.cluster.artifact import Artifact
from raymill.cluster.cli import shell_command
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import ShownProgress, run_of
from raymill.cluster.frame.commands import make_and_print
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.job import CurateRun
from raymill.pipelines.curate.stages.write_corpus import REMOVED
from raymill.pipelines.dedup.compare import NEAR
from raymill.pipelines.demo.installed import FINDERS, InstalledDocument, collect, packages

DATA = Path(__file__).parent / "data"
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
OUTPUT = "runs/demo"  # the output in CONFIG

_COLUMNS = ("id", "text", "package", "version", "licence")


def demo(
    output: Annotated[str, typer.Option(help="folder for the run; the collected text goes to OUTPUT-input")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="collect and curate everything again")] = False,
) -> None:
    """Curate the documentation, licences and docstrings found on this machine, as a first run. No download."""
    config = write_demo(output, replace, partial(print, flush=True))
    print(f"\n{shell_command('curate', config)}\n", flush=True)
    make_and_print("curate", config, address="local", replace=replace)
    print(f"\n{next_steps(output, config)}")


def run_demo(output: str = OUTPUT, replace: bool = False, progress: ShownProgress = None) -> CurateRun:
    """Curate the documentation, licences and docstrings found on this machine, as a first run. No download.

    Args:
        output: folder for the run; the collected text goes to OUTPUT-input.
        replace: collect and curate everything again.
        progress: as of `raymill.curate`.
    """
    config = write_demo(output, replace, chosen_progress(progress).say)
    return run_of("curate", config, address="local", replace=replace, progress=progress)


def write_demo(output: str, replace: bool, say: Callable[[str], object]) -> str:
    """Write the input and the config, unless they are there. Returns the path of the config. say: shows a line.

    Raises:
        ConfigError: the output is not on this machine.
    """
    if paths.is_remote(output):
        raise ConfigError(
            f"--output {output}: the demo collects text of this machine and writes it beside the output, so that "
            "has to be a folder on this machine. Give a local path."
        )
    config, store = paths.join(output, "curate.yaml"), Store()
    if replace or not store.exists(config):
        say("Collecting text from this Python and the packages installed with it ...")
        stage_inputs(f"{output.rstrip('/')}-input", collect(packages()), say)
        store.write_bytes(config, config_text(output).encode())
    return config


def stage_inputs(folder: str, documents: Iterable[InstalledDocument], say: Callable[[str], object] = print) -> None:
    """Write one JSON Lines file per source of `documents`, and the demo's own sets. say: shows their sizes.

    The file of a source without documents is empty.
    """
    store = Store()
    found: dict[str, list[bytes]] = {source: [] for source in FINDERS}
    for document in documents:
        found[document.source].append(_json_line({name: getattr(document, name) for name in _COLUMNS}))
    for source, lines in found.items():
        store.write_bytes(paths.join(folder, f"{source}.jsonl"), b"".join(lines))
        say(f"  {source:<20}{len(lines):>7,} documents {sum(map(len, lines)) / 1e6:>6.1f} MB")
    for file in sorted(DATA.glob("*.jsonl")):
        lines = store.read_bytes(str(file)).splitlines(keepends=True)
        store.write_bytes(paths.join(folder, file.name), b"".join(map(expand_repeated, lines)))
        say(f"  {file.stem:<20}{len(lines):>7,} documents, written for this demo")


def expand_repeated(line: bytes) -> bytes:
    """A line of the demo's own sets with its text repeated `times` times, if it has that key."""
    if b'"times": ' not in line:
        return line
    document = json.loads(line)
    document["text"] *= document.pop("times")
    return _json_line(document)


def config_text(output: str) -> str:
    """CONFIG with its output and inputs at another path."""
    text = Store().read_bytes(str(CONFIG)).decode()
    # YAML in double quotes accepts the escapes of JSON.
    return text.replace(f'"{OUTPUT}', json.dumps(output.rstrip("/"), ensure_ascii=False)[:-1])


def next_steps(output: str, config: str) -> str:
    """Commands to continue with, as text. Each works as printed, except for the folder in the last one."""
    corpus = paths.join(output, "corpus")
    mine = ("-o", "name=mine", "-o", "output=runs/mine", "-o", "inputs=[{path: FOLDER}]")
    steps = {
        "Why a document was removed: this one is a near-duplicate, and these words differ":
            shell_command("explain", output, _near_duplicate(output)),
        "Five documents that one rule removed, with the value it measured":
            shell_command("sample", output, "-n", "5", "--where", "reason=line_punct_ratio"),
        "What another bound would change, decided from the same measurements":
            shell_command("what-if", config, "-o", "language.min_score=0.5"),
        "What the corpus holds, and one document of it with its personal data replaced":
            shell_command("inspect", corpus) + "\n    "
            + shell_command("sample", corpus, "--where", "id=planted/personal_data/iban"),
        "The same for your own text: put its folder in place of FOLDER":
            shell_command("curate", config, *mine),
    }  # fmt: skip
    return "What next:\n" + "\n".join(f"  {what}:\n    {line}" for what, line in steps.items())


def _near_duplicate(output: str) -> str:
    """Id of the removed licence that is least similar to its kept partner; without any, of a planted document."""
    ledger = Artifact.load(Store(), paths.join(output, REMOVED)).tables(["id", "source", "reason", "similarity"])
    rows = (row for table in ledger for row in table.to_pylist())
    found = [(row["similarity"], row["id"]) for row in rows if (row["source"], row["reason"]) == ("licences", NEAR)]
    return min(found)[1] if found else "planted/near_duplicate/another_word"


def _json_line(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
