"""Local files and S3 (moto) keep the same promises; what differs between them is tested apart."""

import errno
import itertools
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import LocalStore

from raymill.cluster.errors import StorageError
from raymill.cluster.store import local as local_store
from raymill.cluster.store import object_store, paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from tests.support.emulators import EMULATED

ODD_NAMES = ["a b", "a#b", "50%", "a%20b", "what?", "ü-日本", "[1]", "a+b&c=d", "~x", "it's", "star*"]


@pytest.fixture(params=["local", "s3", *EMULATED])
def root(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_root")


@pytest.fixture
def store(root, request) -> Store:
    return request.getfixturevalue(f"{paths.scheme(root)}_store") if paths.is_remote(root) else Store()


def test_what_is_written_is_read_and_a_second_write_replaces_it(root, store):
    uri = paths.join(root, "deep", "er", "x.txt")
    store.write_bytes(uri, b"one")
    store.write_bytes(uri, b"two")
    assert store.read_bytes(uri) == b"two"
    with store.open_input(uri) as file:
        file.seek(1)
        assert (file.read(1), file.read(), file.size()) == (b"w", b"o", 3)


def test_only_an_empty_folder_is_removed_and_nothing_above_it(root, store):
    uri = paths.join(root, "above", "folder", "x")
    store.write_bytes(uri, b"x")
    for folder in ("above/folder", "above", "nowhere"):
        store.delete_empty_folder(paths.join(root, folder))
    assert store.read_bytes(uri) == b"x"
    store.delete([uri])
    store.delete_empty_folder(paths.join(root, "above", "folder"))
    if not paths.is_remote(root):
        assert os.listdir(Path(root, "above")) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_ordinary_names(root, name, store):
    uri = paths.join(root, "folder", name)
    store.write_bytes(uri, name.encode())
    assert [(file.uri, store.read_bytes(file.uri)) for file in store.list_files(paths.join(root, "folder"))] == [
        (uri, name.encode())
    ]
    assert store.info(uri).size == len(name.encode())
    store.delete([uri])
    assert not store.exists(uri)


def test_of_racing_creators_exactly_one_wins_and_its_bytes_stay(root, store):
    for round_ in range(5):
        uri = paths.join(root, f"record-{round_}.json")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number, uri=uri: store.create(uri, bytes([number]) * 1000), range(8)))
        assert won.count(True) == 1
        assert store.read_bytes(uri) == bytes([won.index(True)]) * 1000


def test_a_version_changes_when_the_content_does_and_only_then(root, store):
    uri = paths.join(root, "x")
    store.write_bytes(uri, b"one")
    first = store.info(uri).version
    assert store.info(uri).version == first
    store.write_bytes(uri, b"two")
    assert store.info(uri).version != first


def test_a_large_upload_arrives_whole(root, tmp_path, store):
    data = os.urandom(1 << 20) * 20
    local = tmp_path / "scratch.bin"
    local.write_bytes(data)
    uri = paths.join(root, "up", "large.bin")
    store.upload(local, uri)
    assert store.read_bytes(uri) == data
    assert [file.size for file in store.list_files(paths.join(root, "up"))] == [len(data)]


def test_missing_files_are_no_files_and_deleting_them_is_no_error(root, store):
    uri = paths.join(root, "not", "there")
    assert not store.exists(uri)
    assert store.list_files(paths.join(root, "nowhere")) == []
    store.delete([uri, uri])
    for read in (store.read_bytes, store.open_input, store.info, store.local_copy):
        with pytest.raises(NotFound, match="no such file"):
            read(uri)


def test_a_folder_is_not_a_file(root, store):
    store.write_bytes(paths.join(root, "folder", "x"), b"1")
    assert not store.exists(paths.join(root, "folder"))
    with pytest.raises(StorageError, match="folder"):
        store.read_bytes(paths.join(root, "folder"))
    with pytest.raises(StorageError, match="folder"):
        store.open_input(paths.join(root, "folder"))


def test_a_listing_takes_folders_and_not_prefixes_of_names(root, store):
    for name in ("data/b.txt", "data/a/c.txt", "database/x", "data.txt"):
        store.write_bytes(paths.join(root, name), b"1")
    names = [file.uri.removeprefix(root + "/") for file in store.list_files(paths.join(root, "data"))]
    assert names == ["data/a/c.txt", "data/b.txt"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[a].txt", ["a.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("[a-b].txt", ["a.txt", "b.txt"]),
        ("sub/*", ["sub/c.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt"]),
        ("s*/c.txt", ["sub/c.txt"]),
        ("sub[!x]c.txt", []),  # a set stays inside a folder
        ("[]x].txt", []),
        ("*.json", []),
    ],
)
def test_a_glob_matches_inside_folders_and_two_stars_cross_them(root, pattern, matched, store):
    for name in ("a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt", "e.csv"):
        store.write_bytes(paths.join(root, name), b"1")
    found = [file.uri.removeprefix(root + "/") for file in store.glob(paths.join(root, pattern))]
    assert found == matched


