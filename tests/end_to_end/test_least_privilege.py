"""The policies of deploy/s3/ suffice: `curate` and `pack` run on a store that refuses everything else.

The workers are processes of their own, with keys of their own, under which nothing can be listed, deleted or replaced.
"""

import dataclasses
import json
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from raymill.cluster.engine import Engine
from raymill.cluster.errors import StorageError
from raymill.cluster.progress import Progress
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.pack import job as packing
from tests.conftest import CREDENTIALS, moto
from tests.support.fault_works import EVERY_STAGE_OF_PAGES, texts_source, write_texts
from tests.support.inline import NoRay, curate_inline
from tests.support.many_units import cut_into_many_units
from tests.support.train_inline import PLAIN, write_corpus

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "s3"
USERS = ("driver", "worker")
OWNER = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
# The calls that `server` makes before keys are wanted: for each user three, and a bucket each.
_CALLS = 3 * (len(USERS) + 1) + 2


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """(address, variables of the environment with the keys of each user) of a server that enforces the policies."""
    with moto(INITIAL_NO_AUTH_ACTION_COUNT=str(_CALLS)) as url:
        place = {"endpoint_url": url, "region_name": "us-east-1"} | CREDENTIALS
        iam, s3 = boto3.client("iam", **place), boto3.client("s3", **place)
        for bucket in ("raw", "corpora"):
            s3.create_bucket(Bucket=bucket)
        keys = {}
        for user in (*USERS, "owner"):
            policy = OWNER if user == "owner" else (POLICIES / f"{user}.json").read_text()
            for name, value in {"INPUTS": "raw", "OUTPUTS": "corpora", "RUN": "ours/run"}.items():
                policy = policy.replace(name, value)
            iam.create_user(UserName=user)
            iam.put_user_policy(UserName=user, PolicyName="raymill", PolicyDocument=_for_moto(policy))
            key = iam.create_access_key(UserName=user)["AccessKey"]
            keys[user] = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        yield url, keys


def _for_moto(policy: str) -> str:
    """The policy; who may delete the objects of a bucket may delete in the bucket, which moto asks for instead."""
    plain = json.loads(policy)
    for one in plain["Statement"]:
        if "s3:DeleteObject" in one["Action"]:
            one["Resource"] = [one["Resource"], one["Resource"].partition("/")[0]]
    return json.dumps(plain)


def _take(keys: dict[str, str]) -> None:
    os.environ.update(keys)


class Elsewhere(NoRay):
    """A session whose workers are processes with keys of their own."""

    def __init__(self, keys: dict[str, str]) -> None:
        super().__init__()
        self.workers = ProcessPoolExecutor(1, get_context("spawn"), _take, (keys,))


class EngineElsewhere(Engine):
    """The engine with such workers, which do small stages too."""

    def run(self, stage):
        return super().run(dataclasses.replace(stage, small=False))

    def _map(self, run, units, options):
        yield from self.session.workers.map(run, units, [pickle.dumps(unit) for unit in units.values()])


@pytest.fixture
def as_driver(server, monkeypatch) -> Iterator[tuple[dict, Elsewhere]]:
    """(settings of the store, the session), for a process with the keys of the driver in its environment."""
    url, keys = server
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in keys["driver"].items():
        monkeypatch.setenv(name, value)
    session = Elsewhere(keys["worker"])
    with session.workers:
        yield {"endpoint_url": url, "retries": 1}, session


def store_of(server, user: str) -> Store:
    url, keys = server
    names = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    given = {name: keys[user][variable] for name, variable in names.items()}
    return Store(StorageOptions.model_validate({"endpoint_url": url, "retries": 1} | given))


REFUSED = r"AccessDenied|PreconditionFailed"
OURS, OTHERS = "s3://corpora/ours/run", "s3://corpora/ours/another"
SMALL, LARGE = b"of a worker", bytes(9 << 20)


def new_file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "made").write_bytes(content)
    return tmp_path / "made"


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in one request", "in parts"])
def test_a_worker_creates_objects_and_replaces_none(server, tmp_path, content):
    driver, worker = store_of(server, "driver"), store_of(server, "worker")
    uri = f"{OURS}/{len(content)}"
    worker.upload(new_file(tmp_path, content), uri, new=True)
    assert worker.read_bytes(uri) == content
    worker.upload(new_file(tmp_path, content), uri, new=True)  # repeated, as after an answer that was lost
    other = new_file(tmp_path, content[:-1])
    with pytest.raises(StorageError):
        worker.upload(other, uri, new=True)
    for refused in (lambda: worker.upload(other, uri), lambda: worker.write_bytes(uri, b"")):
        with pytest.raises(StorageError, match="the store refused these credentials"):
            refused()
    assert driver.read_bytes(uri) == content
    driver.write_bytes(uri, b"the driver may")
    driver.delete([uri])
    assert not driver.exists(uri)


