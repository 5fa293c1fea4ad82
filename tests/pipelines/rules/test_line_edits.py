"""The rule `line_edits`: on readable pages, against slow Python code of its definition, and in a corpus."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raymill.cluster.store.store import Store
from raymill.pipelines.rules.line_edits import LineEdits
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.characters import UNSPACED, WORD, tables
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline
from tests.support.stories import story

CUT = {
    "capitals": "READ THE WHOLE Story",
    "digits": "20261126",
    "counter": "3 likes",
    "counter in thousands": "1.2K   Views",
    "counter in brackets": "(14 comments)",
    "one word": "Share",
    "a phrase alone": "3 items in cart",
    "a link": "Read more...",
}
KEPT = {
    "a sentence": "The harbour was rebuilt after the storm of 1887.",
    "few capitals": "The NATO summit",
    "numbers": "12 34",
    "a number of other things": "3 boats",
    "a counter in a sentence": "It has 3 likes today",
    "a long line with a phrase": "She had many items in cart number seven when the lights went out again",
    "chinese": "港口在风暴后重建",
}


@pytest.mark.parametrize("line", CUT.values(), ids=CUT)
def test_lines_that_are_no_prose_are_cut(line):
    after = {"3 items in cart": "\n3"}.get(line, "")
    assert edited(f"One line of prose.\n{line}\nAnother line.") == f"One line of prose.{after}\nAnother line."


@pytest.mark.parametrize("line", KEPT.values(), ids=KEPT)
def test_lines_of_prose_stay(line):
    text = f"One line of prose.\n{line}\nAnother line."
    assert edited(text) == text


def test_short_lines_lose_phrases():
    text = "Sign-in to comment on this\nWhat the storm did read more...\nYou have 7 items in cart right now"
    assert edited(text) == "to comment on this\nWhat the storm did\nYou have 7 right now"


def test_no_two_blank_lines_are_left_where_a_line_was():
    assert edited("One line.\n\nShare\n\n3 likes\n\nAnother line.") == "One line.\n\nAnother line."
    assert edited("One line.\n\n\n\nAnother line.") == "One line.\n\n\n\nAnother line."


def test_a_document_that_loses_too_many_words_is_removed():
    prose = "The harbour was rebuilt after the storm. " * 5  # 35 words
    signals = measured([prose, f"{prose}\nShare", f"{prose}\nShare\n3 likes", "Share", ""])
    assert np.allclose(signals, [0, 1 / 36, 3 / 38, 1, math.nan], equal_nan=True)
    [check] = LineEdits().checks("paper")
    assert check.fails(signals).tolist() == [False, False, True, True, False]


def edited(text: str) -> str:
    return LineEdits().clean(Texts.from_strings([text])).to_arrow().to_pylist()[0]


def measured(texts: list[str], rule: LineEdits | None = None) -> np.ndarray:
    rule = rule or LineEdits()
    analysis = Analysis(Texts.from_strings(texts), "paper", pa.table({"id": range(len(texts))}), Store())
    return rule.measure(analysis)["line_edits_removed_fraction"]


# ---- slow code of the definition

_COUNTER = re.compile(
    r"(?i)^[^\w]*[0-9][0-9.,]*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|"
    r"downloads|views|followers)[^\w]*$"
)


def words_of(line: str) -> int:
    flags = tables()[0]
    spaced = "".join(f" {one} " if flags[ord(one)] & UNSPACED else one for one in line)
    return len(spaced.split())


def edited_slowly(text: str, rule: LineEdits) -> tuple[str, int, int]:
    """(the text, words before, words after)."""
    lower = tables()[1]
    kept: list[str] = []
    after, cut = 0, False
    for line in text.split("\n"):
        words = words_of(line)
        if not words:
            if not (cut and not (kept and kept[-1].split())):
                kept.append(line)
            continue
        upper = sum(int(lower[ord(one)]) != ord(one) for one in line)
        if (
            upper > rule.max_uppercase_fraction * len(line)
            or all(one.isdigit() for one in line)
            or words < rule.min_words
            or _COUNTER.match(line)
        ):
            cut = True
            continue
        if words <= 10:
            line = re.sub(r" ?items in cart", "", line, flags=re.I | re.A)
            line = re.sub(r" ?read more\.\.\.\Z", "", line, flags=re.I | re.A)
            line = re.sub(r"\Asign-in ?", "", line, flags=re.I | re.A)
            if not words_of(line):
                cut = True
                continue
        kept.append(line)
        after += words_of(line)
        cut = False
    return "\n".join(kept).strip(), sum(map(words_of, text.split("\n"))), after


PIECES = st.sampled_from(
    [
        *(
            "\n",
            "\n\n",
            " ",
            "a",
            "The boat",
            "ABC",
            "É",
            "3",
            "²",
            "1,2k",
            " likes",
            " Views",
            "(",
            ".",
            "_",
            "港",
            "ไทย",
        ),
        *(
            "items in cart",
            " Items In Cart",
            "read more...",
            "READ MORE...",
            "Sign-in",
            "sign-in ",
            "ſign-in",
            "...",
            "é",
        ),
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from([LineEdits(), LineEdits(min_words=1)]))
@example("items items in cart in cart", LineEdits())
def test_edits_are_those_of_slow_code(text, rule):
    text = text.strip()
    assert all(not tables()[0][ord(one)] & WORD or one.isalnum() for one in text)  # \w of the expression is the same
    wanted, before, after = edited_slowly(text, rule)
    assert rule.clean(Texts.from_strings([text])).to_arrow().to_pylist() == [wanted]
    assert measured([text], rule)[0] == ((before - after) / before if before else pytest.approx(math.nan, nan_ok=True))


def test_the_corpus_is_without_what_is_cut_and_the_ledger_has_the_rest(tmp_path, monkeypatch):
    prose = "\n".join(story(number) for number in range(4))
    texts = [f"{prose}\nShare", f"{story(9)}\n" + "Share\n" * 40]
    pq.write_table(pa.table({"id": ["a", "b"], "text": texts}), tmp_path / "in.parquet")
    settings = {
        "inputs": [{"path": f"{tmp_path}/in.parquet", "id": "id"}],
        "output": f"{tmp_path}/out",
        "language": None,
        "rules": {"packs": [], "line_edits": {}},
    }
    run = curate_inline(settings, monkeypatch)
    assert run.corpus.table()["text"].to_pylist() == [prose]
    [removed] = run.removed.table().to_pylist()
    assert (removed["id"], removed["reason"], removed["threshold"]) == ("b", "too_many_words_cut", 0.05)
