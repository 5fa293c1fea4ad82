"""The bound on documents that could not be read."""

import math
from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc

from cluster.artifact import Artifact
from cluster.errors import DataError
from cluster.formats import plural


def refuse_too_many(allowed: float, good: int, quarantine: Artifact, meanings: Mapping[str, str], noun: str) -> None:
    """Compare the share of unreadable documents with the share that is allowed.

    Args:
        good: number of readable documents. quarantine: a row for each unreadable one, with `problem` and `where`.
        meanings: problem -> its meaning. noun: the word for a document in the message, in the singular.

    Raises:
        DataError: the share is larger; the message has each problem with its number and its first document.
    """
    bad = quarantine.manifest.rows
    if bad <= allowed * (bad + good):
        return
    counts, first = Counter[str](), dict[str, str]()
    for table in quarantine.tables():
        problems = table["problem"].combine_chunks()
        for found in pc.value_counts(problems).to_pylist():
            problem = found["values"]
            counts[problem] += found["counts"]
            if problem not in first:
                first[problem] = table["where"][pc.index(problems, problem).as_py()].as_py()
    shown = "\n".join(f"  {count:,} {one} ({meanings[one]}): {first[one]}" for one, count in counts.most_common())
    raise DataError(
        f"{bad:,} of {plural(bad + good, noun)} could not be read ({bad / (bad + good):.1%}; "
        f"execution.max_bad_documents allows {allowed:.1%}). The first of each problem:\n{shown}\n"
        f"All of them: {quarantine.uri}. Mend the input, or allow more with "
        f"-o execution.max_bad_documents={math.ceil(100 * bad / (bad + good)) / 100}; what was measured is kept."
    )
