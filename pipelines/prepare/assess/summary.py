"""The stage `summary`: the facts of all records put together to findings. One unit.

Memory: 60 bytes a record, the distinct values of the fields that are counted, 32 KB for each value whose lengths or
scores are compared, and the sample.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.pipelines.prepare.assess.embed import LEARNED
from raymill.pipelines.prepare.assess.facts import ANSWERS, FACTS, QUESTIONS, SAMPLE, smallest_of_sample
from raymill.pipelines.prepare.assess.findings import (
    Agreed,
    Findings,
    Leaks,
    LexicalDiversity,
    Periods,
    RepeatedTexts,
    Represented,
    Some,
    Values,
)
from raymill.pipelines.prepare.assess.metrics import (
    Agreement,
    Forms,
    Samples,
    compared_lengths,
    compared_scores,
    contradictory,
    distinct,
    evenness,
    evenness_of_months,
    mtld,
    representation,
)
from raymill.pipelines.prepare.assess.settings import Assess
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import split_tokens

LEAKS = "leaks"  # the groups of questions that are like one of train
SUMMARY = "summary"
SUMMARY_VERSION = "7"
_LIBRARIES = 512 << 20
_OF_A_RECORD = 60
_IDS_SHOWN = 5
_VALUES_SHOWN = 20
_MTLD_TOKENS = 50_000
_MONTH = len("2026-01")
# What makes a record inconsistent, by the names of its masks.
_INCONSISTENT = ("not_allowed", "contradictory", "other_format", "terms")
_SCHEMA = pa.schema([("findings", pa.string())])


@dataclass(frozen=True)
class SplitRows:
    """Rows of each split, which follow one another in the units of `facts_stage`."""

    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, splits: Sequence[Artifact]) -> "SplitRows":
        """Those of a run's splits; of other records, all count as train."""
        rows = [one.manifest.rows for one in splits]
        if tuple(one.uri.rpartition("/")[2] for one in splits) == SPLITS:
            return cls(*rows)
        return cls(sum(rows), 0, 0)


def leaks_of(groups: Artifact | None, questions: Artifact, rows_by_unit: Sequence[int], splits: SplitRows) -> Leaks:
    """Count them. Every record of validation and test was compared with every record of train.

    groups: of `questions`, by `group_stage` with those of train as `known`; None without records of train, or others.
    rows_by_unit: rows of all records, with copies, which are in train. Memory: ids and hashes of the leaked records.
    """
    first_of_unit = np.cumsum([0, *rows_by_unit])
    found = [np.empty(0, np.int64)]
    for table in groups.tables(["unit", "row", "partner_run"]) if groups else ():
        table = table.filter(pc.is_valid(table["partner_run"]))
        found.append(first_of_unit[table["unit"].to_numpy()] + table["row"].to_numpy())
    leaked = np.sort(np.concatenate(found))  # places among all records
    in_test, exact, ids = int((leaked >= splits.train + splits.validation).sum()), 0, []
    if len(leaked):
        own = pa.concat_tables(
            table.filter(pa.array(np.isin(places, leaked, assume_unique=True)))
            for places, table in _compared(questions, first_of_unit, ["row", "id", "text_hash"])
        )
        hashes = pc.unique(own["text_hash"])
        equal = np.zeros(len(hashes), bool)
        for places, table in _compared(questions, first_of_unit, ["row", "text_hash"]):
            of_train = table["text_hash"].filter(pa.array(places < splits.train))
            equal |= pc.is_in(hashes, of_train).to_numpy(zero_copy_only=False)
        exact = pc.sum(pc.is_in(own["text_hash"], hashes.filter(pa.array(equal)))).as_py()
        ids = own["id"].slice(0, _IDS_SHOWN).to_pylist()
    return Leaks(
        compared=splits.validation + splits.test, validation=len(leaked) - in_test, test=in_test, exact=exact, ids=ids
    )


