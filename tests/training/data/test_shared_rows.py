"""Row groups of an object store that four workers of a machine read once together, and their files."""

import fcntl
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch.distributed as dist

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import StorageError
from raymill.cluster.store import shared_tables
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.shared_tables import SharedTables
from raymill.cluster.store.store import Store
from raymill.training.data import packed
from raymill.training.data.batch import Loader
from raymill.training.data.order import Order
from raymill.training.data.packed import PackedRows
from raymill.training.fit.loop import Training
from tests.support.packed_examples import config, document, pack_examples, write_examples
from tests.support.ranks import RankPool

# Rows of a step and of a row group as at 8,192 tokens a row; these are shorter.
WORKERS, STEPS, ROWS_PER_STEP, GROUP_ROWS, LENGTH = 4, 32, 16, 32, 256
ROWS = STEPS * ROWS_PER_STEP


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(shared_tables, "own_folder", lambda: tmp_path)
    return tmp_path


def table(*numbers: int) -> pa.Table:
    return pa.table({"number": numbers})


def test_a_table_is_made_once_and_read_by_all(folder):
    one, other = (SharedTables("rows", 8) for _ in range(2))
    made = []
    for shared in (one, other, one):
        assert shared.table("a 1", lambda: made.append(1) or table(1, 2)).equals(table(1, 2))
    assert shared.table("a 2", lambda: table(3)).equals(table(3)) and made == [1]
    one.close()
    assert list(one.folder.glob("*.arrow")), "another process uses them"
    other.close()
    assert not one.folder.exists()


@pytest.mark.parametrize("name", ["rows/../../own", "../own", "{tmp}/own", "x" * 5000, "a/b"])
def test_a_name_of_others_leads_to_no_other_folder(monkeypatch, tmp_path, name):
    (tmp_path / "copies").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("thesis")
    monkeypatch.setattr(shared_tables, "own_folder", lambda: tmp_path / "copies")
    shared = SharedTables(name.format(tmp=tmp_path), 2)
    assert shared.table("a", lambda: table(1)).equals(table(1)) and len(list(tmp_path.glob("copies/*/*.arrow"))) == 1
    shared.close()
    assert [*(tmp_path / "own").iterdir()] == [tmp_path / "own/thesis.txt"]


def test_rows_of_another_store_are_not_shared(monkeypatch, tmp_path):
    """A bucket of the same name on another store has other rows, whatever its manifests state."""
    made = pack_examples(str(tmp_path), write_examples(str(tmp_path), [document("d", 16)]), config())["train"]
    names = []
    monkeypatch.setattr(packed, "SharedTables", lambda name, kept: names.append(name))
    for port in (1, 2, 1):
        store = Store(StorageOptions(endpoint_url=f"http://store:{port}"))
        PackedRows(Artifact(store, "s3://b/p", made.manifest), shared=True)
    assert names[0] != names[1] and names[0] == names[2]


def test_the_newest_files_stay_and_one_that_is_gone_or_cut_short_is_made_again(folder):
    shared, made = SharedTables("../rows/..", 2), []
    assert shared.folder.parent == folder and ".." not in shared.folder.parts
    for key in ["a", "b", "c", "a"]:
        found = shared.table(key, lambda key=key: made.append(key) or pa.table({"key": [key]}))
        assert found["key"].to_pylist() == [key]
    assert made == ["a", "b", "c", "a"] and len(list(folder.glob("*/*.arrow"))) == 2
    newest = max(folder.glob("*/*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:100])
    assert shared.table("a", lambda: table(5)).equals(table(5))
    shared.close()


def test_what_fails_is_tried_again_and_without_room_for_files_each_makes_its_own(folder, monkeypatch):
    shared = SharedTables("rows", 2)

    def fail() -> pa.Table:
        raise StorageError("gone")

    with pytest.raises(StorageError):
        shared.table("a", fail)
    assert shared.table("a", lambda: table(1)).equals(table(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SharedTables, "_write", full)
    assert shared.table("b", lambda: table(2)).equals(table(2))
    assert shared.table("b", lambda: table(3)).equals(table(3))
    monkeypatch.setattr(fcntl, "flock", full)
    assert shared.table("c", lambda: table(4)).equals(table(4))


def read_steps(artifact: Artifact, shared: bool, temporary: str) -> tuple[int, list[list[int]]]:
    """On a rank: (row groups that it fetched, tokens of each row of its steps)."""
    shared_tables.own_folder = lambda: Path(temporary)
    order = Order([ROWS], [ROWS], ROWS_PER_STEP, GROUP_ROWS, seed=1)
    rows = PackedRows(artifact, shared=shared)
    loader = Loader(order, [rows], dist.get_rank(), WORKERS, 4, LENGTH, 0, steps=STEPS)
    found = []
    for step in range(STEPS):
        dist.barrier()
        for batch in loader.micro_batches(step):
            found += batch.input_ids.tolist()
    dist.barrier()
    loader.close()
    return rows.fetched_groups, found


def test_four_workers_fetch_each_row_group_once(monkeypatch, s3_root, s3_store, counted_store, counting_s3, tmp_path):
    monkeypatch.setattr(packed, "_GROUP_TOKENS", GROUP_ROWS * LENGTH // 2)
    documents = [document(f"d{n}", LENGTH) for n in range(ROWS)]
    settings = config(sequence_length=LENGTH, tokens_per_step=LENGTH)
    made = pack_examples(s3_root, write_examples(s3_root, documents, store=s3_store), settings)["train"]
    artifact = Artifact(counted_store, made.uri, made.manifest)
    groups = len(PackedRows(artifact).group_rows)
    fetched, requests, rows = {}, {}, {}
    with RankPool(WORKERS) as ranks:
        for shared in (False, True):
            counting_s3.requests.clear()
            results = ranks.run(read_steps, artifact, shared, str(tmp_path))
            fetched[shared] = sum(count for count, _ in results)
            requests[shared] = len(counting_s3.requests)
            rows[shared] = [found for _, found in results]
    print(f"row groups fetched {fetched}, requests {requests}, of {STEPS} steps")
    assert rows[False] == rows[True]
    assert fetched[True] == groups <= fetched[False] / 2
    assert requests[True] < requests[False] / 2, "the last row groups come with the footer, which each worker reads"
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(("local_workers", "remote", "shared"), [(2, True, True), (1, True, False), (2, False, False)])
def test_a_training_shares_rows_of_an_object_store_among_the_workers_of_a_machine(
    monkeypatch, s3_root, s3_store, tmp_path, local_workers, remote, shared
):
    monkeypatch.setattr(shared_tables, "own_folder", lambda: tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_workers))
    root = s3_root if remote else str(tmp_path / "packed")
    documents = [document("d", 16)]
    made = pack_examples(root, write_examples(root, documents, store=s3_store), config())["train"]
    training = SimpleNamespace(job=SimpleNamespace(row_bounds=lambda embedded: None), embedded=1, references={})
    rows = Training._rows(training, made)
    assert rows.read([0])[0]["documents"].to_pylist() == [["d"]]
    assert bool(list(tmp_path.glob("shared-*/*.arrow"))) == shared
    rows.close()
