"""Which columns of a source become which fields of a record, and what cannot be read."""

import json

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import FIELDS
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import Source
from raymill.pipelines.prepare.records.conversion import Records
from raymill.pipelines.prepare.sources import Fields, fields_of
from raymill.pipelines.prepare.stages.collect import _roles
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records
from tests.support.sampled import sampled
from tests.support.tickets import answer, question


@pytest.mark.parametrize(
    ("rows", "shape", "column"),
    [
        ([{"instruction": question(1), "input": "a list", "output": answer(1)}], "instruction", "input"),
        ([{"prompt": question(1), "chosen": answer(1), "rejected": answer(2)}], "preference", "rejected"),
        ([{"question": question(1), "answer": answer(1)}], "pairs", "completion"),
        ([{"text": answer(1)}], "text", "text"),
        ([{"conversations": [{"from": "human", "value": question(1)}, {"from": "gpt", "value": answer(1)}]}],
         "messages", "messages"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", sampled(["jsonl", "parquet"], 1))
def test_usual_columns_are_recognised(tmp_path, monkeypatch, rows, shape, column, ending):
    if ending == "jsonl":
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    plain = {
        "inputs": [{"path": str(tmp_path / f"in.{ending}")}],
        "output": str(tmp_path / "out"),
        "records": {"shape": shape},
    }
    (row,) = records(prepare_inline(plain, monkeypatch)).values()
    assert row[column] and (row["split"], len(row["id"])) == ("train", 32)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_values_inside_of_objects_are_named_by_column_and_field(tmp_path, monkeypatch, ending):
    """verl's prompts with references; a row whose reference is missing is in quarantine."""
    rows = [
        {"prompt": [{"role": "user", "content": question(n)}], "data_source": "sums",
         "reward_model": {"style": "rule", "ground_truth": truth}, "extra_info": {"split": "train", "index": n}}
        for n, truth in enumerate([answer(0), None, answer(2)])
    ]  # fmt: skip
    if ending == "jsonl":
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    source = {"path": str(tmp_path / f"in.{ending}")}
    named = {"prompt": "prompt", "completion": "reward_model.ground_truth", "number": "extra_info.index"}
    found = []
    for name, columns in (("by-name", {}), ("named", {"columns": named})):
        plain = {"inputs": [source | columns], "output": str(tmp_path / name), "records": {"shape": "pairs"}}
        plain["execution"] = {"max_bad_documents": 0.5}
        run = prepare_inline(plain, monkeypatch)
        found.append({row["completion"]: row for row in records(run).values()})
        (problem,) = Artifact.load(Store(), f"{run.uri}/quarantine").table()["problem"].to_pylist()
        assert problem == "empty"
    assert [sorted(one) for one in found] == [sorted([answer(0), answer(2)])] * 2
    assert found[1][answer(2)]["metadata"]["number"] == "2" and found[1][answer(2)]["prompt"] == question(2)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("first", [0, 1])
def test_messages_and_conversations_are_read_row_by_row(tmp_path, monkeypatch, ending, first):
    """Rows of both kinds in one file, and a file of one kind; whichever is recognised."""
    chats = [
        {
            "id": f"m{n}",
            "messages": [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer(n)}],
        }
        for n in range(3)
    ]
    shared = [
        {"id": f"s{n}", "conversations": [{"from": "human", "value": question(n)}, {"from": "gpt", "value": answer(n)}]}
        for n in range(3, 6)
    ]
    files = {"a": [*(chats, shared)[first][:1], *chats[1:], *shared[1:]], "b": (shared, chats)[first][:1]}
    for name, rows in files.items():
        if ending == "jsonl":
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(
                pa.Table.from_pylist(rows, None if name == "b" else _both(rows)), tmp_path / f"{name}.parquet"
            )
    plain = {"inputs": [{"path": str(tmp_path / f"*.{ending}"), "id": "id"}], "output": str(tmp_path / "out")}
    run = prepare_inline(plain, monkeypatch)
    assert run.report["totals"]["quarantined"] == 0
    asked = {id: [one["content"] for one in row["messages"]] for id, row in records(run).items()}
    assert asked == {f"{'ms'[n > 2]}{n}": [question(n), answer(n)] for n in range(6)}


def _both(rows: list[dict]) -> pa.Schema:
    """The schema of rows with `messages` and rows with `conversations`."""
    return pa.unify_schemas([pa.Table.from_pylist([row]).schema for row in rows])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer\nHow?,So.\n".encode("utf-16"), "the file is UTF-16, and UTF-8 is wanted"),
        ("a.csv", "fr\xe5ga,svar\nn\xe4r,d\xe5\nhur,s\xe5\n".encode("latin-1"), "an encoding of one byte a character"),
        ("a.jsonl", b'[\n {\n "question": "How?"\n }\n]', "is one JSON array; write one object a line"),
        ("a.jsonl", b"\n\n", "no record can be read at its beginning"),
    ],
)
def test_a_file_whose_columns_cannot_be_read_is_named_with_its_problem(tmp_path, monkeypatch, name, content, message):
    (tmp_path / name).write_bytes(content)
    plain = {"inputs": [{"path": str(tmp_path / name)}], "output": str(tmp_path / "out")}
    with pytest.raises(DataError, match=rf"inputs\[0\] \(input\): .*{name}: .*{message}"):
        prepare_inline(plain, monkeypatch)
    ending = name.partition(".")[2]
    rows = {"csv": f'question,answer\n{question(1)},"{answer(1)}"\n',
            "jsonl": json.dumps({"question": question(1), "answer": answer(1)})}  # fmt: skip
    (tmp_path / f"b.{ending}").write_text(rows[ending])
    more = {"inputs": [{"path": str(tmp_path / f"*.{ending}")}], "execution": {"max_bad_documents": 1}}
    assert len(records(prepare_inline(plain | more, monkeypatch))) == 1, "another file has the columns"


