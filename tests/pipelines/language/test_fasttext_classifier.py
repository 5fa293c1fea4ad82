"""fastText models: the kernel's labels and scores beside the binding's, bit for bit; files that are no models."""

import re
import struct
import tracemalloc
from dataclasses import replace
from itertools import product
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier, fasttext_file
from raymill.pipelines.language.fasttext_classifier import _to_probabilities
from raymill.pipelines.language.fasttext_file import Loss, read_model_file
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.text.texts import Texts
from tests.support.fasttext_files import Kind, write_model
from tests.support.sampled import sampled

BUILT_IN = fasttext_classifier.built_in()
WORDS = (
    "the",
    "a",
    "Haus",
    "länger",
    "naïve",
    "中文",
    "x",
    "word",
    "words",
    "😀",
    "donaudampfschifffahrtsgesellschaft",
)
# Words in and out of the vocabulary, of one letter, longer than the cache's keys, in scripts of 1 to 4 bytes a letter.
STRANGE = (
    "q",
    "unknown",
    "e\u0301",
    "слово",
    "संविधान",
    "ÿ" * 17,
    "z" * 33,
    "中" * 40,
    "__label__l1",
    "__label__",
    "__label__none",
)
# Any character that is not of a surrogate pair alone; line ends are not in a classifier's texts.
NO_LINE_END = st.characters(exclude_categories=["Cs"], exclude_characters="\n")
SENTENCE = st.lists(st.sampled_from(WORDS + STRANGE) | st.text(NO_LINE_END, max_size=12), max_size=25).map(" ".join)


def bound(path: Path) -> object:
    return fasttext.load_model(str(path)).f


def best_of(binding: object, text: str | bytes) -> tuple[str, np.float32]:
    """The binding's most probable label and its probability."""
    line = text + b"\n" if isinstance(text, bytes) else text + "\n"
    found = binding.predict(line, 1, 0.0, "strict")  # type: ignore[attr-defined]
    score, label = found[0] if found else (0.0, "")
    return label.removeprefix("__label__"), min(np.float32(score), np.float32(1))


def score_of(binding: object, labels: int, label: str, text: str) -> np.float32:
    """The binding's probability of one label; 0 if it reports none."""
    for score, name in binding.predict(text + "\n", labels, 0.0, "strict"):  # type: ignore[attr-defined]
        if name == f"__label__{label}":
            return min(np.float32(score), np.float32(1))
    return np.float32(0)


def assert_equal(ours: fasttext_classifier.Classifier, binding: object, strings: list[str] | list[bytes]) -> None:
    """The same label and, bit for bit, the same probability for every text."""
    # Arrow does not check that strings are UTF-8 when bytes are read as such.
    column = pa.array(strings, pa.large_binary() if isinstance(strings[0], bytes) else pa.large_string())
    labels, scores = ours.best(Texts.from_arrow(column.view(pa.large_string())))
    found = [(ours.labels[label] if label >= 0 else "", score) for label, score in zip(labels, scores, strict=True)]
    for text, mine, theirs in zip(strings, found, (best_of(binding, text) for text in strings), strict=True):
        assert mine == theirs, repr(text[:200])


# --- the built-in model


@pytest.fixture(scope="module")
def lid176() -> tuple[fasttext_classifier.Classifier, object]:
    return fasttext_classifier.load(Store(), None), bound(BUILT_IN)


ALL = 1 << 20  # characters; no text has more


