"""Small files of an object store, read one after the other and read ahead: python -m tests.benchmarks ahead

1,000 JSON Lines files of 20 kB in one unit, on a disk that answers each request after 20 ms, as an object store does.
Only reading is measured, not the work on the texts, which takes about 1 ms a file.

Predicted 2026-11-24: two or three requests a file, so 40 to 60 s one after the other, and 3 to 4 s with 16 threads.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from raymill.cluster.readers import units
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut
from tests.support.counted_disk import counted_disk, shown

FILES = 1000
BYTES = 20_000
DELAY_S = 0.02


def run(texts: Texts) -> None:
    print(machine("pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), cut(texts, "0.5 kB").to_arrow().to_pylist())
        manifest = freeze(Store(), [Input(path=folder)])
        for name, remote in (("one after the other", False), ("read ahead", True)):
            with counted_disk() as disk, patch.object(units, "is_remote", lambda uri, remote=remote: remote):
                disk.delay_s, began = DELAY_S, time.perf_counter()
                tables = (t for unit in manifest.units for t in read_unit(unit, manifest.reading, Limits()))
                documents = sum(table.num_rows for table in tables)
                took = time.perf_counter() - began
            print(f"  {name:<22}{took:6.1f} s, {documents:,} documents, {shown(disk.requests)}")


def _write(folder: Path, pages: list[str]) -> None:
    """FILES files of about BYTES; pages come again if the texts have fewer."""
    lines = _lines(pages)
    for number in range(FILES):
        content: list[str] = []
        while sum(map(len, content)) < BYTES:
            content.append(next(lines))
        (folder / f"{number:04}.jsonl").write_text("".join(content))


def _lines(pages: list[str]) -> Iterator[str]:
    while True:
        for page in pages:
            yield json.dumps({"text": page}) + "\n"
