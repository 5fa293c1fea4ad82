"""What is wrong with an answer, by itself and beside its question, as pure functions of text.

Words are runs of letters, marks, numbers and underscores, in lower case.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from raymill.pipelines.prepare.records.sections import has_open_fence

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?\n]+\s*")

# Of `copied_share`: five words in a row are rarely equal by chance.
_RUN = 5

# Of `shared_words`. The first letters stand for a word and its inflections, without a stemmer for each language:
# McNamee and Mayfield 2004, Character n-gram tokenization for European language text retrieval.
_LEAST_LETTERS = 4
_STEM_LETTERS = 5

_FENCED = re.compile(r"(```|~~~).*?(?:\1|\Z)", re.DOTALL)
_BRACKET = re.compile(r"[:;=]-?[(\[]|[()\[\]{}]")  # with faces, which are no brackets
_NEAR_THE_END = 200  # characters; an open bracket before them is a slip
_OPEN_AT_END = (*",([{\u201c\u00ab\u2014\u2013", " -")
_CUT_WORD = re.compile(r"[^\W\d_]-$")
# English words after which no sentence ends.
_NO_LAST_WORD = frozenset(
    {"the", "an", "and", "or", "my", "your", "our", "their", "its", "every", "because", "although"}
    | {"whereas", "whose", "if", "unless", "whether"}
)
_ENDED_SENTENCE = re.compile(r"[^\W\d_]{2}[)\"'\u201d\u2019]*[.!?][)\"'\u201d\u2019]*\s")
_NO_PROSE = re.compile(r"\s*(?:[-*+>|#\u2022]|\d+[.)]|[A-Za-z][.)]\s|https?://)")
_LEAST_WORDS_OF_A_LINE = 5


def words(text: str) -> list[str]:
    """Its words in order."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """Its sentences in lower case, with straight apostrophes."""
    return _SENTENCE_END.split(text.lower().replace("\u2019", "'"))


def shared_words(question: Collection[str], answer: Collection[str]) -> float:
    """The share of words that two texts have in common, of those of the text with fewer, in [0, 1].

    Distinct words count, by their first five letters: words of at least four, and all numbers. 1 if a text has none.
    Source: the overlap coefficient, Szymkiewicz 1934 and Simpson 1943.
    """
    one, other = _stems(question), _stems(answer)
    least = min(len(one), len(other))
    return len(one & other) / least if least else 1.0


def _stems(found: Collection[str]) -> set[str]:
    return {word[:_STEM_LETTERS] for word in found if len(word) >= _LEAST_LETTERS or word[0].isdigit()}


def copied_share(question: Sequence[str], answer: Sequence[str], least: float) -> float:
    """The share of the answer's runs of five words that the question also has, in [0, 1]; 0 if it is below `least`.

    0 of an answer with fewer than five words.
    """
    runs = len(answer) - _RUN + 1
    if runs < 1 or len(question) < _RUN:
        return 0.0
    known = set(question)
    if sum(word in known for word in answer) < least * runs:
        return 0.0
    asked = {tuple(question[at : at + _RUN]) for at in range(len(question) - _RUN + 1)}
    share = sum(tuple(answer[at : at + _RUN]) in asked for at in range(runs)) / runs
    return share if share >= least else 0.0


def consists_of(answer: Sequence[str], phrases: tuple[str, ...]) -> bool:
    """Whether all sentences begin with one of the phrases, as whole words. answer: sentences. Both in lower case."""
    return any(answer) and all(not one or _begins_with_word(one, phrases) for one in answer)


def _begins_with_word(sentence: str, phrases: tuple[str, ...]) -> bool:
    if not sentence.startswith(phrases):
        return False
    return any(sentence.startswith(one) and not sentence[len(one) : len(one) + 1].isalnum() for one in phrases)


def begins_with(answer: Sequence[str], phrases: tuple[str, ...]) -> tuple[str, str] | None:
    """(the first sentence that begins with one of the phrases, that phrase); None without one."""
    if not phrases:
        return None
    found = next((one for one in answer if one.startswith(phrases)), None)
    return None if found is None else (found, next(one for one in phrases if found.startswith(one)))


def cut_off(text: str) -> str | None:
    """What shows that a text was cut off, in words; None if nothing does.

    An open code fence or bracket at the end; a comma, dash or hyphen as the last character; an English word
    after which no sentence ends. Text in code fences has no brackets here.
    """
    text = text.rstrip()
    if "```" in text or "~~~" in text:
        if has_open_fence(text):
            return "a code fence is open"
        text = _FENCED.sub("", text).rstrip()
    opened = text.count("(") + text.count("[") + text.count("{")
    if opened > text.count(")") + text.count("]") + text.count("}") and (found := _open_bracket(text)) is not None:
        return f"the bracket {found} is open"
    last = text[text.rfind("\n") + 1 :]
    if text.endswith(_OPEN_AT_END) and len(last.split()) >= _LEAST_WORDS_OF_A_LINE:
        return f"it ends with {text[-1]}"
    if _CUT_WORD.search(text[-2:]):
        return "it ends with a hyphen"
    word = text[max(text.rfind(" "), text.rfind("\n")) + 1 :]
    return f"it ends with `{word}`" if word in _NO_LAST_WORD else None


def _open_bracket(text: str) -> str | None:
    """The last bracket that is open at the end of a text, if it is near the end. Kinds are not told apart: [0, 1)."""
    held: list[tuple[int, str]] = []
    for found in _BRACKET.finditer(text):
        bracket = found.group()
        if bracket in "([{":
            held.append((found.start(), bracket))
        elif held and bracket in ")]}":
            held.pop()
    return held[-1][1] if held and held[-1][0] >= len(text) - _NEAR_THE_END else None


def without_last_mark(text: str) -> bool:
    """Whether the last sentence has no mark at its end although an earlier one has.

    The last line counts if it is prose: it ends with a letter, has at least five words, and is no item of a list,
    heading, quote, row of a table or address.
    """
    text = text.rstrip()
    if not text[-1:].isalpha():
        return False
    last = text[text.rfind("\n") + 1 :]
    if _NO_PROSE.match(last) or len(last.split()) < _LEAST_WORDS_OF_A_LINE:
        return False
    return _ENDED_SENTENCE.search(text) is not None


def parsed_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON (RFC 8259), which has no NaN and no infinities, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")
