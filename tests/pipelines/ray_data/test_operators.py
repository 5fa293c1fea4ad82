"""The operators on Arrow tables, without Ray: the results of `curate`, any type of column, and what they refuse."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.data import Language, Normalize, PersonalData, Rules, Signature
from raymill.pipelines.ray_data import documents
from raymill.pipelines.text import personal_data
from tests.support.curated import curated
from tests.support.stories import story

LIMITS = {"max_document_bytes": 20_000}
HALF_OF_A_PAIR = b"\xed\xa0\x80"
PERSONAL = [f"personal_{kind}" for kind in personal_data.KINDS]


def strings(texts: list[str | bytes | None]) -> pa.Array:
    """Large strings of these texts, bytes as they are."""
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return pa.array(encoded, pa.large_binary()).view(pa.large_string())


def table(texts: list[str | bytes | None]) -> pa.Table:
    return pa.table({"id": pa.array([f"d{n}" for n in range(len(texts))], pa.string()), "text": strings(texts)})


TEXTS = [
    *(story(n) for n in range(12)),
    story(3) + "  \r\n",
    "Too short to keep, and that is that.",
    " ".join(["Der alte Hafen war am Morgen still, und die Boote kamen erst spät zurück."] * 3),
    story(77) + " Write to jane.roe@mailhost.org or call +1 415 555 2671 about the house.",
    "caf\u0065\u0301 \u00c3\u00a9t\u00c3\u00a9 " + story(5),  # decomposed, and mojibake
    "",
    None,
    HALF_OF_A_PAIR + b" after half of a pair",
    b"\xff\xfe bytes",
    "long " * 10_000,
]


def assert_equal_to_curate(batch: pa.Table, folder, monkeypatch, language: dict, rules: dict, personal: dict) -> None:
    found = batch
    operators = (Normalize, Language, Rules, Signature, PersonalData)
    groups = ({}, language, rules, {}, personal)
    for operator, settings in zip(operators, groups, strict=True):
        found = operator(limits=LIMITS, **settings)(found)
    wanted = curated(batch, folder, monkeypatch, language=language, rules=rules, personal_data=personal, limits=LIMITS)
    at = found.column_names.index("text")
    rows = found.set_column(at, "text", found["text"].cast(pa.large_binary())).to_pylist()
    assert {n for n, row in enumerate(rows) if row["text_hash"] is None} == wanted.problems.keys()
    added = [name for name in found.column_names if name not in (*batch.column_names, "keep", "reason")]
    for number, row in enumerate(rows):
        if number in wanted.problems:
            assert [row[name] for name in added] == [None] * len(added)
            assert (row["keep"], row["reason"]) == (False, wanted.problems[number])
        else:
            assert [repr(row[name]) for name in added] == [repr(wanted.attributes[number][name]) for name in added]
            assert (row["keep"], row["reason"]) == (number not in wanted.reasons, wanted.reasons.get(number))
            assert row["id"] not in wanted.texts or row["text"].decode() == wanted.texts[row["id"]]
    assert {f"{field.name}: {field.type}" for field in found.schema} >= {
        "language: string", "language_score: float", "tokens: int64", "text_hash: fixed_size_binary[16]",
        "signature: large_binary", "personal_email: int32", "keep: bool", "reason: string",
    }  # fmt: skip


def test_operators_find_what_curate_finds_and_name_the_problems_that_it_names(tmp_path, monkeypatch):
    assert_equal_to_curate(table(TEXTS), tmp_path, monkeypatch, {"keep": ["en"]}, {}, {"redact": ["email"]})


def test_operators_find_what_curate_finds_in_technical_texts_and_387_languages(shared_data, tmp_path, monkeypatch):
    peps = pq.read_table(shared_data / "peps.parquet", columns=["text"]).slice(0, 150)["text"].to_pylist()
    udhr = pq.read_table(shared_data / "udhr.parquet", columns=["text"])["text"].to_pylist()
    rules = {"dialect": "datatrove", "bad_words": {"paths": {"en": str(_words(tmp_path))}}}
    assert_equal_to_curate(table(peps + udhr), tmp_path, monkeypatch, {"keep": ["en", "fr"]}, rules, {})


def _words(folder):
    path = folder / "words.txt"
    path.write_text("specification\n")
    return path


def test_each_operator_normalises_by_itself_and_once_after_normalize(monkeypatch):
    batch = table(TEXTS)
    normalised = Normalize(limits=LIMITS)(batch)
    operators = [Language(limits=LIMITS), Rules(limits=LIMITS), Signature(limits=LIMITS), PersonalData(limits=LIMITS)]
    alone = [operator(batch) for operator in operators]
    assert alone[0]["text"].equals(batch["text"])
    monkeypatch.setattr(documents, "normalize", lambda texts: pytest.fail("normalised a second time"))
    for operator, wanted in zip(operators, alone, strict=True):
        found = operator(normalised)
        added = [name for name in found.column_names if name not in batch.column_names]
        assert repr(found.select(added).to_pylist()) == repr(wanted.select(added).to_pylist())


def test_normalize_and_redaction_leave_texts_that_cannot_be_read_as_they_are():
    batch = table(TEXTS)
    for operator in (Normalize(limits=LIMITS), PersonalData(limits=LIMITS)):
        found = operator(batch)["text"]
        unreadable = pa.array(range(len(TEXTS) - 4, len(TEXTS)))
        before = batch["text"].take(unreadable).combine_chunks().view(pa.large_binary())
        assert found.take(unreadable).combine_chunks().view(pa.large_binary()).equals(before)
    assert Normalize()(batch)["text"][12].as_py() == story(3).strip()


def test_counting_alone_changes_no_text():
    found = PersonalData(redact=[])(table(TEXTS))
    assert found["text"].equals(table(TEXTS)["text"])
    assert found["personal_email"].to_pylist()[15] == 1


def test_a_document_that_the_language_removed_keeps_that_reason():
    german, short = TEXTS[14], "Der Hafen."
    found = Rules()(Language(keep=["en"])(table([german, short, TEXTS[13], story(1)])))
    assert found["reason"].to_pylist()[:2] == ["language_not_kept", "language_not_kept"]
    assert found["reason"].to_pylist()[2:] == ["gopher_short_doc", None]
    assert found["keep"].to_pylist() == [False, False, False, True]


COLUMNS = {
    "string": lambda texts: texts.cast(pa.string()),
    "large_string": lambda texts: texts,
    "string_view": lambda texts: texts.cast(pa.string_view()),
    "binary": lambda texts: texts.cast(pa.binary()),
    "dictionary": lambda texts: texts.cast(pa.string()).dictionary_encode(),
    "in two chunks": lambda texts: pa.chunked_array([texts[:3], texts[3:]]),
    "with different dictionaries": lambda texts: pa.chunked_array(
        [texts[:3].dictionary_encode(), texts[3:].dictionary_encode()]
    ),
    "a slice": lambda texts: pa.concat_arrays([texts, texts])[len(texts) :],
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_texts_has_any_string_type_and_any_name(kind):
    texts = [story(1), None, "", story(2), story(1)]
    wanted = Rules()(table(texts))
    found = Rules(text="content")(pa.table({"id": table(texts)["id"], "content": COLUMNS[kind](strings(texts))}))
    assert repr(found.drop_columns(["content"]).to_pylist()) == repr(wanted.drop_columns(["text"]).to_pylist())
    for operator in (Normalize, PersonalData):
        rewritten = operator(text="content")(pa.table({"content": COLUMNS[kind](strings(texts))}))["content"]
        assert rewritten.cast(pa.large_string()).to_pylist() == operator()(table(texts))["text"].to_pylist()


@pytest.mark.parametrize("operator", [Normalize, Language, Rules, PersonalData, Signature])
def test_an_empty_batch_and_batches_of_one_have_the_same_schema(operator):
    whole = operator()(table([story(1), story(2), None]))
    assert operator()(table([])).schema.equals(whole.schema)
    one_by_one = [operator()(table([story(1), story(2), None]).slice(row, 1)) for row in range(3)]
    assert repr(pa.concat_tables(one_by_one).to_pylist()) == repr(whole.to_pylist())


@pytest.mark.parametrize("kind", [pa.null(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_a_batch_may_be_nothing_but_nulls(kind):
    found = Rules()(pa.table({"text": pa.nulls(2, kind)}))
    assert found["reason"].to_pylist() == ["null_text", "null_text"]
    assert Normalize()(found)["text"].to_pylist() == [None, None]


def test_rules_read_the_columns_that_they_name_whatever_their_type(tmp_path):
    (tmp_path / "domains.txt").write_text("spam.example\n")
    urls = pa.array(["https://spam.example/a", "https://fine.example/", None], pa.large_string()).dictionary_encode()
    rules = Rules(packs=[], url_blocklist={"paths": [str(tmp_path / "domains.txt")], "column": "address"})
    found = rules(pa.table({"text": [story(1)] * 3, "address": urls}))
    assert found["reason"].to_pylist() == ["blocked_url", None, None]
    # A Dataset may have the columns of any rule.
    found = Rules(packs=[], opt_out={})(pa.table({"text": [story(1)] * 2, "robots": ["noai", "noindex"]}))
    assert found["reason"].to_pylist() == ["opted_out", None]


def test_a_large_text_is_not_measured_and_a_batch_is_measured_in_pieces(monkeypatch):
    monkeypatch.setattr(documents, "TABLE_BYTES", 130)
    texts = ["x" * 20_000_000, *("a few words " * 5,) * 7]
    found = Rules()(pa.table({"text": strings(texts)}))
    assert found["reason"].to_pylist()[:2] == ["too_large", "gopher_short_doc"]
    assert len(found["gopher_words"].chunks) == 5


class Runs:
    """A value whose pickle runs code when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_python_strings_that_arrow_cannot_hold_are_named_and_no_other_object_is_made(tmp_path):
    """Ray keeps a column with such a string as pickled objects."""
    from ray.data.extensions import ArrowPythonObjectArray

    values = ["\ud800 half of a pair", story(1), None, 7, b"bytes", Runs(tmp_path / "ran")]
    column = ArrowPythonObjectArray.from_objects(values)
    found = Rules()(pa.table({"text": column}))
    assert found["reason"].to_pylist() == [
        "lone_surrogate", None, "null_text", "not_a_string", "gopher_short_doc", "not_a_string"
    ]  # fmt: skip
    assert Normalize()(pa.table({"text": column}))["text"].to_pylist() == [None, story(1), None, None, "bytes", None]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value", ["", "a", "é" * 200, "x" * 70_000, "\ud800", None, b"", b"ab", b"x" * 300, b"y" * 70_000]
)
def test_texts_and_bytes_are_read_from_the_pickles_of_every_protocol(value):
    for protocol in range(2 if isinstance(value, str | None) else 3, pickle.HIGHEST_PROTOCOL + 1):
        assert documents._unpickled_text(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"\x80\x04}N" + b"\x85" * 1_000_000 + b"Ns.", id="a million tuples as a key, to be hashed"),
        pytest.param(b"\x80\x04\x8f(N" + b"\x85" * 1_000_000 + b"\x90.", id="a million tuples in a set"),
        pytest.param(b"\x80\x04\x95" + bytes(8) * 2 + b".", id="zeros"),
        pytest.param(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", id="a text of 8 EiB"),
        pytest.param(b"\x80\x04NN.", id="two values"),
        pytest.param(b"\x80\x04.", id="no value"),
        pytest.param(b"\x80\x04N" + b"\x94" * 1_000_000 + b".", id="a million times into the memo"),
        pytest.param(b"\x80\x04X\x01\x00\x00\x00\xff.", id="no UTF-8"),
        pytest.param(b"\x80\x04X\x01", id="cut"),
        pytest.param(b"I" + b"9" * 4_000_000 + b"\n.", id="a number of 4,000,000 digits"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_pickle_of_something_else_is_no_text(pickled):
    with pytest.raises(ValueError):
        documents._unpickled_text(pickled)


def test_a_pickle_whose_memo_would_take_gigabytes_takes_its_bytes():
    assert documents._unpickled_text(b"\x80\x04Nr\xff\xff\xff\xff.") is None  # at the last index of the memo


@pytest.mark.parametrize(
    ("operator", "batch", "error", "said"),
    [
        (Rules, {"text": ["a"]}, TypeError, 'the batch is a dict, and a pyarrow.Table is wanted. Pass batch_format='),
        (Rules, pa.table({"body": ["a"]}), DataError, 'Rules: the Dataset has no column text; it has: body.'),
        (Rules, pa.table({"text": [7]}), DataError, "the column text holds int64, and texts are strings"),
        (Language, pa.table({"text": ["a"], "language": ["en"]}), DataError, "1 column that it would add: language"),
        (Rules, pa.table({"text": ["a"], "reason": [1], "keep": [True]}), DataError, "would add: keep, reason"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_an_error_that_says_what_to_do(operator, batch, error, said):
    with pytest.raises(error) as raised:
        operator()(batch)
    assert said in str(raised.value)


def test_the_same_operator_again_is_an_error():
    with pytest.raises(DataError, match="already has 31 columns that it would add: gopher_words, "):
        Rules()(Rules()(table(["a"])))


def test_settings_are_validated_as_those_of_a_config():
    with pytest.raises(ConfigError) as raised:
        Language(kep=["en"], min_score=2)
    assert str(raised.value).splitlines() == [
        "Language, language.min_score: 2 given; wanted at most 1.0.",
        "Language, language.kep: no such setting. Did you mean keep? language has: keep, max_chars, min_score, "
        "min_scores, model.",
    ]
    for wrong in ({"packs": ["gofer"]}, {"gopher_quality": {"min_words": "many"}}):
        with pytest.raises(ConfigError, match=r"^Rules, rules\."):
            Rules(**wrong)
    with pytest.raises(ConfigError, match=r"limits\.max_document_bytes: 0 given"):
        Signature(limits={"max_document_bytes": 0})


def test_an_operator_without_settings_refuses_any():
    with pytest.raises(ConfigError, match="Normalize: no such setting: form"):
        Normalize(form="NFC")


def test_an_operator_is_small_and_its_copy_in_a_worker_does_the_same():
    for operator in (Language(keep=["en"]), Rules(packs=["c4"]), Signature(threshold=0.7)):
        pickled = pickle.dumps(operator)
        assert len(pickled) < 10_000
        assert pickle.loads(pickled)(table(TEXTS)).equals(operator(table(TEXTS)))
    assert repr(Rules(packs=["c4"])) == "Rules(packs=['c4'])"


def test_a_missing_model_is_named():
    with pytest.raises(ConfigError, match=r"language\.model: .*nowhere\.bin"):
        Language(model="/nowhere.bin")(table(["some text"]))


def test_warnings_count_what_cannot_be_read(caplog):
    Rules(limits=LIMITS)(table(TEXTS))
    assert [record.getMessage() for record in caplog.records] == [
        "Rules: 4 texts cannot be read: 2 bad_utf8, 1 null_text, 1 too_large"
    ]


@pytest.mark.parametrize("offsets", [(0, 20, 3), (0, -5, 3)], ids=["falling", "negative"])
def test_a_damaged_column_is_an_error_and_does_not_end_the_process(offsets):
    buffers = [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"x" * 30)]
    column = pa.StringArray.from_buffers(2, buffers[1], buffers[2])
    with pytest.raises(DataError, match="Normalize: the column text is damaged"):
        Normalize()(pa.table({"text": column}))
