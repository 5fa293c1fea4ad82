"""The items of a finished run of `train` or `prompt`, and the records that a model learned from.

A run may come from others: its answers are checked, only artifacts that its manifest names are opened, and nothing that
it names is run.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.errors import DataError
from raymill.cluster.examples.content import COLUMNS, from_shape, question_and_answer
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.record import read_json
from raymill.cluster.run import RunFolder
from raymill.cluster.stage import Scratch
from raymill.cluster.store import paths
from raymill.cluster.store.paths import RecordedUri
from raymill.cluster.store.store import Store
from raymill.pipelines.errors.config import Compare
from raymill.pipelines.errors.items import READ, READ_SCHEMA, EvaluatedItem, errors_of
from raymill.pipelines.errors.sample import SmallestHashes, rows_of
from raymill.pipelines.prepare.records.fields import metadata_of, value_of
from raymill.pipelines.prompting.variants import Item

log = logging.getLogger(__name__)

_ADVICE = "Point `run` at the output of `raymill train` or `raymill prompt`."
_LABELS = ("annotations.", "metadata.")  # columns of a data set that hold a class
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which cannot be written
NO_SLICES = {"id", "annotators", "annotator", "parents"}
MOST_FIELDS = 100  # that have slices: each slice raises the corrected p-values of all others


def left_out_warning(fields: int) -> list[str]:
    """The warning of fields without slices. fields: number of those beyond MOST_FIELDS."""
    if not fields:
        return []
    return [f"Only the {MOST_FIELDS} metadata fields with the most items have slices: {fields:,} were left out."]


@dataclass(frozen=True)
class EvaluatedRun:
    """A finished run with answers.

    Attributes:
        kind: train or prompt. uri: its folder. digest: of its results.
        compare: how answers are compared with references.
        data: output of `prepare` that it was made from; None: unknown.
        label: field of the records of `data` that is the answer; None: their own answer.
    """

    kind: str
    uri: str
    digest: str
    compare: Compare
    data: str | None
    label: str | None


def evaluated_run(store: Store, uri: str) -> EvaluatedRun:
    """The run at a folder.

    Raises:
        DataError: it is no finished run of `train` or `prompt`, or has no answers.
    """
    folder = RunFolder(store, uri)
    manifest = folder.manifest_file.read()
    if manifest is None or manifest["kind"] not in ("train", "prompt"):
        seen = "no finished run" if manifest is None else f"a run of kind {manifest['kind']}"
        raise DataError(f"run: {uri}: {seen}. {_ADVICE}")
    config = _mapping(manifest["config"])
    if manifest["kind"] == "prompt":
        data = _data_set(store, uri, config.get("data"))
        return EvaluatedRun("prompt", uri, manifest["digest"], _known(config.get("answer")), data, None)
    if not (answers := _answers(store, uri)):
        if _is_scored(store, uri):
            raise DataError(
                f"run: {uri}: its evaluation.json has the scores of a classifier without its predictions, as of an "
                f"earlier version. Delete {paths.join(uri, 'evaluation.json')} and run the same `raymill train` again: "
                "it measures the model from its checkpoint and does not train."
            )
        raise DataError(
            f"run: {uri}: its evaluation.json has no answers. Train with `generate` and a held-out split of questions "
            "and answers; of several phases, point at the folder of one."
        )
    # The manifest has no paths of corpora, so that a copy of a corpus gives the same run; the report has them.
    config = _mapping(_mapping(folder.report("run")["run"]).get("config"))
    generate, corpora = config.get("generate"), config.get("corpus")
    compare = generate.get("answer") if isinstance(generate, dict) else None
    classifies = all("confidence" in one for one in answers)
    data = label = None
    for corpus in corpora if isinstance(corpora, list) else ():
        columns = corpus.get("columns") if isinstance(corpus, dict) else None
        if isinstance(corpus, dict) and (data := _data_set(store, uri, corpus.get("path"))) is not None:
            label = columns.get("label") if isinstance(columns, dict) else None
            break
    return EvaluatedRun(
        "train",
        uri,
        fingerprint([manifest["digest"], answers]),
        "label" if classifies else _known(compare),
        data,
        label if classifies and isinstance(label, str) else None,
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _known(compare: Any) -> Compare:
    return compare if compare in get_args(Compare) else "text"


def _data_set(store: Store, run: str, path: Any) -> str | None:
    """The output of `prepare` at a path that a run names, or whose split is there; None if there is none now.

    Only on the store of the run: else whoever wrote it could choose where requests with the user's keys go.
    """
    try:
        path = RecordedUri(path)
    except ValueError:
        return None
    if paths.scheme(path) == "hf":
        return None
    if paths.store_of(path) != paths.store_of(paths.absolute(run)):
        log.warning("run: %s names the data set %s on another store. To have it read, name it in `data`.", run, path)
        return None
    for root in (path, path.rpartition("/")[0]):
        try:
            if root and RunFolder(store, root).finished("prepare") is not None:
                return root
        except DataError:  # a file of another program has that name
            continue
    return None


def _is_scored(store: Store, uri: str) -> bool:
    """Whether evaluation.json has scores of answers or of classes."""
    found = read_json(store, paths.join(uri, "evaluation.json"), "the evaluation of a run") or {}
    return bool(found.get("generation")) or any(_mapping(found.get("set_generation")).values())


def _answers(store: Store, uri: str) -> list[dict[str, Any]]:
    """The answers of evaluation.json.

    Raises:
        DataError: it is missing or damaged.
    """
    at = paths.join(uri, "evaluation.json")
    found = read_json(store, at, "the evaluation of a run")
    answers = [] if found is None else found.get("answers", [])
    texts = ("document", "prompt", "reference", "generated")

    def usable(one: Any) -> bool:
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in texts):
            return False
        if any(_HALF_PAIR.search(value) for value in one.values() if isinstance(value, str)):
            return False
        sure = one.get("confidence", 0.0)
        number = sure if isinstance(sure, float) else -1.0
        return 0 <= number <= 1 and isinstance(one.get("set", ""), str)

    if not isinstance(answers, list) or not all(map(usable, answers)):
        raise DataError(f"{at}: its answers are not those that `raymill train` writes. Run the training again.")
    return answers


@dataclass(frozen=True)
class ReadRun:
    """The work of the stage `read` on a run. data: output of `prepare` with its items; None: unknown."""

    store: Store
    run: EvaluatedRun
    data: str | None

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `documents`, and of a run of `prompt` `drawn_out` and `repeated`."""
        counters: Counters = {}
        if self.run.kind == "train":
            items = list(_of_train(self.store, self.run))
        else:
            items, counters = _of_prompt(self.store, self.run)
        if self.data is not None:
            known = {one.id: one for one in records_of(self.store, self.data, SPLITS, self.run.label,
                                                       {one.id for one in items})}  # fmt: skip
            items = [_with_record(one, known.get(one.id)) for one in items]
        errors = errors_of(self.run.compare, [one.expected or "" for one in items], [one.answer for one in items])
        rows = [one.row | {"error": float(error)} for one, error in zip(items, errors, strict=True)]
        scratch.write(READ, pa.Table.from_pylist(rows, READ_SCHEMA))
        return {"documents": len(items)} | counters


