"""Input and output on different stores: a public bucket is read without keys, a private one is written with keys."""

import json
import os
import pickle
from pathlib import Path

import boto3
import pytest

from raymill.cluster.engine import _RunUnit
from raymill.cluster.errors import DataError, StorageError, UserError
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.measure import measure_stage
from tests.conftest import CREDENTIALS
from tests.support.inline import curate_inline
from tests.support.stories import story


@pytest.fixture
def no_environment(monkeypatch) -> None:
    """An environment that reaches no store by itself."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")


@pytest.fixture
def public(s3_server, s3_root, s3_store) -> dict:
    """An input in a bucket that everybody may read, by settings of its own."""
    documents = {f"s{n}": story(n) for n in range(6)} | {"copy": story(3), "short": "No."}
    lines = "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in documents.items())
    s3_store.write_bytes(f"{s3_root}/raw/a.jsonl", lines.encode())
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    bucket = s3_root.removeprefix("s3://")
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    client.put_object_acl(Bucket=bucket, Key="raw/a.jsonl", ACL="public-read")
    own = {"endpoint_url": s3_server, "anonymous": True, "retries": 1}
    return {"source": "web", "path": f"{s3_root}/raw", "id": "id", "storage": own}


def plain(options: StorageOptions) -> dict:
    """The options as a config has them, keys included."""
    keys = {"access_key_id": options.access_key_id, "secret_access_key": options.secret_access_key}
    shown = {name: key.get_secret_value() for name, key in keys.items() if key}
    return options.without_secrets() | shown


def secrets(store: Store) -> list[str]:
    return [value for name, value in plain(store.options).items() if name.endswith(("key_id", "access_key"))]


def test_a_public_bucket_is_read_and_a_private_one_written(
    public, private, s3_with_keys, no_environment, monkeypatch, tmp_path
):
    settings = {"inputs": [public], "output": f"{private}/run", "storage": plain(s3_with_keys.options)}
    run = curate_inline(settings, monkeypatch)
    local = tmp_path / "raw"
    local.mkdir()
    (local / "a.jsonl").write_bytes(Store(StorageOptions(**public["storage"])).read_bytes(f"{public['path']}/a.jsonl"))
    beside = curate_inline(
        {"inputs": [public | {"path": str(local), "storage": None}], "output": str(tmp_path / "run")}, monkeypatch
    )
    assert run.uri == f"{private}/run" and run.corpus.manifest.digest == beside.corpus.manifest.digest
    files = {file.uri.removeprefix(f"{private}/run/"): s3_with_keys.read_bytes(file.uri)
             for file in s3_with_keys.list_files(f"{private}/run")}  # fmt: skip
    assert {"manifest.json", "inputs.json", "report.json", "report.html"} <= files.keys()
    for secret in secrets(s3_with_keys):
        assert not [name for name, data in files.items() if secret.encode() in data]
    recorded = json.loads(files["inputs.json"])
    assert recorded["inputs"][0]["storage"] == public["storage"]
    assert recorded["storage"] == s3_with_keys.options.without_secrets()
    assert "storage" not in json.dumps(json.loads(files["manifest.json"])["config"])
    # How a store is reached decides nothing: other settings that reach it find the run finished.
    other = public | {"storage": public["storage"] | {"retries": 3, "region": "eu-west-1"}}
    assert not curate_inline(settings | {"inputs": [other]}, monkeypatch).fresh


def test_every_command_reads_an_input_from_its_own_store(
    public, private, s3_with_keys, no_environment, monkeypatch, tmp_path, run_cli
):
    def raymill(*words: str) -> str:
        code, out, err = run_cli(*words)
        assert (code, err) == (0, ""), err
        return out

    settings = {"inputs": [public], "output": f"{private}/run", "storage": plain(s3_with_keys.options)}
    config = tmp_path / "curate.yaml"
    config.write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    assert "inputs   1 file, " in raymill("curate", str(config), "--dry-run")
    curate_inline(settings, monkeypatch)
    assert "finished, nothing to do" in raymill("curate", str(config), "--dry-run")
    named = (f"{private}/run", "--config", str(config))
    assert '"id": "copy"' in raymill("sample", *named)
    assert "none, the text is the same" in raymill("explain", *named[:1], "copy", *named[1:])
    assert "stays (before deduplication)" in raymill("what-if", str(config), "-o", "language.min_score=0.5")
    shown = raymill("curate", str(config), "--dry-run") + raymill("config", "check", str(config))
    assert not any(secret in shown for secret in secrets(s3_with_keys))


def test_keys_of_an_input_are_those_of_the_config_where_a_run_is_explained(
    public, private, s3_with_keys, s3_store, s3_root, no_environment, monkeypatch, tmp_path, run_cli
):
    """The run recorded all of an input's settings but its keys."""
    raw = s3_store.read_bytes(f"{public['path']}/a.jsonl")
    s3_with_keys.write_bytes(f"{private}/raw/a.jsonl", raw)
    own = public | {"path": f"{private}/raw", "storage": plain(s3_with_keys.options)}
    settings = {"inputs": [own], "output": str(tmp_path / "run")}
    curate_inline(settings, monkeypatch)
    config = tmp_path / "curate.yaml"
    config.write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    for words, code, seen in (
        (("--config", str(config)), 0, "none, the text is the same"),
        ((), 2, "give the run's config: --config CONFIG"),
    ):
        found, out, err = run_cli("explain", str(tmp_path / "run"), "copy", *words)
        assert found == code and seen in out + err
    assert not any(secret.encode() in file.read_bytes() for secret in secrets(s3_with_keys)
                   for file in Path(tmp_path / "run").rglob("*") if file.is_file())  # fmt: skip


