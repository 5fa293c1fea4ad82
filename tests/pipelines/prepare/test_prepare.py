"""Whole runs of `prepare`: every record is in one split, in the ledger or in quarantine, with the reason."""

import csv
import json
import os
from collections import Counter, defaultdict
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import Unusable
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.record import OtherSettings
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob
from raymill.pipelines.prepare.records.conversion import Template, filled
from raymill.pipelines.prepare.records.fields import hash64
from raymill.pipelines.prepare.records.sections import title_of
from raymill.pipelines.prepare.sources import with_named_columns
from tests.support.inline import curate_inline, prepare_inline, without_ray
from tests.support.page_tables import misaligned
from tests.support.prepared_runs import ledger, records
from tests.support.shown import print_dry_run
from tests.support.tickets import answer, question

QUEUES = ("login", "billing")


def tickets(path, count=60, more=()) -> None:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ticket", "subject", "resolution", "queue", "customer"])
        for n in range(count):
            rows.writerow([f"t{n}", question(n), answer(n), QUEUES[n % 3 == 0], f"c{n // 2}"])
        rows.writerows(more)


BAD = [
    ("short", "Why?", answer(70), "login", "c1"),
    ("declined", question(71), "I'm sorry, but I can't say anything about that.", "login", "c2"),
    ("queue", question(72), answer(72), "other", "c3"),
    ("again", question(5), answer(5), "login", "c77"),
    ("empty", question(73), "", "login", "c5"),
]


@pytest.fixture
def settings(tmp_path) -> dict:
    tickets(tmp_path / "tickets.csv", more=BAD)
    columns = {"prompt": "subject", "completion": "resolution", "category": "queue", "customer": "customer"}
    return {
        "inputs": [
            {"source": "tickets", "path": str(tmp_path / "tickets.csv"), "id": "ticket", "columns": columns,
             "licence": "internal"}
        ],
        "validate": {"allowed": {"category": list(QUEUES)}},
        "split": {"stratify": ["category"], "group": ["customer"]},
        "execution": {"max_bad_documents": 0.1},
        "output": str(tmp_path / "out"),
    }  # fmt: skip


def changed_at(path: str) -> str:
    """When a file was last changed, as records have it."""
    return datetime.fromtimestamp(os.stat(path).st_mtime, UTC).isoformat(timespec="seconds")


