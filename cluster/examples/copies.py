"""How often a document is in an epoch: the column `copies` of a corpus.

`raymill curate` writes it (`corpus.copies`), and packing follows it: a document to train on is packed as often as its
value says. Of a fraction, as of 2.3, a hash of the seed and the id decides: two copies, and a third with probability
0.3. So a document has the same number of copies in every epoch, with any number of workers, and after a restart.
"""

from raymill.cluster.examples.splits import hash64

COPIES = "copies"
MAX_COPIES = 100
# Largest number that is followed in a column that the config does not name: a corpus may be from others, and its
# copies multiply time and disk.
UNNAMED_COPIES = 10


def copies_of(copies: float, seed: int, id: str) -> int:
    """The number of copies of a document. copies: 0 to MAX_COPIES."""
    whole = int(copies)
    if (fraction := copies - whole) == 0:
        return whole
    return whole + (hash64(str(seed).encode(), id.encode(), COPIES.encode()) < fraction * 2**64)
