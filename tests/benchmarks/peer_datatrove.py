"""datatrove on a few documents, for bench_measure.py.

Runs in an environment of its own, which `make bench` makes: its fastText and ours are two packages of one name.

    python peer_datatrove.py TEXTS.json MODEL.ftz   ->  one JSON line: bytes, seconds for filters, for signatures and
                                                        for the language filter
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
    LanguageFilter,
)
from datatrove.utils.lid import FT176LID


def main(path: str, model: str) -> dict[str, float]:
    FT176LID.MODEL_URL = model  # the file that raymill uses, instead of the large one from the network
    language = LanguageFilter(["en"])
    texts = json.loads(Path(path).read_text())
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    signer = MinhashDedupSignature(tempfile.mkdtemp())
    judge(filters, texts[0])
    judge([language], texts[0])
    signer.get_signature(signer.get_shingles(texts[0]))
    start = time.process_time()
    for text in texts:
        judge(filters, text)
    filtered = time.process_time()
    for text in texts:
        signer.get_signature(signer.get_shingles(text))
    signed = time.process_time()
    for text in texts:
        judge([language], text)
    return {
        "bytes": sum(len(text.encode()) for text in texts),
        "filter_s": filtered - start,
        "signature_s": signed - filtered,
        "language_s": time.process_time() - signed,
    }


def judge(filters: list, text: str) -> None:
    """Every filter sees the whole text: a filter that changes it must not spare the next one work."""
    for one in filters:
        one.filter(Document(text=text, id="0"))


if __name__ == "__main__":
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        result = main(*sys.argv[1:])
    print(json.dumps(result))
