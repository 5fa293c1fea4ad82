"""datatrove on a web archive, for bench_crawl.py: its reader, extraction, filters and MinHash signatures, as FineWeb.

Runs in an environment of its own, which `make bench` makes. The steps are those of datatrove's examples/fineweb.py up
to the signatures, without the filter of URLs, whose lists block none of the archive's.

    python peer_datatrove_crawl.py ARCHIVE MODEL.ftz   ->  one JSON line: pages, documents, seconds by step

Seconds are wall time of a step, on a process and the child that extracts; the caller measures processor time.
"""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.lid import FT176LID


def main(archive: str, model: str) -> dict[str, object]:
    FT176LID.MODEL_URL = model  # the file that raymill uses, instead of the large one from the network
    path = Path(archive)
    with tempfile.TemporaryDirectory() as made:
        steps = [
            WarcReader(str(path.parent), glob_pattern=path.name),
            Trafilatura(favour_precision=True),
            LanguageFilter(["en"]),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            JsonlWriter(f"{made}/texts"),
        ]
        stats = LocalPipelineExecutor(steps, tasks=1, logging_dir=f"{made}/logs").run()
        signed = [JsonlReader(f"{made}/texts"), MinhashDedupSignature(f"{made}/signatures")]
        more = LocalPipelineExecutor(signed, tasks=1, logging_dir=f"{made}/logs-2").run()
        timed = [*zip(steps, stats.stats, strict=True), *zip(signed[1:], more.stats[1:], strict=True)]
        seconds = {type(step).__name__: one.time_stats.total for step, one in timed}
        return {
            "pages": stats.stats[0].stats["documents"].total,
            "documents": more.stats[0].stats["documents"].total,
            "seconds": seconds,
        }


if __name__ == "__main__":
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        result = main(*sys.argv[1:])
    print(json.dumps(result))
