"""The commands that the fault matrix disturbs, on a few documents, and everything of a result that no fault may change.

Importing this imports all that they need, so that their processes can be forked.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raymill.cluster.artifact import MANIFEST, Artifact
from raymill.cluster.asking.answers import Answers
from raymill.cluster.asking.throttle import REPORT_S
from raymill.cluster.engine import Engine
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.job import ASSESSMENT
from raymill.training.config import TrainConfig
from raymill.training.pack import job as packing
from tests.support.annotate_inline import annotate_inline
from tests.support.distil_inline import distil_inline
from tests.support.distil_inline import write_documents as write_stories
from tests.support.errors_inline import errors_inline
from tests.support.generate_inline import generate_inline
from tests.support.inline import curate_inline, prepare_inline
from tests.support.many_units import COMPONENT, cut_into_many_units
from tests.support.stored_answers import tries_in
from tests.support.stories import story
from tests.support.tickets import answer, question
from tests.support.train_inline import PLAIN, sentences, train_inline
from tests.support.warc_records import record, response

# Of a step log: what a training that went on must have like one that was never disturbed.
_OF_A_STEP = ("step", "samples", "loss", "grad_norm", "tokens", "validation")


@dataclass(frozen=True)
class Work:
    """A command. run: (output, engine, session, further settings). content: (output, its store) -> what is compared."""

    name: str
    run: Callable[[str, type[Engine], Session, dict[str, Any]], object]
    content: Callable[[str, Store], dict[str, Any]]


def works(folder: Path, endpoint: str) -> dict[str, Work]:
    """The commands by name. folder: for their inputs. endpoint: of a model."""
    texts, documents, tickets = folder / "texts", folder / "documents", folder / "tickets"
    stories = write_stories(folder / "stories", 120)
    write_texts(texts)
    _write_documents(documents)
    write_tickets(tickets)
    logs, learned = folder / "logs", folder / "learned"
    _write_logs(logs)

    def curate(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            cut_into_many_units(patch)
            settings = EVERY_STAGE_OF_PAGES | {"inputs": [texts_source(texts)], "output": output}
            curate_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    def prepare(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            cut_into_many_units(patch)
            settings = EVERY_STAGE_OF_PREPARE | {"inputs": [tickets_source(tickets)], "output": output}
            prepare_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    def pack(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            cut_into_many_units(patch)
            patch.setattr(packing, "Engine", engine)
            settings = PLAIN | _PACK | {"corpus": str(documents), "output": output, "packed": output} | more
            packing.pack(TrainConfig.model_validate(settings), session, Progress())

    def train(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            cut_into_many_units(patch)
            settings = {"corpus": str(documents), "output": output} | _TRAIN | more
            train_inline(settings, patch, engine=engine, session=session)

    def generate(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raymill.cluster.asking.backends.RANGE_REQUESTS", 9)
            patch.setattr("raymill.pipelines.generate.stages.document_count", lambda inputs: 36)
            patch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.02)
            model = {"endpoint": endpoint, "name": "m", "tries": 30, "concurrency": 4}
            settings = _GENERATE | {"inputs": [{"path": str(texts), "id": "id"}], "model": model, "output": output}
            generate_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    def distil(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raymill.cluster.asking.backends.RANGE_REQUESTS", 9)
            patch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.02)
            judges = [{"model": {"endpoint": endpoint, "name": "m", "tries": 30, "concurrency": 4}}]
            settings = _DISTIL | {"inputs": [{"path": str(stories), "id": "id"}], "judges": judges, "output": output}
            distil_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    def annotate(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            cut_into_many_units(patch)
            settings = _ANNOTATE | {"inputs": [{"path": str(tickets), "id": "id"}], "output": output}
            annotate_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    def errors(output: str, engine: type[Engine], session: Session, more: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if not learned.exists():  # by the run that nothing disturbs
                source = {"path": str(tickets), "id": "id", "columns": {"prompt": "q", "completion": "a"}}
                prepare_inline({"inputs": [source], "output": str(learned)}, patch)
            cut_into_many_units(patch)
            settings = _ERRORS | {"inputs": [{"path": str(logs), "id": "id"}], "data": str(learned), "output": output}
            errors_inline(settings | _NOT_LONG | more, patch, engine=engine, session=session)

    every = (
        Work("annotate", annotate, _annotated),
        Work("errors", errors, _analysed),
        Work("generate", generate, _generated),
        Work("distil", distil, _distilled),
        Work("curate", curate, _curated),
        Work("prepare", prepare, prepared_content),
        Work("pack", pack, _packed),
        Work("train", train, _trained),
    )
    return {work.name: work for work in every}


# Also what a unit that hangs costs.
STALL_S = 20.0
_NOT_LONG = {"execution": {"stall_s": STALL_S}}
EVERY_STAGE = {
    "dedup": {"keeper": "newest", "newest_by": "date", "component_documents": COMPONENT},
    "boilerplate": {"max_documents": 3, "min_words_left": 5},
    "repeats": {"min_words": 20, "cut": True, "min_words_left": 5},
    "corpus": {"copies": {"table": {1: 1, 2: 2.5, 3: 4}}},
}
# Of texts that `write_texts` wrote.
EVERY_STAGE_OF_PAGES = EVERY_STAGE | {"rules": {"repeated_pages": {}}}
EVERY_STAGE_OF_PREPARE: dict[str, Any] = {
    "clean": {"redact": ["email"], "pseudonyms": "per_record"},
    "validate": {"outliers": {}, "require": ["queue"]},
    "dedup": {"threshold": 0.7},
    "duplicates": {"questions": "list", "answers": "list"},
    "split": {"stratify": ["queue"], "group": ["account"], "folds": 3, "balance": {"by": ["queue"], "most_copies": 2}},
    "curriculum": {"stages": 2},
    "assess": {
        "label": "queue",
        "groups": ["queue"],
        "topics": ["river"],
        "embeddings": {"dimensions": 4, "groups": 2},
    },
}
_PACK = {
    "columns": {"text": "text", "stratify": "kind", "copies": "copies"},
} | _NOT_LONG
_ANNOTATE: dict[str, Any] = {
    "kind": "annotate",
    "task": {"type": "classify", "show": ["q"], "labels": ["a", "b", "c"]},
    "choose": {
        "count": 24,
        "random": 0.4,
        "uncertainty": 0.2,
        "diversity": 0.2,
        "coverage": 0.2,
        "topics": ["river"],
        "label": "queue",
        "strata": ["queue"],
    },
    "annotators": ["a1", "a2"],
}
_ERRORS: dict[str, Any] = {
    "columns": {"prompt": "q", "answer": "a", "rating": "thumb", "correction": "better", "fields": ["queue"]},
}
_GENERATE: dict[str, Any] = {"make": {"template": "evolve"}, "sampling": {"max_tokens": 50}}
_DISTIL: dict[str, Any] = {
    "sample": 80,
    "held_out": 0.5,
    "classifier": {"buckets": 100, "epochs": 2},
    "threshold": {"score": 2},
}
_TRAIN = {
    "steps": 8,
    "evaluate": {"every_steps": 4},
    "checkpoint": {"every_steps": 2, "keep": 1},
} | _NOT_LONG


def write_texts(folder: Path) -> None:
    """Three files of 12 documents: stories; copies, near copies, a line that many have, a quotation.

    And three archives of three pages, each with one of its own and one whose URL or payload another archive has.
    """
    folder.mkdir()
    quotation = story(900, 6)
    for part in range(3):
        rows = []
        for number in range(12):
            text = story(12 * part + number, 6)
            if number in (3, 4):
                text = story(7 + number, 6)  # copies in every file
            if number in (5, 6, 7):
                text = story(700, 12).replace("chapter", f"page {part} {number} of chapter", 1)
            if number == 8:
                text += "\n\n" + quotation
            text = f"Home, about us, and the rest of the site\n\n{text}"
            rows.append({"id": f"{part}-{number}", "text": text, "date": f"2024-0{1 + number % 9}-0{1 + part}"})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # (number of the URL, number of the text, which is the digest)
    for part, pages in enumerate((((0, 0), (1, 1), (2, 2)), ((1, 3), (3, 4), (4, 2)), ((5, 5), (3, 6), (6, 0)))):
        records = []
        for url, text in pages:
            page = f"<html><body><article><p>{story(800 + text, 6)}</p></article></body></html>".encode()
            digest = f"WARC-Date: 2024-03-0{1 + text}\r\nWARC-Payload-Digest: sha1:{text}\r\n".encode()
            records.append(record("response", response(page), url).replace(_DATE, digest))
        (folder / f"pages-{part}.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))


_DATE = b"WARC-Date: 2026-01-02T03:04:05Z\r\n"


def texts_source(folder: Path) -> dict[str, Any]:
    """The input of `curate` that `write_texts` wrote."""
    return {"path": str(folder), "id": "id", "columns": ["date", "url"]}


def write_tickets(folder: Path) -> None:
    """Three files of 20 tickets, among them copies, equal questions with other answers, and some that fail a rule."""
    folder.mkdir()
    for part in range(3):
        rows = []
        for number in range(20 * part, 20 * part + 20):
            row = {"id": f"t{number}", "q": question(number), "a": answer(number), "queue": "abc"[number % 7 % 3]}
            if number % 20 in (3, 4):
                row |= {"q": question(number % 20), "a": answer(number % 20)}  # in every file
            if number % 20 == 5:
                row["q"] = question(5)
            if number % 20 == 6:
                row["a"] = "Yes." if part else f"Write to desk{number}@example.com. {answer(number)}"
            rows.append(row | {"account": f"c{number // 3}"})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_logs(folder: Path) -> None:
    """Three files of 40 questions with answers of a model, whose ratings are bad in one queue, and some corrections."""
    folder.mkdir()
    for part in range(3):
        rows = []
        for number in range(40 * part, 40 * part + 40):
            queue = "abc"[number % 3]
            row = {"id": f"l{number}", "q": question(number), "a": answer(number + 1), "queue": queue}
            bad = number % 8 < (7 if queue == "a" else 1)
            row |= {"thumb": "down" if bad else "up", "better": answer(number) if number % 30 == 0 else None}
            rows.append(row)
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def tickets_source(folder: Path) -> dict[str, Any]:
    """The input of `prepare` that `write_tickets` wrote."""
    columns = {"prompt": "q", "completion": "a", "queue": "queue", "account": "account"}
    return {"source": "tickets", "path": str(folder), "id": "id", "columns": columns}


def _write_documents(folder: Path) -> None:
    folder.mkdir()
    rows = [row | {"copies": (0.5, 1, 3)[number % 3]} for number, row in enumerate(sentences(120))]
    for part in range(4):
        lines = [json.dumps(row) + "\n" for row in rows[30 * part : 30 * part + 30]]
        (folder / f"{part}.jsonl").write_text("".join(lines))


def _generated(output: str, store: Store) -> dict[str, Any]:
    """The tables, and the requests that were sent although an answer to them was stored."""
    report = json.loads(store.read_bytes(paths.join(output, "report.json")))
    content: dict[str, Any] = {name: report[name] for name in ("documents", "requests", "records", "removed")}
    for name in ("records", "removed"):
        rows = Artifact.load(store, paths.join(output, name)).table().to_pylist()
        content[name] = [{key: value for key, value in row.items() if key != "answer"} for row in rows]
    answers = Answers(store, paths.join(output, "answers"), "")
    return content | {"asked again": _asked_again(answers)}


def _asked_again(answers: Answers) -> list[str]:
    """The keys of requests that were sent although an answer to them was stored."""
    again = []
    for key, tries in tries_in(answers).items():
        answered = [datetime.fromisoformat(one.at).timestamp() for one in tries if one.outcome == "answered"]
        sent = [datetime.fromisoformat(one.at).timestamp() - one.seconds for one in tries if one.at]
        # A worker that was taken for lost and goes on asks until its next report.
        again += [key] * sum(begun > min(answered) + REPORT_S for begun in sent if answered)
    return again


def _distilled(output: str, store: Store) -> dict[str, Any]:
    """The run, the classifier, and the requests that were sent although an answer to them was stored."""
    model = store.read_bytes(paths.join(output, "classifier/model.bin"))
    answers = Answers(store, paths.join(output, "answers"), "")
    asked = _generated(paths.join(output, "judges/m"), store) | {"asked again": _asked_again(answers)}
    return _run_content(output, store) | asked | {"model": model}


def _curated(output: str, store: Store) -> dict[str, Any]:
    return _run_content(output, store)


def prepared_content(output: str, store: Store) -> dict[str, Any]:
    """The digests of a data set and of its files, and its assessment."""
    return _run_content(output, store) | {"assessment": json.loads(store.read_bytes(paths.join(output, ASSESSMENT)))}


def _annotated(output: str, store: Store) -> dict[str, Any]:
    return _run_content(output, store)


def _analysed(output: str, store: Store) -> dict[str, Any]:
    """The run, its tables of slices and confusions, and the files of all findings."""
    files = [paths.join(output, name) for name in ("slices.json", "confusions.json")]
    files += [one.uri for one in store.list_files(paths.join(output, "findings"))]
    return _run_content(output, store) | {one.removeprefix(output): store.read_bytes(one).decode() for one in files}


def _packed(output: str, store: Store) -> dict[str, Any]:
    manifest = json.loads(store.read_bytes(paths.join(output, "pack.json")))
    found: dict[str, Any] = {"tokenizer": manifest["tokenizer"], "artifacts": manifest["artifacts"]}
    for name, splits in manifest["artifacts"].items():
        for split in SPLITS:
            found[f"{name}/{split}"] = _of_artifact(store, paths.join(output, name, split))
            assert found[f"{name}/{split}"]["digest"] == splits[split]
    return found


def _trained(output: str, store: Store) -> dict[str, Any]:
    steps = [json.loads(line) for line in store.read_bytes(paths.join(output, "steps.jsonl")).splitlines()]
    losses = [{name: one[name] for name in _OF_A_STEP if name in one} for one in steps]
    return _run_content(output, store) | {"steps": losses}


def _run_content(output: str, store: Store) -> dict[str, Any]:
    """The digests of a run, and of the files of its artifacts."""
    manifest = json.loads(store.read_bytes(paths.join(output, "manifest.json")))
    found: dict[str, Any] = {"digest": manifest["digest"], "artifacts": manifest["artifacts"]}
    for name in manifest["artifacts"]:
        if store.exists(paths.join(output, name, MANIFEST)):
            found[name] = _of_artifact(store, paths.join(output, name))
    return found


def _of_artifact(store: Store, uri: str) -> dict[str, Any]:
    artifact = Artifact.load(store, uri)
    assert artifact.damage(compare_sha256=True) == {}, uri
    return {"digest": artifact.manifest.digest, "sha256": [file.sha256 for file in artifact.manifest.files]}