def test_columns_may_have_the_names_of_columns_of_tables(tmp_path, monkeypatch):
    rows = [{"id": f"r{n}", "text": answer(n), "ask": question(n), "where": "here"} for n in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "ask", "completion": "text", "ticket": "id"}
    source = {"path": str(tmp_path / "in.jsonl"), "id": "id", "columns": columns}
    found = records(prepare_inline({"inputs": [source], "output": str(tmp_path / "out")}, monkeypatch))
    assert {id: row["metadata"]["ticket"] for id, row in found.items()} == {f"r{n}": f"r{n}" for n in range(3)}
    assert found["r1"]["messages"][1]["content"] == answer(1)
    table = {
        "types": {"ask": "text", "text": "text", "id": "text"},
        "template": {"prompt": "{id}: {ask}", "completion": "{text}"},
    }
    of_table = {"inputs": [source | {"columns": {}, "table": table}], "output": str(tmp_path / "table")}
    found = records(prepare_inline(of_table, monkeypatch))
    assert found["r1"]["messages"][0]["content"] == f"r1: {question(1)}"
    for more, message in (
        ({"columns": columns | {"place": "where"}}, r"columns\.place: a column where cannot be read .* Rename it"),
        ({"id": None}, r"columns\.ticket: a column id cannot be read .* Add `id: id`"),
        ({"columns": {}, "table": table, "id": None}, r"table\.types\.id: a column id cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_inline({"inputs": [source | more], "output": str(tmp_path / "no")}, monkeypatch)


def test_another_separator_than_the_delimiter_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(f"question;answer\n{question(1)};{answer(1)}\n")
    source = {"path": str(tmp_path / "a.csv")}
    with pytest.raises(ConfigError, match=r"seem to be separated by ';'. Set `delimiter: \";\"`"):
        prepare_inline({"inputs": [source], "output": str(tmp_path / "out")}, monkeypatch)
    run = prepare_inline({"inputs": [source | {"delimiter": ";"}], "output": str(tmp_path / "out")}, monkeypatch)
    assert len(records(run)) == 1


def test_speakers_that_the_metadata_names_go_before_those_of_the_config():
    roles = {"{asker}": "user", "{agent}": "assistant", "*": "skip", "7": "skip"}
    assert _roles(roles, {"asker": "7", "agent": None}) == {"*": "skip", "7": "user"}
    assert _roles(roles, {}) == {"*": "skip", "7": "skip"}


@pytest.mark.parametrize(
    ("columns", "given", "found"),
    [
        (["prompt", "completion", "system"], {}, {"prompt": "prompt", "completion": "completion", "system": "system"}),
        (["prompt", "completion"], {}, {"prompt": "prompt", "completion": "completion"}),
        (["instruction", "output", "input", "system"], {},
         {"prompt": "instruction", "completion": "output", "input": "input", "system": "system"}),
        (["prompt", "chosen", "rejected", "system"], {"day": "at"},
         {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system", "day": "at"}),
        (["question", "answer", "text", "system"], {}, {"prompt": "question", "completion": "answer"}),
        (["q", "a"], {"prompt": "q", "input": "x", "completion": "a", "system": "s"},
         {"prompt": "q", "input": "x", "completion": "a", "system": "s"}),
    ],
)  # fmt: skip
def test_columns_are_recognised_by_their_usual_names(tmp_path, columns, given, found):
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys([*columns, *given.values()], "x")) + "\n")
    source = Source(path=str(tmp_path / "a.jsonl"), columns=given)
    (fields,) = fields_of([source], Store(), str(tmp_path / "out"), Records())
    assert fields.columns == found and fields.main == next(found[one] for one in FIELDS if one in found and one not in (
        "input", "system"))  # fmt: skip


def test_sources_that_cannot_be_read_are_named_with_their_number(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    good = {"path": str(tmp_path / "good.jsonl")}
    (tmp_path / "good.jsonl").write_text('{"text": "x"}\n')
    for path, message in (
        ("no.jsonl", r"inputs\[1\] \(b\): .*no\.jsonl"),
        ("empty.jsonl", r"inputs\[1\] \(b\): .*empty"),
    ):
        sources = [Source(**good), Source(source="b", path=str(tmp_path / path))]
        with pytest.raises((ConfigError, DataError), match=message):
            fields_of(sources, Store(), str(tmp_path / "out"), Records())


def test_values_of_any_column_are_texts():
    table = pa.table({
        "text": ["a"], "n": pa.array([1.5]), "b": pa.array([b"by\xc3\xa4"]), "l": pa.array([["\u00e4", None]]),
        "t": pa.array([True]), "none": pa.nulls(1),
    })  # fmt: skip
    fields = Fields({"x": "main", **{name: name for name in ("n", "b", "l", "t", "none")}}, "main")
    assert fields.of(table) == {
        "x": ["a"],
        "n": ["1.5"],
        "b": ["by\u00e4"],
        "l": ['["\u00e4",null]'],
        "t": ["true"],
        "none": [None],
    }


def test_a_stated_shape_decides_which_of_several_contents_is_read(tmp_path):
    """As data sets of preferences have them: the chosen conversation once more as `messages`."""
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    row = {
        "prompt": "Why?",
        "chosen": chat,
        "rejected": chat,
        "messages": chat,
        "completion": "So.",
        "text": "Why? So.",
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    source = Source(path=str(tmp_path / "a.jsonl"))
    wanted = {
        "preference": {"prompt", "chosen", "rejected"}, "preference_messages": {"prompt", "chosen", "rejected"},
        "messages": {"messages"}, "pairs": {"prompt", "completion"}, "text": {"text"},
    }  # fmt: skip
    for shape, fields in wanted.items():
        (found,) = fields_of([source], Store(), str(tmp_path / "out"), Records(shape=shape))
        assert set(found.columns) == fields, shape


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({}, ["good", "none"]),
        ({"prompt": "prompt", "completion": "completion", "desirable": "label"}, ["good", "none"]),
        ({"prompt": "prompt", "completion": "completion", "label": "label"}, ["bad", "good", "none"]),
    ],
)
@pytest.mark.parametrize("ending", sampled(["jsonl", "parquet"], 1, seed=1))
def test_undesirable_answers_are_quarantined_unless_the_label_is_metadata(tmp_path, monkeypatch, columns, kept, ending):
    labels = {"good": True, "bad": False, "none": None}
    rows = [
        {"id": name, "prompt": f"How is the {name} machine started?", "completion": f"Press {name}.", "label": label}
        for name, label in labels.items()
    ]
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    config = {
        "inputs": [{"path": str(path), "id": "id", "columns": columns}],
        "output": str(tmp_path / "out"),
        "validate": {"answer_chars": [1, 100]},
        "dedup": None,
        "execution": {"max_bad_documents": 1.0},
    }
    run = prepare_inline(config, monkeypatch)
    assert sorted(row["id"] for split in SPLITS for row in run.split(split).table().to_pylist()) == kept
    problems = Artifact.load(Store(), f"{run.uri}/quarantine").table()["problem"].to_pylist()
    assert problems == ["undesirable"] * (3 - len(kept))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"promt": "subject", "completion": "resolution"}, ["columns.promt: no field of the content", "mean prompt?"]),
        ({"promt": "subject", "completon": "resolution"}, ["Did you mean prompt?", "Did you mean completion?"]),
        ({"prompt": "subjct", "completion": "resolution"}, ["no column subjct (columns.prompt)", "mean subject"]),
        ({"prompt": "subject", "completion": "resolutoin"},
         ["no column resolutoin (columns.completion)", "`columns.completion`"]),
    ],
)  # fmt: skip
def test_misspelt_fields_and_columns_are_named_with_the_nearest_that_is_free(
    tmp_path, monkeypatch, columns, said, ending
):
    row = {"subject": question(1), "subj": "x", "resolutions": answer(1), "resolution": "y"}
    if columns["completion" if "completion" in columns else "completon"] == "resolutoin":
        row = {"subject": question(1), "answered": answer(1)}
    if ending == "csv":
        pacsv.write_csv(pa.Table.from_pylist([row]), tmp_path / "in.csv")
    else:
        (tmp_path / "in.jsonl").write_text(json.dumps(row))
    inputs = [{"path": str(tmp_path / f"in.{ending}"), "columns": columns}]
    with pytest.raises((ConfigError, DataError)) as caught:
        prepare_inline({"inputs": inputs, "output": str(tmp_path / "out")}, monkeypatch)
    assert all(one in str(caught.value) for one in said), str(caught.value)


def test_a_column_that_another_field_names_is_no_hint(tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(json.dumps({"answer": question(1), "reply": answer(1)}))
    columns = {"prompt": "answer", "completion": "answr"}
    inputs = [{"path": str(tmp_path / "in.jsonl"), "columns": columns}]
    with pytest.raises(
        ConfigError, match=r"no column answr \(columns\.completion\).* Set `columns\.completion` to one"
    ):
        prepare_inline({"inputs": inputs, "output": str(tmp_path / "out")}, monkeypatch)
