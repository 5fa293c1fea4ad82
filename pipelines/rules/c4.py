"""C4's rules: pages without sentences, with code or placeholder text; and lines that are no prose."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
from numba import njit
from pydantic import ConfigDict, Field

from pipelines.analysis import Analysis
from pipelines.characters import DIGIT, LINE_END, SPACE, SYMBOL, UNSPACED, code_point, tables
from pipelines.datatrove_tables import TERMINAL, character_classes
from pipelines.datatrove_words import ENDS_SENTENCE, ONLY_MARKS
from pipelines.lines import after_line_end, strip
from pipelines.rules.rule import Check, Dialect
from pipelines.texts import Texts
from pipelines.words import split_words

# What makes a line, or a document, unwanted. Raffel et al. 2020 name lorem ipsum, javascript and the curly bracket; the
# policies come from the published C4 code (tensorflow_datasets, text/c4_utils.py) through datatrove 0.10.1.
LOREM_IPSUM, JAVASCRIPT, POLICY, CURLY_BRACKET, SQUARE_BRACKET = 1, 2, 4, 8, 16
PHRASES = {
    "lorem ipsum": LOREM_IPSUM,
    "javascript": JAVASCRIPT,
    "terms of use": POLICY,
    "privacy policy": POLICY,
    "cookie policy": POLICY,
    "uses cookies": POLICY,
    "use of cookies": POLICY,
    "use cookies": POLICY,
}
# Wikipedia's marks, besides [] with any digits in it.
_EDIT, _CITATION_NEEDED = np.frombuffer(b"[edit]", np.uint8), np.frombuffer(b"[citation needed]", np.uint8)

_QUOTES = tuple(ord(quote) for quote in "\"'”’»」』")
_BRACKETS = tuple(ord(bracket) for bracket in ")]}）】》〉")
_KELVIN = 0x212A  # the one other character whose lower case is an ASCII letter by itself: k

# What a character is to the scan of a line, in bits.
_SPACE, _ENDS, _CLOSES, _SPOKEN, _CURLY, _SQUARE = 1, 2, 4, 8, 16, 32
_CUTS = 64  # the line ends here
_WIDE = 128  # the lead byte of a character beyond ASCII


@dataclass(frozen=True, kw_only=True, slots=True)
class C4:
    """Remove documents with lorem ipsum, a curly bracket, or too few sentences, after taking out lines that are no prose.

    Source: C4, Raffel et al. 2020, section 2.2, https://arxiv.org/abs/1910.10683, as datatrove 0.10.1 reads it. A line
    (str.splitlines) is taken out when it has a word of more than `max_word_length` characters, fewer than
    `min_words_per_line` words, the word javascript, a phrase about cookies or policies, or, with
    `require_terminal_punctuation`, no terminal punctuation or an ellipsis at its end. FineWeb leaves that one off, and so
    do we by default; the paper has it on. Wikipedia's citation marks ([1], [edit]) are taken out of lines. Only lines
    that reach the test make a document fall for lorem ipsum or a bracket, and the first of them gives the reason.

    The numbers are always those of the text without these lines. The corpus is written without them only where
    `remove_lines` is set; `clean` makes that text.

    Dialects. `datatrove`: words are what spaces separate; sentences are those of spaCy's sentencizer, line by line,
    at least one a line; . ? ! " and ' are terminal. `paper`: a letter of an unspaced script is a word; a sentence ends
    where a word, quotes and brackets after it aside, ends in punctuation that is sentence-final in some script, or with
    the line, and has a character that is no symbol; lines may end in any such punctuation or a closing quote.
    """

    min_sentences: Annotated[int, Field(ge=0)] = 5
    min_words_per_line: Annotated[int, Field(ge=0)] = 3
    max_word_length: Annotated[int, Field(ge=1)] = 1000
    require_terminal_punctuation: bool = False
    remove_citations: bool = True
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True
    remove_lines: bool = False

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "c4"
    reasons: ClassVar = ("lorem_ipsum", "curly_bracket", "too_few_sentences")
    signals: ClassVar = {
        "c4_lorem_ipsum": "1: a line with lorem ipsum comes first; 0: none, or a curly bracket comes before it",
        "c4_curly_bracket": "1: a line with { comes first; 0: none, or lorem ipsum comes before it",
        "c4_sentences": "sentences in the lines that stay",
        "c4_kept_characters": "characters of the text without the lines and marks that are taken out",
    }
    measured_by: ClassVar = (
        "min_words_per_line",
        "max_word_length",
        "require_terminal_punctuation",
        "remove_citations",
        "remove_javascript_lines",
        "remove_policy_lines",
        "drop_lorem_ipsum",
        "drop_curly_bracket",
    )

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        kept, found, lines, sentences = self._keep(analysis.texts, analysis.dialect)
        if analysis.dialect == "datatrove":
            words = split_words(kept, "datatrove")
            sentences = lines + _count_breaks(kept.data, kept.offsets, words.starts, words.begins, words.flags)
        begins, ends = _strip_each(kept.data, kept.offsets, tables()[0])
        return {
            "c4_lorem_ipsum": (found == LOREM_IPSUM).astype(np.int8),
            "c4_curly_bracket": (found == CURLY_BRACKET).astype(np.int8),
            "c4_sentences": sentences,
            "c4_kept_characters": _count_between(kept.data, begins, ends),
        }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (
            Check("lorem_ipsum", "c4_lorem_ipsum", maximum=0),
            Check("curly_bracket", "c4_curly_bracket", maximum=0),
            Check("too_few_sentences", "c4_sentences", minimum=self.min_sentences),
        )

    def clean(self, texts: Texts, dialect: Dialect = "paper") -> Texts:
        """The documents without the lines and marks that are taken out, remaining lines joined by line feeds.

        Lines with lorem ipsum or a curly bracket stay: it is their document that goes, and datatrove leaves the text of
        such a document as it was.
        """
        kept, *_ = self._keep(texts, dialect)
        begins, ends = _strip_each(kept.data, kept.offsets, tables()[0])
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(ends - begins, out=offsets[1:])
        return Texts(_pack(kept.data, begins, offsets), offsets)

    def _keep(self, texts: Texts, dialect: str) -> tuple[Texts, np.ndarray, np.ndarray, np.ndarray]:
        """(the lines that stay, what drops each document: 0 nothing, lines kept, their sentences in the paper dialect)."""
        char_flags, _ = tables()
        steps, phrases = _phrase_automaton()
        documents = len(texts)
        found, lines = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
        sentences, offsets = np.zeros(documents, np.int64), np.zeros(documents + 1, np.int64)
        total = int(texts.offsets[-1] - texts.offsets[0])
        kept = np.empty(total + documents, np.uint8)
        taken_out = JAVASCRIPT * self.remove_javascript_lines | POLICY * self.remove_policy_lines
        dropping = LOREM_IPSUM * self.drop_lorem_ipsum | CURLY_BRACKET * self.drop_curly_bracket
        _keep_lines(
            texts.data, texts.offsets, dialect == "datatrove", self.min_words_per_line, self.max_word_length,
            self.require_terminal_punctuation, self.remove_citations, taken_out, dropping,
            _byte_kinds(), char_flags, character_classes(), steps, phrases,
            kept, offsets, found, lines, sentences,
        )  # fmt: skip
        return Texts(kept[: offsets[-1]], offsets), found, lines, sentences


@cache
def _phrase_automaton() -> tuple[np.ndarray, np.ndarray]:
    """(next state by state and byte: uint8[S, 256], phrases that end in a state: uint8[S]), without regard to case.

    Aho and Corasick 1975. No phrase is missed by reading a text once, byte by byte.
    """
    prefixes = sorted({phrase[:length] for phrase in PHRASES for length in range(len(phrase) + 1)}, key=len)
    numbers = {prefix: number for number, prefix in enumerate(prefixes)}
    steps = np.zeros((len(prefixes), 256), np.uint8)
    phrases = np.zeros(len(prefixes), np.uint8)
    for prefix, number in numbers.items():
        for phrase, bit in PHRASES.items():
            phrases[number] |= bit * prefix.endswith(phrase)
        for letter in {*"".join(PHRASES)}:
            text = prefix + letter
            while text not in numbers:
                text = text[1:]
            steps[number, ord(letter)] = steps[number, ord(letter.upper())] = numbers[text]
    return steps, phrases


@cache
def _byte_kinds() -> np.ndarray:
    """uint8[256]: the bits above."""
    char_flags, _ = tables()
    classes = character_classes()
    kinds = np.full(256, _WIDE, np.uint8)
    for byte in range(128):
        kinds[byte] = (
            _SPACE * bool(char_flags[byte] & SPACE)
            | _ENDS * bool(classes[byte] & TERMINAL)
            | _CLOSES * (byte in _QUOTES or byte in _BRACKETS)
            | _SPOKEN * (not char_flags[byte] & (SPACE | SYMBOL))
            | _CURLY * (byte == ord("{"))
            | _SQUARE * (byte == ord("["))
            | _CUTS * bool(char_flags[byte] & LINE_END)
        )
    return kinds


@njit(cache=True, nogil=True)
def _keep_lines(
    data, offsets, datatrove, min_words, max_word_length, require_terminal, remove_citations, taken_out, dropping,
    kinds, char_flags, classes, steps, phrases,
    kept, kept_offsets, found, lines, sentences,
):  # fmt: skip
    """Write the lines that stay, and per document what drops it, how many lines stay and their sentences."""
    written = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        suspect = _may_hold_phrases(data[at:end])
        while at < end:
            stop, words, longest, marks, count = _scan(data, at, end, not datatrove, kinds, char_flags, classes)
            begin, line_stop = strip(data, at, stop, char_flags)
            at = after_line_end(data, stop, end)
            if longest > max_word_length:
                continue
            line = written
            cleaned = False  # of marks, which may have stood inside a phrase
            if lines[document]:
                kept[line] = 10
                line += 1
            if remove_citations and marks & SQUARE_BRACKET:
                cleaned = True
                line_stop = _copy_without_citations(data, begin, line_stop, kept, line, char_flags)
                _, _, _, marks, count = _scan(kept, line, line_stop, not datatrove, kinds, char_flags, classes)
            else:
                for offset in range(line_stop - begin):
                    kept[line + offset] = data[begin + offset]
                line_stop += line - begin
            if require_terminal and not _is_ended(kept, line, line_stop, datatrove, classes):
                continue
            if words < min_words:
                continue
            if (suspect or cleaned) and _may_hold_phrases(kept[line:line_stop]):
                marks |= _find_phrases(kept, line, line_stop, steps, phrases)
            # In datatrove's order: lorem ipsum, javascript, the bracket, policies.
            drops = marks & dropping
            if drops & LOREM_IPSUM:
                drops = LOREM_IPSUM
            elif marks & taken_out & JAVASCRIPT:
                continue
            if drops and not found[document]:
                found[document] = drops
            if marks & taken_out & POLICY and not drops:
                continue
            written = line_stop
            lines[document] += 1
            sentences[document] += count
        kept_offsets[document + 1] = written


@njit(cache=True, nogil=True)
def _scan(data, begin, end, unspaced, kinds, char_flags, classes):
    """Read one line: (where it ends, words, characters of the longest, brackets in it, sentences of the paper dialect)."""
    words = longest = length = sentences = seen = 0
    spoken = ended = False  # of the sentence so far: it has a character that is no symbol; it ends if the word does
    at = begin
    while at < end:
        kind = kinds[data[at]]
        if kind == _SPOKEN:
            first = at
            at += 1
            while at < end and kinds[data[at]] == _SPOKEN:
                at += 1
            length += at - first
            spoken, ended = True, False
            continue
        if kind & _CUTS:
            break
        width = 1
        if kind & _WIDE:
            point, width = code_point(data, at)
            bits = char_flags[point]
            if bits & LINE_END:
                break
            kind = _kind(point, bits, classes)
            if unspaced and bits & UNSPACED:
                # The word before ends here, and the letter is a word of its own.
                words += 1 + (length > 0)
                longest = max(longest, length, 1)
                sentences += spoken and ended
                length = 0
                spoken, ended = True, False
                at += width
                continue
        at += width
        if kind & _SPACE:
            if length > 0:
                words += 1
                longest = max(longest, length)
                length = 0
                if spoken and ended:
                    sentences += 1
                    spoken = False
                ended = False
        else:
            seen |= kind
            length += 1
            spoken |= (kind & _SPOKEN) != 0
            ended = (kind & _ENDS) != 0 or (ended and (kind & _CLOSES) != 0)
    words += length > 0
    sentences += spoken
    marks = (CURLY_BRACKET if seen & _CURLY else 0) | (SQUARE_BRACKET if seen & _SQUARE else 0)
    return at, words, max(longest, length), marks, sentences


@njit(inline="always")
def _kind(point, bits, classes):
    """The bits of a character beyond ASCII."""
    if classes[point] & TERMINAL:
        return _ENDS
    if bits & SPACE:
        return _SPACE
    if bits & SYMBOL:
        return _CLOSES if point in _QUOTES or point in _BRACKETS else 0
    return _SPOKEN


@njit(cache=True, nogil=True)
def _may_hold_phrases(text):
    """Whether any five letters are those that every phrase has: lore[m ips]um, [javas]cript, ter[ms of] use, c[ookie].

    Privac[y pol]icy too; and a Kelvin sign, which lowers to k. One pass that a compiler can make of vector instructions.
    """
    found = False
    if len(text) < 5:
        return found
    one, two, three, four, five = text[:-4], text[1:-3], text[2:-2], text[3:-1], text[4:]
    for at in range(len(one)):
        a, b, c, d, e = one[at] | 0x20, two[at] | 0x20, three[at] | 0x20, four[at] | 0x20, five[at] | 0x20
        found |= (
            ((a == ord("m")) & (b == ord(" ")) & (c == ord("i")) & (d == ord("p")) & (e == ord("s")))
            | ((a == ord("j")) & (b == ord("a")) & (c == ord("v")) & (d == ord("a")) & (e == ord("s")))
            | ((a == ord("m")) & (b == ord("s")) & (c == ord(" ")) & (d == ord("o")) & (e == ord("f")))
            | ((a == ord("y")) & (b == ord(" ")) & (c == ord("p")) & (d == ord("o")) & (e == ord("l")))
            | ((a == ord("o")) & (b == ord("o")) & (c == ord("k")) & (d == ord("i")) & (e == ord("e")))
            | ((one[at] == 0xE2) & (two[at] == 0x84) & (three[at] == 0xAA))
        )
    return found


@njit(cache=True, nogil=True)
def _find_phrases(data, begin, end, steps, phrases):
    """The bits of the phrases in a text, in any case."""
    found = state = 0
    at = begin
    while at < end:
        if data[at] < 0x80:
            state = steps[state, data[at]]
            at += 1
        else:
            point, width = code_point(data, at)
            state = steps[state, ord("k")] if point == _KELVIN else 0
            at += width
        found |= phrases[state]
    return found


@njit(cache=True, nogil=True)
def _copy_without_citations(data, begin, end, into, written, char_flags):
    """Copy a line without citation marks; returns where the copy ends."""
    at = begin
    while at < end:
        if data[at] == ord("["):
            after = at + 1
            while after < end:
                point, width = code_point(data, after)
                if not char_flags[point] & DIGIT:
                    break
                after += width
            if after < end and data[after] == ord("]"):
                at = after + 1
                continue
            if _stands(data, at, end, _EDIT):
                at += len(_EDIT)
                continue
            if _stands(data, at, end, _CITATION_NEEDED):
                at += len(_CITATION_NEEDED)
                continue
        into[written] = data[at]
        written += 1
        at += 1
    return written


@njit(cache=True, nogil=True)
def _stands(data, at, end, wanted):
    """Whether `wanted` stands at `at`."""
    if at + len(wanted) > end:
        return False
    for offset in range(len(wanted)):
        if data[at + offset] != wanted[offset]:
            return False
    return True


@njit(cache=True, nogil=True)
def _is_ended(data, begin, end, datatrove, classes):
    """Whether a line ends in terminal punctuation, and not in an ellipsis."""
    if begin >= end:
        return False
    last = end - 1
    while data[last] & 0xC0 == 0x80:
        last -= 1
    point, _ = code_point(data, last)
    if point == ord(".") and end - begin >= 3 and data[end - 2] == ord(".") and data[end - 3] == ord("."):
        return False
    if datatrove:
        return point == ord(".") or point == ord("?") or point == ord("!") or point == ord('"') or point == ord("'")
    return (classes[point] & TERMINAL) != 0 or point in _QUOTES


@njit(cache=True, nogil=True)
def _count_breaks(data, offsets, starts, begins, flags):
    """int64[D]: how often spaCy's sentencizer begins another sentence inside a line.

    After a sentence's end it does so at the first token that is not punctuation. A run of spaces, other than a single
    one, is such a token.
    """
    breaks = np.zeros(len(offsets) - 1, np.int64)
    for document in range(len(breaks)):
        ended = False
        for word in range(starts[document], starts[document + 1]):
            if flags[word] & ENDS_SENTENCE:
                ended = True
            elif ended and not flags[word] & ONLY_MARKS:
                breaks[document] += 1
                ended = False
            if not ended:
                continue
            # The gap to the next token; ENDS_SENTENCE and ONLY_MARKS tokens hold no space, so it begins at the first.
            limit = begins[word + 1] if word + 1 < starts[document + 1] else offsets[document + 1]
            gap = begins[word]
            at = begins[word]
            while at < limit and data[at] > 32:
                at += 1
            gap = at
            while at < limit and data[at] != 10:
                at += 1
            if at - gap > 1 or (at - gap == 1 and data[gap] != 32):
                breaks[document] += 1
                ended = False
            if at < limit:
                ended = False
    return breaks


@njit(cache=True, nogil=True)
def _strip_each(data, offsets, char_flags):
    """(begins, ends): int64[D] each, of the documents without the spaces at their ends."""
    begins, ends = np.empty(len(offsets) - 1, np.int64), np.empty(len(offsets) - 1, np.int64)
    for document in range(len(begins)):
        begins[document], ends[document] = strip(data, offsets[document], offsets[document + 1], char_flags)
    return begins, ends


@njit(cache=True, nogil=True)
def _count_between(data, begins, ends):
    counts = np.zeros(len(begins), np.int64)
    for document in range(len(begins)):
        count = 0
        for byte in data[begins[document] : ends[document]]:
            count += (byte & 0xC0) != 0x80
        counts[document] = count
    return counts


@njit(cache=True, nogil=True)
def _pack(data, begins, offsets):
    """The bytes of documents that begin at `begins`, without what lies between them."""
    packed = np.empty(offsets[-1], np.uint8)
    for document in range(len(begins)):
        size = offsets[document + 1] - offsets[document]
        packed[offsets[document] : offsets[document + 1]] = data[begins[document] : begins[document] + size]
    return packed
