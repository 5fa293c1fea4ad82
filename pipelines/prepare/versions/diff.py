"""What differs between two versions: records, the distributions of numbers and metadata, and assessments."""

import hashlib
import json
import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.content import from_shape, shape_of, sides_of
from raymill.cluster.examples.messages import without_nulls
from raymill.cluster.formats import count, share
from raymill.cluster.readers.reader import few_rows
from raymill.pipelines.prepare.assess.metrics import ratio
from raymill.pipelines.prepare.assess.score import Assessment
from raymill.pipelines.prepare.records.fields import ANNOTATIONS, Values, hash64
from raymill.pipelines.prepare.report.page import number

SHOWN = 5  # of each kind of difference
_CHARACTERS = 160  # of a question or an answer
# Columns that are no content of a record, and the metadata that differs between equal records of two runs.
BESIDES = ("id", "provenance", "split", "fold", "complexity", "stage")
TIME = "collected_at"
OF_FIELDS = ("metadata", "annotations")
Row = Mapping[str, Any]
_SHARES = 20  # values of a field whose shares are all told
_VALUES = 1000  # of a field of metadata; one with more is a name, not a category
_BINS = 10
_LEAST_SHARE = 1e-4  # of a bin without records, so that PSI is finite
# PSI above this is a shift worth a look; 0.25 a large one. Source: Siddiqi 2006, Credit Risk Scorecards, chapter 10.
NOTABLE_PSI = 0.1
_INDENT = " " * 13
_SCORES = ("complexity", "quality_score")
_NOTABLE = 0.01  # a change of a metric that is marked


@dataclass(frozen=True)
class Beginning:
    """Question and answer of a record, on one line each. answer: empty of a plain text, which is the question."""

    question: str
    answer: str


@dataclass(frozen=True)
class ChangedRecord:
    """A record in both versions. before, after: None where it is not. differs: its columns, metadata and annotations
    that are not the same; empty of a record that only one version has.
    """

    id: str
    before: Beginning | None
    after: Beginning | None
    differs: tuple[str, ...] = ()


def examples_of(
    before: Mapping[str, Artifact], after: Mapping[str, Artifact], hashes: np.ndarray
) -> list[ChangedRecord]:
    """The first of the records whose ids have these hashes, in the order of `after`, else of `before`.

    hashes: uint64[N] of records that are all in both versions, or all in one.
    """
    new = _rows(after, hashes)
    old = {row["id"]: row for row in _rows(before, np.array([hash64(row["id"]) for row in new]) if new else hashes)}
    found = {row["id"]: row for row in new}
    return [_example(id, old.get(id), found.get(id)) for id in (found or old)]


def _rows(splits: Mapping[str, Artifact], hashes: np.ndarray) -> list[dict[str, Any]]:
    """The first SHOWN records whose ids have these hashes. Reads no further than to the last of them."""
    wanted = set(hashes.tolist())
    most, found = min(SHOWN, len(wanted)), list[dict[str, Any]]()
    for artifact in splits.values() if most else ():
        for table in artifact.tables():
            at = [number for number, id in enumerate(table["id"].to_pylist()) if hash64(id) in wanted]
            found += few_rows(table.take(pa.array(at[: most - len(found)], pa.int64())), artifact.uri)
            if len(found) == most:
                return found
    return found


def _example(id: str, old: Row | None, new: Row | None) -> ChangedRecord:
    before, after = (None if row is None else _beginning(row) for row in (old, new))
    if old is None or new is None:
        return ChangedRecord(id, before, after)
    then, now = _flat(old), _flat(new)
    differs = (name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name))
    return ChangedRecord(id, before, after, tuple(differs))


def _flat(row: Row) -> dict[str, Any]:
    """The values of a record that are compared; metadata and annotations by names such as `metadata.source`."""
    flat = without_nulls({name: value for name, value in row.items() if name not in (*BESIDES, *OF_FIELDS)})
    for column in OF_FIELDS:
        flat |= {f"{column}.{name}": value for name, value in (row.get(column) or {}).items() if name != TIME}
    return flat


