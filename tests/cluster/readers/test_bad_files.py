"""Files that cannot be read are left out and recorded, if they are few; `exclude` leaves out others by name."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.readers.formats.parquet import Parquet
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.store.store import Store
from tests.support.inline import curate_inline

GOOD = 97


@pytest.fixture
def folder(tmp_path) -> Path:
    """97 good Parquet files and three that cannot be read: truncated, of another schema, with a bad name."""
    (tmp_path / "in").mkdir()
    for number in range(GOOD):
        pq.write_table(pa.table({"text": [f"text {number}"]}), tmp_path / "in" / f"{number:02}.parquet")
    data = (tmp_path / "in" / "00.parquet").read_bytes()
    (tmp_path / "in" / "cut.parquet").write_bytes(data[:-9])
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "in" / "other.parquet")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/caf\xe9.parquet")).write_bytes(data)
    return tmp_path / "in"


def frozen(folder: Path, max_bad_files: float, **settings) -> InputManifest:
    return freeze(Store(), [Input(path=str(folder), **settings)], None, max_bad_files)


def test_a_few_bad_files_are_left_out_with_their_reason(folder):
    manifest = frozen(folder, 0.03)
    assert sum(len(unit.uris) for unit in manifest.units) == GOOD
    problems = {Path(file.uri).name: file.problem for file in manifest.files if file.problem}
    assert list(problems) == ["cut.parquet", "other.parquet", "caf\\xe9.parquet"]
    assert problems["cut.parquet"].startswith("not a readable Parquet file (")
    assert problems["other.parquet"] == "no column text (text). It has: body. Set `text` to one of them."
    assert problems["caf\\xe9.parquet"].startswith("the name is not UTF-8")
    (note,) = manifest.notes
    assert note.startswith("Source input: 3 of 100 files are unreadable and were left out: caf\\xe9.parquet (the name")


def test_more_bad_files_than_allowed_are_an_error_that_names_the_first(folder):
    with pytest.raises(DataError) as caught:
        frozen(folder, 0.029)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1].rpartition("/")[2] for line in lines[:3]] == [
        "caf\\xe9.parquet", "cut.parquet", "other.parquet",
    ]  # fmt: skip
    assert lines[3] == (
        "inputs[0] (input): 3 of 100 files are unreadable (execution.max_bad_files allows 2.9%). Fix them, leave them "
        'out with `exclude` in this input, or allow more with override={"execution.max_bad_files": 0.03}.'
    )


def test_excluded_files_are_not_read(folder):
    manifest = frozen(folder, 0.0, exclude=["cut.*", f"{'other'}.parquet", "caf*", "**/1?.parquet"])
    assert len(manifest.files) == GOOD - 10 and not manifest.notes
    assert manifest.skipped == {"input": {"excluded": 12}}


def test_a_glob_of_names_excludes_at_any_depth_and_one_of_paths_below_the_folder(tmp_path):
    for name in ("a.txt", "2019/a.txt", "2019/b.txt", "2020/2019/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")

    def left(*exclude: str, path: str = "") -> list[str]:
        files = freeze(Store(), [Input(path=str(tmp_path / path), exclude=exclude)]).files
        return [os.path.relpath(file.uri, tmp_path) for file in files]

    assert left("a.*") == ["2019/b.txt", "2020/2019/c.txt"]
    assert left("2019/**") == left("2019/**", path="**/*.txt") == ["2020/2019/c.txt", "a.txt"]
    assert left("**/2019/*") == ["a.txt"]


def test_a_store_that_does_not_answer_is_no_bad_file(folder, monkeypatch):
    def cut(self, store, file, input):
        if file.uri.endswith("00.parquet"):
            raise StorageError(f"{file.uri}: refused. Ask for access.")
        return found(self, store, file, input)

    found = Parquet.cut
    monkeypatch.setattr(Parquet, "cut", cut)
    with pytest.raises(DataError, match="refused"):
        frozen(folder, 0.5)


def test_half_of_the_files_are_no_exception(tmp_path):
    for number in range(4):
        pq.write_table(pa.table({"body" if number % 2 else "text": ["x"]}), tmp_path / f"{number}.parquet")
    with pytest.raises(DataError) as caught:
        frozen(tmp_path, 1.0)
    assert "max_bad_files" not in str(caught.value)


def test_a_run_with_a_bad_file_ends_and_its_report_has_the_file(folder, tmp_path, monkeypatch):
    settings = {"inputs": [{"path": str(folder)}], "output": str(tmp_path / "run"), "language": None, "rules": None}
    run = curate_inline(settings | {"execution": {"max_bad_files": 0.1}}, monkeypatch)
    assert run.corpus.manifest.rows == GOOD
    assert [w for w in run.report["warnings"] if "3 of 100 files are unreadable" in w]
    assert not curate_inline(settings | {"execution": {"max_bad_files": 0.1}}, monkeypatch).fresh
