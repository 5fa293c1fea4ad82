"""Corpora as files, columns and units; rows as documents; documents in splits."""

import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import MANIFEST
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Columns, Corpus, Split
from raymill.training.pack.corpus import freeze_corpus, with_columns
from raymill.training.pack.documents import Chat, LeftOut, Pair, all_documents, check_corpora, documents_of
from raymill.training.pack.split import MAX_RANKED, choose_cuts, survey_here
from raymill.training.pack.template import CHATML
from tests.support.pack_surveys import classes_of, survey
from tests.support.stages import run_inline
from tests.support.tiny_tokenizers import encoder_of, shown, tiny

TEXT = Columns(text="text")


def freeze(path, columns=TEXT, unit_bytes=1 << 20):
    return freeze_corpus(Store(), Corpus(path=str(path)), columns, unit_bytes)


def texts(frozen):
    return [document.content for document in all_documents(frozen)]


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, table, **how):
    pq.write_table(pa.table(table), path, **how)
    return path


# --- files


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    rows = [{"id": f"d{n}", "text": f"text {n} é\n"} for n in range(5)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    match name.rpartition(".")[2]:
        case "parquet":
            parquet(tmp_path / name, {key: [row[key] for row in rows] for key in ("id", "text")})
        case "gz":
            half = len(data) // 2
            (tmp_path / name).write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
        case "zst":
            (tmp_path / name).write_bytes(zstandard.compress(data[:20]) + zstandard.compress(data[20:]))
        case _:
            (tmp_path / name).write_bytes(data)
    found = list(all_documents(freeze(tmp_path)))
    assert [(document.id, document.content) for document in found] == [(row["id"], row["text"]) for row in rows]


@pytest.mark.parametrize("unit_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("groups", [1, 3])
def test_every_document_is_in_one_unit_however_large_units_are(tmp_path, unit_bytes, groups):
    wanted = [f"text {n} " * (n % 5 + 1) for n in range(30)]
    jsonl(tmp_path / "a.jsonl", *({"text": text} for text in wanted[:10]))
    parquet(tmp_path / "b.parquet", {"text": wanted[10:]}, row_group_size=20 // groups)
    frozen = freeze(tmp_path, unit_bytes=unit_bytes)
    assert texts(frozen) == wanted
    assert (len(frozen.units) == 1) == (unit_bytes == 1 << 20)
    assert frozen.fingerprint == freeze(tmp_path).fingerprint


def test_a_large_row_group_is_cut_so_that_no_unit_holds_it_whole(tmp_path):
    parquet(tmp_path / "a.parquet", {"text": [f"{n:0100}" for n in range(100)]})
    frozen = freeze(tmp_path, unit_bytes=1000)
    sizes = [len(list(documents_of(frozen.reading, unit, LeftOut()))) for unit in frozen.units]
    assert sum(sizes) == 100
    assert max(sizes) <= 10


def test_an_artifact_is_read_by_its_manifest_and_never_by_listing(tmp_path):
    finished(tmp_path, {"text": ["one"]})
    (tmp_path / "corpus" / "left-by-a-killed-attempt.parquet").write_bytes(b"not finished")
    assert texts(freeze(tmp_path / "corpus")) == ["one"]


def test_a_curated_corpus_is_known_by_its_digest_and_split_by_its_groups(tmp_path):
    made = finished(
        tmp_path, {"id": ["a", "b"], "text": ["one", "two"], "group_id": ["g", "g"], "language": ["en"] * 2}
    )
    frozen = freeze(tmp_path / "corpus")
    assert frozen.fingerprint == made.manifest.digest
    assert (frozen.columns.named["id"], frozen.columns.named["group"]) == ("id", "group_id")
    assert len({document.key for document in all_documents(frozen)}) == 1


def test_an_unfinished_artifact_and_a_whole_run_are_refused_with_the_fix(tmp_path):
    finished(tmp_path / "run", {"text": ["one"]})
    with pytest.raises(DataError, match=r"its corpus is one folder below. Write corpus: .*run/corpus"):
        freeze(tmp_path / "run")
    (tmp_path / "run" / "corpus" / MANIFEST).unlink()
    with pytest.raises(DataError, match="no finished artifact"):
        freeze(tmp_path / "run" / "corpus")


def test_a_folder_without_documents_says_what_is_in_it(tmp_path):
    (tmp_path / "notes.xls").write_text("hello")
    with pytest.raises(DataError, match=r"none of the files there can be read \(1 .xls\). Known endings: .parquet"):
        freeze(tmp_path)


# --- formats of `curate` and `prepare`


def test_of_a_folder_records_are_read_before_documents_and_a_stated_format_before_both(tmp_path):
    (tmp_path / "README.md").write_text("About the data.")
    assert texts(freeze(tmp_path)) == ["About the data."]
    (tmp_path / "a.csv").write_text("text,id\none,1\n")
    (tmp_path / "a.tsv").write_text("text\tid\ntwo\t2\n")
    assert texts(freeze(tmp_path)) == ["one", "two"]
    assert "1 file is skipped (1 .md)" in freeze(tmp_path).note
    (tmp_path / "a.json").write_text('[{"text": "three"}]')
    assert texts(freeze(tmp_path)) == ["three"]
    jsonl(tmp_path / "a.jsonl", {"text": "four"})
    assert texts(freeze(tmp_path)) == ["four"]
    stated = Corpus(path=str(tmp_path), format="markdown", exclude=("draft*",))
    assert texts(freeze_corpus(Store(), stated, TEXT, 1 << 20)) == ["About the data."]


def test_tables_of_text_have_columns_groups_and_folds_like_others(tmp_path):
    (tmp_path / "a.csv").write_text("q;a;group_id;fold\nHi;Yo;g;0\nHo;Ya;g;1\nHe;Ye;h;x\nHu;Yu;h;" + 5000 * "9" + "\n")
    corpus = Corpus(path=str(tmp_path), delimiter=";")
    columns = Columns(prompt="q", completion="a", fold="fold")
    left_out = LeftOut()
    found = list(all_documents(freeze_corpus(Store(), corpus, columns, 1 << 20), left_out))
    assert [(one.content, one.fold) for one in found] == [(Pair("Hi", "Yo"), 0), (Pair("Ho", "Ya"), 1)]
    assert len({one.key for one in found}) == 1 and left_out.reasons == {"bad_fold": 2}
    with pytest.raises(ConfigError, match=r"no column x \(columns.completion\). It has: q, a, group_id, fold"):
        freeze_corpus(Store(), corpus, Columns(prompt="q", completion="x"), 1 << 20)


def test_a_text_in_another_encoding_is_read_as_the_corpus_states(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "Stra\xdfe"}\n'.encode("latin-1"))
    frozen = freeze_corpus(Store(), Corpus(path=str(tmp_path), encoding="latin-1"), TEXT, 1 << 20)
    check_corpora({"a": frozen})
    assert texts(frozen) == ["Stra\xdfe"]
    assert frozen.fingerprint != freeze(tmp_path).fingerprint


def test_mails_are_conversations_and_transcripts_and_pages_are_texts(tmp_path):
    (tmp_path / "m").mkdir()
    mail = "From: {}@x\nSubject: S\nMessage-ID: <{}>\n{}Date: Mon, 1 Jan 2024 0{}:00:00 +0000\n\n{}\n"
    answer = mail.format("b", 2, "In-Reply-To: <1>\n", 2, "Tomorrow.")
    (tmp_path / "m" / "a.mbox").write_text(f"From a\n{mail.format('a', 1, '', 1, 'When is it?')}\nFrom b\n{answer}")
    (columns,) = recognised(tmp_path / "m")
    assert columns.messages == "messages"
    (chat,) = texts(freeze(tmp_path / "m", columns))
    assert [(one["role"], one["content"]) for one in chat.messages] == [
        ("user", "When is it?"), ("assistant", "Tomorrow."),
    ]  # fmt: skip
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nHello there.\n")
    (tmp_path / "b.html").write_text(f"<html><body><article><p>{'A long page. ' * 30}</p></article></body></html>")
    assert recognised(tmp_path) == (TEXT,)
    assert [text.split()[0] for text in texts(freeze(tmp_path))] == ["Hello", "A", "S"]


def test_a_glob_and_a_file_are_corpora_too(tmp_path):
    for name in "abc":
        jsonl(tmp_path / f"{name}.jsonl", {"text": name})
    assert texts(freeze(tmp_path / "[ab].jsonl")) == ["a", "b"]
    assert texts(freeze(tmp_path / "c.jsonl")) == ["c"]


def test_a_file_that_changes_during_the_run_is_noticed(tmp_path):
    frozen = freeze(jsonl(tmp_path / "a.jsonl", {"text": "one"}))
    jsonl(tmp_path / "a.jsonl", {"text": "another"})
    with pytest.raises(DataError, match="changed since this run began"):
        texts(frozen)


def test_a_truncated_parquet_file_is_named(tmp_path):
    whole = parquet(tmp_path / "a.parquet", {"text": ["one"]}).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        freeze(tmp_path)


# --- columns


def test_a_column_that_is_not_there_is_an_error_with_those_that_are(tmp_path):
    parquet(tmp_path / "a.parquet", {"txt": ["one"], "url": ["u"]})
    with pytest.raises(ConfigError, match=r"no column text .*It has: txt, url. Did you mean txt\?"):
        freeze(tmp_path)
    (tmp_path / "a.parquet").unlink()
    jsonl(tmp_path / "a.jsonl", {"txt": "one"})
    with pytest.raises(ConfigError, match=r"It has: txt. Did you mean txt\?"):
        freeze(tmp_path)


def test_a_column_of_the_wrong_type_is_an_error_with_those_that_would_do(tmp_path):
    parquet(tmp_path / "a.parquet", {"text": [1], "body": ["one"]})
    with pytest.raises(ConfigError, match=r"column text .* is int64; wanted strings. Columns of strings: body"):
        freeze(tmp_path)


# --- rows


def test_rows_that_are_no_documents_are_left_out_by_reason_and_never_crash(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b"[1]",
        b'{"text": null}',
        b'{"other": 1}',
        b'{"text": 5}',
        b'{"text": "  "}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"",
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    frozen, left_out = freeze(tmp_path), LeftOut()
    found = [document for unit in frozen.units for document in documents_of(frozen.reading, unit, left_out)]
    assert [document.content for document in found] == ["good", "last"]
    assert left_out.reasons == {
        "broken_json": 2,
        "not_an_object": 1,
        "null": 1,
        "missing": 1,
        "not_a_string": 1,
        "empty": 1,
        "bad_utf8": 1,
        "not_unicode": 1,
    }


def test_what_came_before_a_defect_of_compression_is_kept(tmp_path):
    data = "".join(json.dumps({"text": f"{n} {n * n}"}) + "\n" for n in range(5000)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data)[:-2000])
    frozen, left_out = freeze(tmp_path), LeftOut()
    found = list(documents_of(frozen.reading, frozen.units[0], left_out))
    assert 100 < len(found) < 5000
    assert left_out.reasons == {"truncated": 1}


def test_a_corpus_of_nothing_but_bad_rows_is_an_error_that_shows_them(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": 1}, {"text": None})
    with pytest.raises(
        DataError, match=r"(?s)1 not_a_string, the first at .*a.jsonl byte 0: column text is 1\n  1 null, the first"
    ):
        texts(freeze(tmp_path))


def test_pairs_and_conversations_of_both_formats(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    rows = [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        [{"role": "assistant", "content": "yo"}],
    ]
    jsonl(tmp_path / "a.jsonl", *({"messages": row, "prompt": "p", "completion": "c"} for row in rows))
    parquet(tmp_path / "b.parquet", {"messages": rows, "prompt": ["p"] * 2, "completion": ["c"] * 2})
    parquet(tmp_path / "c.parquet", {"messages": [json.dumps(row) for row in rows]})
    for name in "abc":
        (path,) = tmp_path.glob(f"{name}.*")
        assert texts(freeze(path, Columns(messages="messages"))) == [Chat(row) for row in rows]
    assert (
        texts(freeze(tmp_path / "b.parquet", Columns(prompt="prompt", completion="completion"))) == [Pair("p", "c")] * 2
    )


SHAREGPT = [
    {"from": "system", "value": "be quick"},
    {"from": "human", "value": "hi"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
    {"from": "observation", "value": "2"},
    {"from": "gpt", "value": "yo", "weight": 1},
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_conversations_of_sharegpt_are_recognised_and_mapped(tmp_path, ending):
    if ending == "jsonl":
        jsonl(tmp_path / "a.jsonl", {"conversations": SHAREGPT})
    else:
        parquet(tmp_path / "a.parquet", {"conversations": [SHAREGPT]})
    (columns,) = recognised(tmp_path)
    assert columns == Columns(messages="conversations")
    (chat,) = texts(freeze(tmp_path, columns))
    function = {"name": "add", "arguments": {"a": 1}}
    assert chat.messages == [
        {"role": "system", "content": "be quick"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "yo", "weight": 1},
    ]


def test_conversations_named_as_text_are_refused_with_the_setting(tmp_path):
    parquet(tmp_path / "a.parquet", {"conversations": [SHAREGPT]})
    with pytest.raises(ConfigError, match=r"`columns: \{messages: conversations\}`"):
        freeze(tmp_path, Columns(text="conversations"))


def recognised(*paths):
    settings = {"kind": "train", "name": "t", "model": "m", "steps": 1, "output": "o"}
    corpora = [str(path) for path in paths]
    return with_columns(TrainConfig.model_validate(settings | {"corpus": corpora})).all_columns


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ("id text messages", {"messages": "messages"}),
        ("messages functions", {"messages": "messages", "tools": "functions"}),
        ("messages tools", {"messages": "messages", "tools": "tools"}),
        ("conversations source", {"messages": "conversations"}),
        ("prompt completion", {"prompt": "prompt", "completion": "completion"}),
        ("instruction input output", {"prompt": "instruction", "input": "input", "completion": "output"}),
        ("instruction output system", {"prompt": "instruction", "system": "system", "completion": "output"}),
        ("instruction input output text", {"prompt": "instruction", "input": "input", "completion": "output"}),
        ("instruction input", {"text": "text"}),
    ],
)
def test_columns_that_are_not_given_are_recognised_by_their_names(tmp_path, names, columns):
    jsonl(tmp_path / "a.jsonl", dict.fromkeys(names.split(), "x"))
    parquet(tmp_path / "a.parquet", {name: ["x"] for name in names.split()})
    assert recognised(tmp_path / "a.jsonl", tmp_path / "a.parquet") == (Columns(**columns),) * 2


def test_columns_that_are_given_are_taken_as_they_are():
    settings = {"kind": "train", "name": "t", "model": "m", "steps": 1, "output": "o", "corpus": "nowhere"}
    given_columns = TrainConfig.model_validate(settings | {"columns": {"text": "body"}})
    assert with_columns(given_columns).all_columns == (Columns(text="body"),)


def test_alpacas_input_follows_its_instruction_and_a_system_prompt_is_the_rows_or_the_configs(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."},
        {"instruction": "Sing.", "input": " ", "output": "La.", "system": ""},
        {"instruction": "Hum.", "input": None, "output": "Mm."},
    ]
    columns = {"prompt": "instruction", "input": "input", "completion": "output", "system": "system"}
    jsonl(tmp_path / "a.jsonl", *rows)
    frozen = freeze(tmp_path, Columns(**columns, system_prompt="You help."))
    assert texts(frozen) == [
        Pair("Add.\n\n1 2", "3", "Be brief."), Pair("Sing.", "La.", "You help."), Pair("Hum.", "Mm.", "You help."),
    ]  # fmt: skip


QUESTION, GOOD, BAD = ({"role": role, "content": text} for role, text in
                       (("user", "Q"), ("assistant", "good"), ("assistant", "bad")))  # fmt: skip


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, [QUESTION, GOOD]),
        ({"prompt": "Q", "chosen": [GOOD], "rejected": [BAD]}, [QUESTION, GOOD]),
        ({"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]}, [QUESTION, GOOD]),
        ({"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}, [QUESTION, GOOD]),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"}, [QUESTION, GOOD]),
        ({"prompt": "Q", "chosen": "good", "rejected": " "}, "empty"),
        ({"prompt": "Q", "chosen": None, "rejected": "bad"}, "empty"),
    ],
)  # fmt: skip
def test_of_preferences_in_the_forms_of_prepare_the_chosen_answer_is_trained_on(tmp_path, row, wanted):
    columns = Columns(**{name: name for name in row})
    assert columns.form == "chat"
    jsonl(tmp_path / "a.jsonl", row)
    parquet(tmp_path / "b.parquet", {name: [value] for name, value in row.items()})
    for file in ("a.jsonl", "b.parquet"):
        left_out = LeftOut()
        frozen = freeze(tmp_path / file, columns)
        found = list(documents_of(frozen.reading, frozen.units[0], left_out))
        if isinstance(wanted, str):
            assert left_out.reasons[wanted] >= 1
        else:
            assert found[0].content == Chat(wanted)


def test_preferences_whose_columns_are_not_named_are_refused_with_what_to_name(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"prompt": "Q", "chosen": "good", "rejected": "bad"})
    with pytest.raises(ConfigError, match=r"columns: \{prompt: prompt, chosen: chosen, rejected: rejected\}"):
        freeze(tmp_path, *recognised(tmp_path))


def test_columns_are_recorded_as_before_there_were_preferences():
    assert "chosen" not in TEXT.model_dump() and "rejected" not in TEXT.model_dump(mode="json")
    assert Columns(chosen="c", rejected="r").model_dump(exclude_none=True) == {"chosen": "c", "rejected": "r"}


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "assistant", "content": " \n"}, "empty_completion"),
        ({"role": "assistant"}, "empty_completion"),
        ({"role": "assistant", "content": [{"type": "text", "text": ""}]}, "empty_completion"),
        ({"from": "gpt", "value": ""}, "empty_completion"),
        ({"from": "function_call", "value": "add 1"}, "bad_messages"),
        ({"from": "function_call", "value": "[1]"}, "bad_messages"),
        ({"from": "gpt", "value": 7}, "bad_messages"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}, None),
        ({"role": "assistant", "content": "", "reasoning_content": "hm"}, None),
        ({"role": "assistant", "content": [{"type": "image"}]}, "content_not_text"),
    ],
)
def test_a_conversation_whose_assistant_says_nothing_is_refused_like_an_empty_completion(tmp_path, turn, reason):
    asked = {"role": "user", "content": "hi"}
    jsonl(tmp_path / "a.jsonl", {"messages": [asked, turn]})
    left_out = LeftOut()
    frozen = freeze(tmp_path, Columns(messages="messages"))
    found = list(documents_of(frozen.reading, frozen.units[0], left_out))
    assert (len(found), dict(left_out.reasons)) == ((0, {reason: 1}) if reason else (1, {}))


