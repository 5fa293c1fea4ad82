"""Training fastText models: what the fastText library reads of them, equal bytes, and that they learn."""

import fasttext
import numpy as np
import pytest

from raymill.pipelines.language import fasttext_rows
from raymill.pipelines.language.fasttext_classifier import Classifier
from raymill.pipelines.language.fasttext_file import model_bytes, read_model_file
from raymill.pipelines.language.fasttext_training import TrainingSettings, calibrated, train
from raymill.pipelines.text.texts import Texts

NAMES = ["0", "1", "2"]


def drawn(count: int, seed: int = 0) -> tuple[Texts, np.ndarray]:
    """Texts of 30 words, of which a third is of their label; every fifth has the words of another one."""
    random = np.random.default_rng(seed)
    words = [[f"{kind}{number}" for number in range(40)] for kind in ("stone", "leaf", "river")]
    common = [f"of{number}" for number in range(60)] + ["müller", "東京", "a,b"]
    texts, labels = [], []
    for number in range(count):
        label = int(random.integers(3))
        told = label if number % 5 else (label + 1) % 3
        texts.append(" ".join([*random.choice(words[told], 10), *random.choice(common, 20)]))
        labels.append(label)
    return Texts.from_strings(texts), np.array(labels)


@pytest.mark.parametrize(
    "settings",
    [{}, {"word_ngrams": 1, "dimension": 7}, {"word_ngrams": 3, "char_ngrams": (2, 4), "buckets": 999}],
    ids=["default", "words alone", "characters"],
)
def test_the_fasttext_library_gives_a_trained_model_the_same_probabilities(settings, tmp_path):
    texts, labels = drawn(300)
    file = tmp_path / "model.bin"
    made = TrainingSettings(epochs=3, **{"buckets": 5000} | settings)
    file.write_bytes(model_bytes(train(texts, labels, NAMES, made), made.epochs, len(texts)))
    ours, theirs = Classifier(file, read_model_file(file)), fasttext.load_model(str(file))
    others, _ = drawn(50, seed=1)
    everything = ours.probabilities(others)
    np.testing.assert_allclose(everything.sum(axis=1), 1, atol=1e-5)
    for name in NAMES:
        scores = ours.score(others, name)
        np.testing.assert_allclose(everything[:, int(name)], scores, atol=2e-5)
        for row in range(len(others)):
            found = dict(zip(*theirs.predict(others[row], k=3), strict=True))
            assert scores[row] == np.float32(min(found[f"__label__{name}"], 1))


def test_a_model_predicts_the_labels_of_other_texts(tmp_path):
    texts, labels = drawn(1000)
    file = tmp_path / "model.bin"
    file.write_bytes(model_bytes(train(texts, labels, NAMES, TrainingSettings(word_ngrams=1, epochs=5)), 5, 1000))
    others, told = drawn(400, seed=1)
    best, _ = Classifier(file, read_model_file(file)).best(others)
    assert 0.7 < (best == told).mean() <= 0.83, "a fifth of the labels is wrong"


@pytest.mark.parametrize(
    ("min_count", "words"), [(1, ["</s>", "b", "a", "c"]), (2, ["</s>", "b", "a"]), (3, ["</s>", "b"])]
)
def test_the_words_are_those_that_occur_at_least_min_count_times(min_count, words):
    texts, settings = Texts.from_strings(["b a b", "a c b", "__label__1 </s>"]), TrainingSettings(min_count=min_count)
    model = train(texts, np.array([0, 1, 2]), NAMES, settings)
    assert model.entries.to_arrow().to_pylist() == [*words, *(f"__label__{name}" for name in NAMES)]


def test_the_rate_falls_to_0_over_the_epochs():
    """A text of one word, whose rows and output follow in closed form."""
    settings = TrainingSettings(min_count=1, word_ngrams=1, dimension=1, epochs=4, learning_rate=0.8)
    model = train(Texts.from_strings(["a"]), np.array([1]), ["0", "1"], settings, seed=3)
    bound = 1 / settings.dimension
    rows = np.random.default_rng(3).uniform(-bound, bound, (2, 1)).astype(np.float32)[:, 0]
    output = np.zeros(2)
    for epoch in range(4):
        mean = rows.mean()
        probabilities = np.exp(mean * output) / np.exp(mean * output).sum()
        steps = 0.8 * (1 - epoch / 4) * (np.array([0, 1]) - probabilities)
        rows, output = rows + (steps * output).sum() / 2, output + steps * mean
    np.testing.assert_allclose(model.rows[:, 0], rows, atol=1e-5)
    np.testing.assert_allclose(model.output[:, 0], output, atol=1e-5)


def test_equal_texts_and_seeds_make_equal_bytes():
    texts, labels = drawn(200)
    made = [
        model_bytes(train(texts, labels, NAMES, TrainingSettings(epochs=2, buckets=100), seed), 2, 200)
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]


def test_unknown_words_and_ngrams_have_no_effect():
    texts, labels = drawn(100)
    model = train(texts, labels, NAMES, TrainingSettings(epochs=2, buckets=100_000))
    rows, _ = fasttext_rows.row_numbers(texts, fasttext_rows.rows_of(model))
    unknown = np.ones(len(model.rows), bool)
    unknown[rows] = False
    assert unknown.any() and not model.rows[unknown].any() and model.rows[~unknown].any(axis=1).all()


def test_the_rows_that_are_trained_are_those_of_which_a_text_is_the_mean():
    texts, labels = drawn(40)
    model = train(texts, labels, NAMES, TrainingSettings(epochs=1, buckets=64, char_ngrams=(3, 3)))
    lookup = fasttext_rows.rows_of(model)
    rows, ends = fasttext_rows.row_numbers(texts, lookup)
    means, _ = fasttext_rows.means(texts, lookup, fasttext_rows.word_cache())
    for text in range(len(texts)):
        mean = model.rows[rows[ends[text] : ends[text + 1]]].mean(axis=0)
        np.testing.assert_allclose(means[text, : model.dimension], mean, atol=1e-6)


def test_rows_are_the_same_in_blocks_of_any_size(monkeypatch):
    texts, labels = drawn(60)
    lookup = fasttext_rows.rows_of(train(texts, labels, NAMES, TrainingSettings(epochs=1, buckets=64)))
    whole = fasttext_rows.row_numbers(texts, lookup)
    monkeypatch.setattr(fasttext_rows, "_NUMBERED_BYTES", 500)
    parts = fasttext_rows.row_numbers(texts, lookup)
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_calibration_lowers_an_overconfident_models_probabilities_to_its_accuracy(tmp_path):
    texts, labels = drawn(1000)
    model = train(texts, labels, NAMES, TrainingSettings(epochs=60, buckets=1000))
    others, told = drawn(600, seed=1)
    before = Classifier(tmp_path, model).probabilities(others)
    made, temperature = calibrated(model, before, told)
    after = Classifier(tmp_path, made).probabilities(others)
    assert temperature > 1 and (after.argmax(axis=1) == before.argmax(axis=1)).all()
    right = (after.argmax(axis=1) == told).mean()
    assert abs(after.max(axis=1).mean() - right) < 0.02 < abs(before.max(axis=1).mean() - right)
