"""Gopher's rules: words, lines and symbols that are not those of running text, and repeated lines and word n-grams.

Source: Rae et al. 2021, https://arxiv.org/abs/2112.11446.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.characters import LINE_END, SPACE, SYMBOL, code_point, tables
from raymill.pipelines.text.instructions import first_match
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.lines import after_line_end, count_repeated_lines, count_repeated_paragraphs
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.words import (
    DUPLICATED_N,
    HAS_ALPHA,
    HAS_NON_SYMBOL,
    HASH_PRIME,
    HASH_SEED,
    TOP_N,
    Words,
    count_ngram_repetition,
    split_words,
)

# Eight frequent function words of each of 26 languages written with spaces. English is Gopher's list (appendix A.1.1).
# The others were made for this project in the same way: almost every page of running text has two of them or more.
STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "ar": ("في", "من", "على", "إلى", "أن", "التي", "عن", "هذا"),
    "ca": ("el", "la", "de", "i", "que", "en", "per", "amb"),
    "cs": ("a", "v", "na", "se", "je", "že", "s", "z"),
    "da": ("og", "i", "at", "det", "er", "en", "til", "af"),
    "de": ("der", "die", "und", "das", "in", "zu", "den", "nicht"),
    "el": ("και", "το", "να", "του", "η", "της", "με", "για"),
    "es": ("el", "la", "de", "que", "y", "en", "los", "con"),
    "fa": ("و", "در", "به", "از", "که", "این", "را", "با"),
    "fi": ("ja", "on", "ei", "se", "että", "oli", "hän", "mutta"),
    "fr": ("le", "la", "de", "et", "les", "des", "est", "que"),
    "hi": ("के", "में", "की", "है", "और", "से", "का", "को"),
    "hu": ("a", "az", "és", "hogy", "nem", "is", "egy", "van"),
    "id": ("yang", "dan", "di", "ini", "untuk", "dengan", "dari", "dalam"),
    "it": ("di", "e", "il", "la", "che", "in", "per", "non"),
    "ko": ("이", "그", "수", "있는", "것은", "및", "있다", "것이다"),
    "nl": ("de", "het", "een", "van", "en", "in", "is", "dat"),
    "no": ("og", "i", "det", "er", "på", "til", "som", "en"),
    "pl": ("i", "w", "na", "się", "z", "do", "nie", "że"),
    "pt": ("de", "a", "o", "que", "e", "do", "da", "em"),
    "ro": ("de", "și", "în", "la", "a", "cu", "nu", "care"),
    "ru": ("и", "в", "не", "на", "что", "с", "как", "по"),
    "sv": ("och", "i", "att", "det", "som", "en", "på", "är"),
    "tr": ("ve", "bir", "bu", "için", "da", "de", "ile", "olarak"),
    "uk": ("і", "в", "на", "не", "що", "з", "та", "до"),
    "vi": ("và", "của", "là", "các", "có", "không", "được", "cho"),
}

# Other labels of the same languages: ISO 639-3, as in GlotLID and FLORES, and the two written standards of Norwegian.
OTHER_LABELS = {
    "eng": "en", "arb": "ar", "ara": "ar", "cat": "ca", "ces": "cs", "dan": "da", "deu": "de", "ell": "el", "spa": "es",
    "pes": "fa", "fas": "fa", "fin": "fi", "fra": "fr", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "kor": "ko",
    "nld": "nl", "nob": "no", "nno": "no", "nor": "no", "nb": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru",
    "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip

_SEEN_BITS = 12  # slots of a cache of words
_MOST_STOP_WORDS = 63  # of a language: one bit each

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0)]  # may exceed 1: occurrences of the most frequent n-gram may overlap


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherQuality:
    """Remove documents with too few or too many words, with words of unusual length, or with many symbols or bullets.

    Bounds and stop words: Gopher, Rae et al. 2021, appendix A.1.1, https://arxiv.org/abs/2112.11446. As in datatrove
    0.10.1, a word of only punctuation counts neither as a word nor for the mean length, but it does count in the
    denominators of the symbol and alphabetic fractions. A stop word counts once, however often it occurs.

    Dialects. `datatrove` searches for the English stop words in their exact case. `paper` searches for those of the
    document's language (column `language`) among words in lower case without symbols at their ends;
    a language without a list has no such check. Without that column, and with `stop_words: english`, every document
    counts as English. In a language written without spaces every character is a word, so the mean word length and the
    alphabetic fraction do not apply, and words of several letters in lists of your own are left out.

    A fraction with denominator 0, in a document without words or lines, is NaN, which passes.
    """

    min_words: Annotated[Count, Field(description="Minimum number of words of a document")] = 50
    max_words: Annotated[Count, Field(description="Maximum number of words of a document")] = 100_000
    min_mean_word_length: Annotated[
        Ratio,
        Field(
            description="Minimum mean length of words in characters; not applied to languages written without spaces"
        ),
    ] = 3.0
    max_mean_word_length: Annotated[
        Ratio,
        Field(
            description="Maximum mean length of words in characters; not applied to languages written without spaces"
        ),
    ] = 10.0
    max_hashes_per_word: Annotated[Ratio, Field(description="Maximum ratio of # signs to words")] = 0.1
    max_ellipses_per_word: Annotated[Ratio, Field(description="Maximum ratio of ellipses to words")] = 0.1
    max_bullet_line_fraction: Annotated[
        Fraction, Field(description="Maximum fraction of lines that begin with a bullet")
    ] = 0.9
    max_ellipsis_line_fraction: Annotated[
        Fraction, Field(description="Maximum fraction of lines that end with an ellipsis")
    ] = 0.3
    min_alpha_word_fraction: Annotated[
        Fraction, Field(description="Minimum fraction of words with an alphabetic character")
    ] = 0.8
    min_stop_words: Annotated[
        int,
        Field(
            ge=0,
            le=8,
            description="Minimum number of different stop words in a document, out of those of its language",
        ),
    ] = 2
    stop_words: Annotated[
        Literal["by_language", "english"] | dict[str, tuple[Annotated[str, Field(pattern=r"^\S+$")], ...]],
        Field(
            description="Lists of stop words: of each document's language, English for all documents, or lists of your "
            "own by the language's label, as {deu_Latn: [der, und, die]}"
        ),
    ] = "by_language"

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "gopher_quality"
    reasons: ClassVar = (
        "gopher_short_doc",
        "gopher_long_doc",
        "gopher_below_avg_threshold",
        "gopher_above_avg_threshold",
        "gopher_too_many_hashes",
        "gopher_too_many_ellipsis",
        "gopher_too_many_bullets",
        "gopher_too_many_end_ellipsis",
        "gopher_below_alpha_threshold",
        "gopher_enough_stop_words",
    )
    signals: ClassVar = {
        "gopher_words": "words with a character that is no symbol",
        "gopher_mean_word_length": "mean length of these words, in characters",
        "gopher_hashes_per_word": "# signs / words",
        "gopher_ellipses_per_word": "ellipses (... and …) / words",
        "gopher_bullet_line_fraction": "lines that begin with • or - / lines",
        "gopher_ellipsis_line_fraction": "lines that end with an ellipsis / lines",
        "gopher_alpha_word_fraction": "words with an alphabetic character / words",
        "gopher_stop_words": "how many of its language's stop words occur; NaN: no list for the language",
    }
    measured_by: ClassVar = ("stop_words",)

    def __post_init__(self) -> None:
        for least, most in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            low, high = getattr(self, least), getattr(self, most)
            if low > high:
                raise ConfigError(
                    f"gopher_quality: {least}={low} is above {most}={high}, so no document could pass. "
                    f"Swap them, or set {least} to 0 to drop the lower bound."
                )
        if not isinstance(self.stop_words, str):
            for language, words in self.stop_words.items():
                if not 0 < len(words) <= _MOST_STOP_WORDS:
                    raise ConfigError(
                        f"gopher_quality.stop_words: {language} has {len(words)} words; give 1 to {_MOST_STOP_WORDS}"
                    )

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """gopher_words int64[D], all others float64[D]; NaN where a signal does not apply."""
        words = analysis.words
        counted, characters, alphabetic = counts = np.zeros((3, len(analysis.texts)), np.int64)
        _count_words(words.starts, words.lengths, words.flags, counts)
        hashes, ellipses, lines, bullet_lines, ellipsis_lines = marks = np.zeros((5, len(analysis.texts)), np.int64)
        _scan_marks(analysis.texts.data, analysis.texts.offsets, tables()[0], marks)
        spaced = np.where(analysis.written_with_spaces, 1.0, np.nan)
        with np.errstate(invalid="ignore"):  # 0 / 0 gives NaN, which passes
            return {
                "gopher_words": counted,
                "gopher_mean_word_length": spaced * characters / counted,
                "gopher_hashes_per_word": hashes / words.counts,
                "gopher_ellipses_per_word": ellipses / words.counts,
                "gopher_bullet_line_fraction": bullet_lines / lines,
                "gopher_ellipsis_line_fraction": ellipsis_lines / lines,
                "gopher_alpha_word_fraction": spaced * alphabetic / words.counts,
                "gopher_stop_words": self._count_stop_words(analysis),
            }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (
            Check("gopher_short_doc", "gopher_words", minimum=self.min_words),
            Check("gopher_long_doc", "gopher_words", maximum=self.max_words),
            Check("gopher_below_avg_threshold", "gopher_mean_word_length", minimum=self.min_mean_word_length),
            Check("gopher_above_avg_threshold", "gopher_mean_word_length", maximum=self.max_mean_word_length),
            Check("gopher_too_many_hashes", "gopher_hashes_per_word", maximum=self.max_hashes_per_word),
            Check("gopher_too_many_ellipsis", "gopher_ellipses_per_word", maximum=self.max_ellipses_per_word),
            Check("gopher_too_many_bullets", "gopher_bullet_line_fraction", maximum=self.max_bullet_line_fraction),
            Check(
                "gopher_too_many_end_ellipsis", "gopher_ellipsis_line_fraction", maximum=self.max_ellipsis_line_fraction
            ),
            Check("gopher_below_alpha_threshold", "gopher_alpha_word_fraction", minimum=self.min_alpha_word_fraction),
            Check("gopher_enough_stop_words", "gopher_stop_words", minimum=self.min_stop_words),
        )

    def _count_stop_words(self, analysis: Analysis) -> np.ndarray:
        """float64[D]: distinct stop words that occur; NaN without a list for the language."""
        words, texts = analysis.words, analysis.texts
        if analysis.dialect == "datatrove":
            counts = np.empty(len(texts))
            _count_exact(
                words.starts, words.hashes, split_words(Texts.from_strings([*STOP_WORDS["en"]])).hashes, counts
            )
            return counts
        if self.stop_words == "english" or "language" not in analysis.columns.column_names:
            return _count_in_languages(texts, words, [STOP_WORDS["en"]], np.zeros(len(texts), np.int64))
        labels = analysis.columns["language"].combine_chunks().cast(pa.string()).dictionary_encode()
        lists = [self._list_of(label) for label in labels.dictionary.to_pylist()]
        listed = sorted({one for one in lists if one})
        numbers = np.array([listed.index(one) if one else -1 for one in lists] + [-1])  # last: null
        return _count_in_languages(texts, words, listed, numbers[np.asarray(labels.indices.fill_null(-1), np.int64)])

    def _list_of(self, label: str) -> tuple[str, ...]:
        """The stop words of a language; empty without a list."""
        if isinstance(self.stop_words, str):
            language = language_of(label)
            return STOP_WORDS[language] if language else ()
        return tuple(self.stop_words.get(label, ()))


def language_of(label: str) -> str | None:
    """Key in STOP_WORDS of a language label such as `de`, `de-AT` or `deu_Latn`; None without a list."""
    language = label.replace("-", "_").split("_")[0].lower()
    language = OTHER_LABELS.get(language, language)
    return language if language in STOP_WORDS else None


def _count_in_languages(texts: Texts, words: Words, lists: Sequence[Sequence[str]], numbers: np.ndarray) -> np.ndarray:
    """float64[D]: distinct stop words among the words in lower case without symbols at their ends.

    numbers: int64[D], index in `lists` of each document's list; -1 gives NaN.
    """
    char_flags, lower = tables()
    counts = np.full(len(texts), np.nan)
    hashes, sizes = np.zeros((len(lists), _MOST_STOP_WORDS), np.uint64), np.zeros(len(lists), np.int64)
    for number, one in enumerate(lists):
        listed = Texts.from_strings([*one])
        inside = split_words(listed)
        found = np.empty(len(inside.begins), np.uint64)
        _hash_stripped_words(listed.data, inside.begins, inside.lengths, char_flags, lower, found)
        found = np.unique(found[inside.starts[:-1][inside.counts == 1]])
        hashes[number, : len(found)], sizes[number] = found, len(found)
    numbers = np.where(np.append(sizes, 0)[numbers] > 0, numbers, -1)
    seen, which = np.zeros(1 << _SEEN_BITS, np.uint64), np.full(1 << _SEEN_BITS, -1, np.int8)
    _count_stripped(
        texts.data, words.starts, words.begins, words.lengths, words.hashes, numbers, hashes, sizes,
        char_flags, lower, seen, which, counts,
    )  # fmt: skip
    return counts


@kernel
def _count_words(starts, lengths, flags, counts):
    """Fill counts[:, d]: words that are not only symbols, their characters, words with an alphabetic character."""
    for document in range(len(starts) - 1):
        counted = characters = alphabetic = 0
        for word in range(starts[document], starts[document + 1]):
            if flags[word] & HAS_NON_SYMBOL:
                counted += 1
                characters += lengths[word]
            if flags[word] & HAS_ALPHA:
                alphabetic += 1
        counts[0, document], counts[1, document], counts[2, document] = counted, characters, alphabetic


@kernel
def _count_exact(starts, hashes, listed, counts):
    """Fill counts[d]: how many of the listed word hashes occur in document d."""
    for document in range(len(counts)):
        found, occurring = 0, 0
        for word in range(starts[document], starts[document + 1]):
            for number in range(len(listed)):
                if hashes[word] == listed[number] and not (found >> number) & 1:
                    found |= 1 << number
                    occurring += 1
            if occurring == len(listed):
                break
        counts[document] = occurring


@inner_kernel
def _hash_stripped(data, at, length, char_flags, lower):
    """Hash of the word at data[at] of `length` characters, in lower case without symbols at its ends."""
    hashed = result = HASH_SEED
    inside = False
    for _ in range(length):
        point, width = code_point(data, at)
        at += width
        symbol = char_flags[point] & SYMBOL
        if inside or not symbol:
            inside = True
            hashed = (hashed ^ np.uint64(lower[point])) * HASH_PRIME
            if not symbol:
                result = hashed
    return result


@kernel
def _hash_stripped_words(data, begins, lengths, char_flags, lower, hashes):
    """Fill hashes[w]: _hash_stripped of word w."""
    for word in range(len(begins)):
        hashes[word] = _hash_stripped(data, begins[word], lengths[word], char_flags, lower)


@kernel
def _count_stripped(
    data, starts, begins, lengths, exact, numbers, hashes, sizes, char_flags, lower, seen, which, counts
):  # fmt: skip
    """Fill counts[d], NaN before, see _count_in_languages.

    hashes: uint64[L, _MOST_STOP_WORDS], the stop words of each list. sizes: int64[L], their numbers. exact: the hashes
    of the words as they stand. seen, which: scratch, a cache: a word's hash, mixed with its language, and the number of
    the stop word that it is, or -1.
    """
    for document in range(len(counts)):
        if numbers[document] < 0:
            continue
        listed, language = hashes[numbers[document], : sizes[numbers[document]]], np.uint64(numbers[document])
        found, occurring = 0, 0
        for word in range(starts[document], starts[document + 1]):
            key = exact[word] + language * HASH_PRIME
            slot = np.int64(key >> np.uint64(64 - _SEEN_BITS))
            if seen[slot] != key:
                seen[slot], which[slot] = key, -1
                stripped = _hash_stripped(data, begins[word], lengths[word], char_flags, lower)
                for number in range(len(listed)):
                    if stripped == listed[number]:
                        which[slot] = number
            if which[slot] >= 0 and not (found >> which[slot]) & 1:
                found |= 1 << which[slot]
                occurring += 1
                if occurring == len(listed):
                    break
        counts[document] = occurring


_HYPHEN, _HASH, _DOT = (ord(character) for character in "-#.")
_BULLET, _ELLIPSIS = 0x2022, 0x2026


@kernel
def _scan_marks(data, offsets, char_flags, counts):
    """Fill counts[:, d]: # signs, ellipses, lines, lines that begin with a bullet, lines that end with an ellipsis.

    Lines are those of str.splitlines(); spaces around a line's text do not count.
    """
    for document in range(len(offsets) - 1):
        hashes = ellipses = lines = bullet_lines = ellipsis_lines = 0
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            lines += 1
            at = _skip_blanks(data, at, end, char_flags)
            if at < end:
                bullet_lines += data[at] == _HYPHEN or code_point(data, at)[0] == _BULLET
            in_line = True
            while in_line:
                at = _next_mark(data, at, end)
                if at == end:
                    break
                first = at
                is_ellipsis = False
                if data[at] == _HASH:
                    hashes += 1
                    at += 1
                elif data[at] == _DOT:
                    while at < end and data[at] == _DOT:
                        at += 1
                    ellipses += (at - first) // 3
                    is_ellipsis = at - first >= 3
                else:
                    point, width = code_point(data, at)
                    if char_flags[point] & LINE_END:
                        at = after_line_end(data, at, end)
                        in_line = False
                    else:
                        at += width
                        is_ellipsis = point == _ELLIPSIS
                        ellipses += is_ellipsis
                if is_ellipsis:
                    at = _skip_blanks(data, at, end, char_flags)
                    ellipsis_lines += at == end or (char_flags[code_point(data, at)[0]] & LINE_END) != 0
        counts[0, document], counts[1, document], counts[2, document] = hashes, ellipses, lines
        counts[3, document], counts[4, document] = bullet_lines, ellipsis_lines


@inner_kernel
def _skip_blanks(data, at, end, char_flags):
    """Position of the first character of data[at:end] that is no space or ends the line; `end` if there is none."""
    while at < end:
        point, width = code_point(data, at)
        if not char_flags[point] & SPACE or char_flags[point] & LINE_END:
            break
        at += width
    return at


@inner_kernel
def _next_mark(data, at, end):
    """Position of the first mark in data[at:end]; `end` if there is none."""
    if at < end and _is_mark(data[at]):
        return at
    while at + 32 <= end:
        first = np.uint8(255)
        for ahead in range(np.uint64(32)):
            first = first_match(first, ahead, _is_mark(data[np.uint64(at) + ahead]))
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at < end and not _is_mark(data[at]):
        at += 1
    return at


@inner_kernel
def _is_mark(byte):
    """1 if a byte is a # sign or a full stop, or may begin a line end or an ellipsis; else 0."""
    other = np.uint8(byte < 0x20) | np.uint8(byte >= 0x80)
    return np.uint8(other | np.uint8(byte == _HASH) | np.uint8(byte == _DOT))