PART, LINK = {"type": "text", "text": "hi "}, {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([PART, {"type": "text", "text": "you"}], "hi you"),
        ([PART, "you"], "hi you"),
        ([{"type": "input_text", "text": "hi"}, {"text": " you"}], "hi you"),
        ([], ""),
        ([PART, LINK], "a part of type image_url, and only text can be trained on"),
        ([{"type": "text", "text": {"value": "hi"}}], "hi"),
        ([["hi"]], "a part of type list, and only text can be trained on"),
        ({"type": "text", "text": "hi"}, "its content is neither text nor a list of parts"),
        (5, "its content is neither text nor a list of parts"),
    ],
)
def test_parts_of_text_are_joined_and_other_parts_are_refused_by_name(tmp_path, parts, wanted):
    jsonl(
        tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}
    )
    left_out = LeftOut()
    frozen = freeze(tmp_path, Columns(messages="messages"))
    found = list(documents_of(frozen.reading, frozen.units[0], left_out))
    if found:
        assert found[0].content.messages[0] == {"role": "user", "content": wanted}
    else:
        ((reason, (_, seen)),) = left_out.first.items()
        assert reason == ("content_not_text" if "only text" in wanted else "bad_messages") and seen.startswith(wanted)


def test_parts_of_a_parquet_column_are_joined_though_each_has_the_keys_of_all(tmp_path):
    messages = [{"role": "user", "content": [PART, {"type": "text", "text": "you"}]},
                {"role": "assistant", "content": [PART]}]  # fmt: skip
    other = [{"role": "user", "content": [LINK]}, {"role": "assistant", "content": [PART]}]
    parquet(tmp_path / "a.parquet", {"messages": [messages, other]})
    frozen, left_out = freeze(tmp_path, Columns(messages="messages")), LeftOut()
    (found,) = documents_of(frozen.reading, frozen.units[0], left_out)
    assert [message["content"] for message in found.content.messages] == ["hi you", "hi "]
    assert dict(left_out.reasons) == {"content_not_text": 1}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", json.dumps([{"text": "one"}] * 3).encode(), "1 json_array, the first at .*a.jsonl byte 0.*jq -c"),
        ("a.jsonl", json.dumps([{"text": "one"}] * 3, indent=1).encode(), "1 json_array, .*jq -c"),
        ("a.jsonl", b"1\n2\n", "2 not_an_object, .*Write each line or element as an object"),
        ("a.jsonl.gz", b'{"text": "one"}\n', "1 not_compressed, .*a.jsonl.gz after line 0.*not what its ending states"),
        ("a.jsonl", '{"text": "één"}'.encode("latin-1"), "1 bad_utf8, .*Write the file as UTF-8.*iconv"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_to_do_about_it(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"(?s)no row can be used.*{told}") as refused:
        next(all_documents(freeze(tmp_path)))
    assert "Check `columns`" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere", "nowhere: the folder does not exist. The nearest folder, .*, holds empty/, other/."),
        ("empty", "empty: the folder is empty. Check the path."),
        ("*.parquet", r"no file matches"),
        ("other", r"other: none of the files there can be read .*1 .json.*For a JSON array, .*`format: json`"),
    ],
)
def test_a_path_without_documents_is_refused_with_what_is_there(tmp_path, path, told):
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    for name in ("a.xls", "b.json"):
        (tmp_path / "other" / name).write_text("text")
    with pytest.raises(DataError, match=told):
        freeze(tmp_path / path)