@pytest.mark.parametrize("pattern", ["raw", "raw/*.jsonl", "raw/a.jsonl"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"secret_access_key": "wrong"},
            r"s3://private/\S+: cannot (list|look up), .*refused these credentials.*keys under `inputs\[0\]\.storage:`",
        ),
        (
            {"access_key_id": None, "secret_access_key": None},
            r"no AWS credentials found.*`inputs\[0\]\.storage: \{prof",
        ),
    ],
)
def test_wrong_and_missing_keys_of_an_input_are_blamed_on_the_input(
    private, s3_with_keys, no_environment, monkeypatch, tmp_path, pattern, changed, message
):
    s3_with_keys.write_bytes(f"{private}/raw/a.jsonl", b'{"text": "A text."}\n')
    own = {name: value for name, value in (plain(s3_with_keys.options) | changed).items() if value is not None}
    settings = {"inputs": [{"path": f"{private}/{pattern}", "storage": own}], "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=message) as caught:
        curate_inline(settings, monkeypatch)
    assert not any(secret in str(caught.value) for secret in secrets(s3_with_keys)[1:])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"secret_access_key": "wrong"},
            r"^s3://private/\S+: cannot (read|write), .*refused these credentials.*keys under `storage:`",
        ),
        ({"access_key_id": None, "secret_access_key": None}, r"no AWS credentials found.*`storage: \{profile"),
    ],
)
def test_wrong_and_missing_keys_of_the_output_are_blamed_on_the_output(
    public, private, s3_with_keys, no_environment, monkeypatch, changed, message
):
    given = {name: value for name, value in (plain(s3_with_keys.options) | changed).items() if value is not None}
    settings = {"inputs": [public], "output": f"{private}/run", "storage": given}
    with pytest.raises(StorageError, match=message) as caught:
        curate_inline(settings, monkeypatch)
    assert "inputs[" not in str(caught.value)


def test_an_input_without_settings_of_its_own_is_read_as_the_run_is(private, s3_with_keys, monkeypatch, tmp_path):
    s3_with_keys.write_bytes(f"{private}/raw/a.jsonl", json.dumps({"text": story(1)}).encode())
    settings = {"inputs": [{"path": f"{private}/raw"}], "output": str(tmp_path / "run")}
    assert curate_inline(settings | {"storage": plain(s3_with_keys.options)}, monkeypatch).corpus.manifest.rows == 1


def test_equal_names_at_two_endpoints_are_two_files_and_at_one_endpoint_one(s3_root, s3_store, s3_server, private):
    s3_store.write_bytes(f"{s3_root}/raw/a.jsonl", b'{"text": "A text."}\n')
    own = plain(s3_store.options)
    twice = [{"source": name, "path": f"{s3_root}/raw", "storage": own} for name in ("a", "b")]
    plain_config = {"kind": "curate", "name": "x", "output": "o"}
    with pytest.raises(UserError, match=r"already read by inputs\[0\]"):
        config = CurateConfig.model_validate(plain_config | {"inputs": twice})
        freeze(config.store, config.inputs, 1 << 20)
    twice[1] = twice[1] | {"storage": own | {"endpoint_url": s3_server.replace("127.0.0.1", "localhost")}}
    config = CurateConfig.model_validate(plain_config | {"inputs": twice})
    assert [file.source for file in freeze(config.store, config.inputs, 1 << 20).files] == ["a", "b"]


def test_a_worker_gets_both_stores_with_its_work(public, private, s3_with_keys):
    plain_config = {"kind": "curate", "name": "x", "inputs": [public], "output": f"{private}/run"}
    config = CurateConfig.model_validate(plain_config | {"storage": s3_with_keys.options})
    inputs = freeze(config.store, config.inputs, 1 << 20)
    there = pickle.loads(pickle.dumps(_RunUnit(measure_stage(config, config.filters, inputs), f"{private}/run"))).stage
    assert (
        there.store == s3_with_keys and there.store.options.secret_access_key == s3_with_keys.options.secret_access_key
    )
    assert there.work.reading.store_of("web") == Store(StorageOptions(**public["storage"]), "inputs[0].storage")
    assert not any(secret in repr(there) for secret in secrets(s3_with_keys))