def _beginning(row: Row) -> Beginning:
    text = sides_of(from_shape(row, shape_of(row)))
    return Beginning(_line(text.question), _line(text.answer))


def _line(text: str) -> str:
    line = " ".join(text[: 2 * _CHARACTERS].split())
    return line if len(line) <= _CHARACTERS and len(text) <= 2 * _CHARACTERS else f"{line[:_CHARACTERS]}…"


@dataclass(frozen=True)
class Contents:
    """What a version holds.

    ids, contents: uint64[N], hashes of each record. numbers: length, the characters of the texts of all records, and
    complexity and quality_score of those that have one. fields: values of each field of metadata and annotations with
    their numbers, without fields of many values. records: of each split.
    """

    ids: np.ndarray
    contents: np.ndarray
    numbers: dict[str, np.ndarray]
    fields: dict[str, Counter[str]]
    records: dict[str, int]


@dataclass(frozen=True)
class Shift:
    """How much a distribution differs. psi: population stability index. ks: Kolmogorov-Smirnov, of numbers. shares:
    value -> its shares before and after, of fields with at most 20 values.
    """

    name: str
    psi: float
    ks: float | None
    largest: str
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Diff:
    """The difference of two versions. added, removed, changed: numbers of records; examples: some of each."""

    records: tuple[dict[str, int], dict[str, int]]
    added: int
    removed: int
    changed: int
    examples: dict[str, list[ChangedRecord]]
    shifts: list[Shift]


def read_contents(splits: Mapping[str, Artifact]) -> Contents:
    """Read every record of a version. Memory: 40 bytes a record, and a row group."""
    ids, contents = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    numbers: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in ("length", *_SCORES)}
    fields: dict[str, Counter[str]] = {}
    for artifact in splits.values():
        for table in artifact.tables():
            ids.append(np.array([hash64(id) for id in table["id"].to_pylist()], np.uint64))
            # Without the time when a record was collected, which differs between equal records of two runs.
            kept = [field for field in table["metadata"].type if field.name != TIME]
            whole = table["metadata"].combine_chunks()
            metadata = pa.StructArray.from_arrays([whole.field(one.name) for one in kept], fields=kept)
            table = table.set_column(table.schema.get_field_index("metadata"), "metadata", metadata)
            besides = [name for name in BESIDES if name in table.column_names]
            plain = few_rows(table.drop_columns(besides), artifact.uri)
            # Columns and keys that no record of a version needs are not there.
            said = [without_nulls(row) | {name: row[name] for name in OF_FIELDS if name in row} for row in plain]
            texts = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in said]
            hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
            contents.append(np.array([int.from_bytes(one, "little") for one in hashes], np.uint64))
            numbers["length"].append(np.array([_characters(row | dict.fromkeys(OF_FIELDS)) for row in said], float))
            for name in _SCORES:
                column = table[name] if name in table.column_names else None
                if column is None and metadata.type.get_field_index(name) >= 0:
                    column = pc.struct_field(metadata, name)
                if column is not None:
                    numbers[name].append(column.drop_null().to_numpy(zero_copy_only=False).astype(float))
            _count(fields, table)
    return Contents(
        np.concatenate(ids),
        np.concatenate(contents),
        {name: found for name, parts in numbers.items() if len(found := np.concatenate(parts))},
        {name: values for name, values in fields.items() if len(values) <= _VALUES},
        {split: artifact.manifest.rows for split, artifact in splits.items()},
    )


def _count(fields: dict[str, Counter[str]], table: pa.Table) -> None:
    """Add the values of every field. The annotations count each of their values."""
    for row in table.select([name for name in OF_FIELDS if name in table.column_names]).to_pylist():
        metadata = row["metadata"] or {}
        for name, value in metadata.items():
            if name not in _SCORES:
                _add(fields, name, [value])
        for name, values in (row.get("annotations") or {}).items():
            if values and values != [metadata.get(ANNOTATIONS[name])]:  # which is counted under its own name
                _add(fields, name, values)


