"""C4's filter of lines: keep the lines that are prose, in one pass. About 170 MB/s on one core.

The first test that a line fails decides, so the tests run in datatrove's order: a word too long; (then citation marks
are removed); no terminal punctuation; too few words; lorem ipsum; javascript; a curly bracket; a policy phrase.

Lorem ipsum and a curly bracket remove no line. They are reported, and whether they drop the document is decided later:
what else is measured concerns documents which they do not drop.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from raymill.pipelines.text.characters import DIGIT, LINE_END, SPACE, SYMBOL, UNSPACED, code_point, tables
from raymill.pipelines.text.datatrove.tables import TERMINAL, character_classes
from raymill.pipelines.text.instructions import copy_bytes
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.lines import after_line_end, strip
from raymill.pipelines.text.texts import Texts

# What removes a line or may drop a document, in bits. Lorem ipsum, javascript and the curly bracket: Raffel et al.
# 2020; the policy phrases are those of the published C4 code (tensorflow_datasets, text/c4_utils.py) and of datatrove
# 0.10.1.
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
# Citation marks of Wikipedia; [] with any number of digits in it is another one.
_EDIT, _CITATION_NEEDED = np.frombuffer(b"[edit]", np.uint8), np.frombuffer(b"[citation needed]", np.uint8)

_QUOTES = tuple(ord(quote) for quote in "\"'”’»」』")
_BRACKETS = tuple(ord(bracket) for bracket in ")]}）】》〉")
_DOT, _QUESTION, _EXCLAMATION, _QUOTE, _APOSTROPHE, _OPEN, _CLOSE = (ord(character) for character in ".?!\"'[]")
_SMALL_K = ord("k")
_KELVIN = 0x212A  # its lower case is "k": the only character beyond ASCII whose lower case is one ASCII letter

# Five letters of each phrase: lore[m ips]um, [javas]cript, ter[ms of] use, privac[y pol]icy, c[ookie].
_M_IPS, _JAVAS, _MS_OF, _Y_POL, _OOKIE = (
    tuple(letters) for letters in (b"m ips", b"javas", b"ms of", b"y pol", b"ookie")
)

# Kinds of characters in the scan of a line, in bits.
_SPACE, _TERMINAL, _CLOSING, _TEXT, _CURLY, _SQUARE = 1, 2, 4, 8, 16, 32
_LINE_END = 64
_NON_ASCII = 128  # the first byte of a character beyond ASCII


@dataclass(frozen=True, slots=True)
class KeptLines:
    """The lines that remain of D documents.

    texts: the remaining lines, stripped, without citation marks, joined by line feeds.
    found: int64[D], LOREM_IPSUM, CURLY_BRACKET, or both: what lines of the document have when they are tested for it.
    first: int64[D], LOREM_IPSUM or CURLY_BRACKET, whichever comes first in the document; 0 for neither.
    lines: int64[D], the number of remaining lines.
    sentences: int64[D], the number of sentences in them in the paper dialect.
    """

    texts: Texts
    found: np.ndarray
    first: np.ndarray
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
    remove_line_on: int,
) -> KeptLines:
    """Remove the lines that are not prose. The other settings are those of C4 in pipelines/rules/c4.py.

    Args:
        datatrove: the dialect; False is the paper dialect.
        remove_line_on: JAVASCRIPT | POLICY, or a part of it: phrases that remove their line.
    """
    char_flags, _ = tables()
    documents = len(texts)
    found, first = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
    lines, sentences = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
    offsets = np.zeros(documents + 1, np.int64)
    # A line is written before its last tests, with a line feed before it: one byte more than the text may be needed.
    kept = np.empty(int(texts.offsets[-1] - texts.offsets[0]) + 1, np.uint8)
    _keep_lines(
        texts.data, texts.offsets, datatrove, min_words, max_word_length, require_terminal_punctuation,
        remove_citations, remove_line_on, _byte_kinds(), char_flags, character_classes(), *_phrase_automaton(),
        kept, offsets, found, first, lines, sentences,
    )  # fmt: skip
    return KeptLines(Texts(kept[: offsets[-1]], offsets), found, first, lines, sentences)


@cache
def _phrase_automaton() -> tuple[np.ndarray, np.ndarray]:
    """(steps uint8[S, 256], phrases uint8[S]): next state by state and byte; bits of the phrases that end in a state.

    The automaton ignores case and finds every phrase in one pass. Source: Aho and Corasick 1975.
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
    """uint8[256]: the kind of each ASCII character, and _NON_ASCII for all other bytes."""
    char_flags, _ = tables()
    classes = character_classes()
    kinds = np.full(256, _NON_ASCII, np.uint8)
    for byte in range(128):
        kinds[byte] = (
            _SPACE * bool(char_flags[byte] & SPACE)
            | _TERMINAL * bool(classes[byte] & TERMINAL)
            | _CLOSING * (byte in _QUOTES or byte in _BRACKETS)
            | _TEXT * (not char_flags[byte] & (SPACE | SYMBOL))
            | _CURLY * (byte == ord("{"))
            | _SQUARE * (byte == ord("["))
            | _LINE_END * bool(char_flags[byte] & LINE_END)
        )
    return kinds


