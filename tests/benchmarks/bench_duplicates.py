"""Near-duplicates among texts of 0.5 kB: how similar the removed are, and how many similar pairs are kept; short
documents by signatures and exactly. Counted are pairs of two short documents, by the true similarity of their sets.
"""

from pipelines.text.normalize import normalize
from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut
from tests.support.dedup_loops import BANDS, ROWS, close_pairs, jaccard, our_loop
from tests.support.shingles import shingle_hashes

_DOCUMENTS = 20_000
_THRESHOLD = 0.8


def run(texts: Texts) -> None:
    print(machine("numba"))
    strings = normalize(cut(texts, "0.5 kB")).to_arrow().to_pylist()
    strings = list(dict.fromkeys(strings))[:_DOCUMENTS]
    sets = [set(shingle_hashes(text, 5).tolist()) for text in strings]
    short = [0 < len(one) < BANDS * ROWS for one in sets]
    print(f"{len(strings):,} different texts, {sum(short):,} of them short; pairs of two short ones")
    print(f"  {'compared':<16}{'removed':>9}{'below 0.7':>11}{'below 0.8':>11}{'kept pairs of 0.8':>19}")
    for exact_short, name in ((False, "by signatures"), (True, "exactly")):
        removed = our_loop(strings, _THRESHOLD, exact_short)
        true = [jaccard(sets[at], sets[other]) for at, (other, _) in removed.items() if short[at] and short[other]]
        close = close_pairs([one for at, one in enumerate(sets) if short[at] and at not in removed], _THRESHOLD)
        below = [sum(one < bound for one in true) for bound in (0.7, 0.8)]
        print(f"  {name:<16}{len(true):>9,}{below[0]:>11,}{below[1]:>11,}{close:>19,}")