@pytest.mark.parametrize(
    ("name", "step", "characters"),
    [
        *sampled([("udhr", 1, 60), ("udhr", 1, 300), ("udhr", 1, 1000), ("udhr", 1, ALL)], 1),
        *sampled([("peps", 10, 60), ("peps", 10, 300), ("peps", 1, 1000), ("peps", 10, ALL)], 2),
        pytest.param("peps", 1, ALL, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_real_texts_get_the_bindings_labels_and_scores(lid176, shared_data, name, step, characters):
    texts = Texts.from_arrow(pq.read_table(shared_data / f"{name}.parquet", columns=["text"])["text"][::step])
    cut = excerpts(texts, characters)
    # A line end of three bytes becomes a space.
    assert characters < ALL or cut.byte_lengths.sum() > 0.999 * texts.byte_lengths.sum()
    assert_equal(*lid176, cut.to_arrow().to_pylist())


ANY = st.text(NO_LINE_END, max_size=80)


@settings(deadline=None, max_examples=100)
@given(st.lists(ANY | SENTENCE, min_size=1, max_size=12))
@example(
    ["", " ", "   ", "a", "</s>", "a </s> b", "</s>x", "x\0y", "x\ty\x0bz\x0c\r", "\u2028", "\x85", "\x01", "a\xa0b"]
)
@example(["a" * 1_000_000, "word " * 200_000, "é" * 300_000])
@example(["x" * 15, "x" * 16, "x" * 17, "x" * 31, "x" * 32, "x" * 33, "x" * 32 + " y", "x" * 8 + " y", "x" * 24 + " y"])
def test_any_texts_get_the_bindings_labels_and_scores(lid176, strings):
    assert_equal(*lid176, strings)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=60) | SENTENCE.map(str.encode), min_size=1, max_size=12), st.data())
@example(
    [b"\xff", b"\xc3", b"a \xe4\xb8", b"\xad\x80 b", b"\xf0\x9f\x98", b"\x80" * 33, b"\xc0\x80", b"\xed\xa0\x80"], None
)
def test_bytes_that_are_not_utf_8_get_the_bindings_labels_and_scores(lid176, strings, data):
    """Texts are UTF-8, but a kernel reads whatever is in the buffer: any bytes, a text cut inside a character."""
    if data is not None:
        ends = [data.draw(st.integers(0, len(text))) for text in strings]
        strings = [text[:end] for text, end in zip(strings, ends, strict=True)]
    assert_equal(*lid176, [text.replace(b"\n", b" ") for text in strings])


def test_50_000_texts_of_all_scripts_get_the_bindings_labels_and_scores(lid176):
    """Drawn by a seed. The letters of a word are of one part of Unicode; some words are longer than the cache takes."""
    random, count = np.random.default_rng(1), 202_000
    codes = np.array([code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != ord("\n")], "<u4")
    lengths = random.geometric(random.choice([0.05, 0.3, 0.5, 1], count, p=[0.1, 0.3, 0.3, 0.3]))
    firsts = random.integers(0, len(codes), count) * (random.random(count) < 0.7)
    letters = codes[(np.repeat(firsts, lengths) + random.integers(0, 100, lengths.sum())) % len(codes)]
    between = random.choice([ord(" "), ord("\n")], count, p=[0.75, 0.25])
    texts = np.insert(letters, np.cumsum(lengths), between).tobytes().decode("utf-32-le").split("\n")[:-1]
    assert len(texts) > 50_000 and max(map(len, texts)) > 200
    planes = {ord(letter) >> 16 for text in texts for letter in text}
    assert planes == set(range(17)), "letters of every plane of Unicode"
    assert_equal(*lid176, texts)


def test_a_text_is_separated_from_its_neighbours_in_the_column(lid176):
    """Documents lie side by side in one buffer: the cache must not take "un", followed by a text "e x", for "une"."""
    column = pa.array(["eine Zeile", "another line", "", "x", "troisième", "c est un", "e x", "une la", "la une"])
    binding = lid176[1]
    for part in (column, column[1:], column[2:4], column.take(pa.array([8, 6, 5, 4, 3, 1, 0]))):
        ours = fasttext_classifier.Classifier(BUILT_IN, read_model_file(BUILT_IN))  # its cache is empty
        texts = Texts.from_arrow(part.cast(pa.large_string()))
        for _ in range(2):  # the second time from the cache
            labels, scores = ours.best(texts)
            for text, label, score in zip(part.to_pylist(), labels, scores, strict=True):
                assert (ours.labels[label] if label >= 0 else "", score) == best_of(binding, text)


