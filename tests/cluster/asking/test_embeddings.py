"""Vectors of texts from an endpoint: asked for in batches, stored, paid once, and the same after any fault."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from raymill.cluster.asking import faulty_server
from raymill.cluster.asking.embedding_model import DECISIVE, EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun, batches, judged_embeddings, unit_length
from raymill.cluster.asking.faulty_server import FAULTS, FaultyServer
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from tests.support.word_vectors import word_vectors

pytestmark = pytest.mark.usefixtures("quick_reports")

TEXTS = [f"Text number {n} is about {('parcels', 'invoices', 'passwords')[n % 3]} of day {n % 7}." for n in range(300)]
PASSING = tuple(one for one in FAULTS if one != "bad_request")


def run_of(folder, *models) -> EmbeddingRun:
    return EmbeddingRun.of(Store(), str(folder), "test", models)


def model_of(server, **how) -> EmbeddingModel:
    return EmbeddingModel(endpoint=server.url, name="small", **how)


def vectors(folder, model, texts=TEXTS):
    """By a new worker."""
    return run_of(folder, model).embedder(model, "model").embed(texts)


def test_each_text_has_the_vector_of_the_server_and_blank_ones_have_zeros(server, tmp_path):
    texts = ["", *TEXTS[:40], TEXTS[3], "  \n", "half a pair \ud800"]
    found = vectors(tmp_path, model_of(server), texts)
    assert found.dtype == np.float32 and found.shape == (len(texts), 64)
    assert not found[[0, 42]].any()
    np.testing.assert_allclose(found[1:42], word_vectors(texts[1:42]), atol=1e-6)
    assert np.allclose(np.linalg.norm(found[1:42], axis=1), 1)


def test_texts_are_asked_for_in_batches_and_what_is_stored_never_again(server, tmp_path):
    model = model_of(server)
    first = vectors(tmp_path, model)
    asked = server.stats()["requests"]
    assert 300 / 64 <= asked < 40
    assert (vectors(tmp_path, model) == first).all() and server.stats()["requests"] == asked
    files = [one.name for one in Path(tmp_path, "answers/embeddings").rglob("*") if one.is_file()]
    assert len(files) == 1 and files[0].endswith(".parquet"), "one file for a call, and no journal"


def test_after_a_changed_text_only_its_batch_is_asked_again(server, tmp_path):
    model = model_of(server)
    vectors(tmp_path, model)
    before = server.stats()["requests"]
    changed = [*TEXTS[:150], "A text that was not there.", *TEXTS[150:]]
    found = vectors(tmp_path, model, changed)
    np.testing.assert_allclose(found, word_vectors(changed), atol=1e-6)
    assert server.stats()["requests"] - before <= 2


def test_batches_hold_all_texts_in_their_order_within_bounds():
    long = ["word " * 20_000, "x" * 300_000, *TEXTS]
    found = list(batches(long))
    assert [text for batch in found for text in batch] == long
    assert max(map(len, found)) <= 64
    assert all(len(batch) == 1 or sum(len(one.encode()) for one in batch) <= 200_000 for batch in found)


@pytest.mark.parametrize("seed", range(6))
def test_faults_change_no_vector_and_each_answer_is_paid_once(seed, tmp_path):
    with FaultyServer(0.4, PASSING, seed) as server:
        model = model_of(server, price=1.0, tries=30)
        found = vectors(tmp_path, model)
        np.testing.assert_allclose(found, word_vectors(TEXTS), atol=1e-6)
        (spent,) = run_of(tmp_path, model).close([model])
        assert spent["tokens"] <= server.tokens[0], "of unreadable answers the tokens are not known"
        asked = server.stats()["requests"]
        assert spent["tries"] == asked
        assert (vectors(tmp_path, model) == found).all() and server.stats()["requests"] == asked


def test_a_text_that_the_model_refuses_has_no_vector_and_the_others_of_its_batch_have(server, tmp_path):
    server.longest = 30
    texts = [*TEXTS[:50], "word " * 31, *TEXTS[50:100]]
    found = vectors(tmp_path, model_of(server), texts)
    assert not found[50].any()
    np.testing.assert_allclose(np.delete(found, 50, axis=0), word_vectors(TEXTS[:100]), atol=1e-6)
    asked = server.stats()["requests"]
    assert (vectors(tmp_path, model_of(server), texts) == found).all() and server.stats()["requests"] == asked


def test_a_model_that_refuses_all_texts_ends_the_run(server, tmp_path):
    server.longest = 1
    with pytest.raises(DataError, match=r"model: http.* refuses all of 300 texts; .*maximum context length.*extra"):
        vectors(tmp_path, model_of(server))


def test_a_budget_is_kept_and_a_larger_one_goes_on(server, tmp_path):
    dear = {"price": 1000.0, "concurrency": 1}
    with pytest.raises(AskingStopped, match="the budget of 3 has no room"):
        vectors(tmp_path, model_of(server, budget=3.0, **dear))
    assert 0 < server.tokens[0] * 1000 / 1e6 <= 3
    before = server.stats()
    found = vectors(tmp_path, model_of(server, budget=100.0, **dear))
    np.testing.assert_allclose(found, word_vectors(TEXTS), atol=1e-6)
    assert server.stats()["twice"] == before["twice"] == 0
    (spent,) = run_of(tmp_path, model_of(server, **dear)).close([model_of(server, **dear)])
    assert spent["cost"] == pytest.approx(server.tokens[0] * 1000 / 1e6)


def test_vectors_of_another_size_under_the_same_name_are_refused(server, tmp_path):
    vectors(tmp_path, model_of(server), TEXTS[:100])
    server.dimensions = 8
    with pytest.raises(DataError, match=r"vectors of (8|64) numbers, and gave some of (8|64) before"):
        vectors(tmp_path, model_of(server), TEXTS)


def test_a_key_is_sent_and_stands_in_no_repr(server, tmp_path, monkeypatch):
    monkeypatch.setenv("VECTOR_KEY", "sk-secret")
    model = model_of(server, key_env="VECTOR_KEY")
    run = run_of(tmp_path, model)
    assert "sk-secret" not in repr(run)
    run.embedder(model, "model").embed(TEXTS[:3])
    assert b"Bearer sk-secret" in server.head
    monkeypatch.delenv("VECTOR_KEY")
    with pytest.raises(ConfigError, match=r"model\.key_env: the environment variable VECTOR_KEY is not set"):
        model.secret("model")


def body_of(*given, usage=True) -> bytes:
    data = [{"index": at, "embedding": one} for at, one in enumerate(given)]
    return json.dumps({"data": data} | ({"usage": {"prompt_tokens": 3}} if usage else {})).encode()


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (body_of([1, 2.5], [3, 4]), "answered"),
        (body_of(base64.b64encode(struct.pack("<2f", 1, 2)).decode(), [3, 4], usage=False), "answered"),
        (body_of([1, 2]), "again"),
        (body_of([1, 2], [3]), "again"),
        (body_of([1, 2], []), "again"),
        (body_of([1, 2], None), "again"),
        (body_of([1, 2], ["a", "b"]), "again"),
        (body_of([1, 2], [True, False]), "again"),
        (body_of([1, 2], "not base64!"), "again"),
        (body_of([1, 2], [1e300, 1]), "again"),
        (body_of([1, 2], [float("nan"), 1]), "again"),
        (b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}', "again"),
        (b'{"data": 3}', "again"),
        (b"[]", "again"),
        (b"no JSON", "again"),
        (body_of([1], [2]).decode().encode("utf-16"), "again"),
        (b'{"a": "\xff", ' + body_of([1], [2])[1:], "again"),
        (b'{"a": "\xed\xa0\x80", ' + body_of([1], [2])[1:], "answered"),
        (b"\xef\xbb\xbf" + body_of([1], [2]), "answered"),
        (b'{"data": [{"index": "a", "embedding": [1]}, {"index": 1, "embedding": [1]}]}', "again"),
        (body_of([1], [2])[:-1] + b', "more": [' + b"[]," * 1_000_000 + b"0]}", "again"),
    ],
)
def test_what_an_answer_must_have(body, outcome):
    reply = judged_embeddings('{"input": ["a", "b"]}', 200, {}, body, 0.1)
    assert reply.outcome == outcome
    assert outcome == "again" or len(json.loads(reply.content)["data"]) == 2
    assert reply.billed == (outcome == "again" or b"prompt_tokens" not in body), "it may have cost the most"


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1.0, 3.4e38])
def test_vectors_of_any_length_have_length_1_and_zeros_stay(server, tmp_path, monkeypatch, scale):
    """In float32 the square of 3e38 is infinite, and of 1e-30 zero: both vectors would be zeros."""
    largest = np.array([[1, 1], [1, 0], [0, 0]], np.float32) * np.float32(scale)
    assert np.isfinite(largest).all() and largest[1].any()
    assert unit_length(largest) == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]]), abs=1e-6)
    if scale > 1:
        monkeypatch.setattr(faulty_server, "word_vector", lambda text, size: [scale] * size)
        assert np.linalg.norm(vectors(tmp_path, model_of(server), TEXTS[:3]), axis=1) == pytest.approx(np.ones(3))


def test_the_setting_is_a_folder_or_an_endpoint(tmp_path):
    folder = EmbeddingModel.model_validate(str(tmp_path))
    assert folder.path == str(tmp_path) and folder.is_folder and folder.model_dump() == str(tmp_path)
    assert EmbeddingModel.model_validate("acme/mini").model_dump() == "acme/mini"
    there = {"endpoint": "http://10.0.0.1:8000/v1", "name": "small"}
    one = EmbeddingModel.model_validate(there | {"price": 0.02, "tries": 3})
    assert EmbeddingModel.model_validate(one.model_dump(mode="json")) == one
    other = EmbeddingModel.model_validate(there | {"endpoint": "http://10.0.0.2:8000/v1", "concurrency": 9})
    assert one.model_dump(context=DECISIVE) == other.model_dump(context=DECISIVE)
    for wrong in ({}, {"endpoint": "http://x/v1"}, there | {"path": "a"}, there | {"budget": 3}):
        with pytest.raises(ValueError, match=r"endpoint and path given|name: missing|budget: goes with"):
            EmbeddingModel.model_validate(wrong)


@pytest.mark.parametrize("at", ["request_sent", "answer_received", "answer_stored", "answers_settled"])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_killed_call_loses_no_stored_answer_and_another_worker_goes_on(server, tmp_path, monkeypatch, at, number):
    class Killed(BaseException):
        pass

    count = [0]

    def killed(name, where):
        count[0] += name == at
        if name == at and count[0] == (1 if at == "answers_settled" else number):
            raise Killed

    model = model_of(server, concurrency=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("raymill.cluster.asking.ask.failpoint", killed)
        vectors(tmp_path, model)
    stored = {"request_sent": number - 1, "answer_received": number - 1, "answer_stored": number}
    before = server.stats()["requests"]
    found = vectors(tmp_path, model)
    np.testing.assert_allclose(found, word_vectors(TEXTS), atol=1e-6)
    different = server.stats()["different"]
    asked = server.stats()["requests"] - before
    # The answer to a request that was under way may be stored, too.
    assert different - before <= asked <= different - stored.get(at, different), "what is stored is not asked"
    run_of(tmp_path, model).close([model])
    left = [one.name for one in Path(tmp_path, "answers/embeddings").rglob("*") if one.is_file()]
    assert left and all(name.endswith(".parquet") for name in left)
