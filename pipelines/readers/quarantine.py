"""The bound on documents that could not be read."""

import math
from collections.abc import Mapping

from cluster.artifact import Artifact
from cluster.errors import DataError
from cluster.page.formats import plural

_SHOWN = 5


def refuse_too_many(allowed: float, good: int, quarantine: Artifact, meanings: Mapping[str, str], noun: str) -> None:
    """Compare the share of unreadable documents with the share that is allowed.

    Args:
        good: number of readable documents. quarantine: a row for each unreadable one, with `problem` and `where`.
        meanings: problem -> its meaning. noun: the word for a document in the message, in the singular.

    Raises:
        DataError: the share is larger; the message has the first unreadable documents.
    """
    bad = quarantine.manifest.rows
    if bad <= allowed * (bad + good):
        return
    rows = next(quarantine.tables()).slice(0, _SHOWN).to_pylist()
    first = "\n".join(f"  {row['problem']} ({meanings[row['problem']]}): {row['where']}" for row in rows)
    raise DataError(
        f"{bad:,} of {plural(bad + good, noun)} could not be read ({bad / (bad + good):.1%}; "
        f"execution.max_bad_documents allows {allowed:.1%}). The first:\n{first}\n"
        f"All of them: {quarantine.uri}. Mend the input, or allow more with "
        f"-o execution.max_bad_documents={math.ceil(100 * bad / (bad + good)) / 100}; what was measured is kept."
    )
