"""The policies of deploy/s3/ suffice: `curate` and `pack` run on a store that refuses everything else.

The workers are processes of their own, with keys of their own, under which nothing can be listed or deleted.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from cluster.engine import Engine
from cluster.errors import StorageError
from cluster.progress import Silent
from cluster.store.interface import StorageOptions
from cluster.store.store import Store
from tests.conftest import CREDENTIALS, moto
from tests.support.fault_works import EVERY_STAGE, write_texts
from tests.support.inline import NoRay, curate_inline
from tests.support.many_units import cut_into_many_units
from tests.support.train_inline import PLAIN, write_corpus
from training.config import TrainConfig
from training.pack import job as packing

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "s3"
USERS = ("driver", "worker")
# The calls that `server` makes before keys are wanted: for each user three, and a bucket each.
_CALLS = 3 * len(USERS) + 2


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """(address, variables of the environment with the keys of each user) of a server that enforces the policies."""
    with moto(INITIAL_NO_AUTH_ACTION_COUNT=str(_CALLS)) as url:
        place = {"endpoint_url": url, "region_name": "us-east-1"} | CREDENTIALS
        iam, s3 = boto3.client("iam", **place), boto3.client("s3", **place)
        for bucket in ("raw", "corpora"):
            s3.create_bucket(Bucket=bucket)
        keys = {}
        for user in USERS:
            policy = (POLICIES / f"{user}.json").read_text().replace("INPUTS", "raw").replace("OUTPUTS", "corpora")
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
            one["Resource"] = [one["Resource"], one["Resource"].removesuffix("/*")]
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

    def _map(self, run, rows, options):
        for done in self.session.workers.map(run, [pa.Table.from_pylist([row]) for row in rows]):
            yield from done["answer"].to_pylist()


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


def test_a_worker_reads_and_writes_and_may_do_nothing_else(server):
    driver, worker = store_of(server, "driver"), store_of(server, "worker")
    assert worker.create("s3://corpora/a/1", b"1") and not worker.create("s3://corpora/a/1", b"2")
    assert worker.read_bytes("s3://corpora/a/1") == b"1"
    for refused in (
        lambda: worker.list_files("s3://corpora/a"),
        lambda: worker.delete(["s3://corpora/a/1"]),
        lambda: worker.write_bytes("s3://raw/a", b""),
        lambda: driver.write_bytes("s3://raw/a", b""),
        lambda: driver.delete(["s3://raw/a"]),
    ):
        with pytest.raises(StorageError, match="the store refused these credentials"):
            refused()
    assert [file.uri for file in driver.list_files("s3://corpora/a")] == ["s3://corpora/a/1"]
    driver.delete(["s3://corpora/a/1"])


def test_curate_runs_with_these_rights_alone(as_driver, tmp_path, monkeypatch):
    storage, session = as_driver
    write_texts(tmp_path / "in")
    source = {"path": str(tmp_path / "in"), "id": "id", "columns": ["date"]}
    settings = EVERY_STAGE | {"inputs": [source], "storage": storage}
    cut_into_many_units(monkeypatch)
    local = curate_inline(settings | {"output": str(tmp_path / "local")}, monkeypatch)
    run = curate_inline(settings | {"output": "s3://corpora/run"}, monkeypatch, engine=EngineElsewhere, session=session)
    assert run.manifest["artifacts"] == local.manifest["artifacts"]


@pytest.mark.slow
def test_pack_runs_with_these_rights_alone(as_driver, tmp_path, monkeypatch):
    storage, session = as_driver
    monkeypatch.setattr(packing, "Engine", EngineElsewhere)
    plain = PLAIN | {"corpus": write_corpus(tmp_path), "storage": storage, "output": "s3://corpora/train"}
    packed = packing.pack(TrainConfig.model_validate(json.loads(json.dumps(plain))), session, Silent())
    assert packed.rows("train") > 10
