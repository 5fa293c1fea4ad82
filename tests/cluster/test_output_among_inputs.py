"""Where a run may write: never among its input, and only where files can be made."""

import json
import os

import pytest

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.output_folder import check_output, refuse_impossible_output, refuse_output_among_inputs
from raymill.cluster.readers.listing import list_inputs
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from tests.support.inline import curate_inline


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Raw files at data/raw and data/raw/deep, links to that folder and to one above it."""
    for folder in ("data/raw/deep", "data/other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jsonl").write_text(json.dumps({"text": "A text."}) + "\n")
    (tmp_path / "data" / "raw" / "b.jsonl").write_text(json.dumps({"text": "Another."}) + "\n")
    (tmp_path / "link").symlink_to(tmp_path / "data" / "raw")
    (tmp_path / "above").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(output: str, *folders: str, **settings: object) -> None:
    inputs = [{"path": path, "source": f"s{number}", "follow_links": True} for number, path in enumerate(folders)]
    plain = {"kind": "curate", "name": "x", "inputs": inputs, "output": output}
    config = CurateConfig.model_validate(plain | settings)
    refuse_output_among_inputs(paths.absolute(output), list_inputs(config.store, config.inputs))


@pytest.mark.parametrize(
    ("output", "input", "seen"),
    [
        ("data/raw", "data/raw", "is the folder of"),
        ("data/raw/", "data/raw", "is the folder of"),
        ("data/other/../raw", "data/raw", "is the folder of"),
        ("link", "data/raw", "is the folder of"),
        ("data/raw", "link", "is the folder of"),
        ("above/raw", "data/raw", "is the folder of"),
        ("data/raw", "file://{here}/data/raw", "is the folder of"),
        ("data/raw", "data/raw/*.jsonl", "is the folder of"),
        ("data/raw", "data/raw/**", "is the folder of"),
        ("data/raw/b.jsonl", "data/raw/b.jsonl", "is the folder of"),
        ("DATA/Raw", "data/raw", "only in upper and lower case"),
        ("data/raw/run", "data/raw", "lies inside"),
        ("link/run/one", "data/raw", "lies inside"),
        ("data/raw/run", "data/**/*.parquet", "lies inside"),
        ("data/raw/run", "data/*/*/*.html", "lies inside"),
        ("data", "data/raw", "holds the input file"),
        (".", "data/raw/*.jsonl", "holds the input file"),
        ("above", "data/raw/b.jsonl", "holds the input file"),
        ("data/raw", "data/raw/b.jsonl", "holds the input file"),
        ("data/raw/deep", "data/r*/*/a.jsonl", "holds the input file"),
    ],
)
def test_an_output_that_shares_files_with_an_input_is_refused(here, output, input, seen):
    with pytest.raises(ConfigError, match=f"^output: .*{seen}.* Choose an output"):
        check(output, "data/other", input.format(here=here))


def test_a_link_among_the_input_that_leads_into_the_output_is_refused(here):
    (here / "runs").mkdir()
    (here / "runs" / "old.jsonl").write_text('{"text": "x"}\n')
    (here / "data" / "raw" / "linked").symlink_to(here / "runs")
    with pytest.raises(ConfigError, match=r"linked/old\.jsonl \(as .*/runs/old\.jsonl\)"):
        check("runs", "data/raw")
    (here / "data" / "other" / "file.jsonl").symlink_to(here / "runs" / "old.jsonl")
    with pytest.raises(ConfigError, match=r"file\.jsonl \(as .*/runs/old\.jsonl\)"):
        check("runs", "data/other")


@pytest.mark.parametrize(
    ("output", "input"),
    [
        ("data/raw-curated", "data/raw"),
        ("data/run", "data/raw"),
        ("data/raw/run", "data/raw/*.jsonl"),
        ("data/raw/run", "data/raw/deep/**"),
        ("runs/x", "link"),
        ("DATA/run", "data/raw"),
    ],
)
def test_an_output_apart_from_every_input_is_taken(here, output, input):
    check(output, input)


def test_on_a_store_the_same_holds_by_name(s3_root, s3_store):
    s3_store.write_bytes(f"{s3_root}/raw/a.jsonl", b'{"text": "A text."}\n')
    for output, seen in (("raw/", "is the folder of"), ("raw/run", "lies inside"), ("", "holds the input file")):
        with pytest.raises(ConfigError, match=seen):
            check(f"{s3_root}/{output}", f"{s3_root}/raw", storage=s3_store.options)
    check(f"{s3_root}/raw-curated", f"{s3_root}/raw", storage=s3_store.options)
    check(f"{s3_root}/Raw", f"{s3_root}/raw", storage=s3_store.options)


def test_one_name_at_two_endpoints_is_two_places(s3_root, s3_store):
    s3_store.write_bytes(f"{s3_root}/raw/a.jsonl", b'{"text": "A text."}\n')
    elsewhere = [{"path": f"{s3_root}/raw", "storage": s3_store.options}]
    for output in ("raw", "raw/run", ""):
        check(f"{s3_root}/{output}", inputs=elsewhere, storage={"endpoint_url": "http://127.0.0.1:9"})


def test_a_run_refuses_before_it_writes(here, monkeypatch):
    before = sorted(here.rglob("*"))
    for output in ("data/raw", "data"):
        with pytest.raises(ConfigError, match="Choose an output"):
            curate_inline({"inputs": [{"path": "data/raw"}], "output": output}, monkeypatch)
    assert sorted(here.rglob("*")) == before


def test_checking_an_output_leaves_nothing_behind(here):
    before = sorted(here.rglob("*"))
    check_output(Store(), str(here / "runs" / "new" / "one"))
    check_output(Store(), str(here / "data"))
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("output", ["data/raw/b.jsonl", "data/raw/b.jsonl/run", "/proc/run", "x" * 300])
def test_an_output_that_cannot_be_made_is_refused(here, output):
    with pytest.raises(StorageError, match=r"stands where a folder|cannot be made here|is too long"):
        check_output(Store(), paths.absolute(output))
    assert not os.path.isdir(output)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("$HOME/x", r"contains \$HOME, which is not replaced"),
        ("runs/${NAME}", r"contains \$\{NAME\}, which is not replaced"),
        ("C:\\x", "is a path of Windows"),
    ],
)
def test_an_output_that_was_meant_for_a_shell_or_another_system_is_refused(output, said):
    with pytest.raises(ConfigError, match=rf"^output: .*{said}"):
        refuse_impossible_output(output)


def test_an_output_that_is_a_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "s.yaml").write_text("x")
    with pytest.raises(ConfigError, match=r"^output: .*s\.yaml is a file; a folder is wanted"):
        refuse_impossible_output(str(tmp_path / "s.yaml"))