ARRAY = [{"text": "one"}, {"text": "two", "id": 7}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ARRAY)),
        ("a.json", json.dumps(ARRAY, indent=2)),
        ("a.json", "\ufeff\n" + json.dumps(ARRAY)),
        ("a.json", "".join(json.dumps(row) + "\n" for row in ARRAY)),
        ("a.json", "\n".join(json.dumps(row, indent=2) for row in ARRAY)),
        ("A.JSON.GZ", json.dumps(ARRAY)),
    ],
)
def test_a_json_file_is_one_array_or_objects_one_after_the_other(tmp_path, name, content):
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
    assert texts(freeze(tmp_path / name)) == ["one", "two"]
    assert [one.id for one in all_documents(freeze(tmp_path / name))][1] == "7"


def test_arrays_that_were_concatenated_are_read_as_one(tmp_path):
    (tmp_path / "a.json").write_text("\n".join([json.dumps(ARRAY), json.dumps([{"text": "three"}])]))
    assert texts(freeze(tmp_path / "a.json")) == ["one", "two", "three"]


def test_elements_of_an_array_that_are_no_documents_are_left_out_by_their_number(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"text": "one"}, 5, {"text": "x\xff"}, {"text": null}, {"text": "two"}]')
    left_out = LeftOut()
    found = [one.content for one in all_documents(freeze(tmp_path / "a.json"), left_out)]
    assert found == ["one", "two"]
    places = {reason: where.rpartition("/")[2] for reason, (where, _) in left_out.first.items()}
    assert places == {"not_an_object": "a.json value 2", "bad_utf8": "a.json value 3", "null": "a.json value 4"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"text": "one"}, {"text": tow}, {"text": "three"}]', "element 1, .*tow.*, is not JSON.*.jsonl"),
        (
            b'[{"text": "one"}, {"text": "two\ttabs"}]',
            r"element 1, .* is not JSON \(Invalid control character at after .*two'\)",
        ),
        (b'[{"n": ' + b"9" * 5_000 + b"}]", r"element 0, .*\(Exceeds the limit \(4300 digits\)"),
        (b'[{"text": "one"}, {"text": "two"}', "element 2 is missing: the file ends within"),
        (json.dumps(ARRAY).encode("utf-16"), "the file is UTF-16.*iconv"),
        (
            gzip.compress(json.dumps(ARRAY).encode(), mtime=0),
            "compressed with gzip, zstd, bzip2 or lz4 and its name lacks",
        ),
        (b'{"version": 2, "data": [{"text": "one"}]}', "no column text .*It has: version, data.*jq .data FILE"),
    ],
)
def test_a_json_file_that_cannot_be_read_to_its_end_is_refused(tmp_path, content, told):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=f"a.json: .*{told}"):
        list(all_documents(freeze(tmp_path / "a.json")))


