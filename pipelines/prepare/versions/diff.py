"""What differs between two versions: records, and the distributions of numbers and metadata."""

import hashlib
import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact
from cluster.formats import count, share
from pipelines.prepare.records.annotations import ANNOTATIONS, Values
from pipelines.prepare.records.hashes import hash64
from pipelines.prepare.versions.examples import BESIDES, OF_FIELDS, TIME, ChangedRecord, examples_of

_SHARES = 20  # values of a field whose shares are all told
_VALUES = 1000  # of a field of metadata; one with more is a name, not a category
_BINS = 10
_LEAST_SHARE = 1e-4  # of a bin without records, so that PSI is finite
# PSI above this is a shift worth a look; 0.25 a large one. Source: Siddiqi 2006, Credit Risk Scorecards, chapter 10.
NOTABLE_PSI = 0.1
_INDENT = " " * 13

_SCORES = ("complexity", "quality_score")


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
            table = table.set_column(
                table.schema.get_field_index("metadata"), "metadata", _without_time(table["metadata"])
            )
            said = table.drop_columns([name for name in BESIDES if name in table.column_names]).to_pylist()
            texts = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in said]
            contents.append(np.array([_hash(text) for text in texts], np.uint64))
            numbers["length"].append(np.array([_characters(row | dict.fromkeys(OF_FIELDS)) for row in said], float))
            for name in _SCORES:
                numbers[name].append(_scores(table, name))
            _count(fields, table)
    return Contents(
        np.concatenate(ids),
        np.concatenate(contents),
        {name: found for name, parts in numbers.items() if len(found := np.concatenate(parts))},
        {name: values for name, values in fields.items() if len(values) <= _VALUES},
        {split: artifact.manifest.rows for split, artifact in splits.items()},
    )


def _without_time(metadata: pa.ChunkedArray) -> pa.ChunkedArray:
    """Metadata without the time when a record was collected, which differs between equal records of two runs."""
    kept = [field for field in metadata.type if field.name != TIME]
    whole = metadata.combine_chunks()
    return pa.chunked_array([pa.StructArray.from_arrays([whole.field(one.name) for one in kept], fields=kept)])


def _scores(table: pa.Table, name: str) -> np.ndarray:
    """float64[N] of the records that have this column or metadata."""
    column = table[name] if name in table.column_names else None
    if column is None and table["metadata"].type.get_field_index(name) >= 0:
        column = pc.struct_field(table["metadata"], name)
    return np.empty(0) if column is None else column.drop_null().to_numpy().astype(float)


def _count(fields: dict[str, Counter[str]], table: pa.Table) -> None:
    """Add the values of every field. The annotations count each of their values."""
    for row in table.select([name for name in OF_FIELDS if name in table.column_names]).to_pylist():
        metadata = row["metadata"]
        for name, value in metadata.items():
            if name not in _SCORES:
                _add(fields, name, [value])
        for name, values in (row.get("annotations") or {}).items():
            if values and values != [metadata.get(ANNOTATIONS[name])]:  # which is counted under its own name
                _add(fields, name, values)


def _add(fields: dict[str, Counter[str]], name: str, values: Values) -> None:
    counts = fields.setdefault(name, Counter())
    if len(counts) <= _VALUES:
        counts.update(value or "" for value in values)


def _characters(value: Any) -> int:
    """Characters of all texts of a record."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(one) for key, one in value.items() if key != "role")
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


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
    return Shift(name, psi(*parts), None, f"{named[largest]} {words}", all_shares)


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """Population stability index of two histograms: the sum of (p - q) ln(p / q) over their bins; 0 or more."""
    p, q = (np.maximum(one / one.sum(), _LEAST_SHARE) for one in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def diff_text(before: str, after: str, found: Diff) -> str:
    """The difference as lines of text. before, after: names of the versions."""
    old, new = found.records
    lines = [f"{before} -> {after}"]
    lines += [f"{split:<12}{count(old[split]):>10} -> {count(new[split])}" for split in new]
    for what, number in (("added", found.added), ("removed", found.removed), ("changed", found.changed)):
        examples = found.examples[what]
        lines.append(f"{what:<12}{count(number):>10}")
        lines += [line for example in examples for line in _example_text(example)]
        lines += [f"  and {count(number - len(examples))} more"] if 0 < len(examples) < number else []
    for one in found.shifts:
        ks = f", KS {one.ks:.3f}" if one.ks is not None else ""
        mark = "  (shifted)" if one.psi >= NOTABLE_PSI else ""
        lines.append(f"{one.name:<12} PSI {one.psi:.3f}{ks}  {one.largest}{mark}")
        if len(one.shares) > 1:
            told = (f"{value} {share(old, 1)} -> {share(new, 1)}" for value, (old, new) in one.shares.items())
            lines.append(textwrap.fill(", ".join(told), 120, initial_indent=_INDENT, subsequent_indent=_INDENT))
    return "\n".join(lines)


def _example_text(example: ChangedRecord) -> list[str]:
    differs = f"  (differs in {', '.join(example.differs)})" if example.differs else ""
    lines = [f"  {example.id}{differs}"]
    sides = [(name, said) for name, said in (("before", example.before), ("after", example.after)) if said]
    for name, said in sides:
        said_by = f"{name:<8}" if len(sides) > 1 else ""
        lines.append(f"    {said_by}{said.question}")
        lines += [f"    {' ' * len(said_by)}> {said.answer}"] if said.answer else []
    return lines


def diff_json(before: str, after: str, found: Diff, metrics: Mapping[str, tuple[float | None, float | None]]) -> str:
    """The difference as JSON. before, after: names of the versions. metrics: as of `metric_values`."""
    plain = asdict(found)
    plain["records"] = dict(zip(("before", "after"), found.records, strict=True))
    return json.dumps({"before": before, "after": after} | plain | {"metrics": metrics}, indent=1, ensure_ascii=False)