def _add(fields: dict[str, Counter[str]], name: str, values: Values) -> None:
    counts = fields.setdefault(name, Counter())
    if len(counts) <= _VALUES:
        counts.update(value or "" if isinstance(value, Hashable) else str(value) for value in values)


def _characters(value: Any) -> int:
    """Characters of all texts of a record."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(one) for key, one in value.items() if key != "role")
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def compare_versions(before: Mapping[str, Artifact], after: Mapping[str, Artifact]) -> Diff:
    """The difference of two versions, by their splits. Reads every record of both."""
    old, new = read_contents(before), read_contents(after)
    is_new, is_gone = ~np.isin(new.ids, old.ids), ~np.isin(old.ids, new.ids)
    order = np.argsort(old.ids, kind="stable")
    stays = new.ids[~is_new]
    at = order[np.searchsorted(old.ids[order], stays)] if len(stays) else np.empty(0, np.int64)
    is_changed = old.contents[at] != new.contents[~is_new]
    changed = stays[is_changed]
    return Diff(
        (old.records, new.records),
        int(is_new.sum()),
        int(is_gone.sum()),
        int(is_changed.sum()),
        {
            "added": examples_of({}, after, new.ids[is_new]),
            "removed": examples_of(before, {}, old.ids[is_gone]),
            "changed": examples_of(before, after, changed),
        },
        _shifts(old, new),
    )


def _shifts(old: Contents, new: Contents) -> list[Shift]:
    both = [name for name in ("length", *_SCORES) if name in old.numbers and name in new.numbers]
    found = [_shift_of_numbers(name, old.numbers[name], new.numbers[name]) for name in both]
    found.append(_shift("split", Counter(old.records), Counter(new.records)))
    for name in old.fields.keys() & new.fields.keys():
        found.append(_shift(name, old.fields[name], new.fields[name]))
    return sorted(found, key=lambda one: (-one.psi, one.name))


def _shift_of_numbers(name: str, old: np.ndarray, new: np.ndarray) -> Shift:
    edges = np.unique(np.quantile(old, np.linspace(0, 1, _BINS + 1)[1:-1]))
    parts = [np.bincount(np.searchsorted(edges, one, "right"), minlength=len(edges) + 1) for one in (old, new)]
    at = np.unique(np.concatenate([old, new]))
    below = [np.searchsorted(np.sort(one), at, "right") / len(one) for one in (old, new)]
    ks = float(np.abs(below[0] - below[1]).max())
    before, after = float(np.median(old)), float(np.median(new))
    medians = f"{before:,.0f} -> {after:,.0f} characters" if name == "length" else f"{before:.3f} -> {after:.3f}"
    return Shift(name, psi(*parts), ks, f"median {medians}")


def _shift(name: str, old: Counter[str], new: Counter[str]) -> Shift:
    values = sorted(old.keys() | new.keys())
    parts = [np.array([one[value] for value in values]) for one in (old, new)]
    if not all(part.sum() for part in parts):
        return Shift(name, 0.0, None, "")
    shares = [part / part.sum() for part in parts]
    largest = int(np.abs(shares[1] - shares[0]).argmax())
    words = " -> ".join(share(part[largest], part.sum()) for part in parts)
    named = [value or "(none)" for value in values]
    pairs = zip(*(part.tolist() for part in shares), strict=True)
    all_shares = dict(zip(named, pairs, strict=True)) if len(values) <= _SHARES else {}
    return Shift(name, psi(*parts), None, f"{_line(named[largest])} {words}", all_shares)


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """Population stability index of two histograms: the sum of (p - q) ln(p / q) over their bins; 0 or more."""
    p, q = (np.maximum(one / one.sum(), _LEAST_SHARE) for one in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def diff_text(before: str, after: str, found: Diff) -> str:
    """The difference as lines of text. before, after: names of the versions."""
    old, new = found.records
    lines = [f"{before} -> {after}"]
    lines += [f"{split:<12}{count(old[split]):>10} -> {count(new[split])}" for split in new]
    for what, records in (("added", found.added), ("removed", found.removed), ("changed", found.changed)):
        examples = found.examples[what]
        lines.append(f"{what:<12}{count(records):>10}")
        for example in examples:
            differs = f"  (differs in {_line(', '.join(example.differs))})" if example.differs else ""
            lines.append(f"  {_line(example.id)}{differs}")
            sides = [(name, said) for name, said in (("before", example.before), ("after", example.after)) if said]
            for name, said in sides:
                said_by = f"{name:<8}" if len(sides) > 1 else ""
                lines.append(f"    {said_by}{said.question}")
                lines += [f"    {' ' * len(said_by)}> {said.answer}"] if said.answer else []
        lines += [f"  and {count(records - len(examples))} more"] if 0 < len(examples) < records else []
    for one in found.shifts:
        ks = f", KS {one.ks:.3f}" if one.ks is not None else ""
        mark = "  (shifted)" if one.psi >= NOTABLE_PSI else ""
        lines.append(f"{_line(one.name):<12} PSI {one.psi:.3f}{ks}  {one.largest}{mark}")
        if len(one.shares) > 1:
            told = (f"{_line(value)} {share(old, 1)} -> {share(new, 1)}" for value, (old, new) in one.shares.items())
            lines.append(textwrap.fill(", ".join(told), 120, initial_indent=_INDENT, subsequent_indent=_INDENT))
    return "\n".join(lines)


def diff_values(
    before: str, after: str, found: Diff, metrics: Mapping[str, tuple[float | None, float | None]]
) -> dict[str, Any]:
    """The difference as JSON values. before, after: names of the versions. metrics: as of `metric_values`."""
    plain = asdict(found)
    plain["records"] = dict(zip(("before", "after"), found.records, strict=True))
    return {"before": before, "after": after} | plain | {"metrics": metrics}


def metrics_text(before: str, after: str, old: Assessment | None, new: Assessment | None) -> str:
    """Score, metrics and shares of languages of two versions as lines; those with a change of 0.01 or more are marked.

    before, after: names of the versions. A metric that only one of them has stands beside a dash.
    """
    for name, found in ((before, old), (after, new)):
        if found is None:
            return f"{name} has no assessment.json: run `raymill assess` on its output to compare metrics."
    values = [(_line(name), pair) for name, pair in metric_values(old, new).items()]
    width = max(len(name) for name, _ in values)
    lines = []
    for name, (then, now) in values:
        change = now - then if then is not None and now is not None else 0.0
        mark = f"  ({change:+.3f})" if abs(change) >= _NOTABLE else ""
        lines.append(f"{name:<{width}} {number(then):>7} -> {number(now)}{mark}")
    return "\n".join(lines)


def metric_values(old: Assessment | None, new: Assessment | None) -> dict[str, tuple[float | None, float | None]]:
    """Score, metrics and shares of languages of two versions, of those that one of them has; empty without both."""
    if old is None or new is None:
        return {}
    languages = sorted(old["findings"]["languages"] | new["findings"]["languages"])
    before, after = (_values(one, languages) for one in (old, new))
    pairs = {name: (before.get(name), after.get(name)) for name in before | after}
    return {name: pair for name, pair in pairs.items() if pair != (None, None)}


def _values(assessment: Assessment, languages: list[str]) -> dict[str, float | None]:
    metrics = {one["name"]: one["value"] for one in assessment["metrics"]}
    found = assessment["findings"]["languages"]
    shares = {f"language {name}": ratio(found.get(name, 0), sum(found.values())) for name in languages}
    return {"score": assessment["score"]} | metrics | shares
