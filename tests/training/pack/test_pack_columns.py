"""Which columns of a corpus are accepted, by their role and type; units, limits and splits at their boundaries."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.streams import Span
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus, Split
from raymill.training.pack import documents as documents_module
from raymill.training.pack import split as split_module
from raymill.training.pack.corpus import _group, freeze_corpus
from raymill.training.pack.documents import LeftOut, all_documents, documents_of
from raymill.training.pack.split import choose_cuts
from tests.support.pack_surveys import classes_of, survey

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TYPES = {
    "text": pa.string(), "large text": pa.large_string(), "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()), "whole": pa.int32(), "boolean": pa.bool_(),
    "list": pa.list_(pa.string()), "large list": pa.large_list(pa.string()), "null": pa.null(),
    "float": pa.float64(), "binary": pa.binary(),
}  # fmt: skip
TEXTS = {"text", "large text", "view", "dictionary", "null"}
LISTS = TEXTS | {"list", "large list"}
NAMES = TEXTS | {"whole"}
# Other columns that make a role valid, and the types of the column that are accepted for it.
ROLES = {
    "text": ({}, TEXTS),
    "prompt": ({"completion": "other"}, TEXTS),
    "completion": ({"prompt": "other"}, TEXTS),
    "input": ({"prompt": "other", "completion": "other"}, TEXTS),
    "system": ({"prompt": "other", "completion": "other"}, TEXTS),
    "messages": ({}, LISTS),
    "tools": ({"messages": "other"}, LISTS),
    "label": ({"text": "other"}, NAMES | {"boolean", "list", "large list"}),
    "stratify": ({"text": "other"}, NAMES | {"boolean"}),
    "id": ({"text": "other"}, NAMES),
    "group": ({"text": "other"}, NAMES),
}


def freeze(path, columns, unit_bytes=1 << 20):
    return freeze_corpus(Store(), Corpus(path=str(path)), columns, unit_bytes)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("role", ROLES)
def test_a_column_is_accepted_by_its_type_for_each_role_and_refused_with_what_it_is(tmp_path, role):
    others, accepted = ROLES[role]
    found = set()
    for name, kind in TYPES.items():
        table = pa.table({"it": pa.array([None], kind), "other": ["x"]})
        pq.write_table(table, tmp_path / "a.parquet")
        try:
            freeze(tmp_path, Columns(**others | {role: "it"}))
            found.add(name)
        except ConfigError as error:
            seen = pq.read_schema(tmp_path / "a.parquet").field("it").type
            assert f"column it (columns.{role}) is {seen}" in str(error)
    assert found == accepted


@pytest.mark.parametrize("role", ROLES)
def test_a_key_that_the_first_objects_lack_is_refused_unless_its_role_may_be_empty(tmp_path, role):
    others, _ = ROLES[role]
    path = jsonl(tmp_path / "a.jsonl", {"other": "x"})
    optional = role in ("tools", "id", "group", "input", "system")
    try:
        freeze(path, Columns(**others | {role: "it"}))
        assert optional
    except ConfigError as error:
        assert not optional and f"no column it (columns.{role}). It has: other." in str(error)


def test_ids_and_groups_of_the_usual_names_are_used_where_every_file_has_them_and_none_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "id": ["1"], "group_id": ["g"], "x": ["y"]}), tmp_path / "a.parquet")
    text = Columns(text="text")
    assert freeze(tmp_path, text).columns == Columns(text="text", id="id", group="group_id").read
    assert freeze(tmp_path, Columns(text="text", id="x")).columns == Columns(text="text", id="x", group="group_id").read
    jsonl(tmp_path / "b.jsonl", {"text": "a", "id": "1"})
    assert freeze(tmp_path, text).columns == Columns(text="text", id="id").read
    pq.write_table(pa.table({"text": ["a"], "group_id": ["g"]}), tmp_path / "c.parquet")
    assert freeze(tmp_path, text).columns == text.read


# --- units


@pytest.mark.parametrize(
    ("sizes", "units"),
    [
        ([5, 5], [[5, 5]]),  # exactly a unit of 10 bytes
        ([5, 6], [[5], [6]]),
        ([11, 1, 9, 1], [[11], [1, 9], [1]]),
        ([10], [[10]]),
        ([0, 10, 0], [[0, 10, 0]]),
        ([], []),
    ],
)
def test_spans_are_grouped_up_to_the_size_of_a_unit(sizes, units):
    pieces = [(Span(f"{number}", size, "", "jsonl", 0, size), size) for number, size in enumerate(sizes)]
    found = list(_group(pieces, 10))
    assert [[span.size for span in unit] for unit, _ in found] == units
    assert [size for _, size in found] == [sum(unit) for unit in units]


def test_neighbouring_spans_of_a_file_become_one_and_others_do_not():
    spans = [Span("a", 9, "", "jsonl", 0, 3), Span("a", 9, "", "jsonl", 3, 6), Span("a", 9, "", "jsonl", 7, 9),
             Span("b", 9, "", "jsonl", 9, 12)]  # fmt: skip
    ((unit, size),) = _group([(span, 2) for span in spans], 10)
    assert [(span.uri, span.start, span.end) for span in unit] == [("a", 0, 6), ("a", 7, 9), ("b", 9, 12)]
    assert size == 8


def test_bytes_of_a_unit_are_those_of_the_text_columns_and_three_times_a_compressed_file(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{n:050}" for n in range(100)], "other": [f"{n:0900}" for n in range(100)]})
    pq.write_table(table, path, use_dictionary=False, compression="none")
    assert 5000 < sum(freeze(path, Columns(text="text")).unit_bytes) < 7000
    plain, packed = jsonl(tmp_path / "a.jsonl", {"text": "a"}), tmp_path / "a.jsonl.gz"
    packed.write_bytes(b"x" * 100)
    assert freeze(plain, Columns(text="text")).unit_bytes == (plain.stat().st_size,)
    assert freeze_sizes(packed) == (300,)


def freeze_sizes(path):
    """Of a file that need not be readable."""
    jsonl(path.parent / "peek.jsonl", {"text": "a"})
    frozen = freeze(f"{path.parent}/[ap]*.jsonl*", Columns(text="text"), 1)
    return tuple(size for unit, size in zip(frozen.units, frozen.unit_bytes, strict=True) if unit[0].uri == str(path))


def test_of_a_line_the_byte_is_named_and_of_a_compressed_file_the_line(tmp_path):
    import gzip

    lines = b'{"text": "a"}\n\nbroken\n'
    for name, where in (("a.jsonl", "byte 15"), ("a.jsonl.gz", "line 3")):
        path = tmp_path / name
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
        frozen, left_out = freeze(path, Columns(text="text")), LeftOut()
        assert len(list(documents_of(frozen.reading, frozen.units[0], left_out))) == 1
        assert left_out.first == {"broken_json": (f"{path} {where}", "")}


# --- rows


def test_speakers_of_sharegpt_are_roles_and_an_unknown_one_is_its_own(tmp_path):
    said = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
            "bard": "assistant", "observation": "tool", "function_response": "tool", "system": "system"}  # fmt: skip
    messages = [{"from": speaker, "value": "x"} for speaker in said]
    frozen = freeze(jsonl(tmp_path / "a.jsonl", {"m": messages}), Columns(messages="m"))
    (document,) = all_documents(frozen)
    assert [message["role"] for message in document.content.messages] == list(said.values())


def test_the_id_is_of_prompt_completion_and_system_and_no_two_that_differ_have_the_same(tmp_path):
    rows = [("a", "b", ""), ("ab", "c", ""), ("a", "bc", ""), ("a", "b", "s"), ("b", "a", "")]
    path = jsonl(tmp_path / "a.jsonl", *({"p": p, "c": c, "s": s} for p, c, s in rows))
    found = list(all_documents(freeze(path, Columns(prompt="p", completion="c", system="s"))))
    assert len({document.id for document in found}) == len({document.key for document in found}) == len(rows)
    tools = [{"m": CHAT}, {"m": CHAT, "t": [{"name": "f"}]}, {"m": CHAT, "t": []}]
    found = list(all_documents(freeze(jsonl(tmp_path / "b.jsonl", *tools), Columns(messages="m", tools="t"))))
    assert [document.id == found[0].id for document in found] == [True, False, True]


@pytest.mark.parametrize("role", ["id", "group", "stratify", "label"])
def test_a_name_is_text_or_a_whole_number_and_other_rows_are_left_out(tmp_path, role):
    values = ["a", 7, True, None, 1.5, ["a"], "\ud800", "\u00e9"]
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "it": value} for n, value in enumerate(values)))
    lines, left_out = path.read_bytes().splitlines(keepends=True), LeftOut()
    found = list(all_documents(freeze(path, Columns(text="text", **{role: "it"})), left_out))
    wanted = [0, 1, 2, 5, 7] if role == "label" else [0, 1, 2, 3, 7]
    assert [int(document.content[1:]) for document in found] == wanted
    refused = {f"bad_{role}": 1 if role == "label" else 2, "not_unicode": 1}
    refused |= {"no_class": 1} if role == "label" else {}
    assert left_out.reasons == refused
    assert left_out.first[f"bad_{role}"] == (f"{path} byte {sum(map(len, lines[:4]))}", "column it is 1.5")
    if role != "group":
        names = [getattr(document, {"stratify": "stratum"}.get(role, role)) for document in found]
        assert names[:3] == ["a", "7", "True"] and names[-1] == "\u00e9"


def test_as_many_classes_as_are_allowed_are_accepted_and_one_more_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(split_module, "_MAX_CLASSES", 3)
    columns = Columns(text="t", label="l")
    for count in (2, 3, 4):
        path = jsonl(tmp_path / f"{count}.jsonl", *({"t": f"{n}", "l": n % count} for n in range(8)))
        if count <= 3:
            assert classes_of([freeze(path, columns)]) == tuple(map(str, range(count)))
        else:
            with pytest.raises(ConfigError, match=r"column l \(columns\.label\) has more than 3 values"):
                classes_of([freeze(path, columns)])


def test_classes_of_several_corpora_are_counted_together_and_negative_numbers_come_first(tmp_path):
    columns = Columns(text="t", label="l")
    found = [
        freeze(jsonl(tmp_path / f"{name}.jsonl", {"t": name, "l": label}), columns)
        for name, label in (("a", "x"), ("b", 2), ("c", -1), ("d", 10), ("e", "-x"))
    ]
    assert classes_of(found) == ("-1", "2", "10", "-x", "x")


def test_a_corpus_whose_first_unit_has_no_document_is_read_on(tmp_path, monkeypatch):
    rows = [{"text": 5}] * 20 + [{"text": "good"}]
    frozen = freeze(jsonl(tmp_path / "a.jsonl", *rows), Columns(text="text"), unit_bytes=30)
    assert len(frozen.units) > 3
    assert [document.content for document in all_documents(frozen)] == ["good"]
    monkeypatch.setattr(documents_module, "_HOPELESS_ROWS", 3)
    with pytest.raises(Exception, match="no row can be used"):
        list(all_documents(frozen))


# --- splits


def test_groups_are_ranked_up_to_the_limit_and_strata_counted_up_to_theirs(monkeypatch):
    monkeypatch.setattr(split_module, "MAX_RANKED", 5)
    monkeypatch.setattr(split_module, "_MAX_STRATA", 3)
    for count in (4, 5, 6):
        found = survey((key, "") for key in range(count))
        assert (found.strata[""] is None) == (count > 5)
        assert (choose_cuts(found, Split()).strata == {}) == (count > 5)
    survey((key, str(key)) for key in range(3))
    with pytest.raises(ConfigError, match="more than 3 different values, such as '3'"):
        survey((key, str(key)) for key in range(4))
    many = survey([*((key, "many") for key in range(6)), (1 << 63, "few")])
    assert many.strata == {"many": None, "few": {1 << 63: 1}}, "strata are read to the end"


def test_documents_of_a_group_count_each_so_that_shares_are_of_documents():
    """A group of 6 and four of 1: half of the documents are not half of the groups."""
    keyed = [(0, "")] * 6 + [(key, "") for key in (10, 20, 30, 40)]
    cuts = choose_cuts(survey(keyed), Split(train=0.6, validation=0.2, test=0.2))
    assert [cuts.split_of(key, "") for key in (0, 10, 20, 30, 40)] == [0, 1, 1, 2, 2]
