"""Arrow stream files, as Hugging Face `datasets` writes them: the record batches before a defect."""

from collections.abc import Iterator

import pyarrow as pa

from cluster.read.compression import UnreadableRest


def record_batches(handle: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The record batches of an open Arrow stream.

    Raises:
        UnreadableRest: the file ends too early or is damaged (`truncated`).
        OSError: the disk or the network failed.
    """
    try:
        yield from pa.ipc.open_stream(handle)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the data
        raise UnreadableRest("truncated") from error
