"""Small files of an object store are read ahead: while one is used, threads read the next ones.

A file there costs two or three requests before its first byte arrives, which for a small file is longer than the work
on its text. Within a large file the store fetches ahead by itself (cluster/store/object_files.py).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from cluster.readers.files.compression import expanded_size
from cluster.readers.files.span import Span
from cluster.store.paths import is_remote

_FILES = 16
_BYTES = 8 << 20  # decompressed bytes read ahead; a larger file is read ahead alone


def read_ahead(spans: Sequence[Span], read: Callable[[Span], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """The tables of all spans, in order. Of the next spans on an object store the first table is already being read.

    read: the tables of a span; different spans are read by different threads at the same time.

    Raises:
        what `read` raises, after the tables before it.
    """
    if len(spans) < 2 or not is_remote(spans[0].uri):
        for span in spans:
            yield from read(span)
        return
    pool = ThreadPoolExecutor(_FILES, "read")
    begun: deque[tuple[Iterator[pa.Table], Future[pa.Table | None], int]] = deque()
    following, held = deque(spans), 0
    try:
        while following or begun:
            while following and len(begun) < _FILES:
                size = _size(following[0])
                if len(begun) > 1 and held + size > _BYTES:
                    break
                tables = read(following.popleft())
                begun.append((tables, pool.submit(next, tables, None), size))
                held += size
            tables, first, size = begun.popleft()
            table = first.result()
            if table is not None:
                yield table
                yield from tables
            held -= size
    finally:
        pool.shutdown(cancel_futures=True)


def _size(span: Span) -> int:
    return expanded_size(span.size, span.uri)
