"""A folder of a store as a folder of this machine: whole or not at all, once, and anew when it changes."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from raymill.cluster.errors import StorageError
from raymill.cluster.store import copies as local_copies
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_folder
from raymill.cluster.store.interface import FileInfo, NotFound, Unavailable
from raymill.cluster.store.store import Store


@pytest.fixture
def store(s3_store) -> Store:
    return s3_store


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Path:
    """Where this test's copies lie."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(local_copies, "own_folder", lambda: folder)
    return folder


@pytest.fixture
def remote(s3_root, s3_store) -> str:
    uri = paths.join(s3_root, "model")
    for name, data in {"config.json": b"{}", "deep/er/weights": b"w" * 100_000, "empty": b""}.items():
        s3_store.write_bytes(paths.join(uri, name), data)
    return uri


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_fetches(monkeypatch) -> list[str]:
    fetched: list[str] = []
    fetch = local_copies._copy
    monkeypatch.setattr(
        local_copies, "_copy", lambda store, file, path: (fetched.append(file.uri), fetch(store, file, path))
    )
    return fetched


def test_a_local_folder_is_itself(tmp_path):
    assert local_folder(Store(), str(tmp_path)) == tmp_path
    with pytest.raises(NotFound, match="no such folder"):
        local_folder(Store(), str(tmp_path / "none"))


def test_a_folder_is_fetched_whole_and_once(remote, copies, monkeypatch, store):
    fetched = count_fetches(monkeypatch)
    folder = local_folder(store, remote)
    assert content(folder) == {"config.json": b"{}", "deep/er/weights": b"w" * 100_000, "empty": b""}
    assert local_folder(store, remote + "/") == folder
    assert len(fetched) == 3


def test_a_folder_that_changes_is_fetched_anew_and_the_old_copy_stays(remote, copies, store):
    before = local_folder(store, remote)
    store.write_bytes(paths.join(remote, "config.json"), b"[]")
    after = local_folder(store, remote)
    assert after != before
    assert (content(before)["config.json"], content(after)["config.json"]) == (b"{}", b"[]")


def test_nothing_there_is_no_folder(s3_root, copies, store):
    with pytest.raises(NotFound, match="nothing in it"):
        local_folder(store, paths.join(s3_root, "nothing"))


def test_a_copy_cut_short_is_not_taken_for_one_and_is_made_again(remote, copies, monkeypatch, store):
    fetch = local_copies._copy

    def die(store: Store, file: FileInfo, path: Path) -> None:
        if file.uri.endswith("weights"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fetch(store, file, path)

    monkeypatch.setattr(local_copies, "_copy", die)
    with pytest.raises(StorageError, match=r"could not be copied.*No space left.*TMPDIR"):
        local_folder(store, remote)
    assert not [path for path in copies.iterdir() if path.is_dir()]
    monkeypatch.setattr(local_copies, "_copy", fetch)
    # As a killed process leaves it.
    name = next(copies.glob("*.lock")).name.removesuffix(".lock")
    (copies / f"{name}.part").mkdir()
    (copies / f"{name}.part" / "junk").write_bytes(b"junk")
    assert set(content(local_folder(store, remote))) == {"config.json", "deep/er/weights", "empty"}


@pytest.mark.parametrize("listed", [99_999, 100_001])
def test_an_object_that_changed_since_the_listing_is_no_part_of_a_copy(remote, copies, monkeypatch, store, listed):
    weights = FileInfo(paths.join(remote, "deep/er/weights"), listed, "v")
    monkeypatch.setattr(Store, "list_files", lambda self, uri: [weights])
    with pytest.raises(Unavailable, match=f"weights: 100000 bytes were read, and the store listed {listed}"):
        local_folder(store, remote)
    assert not [path for path in copies.iterdir() if path.is_dir()]


def test_an_object_that_would_leave_the_folder_is_refused(remote, copies, monkeypatch, store):
    listed = store.list_files(remote)
    outside = FileInfo(f"{remote}/../../evil", 1, "v")
    monkeypatch.setattr(Store, "list_files", lambda self, uri: [*listed, outside])
    with pytest.raises(StorageError, match=r"evil' is not a path below this folder"):
        local_folder(store, remote)


def fetch_elsewhere(store: Store, uri: str, folder: Path) -> Path:
    """In a process of its own. Leaves a line in `fetched` for each file it fetches."""
    local_copies.own_folder = lambda: folder
    fetch = local_copies._copy

    def noted(store: Store, file: FileInfo, path: Path) -> None:
        with (folder.parent / "fetched").open("a") as log:
            log.write(f"{file.uri}\n")
        fetch(store, file, path)

    local_copies._copy = noted
    return local_folder(store, uri)


def test_of_two_processes_at_once_one_fetches_and_both_get_the_same_copy(remote, copies, s3_store):
    arguments = (s3_store, remote, copies)
    # Not forked: the store's client has threads, which a fork does not copy.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = [pool.apply_async(fetch_elsewhere, arguments) for _ in range(2)]
        assert first.get(timeout=60) == second.get(timeout=60)
    assert len((copies.parent / "fetched").read_text().splitlines()) == 3


def test_a_copy_has_a_name_of_its_content_and_the_end_of_the_folders_name(s3_root, s3_store, copies):
    for name in ("model", "m" * 50 + "n" * 100):
        s3_store.write_bytes(paths.join(s3_root, name, "a"), b"1")
        copy = local_folder(s3_store, paths.join(s3_root, name)).name
        digest, _, shown = copy.partition("-")
        assert (len(digest), shown) == (32, name[-100:])


@pytest.mark.parametrize("change", [{"uri": "s3://b/m/other"}, {"version": "w"}, {"size": 2}])
def test_a_copy_is_another_where_name_version_or_size_of_a_file_is(copies, monkeypatch, change):
    def found(**changes) -> Path:
        listed = [FileInfo(**({"uri": "s3://b/m/a", "size": 1, "version": "v"} | changes))]
        monkeypatch.setattr(Store, "list_files", lambda self, uri: listed)
        return local_folder(Store(), "s3://b/m")

    monkeypatch.setattr(local_copies, "_copy", lambda store, file, path: path.parent.mkdir(exist_ok=True, parents=True))
    assert found() == found() != found(**change)


def test_a_folder_that_does_not_fit_is_reported_with_its_size(copies, monkeypatch):
    listed = [FileInfo(f"s3://b/m/{name}", 1_234_000_000, "v") for name in "ab"]
    monkeypatch.setattr(Store, "list_files", lambda self, uri: listed)

    def full(store: Store, file: FileInfo, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_copies, "_copy", full)
    with pytest.raises(StorageError, match=rf"^s3://b/m: 2\.47 GB could not be copied to {copies} \(No space left"):
        local_folder(Store(), "s3://b/m")
