"""Decontamination: texts of evaluation sets are found in documents, and nothing else is."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.rules.decontamination import SIGNAL, Decontamination, EvaluationSet
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.common_runs import MOST_PLACES, common_runs, index_passages
from raymill.pipelines.text.texts import Texts

QUESTION = (
    "A baker in the old town sells 48 rolls on Monday, half as many on Tuesday, and twice Monday's number on "
    "Wednesday. Each roll costs $1.25. How much money does the baker earn in these three days altogether?"
)
ANSWER = (
    "On Tuesday the baker sells 48/2 = <<48/2=24>>24 rolls, on Wednesday 48*2 = <<48*2=96>>96 rolls. "
    "In three days these are 48+24+96 = 168 rolls, which bring in 168*1.25 = $210 altogether.\n#### 210"
)
PROSE = (
    "This document gives coding conventions for the code of the standard library in the main distribution. Please see "
    "the companion informational document with style guidelines for the code in the other implementation. "
)


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rule_for(path: str, columns: tuple[str, ...] = ("question", "answer"), **changes) -> Decontamination:
    return Decontamination(sets=(EvaluationSet(name="bakery", path=path, columns=columns),), **changes)


@pytest.fixture
def path(tmp_path) -> str:
    rows = [{"question": f"An unrelated question number {n} of no interest at all", "answer": "4"} for n in range(3)]
    return written(tmp_path / "set.jsonl", [*rows, {"question": QUESTION, "answer": ANSWER}])


def fractions(rule: Decontamination, texts: list[str]) -> list[float]:
    analysis = Analysis(Texts.from_strings(texts), "paper", pa.table({"row": range(len(texts))}), Store())
    return rule.measure(analysis)[SIGNAL].tolist()


def test_a_set_that_changes_is_read_again(tmp_path):
    rule = rule_for(written(tmp_path / "set.jsonl", [{"question": PROSE, "answer": "4"}]))
    assert fractions(rule, [QUESTION]) == [0]
    written(tmp_path / "set.jsonl", [{"question": QUESTION, "answer": "4"}])
    assert fractions(rule, [QUESTION]) == [1]


def is_removed(rule: Decontamination, text: str) -> bool:
    values = np.array(fractions(rule, [PROSE, text]))
    removed = np.zeros(2, bool)
    for check in rule.checks("paper"):
        removed |= check.fails(values)
    assert not removed[0]
    return bool(removed[1])


LEAKS = {
    "verbatim": QUESTION,
    "embedded": PROSE + QUESTION + " " + PROSE,
    "embedded in a word's place": f"{PROSE}[{QUESTION}]{PROSE}",
    "question and answer": f"Q: {QUESTION}\nA: {ANSWER}",
    "answer": ANSWER,
    "re-spaced": QUESTION.replace(" ", "  \n\t "),
    "one word a line": QUESTION.replace(" ", "\n"),
    "upper case": QUESTION.upper(),
    "title case": QUESTION.title().replace("'S", "'s"),
    "other punctuation": re.sub(r"[^\w\s']", " -- ", QUESTION),
    "markup": " ".join(f"**{word}**" for word in QUESTION.split()),
    "first 60%": QUESTION[: int(0.6 * len(QUESTION))],
    "last 60%": QUESTION[int(0.4 * len(QUESTION)) :],
    "middle 60%": PROSE + QUESTION[int(0.2 * len(QUESTION)) : int(0.8 * len(QUESTION))] + PROSE,
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_of_every_kind_are_found(path, leak):
    assert is_removed(rule_for(path), LEAKS[leak])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        PROSE,
        QUESTION[: int(0.4 * len(QUESTION))],
        " ".join(reversed(QUESTION.split())),
        " ".join(word for number, word in enumerate(QUESTION.split()) if number % 12),
        "A baker sells 48 rolls on Monday. How much money does the baker earn?",
        " ... ".join(" ".join(QUESTION.split()[at : at + 12]) + " xyz" for at in range(0, 36, 12)),
        "4",
    ],
)
def test_other_documents_are_not(path, text):
    assert not is_removed(rule_for(path), text)


def test_the_fraction_equals_the_one_of_the_longest_run(path):
    words = re.findall(r"\w+", QUESTION)
    rule = rule_for(path)
    begun, other = " ".join(words[:20]), " ".join(words[22:36])
    assert fractions(rule, [begun, f"{begun} xyz {other}", other, " ".join(words[:12]), QUESTION]) == [
        pytest.approx(20 / len(words)),
        pytest.approx(20 / len(words)),
        pytest.approx(14 / len(words)),
        0,
        1,
    ]


def test_a_document_at_the_bound_stays(path):
    words = re.findall(r"\w+", QUESTION)
    half = len(words) // 2
    rule = rule_for(path, max_fraction=half / len(words))
    assert not is_removed(rule, " ".join(words[:half]))
    assert is_removed(rule, " ".join(words[: half + 1]))
    assert not is_removed(rule_for(path, remove=False), QUESTION)


def test_a_short_text_is_found_as_a_whole_and_one_under_eight_words_is_not(tmp_path):
    texts = ["one two three four five six seven", "one two three four five six seven eight nine"]
    rule = rule_for(written(tmp_path / "set.jsonl", [{"question": text} for text in texts]), ("question",))
    assert fractions(rule, ["zero " + texts[0] + " ten", texts[1] + " ten", texts[1][:-5]]) == [0, 1, 0]
    assert rule.examples(Store()).summary == (
        "bakery: 1 text of 2 examples; 1 of fewer than 8 words are not looked for",
    )


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_all_examples_of_a_set_are_counted_also_those_without_a_text(tmp_path, ending):
    texts = ["too short", "one two three four five six seven eight nine", None, "short"]
    file = tmp_path / f"set{ending}"
    if ending == ".jsonl":
        written(file, [{"question": text} for text in texts])
    else:
        pq.write_table(pa.table({"question": texts}), file)
    assert rule_for(str(file), ("question",)).examples(Store()).summary == (
        "bakery: 1 text of 4 examples; 2 of fewer than 8 words are not looked for",
    )


def test_of_a_long_match_the_first_thousand_characters_are_listed(tmp_path):
    text = " ".join(f"word{number}" for number in range(300))
    rule = rule_for(written(tmp_path / "set.jsonl", [{"question": text}]), ("question",))
    (row,) = rule.matches(Texts.from_strings([f"Before: {text} after."]), Store()).to_pylist()
    assert (row["start"], row["end"], row["text"]) == (8, 8 + len(text), text[:1000])


def test_a_match_has_set_example_and_span(path):
    start = "Ünïcödé ☃ — "
    texts = Texts.from_strings([PROSE, start + QUESTION + " " + ANSWER, QUESTION.upper()])
    rows = rule_for(path).matches(texts, Store()).to_pylist()
    assert [(row["document"], row["set"], row["example"], row["column"], row["fraction"]) for row in rows] == [
        (1, "bakery", 3, "question", 1),
        (1, "bakery", 3, "answer", 1),
        (2, "bakery", 3, "question", 1),
    ]
    for row in rows:
        assert row["text"] == texts[row["document"]][row["start"] : row["end"]]
    assert rows[0]["text"] == QUESTION[:-1]  # without the question mark, which is not part of a word
    assert rows[0]["words"] == len(re.findall(r"\w+", QUESTION))


def test_texts_are_normalised_as_documents_are(tmp_path):
    text = (
        "Le cafe\u0301 ou\u0300 l'on sert de\u0301ja\u0300 du the\u0301 est tre\u0300s\u00a0agre\u0301able le soir venu"
    )
    rule = rule_for(written(tmp_path / "set.jsonl", [{"question": text}]), ("question",))
    assert fractions(rule, ["Le café où l'on sert déjà du thé est très agréable le soir venu"]) == [1]


def test_parquet_compressed_lines_and_nulls_are_read(tmp_path):
    columns = {"id": [1, 2], "question": [None, QUESTION], "answer": [ANSWER, None]}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    (tmp_path / "set.jsonl.gz").write_bytes(
        gzip.compress(b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row).encode() for row in pa.table(columns).to_pylist()))
    )
    for name in ("set.parquet", "set.jsonl.gz"):
        rows = rule_for(str(tmp_path / name)).matches(Texts.from_strings([QUESTION, ANSWER]), Store()).to_pylist()
        assert [(row["document"], row["example"], row["column"]) for row in rows] == [
            (0, 1, "question"),
            (1, 0, "answer"),
        ]


# --- the definition, written out

WORD = st.sampled_from(["a", "b", "c", "毒"])
WORDS = st.lists(WORD, max_size=14)


def longest_run(document: list[str], passage: list[str]) -> tuple[int, int]:
    """(words of the longest run that both have, its first place in the document)."""
    best = (0, 0)
    for at in range(len(document)):
        for start in range(len(passage)):
            run = 0
            while at + run < len(document) and start + run < len(passage):
                if document[at + run] != passage[start + run]:
                    break
                run += 1
            if run > best[0]:
                best = (run, at)
    return best


@settings(max_examples=200)
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS.filter(len), min_size=1, max_size=4), st.integers(1, 6))
def test_common_runs_agree_with_their_definition_whatever_the_table(documents, passages, least):
    texts = [" ".join(words) for words in documents]
    found = common_runs(
        Texts.from_strings(texts), index_passages(Texts.from_strings([" ".join(words) for words in passages]), least)
    )
    runs = zip(found.document, found.passage, found.tokens, strict=True)
    spans = [texts[d].encode() for d in found.document]
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    wanted, wanted_texts = [], []
    for document, words in enumerate(documents):
        for passage, others in enumerate(passages):
            run, at = longest_run(words, others)
            if run >= min(least, len(others)):
                wanted.append((document, passage, run))
                wanted_texts.append(" ".join(words[at : at + run]))
    assert [tuple(map(int, run)) for run in runs] == wanted
    begins, ends = found.begin - offsets[found.document], found.end - offsets[found.document]
    assert [s[b:e].decode() for s, b, e in zip(spans, begins, ends, strict=True)] == wanted_texts


def test_a_preamble_of_very_many_examples_is_left_to_the_rest_of_their_texts():
    """n-grams at very many places are not in the table: a grid of zeros would otherwise take minutes a document."""
    preamble = "read the text below and answer the question that follows it with one word or two"
    texts = [f"{preamble} {' '.join(f'w{number}x{at}' for at in range(20))}" for number in range(MOST_PLACES + 1)]
    passages = index_passages(Texts.from_strings(texts), 13)
    found = common_runs(Texts.from_strings([preamble, texts[7]]), passages)
    assert (found.document.tolist(), found.passage.tolist()) == ([1], [7])
    assert found.tokens.tolist() == passages.token_counts[[7]].tolist()
    zeros = index_passages(Texts.from_strings(["0 " * 2000]), 13)
    assert len(common_runs(Texts.from_strings(["0 " * 2000]), zeros).document) == 0


# --- settings and files that cannot work


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.jsonl", b'{"questions": "a"}\n', r"line 1: has no column question; .*Did you mean questions\?"),
        ("set.jsonl", b'{"question": "a"}\n[1]\n', "line 2: is not a JSON object"),
        ("set.jsonl", b'{"question": ["a"]}\n', "line 1: question holds a list, and texts are strings"),
        ("set.jsonl", b"", "has no text of 8 words or more in question"),
        ("set.jsonl", b'{"question": "four"}\n', "has no text of 8 words or more in question"),
        ("set.jsonl.gz", b'{"question": "four"}\n', "cannot be decompressed"),
        ("set.csv", b"question\n", "is of no format that sets are read from"),
        ("set.parquet", b"question", "is not a readable Parquet file"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"decontamination\.sets: bakery: .*{re.escape(name)}.*{message}"):
        fractions(rule_for(str(tmp_path / name), ("question",)), [])


def test_wrong_columns_of_parquet_are_refused(tmp_path):
    pq.write_table(pa.table({"question": [1], "choices": [["a"]], "text": ["b"]}), tmp_path / "set.parquet")
    path = str(tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=r"has no column anser; there are: question, choices, text\."):
        fractions(rule_for(path, ("anser",)), [])
    with pytest.raises(ConfigError, match="column question holds int64, and texts are strings"):
        fractions(rule_for(path, ("question",)), [])
    with pytest.raises(ConfigError, match=r"column choices holds list<.*>, and texts are strings"):
        fractions(rule_for(path, ("choices",)), [])


def test_the_errors_of_several_sets_are_reported_together(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    sets = [
        EvaluationSet(name=name, path=str(tmp_path / f"{name}.jsonl"), columns=("a",)) for name in ("empty", "gone")
    ]
    with pytest.raises(StorageError, match=r"gone\.jsonl"):
        fractions(Decontamination(sets=tuple(sets[1:])), [])
    with pytest.raises(ConfigError, match=r"(?s)empty: .*has no text.*\n.*gone\.jsonl"):
        fractions(Decontamination(sets=tuple(sets)), [])
    assert [Path(file).name for file in Decontamination(sets=tuple(sets)).fingerprint_files()] == [
        "empty.jsonl",
        "gone.jsonl",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"sets": []},
        {"sets": [{"name": "a", "path": "x.jsonl"}]},
        {"sets": [{"name": "a", "path": "x.jsonl", "columns": []}]},
        {"sets": [{"name": "a/b", "path": "x.jsonl", "columns": ["text"]}]},
        {"sets": [{"name": "a", "path": "x.jsonl", "columns": ["text"], "colums": 1}]},
        {"sets": [{"name": "a", "path": "x.jsonl", "columns": ["text"]}], "max_fraction": 1},
        {"sets": [{"name": "a", "path": "x.jsonl", "columns": ["text"]}], "ngram_words": 0},
        {"sets": [{"name": "a", "path": "x.jsonl", "columns": ["text"]}] * 2},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises((ValidationError, ConfigError)):
        TypeAdapter(Decontamination).validate_python(wrong)