# --- every kind of model

KINDS = [
    Kind(loss=loss, words=WORDS, **more)
    for loss, more in product(
        Loss,
        [
            {},
            {"dimension": 16, "labels": 1},
            {"dimension": 17, "minn": 1, "maxn": 6, "labels": 40},
            {"dimension": 5, "minn": 0, "maxn": 3, "end": False},
            {"minn": 0, "maxn": 0, "buckets": 0},
            {"minn": 3, "maxn": 2},
            {"word_ngrams": 3, "minn": 0, "maxn": 0},
            {"word_ngrams": 2, "minn": 2, "maxn": 2, "labels": 12},
            {"version": 11},
            {"quantised": True},
            {"quantised": True, "norms": True, "dimension": 7, "part": 2},
            {"quantised": True, "norms": True, "pruned": 0.2, "labels": 90, "dimension": 16},
            {"quantised": True, "pruned": 0.0},
            {"quantised": True, "norms": True, "output_quantised": True, "pruned": 0.5, "word_ngrams": 2},
            {"quantised": True, "output_quantised": True, "dimension": 9, "part": 3, "buckets": 1},
            {"labels": 8, "ties": True},
            {"labels": 8, "scale": 3.0},
        ],
    )
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_every_kind_of_model_gives_the_bindings_labels_and_scores(tmp_path, kind):
    path = write_model(tmp_path / "model.bin", kind, seed=KINDS.index(kind))
    ours, binding = fasttext_classifier.load(Store(), str(path)), bound(path)
    random = np.random.default_rng(7)
    pool = [*WORDS, *STRANGE]
    strings = [" ".join(random.choice(pool, random.integers(0, 12))) for _ in range(60)]
    strings += ["", " ", "the", "q", "</s>", "the </s> a", "__label__l1", "__label__x", "\x01"]
    assert_equal(ours, binding, strings)
    for label in {ours.labels[0], ours.labels[-1], ours.labels[len(ours.labels) // 2]}:
        scores = ours.score(Texts.from_strings(strings), label)
        expected = [score_of(binding, len(ours.labels), label, text) for text in strings]
        assert scores.tolist() == [float(score) for score in expected]


# --- files that are no models


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_gives_an_error_or_a_model_that_works(tmp_path_factory, data):
    """Never a crash: every count of a flipped bit is compared with the file, every index with what it points into."""
    kind = data.draw(st.sampled_from([KINDS[1], KINDS[6], KINDS[11], KINDS[13]]))
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(write_model(folder / "whole.bin", kind).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of a file is weights; the counts are in its first bytes and between the matrices.
        at = data.draw(st.integers(0, min(400, len(whole) - 1)) | st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole))) :]
    damaged = folder / "damaged.bin"
    damaged.write_bytes(whole)
    try:
        model = fasttext_classifier.load(Store(), str(damaged))
    except (ConfigError, StorageError) as error:
        assert str(damaged) in str(error)
        return
    labels, scores = model.best(Texts.from_strings(["the a unknown", ""]))
    assert ((labels >= -1) & (labels < len(model.labels))).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize(
    ("at", "layout", "value", "message"),
    [
        (8, "i", 0, "0 dimensions"),
        (8 + 4 * 6, "i", 9, "loss 9"),
        (8 + 4 * 8, "i", -1, "-1 buckets"),
        (8 + 4 * 8, "i", 0, "n-grams and no bucket"),
        (8 + 4 * 8, "i", 1 << 29, "536870912 buckets"),
        (8 + 4 * 5, "i", 21, "n-grams of 21 words"),
        (8 + 4 * 10, "i", 21, "n-grams of 21 characters"),
        (64, "i", 99, "12 words, 5 labels of 99"),
        (68, "i", -1, "-1 words"),
        (72, "i", 0, "0 labels"),
    ],
)
def test_a_header_that_cannot_be_is_an_error_that_names_it(tmp_path, at, layout, value, message):
    path = write_model(tmp_path / "model.bin", Kind(words=WORDS))
    changed = bytearray(path.read_bytes())
    changed[at : at + struct.calcsize(layout)] = struct.pack(f"<{layout}", value)
    path.write_bytes(changed)
    with pytest.raises(ConfigError, match=rf"model\.bin: this fastText model is damaged: .*{message}"):
        fasttext_classifier.load(Store(), str(path))


PLAIN = Kind(words=WORDS)
PRUNED = Kind(words=WORDS, quantised=True, norms=True, pruned=0.2)
QUANTISED = Kind(words=WORDS, quantised=True, output_quantised=True, part=3)


def places(path: Path, kind: Kind) -> dict[str, int]:
    """Where the parts of a model file begin. See tests/support/fasttext_files.py."""
    whole = path.read_bytes()
    (count,), (kept,) = struct.unpack_from("<i", whole, 64), struct.unpack_from("<q", whole, 84)
    last = at = 92
    for _ in range(count):
        last, at = at, whole.index(b"\0", at) + 10
    matrix = at + 8 * max(kept, 0)
    rows, codes = struct.unpack_from("<q", whole, matrix + 1), struct.unpack_from("<i", whole, matrix + 18)[0]
    codebook = matrix + 22 + codes
    output = matrix + 17 + 4 * rows[0] * kind.dimension
    return {"first": 92, "last": whole.index(b"\0", last), "pairs": at, "flag": matrix, "matrix": matrix + 1,
            "codebook": codebook, "output": output}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "place", "offset", "layout", "value", "message"),
    [
        (PLAIN, "first", len("</s>") + 9, "B", 1, "labels among its words"),
        (PLAIN, "last", 9, "B", 0, "labels among its words"),
        (PLAIN, "last", 1, "q", -1, "an impossible label count"),
        (PLAIN, "last", 1, "q", 10**15, "an impossible label count"),
        (PLAIN, "last", 1, "q", 10**15 - 1, None),
        (PRUNED, "pairs", 0, "i", 500, "a kept bucket out of range"),
        (PRUNED, "pairs", 0, "i", 499, None),
        (PRUNED, "pairs", 0, "i", -1, "a kept bucket out of range"),
        (PRUNED, "pairs", 4, "i", "kept", "a kept row out of range"),
        (PRUNED, "pairs", 4, "i", -1, "a kept row out of range"),
        (PRUNED, "flag", 0, "B", 0, "pruned and not quantised"),
        (PLAIN, "matrix", 8, "q", 7, "a matrix of 7 columns, and wanted 8"),
        (PLAIN, "matrix", 0, "q", -1, r"a negative number of values \(-8\)"),
        (PLAIN, "output", 0, "B", 1, None),  # quantised labels beside rows that are not: fastText reads them as plain
        (PLAIN, "output", 1, "q", 4, "4 rows of labels, and wanted 5"),
        (PLAIN, "output", 9, "q", 9, "a matrix of 9 columns, and wanted 8"),
        (QUANTISED, "matrix", 9, "q", 7, "a matrix of 7 columns, and wanted 8"),
        (QUANTISED, "matrix", 1, "q", 3, "codes for 3 rows of 3 parts"),
        (QUANTISED, "matrix", 1, "q", -1, "codes for -1 rows of 3 parts"),
        (QUANTISED, "matrix", 17, "i", -1, r"a negative number of values \(-1\)"),
        (QUANTISED, "codebook", 0, "i", 9, "3 parts of 3 of 9 columns"),
        (QUANTISED, "codebook", 4, "i", 4, "4 parts of 3 of 8 columns"),
        (QUANTISED, "codebook", 8, "i", 0, "3 parts of 0 of 8 columns"),
        (QUANTISED, "codebook", 8, "i", 4, "3 parts of 4 of 8 columns"),
        (QUANTISED, "codebook", 12, "i", 3, "3 parts of 3 of 8 columns"),
        (replace(PLAIN, word_ngrams=20, maxn=20), "first", 0, "B", ord("x"), None),
    ],
)  # fmt: skip
def test_each_number_of_a_damaged_file_is_checked(tmp_path, kind, place, offset, layout, value, message):
    path = write_model(tmp_path / "model.bin", kind)
    changed = bytearray(path.read_bytes())
    if value == "kept":
        (value,) = struct.unpack_from("<q", changed, 84)
    struct.pack_into(f"<{layout}", changed, places(path, kind)[place] + offset, value)
    path.write_bytes(changed)
    if message is None:
        read_model_file(path)
        return
    with pytest.raises(ConfigError, match=rf"model\.bin: this fastText model is damaged: .*{message}"):
        read_model_file(path)