def test_a_set_that_means_nothing_is_refused(root, store):
    with pytest.raises(StorageError, match=r"a set in brackets is not right.*\[a-z\]"):
        store.glob(paths.join(root, "[z-a].txt"))


def test_a_stored_parquet_file_is_read_in_pieces(root, tmp_path, store):
    table = pa.table({"x": list(range(100_000))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10_000)
    store.upload(tmp_path / "x.parquet", paths.join(root, "y.parquet"))
    with store.open_input(paths.join(root, "y.parquet")) as file:
        assert pq.ParquetFile(file).read_row_group(3)["x"].to_pylist() == list(range(30_000, 40_000))


def test_conditional_writes_are_found_to_work_and_the_test_file_leaves_nothing(root, store):
    store.require_conditional_writes(root)
    assert store.list_files(root) == []


@pytest.mark.parametrize("answers", [(True, True), (False, False), (False, True)])
def test_a_store_whose_first_write_is_not_the_one_that_wins_is_refused(tmp_path, monkeypatch, answers):
    given = itertools.cycle(answers)
    monkeypatch.setattr(local_store.LocalStore, "create", lambda self, key, data: next(given))
    with pytest.raises(StorageError, match="ignores put-if-absent"):
        Store().require_conditional_writes(str(tmp_path))


def test_a_store_is_not_refused_because_gc_of_another_driver_removed_its_test_file(tmp_path, monkeypatch):
    create = local_store.LocalStore.create

    def and_remove(self, key, data):
        created = create(self, key, data)
        monkeypatch.setattr(local_store.LocalStore, "create", create)
        os.remove(key)
        return created

    monkeypatch.setattr(local_store.LocalStore, "create", and_remove)
    Store().require_conditional_writes(str(tmp_path))
    assert Store().list_files(str(tmp_path)) == []


def test_on_stores_that_report_it_deleting_what_is_gone_is_no_error_either(tmp_path):
    """S3 answers a deletion with success whatever was there; other stores report what was missing, as this one does."""
    store = LocalStore(tmp_path)
    with pytest.raises(FileNotFoundError):
        store.delete("gone")
    bucket = object_store.Bucket("gs://bucket", store, "storage")
    bucket.write("there", b"1")
    bucket.delete(["gone", "there", "gone"])
    assert list(bucket.walk("")) == []


def test_a_local_copy_has_the_content_and_follows_its_changes(root, tmp_path, monkeypatch, store):
    monkeypatch.setattr(local_store.tempfile, "tempdir", str(tmp_path))
    uri = paths.join(root, "m" * 150 + ".bin")
    for content in (b"one", b"three"):
        store.write_bytes(uri, content)
        assert store.local_copy(uri).read_bytes() == content
        assert store.local_copy(uri) == store.local_copy(uri)


def test_a_link_or_a_folder_of_another_user_is_not_the_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(local_store.tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"raymill-copies-{os.getuid()}"
    assert local_store.own_folder() == own and own.stat().st_mode & 0o777 == 0o700
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"belongs to someone else\. Set TMPDIR"):
        local_store.own_folder()
    own.unlink()
    other = os.getuid() + 1
    monkeypatch.setattr(local_store.os, "getuid", lambda: other)
    with pytest.raises(StorageError, match=rf"copies-{other}: belongs to someone else"):
        local_store.own_folder()


# --- paths


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b/", "/a/b"),
        ("file:///a/b%20c%23", "/a/b c#"),
        ("file://localhost/a", "/a"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("S3://Bucket/A%20b", "s3://Bucket/A%20b"),
        ("s3://bucket/", "s3://bucket"),
    ],
)
def test_absolute_names_a_place_in_one_way(uri, path):
    assert paths.absolute(uri) == path


