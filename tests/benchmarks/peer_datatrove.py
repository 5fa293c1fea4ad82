"""datatrove on a few documents, for bench_measure.py.

Runs in an environment of its own, which `make bench` makes: its fastText and ours are two packages of one name.

    python peer_datatrove.py TEXTS.json   ->  one JSON line: bytes, seconds for filters and for signatures
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)


def main(path: str) -> dict[str, float]:
    texts = json.loads(Path(path).read_text())
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    signer = MinhashDedupSignature(tempfile.mkdtemp())
    judge(filters, texts[0])
    signer.get_signature(signer.get_shingles(texts[0]))
    start = time.process_time()
    for text in texts:
        judge(filters, text)
    filtered = time.process_time()
    for text in texts:
        signer.get_signature(signer.get_shingles(text))
    return {
        "bytes": sum(len(text.encode()) for text in texts),
        "filter_s": filtered - start,
        "signature_s": time.process_time() - filtered,
    }


def judge(filters: list, text: str) -> None:
    """Every filter sees the whole text: a filter that changes it must not spare the next one work."""
    for one in filters:
        one.filter(Document(text=text, id="0"))


if __name__ == "__main__":
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        result = main(sys.argv[1])
    print(json.dumps(result))