def test_the_rows_of_a_model_are_those_of_its_words_and_buckets(tmp_path):
    """Without n-grams the rows of buckets may be missing, or there; with n-grams none may be missing."""
    for kind, rows, holds in (
        (PLAIN, 511, False), (PLAIN, 513, False),
        (replace(PLAIN, minn=0, maxn=0), 12, True), (replace(PLAIN, minn=0, maxn=0), 400, True),
        (replace(PLAIN, minn=0, maxn=0), 11, False),
        (replace(PLAIN, minn=0, maxn=0, word_ngrams=2), 12, False),
    ):  # fmt: skip
        path = write_model(tmp_path / "model.bin", kind)
        whole, matrix = path.read_bytes(), places(path, kind)["matrix"]
        after = matrix + 16 + 4 * 8 * 512
        middle = struct.pack("<q", rows) + whole[matrix + 8 : matrix + 16] + bytes(4 * 8 * rows)
        path.write_bytes(whole[:matrix] + middle + whole[after:])
        if holds:
            assert len(read_model_file(path).rows) == rows
        else:
            with pytest.raises(ConfigError, match=rf"{rows} rows, and wanted 512"):
                read_model_file(path)


def test_a_file_cut_anywhere_is_short_and_a_newer_version_is_no_model(tmp_path):
    kind = Kind(words=("a",), dimension=1, buckets=1, labels=1, end=False)
    path = write_model(tmp_path / "model.bin", kind)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(StorageError, match="shorter than its header requires"):
            read_model_file(path)
    for at, value in ((0, 793712313), (4, 13)):
        changed = bytearray(whole)
        struct.pack_into("<i", changed, at, value)
        path.write_bytes(changed)
        with pytest.raises(ConfigError, match="this is not a fastText model"):
            read_model_file(path)


