"""Readers of the user: the example of the guide, and what becomes of faulty ones."""

import json
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from ray import cloudpickle

from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.progress import Progress
from raymill.cluster.readers import inputs
from raymill.cluster.readers.formats import READERS
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from tests.support.inline import without_ray

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "own_reader"


@pytest.fixture(autouse=True)
def without_known_readers(monkeypatch):
    monkeypatch.setattr(inputs, "LOADED_READERS", inputs.LOADED_READERS)
    yield
    inputs.LOADED_READERS.clear()
    sys.modules.pop("my_reader", None)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    return tmp_path


def curate(config: str = "curate.yaml", overrides: tuple[str, ...] = ()) -> job.CurateRun:
    return job.curate(load(config, overrides), Session(), Progress())


def rows(run: job.CurateRun, name: str) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/{name}").table().to_pylist()


def with_reader(folder: Path, source: str, use: str = "my_reader:read") -> tuple[str, tuple[str, ...]]:
    """A config of one file with this reader."""
    (folder / "my_reader.py").write_text(textwrap.dedent(source))
    (folder / "one.xyz").write_text("one\ntwo\n")
    return "curate.yaml", (f"inputs=[{{path: one.xyz, format: '{use}', id: id}}]",)


def test_the_example_reads_the_entries_of_logbooks(folder):
    run = curate()
    (document,) = rows(run, "corpus")
    assert (document["id"], document["title"]) == (f"{folder}/logbooks/harbour.log: Monday", "Monday")
    assert document["text"] == "The water level of the harbour fell by a metre."
    (bad,) = rows(run, "quarantine")
    assert bad["problem"] == "plugin_error"
    assert "damaged.log (my_reader:Logbook: ValueError: the file begins with 'The title" in bad["where"]


def test_a_function_returns_the_text_or_several_and_ids_name_file_and_number(folder):
    config, changes = with_reader(
        folder,
        "def read(content: bytes, path: str, *, sep: str = '|'):\n    return content.decode().split()",
    )
    uri = f"{folder}/one.xyz"
    assert [(row["id"], row["text"]) for row in rows(curate(config, changes), "corpus")] == [
        (f"{uri}#0", "one"),
        (f"{uri}#1", "two"),
    ]


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("def read(content, path): raise ValueError('no header')", "my_reader:read: ValueError: no header"),
        ("import sys\ndef read(content, path): sys.exit(3)", "my_reader:read: SystemExit: 3"),
        ("import os\ndef read(content, path): os._exit(3)", "one.xyz ("),
        ("def read(content, path):\n    while True: pass", "one.xyz (over 1 s)"),
    ],
)
def test_a_file_on_which_a_reader_raises_exits_or_hangs_is_one_row_of_the_quarantine(folder, source, where):
    config, changes = with_reader(folder, source)
    changes += ("execution.max_bad_documents=1", "limits.document_s=1")
    (row,) = rows(curate(config, changes), "quarantine")
    assert row["problem"] in ("plugin_error", "too_slow")
    assert where in row["where"]


@pytest.mark.parametrize("result", ["b'text'", "None", "3", "[{'id': 'a'}]", "[{'text': 'a', 'title': 'b'}]"])
def test_a_reader_that_returns_nonsense_ends_the_run_and_is_named(folder, result):
    config, changes = with_reader(folder, f"def read(content, path): return {result}")
    with pytest.raises(DataError, match=r"my_reader:read: returned .* for .*one\.xyz; wanted text, or an iterable"):
        curate(config, changes)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("my_reader:Logbok", r"inputs\.0\.format.*has no Logbok\. Did you mean Logbook\?"),
        ("json:loads", r"wanted a function of \(content, path\), or a class with the method read"),
        ("parqet", r"inputs\.0\.format.: .parqet.}: 'parqet' given; wanted .*Did you mean parquet"),
    ],
)
def test_a_mistake_names_the_place(folder, use, message):
    with pytest.raises(ConfigError, match=message):
        load("curate.yaml", (f"inputs.0.format={use}",))


@pytest.mark.parametrize("attribute", ['endings = ".log"', "columns = None"])
def test_endings_and_columns_that_are_no_tuple_are_refused(folder, attribute):
    source = f"class Reader:\n    {attribute}\n    def read(self, content, path): return ''"
    with pytest.raises(ConfigError, match=r"my_reader:Reader: \w+ is .*; wanted a tuple of texts"):
        load(*with_reader(folder, source, "my_reader:Reader"))


def test_a_folder_needs_a_reader_with_endings(folder):
    with_reader(folder, "def read(content, path): return 'text'")
    (folder / "files").mkdir()
    (folder / "one.xyz").rename(folder / "files" / "one.xyz")
    with pytest.raises(DataError, match="my_reader:read has no `endings`, so name the files"):
        curate("curate.yaml", ("inputs=[{path: files, format: 'my_reader:read'}]",))


def test_explain_does_not_import_the_reader_of_a_record(folder):
    run = curate()
    inputs.LOADED_READERS.clear()
    text = explain(RunReader(Store(), run.uri), f"{folder}/logbooks/harbour.log: Monday")
    assert "outcome   kept" in text
    assert "such code is not imported" in text


def test_changed_code_and_settings_are_other_inputs(folder):
    curate()
    source = (folder / "my_reader.py").read_text()
    (folder / "my_reader.py").write_text(source.replace(">= self", "> self"))
    with pytest.raises(DataError, match=r"inputs\.0\.format\.code was"):
        curate()


def test_a_worker_has_the_reader_of_the_config_that_it_receives(folder):
    config = load("curate.yaml")
    name = config.inputs[0].format_name
    sent = cloudpickle.dumps(config)
    inputs.LOADED_READERS.clear()
    received: CurateConfig = cloudpickle.loads(sent)
    assert READERS[received.inputs[0].format_name].stated_endings == (".log",)
    assert name == 'my_reader:Logbook {"min_characters": 30}'
    assert json.loads(config.model_dump_json())["inputs"][0]["format"]["use"] == "my_reader:Logbook"
