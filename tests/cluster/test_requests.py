"""Requests that reach an S3 server, counted by a proxy: how many, how many bytes, and what happens if some fail."""

import random
import shutil
from collections import Counter
from types import SimpleNamespace

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import MemoryStore

from raymill.cluster import stage as stages
from raymill.cluster.artifact import read_tables
from raymill.cluster.errors import StorageError
from raymill.cluster.lease import held
from raymill.cluster.output import Output
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import Span, stream
from raymill.cluster.readers.units import Reading, Unit, read_unit
from raymill.cluster.record import RecordFile
from raymill.cluster.stage import Scratch
from raymill.cluster.store.interface import Unavailable
from raymill.cluster.store.object_files import PIECE_BYTES, Onward, Parts, merged
from raymill.cluster.store.object_store import Bucket
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import chunk_range
from raymill.pipelines.curate.stages.decide import TALLIES, VERDICTS, VERDICTS_SCHEMA, MeasuredFiles, is_needed
from raymill.pipelines.curate.stages.tallies import TALLIES_SCHEMA
from tests.conftest import CREDENTIALS
from tests.support import large_files
from tests.support.counted_disk import counted_disk
from tests.support.processes import wait_until
from tests.support.stages import counting_stage, run_inline


@pytest.fixture
def stored(s3_root, s3_store):
    """Stores a copy of a local file and returns its URI."""

    def put(path):
        uri = f"{s3_root}/{path.name}"
        s3_store.write_bytes(uri, path.read_bytes())
        return uri

    return put


def test_an_empty_answer_to_a_range_ends_the_reading(monkeypatch):
    """A broken proxy answers with status 206 and no bytes, of which obstore makes no error."""
    store = Bucket("s3://b", MemoryStore(), "storage")
    store.write("a", b"0123456789" * 100_000)
    monkeypatch.setattr(Bucket, "read_range", lambda self, key, start, end: b"")
    for opened in (store.open("a"), store.open_parts("a")):
        with pytest.raises(Unavailable, match=r"s3://b/a: the store answered with 0 of [0-9,]+ bytes from byte 0 on"):
            opened.read(1_000_000)


def test_a_wide_read_of_a_20_mb_attributes_file_takes_few_requests_and_only_the_bytes_it_needs(
    tmp_path, stored, counting_s3, counted_store
):
    path = large_files.attributes_file(tmp_path)
    assert 18e6 < path.stat().st_size < 22e6
    uri = stored(path)
    with Scratch((Output(VERDICTS, VERDICTS_SCHEMA), Output(TALLIES, TALLIES_SCHEMA))) as scratch:
        counters = large_files.decide_work(counted_store)([MeasuredFiles(0, [uri])], scratch)
    assert counters["documents"] == pq.read_metadata(path).num_rows
    columns = {name for name in pq.read_schema(path).names if is_needed(name)}
    assert len(counting_s3.requests) <= 20
    assert counting_s3.sent <= 1.1 * large_files.needed_bytes(path, columns)


def test_a_narrow_read_of_it_too(tmp_path, stored, counting_s3, counted_store):
    path = large_files.attributes_file(tmp_path)
    uri, wanted = stored(path), {"row", "text_hash", "signature", "source"}
    tables = list(read_tables(counted_store, [uri], wanted.__contains__))
    assert pa.concat_tables(tables).equals(pq.read_table(path, columns=tables[0].column_names))
    assert len(counting_s3.requests) <= 20
    assert counting_s3.sent <= 1.1 * large_files.needed_bytes(path, wanted)


def test_a_small_file_is_read_with_one_request(tmp_path, stored, counting_s3, counted_store):
    path = large_files.tallies_file(tmp_path)
    uri = stored(path)
    (table,) = read_tables(counted_store, [uri])
    assert table.equals(pq.read_table(path)) and counting_s3.by_method() == {"GET": 1}