def test_a_quantised_model_may_take_so_much_memory_and_no_more(tmp_path, monkeypatch):
    path = write_model(tmp_path / "model.bin", QUANTISED)
    size = 4 * 8 * 512  # of the rows; the 5 of the labels are fewer
    monkeypatch.setattr(fasttext_file, "_MOST_ROW_BYTES", size)
    assert read_model_file(path).rows.nbytes == size
    monkeypatch.setattr(fasttext_file, "_MOST_ROW_BYTES", size - 1)
    with pytest.raises(ConfigError, match=r"takes 16,384 bytes in memory; at most 16,383"):
        read_model_file(path)


def test_a_small_file_takes_no_huge_memory(tmp_path):
    """Rows of one code each: with a thousand dimensions a file of 2 MB has rows of 4 GiB."""
    dimension, rows = 1024, 1 << 20
    kind = Kind(words=WORDS, quantised=True, dimension=dimension, part=dimension, buckets=rows, labels=2, maxn=2)
    path = write_model(tmp_path / "model.ftz", kind)
    size = path.stat().st_size
    assert rows < size < 40 * rows
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=rf"of {size:,} bytes takes 4,29.* at most {64 * size:,} are possible"):
            read_model_file(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [2, 16])
def test_rows_of_a_quantised_model_may_grow_as_its_parts_require(tmp_path, part):
    kind = Kind(words=WORDS, quantised=True, dimension=32, part=part, buckets=100_000, norms=True)
    path = write_model(tmp_path / "model.ftz", kind)
    assert read_model_file(path).rows.nbytes == 4 * 32 * (100_000 + 1 + len(WORDS))