def test_of_a_folder_only_arrays_of_objects_are_read_and_only_without_other_documents(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ARRAY))
    (tmp_path / "config.json").write_text(json.dumps({"text": "settings"}))
    (tmp_path / "labels.json").write_text(json.dumps(["good", "bad"]))
    assert texts(freeze(tmp_path)) == ["one", "two"]
    assert freeze(tmp_path).skipped == {".json": 2}
    jsonl(tmp_path / "a.jsonl", {"text": "converted"})
    assert texts(freeze(tmp_path)) == ["converted"]
    assert "3 files are skipped (3 .json)" in freeze(tmp_path).note
    assert texts(freeze(tmp_path / "a*.json")) == ["one", "two"]


def test_ids_are_the_columns_or_of_the_content(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"id": 7, "text": "one"}, {"id": None, "text": "one"}, {"text": "one"})
    ids = [document.id for document in all_documents(freeze(tmp_path))]
    assert ids[0] == "7"
    assert ids[1] == ids[2]
    assert len(ids[1]) == 32


def test_classes_are_in_the_order_of_numbers_then_names(tmp_path):
    jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "label": label} for n, label in enumerate([10, 9, "b", "a", None])))
    frozen = freeze(tmp_path, Columns(text="text", label="label"))
    assert classes_of([frozen]) == ("9", "10", "a", "b")
    with pytest.raises(ConfigError, match="only one value"):
        classes_of(
            [freeze(jsonl(tmp_path / "b.jsonl", {"text": "t", "label": 1}), Columns(text="text", label="label"))]
        )


