"""Words of the `datatrove` dialect: tokens of spaCy's blank English tokenizer, as datatrove 0.10.1 uses it.

This is a compiled implementation of that tokenizer, for text of any language: 80 to 100 MB/s on one core. It splits
each run of characters between white space (a chunk) by itself, in spaCy's order:

    affixes   split off a prefix and a suffix, until there is none or the rest is a special case ("don't", ":)")
    middle    keep the rest if it is a special case or a URL, else split it at infixes ("well-known": three tokens)
    cases     join adjacent tokens that make a special case ("(e.g.)")

Most chunks of a table occur in it before. A direct-mapped cache holds the tokens of earlier chunks.

Known difference: spaCy also matches special cases across a single space. Such a match changes no token, but it can
prevent another match.
"""

from functools import cache

import numpy as np

from raymill.pipelines.text.characters import code_point
from raymill.pipelines.text.datatrove.affixes import infix_end_of, is_url, prefix_end_of, suffix_begin_of
from raymill.pipelines.text.datatrove.tables import (
    LETTER,
    MAY_SPLIT,
    NON_PUNCTUATION,
    PUNCTUATION,
    SENTENCE_END,
    SPACE,
    after_digits,
    character_classes,
    special_cases,
)
from raymill.pipelines.text.instructions import find_slot, hash_slots, slots_for
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.words import (
    HAS_ALPHA,
    HAS_NON_SYMBOL,
    HASH_PRIME,
    HASH_SEED,
    Words,
    cut_words,
    hash_bytes,
    hash_each,
    mix_hash,
)

# More bits of Words.flags.
ENDS_SENTENCE = 4  # the token is a character at which spaCy's sentencizer ends a sentence
ONLY_PUNCTUATION = 8  # every character is of Unicode category P

_MAX_CASE_BYTES = 40  # no special case is longer
_MAX_CACHED_CHUNKS = 1 << 19  # chunks, of 32 bytes each
_ENDS, _LENGTHS, _SLOTS, _JOINED, _TAKEN, _OLD_ENDS = range(6)  # rows of the scratch for one chunk
_SCRATCH_ROWS = 6