def test_a_worker_reaches_nothing_but_its_run_and_its_inputs(server, tmp_path):
    """Whatever the keys of a worker can do: nothing of another run is read, written or listed."""
    url, keys = server
    driver, worker = store_of(server, "driver"), store_of(server, "worker")
    root = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **_arguments(keys["owner"]))
    root.put_object(Bucket="corpora", Key="ours/another/manifest.json", Body=b"committed")
    assert worker.create(f"{OURS}/1", b"1") and not worker.create(f"{OURS}/1", b"2")
    driver.write_bytes(f"{OURS}/manifest.json", b"committed")
    for refused in (
        lambda: worker.list_files(OURS),
        lambda: worker.list_files("s3://corpora"),
        lambda: worker.list_files("s3://raw"),
        lambda: worker.list_files("s3://raw", skip_bad_names=True),
        lambda: worker.delete([f"{OURS}/1"]),
        lambda: worker.delete([f"{OTHERS}/manifest.json"]),
        lambda: worker.write_bytes(f"{OURS}/1", b"2"),
        lambda: worker.read_bytes(f"{OTHERS}/manifest.json"),
        lambda: worker.create(f"{OTHERS}/2", b"2"),
        lambda: worker.create("s3://corpora/ours/runs", b"2"),
        lambda: worker.upload(new_file(tmp_path, LARGE), f"{OTHERS}/2", new=True),
        lambda: worker.create("s3://raw/a", b""),
        lambda: driver.write_bytes("s3://raw/a", b""),
        lambda: driver.delete(["s3://raw/a"]),
        lambda: driver.write_bytes(f"{OTHERS}/manifest.json", b""),
        lambda: driver.read_bytes(f"{OTHERS}/manifest.json"),
    ):
        with pytest.raises(StorageError, match="the store refused these credentials"):
            refused()
    s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **_arguments(keys["worker"]))
    for key in ("ours/run/manifest.json", "ours/another/manifest.json"):
        place = {"Bucket": "corpora", "Key": key}
        upload = None
        for request in (
            lambda place=place: s3.put_object(**place, Body=b""),
            lambda place=place: s3.put_object(**place, Body=b"", IfNoneMatch="*"),
            lambda place=place: s3.copy_object(**place, CopySource="corpora/ours/run/1"),
            lambda place=place: s3.delete_object(**place),
            lambda place=place: s3.put_object_tagging(**place, Tagging={"TagSet": []}),
            lambda place=place: s3.put_object_acl(**place, ACL="public-read"),
        ):
            with pytest.raises(ClientError, match=REFUSED):
                request()
        if key.startswith("ours/run/"):
            upload = s3.create_multipart_upload(**place)["UploadId"]
            part = s3.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"x")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            for condition in ({}, {"IfNoneMatch": "*"}):
                with pytest.raises(ClientError, match=REFUSED):
                    s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts, **condition)
        assert root.get_object(**place)["Body"].read() == b"committed"
    driver.delete([f"{OURS}/1", f"{OURS}/manifest.json"])


def _arguments(keys: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in keys.items()}


@pytest.mark.slow
def test_curate_runs_with_these_rights_alone(as_driver, tmp_path, monkeypatch):
    storage, session = as_driver
    write_texts(tmp_path / "in")
    settings = EVERY_STAGE_OF_PAGES | {"inputs": [texts_source(tmp_path / "in")], "storage": storage}
    cut_into_many_units(monkeypatch)
    local = curate_inline(settings | {"output": str(tmp_path / "local")}, monkeypatch)
    run = curate_inline(
        settings | {"output": "s3://corpora/ours/run/curate"}, monkeypatch, engine=EngineElsewhere, session=session
    )
    assert run.manifest["artifacts"] == local.manifest["artifacts"]


@pytest.mark.slow
def test_pack_runs_with_these_rights_alone(as_driver, tmp_path, monkeypatch):
    storage, session = as_driver
    monkeypatch.setattr(packing, "Engine", EngineElsewhere)
    plain = PLAIN | {"corpus": write_corpus(tmp_path), "storage": storage, "output": "s3://corpora/ours/run/train"}
    packed = packing.pack(TrainConfig.model_validate(json.loads(json.dumps(plain))), session, Progress())
    assert packed.rows("train") > 10
