"""Other tools open an artifact by its bare folder, with rows or without; ours read those of earlier versions too."""

import json
import shutil
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from datasets import disable_progress_bars, load_dataset

from raymill.cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact
from raymill.cluster.stage import discard_stale
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from tests.support.inline import curate_inline
from tests.support.stages import counting_stage, run_inline
from tests.support.stories import story

TEXTS = [story(0), story(1), story(2), story(0), "Too short to keep."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three documents kept, one duplicate, one removed by a rule, none unreadable."""
    folder = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"id": f"d{number}", "text": text}) for number, text in enumerate(TEXTS)]
    (folder / "in.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        inputs = [{"source": "s", "path": str(folder / "in.jsonl"), "id": "id"}]
        return curate_inline({"inputs": inputs, "output": str(folder / "run")}, patch)


def by_datasets(folder: Path):
    disable_progress_bars()
    if folder.name == "quarantine":  # without rows, which `datasets` opens only as a stream
        found = load_dataset(str(folder), streaming=True)["train"]
        return found.column_names, len(list(found))
    found = load_dataset(str(folder), cache_dir=str(folder.parents[1] / "cache"))["train"]
    return found.column_names, found.num_rows


def by_duckdb(folder: Path):
    found = duckdb.sql(f"select * from '{folder}/*.parquet'")
    return found.columns, len(found.fetchall())


def shape(table):
    return list(getattr(table, "column_names", None) or table.columns), len(table)


READERS = {
    "pyarrow.parquet": lambda folder: shape(pq.read_table(folder)),
    "pyarrow.dataset": lambda folder: shape(pyarrow.dataset.dataset(folder).to_table()),
    "pandas": lambda folder: shape(pandas.read_parquet(folder)),
    # Without the setting polars refuses every folder with a file that does not end like the others, hidden or not.
    "polars": lambda folder: shape(polars.scan_parquet(folder, hidden_file_prefix="_").collect()),
    "polars by glob": lambda folder: shape(polars.read_parquet(folder / "*.parquet")),
    "DuckDB": by_duckdb,
    "datasets": by_datasets,
}
ARTIFACTS = {"corpus": 3, "removed": 2, "attributes": 5, "quarantine": 0, "_work/groups": 2}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_reader_opens_the_folder_alone(run, reader, name):
    folder = Path(run.uri, name)
    assert (folder / MANIFEST).is_file() and not (folder / EARLIER_MANIFEST).exists()
    columns, rows = READERS[reader](folder)
    assert (list(columns), rows) == (Artifact.load(Store(), str(folder)).schema.names, ARTIFACTS[name])


def test_a_query_over_the_quarantine_needs_no_case_for_a_run_where_all_is_well(run):
    query = f"select problem, count(*) from '{run.uri}/quarantine/*.parquet' group by problem"
    assert duckdb.sql(query).fetchall() == []


def test_an_empty_artifact_has_one_file_and_the_digest_of_no_file(tmp_path):
    made = run_inline(counting_stage(0), str(tmp_path))["numbers"]
    (file,) = made.manifest.files
    assert (file.rows, pq.read_metadata(tmp_path / "numbers" / file.path).num_rows) == (0, 0)
    assert pq.read_schema(tmp_path / "numbers" / file.path) == made.schema
    earlier = json.loads((tmp_path / "numbers" / MANIFEST).read_text()) | {"files": [], "digest": ""}
    assert type(made.manifest)(**earlier).digest == made.manifest.digest
    assert made.damage(compare_sha256=True) == {}
    (tmp_path / "numbers" / file.path).unlink()
    assert list(made.damage().values()) == ["is gone"]


# --- artifacts of earlier versions


def as_earlier(uri: str) -> None:
    """Every artifact below as earlier versions left it: another name of the manifest, no file without rows."""
    for path in Path(uri).rglob(MANIFEST):
        plain = json.loads(path.read_text())
        for file in plain["files"]:
            if not file["rows"]:
                (path.parent / file["path"]).unlink()
        plain["files"] = [file for file in plain["files"] if file["rows"]]
        path.with_name(EARLIER_MANIFEST).write_text(json.dumps(plain))
        path.unlink()


def test_a_run_of_an_earlier_version_is_still_read(run, tmp_path):
    shutil.copytree(run.uri, tmp_path / "run")
    uri = str(tmp_path / "run")
    as_earlier(uri)
    corpus = Artifact.load(Store(), f"{uri}/corpus")
    assert corpus.table().equals(run.corpus.table()) and corpus.manifest.digest == run.corpus.manifest.digest
    assert (
        Artifact.load(Store(), f"{uri}/quarantine").table().schema
        == Artifact.load(Store(), f"{run.uri}/quarantine").schema
    )
    assert "exact_duplicate of d0" in explain(RunReader(Store(), uri), "d3")
    assert sample_rows(Store(), uri, 5, ["reason=exact_duplicate"], 1)[0]["id"] == "d3"
    assert RunReader(Store(), uri).artifact("corpus") is not None


def test_an_artifact_of_an_earlier_version_is_found_and_discarded_like_any_other(tmp_path):
    root, stage = str(tmp_path), counting_stage(3)
    made = run_inline(stage, root)
    as_earlier(root)
    assert run_inline(stage, root)["squares"].manifest == made["squares"].manifest
    other = counting_stage(3, fingerprint="e" * 32)
    discard_stale(other, root)
    assert Artifact.find(Store(), f"{root}/numbers") is None
    assert run_inline(other, root)["numbers"].table() == Artifact.load(Store(), f"{root}/numbers").table()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"files": []}', '{"artifacts": {}}'])
def test_a_manifest_of_another_tool_is_no_artifact(tmp_path, content):
    (tmp_path / EARLIER_MANIFEST).write_text(content)
    assert Artifact.find(Store(), str(tmp_path)) is None