@kernel
def _keep_lines(
    data, offsets, datatrove, min_words, max_word_length, require_terminal, remove_citations, remove_line_on,
    kinds, char_flags, classes, steps, phrases,
    kept, kept_offsets, found, first, lines, sentences,
):  # fmt: skip
    """Fill kept (bytes) and kept_offsets with the remaining lines; found, first, lines and sentences per document."""
    written = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        may_match = _may_contain_phrase(data, at, end)
        while at < end:
            stop, words, longest, marks, count = _scan(data, at, end, not datatrove, kinds, char_flags, classes)
            begin, line_stop = strip(data, at, stop, char_flags)
            at = after_line_end(data, stop, end)
            if longest > max_word_length:
                continue
            line = written
            cleaned = False  # removing a citation mark may complete a phrase
            if lines[document]:
                kept[line] = 10
                line += 1
            if remove_citations and marks & SQUARE_BRACKET:
                cleaned = True
                line_stop = _copy_without_citations(data, begin, line_stop, kept, line, char_flags)
                _, _, _, marks, count = _scan(kept, line, line_stop, not datatrove, kinds, char_flags, classes)
            else:
                line_stop = copy_bytes(data, begin, line_stop, kept, line)
            if require_terminal and not _ends_in_terminal(kept, line, line_stop, datatrove, classes):
                continue
            if words < min_words:
                continue
            if (may_match or cleaned) and _may_contain_phrase(kept, line, line_stop):
                marks |= _find_phrases(kept, line, line_stop, steps, phrases)
            # In datatrove's order: lorem ipsum, javascript, the bracket, policies.
            removed_by = marks & remove_line_on
            drops = marks & (LOREM_IPSUM if removed_by & JAVASCRIPT else LOREM_IPSUM | CURLY_BRACKET)
            if not first[document]:
                first[document] = LOREM_IPSUM if drops & LOREM_IPSUM else drops
            found[document] |= drops
            if removed_by:
                continue
            written = line_stop
            lines[document] += 1
            sentences[document] += count
        kept_offsets[document + 1] = written


@inner_kernel
def _scan(data, begin, end, unspaced, kinds, char_flags, classes):
    """(end, words, characters of the longest word, bits of brackets, sentences in the paper dialect) of one line."""
    words = longest = length = sentences = seen = 0
    has_text = False  # the sentence so far has a character that is not a symbol
    ended = False  # the sentence ends if the word ends here
    at = begin
    while at < end:
        kind = kinds[data[at]]
        if kind == _TEXT:
            first = at
            at += 1
            while at < end and kinds[data[at]] == _TEXT:
                at += 1
            length += at - first
            has_text, ended = True, False
            continue
        if kind & _LINE_END:
            break
        width = 1
        if kind & _NON_ASCII:
            point, width = code_point(data, at)
            bits = char_flags[point]
            if bits & LINE_END:
                break
            kind = _kind(point, bits, classes)
            if unspaced and bits & UNSPACED:
                # The word before it ends, and the letter is a word by itself.
                words += 1 + (length > 0)
                longest = max(longest, length, 1)
                sentences += has_text and ended
                length = 0
                has_text, ended = True, False
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
                if has_text and ended:
                    sentences += 1
                    has_text = False
                ended = False
        else:
            seen |= kind
            length += 1
            has_text |= (kind & _TEXT) != 0
            ended = (kind & _TERMINAL) != 0 or (ended and (kind & _CLOSING) != 0)
    words += length > 0
    sentences += has_text
    marks = (CURLY_BRACKET if seen & _CURLY else 0) | (SQUARE_BRACKET if seen & _SQUARE else 0)
    return at, words, max(longest, length), marks, sentences


