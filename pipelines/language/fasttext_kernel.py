"""fastText's prediction as kernels over many texts: the same labels and scores as fastText's, bit for bit.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the order of every operation follows fastText
0.9.2, because a sum of float32 depends on it. Three ideas make it ten times as fast as the library:

- A bucket of a pruned model is found with a bitmap and the number of ones before each of its words, and most n-grams
  have no row: a row is written for each n-gram, and the count of rows is advanced only if it exists. No branch.
- The rows of a word are kept in a cache under the word itself, of at most 32 bytes. Rows, not their sum: the sum of a
  text is made in fastText's order, so the result does not depend on what the cache holds.
- A label is searched in the tree of hierarchical softmax with the score of the label that a greedy descent finds.

Kernels take single arrays and one tuple of numbers: an array that is taken out of a tuple in a loop costs two atomic
operations, which halved the speed.
"""

import math
from typing import NamedTuple

import numpy as np

from pipelines.language.fasttext_file import LABEL_PREFIX, ModelFile
from pipelines.text.instructions import LANES, add_lanes, count_ones, load_uint64, multiply_high, trailing_zeros
from pipelines.text.kernel import kernel
from pipelines.text.texts import Texts

_CACHE_BITS = 13
_CACHED_ROWS = 15
_KEY_BYTES = 32  # longest word in the cache
_PADDING = _KEY_BYTES + 8  # bytes after the texts that are read with a word
_SKIPPED = -1  # in place of a word's number of rows: a label, which adds nothing to a text
_LAST = -2  # the word that ends a text
_SIGMOID_STEPS, _SIGMOID_LIMIT = 512, 8
_SLACK = np.float32(2e-5)  # by how much a label's score may exceed that of a node above it, for each level

_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)  # Fowler, Noll, Vo: FNV-1a
_WORD_PRIME = np.uint64(116049371)
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_SPACES = np.uint64(0x2020202020202020)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_END = np.frombuffer(b"</s>", np.uint8)
_LABEL = np.frombuffer(LABEL_PREFIX.encode(), np.uint8)


class Numbers(NamedTuple):
    """The numbers of a model."""

    width: int  # of a row: the dimension rounded up to LANES
    words: int
    minn: int
    maxn: int
    word_ngrams: int
    buckets: np.uint32
    inverse: np.uint64  # 2**64 / buckets, rounded up
    end_row: int  # of the word "</s>"; -1 if the model has none
    end_hash: np.uint32


class Rows(NamedTuple):
    """What turns words into rows. See ModelFile."""

    numbers: Numbers
    rows: np.ndarray  # float32[R * width], the rows of words, then those of buckets in the order of the buckets
    # uint64[buckets / 64 + 1, 2] of a pruned model: a bit for each bucket that has a row, and the rows before these
    # buckets. Empty if every bucket has a row.
    kept: np.ndarray
    entries: np.ndarray  # uint8[B], words and labels
    offsets: np.ndarray  # int64[E + 1]
    slots: np.ndarray  # int32, a power of two: hash table of the entries, -1 where empty


class WordCache(NamedTuple):
    """The rows of words seen before, one word a slot. One thread at a time may use it."""

    keys: np.ndarray  # uint64[S, 4], the word's bytes, then zeros
    counts: np.ndarray  # int32[S], rows of the word, or _SKIPPED, or _LAST
    hashes: np.ndarray  # uint32[S], fastText's hash of the word
    rows: np.ndarray  # int32[S * _CACHED_ROWS]


class Tree(NamedTuple):
    """The Huffman tree of hierarchical softmax over L labels: nodes 0 to L - 1 are labels, 2 L - 2 is the root."""

    left: np.ndarray  # int32[L - 1], of the inner nodes from L on
    right: np.ndarray
    parent: np.ndarray  # int32[2 L - 1], -1 for the root
    slack: np.float32  # by how much a label's score may exceed that of a node above it