def _of_train(store: Store, run: EvaluatedRun) -> Iterator[EvaluatedItem]:
    for one in _answers(store, run.uri):
        fields = {"set": one["set"]} if "set" in one else {}
        yield EvaluatedItem(
            one["document"], one.get("set", ""), one["prompt"], one["generated"], one["reference"],
            confidence=one.get("confidence"), fields=fields,
        )  # fmt: skip


def _of_prompt(store: Store, run: EvaluatedRun) -> tuple[list[EvaluatedItem], Counters]:
    """(items with the answers of the best variant, counters), of which a sample as of `SmallestHashes`.

    Raises:
        DataError: the run has no such answers.
    """
    wrong = DataError(
        f"run: {run.uri}: its report does not name a variant that has answers, as of an earlier version. Run "
        "`raymill prompt` again with `--replace`; stored answers are used again."
    )
    folder = RunFolder(store, run.uri)
    variants = folder.report("variants")["variants"]
    best = variants[0] if isinstance(variants, list) and variants and isinstance(variants[0], dict) else {}
    name, number = f"answers_of.{best.get('model')}", best.get("variant")
    if name not in folder.require("prompt", _ADVICE)["artifacts"] or not isinstance(number, int):
        raise wrong
    items, answers = SmallestHashes[tuple[int, Item]](), SmallestHashes[str]()
    rows = repeated = 0
    try:
        for table in Artifact.load(store, paths.join(run.uri, "items")).tables():
            for row in rows_of(table):
                rows += 1
                one = Item(**row)
                if items.get(one.id) is not None:
                    repeated += 1
                elif items.wants(one.id):
                    items.put(one.id, (rows - 1, one), sum(map(sys.getsizeof, (one.id, one.question, one.answer))))
        ids = {at: one.id for at, one in items.values()}
        for table in Artifact.load(store, paths.join(run.uri, name)).tables(["variant", "item", "content"]):
            for row in rows_of(table):
                id = ids.get(row["item"]) if row["variant"] == number else None
                if id is not None and answers.wants(id):
                    answers.put(id, content := row["content"] or "", sys.getsizeof(content))
    except (TypeError, AttributeError) as error:
        raise wrong from error
    kept = [one for _, one in items.values() if answers.wants(one.id)]  # also items without an answer
    found = [EvaluatedItem(one.id, "", one.question, answers.get(one.id) or "", one.answer) for one in kept]
    return found, {"documents": rows, "repeated": repeated, "drawn_out": rows - repeated - len(kept)}