# --- repetition

_REPETITION = {
    "dup_para_frac": "paragraphs equal to an earlier one / paragraphs",
    "dup_para_char_frac": "characters in paragraphs equal to an earlier one / characters",
    "dup_line_frac": "lines equal to an earlier one / lines",
    "dup_line_char_frac": "characters in lines equal to an earlier one / characters",
    **{f"top_{n}_gram": f"characters in the commonest word {n}-gram / characters" for n in TOP_N},
    **{f"duplicated_{n}_n_grams": f"characters in repeated word {n}-grams / characters" for n in DUPLICATED_N},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherRepetition:
    """Remove documents with too large a fraction of repeated lines, paragraphs or word n-grams.

    The bounds are table A1 of Gopher: Rae et al. 2021, https://arxiv.org/abs/2112.11446. Definitions that the paper
    leaves open are those of datatrove 0.10.1: a line or paragraph counts as repeated from its second occurrence on; two
    or more line feeds separate paragraphs, one or more separate lines; repeated n-grams are counted from the left
    without overlap; the denominator is all characters of the document, spaces included. One definition differs: an
    n-gram is a sequence of words, so "ab c" does not repeat "a bc". An empty document is removed as `empty`.

    Dialects differ only in words. In a language written without spaces every character is a word in the `paper`
    dialect, so the n-gram checks do not apply to it.
    """

    max_dup_para_frac: Annotated[
        Ratio, Field(description="Maximum fraction of paragraphs that repeat an earlier paragraph")
    ] = 0.30
    max_dup_para_char_frac: Annotated[
        Ratio, Field(description="Maximum fraction of characters in paragraphs that repeat an earlier paragraph")
    ] = 0.20
    max_dup_line_frac: Annotated[Ratio, Field(description="Maximum fraction of lines that repeat an earlier line")] = (
        0.30
    )
    max_dup_line_char_frac: Annotated[
        Ratio, Field(description="Maximum fraction of characters in lines that repeat an earlier line")
    ] = 0.20
    max_top_2_gram: Annotated[
        Ratio, Field(description="Maximum fraction of characters in the most frequent sequence of 2 words")
    ] = 0.20
    max_top_3_gram: Annotated[
        Ratio, Field(description="Maximum fraction of characters in the most frequent sequence of 3 words")
    ] = 0.18
    max_top_4_gram: Annotated[
        Ratio, Field(description="Maximum fraction of characters in the most frequent sequence of 4 words")
    ] = 0.16
    max_duplicated_5_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 5 words")
    ] = 0.15
    max_duplicated_6_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 6 words")
    ] = 0.14
    max_duplicated_7_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 7 words")
    ] = 0.13
    max_duplicated_8_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 8 words")
    ] = 0.12
    max_duplicated_9_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 9 words")
    ] = 0.11
    max_duplicated_10_n_grams: Annotated[
        Ratio, Field(description="Maximum fraction of characters in repeated sequences of 10 words")
    ] = 0.10

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "gopher_repetition"
    reasons: ClassVar = ("empty", *_REPETITION)
    signals: ClassVar = {"repetition_characters": "characters of the document", **_REPETITION}
    measured_by: ClassVar = ()

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """repetition_characters int64[D], the fractions float64[D]; NaN where the n-gram checks do not apply."""
        texts = analysis.texts
        characters = analysis.characters
        paragraphs = count_repeated_paragraphs(texts, analysis.lines)
        lines = count_repeated_lines(analysis.lines)
        top, duplicated = count_ngram_repetition(analysis.words)
        spaced = np.where(analysis.written_with_spaces, 1.0, np.nan)  # NaN: not applicable
        over = np.maximum(characters, 1)  # the fractions of an empty document are 0
        return {
            "repetition_characters": characters,
            "dup_para_frac": paragraphs[:, 1] / paragraphs[:, 0],
            "dup_para_char_frac": paragraphs[:, 2] / over,
            "dup_line_frac": lines[:, 1] / lines[:, 0],
            "dup_line_char_frac": lines[:, 2] / over,
            **{f"top_{n}_gram": spaced * top[:, column] / over for column, n in enumerate(TOP_N)},
            **{
                f"duplicated_{n}_n_grams": spaced * duplicated[:, column] / over
                for column, n in enumerate(DUPLICATED_N)
            },
        }

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (
            Check("empty", "repetition_characters", minimum=1),
            *(Check(fraction, fraction, maximum=getattr(self, f"max_{fraction}")) for fraction in _REPETITION),
        )