# --- splits

NAMES = ("train", "validation", "test")


def split_counts(frozen, split=None):
    split = split or Split()
    documents = list(all_documents(frozen))
    cuts = survey_here(frozen, split).cuts
    return documents, [NAMES[cuts.split_of(document.key, document.stratum)] for document in documents]


@pytest.mark.parametrize(
    ("documents", "counts"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (40, (32, 4, 4))]
)
def test_a_small_corpus_is_split_to_the_document_and_leaves_no_split_empty(documents, counts):
    found = survey((hash((n, "x")) % (1 << 64), "") for n in range(documents))
    cuts = choose_cuts(found, Split())
    counted = Counter(cuts.split_of(key, "") for key in found.strata[""])
    assert tuple(counted[index] for index in range(3)) == counts


def test_documents_of_a_group_and_equal_texts_are_never_apart(tmp_path):
    rows = [{"id": str(n), "text": f"text {n}", "group_id": f"g{n % 40}"} for n in range(400)]
    _, splits = split_counts(freeze(jsonl(tmp_path / "a.jsonl", *rows)))
    assert len({(row["group_id"], split) for row, split in zip(rows, splits, strict=True)}) == 40
    assert Counter(splits) == {"train": 320, "validation": 40, "test": 40}
    twins = [{"id": str(n), "text": f"text {n % 50}"} for n in range(100)]
    _, splits = split_counts(freeze(jsonl(tmp_path / "b.jsonl", *twins)))
    assert splits[:50] == splits[50:]


