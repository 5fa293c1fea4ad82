"""The measure stage on one thread, whole and by part, of whichever source tree comes first on the path.

As a script it answers on request, so that two trees can be timed in turns (other_trees.py):

    PYTHONPATH=TREE python measure_parts.py      reads lines `TEXTS.parquet <tab> PART`
                                                           writes lines of processor seconds, or `-`: not in this tree

It imports nothing of tests/benchmarks, and of the tree only what has been there since the first commits.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.readers.units import Reading
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.dedup import signatures
from raymill.pipelines.language import identification as language
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts

try:
    from raymill.pipelines.curate.stages.measure import Measure, text_hashes
except ModuleNotFoundError:  # trees of before 2026-11-24
    from raymill.pipelines.curate.stages.measure import Measure, text_hashes

WHOLE = "all together"
NORMALISE, HASH, LANGUAGE = "normalise", "text hash and length", "language, 1,000 characters"
PACKS, PERSONAL, SIGNATURES = "four rule packs", "personal data", "signatures, 112 permutations"
BESIDE_PEER = "language, rule packs and signatures"  # what datatrove does too
PARTS = (WHOLE, NORMALISE, HASH, LANGUAGE, PACKS, PERSONAL, SIGNATURES, BESIDE_PEER)

_TABLE_BYTES = 8 << 20  # what a reader hands over at a time
_PERMUTATIONS = 112


def settings() -> CurateConfig:
    """The default settings."""
    return CurateConfig(kind="curate", name="bench", inputs=({"path": "none"},), output="none")


def tables(texts: Texts) -> Iterator[pa.Table]:
    """The texts in tables as a reader hands them over."""
    column = texts.to_arrow()
    start = 0
    while start < len(texts):
        end = start + 1
        while end < len(texts) and texts.offsets[end + 1] - texts.offsets[start] <= _TABLE_BYTES:
            end += 1
        rows = end - start
        ids = pa.array([str(row) for row in range(start, end)])
        yield pa.table({"row": range(rows), "id": ids, "text": column.slice(start, rows)})
        start = end


def works() -> dict[str, Callable[[pa.Table], object]]:
    """The work of each of PARTS on one table. A part is timed alone, so together they need not add up to the whole."""
    config = settings()
    reading = Reading(config.store, config.inputs, pa.schema([]))
    if hasattr(config, "measure_settings"):  # of older trees
        stage = Measure(config.measure_settings, reading)
    else:
        stage = Measure(config, config.filters, reading)
    classifier = language.load(Store(), config.language)
    sign = signer()

    def texts(table: pa.Table) -> Texts:
        return Texts.from_arrow(table["text"])

    def packs(table: pa.Table) -> None:
        columns = table.drop_columns(["text"]).append_column("language", pa.repeat("en", table.num_rows))
        analysis = Analysis(texts(table), "paper", columns, Store())
        for rule in config.filters.rules:
            rule.measure(analysis)

    def beside_peer(table: pa.Table) -> None:
        language.identify(texts(table), classifier, 1000)
        packs(table)
        sign(texts(table))

    return {
        WHOLE: lambda table: stage.attributes("bench", table),
        NORMALISE: lambda table: normalize(texts(table)),
        HASH: lambda table: (text_hashes(texts(table)), count_characters(texts(table))),
        LANGUAGE: lambda table: language.identify(texts(table), classifier, 1000),
        PACKS: packs,
        PERSONAL: lambda table: personal_data.find(texts(table), personal_data.KINDS),
        SIGNATURES: lambda table: sign(texts(table)),
        BESIDE_PEER: beside_peer,
    }


def signer() -> Callable[[Texts], object]:
    """What a curation signs with: signatures, and in newer trees the sets of short documents."""
    a, b = signatures.permutations(_PERMUTATIONS, 1)
    if hasattr(signatures, "Sketches"):
        return lambda texts: signatures.Sketches.of(texts, 5, a, b, exact_short=True)
    if hasattr(signatures, "signatures_or_sets"):
        return lambda texts: signatures.signatures_or_sets(texts, 5, a, b, exact_short=True)
    return lambda texts: signatures.signatures(texts, 5, a, b)


def main() -> None:
    work = works()

    @cache
    def of_file(path: str) -> list[pa.Table]:
        return list(tables(Texts.from_arrow(pq.read_table(path, columns=["text"])["text"])))

    for line in sys.stdin:
        path, part = line.rstrip("\n").split("\t")
        some = of_file(path)
        began = time.process_time()
        try:
            for table in some:
                work[part](table)
        except (AttributeError, TypeError) as error:
            print(f"{part}: {error}", file=sys.stderr)
            print("-", flush=True)
            continue
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