@dataclass(frozen=True)
class TrainingRecord:
    """A record of a data set. answer: its answer or label. fields: metadata and annotations."""

    id: str
    question: str
    answer: str
    fields: Mapping[str, str]


def _with_record(item: EvaluatedItem, record: TrainingRecord | None) -> EvaluatedItem:
    """The item with the content and the fields of its record, as the tokens of a prompt have marks of turns."""
    if record is None:
        return item
    fields = {name: value for name, value in record.fields.items() if name not in NO_SLICES}
    return replace(item, prompt=record.question, expected=record.answer, fields={**fields, **item.fields})


def answer_field(store: Store, data: str, label: str | None) -> str:
    """The field of `columns` of prepare that the answers of a data set are, as a patch names it."""
    if label is not None:
        return label.rpartition(".")[2]
    fields = {"preference": "chosen", "preference_messages": "chosen", "text": "text"}
    return fields.get(_shape(store, data), "completion")


def _shape(store: Store, data: str) -> Any:
    run = RunFolder(store, data)
    run.require("prepare", "Point `data` at the output of `raymill prepare`.")
    shape = run.report("shape")["shape"]
    if not isinstance(shape, str) or shape not in COLUMNS:
        raise DataError(f"{data}: its report names {shape!r:.80} as shape, which `raymill prepare` does not make.")
    return shape


def records_of(
    store: Store, data: str, splits: tuple[str, ...], label: str | None, ids: set[str] | None = None
) -> list[TrainingRecord]:
    """Records of splits in the order of their ids: those with these ids, of which a sample as of `SmallestHashes`.

    Without an answer or label a record is left out.

    Raises:
        DataError: `data` is no data set, or a record none that `prepare` writes.
    """
    shape, found = _shape(store, data), SmallestHashes[TrainingRecord]()
    for split in splits:
        artifact = Artifact.load(store, paths.join(data, split))
        names = [one for one in artifact.schema.names if one in (*COLUMNS[shape], "metadata", "annotations")]
        try:
            for row in (row for table in artifact.tables(["id", *names]) for row in rows_of(table)):
                if (ids is not None and row["id"] not in ids) or not found.wants(row["id"]):
                    continue
                record = _record(row, shape, label)
                if record is not None and found.get(record.id) is None:
                    texts = (record.question, record.answer, *record.fields.values())
                    found.put(record.id, record, sum(map(sys.getsizeof, texts)))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, StopIteration) as error:
            raise DataError(
                f"{artifact.uri}: a record is none that `raymill prepare` writes ({type(error).__name__}). "
                "Make the data set again."
            ) from error
    return found.values()


def _record(row: Mapping[str, Any], shape: Any, label: str | None) -> TrainingRecord | None:
    content = from_shape(row, shape)
    fields = {name: one for name, value in metadata_of(row).items() if (one := value_of(name, value))}
    if isinstance(content, str):
        name = next((label.removeprefix(one) for one in _LABELS if label and label.startswith(one)), "labels")
        sides = (content, fields[name]) if name in fields else None
    else:
        sides = question_and_answer(content)
    if sides is None or not all(isinstance(one, str) for one in sides):
        return None
    own = (label or "").rpartition(".")[2]  # the class itself is no slice: its errors are in the confusions
    return TrainingRecord(row["id"], *sides, {name: one for name, one in fields.items() if name != own})


def item_count(store: Store, run: EvaluatedRun) -> int:
    """The number of items of a run."""
    return (
        len(_answers(store, run.uri))
        if run.kind == "train"
        else Artifact.load(store, paths.join(run.uri, "items")).rows
    )
