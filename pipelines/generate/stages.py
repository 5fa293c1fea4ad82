"""The stages of a generation.

    draft    reads the seeds of a unit of input, and writes the requests about each   -> _work/requests.0, quarantine
    ask.0    asks the requests of a range of keys, reads the answers; of a template   -> _work/requests.1
             with several steps, ask.1 and so on follow
    ask.N    the last of them makes records of the answers                            -> _work/records, and what is
                                                                                         compared of them
    reward,  rewards of the records, and which of them stay,                      -> _work/rewards, _work/choices
    choose   if the settings name one: see choose.py
    group    finds records that are like others                                       -> _work/groups
    write    the records that stay, and the ledger of the others                      -> records, removed

Requests with equal keys are in one range, so that each is asked once, whoever asks.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.backends import Backends
from raymill.cluster.asking.pending import Answered
from raymill.cluster.asking.requests import ModelRequest, boundaries, canonical, range_of
from raymill.cluster.examples.content import Content, columns_in_use, to_shape
from raymill.cluster.examples.terms import GENERATED
from raymill.cluster.examples.texts import compared_texts, texts_of
from raymill.cluster.output import Output, changed, changed_run, read_slices, table_of, table_slice
from raymill.cluster.plan.sample import document_count
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from raymill.cluster.stage import RunStageIn, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.group import GROUPS, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.generate.choose import (
    CHOICES,
    CHOICES_SCHEMA,
    NOT_CHOSEN,
    REWARDS,
    REWARDS_SCHEMA,
    ChooseRecords,
    ScoreRecords,
)
from raymill.pipelines.generate.config import RewardSelection
from raymill.pipelines.generate.parse import AnswerReader, AnswerRules
from raymill.pipelines.generate.rows import Asker, Row, items, seeds_of, with_item
from raymill.pipelines.generate.template import PROVENANCE, Refusal
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import LanguageId, identify
from raymill.pipelines.memory import task_memory
from raymill.pipelines.prepare.records.fields import hash_of_text
from raymill.pipelines.prepare.records.validate import Validator
from raymill.pipelines.prepare.stages.duplicates import (
    ATTRIBUTES_SCHEMA,
    VERDICTS_SCHEMA,
    DuplicateGroups,
    attributes,
)
from raymill.pipelines.rewards import RunReward
from raymill.pipelines.text.texts import Texts

VERSION = "1"
RECORDS, REMOVED, QUARANTINE = GENERATED, "removed", "quarantine"
_MADE, _ATTRIBUTES, _VERDICTS = "_work/records", "_work/attributes", "_work/verdicts"
REWARD = "reward"  # column of the records
_MOST_RANGES = 256
_SHORT_SEED = 100  # bytes
_RANGE_BYTES = 64 << 20  # of seeds, about
# Bytes in memory: of the rows and requests that a unit may write, and that one answer may make. An item of an answer
# has the whole seed with it, so large seeds and long lists make gigabytes of megabytes.
_MOST_OF_UNIT, _MOST_OF_ANSWER = 2 << 30, 64 << 20
_NO_COLUMNS = pa.schema([])
_REQUESTS_SCHEMA = pa.schema(
    [("row", pa.large_string()), ("keys", pa.list_(pa.string())), ("bodies", pa.list_(pa.large_string()))]
)
REMOVED_SCHEMA = pa.schema(
    [
        ("seed", pa.string()),  # its id
        ("source", pa.string()),
        ("step", pa.string()),  # of the template
        ("key", pa.string()),  # of the request; null before one was made
        ("requests", pa.list_(pa.string())),  # keys of all requests about the row, of the steps before too
        ("reason", pa.string()),  # of parse.REASONS, or of `validate`
        ("value", pa.string()),  # what was seen
        ("answer", pa.string()),  # id of the try in the answer store
        ("partner", pa.string()),  # of a duplicate: id of the record that stays
        ("similarity", pa.float64()),
        ("content", pa.large_string()),  # what had been made, as JSON
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [("row", pa.int64()), ("source", pa.string()), ("problem", pa.string()), ("where", pa.string())]
)
_LANGUAGE = LanguageId()


@dataclass(frozen=True)
class CommonFacts:
    """What all records of a run have.

    licences: of each source. languages: that records may have; empty: any.
    """

    generator: str
    revision: str
    terms: str | None
    licence: str | None
    licences: Mapping[str, str | None]
    template: str
    template_hash: str
    sampling: str
    languages: tuple[str, ...]

    def of_record(self, source: str) -> dict[str, str | None]:
        """What rules can name of a record, besides its own metadata. source: of its seed."""
        return {"source": source, "licence": self.licence or self.licences.get(source), "terms": self.terms}


@dataclass(frozen=True)
class GenerateSettings:
    """The settings of the stages.

    samples: of each seed. validator: the rules that records must meet; None: none. rules_memory: bytes of the models
    and lists that it loads. made_from: everything that the requests and records depend on, besides the seeds.
    chosen, reward: which records are kept by their reward, and what computes it; None: all, nothing.
    """

    asker: Asker
    samples: int
    made: CommonFacts
    dedup: Dedup | None
    limits: Limits
    answers: Answers
    backends: Backends
    most_unanswered: float
    made_from: str
    validator: Validator | None = None
    rules_memory: int = 0
    chosen: RewardSelection | None = None
    reward: RunReward | None = None

    def schema(self) -> pa.Schema:
        """The columns of the records, before they are scored."""
        content = columns_in_use(self.asker.shape, ())
        own = dict.fromkeys([*self.asker.carried, *self.asker.template.metadata, *self.asker.choices], pa.string())
        return pa.schema({"id": pa.string(), **content, **own, **PROVENANCE})


def run_stages(
    settings: GenerateSettings,
    inputs: InputManifest,
    run: RunStageIn,
    check: Callable[[dict[str, Artifact]], None] = lambda artifacts: None,
) -> dict[str, Artifact]:
    """All stages of a run. run: makes or finds the artifacts of a stage. check: of those of `draft`, before asking."""
    store, units = inputs.reading.store, inputs.units
    by_bytes = sum(unit.bytes for unit in units) * settings.samples // _RANGE_BYTES
    # An estimate. With one request at a time in each worker, short seeds such as topics occupy all workers too, and a
    # range without requests takes less time than one request.
    documents = document_count(inputs, _SHORT_SEED) if settings.backends.one_at_a_time else document_count(inputs)
    by_rows = settings.backends.ranges(documents * settings.samples, _MOST_RANGES)
    count = min(_MOST_RANGES, max(by_rows, by_bytes))
    made_from = fingerprint([VERSION, inputs.fingerprint, len(units), count, settings.made_from])
    outputs = (
        Output("_work/requests.0", _NO_COLUMNS),
        Output("_work/removed.draft", REMOVED_SCHEMA),
        Output(QUARANTINE, QUARANTINE_SCHEMA),
    )
    work = partial(draft, settings, inputs.reading, boundaries(count))
    memory = task_memory(settings.limits)
    artifacts = dict(run(Stage("draft", outputs, units, work, made_from, store, _files, memory=memory)))
    check(artifacts)
    read = artifacts[QUARANTINE].manifest.counters
    wanted = (read["documents"] - read["quarantined"]) * settings.samples
    wanted -= artifacts["_work/removed.draft"].rows
    last = len(settings.asker.template.steps) - 1
    for number in range(last + 1):
        requests = artifacts[f"_work/requests.{number}"]
        uris = requests.file_uris
        of_step = [Output(f"_work/removed.{number}", REMOVED_SCHEMA)]
        if number < last:
            of_step += [Output(f"_work/requests.{number + 1}", _NO_COLUMNS)]
        else:
            of_step += [
                Output(_MADE, settings.schema()),
                Output(_ATTRIBUTES, ATTRIBUTES_SCHEMA),
                Output(_VERDICTS, VERDICTS_SCHEMA),
            ]
        step = Ask(settings, number, tuple(uris), tuple(boundaries(count)), store)
        stage = Stage(
            f"ask.{number}", tuple(of_step), range(count), step, f"{made_from}/{number}", store,
            memory=memory + (settings.rules_memory if number == last else 0),
            watch=settings.backends.watch(int(requests.manifest.counters["requests"])),
            setup=settings.backends.setup, cpus=settings.backends.cpus, gpus=settings.backends.gpus,
        )  # fmt: skip
        artifacts |= run(stage)
        asked = artifacts[f"_work/removed.{number}"].manifest.counters
        if asked.get("rows") != wanted:
            raise changed_run(artifacts[QUARANTINE].uri.removesuffix(f"/{QUARANTINE}"), "_work")
        wanted = asked["next"]
    repeats, chosen, verdicts = None, [list[str]()] * count, artifacts[_VERDICTS]
    schema = settings.schema()
    if settings.chosen:
        artifacts |= _choose(settings.chosen, settings, artifacts[_MADE], count, run)
        chosen, verdicts = artifacts[CHOICES].files_by_unit(count), artifacts[NOT_CHOSEN]
        schema = schema.append(pa.field(REWARD, pa.float64()))
    if settings.dedup:
        compared = artifacts[_ATTRIBUTES]
        group = group_stage(settings.dedup, inputs.inputs, compared, verdicts, count)
        repeats = DuplicateGroups(run(group)[GROUPS], compared, "remove")
    removed = [artifacts[f"_work/removed.{number}"].files_by_unit(count) for number in range(last + 1)]
    drafted = artifacts["_work/removed.draft"].files_by_unit(len(units))
    parts = [
        (
            artifacts[_MADE].files_by_unit(count)[number],
            repeats.files_by_unit(count)[number] if repeats else [],
            [*(uri for files in removed for uri in files[number]), *(u for one in drafted[number::count] for u in one)],
            chosen[number],
            number,
        )
        for number in range(count)
    ]
    written = (Output(RECORDS, schema), Output(REMOVED, REMOVED_SCHEMA))
    write_from = fingerprint([made_from, settings.dedup and settings.dedup.model_dump(mode="json")])
    artifacts |= run(Stage("write", written, parts, partial(write, store), write_from, store))
    _refuse_other_rows(artifacts, last)
    return artifacts


def _choose(
    how: RewardSelection, settings: GenerateSettings, made: Artifact, units: int, run: RunStageIn
) -> dict[str, Artifact]:
    """The artifacts of the stages `reward` and `choose`. made: the records, of `units` units."""
    store, reward, shape = made.store, settings.reward, settings.asker.shape
    assert reward is not None
    made_from = fingerprint([VERSION, made.manifest.fingerprint, reward.identity])
    parts = made.files_by_unit(units)
    rewards = Stage(
        "reward", (Output(REWARDS, REWARDS_SCHEMA),), parts, ScoreRecords(store, shape), made_from, store,
        memory=2 << 30, setup=reward.setup, gpus=reward.gpus,
    )  # fmt: skip
    found = dict(run(rewards))
    scores = found[REWARDS].files_by_unit(units)
    outputs = Output(CHOICES, CHOICES_SCHEMA), Output(NOT_CHOSEN, VERDICTS_SCHEMA)
    made_from = fingerprint([made_from, how.selection])
    return found | run(
        Stage("choose", outputs, (0,), ChooseRecords(store, how, scores), made_from, store, memory=2 << 30)
    )


def _refuse_other_rows(artifacts: Mapping[str, Artifact], last: int) -> None:
    """Verify that each record that was made is kept or removed, and each row that was removed is listed.

    Raises:
        DataError: files of the unfinished run were changed.
    """
    made, kept, removed = (artifacts[name] for name in (_MADE, RECORDS, REMOVED))
    repeated = sum(int(one) for name, one in kept.manifest.counters.items() if name.startswith("removed/"))
    before = [artifacts["_work/removed.draft"], *(artifacts[f"_work/removed.{number}"] for number in range(last + 1))]
    asked = before[-1].manifest.counters
    if not (
        made.rows
        == artifacts[_ATTRIBUTES].rows
        == artifacts.get(CHOICES, made).rows
        == asked["records"]
        == kept.rows + repeated
        and removed.rows == sum(one.rows for one in before) + repeated
    ):
        raise changed_run(kept.uri.removesuffix(f"/{RECORDS}"), "_work")


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


def draft(
    settings: GenerateSettings, reading: Reading, firsts: Sequence[str], unit: Unit, scratch: Scratch
) -> Counters:
    """The work of the stage `draft` on a unit of input.

    Counters: `documents`, `quarantined`, `requests`, `next`, `removed/REASON`, and those of `lost_counters`.
    """
    counters, counts = Counter[str](), ReaderCounts()
    slices = _Slices(settings.asker, 0, firsts)
    for table in read_unit(unit, reading, settings.limits, counts=counts):
        readable, unreadable = split_problems(table)
        if unreadable.num_rows:
            found = unreadable.select(["row", "problem", "where"])
            scratch.write(QUARANTINE, found.append_column("source", pa.repeat(unit.source, found.num_rows)))
        counters.update({"documents": table.num_rows, "quarantined": unreadable.num_rows})
        for fields in seeds_of(readable):
            place = f"{unit.index}.{fields['row']}"
            carried = {name: one for name, one in fields.items() if name not in ("row", "problem", "where")}
            carried["id"] = fields["id"] or hash_of_text(fields["text"])
            for sample in range(settings.samples):
                fields = carried | settings.asker.drawn(carried["id"], sample)
                row = Row(carried["id"], unit.source, f"{place}.{sample}", fields)
                slices.add(row, sample)
    counters.update({"documents": counts.lost.total(), "quarantined": counts.lost.total()})
    counters.update(lost_counters(unit.source, counts))
    slices.write(scratch, "_work/requests.0", "_work/removed.draft", counters)
    return dict(counters)


class _Slices:
    """Requests of a step, by the range of their keys."""

    def __init__(self, asker: Asker, number: int, firsts: Sequence[str]) -> None:
        self._asker, self._step, self._firsts = asker, asker.template.steps[number], firsts
        self._rows: list[list[dict[str, Any]]] = [[] for _ in firsts]
        self._removed: list[dict[str, Any]] = []
        self._requests = self._size = 0

    def add(self, row: Row, sample: int) -> None:
        """The requests of the step about a row."""
        try:
            self._asker.refuse_incomplete(row)
            requests = self._asker.requests(row, self._step, sample)
            size = len(text := row.to_json()) + sum(len(one.body) for one in requests)
            if self._size + size > _MOST_OF_UNIT:
                raise Refusal("too_large", f"{size:,} characters after {self._size:,} of others")
            self._size += size
        except Refusal as error:
            self._removed.append(_removal(row, self._step.name, None, error))
            return
        self._requests += len(requests)
        named = {"row": text, "keys": [one.key for one in requests], "bodies": [one.body for one in requests]}
        self._rows[range_of(requests[0].key, self._firsts)].append(named)

    def write(self, scratch: Scratch, output: str, removed: str, counters: Counter[str]) -> None:
        """Write them, and what could not be asked."""
        tables = (pa.Table.from_pylist(rows, _REQUESTS_SCHEMA) if rows else None for rows in self._rows)
        scratch.write_slices(output, [b"" if one is None else table_slice(one) for one in tables])
        _write_removed(scratch, removed, self._removed, counters)
        counters["requests"] += self._requests
        counters["next"] += sum(map(len, self._rows))


def _removal(row: Row, step: str, key: str | None, why: Refusal, answer: str | None = None) -> dict[str, Any]:
    return {
        "seed": row.seed,
        "source": row.source,
        "step": step,
        "key": key,
        "requests": list(dict.fromkeys([*row.keys, *([key] if key else [])])),
        "reason": why.reason,
        "value": why.seen or None,
        "answer": answer,
        "content": canonical(row.values) if row.values else None,
    }


def _write_removed(scratch: Scratch, output: str, removed: Sequence[Mapping[str, Any]], counters: Counter[str]) -> None:
    if removed:
        scratch.write(output, pa.Table.from_pylist(list(removed), REMOVED_SCHEMA))
        counters.update(f"removed/{one['reason']}" for one in removed)


@dataclass(frozen=True)
class Ask:
    """The work of a stage `ask.N`. uris: the sliced files with the requests. firsts: the first key of each range."""

    settings: GenerateSettings
    number: int
    uris: tuple[str, ...]
    firsts: tuple[str, ...]
    store: Store

    def __call__(self, unit: int, scratch: Scratch, backend: Any) -> Counters:
        """Counters: `rows`; `asked`, different requests; `records`; `removed/REASON`; of the next step `requests` and
        `next`, its rows.

        Raises:
            DataError: a row has other requests than the step before makes of it, or is there twice.
        """
        tables = [one for one in read_slices(self.store, self.uris, unit, table_of) if one is not None]
        found_rows = pa.concat_tables([_REQUESTS_SCHEMA.empty_table(), *tables]).to_pylist()
        rows = sorted((self._row(one, unit) for one in found_rows), key=lambda one: one[1:])
        if len({row.name for row, *_ in rows}) < len(rows):
            raise changed(self.uris[0])
        requests = {one.key: one for _, _, _, asked in rows for one in asked}
        last = self.firsts[unit + 1] if unit + 1 < len(self.firsts) else ""
        settings = self.settings
        found = settings.backends.ask(
            backend, requests, AnswerRange(self.firsts[unit], last), settings.asker.sampling.max_tokens,
            settings.most_unanswered,
        )  # fmt: skip
        counters = Counter[str]({"rows": len(rows), "asked": len(requests), "records": 0, "requests": 0, "next": 0})
        step, removed, made = self.settings.asker.template.steps[self.number], list[dict[str, Any]](), list[Row]()
        reader = AnswerReader(step, self.settings.asker.sampling.max_tokens)
        for row, keys, _, _ in rows:
            kept, refused = self._read(row, keys, found, reader)
            removed += refused
            made += kept
        if self.number < len(self.settings.asker.template.steps) - 1:
            slices = _Slices(self.settings.asker, self.number + 1, self.firsts)
            for row in made:
                slices.add(row, _sample_of(row))
            slices.write(scratch, f"_work/requests.{self.number + 1}", f"_work/removed.{self.number}", counters)
        else:
            removed += self._write_records(made, unit, step.name, scratch, counters)
        _write_removed(scratch, f"_work/removed.{self.number}", removed, counters)
        return dict(counters)

    def _row(self, plain: Mapping[str, Any], unit: int) -> tuple[Row, list[str], str, list[ModelRequest]]:
        """(a row, keys of its requests, the row as JSON, the requests).

        The requests are made again and compared: with those of a changed file, the answer to another question would
        stand in the answer store under the key of this one, or a row without requests would be lost.

        Raises:
            DataError: they differ.
        """
        asker = self.settings.asker
        try:
            row = Row.from_json(plain["row"])
            requests = asker.requests(row, asker.template.steps[self.number], _sample_of(row))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, Refusal) as error:
            raise changed(self.uris[0]) from error
        keys = [one.key for one in requests]
        if (keys, [one.body for one in requests]) != (plain["keys"], plain["bodies"]):
            raise changed(self.uris[0])
        if range_of(keys[0], self.firsts) != unit:
            raise changed(self.uris[0])
        return row, keys, plain["row"], requests

    def _read(
        self, row: Row, keys: Sequence[str], found: Mapping[str, Answered], reader: AnswerReader
    ) -> tuple[list[Row], list[dict[str, Any]]]:
        """(the rows that the answers to a row make, what is wrong with the others)."""
        step = self.settings.asker.template.steps[self.number]
        removed, values = list[dict[str, Any]](), list[tuple[tuple[str, ...], dict[str, Any]]]()
        rules = AnswerRules(step, row.fields)
        for key in keys:
            answered = found[key]
            try:
                for item in reader.items(answered.reply):
                    try:
                        rules.refuse(item)
                        values.append(((key,), item))
                    except Refusal as error:
                        removed.append(_removal(with_item(row, step, item), step.name, key, error, answered.try_id))
            except Refusal as error:
                removed.append(_removal(row, step.name, key, error, answered.try_id))
        if len(keys) > 1 and step.each is None:
            if len(values) < len(keys):
                why = Refusal("other_sample", f"{len(values)} of {len(keys)} samples can be used")
                return [], removed + [_removal(row, step.name, key, why, found[key].try_id) for (key,), _ in values]
            values = [(tuple(keys), {"samples": [item for _, item in values]})]
        kept, size = [], 0
        for one in items(row, step, values):
            try:
                if len(values) > 1 and (size := size + len(one.to_json())) > _MOST_OF_ANSWER:
                    raise Refusal("too_large", f"{len(values):,} items, each with its seed")
                self.settings.asker.kept(one, step)
                kept.append(one)
            except Refusal as error:
                removed.append(_removal(one, step.name, one.keys[-1], error, found[one.keys[-1]].try_id))
        return kept, removed

    def _write_records(
        self, made: Sequence[Row], unit: int, step: str, scratch: Scratch, counters: Counter[str]
    ) -> list[dict[str, Any]]:
        asker, about = self.settings.asker, self.settings.made
        found, removed = list[tuple[Row, Content, dict[str, str | None]]](), list[dict[str, Any]]()
        for row in made:
            try:
                found.append((row, *asker.record(row)))
            except Refusal as error:
                removed.append(_removal(row, step, row.keys[-1], error))
        records, compared, sources = list[dict[str, Any]](), list[str](), list[str]()
        for (row, content, own), why in zip(found, self._broken_rules(found), strict=True):
            if why is not None:
                removed.append(_removal(row, step, row.keys[-1], why))
                continue
            columns = to_shape(content, asker.shape)
            compared.append("\n".join(compared_texts(content)))
            sources.append(row.source)
            identity = json.dumps([columns, row.name], ensure_ascii=False, sort_keys=True)
            records.append(
                {
                    "id": hashlib.blake2b(identity.encode(), digest_size=16).hexdigest(),
                    **columns,
                    **own,
                    **about.of_record(row.source),
                    "synthetic": True,
                    "generator": about.generator,
                    "revision": about.revision,
                    "template": about.template,
                    "template_hash": about.template_hash,
                    "sampling": about.sampling,
                    "requests": list(row.keys),
                    "provenance": {"parents": [row.seed], "operation": f"generate/{about.template}"},
                }
            )
        counters["records"] += len(records)
        if records:
            ids = [one["id"] for one in records]
            scratch.write(_MADE, pa.Table.from_pylist(records, self.settings.schema()))
            scratch.write(_ATTRIBUTES, attributes(range(len(ids)), ids, sources, compared, self.settings.dedup))
        return removed

    def _broken_rules(self, found: Sequence[tuple[Row, Content, Mapping[str, str | None]]]) -> list[Refusal | None]:
        """Of each record the first rule that it does not meet; None if it meets all."""
        about, validator = self.settings.made, self.settings.validator
        broken: list[Refusal | None] = [None] * len(found)
        if not found or not (about.languages or validator):
            return broken
        texts = Texts.from_strings(["\n".join(texts_of(content)) for _, content, _ in found])
        names, scores = identify(texts, fasttext_classifier.load(self.store, None), _LANGUAGE.max_chars)
        certain = (scores >= _LANGUAGE.min_score).tolist()
        languages = names.to_pylist()
        if about.languages:
            broken = [None if one in about.languages else Refusal("language_not_kept", one) for one in languages]
        if validator:
            records = [
                (content, {"language": language if is_certain else None} | about.of_record(row.source) | dict(own))
                for (row, content, own), language, is_certain in zip(found, languages, certain, strict=True)
            ]
            left = [at for at, why in enumerate(broken) if why is None]
            for at, failed in zip(left, validator([records[at] for at in left]), strict=True):
                if failed is not None:
                    broken[at] = Refusal(failed.reason, failed.value)
        return broken


def _sample_of(row: Row) -> int:
    """The number of a row's sample, so that requests about equal rows differ as those before them."""
    return int(row.name.split(".")[2])


