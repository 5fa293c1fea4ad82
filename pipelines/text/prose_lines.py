"""The lines of documents that are prose, as C4 sees it: read once, judged one by one, copied or left out.

datatrove's order is kept, since the first objection to a line decides: a word too long; (citation marks go); no
terminal punctuation; too few words; lorem ipsum; javascript; a curly bracket; a policy. About 170 MB/s on one core.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit

from pipelines.text.characters import DIGIT, LINE_END, SPACE, SYMBOL, UNSPACED, code_point, tables
from pipelines.text.datatrove.tables import TERMINAL, character_classes
from pipelines.text.lines import after_line_end, strip
from pipelines.text.texts import Texts

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


@dataclass(frozen=True, slots=True)
class KeptLines:
    """What stays of D documents.

    texts: their remaining lines, stripped, without citation marks, joined by line feeds.
    dropped_by: int64[D], LOREM_IPSUM or CURLY_BRACKET, whichever the document has first; 0 where it has none.
    lines: int64[D], how many lines stay.
    sentences: int64[D], sentences in them in the paper dialect.
    """

    texts: Texts
    dropped_by: np.ndarray
    lines: np.ndarray
    sentences: np.ndarray


def keep_prose_lines(
    texts: Texts,
    *,
    datatrove: bool,
    min_words: int,
    max_word_length: int,
    require_terminal_punctuation: bool,
    remove_citations: bool,
    removing: int,
    dropping: int,
) -> KeptLines:
    """Take out lines that are no prose; see pipelines/rules/c4.py for what the settings mean.

    removing: JAVASCRIPT | POLICY, the phrases that take their line out. dropping: LOREM_IPSUM | CURLY_BRACKET, what
    drops the document; such a line stays.
    """
    char_flags, _ = tables()
    documents = len(texts)
    dropped_by, lines = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
    sentences, offsets = np.zeros(documents, np.int64), np.zeros(documents + 1, np.int64)
    # A line that is tried and refused may stand one byte beyond what the text had.
    kept = np.empty(int(texts.offsets[-1] - texts.offsets[0]) + 1, np.uint8)
    _keep_lines(
        texts.data, texts.offsets, datatrove, min_words, max_word_length, require_terminal_punctuation,
        remove_citations, removing, dropping,
        _byte_kinds(), char_flags, character_classes(), *_phrase_automaton(),
        kept, offsets, dropped_by, lines, sentences,
    )  # fmt: skip
    return KeptLines(Texts(kept[: offsets[-1]], offsets), dropped_by, lines, sentences)


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
    data, offsets, datatrove, min_words, max_word_length, require_terminal, remove_citations, removing, dropping,
    kinds, char_flags, classes, steps, phrases,
    kept, kept_offsets, dropped_by, lines, sentences,
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
            elif marks & removing & JAVASCRIPT:
                continue
            if drops and not dropped_by[document]:
                dropped_by[document] = drops
            if marks & removing & POLICY and not drops:
                continue
            written = line_stop
            lines[document] += 1
            sentences[document] += count
        kept_offsets[document + 1] = written


@njit(cache=True, nogil=True)
def _scan(data, begin, end, unspaced, kinds, char_flags, classes):
    """Read one line: (where it ends, words, characters of the longest, brackets, sentences of the paper dialect)."""
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
            while at < end and kinds[data[at]] == _SPACE:
                at += 1
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
    """Whether letters that each phrase has stand together somewhere, so that a text without them need not be searched.

    They are lore[m ips]um, [javas]cript, ter[ms of] use, privac[y pol]icy and c[ookie], or a Kelvin sign, which lowers
    to k. The compiler makes vector instructions of this: 7 GB/s.
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
                if not char_flags[point] & DIGIT:  # also ², which is no digit to datatrove's regular expression
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
    return at + len(wanted) <= end and np.array_equal(data[at : at + len(wanted)], wanted)


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
