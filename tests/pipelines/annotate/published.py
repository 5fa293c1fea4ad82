"""Published votes of annotators, as arrays."""

import numpy as np

from raymill.pipelines.annotate.votes import Votes

# Krippendorff 2011, example E: 4 coders, 12 units, `.` for no value.
KRIPPENDORFF_E = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
KRIPPENDORFF_B = ("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
KRIPPENDORFF_C = ("a a b b d c c c e d d a", "b a b b b c c c e d d d")

# Fleiss 1971: votes of 6 raters for each of 5 categories, of 30 patients.
FLEISS = (
    "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031 "
    "00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"
)

# Dawid and Skene 1979: 45 patients; three votes of the first anaesthetist, then one of each of four others.
ANAESTHETISTS = (
    "111 1111  333 4334  112 2122  222 3121  222 3222  222 3322  122 2111  333 3433  222 2223 232 2223 444 4444 "
    "222 3343 111 1111 222 3212 121 1111 111 2111 111 1111 111 1111 222 2221 222 1322 222 2222 222 2221 222 3222 "
    "221 2222 111 1111 111 1111 232 2222 111 1111 111 1111 112 1121 111 1111 333 3233 111 1111 222 2222 222 3232 "
    "433 4343 221 2232 232 3233 333 3432 111 1111 111 1111 121 2111 232 2222 121 1111 222 2222"
)


def counts_of(coders: tuple[str, ...]) -> np.ndarray:
    """int64[I, L]: the votes of coders, one a line; labels in the order of their names."""
    rows = [line.split() for line in coders]
    labels = sorted({value for row in rows for value in row} - {"."})
    return np.array([[sum(row[item] == label for row in rows) for label in labels] for item in range(len(rows[0]))])


def fleiss_counts() -> np.ndarray:
    """int64[30, 5]."""
    return np.array([[int(digit) for digit in patient] for patient in FLEISS.split()])


def anaesthetists() -> Votes:
    """315 votes of 5 annotators on 45 patients for 4 labels."""
    words = ANAESTHETISTS.split()
    rows = [
        (item, annotator, int(digit) - 1)
        for item, (first, others) in enumerate(zip(words[::2], words[1::2], strict=True))
        for annotator, digit in [*((0, one) for one in first), *enumerate(others, 1)]
    ]
    return Votes.of(rows, 45, 5, 4)
