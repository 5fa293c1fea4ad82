"""Small runs of every verb that writes one, and changes to their records and files before another verb uses them."""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.round import Round
from tests.support import annotate_inline
from tests.support.errors_inline import write_lines
from tests.support.fault_works import EVERY_STAGE, EVERY_STAGE_OF_PREPARE, tickets_source, write_texts, write_tickets
from tests.support.hostile_files import damaged
from tests.support.prompt_inline import questions
from tests.support.record_types import HOSTILE, HOSTILE_URIS
from tests.support.tickets import answer, question
from tests.support.train_inline import PLAIN, write_corpus

# Where the runs have the records of each place of `record_types.RECORDS`; `*` is any part of a name.
FILES_OF_RECORDS = {
    "raymill.cluster.artifact:manifest_file": "**/_manifest.json",
    "raymill.cluster.stage:record_file": "**/_commits/*/*.json",
    "raymill.cluster.record:read_json": "*/report.json",
    "raymill.cluster.run:manifest_file": "*/manifest.json",
    "raymill.cluster.inspection:read_run_manifest": "*/manifest.json",
    "raymill.cluster.lease:_newest": "**/_lease/*.json",
    "raymill.cluster.readers.formats.hub:saved_splits": "saved/dataset_dict.json",
    "raymill.cluster.readers.formats.hub:saved_files": "saved/*/state.json",
    "raymill.pipelines.prepare.fetch.snapshot:record_of": "prepared/fetched/**/*.json",
    "raymill.pipelines.prepare.versions.registry:_file": "versions/**/*.json",
    "raymill.training.promote.alias:read": "models/aliases/*/*.json",
    "raymill.cluster.readers.recorded:inputs_file": "*/inputs.json",
    "raymill.training.continuing:recorded_parent": "continued/parent.json",
    "raymill.training.pack.packed_run:manifest_file": "**/pack.json",
    "raymill.training.pack.packed_run:tokenizer_file": "**/tokenizer/*.json",
    "raymill.training.records.checkpoint:load": "**/checkpoints/*/*.json",
    "raymill.training.records.finished:read_evaluation": "trained/evaluation.json",
    "raymill.training.records.finished:export_file": "trained/export/*.json",
    "raymill.training.records.finished:outcome_file": "trained/fit.json",
}

# The areas with what `errors` reads, each with its config below the folder of the run.
OF_ERRORS = {"answered": "errors_of_answered", "prompted": "errors_of_prompted", "logs": "errors_of_logs"}

Call = Callable[..., Any]


