"""Two stages that take no time: numbers of units, then sums of files of them."""

import pyarrow as pa

from raymill.cluster.artifact import fingerprint, read_tables
from raymill.cluster.stage import Output, Stage, files_from

NUMBERS = pa.schema([("n", pa.int64()), ("text", pa.string())])
FILES_OF_A_SUM = 4


def numbers_stage(counts, store, **more):
    """A unit writes this number of rows."""

    def work(count, scratch):
        texts = [f"{number} {'ab' * (number % 50)}" for number in range(count)]
        scratch.write("numbers", pa.table({"n": range(count), "text": texts}))
        return {"rows": count}

    outputs = (Output("numbers", NUMBERS, row_group_bytes=2000),)
    return Stage("numbers", outputs, counts, work, fingerprint(list(counts)), store, memory=1 << 20, **more)


def sums_stage(numbers, store, **more):
    """A unit adds up the numbers of some files; memory grows with the rows."""
    uris, width = numbers.file_uris, FILES_OF_A_SUM

    def work(uris, scratch):
        scratch.write(
            "sums", pa.table({"n": [sum(sum(t["n"].to_pylist()) for t in read_tables(store, uris, "n".__eq__))]})
        )
        return {"files": len(uris)}

    units = [uris[at : at + width] for at in range(0, len(uris), width)]
    outputs = (Output("sums", pa.schema([("n", pa.int64())])),)
    memory = 100 * numbers.manifest.rows
    return Stage("sums", outputs, units, work, numbers.manifest.fingerprint, store, files_from, memory=memory, **more)
