"""The verbs `raymill what-if`, `explain` and `sample`."""

import json
from typing import Annotated

import typer

from cluster.frame.commands import Address, ConfigFile, Overrides, load_of_kind
from cluster.inspection import RunConfig, StorageOverrides, store_for
from cluster.progress import ProgressLines
from cluster.session import Session
from pipelines.curate.questions.explain import explain as explain_document
from pipelines.curate.questions.run_reader import RunReader
from pipelines.curate.questions.sample import sample_rows
from pipelines.curate.questions.what_if import compare_decisions, table_text


def what_if(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    sample: Annotated[int | None, typer.Option(min=1, help="number of documents to decide on; default: all")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare a run with other settings: the number of documents that each rule would remove. Writes nothing.

    More than a million documents are decided on Ray; other settings of `dedup` start Ray on this machine.
    """
    # `output` and `storage` overrides also apply to the run being compared.
    location = [one for one in override or [] if one.partition("=")[0].split(".")[0] in ("output", "storage")]
    before = load_of_kind("curate", config, location)
    after = load_of_kind("curate", config, override)
    with Session(address, after.execution.cpus, ProgressLines()) as session:
        comparison = compare_decisions(before, after, session, sample)
    print(json.dumps(comparison, indent=1) if json_ else table_text(comparison))


def explain(
    run: Annotated[str, typer.Argument(help="folder or URI of a run")],
    id: Annotated[str, typer.Argument(help="the document's id")],
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """One document: the rule that removed it, or a word diff with the document it duplicates; then its measurements."""
    settings = None if config is None else load_of_kind("curate", config, override)
    with store_for(run, config, override) as (store, uri):
        print(explain_document(RunReader(store, uri, settings.inputs if settings else ()), id))


def sample(
    artifact: Annotated[str, typer.Argument(help="folder or URI of an artifact, or of a run (its ledger)")],
    rows: Annotated[int, typer.Option("-n", min=1, help="how many")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE (or <, <=, >, >=, !=), COLUMN in VALUE,VALUE; may be repeated"),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="show the texts of a ledger, read again from the inputs")
    ] = False,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """A random sample of an artifact's rows, as JSON lines; of a run, of its ledger."""
    with store_for(artifact, config, override) as (store, uri):
        inputs = load_of_kind("curate", config, override).inputs if config and text else ()
        for row in sample_rows(store, uri, rows, where or [], seed, inputs if text else None):
            print(json.dumps(row, ensure_ascii=False, default=str))