def split_tokens(texts: Texts) -> Words:
    """The words of every document in the datatrove dialect."""
    chunks = min(slots_for(int(texts.offsets[-1] - texts.offsets[0]) // 128), _MAX_CACHED_CHUNKS)
    cached = np.zeros((chunks, 4), np.int64)
    scratch = np.empty((_SCRATCH_ROWS, int(texts.byte_lengths.max(initial=0))), np.int64)
    return cut_words(texts, _split, 1, *tokenizer_tables(), cached, scratch)


@cache
def tokenizer_tables() -> tuple[np.ndarray, ...]:
    """(classes, case hashes, case tokens, case patterns, unit hashes): the tables of the kernels below.

    classes: uint16[0x110000], tables.character_classes(). case hashes, unit hashes: uint64[N], tables of hash_slots.
    case tokens: uint64[N], by slot of a special case: bit k is set if one of its tokens ends after k bytes.
    case patterns: uint64[N], the same for the tokens into which affixes and infixes alone would split the case. A row
        of such tokens is joined to the case. 0 if no affix or infix splits it.
    """
    classes = character_classes()
    units = Texts.from_strings(sorted(set(after_digits())))
    unit_hashes = hash_slots(hash_each(units), 1024)[0]
    cases = special_cases()
    written = Texts.from_strings(["".join(case) for case in cases])
    ends = [np.cumsum([len(token.encode()) for token in case]) for case in cases]
    tokens = np.array([sum(1 << int(end) for end in case) for case in ends], np.uint64)
    patterns = np.zeros(len(cases), np.uint64)
    scratch, no_case = np.empty(_MAX_CASE_BYTES, np.int64), np.zeros(1, np.uint64)
    _find_patterns(written.data, written.offsets, classes, unit_hashes, no_case, scratch, patterns)
    hashes, slots = hash_slots(hash_each(written), 8192)
    case_tokens, case_patterns = np.zeros(len(hashes), np.uint64), np.zeros(len(hashes), np.uint64)
    case_tokens[slots], case_patterns[slots] = tokens, patterns
    return classes, hashes, case_tokens, case_patterns, unit_hashes


@inner_kernel
def _case(data, begin, end, case_hashes):
    """Slot of the special case data[begin:end]; -1 if it is none."""
    if end - begin > _MAX_CASE_BYTES or begin >= end:
        return -1
    return find_slot(case_hashes, hash_bytes(data, begin, end))


@inner_kernel
def _cut_chunk(data, begin, end, classes, case_hashes, case_tokens, unit_hashes, ends):
    """Write the ends of a chunk's tokens to `ends`, without the step "cases"; returns the number of tokens.

    ends: int64, at least as long as the chunk in bytes. Suffixes are found from right to left, so they are stored at
    its end first.
    """
    count, suffixes = 0, 0
    last = len(ends)
    case = -1
    while begin < end:
        case = _case(data, begin, end, case_hashes)
        if case >= 0:
            break
        prefix_end = prefix_end_of(data, begin, end, classes)
        if prefix_end > begin:
            case = _case(data, prefix_end, end, case_hashes)
        suffix_begin = end
        if case < 0:
            suffix_begin = suffix_begin_of(data, prefix_end, end, classes, unit_hashes)
            if suffix_begin < end:
                case = _case(data, begin, suffix_begin, case_hashes)
                if case >= 0:
                    prefix_end = begin  # the prefix belongs to the case
        if prefix_end == begin and suffix_begin == end:
            break
        if prefix_end > begin:
            ends[count] = prefix_end
            count += 1
            begin = prefix_end
        if suffix_begin < end:
            suffixes += 1
            ends[last - suffixes] = end
            end = suffix_begin
        if case >= 0:
            break
    if case >= 0:
        for length in range(1, end - begin + 1):
            if (case_tokens[case] >> np.uint64(length)) & np.uint64(1):
                ends[count] = begin + length
                count += 1
    elif begin < end:
        if not is_url(data, begin, end, classes):
            count = _cut_infixes(data, begin, end, classes, ends, count)
        if count == 0 or ends[count - 1] < end:
            ends[count] = end
            count += 1
    for suffix in range(suffixes, 0, -1):
        ends[count] = ends[last - suffix]
        count += 1
    return count


@inner_kernel
def _cut_infixes(data, begin, end, classes, ends, count):
    """Write the ends of the tokens before the last infix, and of the infixes, to `ends`; returns the new count."""
    at, start = begin, begin
    while at < end:
        infix_end = infix_end_of(data, begin, at, end, classes)
        if infix_end == at:
            at += code_point(data, at)[1]
            continue
        if at > begin:  # an infix at the beginning is not split off
            if at > start:
                ends[count] = at
                count += 1
            ends[count] = infix_end
            count += 1
            start = infix_end
        at = infix_end
    return count


@kernel
def _find_patterns(data, offsets, classes, unit_hashes, no_case, ends, patterns):
    """Add the case patterns of C special cases, see tokenizer_tables, to `patterns`, uint64[C]. ends: scratch."""
    for case in range(len(patterns)):
        begin, end = offsets[case], offsets[case + 1]
        splits = prefix_end_of(data, begin, end, classes) > begin
        splits |= suffix_begin_of(data, begin, end, classes, unit_hashes) < end
        at = begin
        while at < end:
            splits |= infix_end_of(data, begin, at, end, classes) > at
            at += code_point(data, at)[1]
        if splits:
            for token in range(_cut_chunk(data, begin, end, classes, no_case, no_case, unit_hashes, ends)):
                patterns[case] |= np.uint64(1) << np.uint64(ends[token] - begin)


@inner_kernel
def _match(data, begin, ends, first, count, case_hashes, case_patterns):
    """(slot, tokens) of the longest special case in the tokens first, first + 1, ... of a chunk; (-1, 0) if none."""
    start = ends[first - 1] if first else begin
    hashed = HASH_SEED
    pattern = np.uint64(0)
    at = start
    best, tokens = -1, 0
    for token in range(first, count):
        if ends[token] - start > _MAX_CASE_BYTES:
            break
        while at < ends[token]:
            hashed = (hashed ^ np.uint64(data[at])) * HASH_PRIME
            at += 1
        pattern |= np.uint64(1) << np.uint64(at - start)
        slot = find_slot(case_hashes, mix_hash(hashed))
        if slot >= 0 and case_patterns[slot] == pattern:
            best, tokens = slot, token - first + 1
    return best, tokens


@inner_kernel
def _join_cases(data, begin, count, case_hashes, case_tokens, case_patterns, scratch):
    """Join adjacent tokens that make a special case, longest first; returns the new number of tokens."""
    ends, lengths, slots = scratch[_ENDS], scratch[_LENGTHS], scratch[_SLOTS]
    joined, taken, old = scratch[_JOINED], scratch[_TAKEN], scratch[_OLD_ENDS]
    longest = 0
    for token in range(count):
        slots[token], lengths[token] = _match(data, begin, ends, token, count, case_hashes, case_patterns)
        longest = max(longest, lengths[token])
        joined[token] = taken[token] = 0
        old[token] = ends[token]
    for length in range(longest, 0, -1):
        for token in range(count):
            if lengths[token] == length:
                # As in spaCy, a match that overlaps a longer one still blocks shorter ones on its tokens.
                joined[token] = not taken[token] and not taken[token + length - 1]
                for member in range(token, token + length):
                    taken[member] = 1
    written = token = 0
    while token < count:
        start = old[token - 1] if token else begin
        if joined[token]:
            for length in range(1, _MAX_CASE_BYTES + 1):
                if (case_tokens[slots[token]] >> np.uint64(length)) & np.uint64(1):
                    ends[written] = start + length
                    written += 1
            token += lengths[token]
        else:
            ends[written] = old[token]
            written += 1
            token += 1
    return written


@inner_kernel
def cut_chunk(data, begin, end, classes, case_hashes, case_tokens, case_patterns, unit_hashes, scratch):
    """Write the ends of the tokens of the chunk data[begin:end] to scratch[_ENDS]; returns the number of tokens.

    scratch: int64[_SCRATCH_ROWS, N], N at least the bytes of the chunk.
    """
    ends = scratch[_ENDS]
    count = _cut_chunk(data, begin, end, classes, case_hashes, case_tokens, unit_hashes, ends)
    for token in range(count):
        if _match(data, begin, ends, token, count, case_hashes, case_patterns)[1]:
            return _join_cases(data, begin, count, case_hashes, case_tokens, case_patterns, scratch)
    return count


@inner_kernel
def describe_token(data, begin, end, classes):
    """(length in characters, flags) of a token."""
    length = 0
    any_of, all_of = 0, 0xFFFF
    at = begin
    while at < end:
        point, width = code_point(data, at)
        any_of |= classes[point]
        all_of &= classes[point]
        at += width
        length += 1
    flags = (HAS_ALPHA if any_of & LETTER else 0) | (HAS_NON_SYMBOL if any_of & NON_PUNCTUATION else 0)
    flags |= ONLY_PUNCTUATION if all_of & PUNCTUATION else 0
    flags |= ENDS_SENTENCE if all_of & SENTENCE_END and length == 1 else 0
    return length, flags


@kernel
def _split(
    data, offsets, classes, case_hashes, case_tokens, case_patterns, unit_hashes,
    cached, scratch, starts, hashes, lengths, word_flags, begins,
):  # fmt: skip
    """Fill the arrays of Words with tokens.

    cached: int64[S, 4], 0: earlier chunks by hash. The chunk's hash, its size in bytes, its first token in the output,
    its tokens. scratch: see cut_chunk.
    """
    ends = scratch[_ENDS]
    word = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            begin = at
            hashed = HASH_SEED
            length = 0
            kinds = 0
            space = 1  # width in bytes of the white space that ends the chunk
            while at < end:
                byte = data[at]
                if byte < 0x80:
                    kind = classes[byte]
                    if kind & SPACE:
                        break
                    hashed = (hashed ^ np.uint64(byte)) * HASH_PRIME
                    at += 1
                else:
                    point, width = code_point(data, at)
                    kind = classes[point]
                    if kind & SPACE:
                        space = width
                        break
                    for offset in range(width):
                        hashed = (hashed ^ np.uint64(data[at + offset])) * HASH_PRIME
                    at += width
                kinds |= kind
                length += 1
            size = at - begin
            if size == 0:
                at += space
                continue
            hashed = mix_hash(hashed)
            if not kinds & (MAY_SPLIT | PUNCTUATION) and (size > _MAX_CASE_BYTES or find_slot(case_hashes, hashed) < 0):
                hashes[word] = hashed
                lengths[word] = length
                word_flags[word] = (HAS_ALPHA if kinds & LETTER else 0) | (
                    HAS_NON_SYMBOL if kinds & NON_PUNCTUATION else 0
                )
                begins[word] = begin
                word += 1
                continue
            slot = np.int64(hashed) & (len(cached) - 1)
            if cached[slot, 0] == np.int64(hashed) and cached[slot, 1] == size:
                first, count = cached[slot, 2], cached[slot, 3]
                shift = begin - begins[first]
                for token in range(count):
                    hashes[word + token] = hashes[first + token]
                    lengths[word + token] = lengths[first + token]
                    word_flags[word + token] = word_flags[first + token]
                    begins[word + token] = begins[first + token] + shift
            else:
                count = cut_chunk(
                    data, begin, at, classes, case_hashes, case_tokens, case_patterns, unit_hashes, scratch
                )
                start = begin
                for token in range(count):
                    token_length, flags = describe_token(data, start, ends[token], classes)
                    hashes[word + token] = hash_bytes(data, start, ends[token])
                    lengths[word + token] = token_length
                    word_flags[word + token] = flags
                    begins[word + token] = start
                    start = ends[token]
                cached[slot, 0], cached[slot, 1] = np.int64(hashed), size
                cached[slot, 2], cached[slot, 3] = word, count
            word += count
        starts[document + 1] = word


# --- Sentences of the datatrove dialect: those of spaCy's sentencizer, counted on the tokens of the same dialect.


def count_sentence_breaks(texts: Texts) -> np.ndarray:
    """int64[D]: how many sentences begin inside a line, after another sentence.

    Lines (separated by line feeds) are cut one by one, so a document has lines + breaks sentences.
    """
    words = split_tokens(texts)
    breaks = np.zeros(len(texts), np.int64)
    _count_breaks(texts.data, texts.offsets, words.starts, words.begins, words.lengths, words.flags, breaks)
    return breaks


@kernel
def _count_breaks(data, offsets, starts, begins, lengths, flags, breaks):
    """Add to `breaks`, int64[D], see count_sentence_breaks.

    The sentencizer begins a sentence at the first token after a sentence end that is not punctuation. White space other
    than a single space is such a token.
    """
    for document in range(len(breaks)):
        ended = False
        for word in range(starts[document], starts[document + 1]):
            if flags[word] & ENDS_SENTENCE:
                ended = True
            elif ended and not flags[word] & ONLY_PUNCTUATION:
                breaks[document] += 1
                ended = False
            if not ended:
                continue
            gap = begins[word]
            for _ in range(lengths[word]):
                gap += code_point(data, gap)[1]
            limit = begins[word + 1] if word + 1 < starts[document + 1] else offsets[document + 1]
            at = gap
            while at < limit and data[at] != 10:
                at += 1
            if at - gap > 1 or (at - gap == 1 and data[gap] != 32):
                breaks[document] += 1
                ended = False
            if at < limit:
                ended = False
