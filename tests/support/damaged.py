"""Files that are damaged: some of their rows are lost."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def zeroed_parquet(path: Path, texts: Sequence[str], groups: Sequence[int] = (0, 3)) -> Path:
    """A Parquet file of row groups of 20 rows, of which these have zeros in place of their page of texts."""
    pq.write_table(pa.table({"text": texts}), path, row_group_size=20, use_dictionary=False, write_page_checksum=True)
    footer, content = pq.read_metadata(path), bytearray(path.read_bytes())
    for group in groups:
        chunk = footer.row_group(group).column(0)
        end = chunk.data_page_offset + chunk.total_compressed_size
        content[end - 40 : end] = bytes(40)
    path.write_bytes(content)
    return path


def cut_gzip(path: Path, lines: Sequence[str]) -> Path:
    """A compressed file of these lines without its second half."""
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    return path
