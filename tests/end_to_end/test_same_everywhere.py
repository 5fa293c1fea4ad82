"""The same artifacts through local files, moto and Ceph, with any number of workers, on one node and on three."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest

from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS, SHARED
from tests.support.fault_works import (
    EVERY_STAGE,
    EVERY_STAGE_OF_PAGES,
    EVERY_STAGE_OF_PREPARE,
    prepared_content,
    texts_source,
    tickets_source,
    write_texts,
    write_tickets,
)
from tests.support.inline import curate_inline, prepare_inline
from tests.support.many_units import COMPONENT, cut_into_many_units
from tests.support.ray_cluster import ROOT, RayCluster

_KEYS = {"access_key_id": "key", "secret_access_key": "secret"}
_WAIT_S = 400
_TICKET_BYTES = 500  # of a unit of tickets


@dataclass(frozen=True)
class Texts:
    """Input of `curate`, and the digests of the artifacts that one process makes of it on local files."""

    inputs: list[dict]
    settings: dict
    unit_bytes: int
    times: int
    folder: Path
    digests: dict[str, str]


# Real texts: how many of each corpus, and sizes of `cut_into_many_units` (bytes of a unit, and `times`).
_REAL = {"real texts": (60, 150_000, 1), "whole corpora": (None, 8_000_000, 200)}


@pytest.fixture(scope="module", params=["stories", *(pytest.param(name, marks=pytest.mark.slow) for name in _REAL)])
def texts(request, tmp_path_factory) -> Texts:
    """Generated stories; versions of PEPs with translations of the Declaration of Human Rights, 60 of each and all."""
    folder, times = tmp_path_factory.mktemp("same"), 1
    if request.param == "stories":
        write_texts(folder / "in")
        inputs, settings, unit_bytes = [texts_source(folder / "in")], EVERY_STAGE_OF_PAGES, 4000
    else:
        if not SHARED.is_dir():
            pytest.skip(f"no real inputs at {SHARED}")
        rows, unit_bytes, times = _REAL[request.param]
        inputs = []
        for name in ("peps", "udhr"):
            table = pq.read_table(SHARED / f"{name}.parquet", columns=["id", "text"]).slice(0, rows)
            pq.write_table(table, folder / f"{name}.parquet", row_group_size=10 if rows else 250)
            inputs.append({"source": name, "path": str(folder / f"{name}.parquet"), "id": "id"})
        settings = EVERY_STAGE | {"dedup": {"component_documents": COMPONENT * times}}
        if rows:  # the identification of languages leaves few of so few
            settings |= {"language": None}
    with pytest.MonkeyPatch.context() as patch:
        cut_into_many_units(patch, unit_bytes, times)
        run = curate_inline(settings | {"inputs": inputs, "output": str(folder / "local")}, patch)
    if request.param == "stories":
        reasons = run.removed.table()["reason"].to_pylist()
        assert (reasons.count("repeated_url"), reasons.count("repeated_payload")) == (2, 2)
    assert run.corpus.manifest.rows > 10 and len(run.manifest["artifacts"]) > 10
    return Texts(inputs, settings, unit_bytes, times, folder, run.manifest["artifacts"])


def through_s3(texts: Texts, url: str) -> dict[str, str]:
    """The digests of a run whose input and output are on this server."""
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **CREDENTIALS)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    inputs = []
    for one in texts.inputs:
        path = Path(one["path"])
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            client.upload_file(str(file), bucket, f"{path.name}/{file.name}")
        inputs.append(one | {"path": f"s3://{bucket}/{path.name}"})
    storage = {"endpoint_url": url} | _KEYS
    settings = texts.settings | {"inputs": inputs, "output": f"s3://{bucket}/run", "storage": storage}
    with pytest.MonkeyPatch.context() as patch:
        cut_into_many_units(patch, texts.unit_bytes, texts.times)
        return curate_inline(settings, patch).manifest["artifacts"]


def on_ray(texts: Texts, session: dict, **environment: str) -> dict[str, str]:
    """The digests of a run on Ray, in a process of its own. session: arguments of the session."""
    settings = texts.settings | {"inputs": texts.inputs, "output": str(texts.folder / uuid.uuid4().hex[:8])}
    return run_on_ray(texts.folder, settings, (texts.unit_bytes, texts.times), session, "curate", **environment)


def run_on_ray(
    folder: Path, settings: dict, cut: tuple[int, int], session: dict, kind: str, **environment: str
) -> dict[str, str]:
    """The digests of the artifacts of a run on Ray.

    cut: `unit_bytes` and `times` of `cut_into_many_units`. kind: curate or prepare.
    """
    job = folder / f"{uuid.uuid4().hex[:8]}.json"
    parts = {"unit_bytes": cut[0], "times": cut[1]}
    job.write_text(json.dumps({"kind": kind, "settings": settings, "session": session} | parts))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.many_units_on_ray", str(job)],
        capture_output=True, text=True, timeout=_WAIT_S, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tickets(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the input of `prepare`, and what one process makes of it in many units."""
    folder = tmp_path_factory.mktemp("tickets")
    write_tickets(folder / "in")
    settings = EVERY_STAGE_OF_PREPARE | {"inputs": [tickets_source(folder / "in")], "output": str(folder / "local")}
    with pytest.MonkeyPatch.context() as patch:
        cut_into_many_units(patch, _TICKET_BYTES)
        run = prepare_inline(settings, patch)
    assert run.split("train").manifest.rows > 20 and run.assessment["score"] is not None
    return folder, prepared_content(run.uri, Store())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_data_set_and_its_assessment_with_any_number_of_workers(tickets, workers):
    folder, wanted = tickets
    settings = EVERY_STAGE_OF_PREPARE | {
        "inputs": [tickets_source(folder / "in")],
        "output": str(folder / f"{workers}"),
    }
    run_on_ray(folder, settings, (_TICKET_BYTES, 1), {"cpus": workers}, "prepare")
    assert prepared_content(settings["output"], Store()) == wanted


@pytest.mark.slow  # test_curate_s3.py has a smaller run
def test_through_moto(texts, s3_server):
    assert through_s3(texts, s3_server) == texts.digests


@pytest.mark.rgw
@pytest.mark.slow
def test_through_ceph(texts, ceph):
    assert through_s3(texts, ceph.url) == texts.digests


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_with_any_number_of_workers(texts, workers):
    assert on_ray(texts, {"cpus": workers}) == texts.digests


@pytest.mark.cluster
@pytest.mark.parametrize("nodes", [1, 3])
def test_on_any_number_of_nodes(texts, nodes):
    with RayCluster(workers=nodes) as cluster:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token}
        assert on_ray(texts, {"address": cluster.gcs}, **token) == texts.digests
