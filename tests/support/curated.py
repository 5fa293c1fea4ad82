"""A table of documents curated without Ray, to compare what other code makes of the same table."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.decide import VERDICTS
from raymill.pipelines.dedup.group import GROUPS
from tests.support.inline import curate_inline


@dataclass(frozen=True)
class Curated:
    """What `curate` found, as rows by number of the document in its table."""

    attributes: dict[int, dict]
    reasons: dict[int, str]
    problems: dict[int, str]
    texts: dict[str, str]
    groups: dict[int, dict]


def curated(table: pa.Table, folder: Path, monkeypatch, columns: tuple[str, ...] = (), **settings) -> Curated:
    """Curate a table with the columns `id`, all different, and `text`. settings: groups of the config."""
    source = folder / "in" / "documents.parquet"
    source.parent.mkdir(parents=True)
    pq.write_table(table, source)
    run = curate_inline(
        {
            "inputs": [{"path": str(source), "id": "id", "columns": columns}],
            "output": str(folder / "run"),
            "execution": {"max_bad_documents": 1.0, "unit_mib": 64},  # one unit, whose rows are those of the table
            **settings,
        },
        monkeypatch,
    )

    def rows(name: str) -> list[dict]:
        artifact = Artifact.find(Store(), f"{folder}/run/{name}")
        return artifact.table().to_pylist() if artifact else []

    return Curated(
        attributes={row["row"]: row for row in rows("attributes")},
        reasons={row["row"]: row["reason"] for row in rows(VERDICTS)},
        problems={row["row"]: row["problem"] for row in rows("quarantine")},
        texts={row["id"]: row["text"] for row in run.corpus.table().to_pylist()},
        groups={row["row"]: row for row in rows(GROUPS)},
    )