def rows_of(model: ModelFile) -> Rows:
    """The tables of a model's words and n-grams."""
    width = -(-model.dimension // LANES) * LANES
    rows, kept = model.rows, np.zeros((0, 2), np.uint64)
    if model.kept_buckets is not None and model.rows_of_buckets is not None:
        row_of = dict(zip(model.kept_buckets.tolist(), model.rows_of_buckets.tolist(), strict=True))  # the last counts
        buckets = np.array(sorted(row_of), np.int64)
        order = model.words + np.array([row_of[bucket] for bucket in buckets.tolist()], np.int64)
        rows = np.concatenate([rows[: model.words], rows[order]])
        kept = np.zeros((model.buckets // 64 + 1, 2), np.uint64)
        np.bitwise_or.at(kept[:, 0], buckets // 64, np.uint64(1) << (buckets % 64).astype(np.uint64))
        ones = np.bitwise_count(kept[:, 0]).astype(np.uint64)
        kept[:, 1] = np.cumsum(ones) - ones
    if width != model.dimension:
        rows = np.pad(rows, ((0, 0), (0, width - model.dimension)))
    entries, offsets = model.entries.data, model.entries.offsets
    slots = np.full(1 << max(4, (2 * len(model.entries)).bit_length()), -1, np.int32)
    end_hash, end = _fill_slots(slots, entries, offsets, _END)
    numbers = Numbers(
        width, model.words, model.minn, model.maxn, model.word_ngrams, np.uint32(model.buckets),
        np.uint64((((1 << 64) - 1) // max(model.buckets, 1) + 1) % (1 << 64)), end if end < model.words else -1,
        np.uint32(end_hash),
    )  # fmt: skip
    return Rows(numbers, rows.reshape(-1), kept, entries, offsets, slots)


def word_cache() -> WordCache:
    """An empty cache, 0.8 MB."""
    size = 1 << _CACHE_BITS
    return WordCache(
        np.zeros((size, 4), np.uint64), np.zeros(size, np.int32), np.zeros(size, np.uint32),
        np.zeros(size * _CACHED_ROWS, np.int32),
    )  # fmt: skip


def tree_of(model: ModelFile) -> Tree:
    """The tree that fastText builds from the labels' counts."""
    left, right, parent, depth = _huffman(model.label_counts)
    return Tree(left, right, parent, np.float32(_SLACK * depth))


def means(texts: Texts, model: Rows, cache: WordCache) -> tuple[np.ndarray, np.ndarray]:
    """(float32[D, width]: the mean of each text's rows; bool[D]: whether it has any)."""
    return _means(
        texts.data, texts.offsets, model.numbers, model.rows, model.kept, model.entries, model.offsets, model.slots,
        cache.keys, cache.counts, cache.hashes, cache.rows,
    )  # fmt: skip


# --- rows of texts


@kernel
def _means(
    data,
    offsets,
    numbers,
    rows,
    kept,
    entries,
    entry_offsets,
    slots,
    cache_keys,
    cache_counts,
    cache_hashes,
    cache_rows,
):
    documents, first = len(offsets) - 1, offsets[0]
    copy = np.empty(offsets[documents] - first + _PADDING, np.uint8)
    _copy_separated(data, first, offsets[documents], copy)
    longest = 0
    for document in range(documents):
        longest = max(longest, offsets[document + 1] - offsets[document])
    # Of one word after the other: the word between "<" and ">", its rows; of one text: the hashes of its words.
    token = np.empty(longest + 3, np.uint8)
    of_word = np.empty((longest + 2) * max(numbers.maxn, 1) + 2, np.int32)
    hashes = np.empty(longest // 2 + 2, np.uint32)

    found, any_row = np.zeros((documents, numbers.width), np.float32), np.zeros(documents, np.bool_)
    for document in range(documents):
        at, last, mean = offsets[document] - first, offsets[document + 1] - first, found[document]
        total = words = 0
        while True:
            while at < last and copy[at] == 0x20:
                at += 1
            if at >= last:
                break
            key0, key1, key2, key3, size = _load_word(copy, at)
            size = min(size, last - at)
            slot = np.int64(((key0 ^ ((key1 ^ key2 ^ key3) * _SPREAD)) * _SPREAD) >> np.uint64(64 - _CACHE_BITS))
            if size > _KEY_BYTES:
                while at + size < last and copy[at + size] != 0x20:
                    size += 1
                count, hashed = _rows_of_word(
                    copy, at, size, numbers, kept, entries, entry_offsets, slots, token, of_word
                )
                _add_rows(rows, numbers.width, of_word, 0, count, mean)
            elif (
                (cache_keys[slot, 0] ^ key0) | (cache_keys[slot, 1] ^ key1) | (cache_keys[slot, 2] ^ key2)
                | (cache_keys[slot, 3] ^ key3)
            ) == 0:  # fmt: skip
                count, hashed = np.int64(cache_counts[slot]), cache_hashes[slot]
                _add_rows(rows, numbers.width, cache_rows, slot * _CACHED_ROWS, count, mean)
            else:
                count, hashed = _rows_of_word(
                    copy, at, size, numbers, kept, entries, entry_offsets, slots, token, of_word
                )
                _add_rows(rows, numbers.width, of_word, 0, count, mean)
                if count <= _CACHED_ROWS:
                    cache_keys[slot, 0], cache_keys[slot, 1] = key0, key1
                    cache_keys[slot, 2], cache_keys[slot, 3] = key2, key3
                    cache_counts[slot], cache_hashes[slot] = count, hashed
                    for number in range(count):
                        cache_rows[slot * _CACHED_ROWS + number] = of_word[number]
            at += size
            if count == _LAST:
                break
            if count >= 0:
                total += count
                hashes[words] = hashed
                words += 1
        if numbers.end_row >= 0:
            of_word[0] = numbers.end_row
            _add_rows(rows, numbers.width, of_word, 0, 1, mean)
            total += 1
        if numbers.word_ngrams > 1:
            hashes[words] = numbers.end_hash
            total += _add_word_ngrams(hashes, words + 1, numbers, rows, kept, of_word, mean)
        if total:
            any_row[document] = True
            share = np.float32(1.0 / total)
            for lane in range(numbers.width):
                mean[lane] *= share
    return found, any_row


@kernel
def _copy_separated(data, first, last, copy):
    """Copy data[first:last] to `copy`, with spaces for fastText's other separators and in the padding."""
    for at in range(last - first):
        byte = data[first + at]
        separates = (byte == 0) | ((byte >= 9) & (byte <= 13))
        copy[at] = np.uint8(0x20) if separates else byte
    copy[last - first :] = 0x20


@kernel
def _load_word(copy, at):
    """(the first 32 bytes of the word at `at`, zeros after its end: uint64 each; its size, 33 if it is longer)."""
    zero = np.uint64(0)
    first = load_uint64(copy, at)
    size = _first_space(first)
    if size < 8:
        return _lowest(first, size), zero, zero, zero, size
    second = load_uint64(copy, at + 8)
    size = _first_space(second)
    if size < 8:
        return first, _lowest(second, size), zero, zero, size + 8
    third = load_uint64(copy, at + 16)
    size = _first_space(third)
    if size < 8:
        return first, second, _lowest(third, size), zero, size + 16
    fourth = load_uint64(copy, at + 24)
    size = _first_space(fourth)
    if size < 8:
        return first, second, third, _lowest(fourth, size), size + 24
    return first, second, third, fourth, size + 24 + np.int64(copy[at + 32] != 0x20)


@kernel
def _lowest(word, size):
    """The lowest bytes of a word, less than eight; zeros above."""
    return word & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))


@kernel
def _first_space(word):
    """The position of the first space among eight bytes, the lowest first; 8 if there is none."""
    different = word ^ _SPACES
    return trailing_zeros((different - _ONES) & ~different & _HIGHS) >> 3


@kernel
def _rows_of_word(copy, at, size, numbers, kept, entries, offsets, slots, token, found):
    """(rows written to `found`, or _SKIPPED, or _LAST; the word's hash) of the word copy[at : at + size]."""
    hashed = _hash(copy, at, at + size)
    if _is(_END, copy, at, size):
        return np.int64(_LAST), hashed
    entry = np.int64(slots[_find_slot(slots, entries, offsets, hashed, copy, at, size)])
    if entry >= numbers.words or (entry < 0 and size >= len(_LABEL) and _is(_LABEL, copy, at, len(_LABEL))):
        return np.int64(_SKIPPED), hashed
    count = 0
    if entry >= 0:
        found[0] = entry
        count = 1
    if numbers.maxn > 0:
        token[0], token[size + 1], token[size + 2] = ord("<"), ord(">"), 0
        for place in range(size):
            token[place + 1] = copy[at + place]
        count = _rows_of_ngrams(token, size + 2, numbers, kept, found, count)
    return np.int64(count), hashed


@kernel
def _rows_of_ngrams(token, size, numbers, kept, found, count):
    """Append the rows of the n-grams of characters in token[:size] to `found` at `count`; returns the new count.

    token[size] is 0: no byte that continues a character.
    """
    for start in range(size):
        if token[start] & 0xC0 == 0x80:
            continue
        hashed, stop = _FNV_START, np.uint64(start)
        for length in range(1, numbers.maxn + 1):
            first = token[stop]
            hashed = _hash_byte(hashed, first)
            stop += np.uint64(1)
            if first >= 0x80:
                while token[stop] & 0xC0 == 0x80:
                    hashed = _hash_byte(hashed, token[stop])
                    stop += np.uint64(1)
            # The signs around the word alone are no n-grams.
            if length >= numbers.minn and (length > 1 or (start > 0 and stop < size)):
                bucket = multiply_high(numbers.inverse * np.uint64(hashed), np.uint64(numbers.buckets))
                count = _append_row(bucket, numbers, kept, found, count)
            if stop == size:
                break
    return count


@kernel
def _append_row(bucket, numbers, kept, found, count):
    """Append the row of a bucket, if it has one; returns the new count. bucket: uint64."""
    if len(kept) == 0:
        found[count] = numbers.words + np.int64(bucket)
        return count + 1
    bits = kept[bucket >> np.uint64(6), 0]
    bit = bucket & np.uint64(63)
    before = np.int64(kept[bucket >> np.uint64(6), 1]) + count_ones(bits & ((np.uint64(1) << bit) - np.uint64(1)))
    found[count] = numbers.words + before
    return count + np.int64((bits >> bit) & np.uint64(1))


@kernel
def _add_word_ngrams(hashes, count, numbers, rows, kept, found, mean):
    """Add the rows of the n-grams of words; returns their number."""
    total = 0
    for start in range(count):
        # fastText keeps the hashes as int32 and extends their sign.
        combined = np.uint64(np.int64(np.int32(hashes[start])))
        for stop in range(start + 1, min(start + numbers.word_ngrams, count)):
            combined = combined * _WORD_PRIME + np.uint64(np.int64(np.int32(hashes[stop])))
            added = _append_row(combined % np.uint64(numbers.buckets), numbers, kept, found, 0)
            _add_rows(rows, numbers.width, found, 0, added, mean)
            total += added
    return total


@kernel
def _add_rows(rows, width, found, first, count, total):
    """Add the rows found[first : first + count] to `total`, one after the other."""
    for place in range(first, first + count):
        start = np.uint64(found[place]) * np.uint64(width)
        for block in range(np.uint64(0), np.uint64(width), np.uint64(LANES)):
            add_lanes(total, block, rows, start + block)


# --- the vocabulary


@kernel
def _hash_byte(hashed, byte):
    """FNV-1a as fastText computes it: the byte is signed."""
    return np.uint32((hashed ^ np.uint32(np.int8(byte))) * _FNV_PRIME)


@kernel
def _hash(data, start, stop):
    hashed = _FNV_START
    for at in range(start, stop):
        hashed = _hash_byte(hashed, data[at])
    return hashed


@kernel
def _is(word, data, at, size):
    """Whether data[at : at + size] is this word."""
    same = 0
    while same < size and same < len(word) and data[at + same] == word[same]:
        same += 1
    return same == size == len(word)


@kernel
def _find_slot(slots, entries, offsets, hashed, data, at, size):
    """The slot of the entry data[at : at + size], or the empty one where it would be."""
    slot = np.int64(hashed) & (len(slots) - 1)
    while slots[slot] >= 0:
        start, stop = offsets[slots[slot]], offsets[slots[slot] + 1]
        if _is(entries[start:stop], data, at, size):
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def _fill_slots(slots, entries, offsets, end):
    """Fill the hash table; the last of equal entries counts. Returns (hash, number) of the entry `end`; -1 for none."""
    for entry in range(len(offsets) - 1):
        start, size = offsets[entry], offsets[entry + 1] - offsets[entry]
        hashed = _hash(entries, start, start + size)
        slots[_find_slot(slots, entries, offsets, hashed, entries, start, size)] = entry
    hashed = _hash(end, 0, len(end))
    return hashed, np.int64(slots[_find_slot(slots, entries, offsets, hashed, end, 0, len(end))])


# --- labels


@kernel
def _log(probability):
    """fastText's logarithm, float32 of a float32, which is never below log(1e-5)."""
    return np.float32(math.log(np.float64(probability) + 1e-5))


@kernel
def _huffman(counts):
    """(left, right int32[L - 1], parent int32[2 L - 1], depth) of the tree for labels in order of falling counts."""
    labels = len(counts)
    left, right = np.empty(labels - 1, np.int32), np.empty(labels - 1, np.int32)
    parent = np.full(2 * labels - 1, -1, np.int32)
    weights = np.full(2 * labels - 1, np.int64(10**15))
    weights[:labels] = counts
    leaf, inner = labels - 1, labels
    for node in range(labels, 2 * labels - 1):
        for side in (left, right):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                child = leaf
                leaf -= 1
            else:
                child = inner
                inner += 1
            side[node - labels] = child
            parent[child] = node
        weights[node] = weights[left[node - labels]] + weights[right[node - labels]]
    deepest = 0
    levels = np.zeros(2 * labels - 1, np.int64)
    for node in range(2 * labels - 3, -1, -1):
        levels[node] = levels[parent[node]] + 1
        deepest = max(deepest, levels[node])
    return left, right, parent, deepest


@kernel
def _branch_logs(node, mean, output, scales, tree, logs, stamps, stamp):
    """Compute the logarithms of both branches of inner node `node` for this text, if they are not yet in `logs`."""
    if stamps[node] != stamp:
        product = np.float32(0)
        for lane in range(output.shape[1]):
            product += mean[lane] * output[node, lane]
        product *= scales[node]
        right = np.float32(1) / (np.float32(1) + math.exp(-product))
        logs[node, 0] = _log(np.float32(1.0 - np.float64(right)))
        logs[node, 1] = _log(right)
        stamps[node] = stamp


@kernel
def best_by_tree(means, any_row, output, scales, tree):
    """(label int64[D], -1 for a text without a row; probability float32[D]) of the most probable labels.

    output: float32[L, dimension], scales: float32[L].
    """
    labels = len(tree.left) + 1
    found, scores = np.full(len(means), -1, np.int64), np.zeros(len(means), np.float32)
    logs, stamps = np.empty((labels, 2), np.float32), np.full(labels, -1, np.int64)
    nodes, reached = np.empty(2 * labels, np.int32), np.empty(2 * labels, np.float32)
    lowest = _log(np.float32(0))
    for text in range(len(means)):
        if not any_row[text]:
            continue
        mean = means[text]
        node, score = 2 * labels - 2, np.float32(0)
        while node >= labels:
            inner = node - labels
            _branch_logs(inner, mean, output, scales, tree, logs, stamps, text)
            side = 1 if logs[inner, 1] > logs[inner, 0] else 0
            score += logs[inner, side]
            node = tree.right[inner] if side else tree.left[inner]
        # A node that is worse by more than this has no label that is better.
        bound = score - tree.slack
        best, best_score = -1, np.float32(0)
        nodes[0], reached[0] = 2 * labels - 2, 0
        waiting = 1
        while waiting:
            waiting -= 1
            node, score = nodes[waiting], reached[waiting]
            if score < lowest or score < bound or (best >= 0 and score < best_score):
                continue
            if node < labels:  # of equal labels the later one counts
                best, best_score = node, score
                continue
            inner = node - labels
            _branch_logs(inner, mean, output, scales, tree, logs, stamps, text)
            nodes[waiting], reached[waiting] = tree.right[inner], score + logs[inner, 1]
            nodes[waiting + 1], reached[waiting + 1] = tree.left[inner], score + logs[inner, 0]
            waiting += 2
        if best >= 0:
            found[text], scores[text] = best, math.exp(best_score)
    return found, scores


@kernel
def score_by_tree(means, any_row, output, scales, tree, label):
    """float32[D]: the probability of one label; 0 where it is below 1e-5, which fastText does not report."""
    labels = len(tree.left) + 1
    scores = np.zeros(len(means), np.float32)
    logs, stamps = np.empty((labels, 2), np.float32), np.full(labels, -1, np.int64)
    path = np.empty(2 * labels, np.int32)
    depth, node = 0, np.int64(label)
    while node >= 0:
        path[depth] = node
        node = np.int64(tree.parent[node])
        depth += 1
    lowest = _log(np.float32(0))
    for text in range(len(means)):
        if not any_row[text]:
            continue
        score = np.float32(0)
        for level in range(depth - 1, 0, -1):
            inner = path[level] - labels
            _branch_logs(inner, means[text], output, scales, tree, logs, stamps, text)
            score += logs[inner, 1 if tree.right[inner] == path[level - 1] else 0]
            if score < lowest:
                break
        if score >= lowest:
            scores[text] = math.exp(score)
    return scores


@kernel
def _products(mean, weights, scales, products):
    """The product of a text's mean and each label's weights. Each sum is in the order of the dimensions."""
    products[:] = 0
    for lane in range(len(weights)):
        value = mean[lane]
        for label in range(len(products)):
            products[label] += value * weights[lane, label]
    for label in range(len(products)):
        products[label] *= scales[label]


@kernel
def sigmoids():
    """float32[513]: fastText's table of the sigmoid from -8 to 8."""
    table = np.empty(_SIGMOID_STEPS + 1, np.float32)
    for step in range(len(table)):
        x = np.float32(step * 2 * _SIGMOID_LIMIT) / np.float32(_SIGMOID_STEPS) - np.float32(_SIGMOID_LIMIT)
        table[step] = 1.0 / (1.0 + np.float64(math.exp(-x)))
    return table


@kernel
def _to_probabilities(products, softmax, sigmoid):
    """Turn products into probabilities: of all labels together, or of each label alone."""
    if not softmax:
        for label in range(len(products)):
            value = products[label]
            if value < -_SIGMOID_LIMIT:
                products[label] = 0
            elif value > _SIGMOID_LIMIT:
                products[label] = 1
            else:
                step = (value + np.float32(_SIGMOID_LIMIT)) * np.float32(_SIGMOID_STEPS)
                step = step / np.float32(_SIGMOID_LIMIT) / np.float32(2)
                products[label] = sigmoid[np.int64(step)]
        return
    highest, total = products[0], np.float32(0)
    for label in range(len(products)):
        highest = max(highest, products[label])
    for label in range(len(products)):
        products[label] = math.exp(products[label] - highest)
        total += products[label]
    for label in range(len(products)):
        products[label] /= total


@kernel
def best_by_output(means, any_row, weights, scales, softmax, sigmoid):
    """(label int64[D], -1 for a text without a row; probability float32[D]) of the most probable labels.

    weights: float32[dimension, L], scales: float32[L]. softmax: else each label has a probability of its own, read from
    the table `sigmoid`.
    """
    found, scores = np.full(len(means), -1, np.int64), np.zeros(len(means), np.float32)
    products = np.empty(len(scales), np.float32)
    for text in range(len(means)):
        if not any_row[text]:
            continue
        _products(means[text], weights, scales, products)
        _to_probabilities(products, softmax, sigmoid)
        best = np.float32(-np.inf)
        bound = -1.0
        for label in range(len(products)):
            # Far below the best the logarithm is lower as well; near it, two may have one logarithm.
            if np.float64(products[label]) + 1e-5 < bound:
                continue
            score = _log(products[label])
            if score >= best:  # of equal labels the later one counts
                best, bound = score, (np.float64(products[label]) + 1e-5) * 0.99999
                found[text] = label
        scores[text] = math.exp(best)
    return found, scores


@kernel
def score_by_output(means, any_row, weights, scales, softmax, sigmoid, label):
    """float32[D]: the probability of one label; 0 for a text without a row."""
    scores = np.zeros(len(means), np.float32)
    products = np.empty(len(scales), np.float32)
    for text in range(len(means)):
        if any_row[text]:
            _products(means[text], weights, scales, products)
            _to_probabilities(products, softmax, sigmoid)
            scores[text] = math.exp(_log(products[label]))
    return scores