def test_every_record_is_in_a_split_in_the_ledger_or_in_quarantine(settings, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    kept, removed = records(run), ledger(run)
    assert set(kept) == {f"t{n}" for n in range(60)}
    assert {id: row["reason"] for id, row in removed.items()} == {
        "short": "question_too_short", "declined": "refusal", "queue": "not_allowed", "again": "exact_duplicate"
    }  # fmt: skip
    assert (removed["again"]["partner"], removed["again"]["stage"]) == ("t5", "duplicates")
    assert json.loads(removed["short"]["content"])["messages"][0] == {"role": "user", "content": "Why?"}
    (quarantined,) = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert quarantined["problem"] == "empty" and json.loads(quarantined["content"])["prompt"] == question(73)
    path = settings["inputs"][0]["path"]
    assert (quarantined["row"], quarantined["where"]) == (64, f"record 64 of {path}"), "from 0, of the whole unit"
    assert kept["t7"]["messages"] == [
        {"role": "user", "content": question(7)}, {"role": "assistant", "content": answer(7)}
    ]  # fmt: skip
    assert kept["t7"]["metadata"] == {
        "source": "tickets", "licence": "internal", "task_type": "qa", "category": "login", "customer": "c3",
        "domain": None, "language": "en", "quality_score": None,
        "collected_at": changed_at(settings["inputs"][0]["path"]),
    }  # fmt: skip


def test_groups_stay_together_and_strata_have_the_same_shares(settings, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    of_customer, counts = defaultdict(set), Counter()
    for row in records(run).values():
        of_customer[row["metadata"]["customer"]].add(row["split"])
        counts[row["split"], row["metadata"]["category"]] += 1
    assert all(len(splits) == 1 for splits in of_customer.values())
    assert run.report["straddling"] == {"contradictory": 0, "customer": 0, "duplicates": 0, "questions": 0}
    assert [run.report["splits"][split] for split in SPLITS] == [48, 6, 6]
    assert abs(counts["train", "login"] - 32) <= 2


def test_a_group_that_swallows_a_source_and_classes_that_a_rule_removes_are_warnings(tmp_path, monkeypatch):
    """Customers of one source are joined by equal questions; two of four intents have answers of a word."""
    names = ("card", "limit", "yes", "no")

    def row(n: int, asked: int, customer: str | None, intent: str) -> dict:
        answers = {"yes": "Yes.", "no": "No."}
        said = answers.get(intent, f"This is what we say about {n}.")
        return {"question": question(asked), "answer": said, "customer": customer, "intent": intent}

    shop = [row(n, n % 10, f"c{n % 7}", "card") for n in range(60)]
    chats = [row(n, 100 + n, None, names[n % 4]) for n in range(80)]
    inputs = []
    for name, rows in (("shop", shop), ("chats", chats)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        columns = {"prompt": "question", "completion": "answer", "customer": "customer", "intent": "intent"}
        inputs.append({"source": name, "path": str(tmp_path / f"{name}.jsonl"), "columns": columns})
    settings = {"inputs": inputs, "output": str(tmp_path / "out"), "dedup": None, "split": {"group": ["customer"]},
                "assess": {"embeddings": None}}  # fmt: skip
    report = prepare_inline(settings, monkeypatch).report
    classes, group, *others = report["warnings"]
    assert classes == (
        "intent: 2 of 4 values have no record in the data set (no, yes): answer_too_short removed 40 of their 40 "
        "records, by `validate.answer_chars`. Change it if these records are good."
    )
    assert group.startswith("one group has 60 of 100 records (60.0%), more than the share of validation and test, and")
    assert "joined by customer and equal questions" in group and "every record of source shop" in group
    assert any(one.startswith("source shop: none of its 60 records is in validation or test") for one in others)
    assert [one["value"] for one in report["classes"]["intent"]] == ["card", "limit", "no", "yes"]
    assert report["classes"]["intent"][2]["removed"] == {"validate/answer_too_short": 20}
    assert "customer" not in report["classes"], "groups are not classes"
    assert report["assigned"] == {"train": 80, "validation": 10, "test": 10}
    (short,) = report["reasons"]
    assert short["example"]["value"] and short["example"]["text"].endswith("assistant: Yes.")
    page = Store().read_bytes(f"{tmp_path}/out/report.html").decode()
    assert page.index('id="verdict"') < page.index('id="warnings"') < page.index('id="result"')
    assert "Records by intent: 4 values" in page and 'id="spread"' in page
    assert "by <code>validate.answer_chars</code>. Change it" in page, "names of settings are code"


def test_a_data_set_without_records_is_an_error_exit(tmp_path, monkeypatch, capsys):
    """`prepare`, `assess --gate` and `dataset tag`, so that nothing goes on with it."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": question(1), "completion": "No."}) + "\n")
    (tmp_path / "c.yaml").write_text(
        f"kind: prepare\nname: x\ninputs: [{{path: {tmp_path}/in.jsonl}}]\noutput: {tmp_path}/out\n"
    )
    without_ray(monkeypatch)

    def exit_code(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        return ended.value.code

    assert exit_code("prepare", str(tmp_path / "c.yaml")) == 2
    assert "warning: the data set is empty: none of 1 record is left." in capsys.readouterr().out
    page = (tmp_path / "out/report.html").read_text()
    assert "Not fit for training yet" in page and page.count("the data set is empty: none of 1 record is left.") == 2
    assert exit_code("prepare", str(tmp_path / "c.yaml")) == 2, "found again, it is as empty"
    assert exit_code("assess", str(tmp_path / "out"), "--gate") == 2
    assert exit_code("dataset", "tag", "x", str(tmp_path / "out"), "--registry", str(tmp_path / "versions")) == 2
    assert "the data set is empty" in capsys.readouterr().err


def test_the_report_counts_what_the_files_hold(settings, monkeypatch):
    report = prepare_inline(settings, monkeypatch).report
    assert report["totals"] == {
        "quarantined": 1, "records": 64, "rejected": 3, "duplicates": 1, "left_out": 0, "repeated": 0, "written": 60,
        "augmented": 0, "synthetic": 0,
        "personal_data": 0,
    }  # fmt: skip
    assert [(one["stage"], one["reason"], one["records"]) for one in report["reasons"]] == [
        ("collect", "empty", 1), ("validate", "not_allowed", 1), ("validate", "question_too_short", 1),
        ("validate", "refusal", 1), ("duplicates", "exact_duplicate", 1),
    ]  # fmt: skip
    (source,) = report["sources"]
    assert (source["records"], source["passed"], source["quarantined"]) == (64, 61, 1)
    assert source["splits"] == report["splits"]
    assert report["warnings"] == [
        "category: 1 of 3 values have too few records for one in each split (other), so a score on the splits that "
        "lack them says nothing of them."
    ]


def test_the_result_does_not_depend_on_units(settings, monkeypatch, tmp_path):
    table = pa.Table.from_pylist([{"q": question(n), "a": answer(n % 55), "customer": f"c{n // 2}"} for n in range(60)])
    pq.write_table(table, tmp_path / "r.parquet", row_group_size=5)
    columns = {"prompt": "q", "completion": "a", "customer": "customer"}
    source = {"source": "r", "path": str(tmp_path / "r.parquet"), "columns": columns}
    plain = {"inputs": [source], "split": {"group": ["customer"], "folds": 3}}
    one = prepare_inline(plain | {"output": str(tmp_path / "one")}, monkeypatch)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 9)
    many = prepare_inline(plain | {"output": str(tmp_path / "many")}, monkeypatch)
    files = [len(Artifact.load(Store(), f"{run.uri}/_work/records").manifest.files) for run in (one, many)]
    assert files[0] == 1 < files[1]
    assert records(one) == records(many) and ledger(one) == ledger(many)
    folds = Counter(row["fold"] for row in records(one).values() if row["split"] != "test")
    assert set(folds) == {0, 1, 2} and all(row["fold"] is None for row in run_test(one))
    for part in ("totals", "splits", "sources", "reasons", "straddling", "listed"):
        assert one.report[part] == many.report[part], part
    other = prepare_inline(
        plain | {"split": plain["split"] | {"seed": 2}, "output": str(tmp_path / "seed")}, monkeypatch
    )
    assert records(other).keys() == records(one).keys() and records(other) != records(one), "another seed divides anew"


def run_test(run) -> list[dict]:
    return run.split("test").table().to_pylist()


def test_records_of_an_earlier_run_keep_their_split(settings, monkeypatch, tmp_path):
    before = records(prepare_inline(settings, monkeypatch))
    tickets(tmp_path / "tickets.csv", count=90)
    later = settings | {"output": str(tmp_path / "later")}
    without = records(prepare_inline(later, monkeypatch))
    assert any(without[id]["split"] != row["split"] for id, row in before.items()), "the test shows something"
    keep = {"split": settings["split"] | {"keep": [settings["output"]]}, "output": str(tmp_path / "kept")}
    run = prepare_inline(settings | keep, monkeypatch)
    after = records(run)
    assert {id: after[id]["split"] for id in before} == {id: row["split"] for id, row in before.items()}
    counts = [run.report["splits"][split] for split in SPLITS]
    assert counts[0] == 72 and abs(counts[1] - 9) <= 1, "customers have two records"
    with pytest.raises(DataError, match="nowhere"):
        prepare_inline(settings | {"split": {"keep": [str(tmp_path / "nowhere")]}}, monkeypatch, replace=True)


def test_records_of_a_run_that_is_replaced_keep_their_split_and_fold(settings, monkeypatch, tmp_path):
    split = settings["split"] | {"folds": 3}
    before = records(prepare_inline(settings | {"split": split}, monkeypatch))
    places = {id: (row["split"], row["fold"]) for id, row in before.items()}
    tickets(tmp_path / "tickets.csv", count=90)

    def again(output: str | None = None, **changes) -> dict[str, tuple]:
        given = settings | {"split": split | changes} | ({"output": str(tmp_path / output)} if output else {})
        run = prepare_inline(given, monkeypatch, replace=True)
        found = records(run)
        assert len(found) == 90 and max(row["fold"] or 0 for row in found.values()) == changes.get("folds", 3) - 1
        return {id: (found[id]["split"], found[id]["fold"]) for id in places}

    assert again("other") != places, "the test shows something"
    assert again() == places
    in_split = {id: split for id, (split, _) in places.items()}
    assert {id: split for id, (split, _) in again(folds=2).items()} == in_split, "another number of folds is another"
    assert again(stable=False) == again("other", stable=False) != places
    assert again(seed=2) != places, "another seed divides anew"


def test_a_run_that_is_cut_off_while_it_replaces_another_goes_on_alike(settings, monkeypatch, tmp_path):
    places = {id: row["split"] for id, row in records(prepare_inline(settings, monkeypatch)).items()}
    tickets(tmp_path / "tickets.csv", count=90)
    with monkeypatch.context() as patch:
        patch.setattr("raymill.pipelines.prepare.job.assess", lambda *_: 1 / 0)  # when the splits are replaced
        with pytest.raises(DataError, match="ZeroDivisionError"):
            prepare_inline(settings, monkeypatch, replace=True)
    run = prepare_inline(settings, monkeypatch)
    found = records(run)
    assert len(found) == 90 and {id: found[id]["split"] for id in places} == places
    assert any("60 records stay in the split where an earlier run" in note for note in run.report["notes"])


def test_a_finished_run_is_found_and_another_config_is_refused(settings, monkeypatch):
    first = prepare_inline(settings, monkeypatch)
    again = prepare_inline(settings, monkeypatch)
    assert (first.fresh, again.fresh) == (True, False) and again.report == first.report
    with pytest.raises(OtherSettings, match=r"records\.shape was \"messages\", now \"pairs\""):
        prepare_inline(settings | {"records": {"shape": "pairs"}}, monkeypatch)
    other = prepare_inline(settings | {"records": {"shape": "pairs"}}, monkeypatch, replace=True)
    assert other.split("train").schema.names[:4] == ["id", "system", "prompt", "completion"]


def test_columns_that_are_not_read_are_named(settings, tmp_path, monkeypatch, capsys):
    chat = [{"role": "user", "content": question(1)}, {"role": "assistant", "content": answer(1)}]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"id": "1", "messages": chat, "topic": "lamps", "agent": "anna"}) + "\n")
    plain = {"inputs": [{"source": "chats", "path": str(path), "id": "id"}], "output": str(tmp_path / "chats")}
    note = "Source chats: 2 columns are not read: topic, agent. To keep one as metadata, name it: "
    note += "`columns: {FIELD: topic}`."
    run = prepare_inline(plain, monkeypatch)
    assert run.report["notes"] == [note]
    print_dry_run(
        PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | plain | {"output": str(tmp_path / "x")})
    )
    assert f"note     {note}" in capsys.readouterr().out
    plain["inputs"][0]["columns"] = {"topic": "topic", "agent": "agent"}
    named = prepare_inline(plain | {"output": str(tmp_path / "named")}, monkeypatch)
    assert named.report["notes"] == [] and next(iter(records(named).values()))["metadata"]["topic"] == "lamps"
    assert prepare_inline(settings, monkeypatch).report["notes"] == [], "columns were chosen"
    plain["inputs"][0] |= {"columns": {"topic": "topc", "agent": "agent"}, "id": "key"}
    report = prepare_inline(plain | {"output": str(tmp_path / "absent")}, monkeypatch).report
    assert "2 columns are not read: id, topic." in report["notes"][0]
    absent = "Source chats: no record at its beginning has key, topc (did you mean topic?), which the config names."
    assert absent in report["warnings"]
    pairs(tmp_path / "pairs.jsonl", 3)
    plain["inputs"][0] = {
        "path": str(tmp_path / "pairs.jsonl"),
        "columns": {"prompt": "question", "completion": "answr"},
    }
    with pytest.raises(ConfigError, match=r"no column answr .columns.completion.. .* Did you mean answer\?"):
        prepare_inline(plain, monkeypatch, replace=True)


def test_records_with_one_id_are_a_warning(tmp_path, monkeypatch):
    pairs(tmp_path / "a.jsonl", 12, id=lambda n: f"r{n // 3}")
    source = {"path": str(tmp_path / "a.jsonl"), "id": "id"}
    run = prepare_inline({"inputs": [source], "output": str(tmp_path / "out")}, monkeypatch)
    (warning,) = (one for one in run.report["warnings"] if "have the id of another" in one)
    assert warning.startswith("8 records have")


def test_texts_become_instructions_by_the_template_of_their_task(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.md").write_text("# Annual leave\n\nEverybody has thirty days of leave.\n")
    (tmp_path / "in" / "b.md").write_text("\n")
    (tmp_path / "in" / "c.md").write_text("***\n")
    plain = {
        "inputs": [{"path": str(tmp_path / "in"), "task_type": "policy", "source": "handbook"}],
        "validate": {"question_chars": None, "answer_chars": None},
        "execution": {"max_bad_documents": 1},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(plain, monkeypatch)
    (row,) = records(run).values()
    assert [one["content"] for one in row["messages"]] == [
        "What does the policy on Annual leave say?", "# Annual leave\n\nEverybody has thirty days of leave."
    ]  # fmt: skip
    problems = Artifact.load(Store(), f"{run.uri}/quarantine").table()["problem"].to_pylist()
    assert sorted(problems) == ["empty", "missing_field"]
    templates = {"policy": {"prompt": "{source}: {title}?", "completion": "{text}", "system": "Be brief."}}
    other = prepare_inline(plain | {"records": {"templates": templates}}, monkeypatch, replace=True)
    (row,) = records(other).values()
    assert [one["content"] for one in row["messages"]][:2] == ["Be brief.", "handbook: Annual leave?"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [{"path": "PATH", "columns": {"prompt": "subject"}}]}, "prompt given; wanted one of"),
        ({"inputs": [{"path": "PATH", "columns": {"category": "queue"}}]}, "It has: ticket, .* Name the"),
        ({"inputs": [{"path": "PATH.none"}]}, "the file does not exist|does not exist"),
        ({"clean": {"redact": ["email"], "pseudonyms": "per_corpus", "pseudonym_key": "NO_SUCH_KEY"}},
         "the environment has no NO_SUCH_KEY"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_runs(settings, monkeypatch, change, message):
    path = settings["inputs"][0]["path"]
    plain = json.loads(json.dumps(settings | change).replace("PATH", path))
    plain |= {"validate": {}, "split": {}} if "inputs" in change else {}
    with pytest.raises((ConfigError, DataError), match=message):
        prepare_inline(plain, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"split": {"stratify": ["agent"]}},
            "no input has a field or column agent; there are category, .*, complexity, .* Add it",
        ),
        (
            {"split": {"stratify": ["completion"]}},
            "no input has .* completion; .*completion is part of the content, .* `columns: {completion: "
            "resolution, resolution: resolution}`, and name resolution here",
        ),
        ({"split": {"balance": {"by": ["lenght"]}}}, "no input has a field or column lenght; .*mean length"),
        ({"validate": {"require": ["categroy"]}}, r"validate.require: no .* categroy; .*Did you mean category\?"),
        ({"split": {"group": ["customer"], "stratify": ["customer"]}}, "in stratify and in group"),
        ({"split": {"train": 0.5}}, "sum to 0.7; wanted 1"),
        ({"dedup": {"keeper": "newest", "newest_by": "x"}}, "keeper is position, longest or source"),
        ({"records": {"templates": {"qa": {"prompt": "{a.b}"}}}}, "is no name of a field"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, change, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        with_named_columns(PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | change))


def test_too_many_rows_that_are_no_records_end_the_run(settings, monkeypatch, tmp_path):
    tickets(tmp_path / "tickets.csv", count=3, more=[("e", question(4), "", "login", "c")] * 2)
    with pytest.raises(DataError, match=r"2 of 5 rows could not be read.*\n  2 empty \(no text, question"):
        prepare_inline(settings, monkeypatch)


def test_a_submitted_run_states_its_machines(settings):
    config = PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings)
    planned = PrepareJob(config).work()
    assert (planned.verb, planned.finished, planned.workers[0].cpus) == ("prepare", False, 2)
    assert planned.must_exist == (settings["inputs"][0]["path"],)
    words = f"{settings['output']}-words"
    Store().write_bytes(words, b"word\n")
    more = settings | {"split": {"keep": ["/earlier"]}, "validate": {"bad_words": {"paths": {"en": words}}}}
    asked = PrepareJob(PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | more)).work()
    assert asked.must_exist == (*planned.must_exist, words, "/earlier/manifest.json")
    assert planned.workers[0].largest_task >= 2 << 30


def test_other_verbs_say_what_they_want(settings, tmp_path, run_cli):
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"kind": "prepare", "name": "x"} | settings))
    code, _, err = run_cli("curate", str(path))
    assert code == 2 and "kind: prepare given; wanted curate" in err


def pairs(path, count: int, first: int = 0, **more) -> None:
    rows = [
        {"question": question(n), "answer": answer(n)} | {name: value(n) for name, value in more.items()}
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_sources_have_their_shares_and_a_shortfall_is_filled_and_reported(tmp_path, monkeypatch):
    pairs(tmp_path / "a.jsonl", 60)
    pairs(tmp_path / "b.jsonl", 20, first=60)
    inputs = [{"source": name, "path": str(tmp_path / f"{name}.jsonl"), "share": 0.5} for name in "ab"]
    plain = {"inputs": inputs, "output": str(tmp_path / "even")}
    run = prepare_inline(plain, monkeypatch)
    assert [sum(one["splits"].values()) for one in run.report["sources"]] == [20, 20] and not run.report["warnings"]
    over = [row for row in ledger(run).values() if row["reason"] == "over_share"]
    assert len(over) == 40 and {row["stage"] for row in over} == {"mixture"} and all(row["content"] for row in over)
    filled = prepare_inline(plain | {"mixture": {"records": 50}, "output": str(tmp_path / "filled")}, monkeypatch)
    assert [sum(one["splits"].values()) for one in filled.report["sources"]] == [30, 20]
    assert filled.report["warnings"] == [
        "source a: 60.0% of the data set, where its share is 50.0%; it has 60 records that meet all rules.",
        "source b: 40.0% of the data set, where its share is 50.0%; it has 20 records that meet all rules.",
    ]
    short = {"mixture": {"records": 50, "fill": False}, "output": str(tmp_path / "short")}
    fewer = prepare_inline(plain | short, monkeypatch)
    assert [sum(one["splits"].values()) for one in fewer.report["sources"]] == [25, 20]


def test_classes_of_the_training_split_get_equal_numbers_and_repeated_records_say_so(tmp_path, monkeypatch):
    pairs(tmp_path / "a.jsonl", 60, label=lambda n: "rare" if n % 6 == 0 else "usual", id=lambda n: f"r{n}")
    columns = {"prompt": "question", "completion": "answer", "label": "label"}
    plain = {"inputs": [{"path": str(tmp_path / "a.jsonl"), "columns": columns, "id": "id"}]}
    split = {"stratify": ["label"], "balance": {"by": ["label"]}}
    run = prepare_inline(plain | {"split": split, "output": str(tmp_path / "over")}, monkeypatch)
    train = run.split("train").table().to_pylist()
    assert Counter(row["metadata"]["label"] for row in train) == {"usual": 40, "rare": 40}
    assert run.report["totals"]["repeated"] == 32 and run.report["totals"]["written"] == 92
    repeated = [row for row in train if row["provenance"]]
    assert len(repeated) == 32 and len({row["id"] for row in train}) == 80
    (first,) = {row["id"] for row in train if row["metadata"]["label"] == "rare" and "#" not in row["id"]} & {
        repeated[0]["provenance"]["parents"][0]
    }
    assert sorted(row["id"] for row in train if row["id"].partition("#")[0] == first) == [
        first, *(f"{first}#{number}" for number in range(2, 6))
    ]  # fmt: skip
    for row in repeated:
        assert row["provenance"] == {"parents": [row["id"].partition("#")[0]], "operation": "repeat"}
    assert len(run.split("test").table()) == 6, "only training is balanced"
    assert run.report["warnings"] == []
    twice = split | {"balance": {"by": ["label"], "most_copies": 2}}
    run = prepare_inline(plain | {"split": twice, "output": str(tmp_path / "twice")}, monkeypatch)
    assert run.report["warnings"] == [
        "split.balance: 1 class has fewer than the 40 records wanted, because no record is written more than 2 times; "
        "the smallest has 8 records. For equal classes set split.balance.most_copies to 5, or split.balance.to to a "
        "smaller number."
    ]
    named = split | {"balance": {"by": ["label"], "to": {"rare": 20, "other": 5}, "most_copies": 2}}
    run = prepare_inline(plain | {"split": named, "output": str(tmp_path / "named")}, monkeypatch)
    train = run.split("train").table().to_pylist()
    assert Counter(row["metadata"]["label"] for row in train) == {"usual": 40, "rare": 16}, "usual is not named"
    few = "because no record is written more than 2 times. Set split.balance.most_copies to a larger number"
    assert [one.partition(", or")[0] for one in run.report["warnings"]] == [
        f"split.balance: other has 0 of the 5 records wanted in training, {few}",
        f"split.balance: rare has 16 of the 20 records wanted in training, {few}",
    ]
    fewer = split | {"balance": {"by": ["label"], "to": {"usual": 10}}}
    run = prepare_inline(plain | {"split": fewer, "output": str(tmp_path / "fewer")}, monkeypatch)
    train = run.split("train").table().to_pylist()
    assert Counter(row["metadata"]["label"] for row in train) == {"usual": 10, "rare": 8}
    under = split | {"balance": {"by": ["label"], "to": "smallest"}}
    run = prepare_inline(plain | {"split": under, "output": str(tmp_path / "under")}, monkeypatch)
    labels = Counter(row["metadata"]["label"] for row in run.split("train").table().to_pylist())
    assert labels == {"usual": 8, "rare": 8}
    assert Counter(row["reason"] for row in ledger(run).values()) == {"over_class": 32}


def test_labels_get_one_spelling_and_old_records_are_refused(tmp_path, monkeypatch):
    spelled = ["Billing", "bill-ing", "invoices", "login", "LOG  IN", "other"]
    pairs(tmp_path / "a.jsonl", 6, queue=lambda n: spelled[n], day=lambda n: f"2026-0{n + 1}-15T10:00:00Z")
    columns = {"prompt": "question", "completion": "answer", "queue": "queue", "day": "day"}
    labels = {"queue": {"billing": ["bill ing", "invoices"], "login": ["log in"]}}
    plain = {
        "inputs": [{"path": str(tmp_path / "a.jsonl"), "columns": columns}],
        "clean": {"labels": labels},
        "validate": {"allowed": {"queue": ["billing", "login"]}, "since": {"day": "2026-02-15"}},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(plain, monkeypatch)
    assert Counter(row["metadata"]["queue"] for row in records(run).values()) == {"billing": 2, "login": 2}
    assert sorted(row["reason"] for row in ledger(run).values()) == ["not_allowed", "too_old"]


def test_licences_and_times_outside_of_what_is_allowed_are_refused_and_counted(tmp_path, monkeypatch):
    pairs(tmp_path / "a.jsonl", 8, id=lambda n: f"r{n}", terms=lambda n: ["mit", "gpl", None, ""][n % 4])
    pairs(tmp_path / "b.jsonl", 2, first=20)
    os.utime(tmp_path / "a.jsonl", (0, datetime(2026, 3, 1, tzinfo=UTC).timestamp()))
    os.utime(tmp_path / "b.jsonl", (0, datetime(2026, 5, 1, tzinfo=UTC).timestamp()))
    columns = {"prompt": "question", "completion": "answer", "licence": "terms"}
    inputs = [
        {"source": "a", "path": str(tmp_path / "a.jsonl"), "columns": columns, "id": "id", "licence": "cc-by-4.0"},
        {"source": "b", "path": str(tmp_path / "b.jsonl"), "licence": "mit"},
    ]
    plain = {"inputs": inputs, "validate": {"licences": ["mit", "cc-by-4.0"]}, "output": str(tmp_path / "one")}
    run = prepare_inline(plain, monkeypatch)
    assert {id for id, row in ledger(run).items() if row["reason"] == "licence_not_allowed"} == {"r1", "r5"}
    kept = records(run)
    assert Counter(row["metadata"]["licence"] for row in kept.values()) == {"mit": 4, "cc-by-4.0": 4}
    assert kept["r0"]["metadata"]["collected_at"] == "2026-03-01T00:00:00+00:00"
    bounds = {"since": {"collected_at": "2026-02-01"}, "until": {"collected_at": "2026-04-01"}}
    window = prepare_inline(plain | {"validate": bounds, "output": str(tmp_path / "two")}, monkeypatch)
    assert [(one["reason"], one["records"]) for one in window.report["reasons"]] == [("too_new", 2)]
    none = plain | {"inputs": [inputs[0] | {"licence": None}], "output": str(tmp_path / "three")}
    reasons = Counter(row["reason"] for row in ledger(prepare_inline(none, monkeypatch)).values())
    assert reasons == {"licence_not_allowed": 6}, "a record without a licence is not allowed either"


def test_every_record_has_its_language_and_the_domain_of_its_source(tmp_path, monkeypatch):
    german = {"question": "Wie setze ich mein Kennwort zurück?", "answer": "Öffnen Sie die Einstellungen des Kontos."}
    rows = [
        german | {"id": "found"},
        german | {"id": "given", "tongue": "gsw"},
        {"id": "none", "question": "12 + 34 = ? 56 + 78", "answer": "46, 134, 46, 134, 46."},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "question", "completion": "answer", "language": "tongue"}
    source = {"path": str(tmp_path / "in.jsonl"), "id": "id", "columns": columns, "domain": "support"}
    run = prepare_inline({"inputs": [source], "dedup": None, "output": str(tmp_path / "one")}, monkeypatch)
    found = {id: row["metadata"] for id, row in records(run).items()}
    assert {id: one["language"] for id, one in found.items()} == {"found": "de", "given": "gsw", "none": None}
    assert {one["domain"] for one in found.values()} == {"support"}
    allowed = {"inputs": [source], "validate": {"allowed": {"language": ["en"]}}, "output": str(tmp_path / "two")}
    assert set(records(prepare_inline(allowed | {"dedup": None}, monkeypatch))) == {"none"}


def test_the_corpus_of_a_curation_is_an_input(tmp_path, monkeypatch):
    texts = [f"{answer(n)} {question(n)} {answer(n + 1)}" for n in range(12)]
    rows = "".join(json.dumps({"text": text, "name": f"n{number}"}) + "\n" for number, text in enumerate(texts))
    (tmp_path / "raw.jsonl").write_text(rows + json.dumps({"text": texts[0], "name": "again"}) + "\n")
    entry = {"source": "web", "path": str(tmp_path / "raw.jsonl"), "id": "name"}
    settings = {"inputs": [entry], "language": None, "rules": None, "output": str(tmp_path / "curated")}
    curated = curate_inline(settings, monkeypatch)
    assert curated.corpus.manifest.rows == 12
    source = {"source": "web", "path": curated.uri, "columns": {"text": "text", "from": "source"}}
    plain = {"inputs": [source], "records": {"shape": "text"}, "output": str(tmp_path / "out")}
    found = records(prepare_inline(plain, monkeypatch))
    assert set(found) == {f"n{n}" for n in range(12)} and found["n3"]["metadata"]["from"] == "web"
    (tmp_path / "curated" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no finished run; wanted the output of `raymill\.curate`"):
        prepare_inline(plain | {"output": str(tmp_path / "other")}, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 0.5}, "1 of 1 have a share, and these sum to 0.5"),
        ({"clean": {"labels": {"queue": {"a": ["A"]}}}}, "a is listed twice"),
        ({"mixture": {"records": 5}}, "goes with `share`"),
    ],
)
def test_amounts_that_cannot_be_are_refused(settings, change, message):
    plain = {"kind": "prepare", "name": "x"} | settings
    if "share" in change:
        plain["inputs"] = [settings["inputs"][0] | change]
        change = {}
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate(plain | change)


def test_shares_take_the_records_of_earlier_runs_first(tmp_path, monkeypatch):
    pairs(tmp_path / "a.jsonl", 20)
    pairs(tmp_path / "b.jsonl", 20, first=100)
    inputs = [{"source": name, "path": str(tmp_path / f"{name}.jsonl"), "share": 0.5} for name in "ab"]
    before = prepare_inline({"inputs": inputs, "output": str(tmp_path / "before")}, monkeypatch)
    pairs(tmp_path / "a.jsonl", 60)
    later = {"inputs": inputs, "split": {"keep": [before.uri]}, "output": str(tmp_path / "later")}
    assert set(records(before)) == set(records(prepare_inline(later, monkeypatch)))


def test_what_is_cleaned_quarantined_and_written_is_counted_and_keeps_its_letters(tmp_path, monkeypatch):
    rows = [
        {"question": f"{question(n)} Ann@example.com or bob@example.com", "answer": f"Fr\u00e4ulein: {answer(n)}"}
        for n in range(10)
    ]
    rows += [
        {"question": "Warum?", "answer": "Dar\u00fcm und deshalb, weil es so ist."},
        {"question": "x" * 20_000, "answer": " "},
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")
    plain = {
        "inputs": [{"source": "a", "path": str(tmp_path / "a.jsonl")}],
        "clean": {"redact": ["email"], "pseudonyms": "per_record"},
        "split": {"balance": {"by": ["source"], "to": 2, "most_copies": 1}},
        "execution": {"max_bad_documents": 0.5},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(plain, monkeypatch)
    report = run.report
    assert report["totals"]["personal_data"] == 20 and report["totals"]["quarantined"] == 2
    assert [(one["stage"], one["reason"], one["records"]) for one in report["reasons"]] == [
        ("collect", "broken_json", 1), ("collect", "empty", 1), ("validate", "question_too_short", 1),
        ("balance", "over_class", 6),
    ]  # fmt: skip
    (source,) = report["sources"]
    assert (source["quarantined"], source["records"], source["passed"]) == (2, 11, 10)
    assert report["splits"]["train"] == 2 and report["totals"]["left_out"] == 6
    kept, removed = records(run), ledger(run)
    assert all("<EMAIL_1> or <EMAIL_2>" in row["messages"][0]["content"] for row in kept.values())
    (short,) = [row for row in removed.values() if row["reason"] == "question_too_short"]
    assert "Dar\u00fcm" in short["content"] and len(short["id"]) == 32
    assert all("Fr\u00e4ulein" in row["content"] for row in removed.values() if row["reason"] == "over_class")
    quarantine = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert sorted(len(row["content"] or "") for row in quarantine) == [7, 10_000]
    with open(f"{run.uri}/report.html") as file:
        page = " ".join(file.read().split())
    assert "20 findings of personal data were replaced: text 20." in page and "not stated" in page
    assert "Why records are not in the data set" in page and misaligned(page) == []


def test_hashes_of_several_texts_are_of_each_of_them():
    assert hash64("ab", "c") != hash64("a", "bc") != hash64("abc") and hash64("a", "") != hash64("a")
    assert hash64("ab") == hash64("ab") and hash64() != hash64("")


def test_the_title_of_a_text_equals_the_one_of_the_text():
    template = Template(prompt="{title}, {source}?", completion="{text}", system="{queue}")
    made = filled(template, "# Leave #\n\nText", {"title": "x", "source": "s", "queue": "q"})
    assert [one.content for one in made.messages] == ["q", "Leave, s?", "# Leave #\n\nText"]
    for values in ({"source": "s"}, {"source": "", "queue": "q"}):
        with pytest.raises(Unusable, match="missing_field"):
            filled(template, "Leave", values)
    assert title_of("***\n\n - 1. First -\nSecond") == "1. First" and title_of("--\n") == ""
    assert len(title_of("# " + "a" * 300)) == 200 and title_of("a" * 199 + " b") == "a" * 199


def test_what_readers_leave_out_of_pages_is_in_the_notes(tmp_path, monkeypatch):
    text = "".join(
        f"<p>The lamp of router number {n} is green while it is ready, and red while it starts.</p>" for n in range(9)
    )
    menu = "<nav><ul><li><a href='/'>All about our shop</a></li></ul></nav>"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.html").write_text(f"<html><body>{menu}<article>{text}</article></body></html>")
    (tmp_path / "in/b.txt").write_text("")
    config = {"inputs": [{"source": "web", "path": f"{tmp_path}/in"}], "records": {"shape": "text"},
              "dedup": None, "output": f"{tmp_path}/out"}  # fmt: skip
    empty, left_out = prepare_inline(config, monkeypatch).report["notes"]
    assert empty == "Source web: passed over: 1 of zero bytes."
    number = len("Allaboutourshop")
    assert left_out == (
        f"Source web: {number} characters of HTML pages are not in the texts: outside the main content, or repeated "
        "(estimated for files with many pages)."
    )


def test_rows_of_quarantine_name_their_file_and_a_source_without_records_its_rows(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.jsonl").write_text('{"prompt": "", "completion": "x"}\n')
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"prompt": question(n), "completion": answer(n)}) + "\n" for n in range(20))
    )
    inputs = [{"source": "bad", "path": f"{tmp_path}/in"}, {"source": "good", "path": f"{tmp_path}/c.jsonl"}]
    config = {"inputs": inputs, "output": f"{tmp_path}/out", "execution": {"max_bad_documents": 1}}
    run = prepare_inline(config, monkeypatch)
    places = [row["where"] for row in Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()]
    assert sorted(one.rpartition("/")[2] for one in places) == ["a.jsonl", "b.jsonl"]
    assert "source bad: it has no record; in quarantine: 2 rows that could not be read." in run.report["warnings"]
