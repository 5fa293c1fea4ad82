"""Input and output on S3: the same corpus as on local disks, and the same safety."""

import json

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from cluster.errors import StorageError
from tests.conftest import CREDENTIALS
from tests.inline import curate_inline
from tests.test_curate import story


@pytest.fixture
def texts(tmp_path):
    documents = {f"s{n}": story(n) for n in range(12)} | {"copy": story(3), "short": "No."}
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"id": list(documents), "text": list(documents.values())}), folder / "a.parquet")
    with (folder / "b.jsonl").open("w") as lines:
        lines.writelines(json.dumps({"id": f"j{n}", "text": story(50 + n)}) + "\n" for n in range(5))
    return folder


def test_a_run_on_s3_makes_the_corpus_of_a_local_run(texts, tmp_path, monkeypatch, s3_server, s3_root):
    for path in texts.iterdir():
        storage.write_bytes(f"{s3_root}/in/{path.name}", path.read_bytes())
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
    assert "secret" not in storage.read_bytes(f"{s3_root}/run/manifest.json").decode()
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    bucket = s3_root.removeprefix("s3://")
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix="run/corpus/")["Contents"]]
    assert sorted(keys) == sorted(
        ["run/corpus/manifest.json", *(f"run/corpus/{f.path}" for f in remote.corpus.manifest.files)]
    )


def test_a_bucket_that_is_not_there_is_named_before_anything_is_done(texts, monkeypatch, s3_server):
    options = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "secret", "retries": 0}
    settings = {"inputs": [{"path": str(texts), "id": "id"}], "output": "s3://nobody-made-this/run", "storage": options}
    with pytest.raises(StorageError, match="nobody-made-this"):
        curate_inline(settings, monkeypatch)
