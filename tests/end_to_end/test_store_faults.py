"""A store that delays, refuses, loses, repeats and cuts requests: the same corpus as from one that does not."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest

from raymill.cluster.record import RecordFile
from raymill.cluster.store import object_store
from raymill.cluster.store.interface import NotFound, StorageOptions
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.inline import curate_inline
from tests.support.sampled import sampled
from tests.support.stories import story

KEYS = {"access_key_id": "key", "secret_access_key": "secret"}
TIMEOUT_S = 1.0


def _name(kind: Fault) -> str:
    return kind.name.lower()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    """The waits between two attempts at a request begin at a tenth of theirs."""
    monkeypatch.setattr(object_store, "_FIRST_WAIT_S", object_store._FIRST_WAIT_S / 10)


@pytest.fixture(scope="module")
def bucket(s3_server) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def plain(s3_server) -> Store:
    """The store without faults."""
    return Store(StorageOptions.model_validate({"endpoint_url": s3_server} | KEYS))


@contextmanager
def faults_of(s3_server: str, kinds: list[Fault], **options) -> Iterator[tuple[FaultProxy, Store]]:
    """The proxy, and the store behind it."""
    with FaultProxy(s3_server, kinds, hold_s=2 * TIMEOUT_S, **options) as proxy:
        settings = {"endpoint_url": proxy.url, "timeout_s": TIMEOUT_S} | KEYS
        yield proxy, Store(StorageOptions.model_validate(settings))


# --- a whole run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[dict]:
    """Three units of 7 documents, some of them duplicates."""
    folder = tmp_path_factory.mktemp("in")
    for part in range(3):
        texts = [story(20 * part + number) for number in range(6)] + [story(3)]
        rows = [json.dumps({"id": f"{part}-{number}", "text": text}) for number, text in enumerate(texts)]
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    return [{"path": str(folder), "id": "id"}]


def settings_of(inputs: list[dict], output: str, store: Store) -> dict:
    storage = store.options.model_dump(exclude_defaults=True)
    return {"inputs": inputs, "output": output, "storage": storage | KEYS}


@pytest.fixture(scope="module")
def undisturbed(inputs, bucket, plain) -> dict[str, str]:
    """The digests of the artifacts of a run without faults."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = curate_inline(settings_of(inputs, f"{bucket}/undisturbed", plain), monkeypatch)
    assert run.report["funnel"][0] and run.corpus.manifest.rows == 18
    return run.manifest["artifacts"]


class Watch:
    """Looks at the server itself after each PUT: an object is one that was sent, and what a record names is there."""

    def __init__(self, store: Store, root: str) -> None:
        self.store, self.root = store, root
        self.proxy: FaultProxy
        self.looked = 0
        self.wrong: list[str] = []

    def __call__(self, path: str) -> None:
        uri = f"s3:/{path}"
        try:
            data = self.store.read_bytes(uri)
        except NotFound:
            return  # a test file or a lease that was removed meanwhile
        self.looked += 1
        if data not in self.proxy.bodies[path]:
            self.wrong.append(f"{uri} has {len(data)} bytes that nobody sent")
        plain = json.loads(data) if uri.endswith(".json") else {}
        if isinstance(plain.get("files"), dict):  # the record of a unit
            named = [(f"{name}/{file['path']}", file) for name, files in plain["files"].items() for file in files]
        else:
            named = [(f"{plain.get('kind')}/{file['path']}", file) for file in plain.get("files", ())]
        for name, file in named:
            if self.store.info(f"{self.root}/{name}").size != file["bytes"]:
                self.wrong.append(f"{uri} names {name}, which is not whole")


def run_with_faults(kinds, share, seed, inputs, bucket, plain, undisturbed, s3_server, monkeypatch) -> FaultProxy:
    root = f"{bucket}/{uuid.uuid4().hex[:12]}"
    watch = Watch(plain, root)
    with faults_of(s3_server, kinds, share=share, seed=seed, on_put=watch) as (proxy, store):
        watch.proxy = proxy
        run = curate_inline(settings_of(inputs, root, store), monkeypatch)
    print(f"seed {seed}: {proxy.requests} requests, {dict(proxy.injected)}")
    assert run.manifest["artifacts"] == undisturbed
    assert watch.wrong == [] and watch.looked >= 40
    assert not curate_inline(settings_of(inputs, root, plain), monkeypatch).fresh
    return proxy


@pytest.mark.parametrize("kind", sampled(Fault, 2, seed=3), ids=_name)
def test_a_run_makes_the_same_corpus_under_each_kind_of_fault(
    kind, inputs, bucket, plain, undisturbed, s3_server, monkeypatch
):
    share = 0.03 if kind is Fault.TIME_OUT else 0.2
    proxy = run_with_faults([kind], share, 1, inputs, bucket, plain, undisturbed, s3_server, monkeypatch)
    assert proxy.injected[kind] >= 3


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_a_run_makes_the_same_corpus_under_all_kinds_of_faults(
    seed, inputs, bucket, plain, undisturbed, s3_server, monkeypatch
):
    kinds = [*Fault] * 3
    kinds.remove(Fault.TIME_OUT)  # it takes longest
    proxy = run_with_faults(kinds, 0.3, seed, inputs, bucket, plain, undisturbed, s3_server, monkeypatch)
    assert len(proxy.injected) >= 5


# --- single requests


@pytest.mark.parametrize(
    "kind",
    [
        Fault.LOST_ANSWER, Fault.DUPLICATED, pytest.param(Fault.TIME_OUT, marks=pytest.mark.slow), Fault.RESET_ANSWER,
    ],
    ids=_name,
)  # fmt: skip
def test_a_writer_recognises_its_own_record_if_the_answer_was_lost(kind, s3_server, bucket, plain):
    uri = f"{bucket}/{uuid.uuid4().hex}.json"
    with faults_of(s3_server, [kind], share=0.5, seed=3) as (proxy, store):
        for number in range(4):
            one = f"{uri}{number}"
            assert store.create(one, b"mine") and plain.read_bytes(one) == b"mine"
            assert not store.create(one, b"other"), "another writer's is no error, and not ours"
            file = RecordFile(store, one, "a record", bytes)
            assert file.create(b"third") == b"mine" == plain.read_bytes(one)
        assert proxy.injected[kind] >= 2


@pytest.mark.parametrize("kind", sampled(Fault, 3, seed=1), ids=_name)
def test_a_large_upload_is_whole_or_not_there_and_is_read_whole(kind, s3_server, bucket, plain, tmp_path):
    """In parts of 5 MB and pieces of 1 MB and more."""
    data = b"".join(number.to_bytes(8, "little") for number in range(1_500_000))
    # After a 409 the upload begins again, with five requests or more: at 0.3 one of eight uploads would use up all ten
    # repeats. Time-outs take long.
    share = 0.1 if kind in (Fault.TIME_OUT, Fault.CONFLICT) else 0.3
    with faults_of(s3_server, [kind], share=share, seed=5) as (proxy, store):
        for _ in range(3):
            uri = f"{bucket}/{uuid.uuid4().hex}"
            (tmp_path / "large").write_bytes(data)
            store.upload(tmp_path / "large", uri)
            assert plain.read_bytes(uri) == data
            with store.open_input(uri) as file:
                assert file.read(100) + file.read() == data
            store.delete([uri])
            assert not plain.exists(uri)
        assert proxy.injected[kind]
