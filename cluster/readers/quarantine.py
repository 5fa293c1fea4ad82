"""Unreadable and lost rows of a run: their number by source and problem, the bound on them, and warnings of lost rows.

A row of the artifact `quarantine` is one unreadable row of the input. Where damage also loses the rows behind it, the
counters `lost/SOURCE/PROBLEM` have the number of those, if it is known, as in Parquet.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts, what_to_correct
from raymill.cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES

_LOST = "lost/"
LOSES_THE_REST = (
    "truncated", "corrupt_compression", "empty_members", "corrupt_batch", "corrupt_page", "expansion_bomb",
    "large_block", "wrong_encoding",
)  # fmt: skip


def lost_counters(source: str, counts: ReaderCounts) -> dict[str, int]:
    """The counters of a unit for lost rows that are not in quarantine."""
    return {f"{_LOST}{source}/{problem}": number for problem, number in counts.lost.items() if number}


def lost_rows(quarantine: Artifact) -> Counter[tuple[str, str]]:
    """(source, problem) -> number of lost rows that are not in quarantine."""
    found = Counter[tuple[str, str]]()
    for name, number in quarantine.manifest.counters.items():
        if name.startswith(_LOST):
            source, _, problem = name.removeprefix(_LOST).rpartition("/")
            found[source, problem] += int(number)
    return found


def readable_documents(quarantine: Artifact) -> int:
    """The documents that could be read, of a run whose counter `documents` has the unreadable and lost ones too."""
    manifest = quarantine.manifest
    return int(manifest.counters["documents"]) - manifest.rows - lost_rows(quarantine).total()


def quarantine_entries(quarantine: Artifact) -> list[dict[str, Any]]:
    """{source, problem, documents, lost, examples} of each source and problem; examples: the first place.

    documents: unreadable and lost rows. lost: those of them without a row in quarantine.
    """
    found, lost = dict[tuple[str, str], dict[str, Any]](), lost_rows(quarantine)
    for table in quarantine.tables(["source", "problem", "where"]):
        for row in table.to_pylist():
            key = row["source"], row["problem"]
            entry = found.setdefault(
                key,
                {"source": key[0], "problem": key[1], "documents": lost[key], "lost": lost[key],
                 "examples": [row["where"]]},
            )  # fmt: skip
            entry["documents"] += 1
    return sorted(found.values(), key=lambda entry: -entry["documents"])


def loss_warnings(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Sentences about lost rows, lost ends of files, and whole files that were not read.

    entries: those of `quarantine_entries`; without `lost`, no number of lost rows is known.
    """
    for entry in entries:
        source, problem, first = entry["source"], entry["problem"], entry["examples"][0]
        lost = entry.get("lost", 0)
        if problem == "corrupt_page" or (lost and problem in LOSES_THE_REST):
            number = entry["documents"]
            verb = "was" if number == 1 else "were"
            yield f"Source {source}: {plural(number, 'row')} {verb} lost ({problem}, first {first})."
        elif problem in LOSES_THE_REST:
            yield (
                f"Source {source}: {plural(entry['documents'], 'time')} the rest of a file was lost "
                f"({problem}, first {first}); how many documents it held is not known."
            )
        if problem in PROBLEMS_OF_WHOLE_FILES:
            yield f"Source {source}: {PROBLEMS[problem]} ({first})."


def unreadable_warning(entries: Iterable[Mapping[str, Any]], noun: str) -> Iterator[str]:
    """At most one sentence about unreadable documents, with the most frequent problem.

    entries: those of `quarantine_entries`; the ones that `loss_warnings` has a sentence about are left out. noun: the
        word for a document, in the singular.
    """
    left = [one for one in entries if one["problem"] not in {*LOSES_THE_REST, *PROBLEMS_OF_WHOLE_FILES, "corrupt_page"}]
    if bad := sum(one["documents"] for one in left):
        most = max(left, key=lambda one: one["documents"])
        yield (
            f"{plural(bad, noun)} could not be read ({most['problem']}, first {most['examples'][0]}); see `quarantine`."
        )


def allow_more(bad: int, whole: int) -> str:
    """How to let a run go on with this number of unreadable documents, as the end of a sentence; "" if all are.

    The value is the smallest one with two digits, or more where those would allow all.
    """
    if bad >= whole:
        return ""
    digits = 2
    while (parts := -(-(10**digits) * bad // whole)) == 10**digits:
        digits += 1
    parts += bad > parts / 10**digits * whole  # as floats
    return f", or allow more with -o execution.max_bad_documents={f'{parts / 10**digits:.{digits}f}'.rstrip('0')}"


def refuse_too_many(allowed: float, good: int, quarantine: Artifact, meanings: Mapping[str, str], noun: str) -> None:
    """Compare the share of unreadable documents with the share that is allowed.

    Args:
        good: number of readable documents. quarantine: a row for each unreadable one, with `problem` and `where`; its
            counters have the number of lost rows that are not in it.
        meanings: problem -> its meaning. noun: the word for a document in the message, in the singular.

    Raises:
        DataError: the share is larger; the message has each problem with its number and its first document.
    """
    counts, first = Counter[str](), dict[str, str]()
    for (_, problem), number in lost_rows(quarantine).items():
        counts[problem] += number
    bad = quarantine.manifest.rows + counts.total()
    if bad <= allowed * (bad + good):
        return
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
        f"All of them: {quarantine.uri}. {what_to_correct(counts)}{allow_more(bad, bad + good)}; what was measured is "
        "kept."
    )
