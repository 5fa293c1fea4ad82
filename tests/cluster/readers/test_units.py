"""Files of an object store are read ahead: the same tables in the same order, errors in their place, memory bounded."""

import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import read_ahead


def spans(count: int, size: int = 1000, scheme: str = "s3://bucket") -> list[Span]:
    return [Span(f"{scheme}/{number}.jsonl", size, "v", "jsonl", 0, size) for number in range(count)]


def named(span: Span) -> Iterator[pa.Table]:
    for part in range(3):
        yield pa.table({"at": [f"{span.uri}#{part}"]})


def read(tables: Iterator[pa.Table]) -> list[str]:
    return [row["at"] for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("scheme", ["s3://bucket", "/folder"])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_all_tables_in_the_order_of_the_files(count: int, scheme: str) -> None:
    of_all = spans(count, scheme=scheme)
    assert read(read_ahead(of_all, named)) == [f"{span.uri}#{part}" for span in of_all for part in range(3)]


def test_a_file_without_documents_gives_no_table() -> None:
    def of(span: Span) -> Iterator[pa.Table]:
        if not span.uri.endswith("/1.jsonl"):
            yield from named(span)

    assert [at for at in read(read_ahead(spans(3), of)) if at.endswith("#0")] == [
        "s3://bucket/0.jsonl#0",
        "s3://bucket/2.jsonl#0",
    ]


def test_sixteen_small_files_of_an_object_store_are_read_at_once() -> None:
    together = threading.Barrier(16, timeout=60)  # breaks, and fails the test, if fewer than 16 wait at once

    def of(span: Span) -> Iterator[pa.Table]:
        together.wait()
        yield from named(span)

    assert len(read(read_ahead(spans(16), of))) == 16 * 3


def test_the_bytes_of_files_that_were_used_count_no_more() -> None:
    together = threading.Barrier(4, timeout=60)  # breaks, and fails the test, if fewer than 4 wait at once

    def of(span: Span) -> Iterator[pa.Table]:
        if int(span.uri.rpartition("/")[2].split(".")[0]) in range(30, 34):
            together.wait()
        yield from named(span)

    assert len(read(read_ahead(spans(40, 1 << 20), of))) == 40 * 3


def begun_before_first_table(of_all: list[Span]) -> set[str]:
    """The files whose reading has begun when the first table comes, and no more begin by themselves."""
    begun, lock = set(), threading.Lock()

    def of(span: Span) -> Iterator[pa.Table]:
        with lock:
            begun.add(span.uri)
        yield from named(span)

    tables = read_ahead(of_all, of)
    next(tables)
    tables.close()  # waits for the threads
    return begun


def test_one_large_file_is_read_ahead_and_not_two() -> None:
    of_all = spans(5, 100 << 20)
    assert begun_before_first_table(of_all) <= {span.uri for span in of_all[:2]}


def test_files_read_ahead_are_at_most_8_mb_together() -> None:
    of_all = spans(10, 3 << 20)
    assert begun_before_first_table(of_all) <= {span.uri for span in of_all[:2]}


def test_a_compressed_file_counts_as_what_it_becomes() -> None:
    of_all = [Span(f"s3://bucket/{n}.jsonl.gz", 1 << 20, "v", "jsonl", 0, 1 << 20) for n in range(10)]
    assert begun_before_first_table(of_all) <= {span.uri for span in of_all[:2]}  # 3 MB each


def test_files_of_a_local_disk_are_read_one_after_the_other() -> None:
    of_all = spans(5, scheme="/folder")
    assert begun_before_first_table(of_all) == {of_all[0].uri}


def test_an_error_comes_after_the_tables_before_it() -> None:
    def of(span: Span) -> Iterator[pa.Table]:
        if span.uri.endswith("/2.jsonl"):
            raise OSError("lost")
        yield from named(span)

    tables, seen = read_ahead(spans(30), of), []
    with pytest.raises(OSError, match="lost"):
        for table in tables:
            seen += table["at"].to_pylist()
    assert seen == [f"{span.uri}#{part}" for span in spans(2) for part in range(3)]


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    tables = read_ahead(spans(50), named)
    next(tables)
    tables.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
