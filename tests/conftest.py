"""Shared fixtures. Pure tests need none of them; what needs Ray, a store or real data asks by name."""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from _pytest.unraisableexception import gc_collect_iterations_key
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from raymill.cluster import cli
from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.frame.job import Made, Run, RunJob
from raymill.cluster.frame.kinds import kind_of, names
from raymill.cluster.session import Session
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from tests.support import durations, emulators
from tests.support.browser import Browser, missing
from tests.support.ceph import CephS3
from tests.support.counting_s3 import CountingS3
from tests.support.servers import CREDENTIALS, free_port, wait_for_port

# Ray reads its mode when it is imported, which any test may cause; all Rays of this process then accept its token.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# No file of a test has to survive a power failure. Commands and workers, in processes of their own, wait for the disk.
os.fsync = lambda file: None  # type: ignore[assignment]

# Tests do not assert timings: a busy machine must not fail one. Each run draws the same examples, so that a draw fails
# in the change that it belongs to; `make fuzz` draws others.
settings.register_profile("fuzz", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("raymill", parent=settings.get_profile("fuzz"), derandomize=True)
settings.load_profile("raymill")


def _published(job: RunJob[Any], made: Made, publish: Callable[..., Run] = RunJob._publish) -> Run:
    """Every report that a test makes has only names of its kind, which run files may refer to."""
    known = kind_of(job.kind).report if job.kind in names() else ()
    assert not known or made.report.keys() <= {*known}, "names of the report that its Kind does not have"
    return publish(job, made)


RunJob._publish = _published  # type: ignore[method-assign]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep Python's garbage collector off what importing all tests makes, which takes a third of that time.

    All of it stays until the end, so later collections need not look at it either.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the memory that importing all tests took in pages of 2 MB: forks of this process cost less than half then.

    A fork copies an entry of the page table for each page.
    """
    if sys.platform != "linux" or len(session.items) < 1000:
        return
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_, inode = line.split()[:5]
        if rights == "rw-p" and inode == "0":
            start, end = (int(one, 16) for one in addresses.split("-"))
            start, end = -(-start >> 21) << 21, end >> 21 << 21
            if start < end:
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _COLLAPSE)


# The files that take longest of those outside of tests/training: 25 to 70 s each with two cores for three processes.
_LONGEST = (
    "tests/end_to_end/test_python_on_ray.py",
    "tests/pipelines/ray_data/test_deduplicate.py",
    "tests/end_to_end/test_shadowed.py",
    "tests/cluster/test_engine_actors.py",
    "tests/end_to_end/test_curate_on_ray.py",
    "tests/cluster/submit/test_kuberay.py",
    "tests/end_to_end/test_faults.py",
    "tests/pipelines/distil/test_distil.py",
    "tests/cluster/readers/test_extractors.py",
    "tests/pipelines/test_kernel_cache.py",
    "tests/cluster/test_requests.py",
    "tests/pipelines/prepare/assess/test_assess.py",
    "tests/pipelines/dedup/test_sketches.py",
    "tests/test_house_rules.py",
    "tests/cluster/submit/test_contract.py",
)


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the sample of `make test` leaves out, and put the rest in order.

    The tests of training are first: they fork most often, and a fork costs more the more memory a process has. Then the
    longest files, so that no process is left with one of them while the others have ended.
    """
    seconds = durations.recorded()
    for item in items:
        file, _, name = item.nodeid.partition("::")
        function = f"{file}::{name.rpartition('::')[2].partition('[')[0]}"
        if durations.left_out(item.nodeid, seconds.get(function, 0)):
            item.add_marker("left_out")
    first = {name: number for number, name in enumerate(_LONGEST, 1)}

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return 0 if file.startswith("tests/training/") else first.get(file, len(_LONGEST) + 1)

    items.sort(key=place)


class _FilesAndRanks(LoadFileScheduling):
    """`--dist loadfile`, where one process has all files with RankPool: the server that it forks from takes seconds.

    So it is with the files that share a Ray.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if _has_ranks(self.config.rootpath / file):
            return "ranks"
        return "shared Ray" if _shares_ray(self.config.rootpath / file) else file


@cache
def _has_ranks(file: Path) -> bool:
    return re.search("^from tests.support.ranks import .*(RankPool|run_)", file.read_text(), re.MULTILINE) is not None


@cache
def _shares_ray(file: Path) -> bool:
    return "(shared_session" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Such a scheduler for `--dist loadfile`."""
    return _FilesAndRanks(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have Python free at its end what it can, or libraries print what they call leaks.

    Without the two collections of pytest, which take four seconds after all tests and find nothing that fails a test.
    """
    _end_shared_session()
    gc.unfreeze()
    session.config.stash[gc_collect_iterations_key] = 0


@pytest.fixture(autouse=True, scope="module")
def no_process_group_of_others() -> None:
    """Destroy a process group that a test of another file left in this process, also where DTensor's cache holds it."""
    if (distributed := sys.modules.get("torch.distributed")) and distributed.is_initialized():
        distributed.destroy_process_group()
    if torch := sys.modules.get("torch"):
        torch._C._clear_DTensor_sharding_propagator_cache()


_shared_sessions: list[Session] = []  # at most one


@pytest.fixture(autouse=True, scope="module")
def no_ray_of_others(request) -> None:
    """End the Ray that other files share before a file without it, which may start one of its own."""
    if _shared_sessions and not _shares_ray(request.path):
        _end_shared_session()


@pytest.fixture(scope="module")
def shared_session() -> Session:
    """A session with two CPUs for all files in a row that ask for it: its Ray and workers take ten seconds to start."""
    if not _shared_sessions:
        _shared_sessions.append(Session(cpus=2))
    return _shared_sessions[0]


def _end_shared_session() -> None:
    while _shared_sessions:
        _shared_sessions.pop().stop()


@pytest.fixture(autouse=True, scope="module")
def freed_memory_is_returned() -> Iterator[None]:
    """Return the memory that the tests of a file have freed to the system, for later forks of this process."""
    yield
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """An endpoint with OpenAI's interface that fails only where a test sets it to."""
    with FaultyServer() as server:
        yield server


@pytest.fixture
def run_cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def quick_reports(monkeypatch) -> None:
    """Short pauses of the client between tries and between reports to the throttle."""
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
    monkeypatch.setattr("raymill.cluster.asking.endpoint._FIRST_PAUSE_S", 0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    if what := missing():
        pytest.skip(what)
    with Browser() as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs beside the checkout; a fresh clone has none, and says so."""
    if not SHARED.is_dir():
        pytest.skip(f"no real inputs at {SHARED}: this test compares with data that is not part of the repository")
    return SHARED


@contextmanager
def moto(**environment: str) -> Iterator[str]:
    """A moto server, S3 as far as its answers go, in memory. Its address; it ends with the context.

    environment: variables of its process besides those of this one.
    """
    port = free_port()
    command = [sys.executable, "-m", "tests.support.moto_server", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=os.environ | environment, **quiet)
    try:
        wait_for_port(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a moto server."""
    with moto() as url:
        yield url


@pytest.fixture(scope="session")
def s3_with_keys() -> Iterator[Store]:
    """What reaches a second moto server, which knows one user with keys of its own and refuses everybody else."""
    # This number of first calls, those below, are answered whoever makes them.
    with moto(INITIAL_NO_AUTH_ACTION_COUNT="4") as url:
        place = {"endpoint_url": url, "region_name": "us-east-1"} | CREDENTIALS
        iam = boto3.client("iam", **place)
        iam.create_user(UserName="writer")
        policy = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
        iam.put_user_policy(UserName="writer", PolicyName="all", PolicyDocument=document)
        keys = iam.create_access_key(UserName="writer")["AccessKey"]
        boto3.client("s3", **place).create_bucket(Bucket="private")
        secret = {"access_key_id": keys["AccessKeyId"], "secret_access_key": keys["SecretAccessKey"]}
        yield Store(StorageOptions(endpoint_url=url, retries=1, **secret))


@pytest.fixture
def private(s3_with_keys: Store) -> str:
    """A fresh folder in the bucket of that server."""
    return f"s3://private/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def s3_store(s3_server: str) -> Store:
    """The store that reaches that server; local paths too, as every store."""
    return Store(StorageOptions(endpoint_url=s3_server, access_key_id="key", secret_access_key="secret", retries=2))


@pytest.fixture
def counting_s3(s3_server: str) -> Iterator[CountingS3]:
    """A proxy before that server, which counts requests and can answer in its place."""
    with CountingS3(s3_server) as proxy:
        yield proxy


@pytest.fixture
def counted_store(counting_s3: CountingS3) -> Store:
    """The store that reaches the server through that proxy."""
    return Store(
        StorageOptions(endpoint_url=counting_s3.url, access_key_id="key", secret_access_key="secret", retries=3)
    )


@pytest.fixture(scope="session")
def ceph(tmp_path_factory) -> Iterator[CephS3]:
    """A real S3 server."""
    if missing := CephS3.missing():
        pytest.skip(f"no {missing}: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common")
    with CephS3(tmp_path_factory.mktemp("ceph"), free_port) as server:
        yield server


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """The address of an emulated storage account of Azure. Its keys are in the environment from here on."""
    if what := emulators.missing("az"):
        pytest.skip(what)
    with pytest.MonkeyPatch.context() as patch, emulators.azurite() as address:
        for name, value in emulators.AZURE_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """The address of an emulated Google Cloud Storage."""
    if what := emulators.missing("gs"):
        pytest.skip(what)
    with emulators.fake_gcs() as address:
        yield address


@pytest.fixture
def az_root(azure: str) -> str:
    """A fresh container of that account."""
    name = f"container-{uuid.uuid4().hex[:12]}"
    emulators.make_container(azure, name)
    return f"az://{name}"


@pytest.fixture
def az_store(azure: str) -> Store:
    """The store that reaches that account."""
    return Store(StorageOptions(endpoint_url=azure, retries=2))


@pytest.fixture
def gs_root(gcs: str) -> str:
    """A fresh bucket of that server."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    emulators.make_bucket(gcs, name)
    return f"gs://{name}"


@pytest.fixture
def gs_store(gcs: str) -> Store:
    """The store that reaches that server, which knows no permissions."""
    return Store(StorageOptions(endpoint_url=gcs, retries=2, anonymous=True))


@pytest.fixture
def s3_root(s3_server: str) -> str:
    """A fresh bucket on that server."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket=name)
    return f"s3://{name}"
