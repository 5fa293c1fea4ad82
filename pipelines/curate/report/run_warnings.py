"""The warnings of a report: sources, rules and languages with unusual losses, and problems of the input."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.formats import plural
from raymill.cluster.readers.listing import skipped_text
from raymill.cluster.readers.quarantine import loss_warnings
from raymill.cluster.readers.units import InputManifest

_RULE_REMOVES_ALMOST_ALL = 0.95
_IDLE_RULE_DOCUMENTS = 1000  # among fewer, a rule that removes one document in a few hundred may remove none
_REASONS_SHOWN = 12


def warnings(
    report: Mapping[str, Any], inputs: InputManifest, max_source_loss: float, kept_languages: Sequence[str]
) -> list[str]:
    """The warnings of a run as sentences.

    Args:
        report: what gather.py made, without warnings.
        max_source_loss: a source that loses a larger fraction of its documents has a warning.
        kept_languages: of the setting language.keep; one without a document in the corpus has a warning.
    """
    found = []
    for source in report["sources"]:
        before, after = source["input"]["documents"], source["corpus"]["documents"]
        lost = 1 - after / before if before else 0.0
        if lost > max_source_loss:
            top = max(source["reasons"], key=lambda entry: entry["documents"], default={"reason": "nothing"})["reason"]
            found.append(
                f"Source {source['source']} lost {lost:.0%} of its {plural(before, 'document')}, most to {top}."
            )
        elif not before:
            unreadable = [entry for entry in report["quarantine"] if entry["source"] == source["source"]]
            if unreadable:
                count = sum(entry["documents"] for entry in unreadable)
                which = "its only row could not" if count == 1 else f"none of its {count:,} rows could"
                why = f"{which} be read ({', '.join(entry['problem'] for entry in unreadable)})"
            else:
                files = sum(file.source == source["source"] for file in inputs.files)
                why = f"no document in its {plural(files, 'file')}"
            found.append(f"Source {source['source']}: {why}.")
    for stage in report["funnel"][1:-1]:
        seen = stage["left"]["documents"] + stage["removed"]["documents"]
        if seen >= _IDLE_RULE_DOCUMENTS and not stage["removed"]["documents"]:
            found.append(f"{stage['stage']} removed nothing of {seen:,} documents.")
        elif seen and stage["removed"]["documents"] > _RULE_REMOVES_ALMOST_ALL * seen:
            found.append(
                f"{stage['stage']} removed {stage['removed']['documents'] / seen:.0%} of {plural(seen, 'document')}."
            )
    if not report["totals"]["input"]["documents"]:
        found.append("The corpus is empty: no document could be read.")
    elif not report["totals"]["corpus"]["documents"]:
        found.append("The corpus is empty: every document was removed.")
    for language in kept_languages:
        counts = next((entry for entry in report["languages"] if entry["language"] == language), None)
        if counts and counts["input"]["documents"] and not counts["corpus"]["documents"]:
            found.append(
                f"Language {language} is in language.keep, but the corpus has no document in it; "
                f"{counts['input']['documents']:,} in the input."
            )
    found += loss_warnings(report["quarantine"])
    bad = sum(entry["documents"] for entry in report["quarantine"])
    if bad:
        found.append(
            f"{plural(bad, 'document')} could not be read; {'it is' if bad == 1 else 'they are'} listed under "
            "quarantine."
        )
    for source in report["sources"]:
        found += [f"Source {source['source']}: {sentence}." for sentence in _row_warnings(source)]
    for entry in report["duplicate_ids"]:
        ids = f"{plural(entry['ids'], 'id')} {'is' if entry['ids'] == 1 else 'are'}"
        found.append(
            f"Source {entry['source']}: {ids} used by more than one document, {entry['documents']:,} documents in all "
            f"({', '.join(entry['examples'])}). Ledger and quarantine have their positions; corpus "
            "and attributes are in the order of the input."
        )
    found += inputs.notes
    for source, skipped in inputs.skipped.items():
        if skipped:
            found.append(f"Source {source}: files were passed over: {skipped_text(skipped)}.")
        rows = (one for one in report["skipped"] if one["inside"] and one["source"] == source)
        inside = Counter({one["reason"]: one["count"] for one in rows})
        if inside:
            shown = ", ".join(f"{count:,} {reason}" for reason, count in inside.most_common(_REASONS_SHOWN))
            more = f" and {plural(len(inside) - _REASONS_SHOWN, 'more reason')}" if len(inside) > _REASONS_SHOWN else ""
            none = "is no document" if inside.total() == 1 else "are no documents"
            number = plural(inside.total(), "item")
            found.append(f"Source {source}: {number} inside its files {none}: {shown}{more}.")
    return found


def _row_warnings(source: dict[str, Any]) -> Iterator[str]:
    """Sentences on documents that were read, but without an id, text or date, or with repeated keys."""
    if count := source["without_id"]:
        verbs = ("has", "is", "its") if count == 1 else ("have", "are", "their")
        yield (
            f"{plural(count, 'document')} {verbs[0]} no id (null, missing or empty) and {verbs[1]} named by the "
            f"hash of {verbs[2]} text"
        )
    if count := source["empty_texts"]:
        yield f"{plural(count, 'document')} {'has' if count == 1 else 'have'} an empty text"
    if count := source["repeated_keys"]:
        verb = "gives" if count == 1 else "give"
        yield f"{plural(count, 'record')} {verb} a key twice (the last value is used)"
    yield from (f"{count:,} {note}" for note, count in source["notes"].items())
    if count := source["without_newest_by"]:
        has, comes = ("has", "comes") if count == 1 else ("have", "come")
        yield (
            f"{plural(count, 'document')} {has} no date, time or number in the column dedup.newest_by, and "
            f"{comes} last among duplicates"
        )