def _compared(
    questions: Artifact, first_of_unit: np.ndarray, columns: Sequence[str]
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """(int64[N], places among all records; the columns) of the questions that were compared, in order, by row group."""
    for uris, first in zip(questions.files_by_unit(len(first_of_unit) - 1), first_of_unit[:-1], strict=True):
        for table in read_tables(questions.store, uris, set(columns).__contains__):
            yield first + table["row"].to_numpy(), table


@dataclass(frozen=True)
class SummarySettings:
    """The settings on which the summary depends. shares: wanted ones of the values of fields; empty: equal ones.
    rules, terms: whether broken rules, and terms that cleaning replaces, were looked for.
    """

    assess: Assess
    shares: Mapping[str, Mapping[str, float]]
    rules: bool
    terms: bool
    splits: SplitRows


def summary_stage(
    settings: SummarySettings,
    facts: dict[str, Artifact],
    groups: dict[str, Artifact],
    learned: dict[str, Artifact],
    units: int,
) -> Stage:
    """The stage that writes SUMMARY.

    facts: the artifacts of `facts_stage`. groups: of repeated questions and answers, by QUESTIONS and ANSWERS, and of
    questions that are like one of train, by LEAKS. learned:
    of `learn_stage`; empty without vectors.
    """
    options = settings.assess
    depends_on = {
        "version": SUMMARY_VERSION,
        "facts": facts[FACTS].manifest.digest,
        "groups": [one.manifest.digest for one in groups.values()],
        "learned": [one.manifest.digest for one in learned.values()],
        "settings": [options.topics, options.languages, options.sample, options.annotators, options.period],
        "shares": [settings.shares, settings.rules, settings.terms],
        "splits": asdict(settings.splits),
    }
    store, memory = facts[FACTS].store, _LIBRARIES + _OF_A_RECORD * facts[FACTS].manifest.rows
    work = partial(summarise, settings, facts, groups, learned, units)
    return Stage("summary", (Output(SUMMARY, _SCHEMA),), (None,), work, fingerprint(depends_on), store, memory=memory)


def summarise(
    settings: SummarySettings,
    artifacts: dict[str, Artifact],
    groups: dict[str, Artifact],
    learned: dict[str, Artifact],
    units: int,
    _: None,
    scratch: Scratch,
) -> Counters:
    """The work of the stage. No counters."""
    facts = artifacts[FACTS]
    fields = [name for name in map(_field, facts.schema.names) if name]
    options = settings.assess
    counted = Counted(
        {name: Counter() for name in (*fields, "length", "turns")},
        {name: Samples() for name in settings.shares},
        {name: Samples() for name in settings.shares if options.sentiment},
        options.period,
    )
    for table in facts.tables([name for name in facts.schema.names if name != "id"]):
        counted.add(table)
    expected = options.languages or tuple(name for name, _ in _ranked(counted.languages)[:1])
    against = contradictory(*map(np.concatenate, (counted.questions, counted.answers)))
    chosen = {
        name: _Chosen()
        for name in (
            "incomplete", "not_allowed", "other_language", "damaged", "contradictory", "violating", "differing",
            "other_format", "terms", "off_topic",
        )
    }  # fmt: skip
    of_values = {}
    for name, found in counted.values.items():
        frequent = [value for value, _ in _ranked(found)]
        of_values[name] = _OfValues(frequent[:_VALUES_SHOWN] + frequent[_VALUES_SHOWN:][-1:])
    months = evenness_of_months(counted.dates)
    agreement = Agreement()
    inconsistent = poor = at = 0
    of_annotators = [f"kept/{name}" for name in options.annotators]
    labels = of_annotators or [name for name in facts.schema.names if name == "labels"]
    names = ["id", "copy", "missing", "not_allowed", "language", "damaged", "violation", *labels]
    names += ["topics", "term", "form", "dates", "characters", "turns", *(f"value/{name}" for name in fields)]
    for table in map(_without_copies, facts.tables(names)):
        task_types, forms, dates = _forms(table)
        conflicts = pa.array(against[at : (at := at + table.num_rows)])
        other = pc.invert(
            pc.is_in(pc.fill_null(table["language"], expected[0] if expected else ""), pa.array(expected, pa.string()))
        )
        masks = {
            "incomplete": pc.greater(pc.list_value_length(table["missing"]), 0),
            "not_allowed": table["not_allowed"],
            "other_language": other if expected else pa.repeat(False, table.num_rows),
            "damaged": table["damaged"],
            "contradictory": conflicts,
            "violating": table["violation"].is_valid(),
            "differing": _differing(agreement, table.select(labels)),
            "other_format": pc.or_(
                counted.forms.unusual(task_types, forms), counted.date_forms.unusual(task_types, dates)
            ),
            "terms": table["term"],
            "off_topic": pc.equal(pc.list_value_length(table["topics"]), 0),
        }
        for name, mask in masks.items():
            chosen[name].add(table["id"], mask)
        for name, column in _values_of(table).items():
            of_values[name].add(table["id"], column)
        inconsistent += pc.sum(reduce(pc.or_, (masks[name] for name in _INCONSISTENT))).as_py() or 0
        poor += pc.sum(pc.or_(masks["other_language"], masks["damaged"])).as_py() or 0
    counters = facts.manifest.counters
    findings = Findings(
        records=at,
        copies=facts.manifest.rows - at,
        missing=dict(_ranked(counted.missing)),
        incomplete=chosen["incomplete"].some(),
        not_allowed=chosen["not_allowed"].some(),
        contradictory=chosen["contradictory"].some(),
        forms=counted.forms.total,
        dates=counted.date_forms.total,
        other_format=chosen["other_format"].some(),
        terms=chosen["terms"].some() if settings.terms else None,
        inconsistent=inconsistent,
        questions=_repeats(artifacts[QUESTIONS], groups[QUESTIONS], units),
        answers=_repeats(artifacts[ANSWERS], groups[ANSWERS], units),
        leaks=leaks_of(groups.get(LEAKS), artifacts[QUESTIONS], facts.rows_by_unit(units), settings.splits),
        languages=dict(_ranked(counted.languages)[:_VALUES_SHOWN]),
        expected=list(expected),
        other_language=chosen["other_language"].some(),
        damaged=chosen["damaged"].some(),
        poor_language=poor,
        topics={name: int(counters.get(f"topic/{at}", 0)) for at, name in enumerate(options.topics)},
        on_topic=int(counters["on_topic"]),
        off_topic=chosen["off_topic"].some(),
        values={
            name: Values(
                distinct=len(found),
                evenness=evenness(found.values()),
                shown=dict(_ranked(found)[:_VALUES_SHOWN]),
                ids=of_values[name].ids,
            )
            for name, found in counted.values.items()
        },
        words=_words(artifacts[SAMPLE], options.sample),
        rules=dict(_ranked(counted.rules)) if settings.rules else None,
        violating=chosen["violating"].some(),
        agreement=Agreed(records=agreement.records, alpha=agreement.alpha, differing=chosen["differing"].some())
        if labels
        else None,
        represented={
            name: Represented(
                likeness=representation(counted.values[name], wanted),
                wanted=dict(wanted),
                shown=dict(_ranked(counted.values[name])[:_VALUES_SHOWN])
                | {value: counted.values[name][value] for value in wanted},
            )
            for name, wanted in settings.shares.items()
        },
        lengths={name: compared_lengths(samples) for name, samples in counted.lengths.items()},
        sentiments={name: compared_scores(samples) for name, samples in counted.sentiments.items()},
        periods=Periods(evenness=months[0], records=months[1]) if options.period else None,
        learned=json.loads(learned[LEARNED].table()["learned"][0].as_py()) if learned else None,
    )
    scratch.write(SUMMARY, pa.table([[json.dumps(findings, ensure_ascii=False)]], schema=_SCHEMA))
    return {}


def _repeats(attributes: Artifact, groups: Artifact, units: int) -> RepeatedTexts:
    counts = Counter[str]()
    first: list[tuple[int, int]] = []
    for table in groups.tables(["unit", "row", "reason"]):
        removed = table.filter(table["reason"].is_valid())
        counts.update(removed["reason"].to_pylist())
        places = zip(removed["unit"].to_pylist(), removed["row"].to_pylist(), strict=True)
        first = heapq.nsmallest(_IDS_SHOWN, [*first, *places])
    return RepeatedTexts(
        compared=attributes.manifest.rows,
        exact=counts["exact_duplicate"],
        near=counts["near_duplicate"],
        ids=[_id_at(attributes, attributes.files_by_unit(units)[unit], row) for unit, row in first],
    )


def _words(sample: Artifact, count: int) -> LexicalDiversity:
    sampled = smallest_of_sample(sample, count)
    tokens, starts = split_tokens(Texts.from_strings(sampled))
    texts = np.split(tokens, starts[1:-1]) if sampled else []
    return LexicalDiversity(
        records=len(sampled),
        tokens=len(tokens),
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        mtld=mtld(tokens[:_MTLD_TOKENS].tolist()),
    )


@dataclass
class Counted:
    """What the first pass over the facts adds up. lengths, sentiments: of fields whose values are compared. period:
    with dates.
    """

    values: dict[str, Counter[str]]
    lengths: dict[str, Samples]
    sentiments: dict[str, Samples]
    period: str | None
    questions: list[np.ndarray] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    answers: list[np.ndarray] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    languages: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    dates: Counter[str] = field(default_factory=Counter)
    forms: Forms = field(default_factory=Forms)
    date_forms: Forms = field(default_factory=Forms)

    def add(self, table: pa.Table) -> None:
        """Add the facts of some records."""
        if self.period:
            self.dates.update(_counts(pc.utf8_slice_codeunits(table[f"kept/{self.period}"].drop_null(), 0, _MONTH)))
        for name, column in _values_of(table).items():
            self.values[name].update(_counts(column))
        table = _without_copies(table)
        # Plain texts have the question 0 and the answer 0, so none contradicts another.
        self.questions.append(table["question"].to_numpy())
        self.answers.append(table["answer"].to_numpy())
        self.languages.update(_counts(table["language"].drop_null()))
        self.missing.update(_counts(pc.list_flatten(table["missing"])))
        self.rules.update(_counts(table["violation"].drop_null()))
        task_types, forms, dates = _forms(table)
        self.forms.add(task_types, forms)
        self.date_forms.add(task_types, dates)
        for of_fields, measured in ((self.lengths, "characters"), (self.sentiments, "sentiment")):
            for name, samples in of_fields.items():
                values = pc.fill_null(table[f"value/{name}"], "").to_numpy()
                samples.add(values, table["hash"].to_numpy(), table[measured].to_numpy())


class _Chosen:
    """Counts records, and keeps the ids of the first ones."""

    def __init__(self) -> None:
        self.records = 0
        self.ids: list[str] = []

    def add(self, ids: pa.ChunkedArray, mask: Any) -> None:
        found = ids.filter(mask)
        self.records += len(found)
        self.ids += found.slice(0, _IDS_SHOWN - len(self.ids)).to_pylist()

    def some(self) -> Some:
        return Some(records=self.records, ids=self.ids)


class _OfValues:
    """Keeps the ids of the first records with each of some values."""

    def __init__(self, values: Iterable[str]) -> None:
        self.ids: dict[str, list[str]] = {value: [] for value in values}

    def add(self, ids: pa.ChunkedArray, values: Any) -> None:
        for value, found in self.ids.items():
            if len(found) < _IDS_SHOWN:
                found += ids.filter(pc.equal(values, value)).slice(0, _IDS_SHOWN - len(found)).to_pylist()


def _values_of(table: pa.Table) -> dict[str, Any]:
    """The values that are counted, by field, as texts; empty of a record without one. Columns of FACTS."""
    lengths = np.frexp(table["characters"].to_numpy())[1]  # powers of two
    columns = {name: table[column] for column in table.column_names if (name := _field(column))}
    columns |= {"length": pa.array([f"below {2**power}" for power in lengths.tolist()]), "turns": table["turns"]}
    return {name: pc.fill_null(column.cast(pa.string()), "") for name, column in columns.items()}


def _forms(table: pa.Table) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """(task types, forms of answers, forms of dates) of records. Columns of FACTS."""
    task_types = pc.fill_null(table["value/task_type"], "").to_pylist()
    return task_types, [[one] if one else [] for one in table["form"].to_pylist()], table["dates"].to_pylist()


def _without_copies(table: pa.Table) -> pa.Table:
    return table.filter(pc.invert(table["copy"]))


def _field(column: str) -> str:
    """The field whose values a column of FACTS has; empty for another column."""
    return column.partition("value/")[2]


def _counts(column: Any) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _differing(agreement: Agreement, labels: pa.Table) -> pa.Array:
    """bool[N]: whether the labels of a record differ. labels: a column for each annotator, or one of lists, or none."""
    if not labels.column_names:
        return pa.repeat(False, labels.num_rows)
    of_list = labels.column_names == ["labels"]
    given = (row["labels"] or () if of_list else row.values() for row in labels.to_pylist())
    return pa.array([agreement.add(one) for one in given], pa.bool_())


def _id_at(attributes: Artifact, uris: Sequence[str], row: int) -> str:
    """The id of a row of one unit."""
    for table in read_tables(attributes.store, uris, {"row", "id"}.__contains__):
        at = int(np.searchsorted(table["row"].to_numpy(), row))
        if at < table.num_rows and table["row"][at].as_py() == row:
            return table["id"][at].as_py()
    raise AssertionError(f"row {row} is in {attributes.uri}")