def test_every_stratum_has_the_shares_that_were_asked_for(tmp_path):
    rows = [{"text": f"{language} {n}", "language": language} for language, count in
            (("en", 500), ("de", 50), ("fi", 10)) for n in range(count)]  # fmt: skip
    frozen = freeze(jsonl(tmp_path / "a.jsonl", *rows), Columns(text="text", stratify="language"))
    documents, splits = split_counts(frozen)
    counted = Counter((document.stratum, split) for document, split in zip(documents, splits, strict=True))
    assert [counted["en", name] for name in NAMES] == [400, 50, 50]
    assert [counted["de", name] for name in NAMES] == [40, 5, 5]
    assert [counted["fi", name] for name in NAMES] == [8, 1, 1]


def test_many_tiny_strata_do_not_all_round_to_nothing():
    found = survey((hash((s, n)) % (1 << 64), f"s{s}") for s in range(50) for n in range(3))
    cuts = choose_cuts(found, Split())
    counted = Counter(cuts.split_of(key, name) for name, groups in found.strata.items() for key in groups)
    assert [counted[index] for index in range(3)] == [120, 15, 15]


def test_a_large_corpus_is_split_by_hash_alone():
    cuts = choose_cuts(survey(((n * 0x9E3779B97F4A7C15) % (1 << 64), "") for n in range(MAX_RANKED + 1)), Split())
    assert cuts.strata == {}
    assert [cuts.split_of(int(share * (1 << 64)), "") for share in (0.0, 0.79, 0.81, 0.89, 0.91)] == [0, 0, 1, 1, 2]