@pytest.mark.parametrize("row_group_rows", [1000, 5000])
def test_an_input_file_is_fetched_ahead_in_few_requests(tmp_path, stored, counting_s3, counted_store, row_group_rows):
    path = large_files.input_file(tmp_path, 5000, row_group_rows)
    uri = stored(path)
    info = counted_store.info(uri)
    counting_s3.requests.clear()
    unit = Unit(0, "input", (Span(uri, info.size, info.version, "parquet", 0, 5000 // row_group_rows),), 1)
    tables = read_unit(unit, Reading(counted_store, large_files.CONFIG.inputs, pa.schema([])), Limits())
    read = pa.concat_tables(tables)
    assert read["text"].cast(pa.string()).equals(pq.read_table(path)["text"])
    assert len(counting_s3.requests) <= 3 + 5000 // row_group_rows
    assert counting_s3.sent <= 1.1 * large_files.needed_bytes(path, {"id", "text"})


def test_lines_of_a_span_are_fetched_in_growing_pieces_and_nothing_far_behind_it(
    s3_root, s3_store, counting_s3, counted_store
):
    data = bytes(range(256)) * (30 << 12)
    s3_store.write_bytes(f"{s3_root}/x.jsonl", data)
    assert b"".join(stream(counted_store, f"{s3_root}/x.jsonl", Limits())) == data
    assert len(counting_s3.requests) <= 8 and counting_s3.sent == len(data)
    counting_s3.requests.clear()
    blocks = stream(counted_store, f"{s3_root}/x.jsonl", Limits(), 3 << 20, 9 << 20)
    assert b"".join(next(blocks) for _ in range(7)) == data[3 << 20 : 10 << 20]
    blocks.close()
    assert counting_s3.sent == 7 << 20


# --- the files, without a server


class Requests:
    """A `fetch` that records its ranges."""

    def __init__(self, data: bytes) -> None:
        self.data, self.ranges = data, []

    def __call__(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.data)
        self.ranges.append((start, end))
        return self.data[start:end]


@pytest.mark.parametrize("announced", [True, False])
def test_any_reads_in_any_order_return_the_bytes_of_the_object(announced):
    draw = random.Random(1)
    data = draw.randbytes(40 << 20)
    for size in (0, 1, 1000, 1 << 20, 40 << 20):
        fetch = Requests(data[:size])
        tail = fetch.data[max(size - 5000, 0) :]
        parts = Parts(fetch, size, tail)
        files = [parts, Onward(fetch, size), Onward(fetch, size, size // 2)]
        if announced and size:
            cuts = sorted(draw.sample(range(size + 1), min(size, 20)))
            parts.will_read([list(zip(cuts[::2], cuts[1::2], strict=False))])
        for file in files:
            for _ in range(30):
                start, length = draw.randrange(size + 1), draw.choice([1, 16, 70_000, 3 << 20])
                file.seek(start)
                assert file.read(length) == data[:size][start : start + length]
            file.seek(-1 if size else 0, 2)
            assert file.read() == data[:size][-1:] and file.tell() == size and file.read(5) == b""


def test_a_file_that_is_read_onward_is_fetched_in_pieces_that_double_each_once():
    mib = 1 << 20
    data = random.Random(2).randbytes(30 * mib)

    def fetched(stop: int | None, *reads: tuple[int, int]) -> list[tuple[float, float]]:
        fetch = Requests(data)
        file = Onward(fetch, len(data), stop)
        for start, end in reads:
            file.seek(start)
            while file.tell() < end:
                at = file.tell()
                assert file.read(min(mib // 2, end - at)) == data[at : min(at + mib // 2, end)]
        return sorted((start / mib, end / mib) for start, end in fetch.ranges)

    whole = [(0, 1), (1, 3), (3, 7), (7, 15), (15, 23), (23, 30)]
    assert fetched(None, (0, 30 * mib)) == fetched(40 * mib, (0, 30 * mib)) == whole
    assert fetched(9 * mib, (0, 9 * mib)) == [(0, 1), (1, 3), (3, 7), (7, 9)]
    assert fetched(2 * mib, (0, 3 * mib)) == [(0, 1), (1, 2), (2, 3)], "behind the stop as at a new place"
    assert fetched(None, (0, mib), (20 * mib, 21 * mib)) == [(0, 1), (20, 21)], "elsewhere it begins anew"
    fetch = Requests(data)
    assert Onward(fetch, len(data)).read(5 * mib) == data[: 5 * mib] and fetch.ranges == [(0, 5 * mib)]


def test_the_next_piece_is_fetched_while_one_is_used():
    mib = 1 << 20
    fetch = Requests(bytes(40 * mib))
    onward = Onward(fetch, len(fetch.data))
    onward.read(mib)
    onward.read(1)
    assert wait_until(lambda: fetch.ranges == [(0, mib), (mib, 3 * mib), (3 * mib, 7 * mib)], 60)
    fetch = Requests(bytes(40 * mib))
    parts = Parts(fetch, len(fetch.data), b"")
    parts.will_read([[(at * mib, (at + 8) * mib)] for at in range(0, 40, 8)])
    assert wait_until(lambda: sorted(fetch.ranges) == [(0, 8 * mib), (8 * mib, 16 * mib)], 60)
    parts.read(8 * mib)
    assert wait_until(lambda: (16 * mib, 24 * mib) in fetch.ranges and len(fetch.ranges) == 3, 60)


def test_a_place_before_the_first_byte_is_refused_and_one_behind_the_last_is_empty():
    file = Onward(Requests(b"12345"), 5)
    with pytest.raises(ValueError, match="cannot seek to byte -1"):
        file.seek(-6, 2)
    assert (file.seek(2), file.seek(1, 1), file.read(1), file.seek(9), file.read()) == (2, 3, b"4", 9, b"")


def test_neighbours_are_one_piece_and_large_ones_are_read_side_by_side():
    mib = 1 << 20
    (small,) = merged([[(0, 10), (10, 20), (50, 60)], [(60, 70)]])
    assert (small.start, small.end, small.unread) == (0, 70, 40)
    assert len(merged([[(0, 10), (10 + mib, 20 + mib)]])) == 2
    large = [(piece.start // mib, piece.end // mib) for piece in merged([[(0, 20 * mib), (20 * mib, 40 * mib)]])]
    assert large == [(0, 8), (20, 28), (8, 16), (28, 36), (16, 20), (36, 40)] and 8 * mib == PIECE_BYTES


def test_pieces_are_let_go_when_they_were_read_and_memory_is_bounded_when_they_were_not():
    fetch = Requests(bytes(200 << 20))
    parts = Parts(fetch, len(fetch.data), b"")
    parts.will_read([[(at << 20, at + 8 << 20)] for at in range(0, 200, 8)])
    for at in range(25):
        parts.seek(at * 8 << 20)
        assert len(parts.read(8 << 20)) == 8 << 20
        assert len(parts._held) <= 2
    assert len(fetch.ranges) == 25
    parts.will_read([[(at << 20, at + 8 << 20)] for at in range(0, 200, 8)])
    for at in range(25):
        parts.seek(at * 8 << 20)
        parts.read(10)
        assert len(parts._held) <= 4


@pytest.mark.parametrize(("dictionary", "start"), [(None, 400), (0, 400), (300, 300), (500, 400)])
def test_a_column_chunk_begins_with_its_dictionary_and_an_offset_of_0_is_none(dictionary, start):
    """Some writers leave 0 where there is no dictionary: all columns before the chunk would be fetched too."""
    chunk = SimpleNamespace(data_page_offset=400, dictionary_page_offset=dictionary, total_compressed_size=250)
    assert chunk_range(chunk) == (start, start + 250)


# --- requests that fail


def failing_twice(status):
    """The first two requests are answered with this status."""
    seen = []

    def answer(request):
        seen.append(request)
        return status if len(seen) <= 2 else None

    return answer


@pytest.mark.parametrize("status", [409, 429, 503, "lose"])
def test_a_refusal_that_passes_is_tried_again_whatever_is_asked(
    status, s3_root, s3_store, counting_s3, counted_store, tmp_path, monkeypatch
):
    uri, local = f"{s3_root}/x", tmp_path / "local"
    s3_store.write_bytes(uri, b"content")
    local.write_bytes(b"1" * (6 << 20))
    acts = {
        "read": lambda: counted_store.read_bytes(uri),
        "open": lambda: counted_store.open_input(uri).read(),
        "open_parts": lambda: counted_store.open_parts(uri).read(),
        "info": lambda: counted_store.info(uri).size,
        "list": lambda: len(counted_store.list_files(s3_root)),
        "list with odd names": lambda: len(counted_store.list_files(s3_root, skip_bad_names=True)),
        "write": lambda: counted_store.write_bytes(f"{s3_root}/y", b"1"),
        "upload": lambda: counted_store.upload(local, f"{s3_root}/z"),
        "upload a new one": lambda: counted_store.upload(local, f"{s3_root}/new", new=True),
        "delete": lambda: counted_store.delete([f"{s3_root}/y", f"{s3_root}/z"]),
    }
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    expected = {"read": b"content", "open": b"content", "open_parts": b"content", "info": 7, "list": 1}
    expected["list with odd names"] = 1
    for name, act in acts.items():
        counting_s3.answer = failing_twice(status)
        assert act() == expected.get(name), name
    counting_s3.answer = failing_twice(status)
    assert counted_store.create(f"{s3_root}/record", b"1")
    assert counted_store.read_bytes(f"{s3_root}/record") == b"1"


def test_a_store_without_the_condition_for_uploads_in_parts_takes_them_too(
    tmp_path, s3_root, counting_s3, counted_store
):
    (tmp_path / "large").write_bytes(bytes(6 << 20))
    refusals = iter([501])
    counting_s3.answer = lambda request: next(refusals, None) if b"CompleteMultipart" in request.body else None
    counted_store.upload(tmp_path / "large", f"{s3_root}/large", new=True)


def test_a_large_upload_is_repeated_as_often_as_the_settings_say(
    tmp_path, s3_root, counting_s3, counted_store, monkeypatch
):
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    (tmp_path / "large").write_bytes(bytes(6 << 20))
    refusals = iter([503] * counted_store.options.retries)
    counting_s3.answer = lambda request: next(refusals, None) if "partNumber=2" in request.path else None
    counted_store.upload(tmp_path / "large", f"{s3_root}/large", new=True)
    assert counted_store.info(f"{s3_root}/large").size == 6 << 20


def test_a_conflict_that_stays_is_an_error_after_the_retries(s3_root, counting_s3, counted_store):
    counting_s3.answer = lambda request: 409 if request.method == "PUT" else None
    with pytest.raises(StorageError, match=r"/x: cannot write, the store did not answer as it should .*409"):
        counted_store.create(f"{s3_root}/x", b"1")
    assert counting_s3.by_method() == {"PUT": 4, "GET": 4}


def test_of_a_record_whose_reply_was_lost_the_writer_gets_its_own(s3_root, counting_s3, counted_store):
    file = RecordFile(counted_store, f"{s3_root}/record.json", "a record", bytes)
    counting_s3.answer = failing_twice("lose")
    assert file.create(b"mine") == b"mine"
    assert file.create(b"other") == b"mine"


def test_a_record_deleted_before_it_is_read_back_is_created_again(s3_root, s3_store, counting_s3, counted_store):
    uri = f"{s3_root}/record.json"
    file = RecordFile(counted_store, uri, "a record", bytes)
    s3_store.write_bytes(uri, b"first")

    def answer(request):
        if request.method == "GET":
            s3_store.delete([uri])
            counting_s3.answer = lambda request: None

    counting_s3.answer = answer
    assert file.create(b"second") == b"second" == s3_store.read_bytes(uri)


def test_a_lease_whose_reply_was_lost_is_held(s3_root, counting_s3, counted_store):
    lose = failing_twice("lose")
    counting_s3.answer = lambda request: lose(request) if request.method == "PUT" else None
    with held(counted_store, f"{s3_root}/run") as lease:
        assert lease.number == 1


def test_a_large_upload_whose_last_reply_was_lost_is_there(tmp_path, s3_root, s3_store, counting_s3, counted_store):
    """The end of the upload is sent again, and stores differ in their answer: here, there is no such upload."""
    ends = []

    def answer(request):
        if request.method == "POST" and "uploadId=" in request.path:
            ends.append(request)
            return "lose" if len(ends) == 1 else 404
        return None

    data = bytes(12 << 20)
    (tmp_path / "large").write_bytes(data)
    counting_s3.answer = answer
    counted_store.upload(tmp_path / "large", f"{s3_root}/large")
    assert len(ends) == 2 and s3_store.read_bytes(f"{s3_root}/large") == data


def test_a_test_file_whose_reply_is_lost_does_not_refuse_the_store(s3_root, counting_s3, counted_store):
    counting_s3.answer = failing_twice("lose")
    counted_store.require_conditional_writes(s3_root)
    counting_s3.answer = lambda request: None
    assert counted_store.list_files(s3_root) == []


def test_many_files_are_deleted_with_one_request(s3_root, s3_store, counting_s3, counted_store):
    uris = [f"{s3_root}/{number}" for number in range(30)]
    for uri in uris:
        s3_store.write_bytes(uri, b"1")
    counted_store.delete([*uris, f"{s3_root}/gone"])
    assert counting_s3.by_method() == {"POST": 1} and s3_store.list_files(s3_root) == []
    counted_store.delete([])
    assert len(counting_s3.requests) == 1


# --- workers that may not delete


def test_units_that_lose_need_no_right_to_delete_and_the_driver_removes_their_files(
    s3_root, s3_store, counting_s3, counted_store
):
    def may_not_delete(request):
        return 403 if request.method == "DELETE" or "delete" in request.path.partition("?")[2] else None

    counting_s3.answer = may_not_delete
    stage = counting_stage(units=4, store=counted_store)
    with pytest.raises(StorageError, match="refused these credentials"):
        counted_store.delete([f"{s3_root}/x"])
    for index in (1, 3, 3):
        won = stages.run_unit(stage, s3_root, index, index)
        assert stages.run_unit(stage, s3_root, index, index) == won
    losers = len(s3_store.list_files(f"{s3_root}/numbers"))
    made = run_inline(counting_stage(units=4, store=s3_store), s3_root)
    assert losers > len(made["numbers"].manifest.files)
    left = [file.uri for file in s3_store.list_files(f"{s3_root}/numbers") if file.uri.endswith(".parquet")]
    assert left == sorted(made["numbers"].file_uris)


# --- uploads that were interrupted


def uploads(s3_server, s3_root) -> list[str]:
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    return [found["Key"] for found in client.list_multipart_uploads(Bucket=s3_root[5:]).get("Uploads", [])]


def test_an_upload_that_fails_leaves_no_parts(tmp_path, s3_root, s3_server, counting_s3, counted_store):
    (tmp_path / "large").write_bytes(bytes(12 << 20))
    counting_s3.answer = lambda request: 503 if "partNumber=2" in request.path else None
    with pytest.raises(StorageError, match="503"):
        counted_store.upload(tmp_path / "large", f"{s3_root}/large")
    assert uploads(s3_server, s3_root) == []


def test_uploads_of_killed_workers_are_aborted_by_the_driver_and_others_are_left(s3_root, s3_store, s3_server):
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    for key in ("run/numbers/000001-000-dead.parquet", "run/numbers-of-others/x"):
        client.create_multipart_upload(Bucket=s3_root[5:], Key=key)
    run_inline(counting_stage(units=2, store=s3_store), f"{s3_root}/run")
    assert uploads(s3_server, s3_root) == ["run/numbers-of-others/x"]


def test_a_store_that_does_not_list_uploads_is_no_reason_to_fail(s3_root, counting_s3, counted_store, caplog):
    counting_s3.answer = lambda request: 403 if "uploads" in request.path else None
    made = run_inline(counting_stage(units=2, store=counted_store), f"{s3_root}/run")
    assert made["numbers"].manifest.rows == 1 and "interrupted uploads were not looked for" in caplog.text


def test_a_counted_disk_counts_what_an_s3_server_gets(tmp_path, s3_root, counting_s3, counted_store):
    """A stage of three units, the reading of its artifact, a wide read of a large file, and a small folder removed."""
    path = large_files.attributes_file(tmp_path)

    def work(root: str, store: Store) -> None:
        made = run_inline(counting_stage(3, store=store), root)
        assert made["squares"].table().num_rows
        store.upload(shutil.copyfile(path, tmp_path / "copy"), f"{root}/wide.parquet")
        names = [name for name in pq.read_schema(path).names if is_needed(name)]
        assert sum(table.num_rows for table in read_tables(store, [f"{root}/wide.parquet"], names.__contains__))
        store.delete([file.uri for file in store.list_files(root)])

    work(f"{s3_root}/run", counted_store)
    with counted_disk() as disk:
        work(str(tmp_path / "run"), Store())
    of_objects = [request.method for request in counting_s3.requests if "?uploads&" not in request.path]
    assert disk.requests == Counter(of_objects)
