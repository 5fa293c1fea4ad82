"""Input and output on S3: the same corpus as on local disks, and the same safety."""

import json
import os

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import StorageError
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.object_store import ODD_NAME
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS
from tests.support.guides import GUIDES
from tests.support.inline import curate_inline
from tests.support.stories import story


@pytest.fixture
def texts(tmp_path):
    documents = {f"s{n}": story(n) for n in range(12)} | {"copy": story(3), "short": "No."}
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"id": list(documents), "text": list(documents.values())}), folder / "a.parquet")
    with (folder / "b.jsonl").open("w") as lines:
        lines.writelines(json.dumps({"id": f"j{n}", "text": story(50 + n)}) + "\n" for n in range(5))
    return folder


def test_a_run_on_s3_makes_the_corpus_of_a_local_run(texts, tmp_path, monkeypatch, s3_server, s3_root, s3_store):
    for path in texts.iterdir():
        s3_store.write_bytes(f"{s3_root}/in/{path.name}", path.read_bytes())
    shared = {"name": "s3", "language": {"keep": ["en"]}}
    local = curate_inline(
        shared | {"inputs": [{"path": str(texts), "id": "id"}], "output": str(tmp_path / "run")}, monkeypatch
    )
    options = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "secret"}
    remote_settings = shared | {
        "inputs": [{"path": f"{s3_root}/in", "id": "id"}],
        "output": f"{s3_root}/run",
        "storage": options,
    }
    remote = curate_inline(remote_settings, monkeypatch)
    assert remote.corpus.table().equals(local.corpus.table())
    assert [f.sha256 for f in remote.corpus.manifest.files] == [f.sha256 for f in local.corpus.manifest.files]
    assert remote.corpus.manifest.digest == local.corpus.manifest.digest
    assert not curate_inline(remote_settings, monkeypatch).fresh
    assert "secret" not in s3_store.read_bytes(f"{s3_root}/run/manifest.json").decode()
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    bucket = s3_root.removeprefix("s3://")
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix="run/corpus/")["Contents"]]
    assert sorted(keys) == sorted(
        ["run/corpus/_manifest.json", *(f"run/corpus/{f.path}" for f in remote.corpus.manifest.files)]
    )


@pytest.fixture
def run(texts, monkeypatch, s3_server, s3_root):
    """A finished run at the server, its config as a file, and an environment that reaches no store."""
    options = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "secret", "retries": 1}
    settings = {"inputs": [{"path": str(texts), "id": "id"}], "output": f"{s3_root}/run", "storage": options}
    made = curate_inline(settings, monkeypatch)
    config = texts.parent / "curate.yaml"
    config.write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    return made.uri, str(config)


def looks(uri: str) -> dict[str, tuple[str, ...]]:
    """Every command that looks at a run, and a word that it answers with."""
    return {
        "digest ": ("inspect", uri),
        "columns\n": ("inspect", f"{uri}/corpus"),
        '"id": "copy"': ("sample", uri, "-n", "5"),
        "exact_duplicate of s3": ("explain", uri, "copy"),
    }


def test_the_commands_that_look_at_a_run_reach_it_by_its_config_or_by_overrides(run, run_cli, s3_server):
    uri, config = run
    keys = ("-o", "storage.access_key_id=key", "-o", "storage.secret_access_key=secret")
    for answer, words in looks(uri).items():
        code, out, err = run_cli(*words)
        assert code == 2 and "give them: --config CONFIG" in err, "without either there is no way"
        for more in (("--config", config), ("-o", f"storage.endpoint_url={s3_server}", *keys)):
            code, out, err = run_cli(*words, *more)
            assert (code, err) == (0, "") and answer in out
    code, out, err = run_cli("what-if", config, "-o", "rules.gopher_quality.min_words=5")
    assert (code, err) == (0, "") and "stays (before deduplication)" in out
    code, _, err = run_cli("inspect", uri, "-o", "name=x")
    assert code == 2 and "-o name=x: no such setting" in err


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_commands_that_look_at_a_run_reach_it_by_the_variables_that_the_guide_names(
    run, run_cli, s3_server, monkeypatch, variable
):
    named = {variable: s3_server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in named.items():
        assert f"`{name}`" in GUIDES["cluster/store/README.md"]
        monkeypatch.setenv(name, value)
    for answer, words in looks(run[0]).items():
        code, out, err = run_cli(*words)
        assert (code, err) == (0, "") and answer in out


def test_a_local_run_of_remote_input_is_explained_by_its_config_and_not_by_an_endpoint_that_its_record_names(
    texts, tmp_path, monkeypatch, run_cli, s3_server, s3_root, s3_store
):
    for path in texts.iterdir():
        s3_store.write_bytes(f"{s3_root}/in/{path.name}", path.read_bytes())
    options = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "secret", "retries": 1}
    settings = {"inputs": [{"path": f"{s3_root}/in", "id": "id"}], "output": str(tmp_path / "run"), "storage": options}
    curate_inline(settings, monkeypatch)
    assert b"secret" not in (tmp_path / "run" / "inputs.json").read_bytes()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    code, out, err = run_cli("explain", str(tmp_path / "run"), "copy")
    assert (code, out) == (2, "") and f"this run read it with endpoint_url: {s3_server}" in err
    without_keys = settings | {"storage": {"endpoint_url": s3_server}}
    (tmp_path / "c.json").write_text(json.dumps({"kind": "curate", "name": "test"} | without_keys))
    code, out, err = run_cli("explain", str(tmp_path / "run"), "copy", "--config", str(tmp_path / "c.json"))
    assert (code, err) == (0, "") and "difference from it: none, the text is the same" in out


def test_a_bucket_that_is_not_there_is_named_before_anything_is_done(texts, monkeypatch, s3_server):
    options = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "secret", "retries": 0}
    settings = {"inputs": [{"path": str(texts), "id": "id"}], "output": "s3://nobody-made-this/run", "storage": options}
    with pytest.raises(StorageError, match="nobody-made-this"):
        curate_inline(settings, monkeypatch)


@pytest.mark.parametrize("path", ["in", "in/**"])
def test_an_object_with_an_odd_name_is_passed_over_and_counted(path, s3_server, s3_root):
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    for key in ("in/a.jsonl", "in//b.jsonl", "in//c.jsonl", "in/_d//e.jsonl"):
        client.put_object(Bucket=s3_root.removeprefix("s3://"), Key=key, Body=b'{"text": "a"}')
    store = Store(StorageOptions(endpoint_url=s3_server, access_key_id="key", secret_access_key="secret"))
    found = freeze(store, [Input(path=f"{s3_root}/{path}")])
    assert [file.uri for file in found.files] == [f"{s3_root}/in/a.jsonl"]
    assert found.skipped == {"input": {ODD_NAME: 2}}
    without = freeze(store, [Input(path=f"{s3_root}/{path}", exclude=("b*",))])
    assert without.skipped == {"input": {ODD_NAME: 1}}