@pytest.mark.parametrize("weight", ["nan", "inf", "-3e38", "1000001"])
@pytest.mark.parametrize("place", ["rows", "output"])
def test_a_weight_that_is_no_number_or_has_no_finite_products_is_an_error(tmp_path, weight, place):
    path = write_model(tmp_path / "model.bin", PLAIN)
    changed = bytearray(path.read_bytes())
    struct.pack_into(
        "<f", changed, -4 % len(changed) if place == "output" else places(path, PLAIN)["matrix"] + 16, float(weight)
    )
    path.write_bytes(changed)
    with pytest.raises(ConfigError, match=rf"a weight of {re.escape(f'{np.float32(weight):g}')}"):
        fasttext_classifier.load(Store(), str(path))


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("weight", [1e6, -1e6, 3e38, np.inf, np.nan])
def test_no_weights_give_a_probability_beyond_0_and_1(tmp_path, loss, weight):
    """A product that is no number indexed the table of the sigmoid beyond its ends."""
    model = read_model_file(write_model(tmp_path / "model.bin", replace(PLAIN, loss=loss)))
    model.rows[:], model.rows[:, 0], model.output[:] = weight, -weight, weight
    model.output[0] = 0
    found = fasttext_classifier.Classifier(tmp_path, model)
    texts = Texts.from_strings(["the word", "unknown", ""])
    labels, scores = found.best(texts)
    assert ((labels >= -1) & (labels < 5)).all()
    for some in (scores, *(found.score(texts, label) for label in found.labels)):
        assert ((some >= 0) & (some <= 1)).all() or not abs(weight) <= 1e6  # of what is refused: no number


def test_no_product_reads_the_table_of_the_sigmoid_beyond_its_ends():
    products = np.array([np.nan, -np.inf, -8.1, -8, 8, 8.1, np.inf, 1e38, -1e38, 0], np.float32)
    _to_probabilities(products, False, sigmoids := np.linspace(0.25, 0.75, 513, dtype=np.float32))
    assert products.tolist() == [0, 0, 0, sigmoids[0], sigmoids[512], 1, 1, 1, 0, 0.5]


def test_a_model_beyond_the_bounds_is_refused_in_a_sentence(tmp_path):
    for dimension, labels in ((1025, 1), (1_200_000, 1), (1, (1 << 15) + 1)):
        path = write_model(tmp_path / "model.bin", Kind(dimension=dimension, labels=labels, buckets=1, words=("the",)))
        with pytest.raises(
            ConfigError, match=rf"{dimension:,} dimensions and {labels:,} labels; at most 1,024 and 32,7"
        ):
            fasttext_classifier.load(Store(), str(path))
    for dimension, labels in ((1024, 1), (1, 1 << 15)):
        path = write_model(tmp_path / "model.bin", Kind(dimension=dimension, labels=labels, buckets=1, words=("the",)))
        assert read_model_file(path).dimension == dimension


@pytest.mark.parametrize("loss", [Loss.SOFTMAX, Loss.HIERARCHICAL_SOFTMAX])
def test_memory_of_many_short_texts_does_not_grow_with_texts_times_dimension(tmp_path, loss, monkeypatch):
    model = fasttext_classifier.load(
        Store(), str(write_model(tmp_path / "model.bin", replace(PLAIN, loss=loss, dimension=300)))
    )
    texts = Texts.from_strings(["the word", "x", ""] * 20_000)  # 73 MB of mean rows
    expected = [model.best(Texts.from_strings(["the word", "x", ""])), model.score(texts, "l1")[:3]]
    tracemalloc.start()
    try:
        labels, scores = model.best(texts)
        score = model.score(texts, "l1")
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    for found, wanted in ((labels, expected[0][0]), (scores, expected[0][1]), (score, expected[1])):
        assert (found.reshape(-1, 3) == wanted).all()
    assert len(model.best(Texts.from_strings([]))[0]) == len(model.score(Texts.from_strings([]), "l1")) == 0