def build(run: Path, call: Call) -> None:
    """Write inputs and configs to `run`, and make the runs below `run/out`. call: a command, which has to succeed."""
    out = run / "out"
    out.mkdir()
    write_texts(run / "texts")
    write_tickets(run / "tickets")
    write_corpus(run)
    with sqlite3.connect(run / "desk.db") as database:
        database.execute("CREATE TABLE tickets (question TEXT, answer TEXT)")
        database.executemany("INSERT INTO tickets VALUES (?, ?)", [(question(n), answer(n)) for n in (90, 91, 92)])
    database.close()
    split = datasets.Dataset.from_dict({"text": ["Mills stand at rivers, and grind."] * 5})
    datasets.DatasetDict({"train": split}).save_to_disk(str(out / "saved"))
    fetched = {"source": "desk", "database": {"url": f"sqlite:///{run}/desk.db", "query": "SELECT * FROM tickets"},
               "columns": {"prompt": "question", "completion": "answer"}}  # fmt: skip
    trained = PLAIN | {"corpus": str(run / "corpus.jsonl"), "columns": {"text": "text"}}
    topics = [
        {"id": f"q{n}", "prompt": asked, "completion": topic, "channel": "mail" if n % 2 else "chat"}
        for n, (asked, topic) in enumerate(zip(*questions(90), strict=True))
    ]
    write_lines(run / "topics.jsonl", topics)
    answered = [one | {"answer": "login" if n % 5 else one["completion"]} for n, one in enumerate(topics)]
    write_lines(out / "logs" / "a.jsonl", answered)
    logged = {"kind": "errors", "input": str(out / "logs"), "compare": "label", "data": str(out / "topics"),
              "columns": {"expected": "completion", "fields": ["channel"]}}  # fmt: skip
    configs: dict[str, dict[str, Any]] = {
        "curated": {"kind": "curate", "inputs": [{"path": str(run / "texts"), "id": "id", "columns": ["date"]}],
                    **EVERY_STAGE},
        "of_saved": {"kind": "curate", "inputs": [{"path": str(out / "saved")}], "dedup": None},
        "prepared": {"kind": "prepare", "inputs": [tickets_source(run / "tickets"), fetched], **EVERY_STAGE_OF_PREPARE},
        "trained": trained,
        "continued": trained | {"continue_from": str(out / "trained"), "steps": 2},
        "of_curated": trained | {"corpus": str(out / "curated")},
        "of_prepared": PLAIN | {"corpus": str(out / "prepared")},
        "annotated": annotate_inline.settings_of(
            annotate_inline.write_records(run / "records.parquet", 60), out / "annotated", choose={"count": 12}
        ),
        "topics": {"kind": "prepare", "inputs": [{"path": str(run / "topics.jsonl"), "id": "id",
                                                  "columns": {"channel": "channel"}}],
                   "records": {"shape": "pairs"}, "validate": {"answer_chars": None}, "dedup": None,
                   "split": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        "answered": PLAIN | {"corpus": str(out / "topics"), "generate": {"prompts": 18, "max_new_tokens": 4,
                                                                         "answer": "label"}},
        "prompted": {"kind": "prompt", "data": str(out / "topics"), "answer": "label",
                     "prompts": {"plain": {}, "list": {"prompt": "Only the topic: {{ prompt }}"}},
                     "examples": {"number": [0]}},
        "errors_of_answered": {"kind": "errors", "run": str(out / "answered")},
        "errors_of_prompted": {"kind": "errors", "run": str(out / "prompted")},
        "errors_of_logs": logged,
        "promoted": {"kind": "promote", "model": str(out / "trained"), "alias": "best", "folder": str(out / "models")},
        "again": {"kind": "promote", "model": str(out / "continued"), "alias": "best", "folder": str(out / "models")},
        "chained": {"kind": "run", "steps": {
            "first": {"kind": "curate", "inputs": [{"path": str(run / "texts")}], "dedup": None},
            "second": {"kind": "curate", "inputs": [{"path": "${first.output}/corpus"}], "dedup": None,
                       "if": "${first.totals.corpus.documents} > 0"}}},
    }  # fmt: skip
    for name, settings in configs.items():
        (run / f"{name}.json").write_text(json.dumps({"name": "hostile", "output": str(out / name)} | settings))
    for verb, name in (("curate", "curated"), ("prepare", "prepared"), ("train", "trained"), ("train", "continued"),
                       ("annotate", "annotated"), ("prepare", "topics"), ("train", "answered"),
                       ("promote", "promoted"), ("promote", "again"), ("run", "chained")):  # fmt: skip
        call(verb, str(run / f"{name}.json"))
    with FaultyServer() as server:
        asked = configs["prompted"] | {"models": {"small": {"endpoint": server.url, "name": "small"}}}
        (run / "prompted.json").write_text(json.dumps({"name": "hostile", "output": str(out / "prompted")} | asked))
        call("prompt", str(run / "prompted.json"))
    for name in OF_ERRORS.values():
        call("errors", str(run / f"{name}.json"))
    round = Round.at(Store(), str(out / "annotated"))
    round.answers.add(annotate_inline.simulated_answers(round, {"a1": 0.9, "a2": 0.8, "a3": 0.7}))
    call("annotate", "export", round.uri, str(run / "studio.json"), "--format", "label-studio")
    call("annotate", "finish", round.uri)
    call("dataset", "tag", "desk", str(out / "prepared"), "--registry", str(out / "versions"))


def commands(run: Path, area: str, draw: random.Random) -> list[tuple[tuple[str, ...], str]]:
    """Commands that read the runs of an area, each with the folder below `out` that it may change."""
    out = run / "out"

    def of_run(verb: str, name: str) -> list[tuple[tuple[str, ...], str]]:
        config, folder = str(run / f"{name}.json"), str(out / name)
        return [
            ((verb, config), name),
            ((verb, config), name),
            ((verb, config, "--replace"), name),
            ((verb, config, "--dry-run"), ""),
            (("inspect", folder), ""),
            (("inspect", f"{folder}/{draw.choice(sorted(os.listdir(folder)))}"), ""),
            (("sample", folder), ""),
            (("gc", folder, "--older-than", "0.001s", "--delete"), name),
        ]

    datasets_at, desk = ("--registry", str(out / "versions")), "desk"
    of_versions = [
        (("dataset", "log", desk, *datasets_at), ""),
        (("dataset", "card", desk, *datasets_at), ""),
        (("dataset", "diff", "desk:v1", "desk:v1", *datasets_at), ""),
        (("dataset", "export", desk, str(out / "exported"), *datasets_at), "exported"),
        (("dataset", "tag", "other", str(out / "prepared"), *datasets_at), "."),
    ]
    found = {
        "curated": [
            *of_run("curate", "curated"),
            (("explain", str(out / "curated"), "0-1"), ""),
            (("explain", str(out / "curated"), "0-3"), ""),
            (("sample", str(out / "curated"), "--text", "--config", str(run / "curated.json")), ""),
            (("what-if", str(run / "curated.json"), "-o", "rules=null"), ""),
            (("pack", str(run / "of_curated.json")), "of_curated"),
        ],
        "saved": [(("curate", str(run / "of_saved.json")), "of_saved")],
        "prepared": [
            *of_run("prepare", "prepared"),
            (("assess", str(out / "prepared")), "prepared"),
            (("pack", str(run / "of_prepared.json")), "of_prepared"),
            *of_versions,
        ],
        "versions": of_versions,
        "trained": [
            *of_run("train", "trained"),
            (("train", str(run / "trained.json"), "--verify"), "trained"),
            (("pack", str(run / "trained.json"), "--verify"), "trained"),
            (("plan", str(run / "trained.json")), ""),
            (("train", str(run / "continued.json")), "continued"),
        ],
        "continued": of_run("train", "continued"),
        "annotated": [
            *of_run("annotate", "annotated"),
            *[(("annotate", "finish", str(out / "annotated"), "--consensus", method), "annotated")
              for method in ("dawid_skene", "majority")],
            *[(("annotate", "export", str(out / "annotated"), str(out / f"exported/{format}"), "--format", format),
               "exported") for format in ("label-studio", "argilla", "prodigy", "csv")],
            (("annotate", "import", str(out / "annotated"), str(run / "studio.json")), "annotated"),
        ],
        # The analysis of before is removed, or it would be returned as it is where the damage leaves its inputs equal.
        **{
            area: [
                *[((verb, str(run / f"{name}.json"), *more), name)
                  for verb, more in (("errors", ("--replace",)), ("errors", ("--replace",)), ("errors", ("--dry-run",)),
                                     ("plan", ()))],
                (("inspect", str(out / area)), ""),
            ]
            for area, name in OF_ERRORS.items()
        },
        "errors_of_logs": of_run("errors", "errors_of_logs"),
        "models": [
            (("alias", str(out / "models"), "best"), ""),
            (("alias", str(out / "models"), "best", "--rollback"), "models"),
            (("promote", str(run / "promoted.json"), "--dry-run"), ""),
            (("promote", str(run / "promoted.json"), "--replace"), "."),
        ],
        "promoted": [(words, "." if words[0] == "promote" else at) for words, at in of_run("promote", "promoted")],
        "chained": of_run("run", "chained"),
    }  # fmt: skip
    return found[area]


def damage(area: Path, draw: random.Random, private: Path) -> str:
    """Change records or files of a run. Returns what was done, in words. private: a file outside."""
    files = sorted(path for path in area.rglob("*") if path.is_file() and not path.is_symlink())
    records = [path for path in files if path.suffix in (".json", ".jsonl")]
    if draw.random() < 0.3:  # an unfinished run: its stages' records count
        for name in ("manifest.json", "inputs.json", "fit.json", "pack.json"):
            for path in area.rglob(name):
                if draw.random() < 0.5:
                    path.unlink()
        records = [path for path in records if path.exists()]
    kind = draw.choice(
        ["name", "name", "name", "value", "value", "bytes of a record", "bytes of a file", "link", "more"]
    )
    # Kinds of records before instances: most of the files are manifests.
    names = sorted({path.name if path.parent.name != "_commits" else "commit" for path in records})
    name = draw.choice(names)
    record = draw.choice([path for path in records if path.name == name])
    shown = record.relative_to(area.parent)
    if kind in ("name", "value"):
        value = draw.choice([*HOSTILE, *HOSTILE_URIS, str(private), f"../../../{private.name}", f"file://{private}"])
        if kind == "value":
            value = draw.choice([-1, 10**400, 1e308, None, [], {}, "", "x" * 10_000, True, [[[[]]]], {"a": {"b": []}}])
        lines = record.read_text().splitlines() if record.suffix == ".jsonl" else [record.read_text()]
        number = draw.randrange(len(lines))
        content = json.loads(lines[number])
        at = _replace(content, draw, value)
        record.write_text("\n".join([*lines[:number], json.dumps(content), *lines[number + 1 :]]))
        return f"{shown}: {at} is {str(value)[:40]!r}"
    if kind == "bytes of a record":
        what, content = damaged(draw, record.read_bytes())
        record.write_bytes(content)
        return f"{shown}: {what}"
    if kind == "bytes of a file":
        file = draw.choice([path for path in files if path.exists()])
        what, content = damaged(draw, file.read_bytes())
        file.write_bytes(content)
        return f"{file.relative_to(area.parent)}: {what}"
    if kind == "link":
        at = draw.choice([path for path in sorted(area.rglob("*")) if os.path.lexists(path)])
        target = draw.choice([private, private.parent, Path("/proc/self/environ"), Path(".."), Path("nowhere")])
        shutil.rmtree(at) if at.is_dir() and not at.is_symlink() else at.unlink()
        at.symlink_to(target)
        return f"{at.relative_to(area.parent)}: a link to {target.name}"
    folder = draw.choice([area, *(path for path in sorted(area.rglob("*")) if path.is_dir())])
    name = draw.choice(
        ["\x1b[2Jx.parquet", "000009-000-abcdefabcdef.parquet", "_manifest.json", "manifest.json", "-rf"]
    )
    if (folder / name).exists():
        shutil.copyfile(record, folder / name)
    else:
        (folder / name).write_bytes(draw.choice([b"", b"{}", b"[" * 100_000, draw.randbytes(100)]))
    return f"{folder.relative_to(area.parent)}: one more file, {name!r}"


def _replace(content: Any, draw: random.Random, value: Any) -> str:
    """Put a value at a place that is drawn, or make it a key. Returns the place."""
    places = list(_places(content, ""))
    if not places:
        return "nothing"
    holder, key, shown = draw.choice(places)
    if isinstance(holder, dict) and isinstance(value, str) and draw.random() < 0.25:
        holder[value] = holder.pop(key)
        return f"the key {shown}"
    holder[key] = value
    return shown


def _places(content: Any, shown: str) -> Iterator[tuple[Any, Any, str]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        place = f"{shown}.{key}" if shown else str(key)
        yield content, key, place
        yield from _places(value, place)
