"""Near-duplicates among texts of 0.5 kB: how similar the removed are, and how many similar pairs are kept; short
documents by signatures and exactly. Counted are pairs of two short documents, by the true similarity of their sets.
Then the size of `attributes/` of these texts both ways, rules off.

    python -m tests.benchmarks duplicates
    DUPLICATES=20000 python -m tests.benchmarks duplicates     another number of texts

Predicted 2026-11-24, from the table that stands in the guide: removed 7,353 and 7,191; below 0.7 7 and 0, below 0.8 702
and 0; kept pairs 503 and 72; attributes 26.4 and 18.1 MB. They are counts, so the machine does not matter.
"""

import json
import os
import tempfile
from pathlib import Path

from raymill.cluster.readers.freeze import freeze
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.measure import ATTRIBUTES, measure_stage
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut
from tests.support.dedup_loops import BANDS, ROWS, close_pairs, jaccard, our_loop
from tests.support.shingles import shingle_hashes
from tests.support.stages import run_inline

_DOCUMENTS = int(os.environ.get("DUPLICATES", 60_000))
_THRESHOLD = 0.8


def run(texts: Texts) -> None:
    print(machine("numba"))
    strings = normalize(cut(texts, "0.5 kB")).to_arrow().to_pylist()
    strings = list(dict.fromkeys(strings))[:_DOCUMENTS]
    sets = [set(shingle_hashes(text, 5).tolist()) for text in strings]
    short = [0 < len(one) < BANDS * ROWS for one in sets]
    print(f"{len(strings):,} different texts, {sum(short):,} of them short; pairs of two short ones")
    print(
        f"  {'compared':<16}{'removed':>9}{'below 0.7':>11}{'below 0.8':>11}{'kept pairs of 0.8':>19}{'attributes':>12}"
    )
    for exact_short, name in ((False, "by signatures"), (True, "exactly")):
        removed = our_loop(strings, _THRESHOLD, exact_short)
        true = [jaccard(sets[at], sets[other]) for at, (other, _) in removed.items() if short[at] and short[other]]
        close = close_pairs([one for at, one in enumerate(sets) if short[at] and at not in removed], _THRESHOLD)
        below = [sum(one < bound for one in true) for bound in (0.7, 0.8)]
        size = f"{_attributes_bytes(strings, exact_short) / 1e6:.1f} MB"
        print(f"  {name:<16}{len(true):>9,}{below[0]:>11,}{below[1]:>11,}{close:>19,}{size:>12}", flush=True)


def _attributes_bytes(strings: list[str], exact_short: bool) -> int:
    """Bytes of the files of `attributes/` of these texts, with the default settings but for rules, which are off."""
    with tempfile.TemporaryDirectory() as folder:
        lines = (json.dumps({"id": str(number), "text": text}) for number, text in enumerate(strings))
        Path(folder, "texts.jsonl").write_text("\n".join(lines))
        config = CurateConfig.model_validate(
            {"kind": "curate", "name": "duplicates", "inputs": [{"path": f"{folder}/texts.jsonl", "id": "id"}],
             "output": f"{folder}/run", "rules": None, "dedup": {"exact_short": exact_short}}
        )  # fmt: skip
        inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
        return run_inline(measure_stage(config, config.filters, inputs), config.output)[ATTRIBUTES].manifest.bytes
