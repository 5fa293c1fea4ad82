"""`raymill demo`: a first run on real text, without a download.

Text found on this machine (installed.py) and two small sets written for it (data/) go to OUTPUT-input, a commented
config to OUTPUT/curate.yaml, and that config through the same function as `raymill curate`. Both are written once: a
second call continues or finds the run finished, and an edited config stays as it was edited.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cluster.artifact import Artifact
from cluster.errors import ConfigError
from cluster.store import storage
from cluster.typed import command
from pipelines.curate import commands
from pipelines.curate.write_corpus import REMOVED
from pipelines.dedup.group import NEAR
from pipelines.demo.installed import FINDERS, Document, collect, packages

DATA = Path(__file__).parent / "data"
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
OUTPUT = "runs/demo"  # as CONFIG has it

_COLUMNS = ("id", "text", "package", "version", "licence")


def demo(
    output: Annotated[str, typer.Option(help="folder for the run; the collected text goes to OUTPUT-input")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="collect again and make everything anew")] = False,
) -> None:
    """Curate the documentation, licences and docstrings found on this machine, as a first run. No download."""
    if storage.is_remote(output):
        raise ConfigError(f"--output {output}: the demo reads this machine, so its folder has to be on it too.")
    config = storage.join(output, "curate.yaml")
    if replace or not storage.exists(config):
        print("Collecting text from this Python and the packages installed with it ...", flush=True)
        stage_inputs(f"{output.rstrip('/')}-input", collect(packages()))
        storage.write_bytes(config, config_text(output).encode())
    print(f"\n{command('curate', config)}\n", flush=True)
    commands.curate(config, address="local", replace=replace)
    print(f"\n{whats_next(output, config)}")


def stage_inputs(folder: str, documents: Iterable[Document]) -> None:
    """One JSON Lines file a source, empty where nothing was found, then our own sets; says what was written."""
    found: dict[str, list[bytes]] = {source: [] for source in FINDERS}
    for document in documents:
        found[document.source].append(_json_line({name: getattr(document, name) for name in _COLUMNS}))
    for source, lines in found.items():
        storage.write_bytes(storage.join(folder, f"{source}.jsonl"), b"".join(lines))
        print(f"  {source:<20}{len(lines):>7,} documents {sum(map(len, lines)) / 1e6:>6.1f} MB", flush=True)
    for file in sorted(DATA.glob("*.jsonl")):
        lines = storage.read_bytes(str(file)).splitlines(keepends=True)
        storage.write_bytes(storage.join(folder, file.name), b"".join(map(written_out, lines)))
        print(f"  {file.stem:<20}{len(lines):>7,} documents, written for this demo", flush=True)


def written_out(line: bytes) -> bytes:
    """A line of our own sets as it is read. `times` stands for a text repeated so often, which need not be shipped."""
    if b'"times": ' not in line:
        return line
    document = json.loads(line)
    document["text"] *= document.pop("times")
    return _json_line(document)


def config_text(output: str) -> str:
    """The demo's config with another output; CONFIG itself is a config for OUTPUT."""
    text = storage.read_bytes(str(CONFIG)).decode()
    # In double quotes YAML reads JSON's escapes.
    return text.replace(f'"{OUTPUT}', json.dumps(output.rstrip("/"), ensure_ascii=False)[:-1])


def whats_next(output: str, config: str) -> str:
    """Commands to go on with, each of which works as it stands but for the last one's folder."""
    corpus = storage.join(output, "corpus")
    mine = ("-o", "name=mine", "-o", "output=runs/mine", "-o", "inputs=[{path: FOLDER}]")
    steps = {
        "Why a document is gone: here it is too like another one, and differs in these words":
            command("explain", output, _near_duplicate(output)),
        "Five of those that one rule removed, with the value it saw":
            command("sample", output, "-n", "5", "--where", "reason=fineweb_line_punct"),
        "What another bound would change, from the same measurements":
            command("what-if", config, "-o", "language.min_score=0.5"),
        "What the corpus holds, and one document of it, its personal data replaced":
            command("inspect", corpus) + "\n    "
            + command("sample", corpus, "--where", "id=planted/personal_data/iban"),
        "The same for your own text: write its folder instead of FOLDER":
            command("curate", config, *mine),
    }  # fmt: skip
    return "What next:\n" + "\n".join(f"  {what}:\n    {line}" for what, line in steps.items())


def _near_duplicate(output: str) -> str:
    """The licence that differs most from the one it was removed for; without any, a document planted to be removed."""
    ledger = Artifact.load(storage.join(output, REMOVED)).tables(["id", "source", "reason", "similarity"])
    rows = (row for table in ledger for row in table.to_pylist())
    found = [(row["similarity"], row["id"]) for row in rows if (row["source"], row["reason"]) == ("licences", NEAR)]
    return min(found)[1] if found else "planted/near_duplicate/another_word"


def _json_line(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