def test_too_many_strata_are_refused():
    with pytest.raises(ConfigError, match=r"columns.stratify: more than 1000 different values"):
        survey((n, str(n)) for n in range(2000))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.sampled_from("abc")), max_size=60),
    st.integers(0, 10),
    st.integers(0, 10),
    st.randoms(use_true_random=False),
)
def test_splits_hang_neither_on_order_nor_leave_one_out_that_was_asked_for(keyed, validation, test, random):
    split = Split(train=1 - (validation + test) / 30, validation=validation / 30, test=test / 30)
    cuts = choose_cuts(survey(keyed), split)
    shuffled = random.sample(keyed, len(keyed))
    assert cuts == choose_cuts(survey(shuffled), split)
    counted = Counter(cuts.split_of(key, stratum) for key, stratum in set(keyed))
    wanted = [index for index, share in enumerate((split.train, split.validation, split.test)) if share]
    assert set(counted) <= set(wanted)
    assert len(counted) == min(len(wanted), len(set(keyed)))


def finished(root, columns):
    """A finished artifact `corpus` in a run's folder."""
    table = pa.table(columns)

    def work(unit, scratch):
        scratch.write("corpus", table)
        return {}

    return run_inline(Stage("select", (Output("corpus", table.schema),), [0], work, "f" * 32, Store()), str(root))[
        "corpus"
    ]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_json_lines_that_end_too_early_lose_a_row_with_its_place_compressed_or_not(tmp_path, ending):
    whole = "".join(json.dumps({"text": f"Text {n} of the boats in the harbour."}) + "\n" for n in range(40)).encode()
    content = whole[:-20] if ending == "jsonl" else gzip.compress(whole)[:-20]
    (tmp_path / f"in.{ending}").write_bytes(content)
    frozen = freeze(tmp_path / f"in.{ending}")
    check_corpora({"corpus": frozen})
    left_out = LeftOut()
    assert len(list(all_documents(frozen, left_out))) in range(30, 40)
    ((reason, (where, _)),) = left_out.first.items()
    assert reason == ("broken_json" if ending == "jsonl" else "truncated")
    assert where.startswith(f"{tmp_path}/in.{ending} ")
    assert left_out.counters == {f"left_out/{reason}": 1, f"first_left_out/{reason}/{where}": 1}


