"""The whole measure stage, one core: normalise, language at 1,000 characters, all four packs, personal data,
signatures. Beside datatrove 0.10.1 with the same packs and its own signatures, on a sample of the same documents.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa

from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.curate.measure import Measure, text_hashes
from pipelines.dedup.signatures import permutations, signatures, signatures_or_sets
from pipelines.language import identification as language
from pipelines.readers.units import Reading
from pipelines.rules.rule import Analysis
from pipelines.text import personal_data
from pipelines.text.lines import count_characters
from pipelines.text.normalize import normalize
from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, processor_seconds
from tests.benchmarks.web_texts import LENGTHS, cut

PEER = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"
_TABLE_BYTES = 8 << 20  # what a reader hands over at a time
_PEER_DOCUMENTS = 40


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow", "fasttext-predict"))
    for name in ("as they are", *LENGTHS):
        _measure(texts if name == "as they are" else cut(texts, name), name)
    _beside_datatrove(texts, _config())


def _config() -> CurateConfig:
    return CurateConfig(kind="curate", name="bench", inputs=({"path": "none"},), output="none")


def _measure(texts: Texts, name: str) -> None:
    tables = list(_tables(texts))
    size = int(texts.byte_lengths.sum()) / 1e6
    config = _config()
    stage = Measure(config.measure_settings, Reading(config.store, config.inputs, pa.schema([])))
    whole = size / processor_seconds(lambda: [stage.attributes("bench", table) for table in tables])
    print(f"measure stage, texts {name}: {len(texts):,} documents, {size:.1f} MB; MB/s per core, processor time")
    print(f"  {'all together':<40}{whole:9.1f}")
    for part, work in _parts(config).items():
        speed = size / processor_seconds(lambda work=work: [work(table) for table in tables])
        print(f"    {part:<38}{speed:9.1f}   {1000 / speed:6.1f} ms/MB")


def _tables(texts: Texts):
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


def _parts(config: CurateConfig) -> dict:
    """What the stage is made of, each alone on normalised text."""
    classifier = language.load(Store(), config.language)
    a, b = permutations(112, 1)

    def texts(table: pa.Table) -> Texts:
        return Texts.from_arrow(table["text"])

    def packs(table: pa.Table) -> None:
        columns = table.drop_columns(["text"]).append_column("language", pa.repeat("en", table.num_rows))
        analysis = Analysis(texts(table), "paper", columns, Store())
        for rule in config.active_rules():
            rule.measure(analysis)

    return {
        "normalise": lambda t: normalize(texts(t)),
        "text hash and length": lambda t: (text_hashes(texts(t)), count_characters(texts(t))),
        "language, 1,000 characters": lambda t: language.identify(texts(t), classifier, 1000),
        "four rule packs": packs,
        "personal data": lambda t: personal_data.find(texts(t), personal_data.KINDS),
        "signatures, 112 permutations": lambda t: signatures_or_sets(texts(t), 5, a, b, exact_short=True),
    }


def _beside_datatrove(texts: Texts, config: CurateConfig) -> None:
    if not PEER.exists():
        print("  datatrove is not installed here: `make bench` does that")
        return
    rows = [place * len(texts) // _PEER_DOCUMENTS for place in range(_PEER_DOCUMENTS)]
    column = texts.to_arrow()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(column.take(pa.array(rows)).to_pylist()))
        command = [str(PEER), str(Path(__file__).with_name("peer_datatrove.py")), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"datatrove failed:\n{done.stderr}")
    peer = json.loads(done.stdout)
    some = Texts.from_arrow(column.take(pa.array(rows)))
    columns = pa.table({"language": pa.repeat("en", len(rows))})
    a, b = permutations(112, 1)

    def same_work() -> None:
        analysis = Analysis(some, "paper", columns, Store())
        for rule in config.active_rules():
            rule.measure(analysis)
        signatures(some, 5, a, b)

    size = peer["bytes"] / 1e6
    theirs = size / (peer["filter_s"] + peer["signature_s"])
    ours = size / processor_seconds(same_work)
    print(f"same packs and signatures on {len(rows)} of the documents, {size:.1f} MB; MB/s per core")
    print(f"  {'datatrove 0.10.1':<40}{theirs:9.2f}   filters {size / peer['filter_s']:.2f}, "
          f"signatures {size / peer['signature_s']:.2f}")  # fmt: skip
    print(f"  {'raymill':<40}{ours:9.1f}   {ours / theirs:.0f} x")
