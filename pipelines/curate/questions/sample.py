"""`raymill sample`: random rows of an artifact, or of its rows with given values."""

import json
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of
from raymill.cluster.frame.job import Run
from raymill.cluster.inspection import RunConfig, StorageOverrides, shortened, store_for
from raymill.cluster.readers.inputs import Input
from raymill.cluster.sampling import draw_rows
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.stages.write_corpus import REMOVED

_TEXT_SHOWN = 500  # characters


def print_sample(
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
    for row in sample(artifact, rows, where or (), text=text, seed=seed, config=config, override=override):
        print(json.dumps(shown_row(row), ensure_ascii=False, default=str))


def sample(
    artifact: str | os.PathLike[str] | Run | Artifact,
    rows: int = 5,
    where: Sequence[str] = (),
    *,
    text: bool = False,
    seed: int = 1,
    config: AnyConfig = None,
    override: Changes = None,
) -> list[dict]:
    """A random sample of an artifact's rows; of a run, of its ledger.

    Args:
        artifact: folder or URI of an artifact, or of a run; or what is open already.
        rows: the most rows.
        where: conditions `COLUMN=VALUE` (or <, <=, >, >=, !=) and `COLUMN in VALUE,VALUE`, all of which a row meets.
        text: with the texts of the documents of a ledger, read again from the inputs.
        seed: random seed; the same seed gives the same rows.
        config: the run's config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        ConfigError: there is no such column, no row meets the conditions, or there are no texts to read.
    """
    with store_for(artifact, config, override) as (store, uri):
        inputs = config_of(config, None, override, "curate").inputs if config is not None and text else ()
        return sample_rows(store, uri, rows, where, seed, inputs if text else None)


def sample_rows(
    store: Store, uri: str, count: int, where: Sequence[str], seed: int, texts_from: Sequence[Input] | None = None
) -> list[dict]:
    """A uniform sample without replacement, the same for the same seed.

    Args:
        uri: of an artifact, or of a run, whose ledger is then sampled.
        count, where: as of `raymill.cluster.sampling.draw_rows`.
        texts_from: inputs of the run's config. The rows of a ledger then have the text of the document, read again; ()
            takes the storage that the run recorded. None: without text.

    Raises:
        ConfigError: there is no such column, no row meets the conditions, or there are no texts to read.
    """
    artifact = Artifact.find(store, paths.join(uri, REMOVED)) or Artifact.load(store, uri)
    if texts_from is not None and "position" not in artifact.schema.names:
        raise ConfigError(f"{artifact.uri}: --text reads the texts of a run's ledger again. Give the run.")
    rows = draw_rows(artifact, count, where, seed)
    if texts_from is not None:
        run = RunReader(store, artifact.uri.rpartition("/")[0], texts_from)
        rows = [row | {"text": run.text_of(run.document_at(row["position"]))} for row in rows]
    return rows


def shown_row(row: dict) -> dict:
    """A row with long values shortened, as it is printed."""
    return {name: shortened(value, _TEXT_SHOWN) for name, value in row.items()}
