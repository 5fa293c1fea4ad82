"""The second half of fastText's prediction: from the mean rows of texts to labels and their probabilities.

The order of every operation follows fastText 0.9.2, because a sum of float32 depends on it. In the tree of hierarchical
softmax a label is searched with the score of the label that a greedy descent finds, which most nodes do not reach.
"""

import math
from typing import NamedTuple

import numpy as np

from pipelines.language.fasttext_file import ModelFile
from pipelines.text.kernel import inner_kernel, kernel

_SIGMOID_STEPS, _SIGMOID_LIMIT = 512, 8
_SLACK = np.float32(2e-5)  # by how much a label's score may exceed that of a node above it, for each level


class Tree(NamedTuple):
    """The Huffman tree of hierarchical softmax over L labels: nodes 0 to L - 1 are labels, 2 L - 2 is the root."""

    left: np.ndarray  # int32[L - 1], of the inner nodes from L on
    right: np.ndarray
    parent: np.ndarray  # int32[2 L - 1], -1 for the root
    slack: np.float32  # by how much a label's score may exceed that of a node above it


def tree_of(model: ModelFile) -> Tree:
    """The tree that fastText builds from the labels' counts."""
    labels = len(model.label_counts)
    left, right = np.empty(labels - 1, np.int32), np.empty(labels - 1, np.int32)
    parent = np.full(2 * labels - 1, -1, np.int32)
    weights = np.full(2 * labels - 1, 10**15, np.int64)
    weights[:labels] = model.label_counts
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


def best_by_tree(
    means: np.ndarray, any_row: np.ndarray, output: np.ndarray, scales: np.ndarray, tree: Tree
) -> tuple[np.ndarray, np.ndarray]:
    """(label int64[D], -1 for a text without a row; probability float32[D]) of the most probable labels.

    output: float32[L, dimension], scales: float32[L].
    """
    labels = len(scales)
    found, scores = np.full(len(means), -1, np.int64), np.zeros(len(means), np.float32)
    nodes, reached = np.empty(2 * labels, np.int32), np.empty(2 * labels, np.float32)
    _best_by_tree(means, any_row, output, scales, tree, *_branches(labels), nodes, reached, found, scores)
    return found, scores


def score_by_tree(
    means: np.ndarray, any_row: np.ndarray, output: np.ndarray, scales: np.ndarray, tree: Tree, label: int
) -> np.ndarray:
    """float32[D]: the probability of one label; 0 where it is below 1e-5, which fastText does not report."""
    labels = len(scales)
    found, path = np.zeros(len(means), np.float32), np.empty(2 * labels, np.int32)
    _score_by_tree(means, any_row, output, scales, tree, label, *_branches(labels), path, found)
    return found


def _branches(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(logs float32[L, 2], stamps int64[L]) for `_branch_logs`; no text has the stamp -1."""
    return np.empty((labels, 2), np.float32), np.full(labels, -1, np.int64)


@kernel
def _best_by_tree(means, any_row, output, scales, tree, logs, stamps, nodes, reached, found, scores):
    """Fill found and scores. nodes, reached: scratch, of 2 L numbers."""
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


def sigmoids() -> np.ndarray:
    """float32[513]: fastText's table of the sigmoid from -8 to 8."""
    table = np.empty(_SIGMOID_STEPS + 1, np.float32)
    _fill_sigmoids(table)
    return table


@kernel
def _fill_sigmoids(table):
    for step in range(len(table)):
        x = np.float32(step * 2 * _SIGMOID_LIMIT) / np.float32(_SIGMOID_STEPS) - np.float32(_SIGMOID_LIMIT)
        table[step] = 1.0 / (1.0 + np.float64(math.exp(-x)))


@inner_kernel
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


def best_by_output(
    means: np.ndarray, any_row: np.ndarray, weights: np.ndarray, scales: np.ndarray, softmax: bool, sigmoid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(label int64[D], -1 for a text without a row; probability float32[D]) of the most probable labels.

    weights: float32[dimension, L], scales: float32[L]. softmax: else each label has a probability of its own, read from
    the table `sigmoid`.
    """
    found, probabilities = np.full(len(means), -1, np.int64), np.zeros(len(means), np.float32)
    products = np.empty(len(scales), np.float32)
    _best_by_output(means, any_row, weights, scales, softmax, sigmoid, products, found, probabilities)
    return found, probabilities


def score_by_output(
    means: np.ndarray, any_row: np.ndarray, weights: np.ndarray, scales: np.ndarray, softmax: bool,
    sigmoid: np.ndarray, label: int,
) -> np.ndarray:  # fmt: skip
    """float32[D]: the probability of one label; 0 for a text without a row."""
    found, products = np.zeros(len(means), np.float32), np.empty(len(scales), np.float32)
    _score_by_output(means, any_row, weights, scales, softmax, sigmoid, label, products, found)
    return found


@kernel
def _best_by_output(means, any_row, weights, scales, softmax, sigmoid, products, found, scores):
    """Fill found and scores. products: scratch, float32[L]."""
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