def test_a_prompt_and_a_completion_that_are_messages_are_one_conversation(tmp_path):
    """As TRL has them; an answer in the prompt is not trained on."""
    user, one, more, two = (
        {"role": role, "content": text}
        for role, text in (("user", "hello"), ("assistant", "world"), ("user", "what is it"), ("assistant", "the dog"))
    )
    jsonl(
        tmp_path / "a.jsonl",
        {"prompt": [user, one, more], "completion": [two]},
        {"prompt": "hello", "completion": [one]},
        {"prompt": "hello", "completion": "world"},
        {"prompt": [user], "completion": [{"role": "assistant", "content": " "}]},
        {"prompt": [user], "completion": [{"role": "assistant", "content": 5}]},
    )
    frozen, left_out = freeze(tmp_path, Columns(prompt="prompt", completion="completion")), LeftOut()
    found = [document for unit in frozen.units for document in documents_of(frozen.reading, unit, left_out)]
    assert [one.content for one in found] == [
        Chat([user, {"weight": 0} | one, more, two]), Chat([user, one]), Pair("hello", "world"),
    ]  # fmt: skip
    assert sum(left_out.reasons.values()) == 2 and left_out.reasons["empty_completion"] == 1
    tokenizer = tiny(CHATML)
    first, second, third = encoder_of(tokenizer).encode(found).examples
    assert second.ids.tolist() == third.ids.tolist() and second.trained.tolist() == third.trained.tolist()
    trained = first.trained if first.weights is None else first.trained & (first.weights > 0)
    assert shown(tokenizer, first.ids, trained).count("[") == 1 and "[the dog" in shown(tokenizer, first.ids, trained)
    without = encoder_of(tiny()).encode(found)
    assert [one.reason for one in without.misfits] == ["no_chat_template"] * 2 and len(without.examples) == 1


@pytest.mark.parametrize("depth", [150, 600, 900])
@pytest.mark.parametrize("place", ["messages", "message", "tools", "chosen"])
def test_a_row_that_is_nested_too_deeply_is_left_out(tmp_path, depth, place):
    """Deep enough for Python's bound on calls in a later stage; another one has it at each depth."""
    deep = json.loads("[" * depth + "]" * depth)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    good = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [turns[1] | {"content": "c"}]}
    good = good if place == "chosen" else {"messages": turns}
    bad = {
        "messages": {"messages": deep},
        "message": {"messages": [turns[0], turns[1] | {"x": deep}]},
        "tools": {"messages": turns, "tools": deep},
        "chosen": good | {"chosen": deep},
    }[place]
    jsonl(tmp_path / "a.jsonl", good, bad, good)
    names = ("prompt", "chosen", "rejected") if place == "chosen" else ("messages", "tools")
    corpus, columns = Corpus(path=str(tmp_path)), Columns(**{name: name for name in names if name in good | bad})
    left_out = LeftOut()
    assert len(list(all_documents(freeze_corpus(Store(), corpus, columns, 1 << 20), left_out))) == 2
    assert left_out.reasons.total() == 1


def test_names_that_are_not_read_are_kept_up_to_a_length(tmp_path):
    jsonl(tmp_path / "a.jsonl", *({"text": "one", f"{number}{'k' * 5000}": 1} for number in range(3)))
    left_out = LeftOut()
    list(all_documents(freeze(tmp_path), left_out))
    assert sorted(left_out.unread) == [f"{number}{'k' * 99}..." for number in range(3)]