def write(store: Store, unit: tuple[list[str], list[str], list[str], list[str], int], scratch: Scratch) -> Counters:
    """The work of the stage `write`. unit: the files with its records, those with duplicates of them and others, those
    with what was removed before, those with the scores of its records, and its number. Counters: `records`,
    `removed/REASON` of records that were not chosen, and of duplicates.
    """
    records, groups, removed, chosen, number = unit
    partners: dict[int, dict[str, Any]] = {}
    scores: list[float] = []
    for table in read_tables(store, chosen):
        for score, reason in zip(table["score"].to_pylist(), table["reason"].to_pylist(), strict=True):
            if reason is not None:
                partners[len(scores)] = {"step": REWARD, "reason": reason, "value": f"{score:.6g}"}
            scores.append(score)
    for table in read_tables(store, groups):
        own = table.filter(pc.and_(pc.equal(table["unit"], number), table["reason"].is_valid()))
        partners |= {row["row"]: row for row in own.to_pylist()}
    counters, first = Counter[str]({"records": 0}), 0
    for table in read_tables(store, records):
        at = [partners.get(first + row) for row in range(table.num_rows)]
        if chosen:
            table = table.append_column(REWARD, pa.array(scores[first : first + table.num_rows], pa.float64()))
        kept = table.filter(pa.array([one is None for one in at]))
        gone = table.filter(pa.array([one is not None for one in at]))
        first += table.num_rows
        if kept.num_rows:
            scratch.write(RECORDS, kept)
        counters["records"] += kept.num_rows
        rows = []
        for record, partner in zip(gone.to_pylist(), filter(None, at), strict=True):
            content = {name: one for name, one in record.items() if name not in (*PROVENANCE, REWARD)}
            rows.append(
                {
                    "seed": record["provenance"]["parents"][0],
                    "source": record["source"],
                    "step": partner.get("step", "duplicates"),
                    "key": record["requests"][-1],
                    "requests": record["requests"],
                    "reason": partner["reason"],
                    "value": partner.get("value"),
                    "partner": partner.get("partner"),
                    "similarity": partner.get("similarity"),
                    "content": canonical(content),
                }
            )
        _write_removed(scratch, REMOVED, rows, counters)
    for table in read_tables(store, removed):
        scratch.write(REMOVED, table)
    return dict(counters)