def test_relative_and_home_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.absolute("x/y") == f"{tmp_path}/x/y"
    assert paths.absolute("~/x") == "/home/someone/x"


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("/", "a"), "/a"),
        (("/x/", "/a/", "b"), "/x/a/b"),
        (("s3://b", "k"), "s3://b/k"),
        (("s3://b/", "k"), "s3://b/k"),
    ],
)
def test_join_puts_one_slash_between_parts(parts, joined):
    assert paths.join(*parts) == joined


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hdfs://host/x", "hdfs:// is not a store.*s3://, gs://, az://"),
        ("s3://", "no bucket. Write s3://BUCKET/PATH"),
        ("s3://*/x", "no bucket"),
        ("s3://bucket", "is a bucket; a file in it was wanted"),
        ("file://host/x", "names a machine.*three slashes"),
    ],
)
def test_a_uri_that_names_no_file_is_refused_with_the_right_form(uri, message):
    with pytest.raises(StorageError, match=message):
        Store().read_bytes(uri)


# --- what only local files have


def test_a_reader_never_reads_half_a_file_nor_its_part(tmp_path, monkeypatch):
    target, seen = tmp_path / "x", []
    monkeypatch.setattr(local_store, "_flush", lambda part: seen.append((part, Store().list_files(str(tmp_path)))))
    Store().write_bytes(str(target), b"new")
    (part, listed), *_ = seen
    assert part.name.endswith(".part") and listed == []
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("how", ["write", "create", "upload", "upload onto another disk"])
def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, how):
    flushed: set[int] = set()
    named: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def move(moved):
        def checked(source, target):
            if how == "upload onto another disk" and Path(source) == scratch:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            assert os.stat(source).st_ino in flushed, f"{target} has its name before its content is on the disk"
            named.append(os.path.basename(target))
            moved(source, target)

        return checked

    monkeypatch.setattr(local_store.os, "fsync", lambda file: flushed.add(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(local_store.os, "replace", move(replace))
    monkeypatch.setattr(local_store.os, "link", move(link))
    scratch, target = tmp_path / "scratch", str(tmp_path / "target")
    scratch.write_bytes(b"content")
    if how == "write":
        Store().write_bytes(target, b"content")
    elif how == "create":
        assert Store().create(target, b"content")
    else:
        Store().upload(scratch, target)
    assert named == ["target"] and Store().read_bytes(target) == b"content"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_store, "_flush", full)
    for write in (Store().write_bytes, Store().create):
        with pytest.raises(StorageError, match=r"No space left.*free space.*finished work is kept"):
            write(str(target), b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def test_a_file_system_without_hard_links_is_named_as_the_cause(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(
        StorageError, match=r"does not allow a hard link here, likely because it has none.*another output"
    ):
        Store().create(str(tmp_path / "x"), b"1")


def test_what_a_file_system_does_not_allow_is_not_blamed_on_hard_links(tmp_path, monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(StorageError, match="The file system does not allow it") as refused:
        Store().create(str(tmp_path / "new" / "x"), b"1")
    assert "hard link" not in str(refused.value)


@pytest.mark.parametrize("write", [Store().write_bytes, Store().create])
@pytest.mark.parametrize("refused", ["mkdir", "write_bytes"])
def test_a_place_where_nothing_can_be_made_is_no_missing_file_to_who_writes(tmp_path, monkeypatch, write, refused):
    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")  # as below /proc

    monkeypatch.setattr(Path, refused, nowhere)
    with pytest.raises(StorageError, match=r"cannot be made here \(No such file.*Choose another output") as told:
        write(str(tmp_path / "new" / "x"), b"1")
    assert not isinstance(told.value, NotFound)


@pytest.mark.parametrize("write", [Store().write_bytes, Store().create])
@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("file/x", "DIR/file: File exists. A file stands where a folder was wanted. Choose another output."),
        ("file/deep/x", "DIR/file/deep: Not a directory. A file stands where a folder was wanted: DIR/file."),
    ],
)
def test_a_file_where_a_folder_should_be_is_named(tmp_path, write, below, said):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StorageError) as refused:
        write(str(tmp_path / below), b"2")
    assert str(refused.value).replace(str(tmp_path), "DIR") == said


def test_an_upload_onto_another_disk_is_a_copy(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")
    replace = os.replace

    def other_disk(source: object, target: object) -> None:
        if Path(str(source)).name == "x":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_disk)
    Store().upload(tmp_path / "x", str(tmp_path / "y"))
    assert (tmp_path / "y").read_bytes() == b"1"


def test_links_are_followed_but_never_round_in_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    names = [file.uri.removeprefix(f"{tmp_path}/") for file in Store().list_files(str(tmp_path))]
    assert names == ["linked/x", "real/x"]


def test_a_file_removed_during_a_listing_is_left_out(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_bytes(b"1")
    isfile = os.path.isfile

    def removed(path: str) -> bool:
        there = isfile(path)
        if Path(path).name == "a":
            Path(path).unlink()
        return there

    monkeypatch.setattr(os.path, "isfile", removed)
    assert [Path(file.uri).name for file in Store().list_files(str(tmp_path))] == ["b"]


def test_a_name_that_is_not_utf8_is_refused_as_such(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_bytes(b"1")
    with pytest.raises(StorageError, match=r"caf\\udce9.txt.*not UTF-8.*Rename it"):
        Store().list_files(str(tmp_path))


def test_a_name_that_is_not_utf8_may_be_left_out_of_listings_and_patterns(tmp_path):
    for name in (b"/caf\xe9.txt", b"/a.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + name)).write_bytes(b"1")
    for find in (lambda **more: Store().list_files(str(tmp_path), **more), partial(Store().glob, f"{tmp_path}/*")):
        assert [Path(file.uri).name for file in find(skip_bad_names=True)] == ["a.txt"]
        with pytest.raises(StorageError, match="not UTF-8"):
            find()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "permissions"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.ENAMETOOLONG, "too long"),
    ],
)
def test_what_the_system_refuses_comes_with_the_fix(tmp_path, monkeypatch, number, said):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=f"{tmp_path}/x: .*{said}"):
        Store().read_bytes(str(tmp_path / "x"))