@inner_kernel
def _kind(point, bits, classes):
    """The kind of a character beyond ASCII."""
    if classes[point] & TERMINAL:
        return _TERMINAL
    if bits & SPACE:
        return _SPACE
    if bits & SYMBOL:
        return _CLOSING if point in _QUOTES or point in _BRACKETS else 0
    return _TEXT


@inner_kernel
def _may_contain_phrase(data, begin, end):
    """Whether data[begin:end] may hold a phrase: a quick test, false only if it holds none.

    It looks for five letters of each phrase, and for a Kelvin sign, whose lower case is k. The compiler vectorises the
    loop: 7 GB/s.
    """
    found = False
    if end - begin < 5:
        return found
    for at in range(np.uint64(begin), np.uint64(end - 4)):
        one, two, three = data[at], data[at + np.uint64(1)], data[at + np.uint64(2)]
        four, five = data[at + np.uint64(3)], data[at + np.uint64(4)]
        a, b, c, d, e = one | 0x20, two | 0x20, three | 0x20, four | 0x20, five | 0x20
        found |= (
            _are(_M_IPS, a, b, c, d, e)
            | _are(_JAVAS, a, b, c, d, e)
            | _are(_MS_OF, a, b, c, d, e)
            | _are(_Y_POL, a, b, c, d, e)
            | _are(_OOKIE, a, b, c, d, e)
            | ((one == 0xE2) & (two == 0x84) & (three == 0xAA))
        )
    return found


@inner_kernel
def _are(letters, a, b, c, d, e):
    """Whether these are five bytes."""
    one, two, three, four, five = letters
    return (a == one) & (b == two) & (c == three) & (d == four) & (e == five)


@inner_kernel
def _find_phrases(data, begin, end, steps, phrases):
    """Bits of the phrases in data[begin:end], in any case."""
    found = state = 0
    at = begin
    while at < end:
        if data[at] < 0x80:
            state = steps[state, data[at]]
            at += 1
        else:
            point, width = code_point(data, at)
            state = steps[state, _SMALL_K] if point == _KELVIN else 0
            at += width
        found |= phrases[state]
    return found


@inner_kernel
def _copy_without_citations(data, begin, end, into, written, char_flags):
    """Copy data[begin:end] without citation marks to `into` at `written`; returns the end of the copy."""
    at = begin
    while at < end:
        if data[at] == _OPEN:
            after = at + 1
            while after < end:
                point, width = code_point(data, after)
                if not char_flags[point] & DIGIT:  # DIGIT includes ², datatrove's regular expression does not
                    break
                after += width
            if after < end and data[after] == _CLOSE:
                at = after + 1
                continue
            if _starts_with(data, at, end, _EDIT):
                at += len(_EDIT)
                continue
            if _starts_with(data, at, end, _CITATION_NEEDED):
                at += len(_CITATION_NEEDED)
                continue
        into[written] = data[at]
        written += 1
        at += 1
    return written


@inner_kernel
def _starts_with(data, at, end, wanted):
    """Whether data[at:end] starts with `wanted`."""
    if at + len(wanted) > end:
        return False
    same = True
    for place in range(len(wanted)):
        same &= data[at + place] == wanted[place]
    return same


@inner_kernel
def _ends_in_terminal(data, begin, end, datatrove, classes):
    """Whether a line ends in terminal punctuation other than an ellipsis."""
    if begin >= end:
        return False
    last = end - 1
    while data[last] & 0xC0 == 0x80:
        last -= 1
    point, _ = code_point(data, last)
    if point == _DOT and end - begin >= 3 and data[end - 2] == _DOT and data[end - 3] == _DOT:
        return False
    if datatrove:
        return point == _DOT or point == _QUESTION or point == _EXCLAMATION or point == _QUOTE or point == _APOSTROPHE
    return (classes[point] & TERMINAL) != 0 or point in _QUOTES
