"""The content of report.json. A key that ends with `?` may be missing; a part that is off is empty or null.

Reasons, stages and signals have the names of the ledger and the attributes. Characters are Unicode code points,
text_bytes are bytes of UTF-8, times are seconds.
"""

from typing import Any

CurateReport = dict[str, Any]

_AMOUNT = {"documents": int, "characters": int}
_EXCERPT = {"id": str, "source": str, "excerpt": str}  # the beginning of a document; one that was cut ends with U+2026
_BY_REASON = {"reason": str, **_AMOUNT}
# Number of kept documents that have a cut text; for boilerplate, those of its source. The most frequent ones are
# listed.
_CUT_TEXTS = [{"source": str, "text": str, "documents": int}]

REPORT = {
    "schema": int,  # 1
    # finished: ISO 8601 with offset. cpus: logical cores. config: without secrets.
    "run": {
        "name": str, "kind": str, "output": str, "version": str, "finished": str, "config": dict[str, Any],
        "machine": {"cpus": int, "platform": str, "python": str, "ray": str | None},
    },
    # tokens_estimate: characters / 4. wall_s: sum over the stages, null if one has none. core_s: sum over the workers.
    "totals": {
        "input": _AMOUNT, "corpus": {**_AMOUNT, "tokens_estimate": int}, "wall_s": float | None, "core_s": float,
    },
    # left: after the stage, the previous stage's `left` minus `removed`, the sum of `reasons`. The last stage,
    # `corpus`, removes no document; its `left` has the characters after lines were cut and personal data was replaced.
    "funnel": [{"stage": str, "left": _AMOUNT, "removed": _AMOUNT, "reasons": [_BY_REASON]}],
    "languages": [{"language": str, "input": _AMOUNT, "corpus": _AMOUNT}],  # by detected label
    # without_id: without a value in the `id` column. repeated_keys: records with a repeated key. without_newest_by:
    # those without a value of `dedup.newest_by` that can be compared. notes: what readers left out of documents ->
    # number.
    "sources": [{
        "source": str, "licence": str | None, "weight": float, "input": _AMOUNT, "corpus": _AMOUNT,
        "reasons": [{"stage": str, **_BY_REASON}], "without_id": int, "empty_texts": int, "repeated_keys": int,
        "without_newest_by": int, "notes": dict[str, int],
    }],
    # documents[i]: number of values in [edges[i], edges[i + 1]). stage: the one whose bounds apply to the signal;
    # without it, the stage of the bounds' reasons in the funnel. scale: linear, or log for counts; a logarithmic one
    # may begin at 0, its first bin is then drawn as wide as the second. Documents below `minimum` or above `maximum`
    # are removed.
    "histograms": [{
        "signal": str, "description": str, "stage?": str, "scale": str, "edges": [float], "documents": [int],
        "bounds": [{"reason": str, "minimum": float | None, "maximum": float | None}],
    }],
    # Removed near-duplicates by their Jaccard similarity with the kept document; null where they were not looked for.
    "similarity": {"edges": [float], "documents": [int], "threshold": float},
    # The largest duplicate groups, with the kept document and a removed one. similarity: of these; null for equal
    # texts.
    "groups": [{
        "group_id": str, "documents": int, "kept": _EXCERPT, "removed": _EXCERPT, "similarity": float | None,
    }],
    # reason: `kept` for a document of the corpus; its value and threshold are null.
    "samples": [{
        **_EXCERPT, "reason": str, "stage": str, "language": str | None, "value": float | None,
        "threshold": float | None,
    }],
    "personal_data": [{"kind": str, "documents": int, "found": int, "redacted": bool}],  # found: occurrences
    # Lines or paragraphs cut out of what the rules and deduplication kept. cut, max_documents: settings. pieces: number
    # of all; different: of those with different words. documents: out of which one was cut. characters: with line
    # feeds.
    "boilerplate?": {
        "cut": str, "max_documents": int, "different": int, "pieces": int, "documents": int, "characters": int,
        "texts": _CUT_TEXTS,
    },
    # Runs of words that several kept documents have. min_words, cut: settings. later_runs, later_words: runs, and words
    # in them, that an earlier document has; they are cut if `cut` is set.
    "repeats?": {
        "min_words": int, "cut": bool, "runs": int, "documents": int, "later_runs": int, "later_words": int,
        "texts": _CUT_TEXTS,
    },
    "quarantine": [{"source": str, "problem": str, "documents": int, "examples": [str]}],  # examples: file and row
    "skipped": [{"source": str, "inside": bool, "reason": str, "count": int}],  # files, or what is inside of files
    "duplicate_ids": [{"source": str, "ids": int, "documents": int, "examples": [str]}],  # examples: of ids
    # units: also without documents. wall_s: null if an earlier call did some of them.
    "stages": [{
        "stage": str, "units": int, "documents": int, "text_bytes": int, "wall_s": float | None, "core_s": float,
    }],
    "warnings": [str],
}  # fmt: skip
_STAGE_NAMES = {"read": "Read", "c4": "C4", "fineweb": "FineWeb"}


def stage_name(stage: str) -> str:
    """A stage's name in a heading: `Gopher quality` for `gopher_quality`."""
    spaced = stage.replace("_", " ")
    return _STAGE_NAMES.get(stage, spaced[:1].upper() + spaced[1:])