def test_a_forbidden_folder_is_an_error_and_not_an_empty_one(tmp_path):
    """In a process without root's rights: root may read everything."""
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir()
    (forbidden / "x").write_bytes(b"1")
    forbidden.chmod(0)
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(0o755)
    code = f"""
import os
from raymill.cluster.errors import StorageError
from raymill.cluster.store.store import Store
if os.getuid() == 0: os.setuid(65534)
read, create = (lambda uri: Store().read_bytes(uri + "/x")), (lambda uri: Store().create(uri + "/y", b""))
for act in (Store().list_files, read, create):
    try: act({str(forbidden)!r}); print("allowed")
    except StorageError as error: print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert result.stdout.count("Change its permissions, or run as a user who may") == 3, result.stdout + result.stderr


@pytest.mark.parametrize("act", ["read", "write", "create", "upload", "delete", "info", "open"])
def test_whatever_is_done_with_a_file_a_refusal_names_it_with_the_fix(tmp_path, monkeypatch, act):
    target, scratch = tmp_path / "x", tmp_path / "scratch"
    target.write_bytes(b"old")
    scratch.write_bytes(b"new")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    store = local_store.LOCAL
    place, name, do = {
        "read": (os, "open", store.read),
        "write": (os, "fsync", lambda key: store.write(key, b"1")),
        "create": (os, "fsync", lambda key: store.create(key, b"1")),
        "upload": (os, "fsync", lambda key: store.upload(scratch, key)),
        "delete": (Path, "unlink", lambda key: store.delete([key])),
        "info": (os, "stat", store.info),
        "open": (pa, "OSFile", store.open),
    }[act]
    monkeypatch.setattr(place, name, refuse)
    with pytest.raises(StorageError, match=rf"^{target}: Permission denied\. Change its permissions") as refused:
        do(str(target))
    assert not isinstance(refused.value, NotFound)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EISDIR, "A file was wanted: name one in it"),
        (errno.ENOTDIR, "A file stands where a folder was wanted"),
        (errno.ELOOP, "leads back to itself"),
        (errno.ENOSPC, "The disk is full"),
        (errno.EPERM, "does not allow it"),
        (errno.EEXIST, "Choose another output"),
        (errno.EIO, "Check the path and the disk under it"),
        (None, "Check the path and the disk under it"),
    ],
)
def test_an_error_of_the_system_has_its_own_fix(number, said):
    error = OSError(number, "as the system says it") if number else OSError("as the system says it")
    for made in (local_store._storage_error("/x", error), local_store._write_error("/x", error)):
        assert str(made).startswith("/x: as the system says it. ") and said in str(made)


def test_every_path_that_is_no_file_is_listed_with_its_kind_and_no_other(tmp_path):
    for folder in ("a/b", "linked"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"1")
    (tmp_path / "a" / "to file").symlink_to(tmp_path / "a" / "file")
    (tmp_path / "a" / "to folder").symlink_to(tmp_path / "linked")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "here").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    os.mkfifo(tmp_path / "linked" / "pipe")
    found = {path.removeprefix(f"{tmp_path}/"): kind for path, kind in Store().list_unreadable(str(tmp_path))}
    assert found == {
        "a/b/here": "circular link",
        "a/b/up": "circular link",
        "a/gone": "dangling link",
        "a/itself": "circular link",
        "a/to folder/pipe": "FIFO, socket or device",
        "linked/pipe": "FIFO, socket or device",
    }
    assert list(found) == sorted(found)
    files = [file.uri.removeprefix(f"{tmp_path}/") for file in Store().list_files(str(tmp_path))]
    assert files == ["a/file", "a/to file"]
    with pytest.raises(StorageError, match=r"pipe: is a FIFO, socket or device; a file was wanted"):
        Store().info(str(tmp_path / "linked" / "pipe"))


@pytest.mark.parametrize("read", ["read_bytes", "open_input", "open_parts", "read_range"])
def test_a_fifo_a_device_or_a_socket_is_refused_at_once_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        for name in ("pipe", "endless", "s"):
            with pytest.raises(StorageError, match=f"{name}: is a FIFO, socket or device; a file was wanted"):
                getattr(Store(), read)(str(tmp_path / name), *(0, 1) * (read == "read_range"))


def test_what_the_shell_opened_for_this_process_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"kind: curate")
    os.close(writing)
    assert Store().read_bytes(f"/dev/fd/{reading}") == b"kind: curate"
    os.close(reading)


def test_a_file_with_more_bytes_than_its_kind_has_is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match=r"has 1,099,511,627,776 bytes, and a file of this kind at most 10"):
        Store().read_bytes(str(tmp_path / "sparse"), 10)


def test_only_names_like_those_of_unfinished_writes_are_left_out_of_a_listing(tmp_path):
    part = f".{'0a' * 16}.part"
    for name in (part, f"{part}x", f"x{part}", part.upper(), ".0a.part", ".hidden", "x.part"):
        (tmp_path / name).write_bytes(b"1")
    names = {Path(file.uri).name for file in Store().list_files(str(tmp_path))}
    assert names == {f"{part}x", f"x{part}", part.upper(), ".0a.part", ".hidden", "x.part"}


def test_a_file_is_described_by_size_and_version_and_a_folder_holds_files_or_not(root, store):
    uri = paths.join(root, "a", "deep", "x")
    assert not store.holds_files(root)
    store.write_bytes(uri, b"12345")
    found = store.info(uri)
    assert (found.uri, found.size) == (uri, 5) and found.version and '"' not in found.version
    assert store.list_files(root) == [found] == store.glob(paths.join(root, "**")) == store.glob(uri)
    assert store.holds_files(root) and store.holds_files(paths.join(root, "a"))
    assert not store.holds_files(paths.join(root, "b")) and not store.holds_files(paths.join(root, "a", "dee"))


def test_deleting_removes_the_files_that_are_named_wherever_they_lie_and_no_other(root, store, tmp_path):
    here = [str(tmp_path / "local" / name) for name in "abc"]
    there = [paths.join(root, "remote", name) for name in "abc"]
    for uri in here + there:
        store.write_bytes(uri, b"1")
    store.delete(iter([here[0], there[1], here[2], there[0]]))
    assert [store.exists(uri) for uri in here + there] == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("uri", "scheme", "remote"),
    [("S3://b/x", "s3", True), ("gs://b", "gs", True), ("az://c/x", "az", True), ("file:///x", "file", False),
     ("/x", "", False), ("a+b.c-1://x", "a+b.c-1", False), ("x:/y", "", False), ("/a/s3://b", "", False)],
)  # fmt: skip
def test_the_scheme_tells_what_lies_in_a_bucket(uri, scheme, remote):
    assert (paths.scheme(uri), paths.is_remote(uri)) == (scheme, remote)


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("a/*.txt", ["a/.txt", "a/b.txt"], ["a/b/c.txt", "a/b.txt2", "xa/b.txt", "a/bxtxt"]),
        ("a/?", ["a/b", "a/\n"], ["a/", "a/bc", "a//"]),
        ("a/**/b", ["a/b", "a/c/b", "a/c/d/b"], ["a/cb", "ab"]),
        ("a/**", ["a/", "a/b", "a/b/c"], ["a"]),
        ("[a-c]", ["a", "c"], ["d", "-", "ab"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("[]a]", ["]", "a"], ["[", "b"]),
        ("[!]]", ["a"], ["]", "/"]),
        ("a[", ["a["], ["a"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("[.]", ["."], ["a"]),
    ],
)
def test_a_pattern_matches_whole_paths(pattern, matched, others):
    assert [path for path in matched + others if paths.matches(pattern, path)] == matched


def test_an_uploaded_file_has_the_mode_of_others_that_are_written(tmp_path):
    """safetensors lets the owner alone read what it writes; a server runs as another user."""
    made = tmp_path / "made"
    made.touch(mode=0o600)
    Store().upload(made, f"{tmp_path}/out/model.safetensors")
    Store().write_bytes(f"{tmp_path}/out/config.json", b"{}")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1 and modes != {0o600}
