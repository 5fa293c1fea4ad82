"""A round while people label it: what an annotator is given next, and which labels are accepted.

The state is in memory. It is made of `answers/` once, by `load`; every label is stored there before it counts here.
"""

import gc
import hashlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

from raymill.cluster.errors import ConfigError, RaymillError
from raymill.cluster.report.markdown import markdown
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.annotate.annotations import MANY, Annotation
from raymill.pipelines.annotate.finish import QUEUE
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import QUESTIONS, BadValue, TaskRow, turns, value_of, vote_of

log = logging.getLogger(__name__)

_DONE = ("labelled", "skipped")
# Largest number of tasks that are given at a time, and of their characters; one task may have more.
_GIVEN_TASKS, _GIVEN_CHARACTERS = 20, 500_000
_LONGEST_REASON, _LONGEST_VERSION, _MOST_SECONDS = 1000, 64, 7 * 86400
_GUIDELINE_S = 5  # between two looks at the file of the guideline
_QUEUE_S = 5  # between two looks at the adjudication queue


class RefusedLabel(ValueError):
    """A request or label that is not accepted; the message is the reason."""


_shown_guideline = lru_cache(4)(markdown)  # each request has it


class Labelling:
    """A round while people label it. Its methods may be called from several threads.

    Args:
        predictions: whether tasks are given with the label of the classifier.
        annotator: the only one who may label; None: all of the round.
    """

    def __init__(self, round: Round, predictions: bool = False, annotator: str | None = None) -> None:
        self.round, self._predictions, self._only = round, predictions, annotator
        self._people = {one.name: one for one in round.annotators}
        if annotator is not None and annotator not in self._people:
            raise ConfigError(f"--annotator: {annotator} is none of {', '.join(self._people)}, who label this round.")
        self._rows: pa.Table = round.stored_tasks.table()
        self._ids: list[str] = self._rows["id"].to_pylist()
        self._place = {id: at for at, id in enumerate(self._ids)}
        self._own: dict[str, list[int]] = {name: [] for name in self._people}
        for at, names in enumerate(self._rows["annotators"].to_pylist()):
            for name in names:
                if name in self._own:
                    self._own[name].append(at)
        self._topics: list[str | None] = self._rows["topic"].to_pylist()
        self._assigned = {name: frozenset(places) for name, places in self._own.items()}
        self._lock, self._adding = threading.RLock(), threading.Lock()
        self._answers: dict[str, dict[str, Annotation]] = {}  # task -> annotator -> the latest, also if withdrawn
        self._finished = {name: dict.fromkeys(_DONE, 0) for name in self._people}  # of the own tasks
        self._first = dict.fromkeys(self._people, 0)  # the own tasks before this one are done
        self._disputed: set[str] = set()
        self._queue: tuple[float, list[str]] = (-math.inf, [])
        self._guideline: tuple[float, tuple[str, str]] = (-math.inf, ("", ""))
        self._touched: set[tuple[str, str]] = set()
        self._requests = 0
        self._loaded = False

    def load(self) -> None:
        """Read the labels so far, unless they are read. Whatever needs them calls this; they take a second for 100,000.

        Raises:
            DataError: a file with labels is damaged.
        """
        with self._lock:
            if self._loaded:
                return
            self._merge()
            with _no_collection():
                self._take_all(self.round.answers.read())
            self._loaded = True

    # --- what the page shows

    @property
    def round_key(self) -> str:
        """Hexadecimal digits that stand for the round."""
        return hashlib.sha256(self.round.uri.encode()).hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """The facts of the round that the page shows."""
        task = self.round.task
        names = [self._only] if self._only else list(self._people)
        return {
            "round": self.round_key,
            "name": self.round.name,
            "type": task.type,
            "several": task.several,
            "question": task.question or QUESTIONS[task.type],
            "labels": [] if task.type in ("compare", "rate") else list(task.labels or task.choices),
            "points": task.points,
            "tie": task.type == "compare" and task.tie,
            "annotators": [{"name": name, "expert": self._people[name].expert} for name in names],
            "tasks": len(self._place),
            "guideline": self.guideline(),
            "now": time.time() * 1000,
        }

    def guideline(self) -> dict[str, str]:
        """The guideline as elements of a page, and its version."""
        looked, found = self._guideline
        if time.monotonic() - looked > _GUIDELINE_S:
            found = self.round.guideline()
            self._guideline = time.monotonic(), found
        text, version = found
        return {"version": version, "html": str(_shown_guideline(text)) if text else ""}

    def progress(self, annotator: str) -> dict[str, int]:
        """Tasks of an annotator: given, labelled, skipped; and those that wait for an expert."""
        person = self._person(annotator)
        self.load()
        with self._lock:
            disputes = sum(1 for _ in self._disputes(annotator)) if person.expert else 0
            return {"tasks": len(self._own[annotator]), **self._finished[annotator], "disputed": disputes}

    def next_tasks(self, annotator: str, having: Sequence[str]) -> dict[str, Any]:
        """The next tasks of an annotator, a few of them, besides those that the page has.

        An expert is given those that others disagree about when the own ones are done.
        """
        person, had = self._person(annotator), frozenset(having)
        self.load()
        with self._lock:
            places = [(at, False) for at in self._open(annotator, had)]
            if person.expert and len(places) < _GIVEN_TASKS:
                disputes = (self._place[id] for id in self._disputes(annotator) if id not in had)
                given = {at for at, _ in places}
                places += [(at, True) for at in disputes if at not in given][: _GIVEN_TASKS - len(places)]
            found: list[dict[str, Any]] = []
            characters = 0
            for at, is_disputed in places:
                row = self._row(at)
                characters += sum(len(text or "") for text in row.record.values())
                if found and characters > _GIVEN_CHARACTERS:
                    break
                found.append(self._shown(row, annotator, is_disputed))
        return {"tasks": found, "progress": self.progress(annotator)}

    def task(self, annotator: str, id: str) -> dict[str, Any]:
        """One task, as of `next_tasks`."""
        self._person(annotator)
        if id not in self._place or not self._may_label(annotator, id):
            raise RefusedLabel("this annotator is not given such a task")
        self.load()
        at = self._place[id]
        with self._lock:
            return self._shown(self._row(at), annotator, at not in self._assigned[annotator])

    def _person(self, name: str) -> Any:
        if name not in self._people:
            raise RefusedLabel("no annotator of the round has this name")
        if self._only not in (None, name):
            raise RefusedLabel(f"this server is for {self._only} alone")
        return self._people[name]

    def _may_label(self, annotator: str, id: str) -> bool:
        return self._people[annotator].expert or self._place[id] in self._assigned[annotator]

    def _row(self, at: int) -> TaskRow:
        return TaskRow(**self._rows.slice(at, 1).to_pylist()[0])

    def _is_done(self, annotator: str, id: str) -> bool:
        answer = self._answers.get(id, {}).get(annotator)
        return answer is not None and answer.status in _DONE

    def _open(self, annotator: str, had: frozenset[str]) -> list[int]:
        """The first of the own tasks that are not done."""
        own, found, ids = self._own[annotator], list[int](), self._ids
        first = self._first[annotator]
        while first < len(own) and self._is_done(annotator, ids[own[first]]):
            first += 1
        self._first[annotator] = first
        for at in own[first:]:
            if ids[at] not in had and not self._is_done(annotator, ids[at]):
                found.append(at)
                if len(found) == _GIVEN_TASKS:
                    break
        return found

    def _disputes(self, annotator: str) -> Iterator[str]:
        """Ids of tasks that others disagree about and no expert decided.

        First those with a topic of this expert; among equal ones first the queue that `finish` made.
        """
        looked, queue = self._queue
        if time.monotonic() - looked > _QUEUE_S:
            queue = self._read_queue()
            self._queue = time.monotonic(), queue
        live = sorted(self._disputed.difference(queue), key=self._place.__getitem__)
        own = frozenset(self._people[annotator].topics)
        known = [id for id in (*queue, *live) if id in self._place]
        for id in sorted(known, key=lambda id: self._topics[self._place[id]] not in own) if own else known:
            answers = self._answers.get(id, {})
            decided = any(self._people[name].expert and one.status == "labelled" for name, one in answers.items())
            if not decided and not self._is_done(annotator, id):
                yield id

    def _read_queue(self) -> list[str]:
        try:
            with StoredParquet(self.round.store, paths.join(self.round.uri, QUEUE)) as file:
                return file.read(["id"])["id"].to_pylist()
        except NotFound:
            return []

    def _shown(self, row: TaskRow, annotator: str, is_disputed: bool) -> dict[str, Any]:
        task, record = self.round.task, row.record
        apart = {*task.answers, task.source, task.text if task.type in ("correct", "span", "check") else None}
        answers = sorted(task.answers, key=lambda name: _hash(row.id, annotator, name))
        shown: dict[str, Any] = {
            "id": row.id,
            "parts": [{"name": name} | _content(record[name]) for name in task.show if name not in apart],
            "answers": [{"value": name} | _content(record[name]) for name in answers],
        }
        if task.type in ("correct", "span"):
            shown["text"] = record[task.text] or ""
        if task.type == "check":
            shown["statement"], shown["source"] = _content(record[task.text]), _content(record[task.source or ""])
        own = self._answers.get(row.id, {}).get(annotator)
        if own is not None and own.status == "draft":
            shown["draft"] = {"value": own.value, "at": own.at}
        if self._predictions and row.prediction is not None:
            shown["prediction"] = {"value": row.prediction, "certainty": row.certainty}
        if is_disputed:
            given = sorted(self._answers.get(row.id, {}).items())
            shown["votes"] = [
                {"annotator": name, "value": one.value} for name, one in given
                if name != annotator and one.status == "labelled"
            ]  # fmt: skip
        return shown

    # --- labels that come in

    def add(self, annotator: str, given: Sequence[Any]) -> dict[str, Any]:
        """Store the labels of a request; they are stored when it returns. The same request again adds nothing.

        Returns:
            `refused`: number in the request and reason of each label that is not accepted; the others are stored.
        """
        self._person(annotator)
        self.load()
        good, refused = list[Annotation](), list[dict[str, Any]]()
        for number, one in enumerate(given):
            try:
                answer = self._checked(annotator, one)
            except RefusedLabel as problem:
                refused.append({"number": number, "problem": str(problem)})
                continue
            if answer is not None:
                good.append(answer)
        with self._adding:
            self.round.answers.add(good)
            self._requests += 1
            if self._requests % MANY == 0:
                threading.Thread(target=self._merge, daemon=True).start()  # it may end at any moment
            with self._lock:
                for answer in good:
                    self._take(answer)
                    self._touched.add((answer.task, annotator))
        return {
            "refused": refused,
            "progress": self.progress(annotator),
            "guideline": self.guideline()["version"],
        }

    def came_in(self) -> dict[str, int]:
        """Status -> tasks that were labelled or skipped since the start, each counted once for each annotator."""
        with self._lock:
            found = [self._answers[id][name].status for id, name in self._touched]
        return {status: sum(one == status for one in found) for status in _DONE}

    def _merge(self) -> None:
        """Merge the files of many requests, so that they are read soon. Without the right to delete files they stay."""
        try:
            self.round.answers.merge()
        except (RaymillError, OSError) as error:
            log.warning("Files with labels are not merged, which loses none: %s", error)

    def close(self) -> None:
        """Wait for the request whose labels are being stored, and store none of later ones."""
        self._adding.acquire()

    def _checked(self, annotator: str, given: Any) -> Annotation | None:
        """The label of a request. None of a draft for a task that is done: a late draft must not replace a label."""
        if not isinstance(given, dict):
            raise RefusedLabel("a label is an object")
        id, status = given.get("task"), given.get("status")
        if not isinstance(id, str) or id not in self._place:
            raise RefusedLabel("no task of the round has this id")
        if not self._may_label(annotator, id):
            raise RefusedLabel("this annotator is not given this task")
        if status not in ("labelled", "skipped", "draft", "withdrawn"):
            raise RefusedLabel("the status is none of labelled, skipped, draft, withdrawn")
        at = _time(given.get("at"))
        before = self._answers.get(id, {}).get(annotator)
        if status == "draft" and before is not None and before.status in _DONE:
            return None
        value = None
        if status in ("labelled", "draft"):
            try:
                value = value_of(self.round.task, self._row(self._place[id]), given.get("value"))
            except BadValue as problem:
                raise RefusedLabel(str(problem)) from problem
            if not _encodable(value):
                raise RefusedLabel("a text has half of a surrogate pair")
        reason, version, seconds = given.get("reason", ""), given.get("guideline", ""), given.get("seconds")
        if not isinstance(reason, str) or len(reason) > _LONGEST_REASON or not _encodable(reason):
            raise RefusedLabel(f"the reason is no text of at most {_LONGEST_REASON:,} characters")
        if status == "skipped" and not reason.strip():
            raise RefusedLabel("a task is skipped with a reason")
        if not isinstance(version, str) or len(version) > _LONGEST_VERSION or not _encodable(version):
            raise RefusedLabel("the version of the guideline is no short text")
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 <= seconds <= _MOST_SECONDS):
            raise RefusedLabel(f"the time is no number of seconds from 0 to {_MOST_SECONDS:,}")
        return Annotation(
            id,
            annotator,
            status,
            value,
            reason.strip() if status == "skipped" else "",
            None if seconds is None else round(float(seconds), 1),
            at,
            version,
        )

    def _take_all(self, answers: Sequence[Annotation]) -> None:
        """Count the labels at the start, as `_take` would one after the other. answers: in the order of their times."""
        for one in answers:
            if one.annotator in self._people and one.task in self._place:
                self._answers.setdefault(one.task, {})[one.annotator] = one
        for name, places in self._own.items():
            own = (self._answers.get(self._ids[at], {}).get(name) for at in places)
            number = Counter[str](one.status for one in own if one is not None)
            self._finished[name] = {status: number[status] for status in _DONE}
        for id, some in self._answers.items():
            if len(some) > 1:
                self._count_dispute(id)

    def _take(self, answer: Annotation) -> None:
        """Count a label, unless a later one is known."""
        name, id = answer.annotator, answer.task
        if name not in self._people or id not in self._place:
            return
        answers = self._answers.setdefault(id, {})
        before = answers.get(name)
        if before is not None and (before.at > answer.at or (before.at == answer.at and before.key >= answer.key)):
            return
        answers[name] = answer
        if self._place[id] in self._assigned[name]:
            if before is not None and before.status in _DONE:
                self._finished[name][before.status] -= 1
                self._first[name] = 0
            if answer.status in _DONE:
                self._finished[name][answer.status] += 1
        self._count_dispute(id)

    def _count_dispute(self, id: str) -> None:
        """Note whether the votes for a task have no majority."""
        votes = [vote_of(self.round.task, one.value) for who, one in self._answers[id].items()
                 if one.status == "labelled" and not self._people[who].expert]  # fmt: skip
        is_disputed = len(votes) > 1 and 2 * max(map(votes.count, votes)) <= len(votes)
        (self._disputed.add if is_disputed else self._disputed.discard)(id)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection, which takes a third of the time in which 100,000 labels are read, and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _hash(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _content(text: str | None) -> dict[str, Any]:
    """A text of a record for the page: as it is, or the turns of a conversation."""
    found = turns(text) if text else None
    if found is not None:
        return {"turns": [{"role": role, "text": said} for role, said in found]}
    return {"text": text}


def _time(given: Any) -> str:
    """A time with its zone in ISO 8601, in UTC and in one form: labels are in the order of these texts."""
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) and len(given) <= 40 else None
        if moment is None or moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        raise RefusedLabel("the time is none with a zone in ISO 8601") from None


def _encodable(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(map(_encodable, value.values()))
    return not isinstance(value, list) or all(map(_encodable, value))
