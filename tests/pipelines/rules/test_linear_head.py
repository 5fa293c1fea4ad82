"""The linear head of `judge_score`: its file, its scores, and what it refuses."""

import json

import numpy as np
import pyarrow as pa
import pytest

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.distil.train_head import train_head
from raymill.pipelines.rules.filters import Filters, signals
from raymill.pipelines.rules.judge_score import JudgeScore
from raymill.pipelines.rules.linear_head import LinearHead
from raymill.pipelines.text.texts import Texts

HEAD = LinearHead(np.array([[0.0, 1, 2], [0, -1, -2]]), np.array([0.0, 0.5, 0.0]))


def test_the_file_holds_the_head_exactly_and_scores_are_expectations():
    read = LinearHead.from_json(HEAD.to_json(), "head.json")
    assert (read.weights == HEAD.weights).all() and (read.bias == HEAD.bias).all()
    vectors = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    powers = np.exp([0.0, 1.5, 2.0])
    assert read.expected_scores(vectors)[0] == pytest.approx((powers[1] + 2 * powers[2]) / powers.sum())
    assert np.isnan(read.expected_scores(vectors)[2]), "a text without a vector has no score"
    cooler = read.divided_by(2.0).probabilities(vectors)[0]
    np.testing.assert_allclose(cooler, np.exp([0, 0.75, 1.0]) / np.exp([0, 0.75, 1.0]).sum())


@pytest.mark.parametrize(
    "content",
    [
        b"no JSON", b"[]", b"{}", b'{"weights": [[1, 2]], "bias": [1]}', b'{"weights": [[1], [2]], "bias": [1, 2, 3]}',
        b'{"weights": [[1], ["a"]], "bias": [1, 2]}', b'{"weights": [[1], [NaN]], "bias": [1, 2]}',
        b'{"weights": [[], []], "bias": [1, 2]}', b'{"weights": 3, "bias": 4}',
    ],
)  # fmt: skip
def test_a_file_without_a_head_is_refused(content):
    with pytest.raises(ConfigError, match=r"head\.json: is not the head that `raymill.distil` writes"):
        LinearHead.from_json(content, "head.json")


@pytest.mark.parametrize("scores", [(0, 1), (1, 4), (0, 2, 5)])
def test_training_finds_a_head_that_separates_scores_with_gaps(scores):
    draw = np.random.default_rng(0)
    labels = draw.choice(scores, 400)
    centres = draw.normal(size=(6, 16))
    vectors = centres[labels] + 0.3 * draw.normal(size=(400, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    head = train_head(vectors[:300], labels[:300], vectors[300:], labels[300:], 6)
    again = train_head(vectors[:300], labels[:300], vectors[300:], labels[300:], 6)
    assert head.to_json() == again.to_json()
    probabilities = head.probabilities(vectors)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.97
    never = [score for score in range(6) if score not in scores]
    assert probabilities[:, never].max() < 1e-6


def folder_of(tmp_path, **beside):
    (tmp_path / "head.json").write_bytes(HEAD.to_json())
    (tmp_path / "threshold.json").write_text(json.dumps({"min_score": 1.0, "max_chars": 200} | beside))
    return str(tmp_path)


def measured(folder, texts=("a text",), **embedding):
    model = EmbeddingModel.model_validate(embedding) if embedding else None
    rule = JudgeScore(classifier=folder, embedding=model)
    return signals(Texts.from_strings(list(texts)), pa.table({}), Filters(None, (rule,), "paper"), Store())


def test_the_model_of_the_vectors_must_be_the_one_of_the_training(tmp_path):
    made_with = {"at": "private", "name": "small", "revision": "", "extra": {}}
    folder = folder_of(tmp_path, embedding=made_with)
    at = {"endpoint": "http://10.0.0.1/v1", "name": "small"}
    with pytest.raises(ConfigError, match=r'embedding: missing; .* Name their model here: .*"name": "small"'):
        measured(folder)
    with pytest.raises(
        ConfigError, match=r"embedding\.name: 'other' given, and .* was trained on the vectors of 'small'"
    ):
        measured(folder, **at | {"name": "other"})
    with pytest.raises(ConfigError, match=r"embedding\.revision: '2' given"):
        measured(folder, **at, revision="2")
    with pytest.raises(ConfigError, match="an endpoint is asked by runs of curate and prepare alone"):
        measured(folder, **at)
    assert not len(measured(folder, (), **at)["judge_score"]), "the check before a run asks nothing"


def test_a_classifier_of_words_takes_no_model_of_vectors(tmp_path):
    with pytest.raises(ConfigError, match="reads words, and no vectors"):
        measured(folder_of(tmp_path), endpoint="http://10.0.0.1/v1", name="small")
