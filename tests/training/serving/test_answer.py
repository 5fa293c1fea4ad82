"""A model behind `raymill answer`, asked by the official client and by hostile ones."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import raymill
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.run import RUN_MANIFEST
from raymill.cluster.store.store import Store
from raymill.training.evaluation import completing
from raymill.training.evaluation.answering import ModelFolder
from raymill.training.evaluation.answers import answer_prompts
from raymill.training.pack.template import CHATML
from raymill.training.promote.alias import model_digest
from raymill.training.serving import api
from raymill.training.serving.api import ApiError, ChatRequest, TextRequest, parsed
from raymill.training.serving.served import find_served
from tests.support.processes import wait_until
from tests.support.tiny_tokenizers import saved, tiny

USER = [{"role": "user", "content": "Hello there."}]


def language_model(path, template=CHATML, seed=1, **settings):
    """A model of some thousand random weights, with a tokenizer and a chat template."""
    path.mkdir()
    tokenizer = tiny(template)
    saved(path, tokenizer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        **{"max_position_embeddings": 256} | settings,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def records():
    return []


@pytest.fixture(scope="module")
def server(folder, records):
    with raymill.answer(folder, port=0, log=records.append, max_tokens=100) as one:
        yield one


def client(server, **options):
    return openai.OpenAI(base_url=server.url, api_key=server.token or "none", max_retries=0, **options)


def chat(server, messages=USER, **options):
    options = {"max_tokens": 24, "temperature": 0, "model": server.served.name} | options
    return client(server).chat.completions.create(messages=messages, **options)


def post(server, body, path="/chat/completions", **options):
    data = {"content": body} if isinstance(body, bytes) else {"json": body}
    options = {"headers": {"Content-Type": "application/json"}} | options
    return httpx2.post(server.url + path, **data, **options)


def asked(**changes):
    return {"model": "small", "messages": USER, "max_tokens": 8, "temperature": 0} | changes


# --- answers


def test_greedy_answers_are_those_of_other_verbs(server, folder):
    found = chat(server)
    request = {"model": "m", "messages": USER, "temperature": 0, "top_p": 1, "max_tokens": 24, "seed": 1}
    one = asyncio.run(ModelFolder(Store(), folder).send(json.dumps(request)))
    assert found.choices[0].message.content == one.content != ""
    assert found.choices[0].finish_reason == one.finish
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (one.tokens.input, one.tokens.output)
    assert found.usage.total_tokens == one.tokens.input + one.tokens.output
    assert found.choices[0].message.content.strip() == answer_prompts(Store(), folder, [USER], 24, True)[0]
    text = client(server).completions.create(model="small", prompt="Hello there.", max_tokens=24, temperature=0)
    assert text.choices[0].text.strip() == answer_prompts(Store(), folder, ["Hello there."], 24, False)[0]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 7, "top_p": 0.9}, {"stop": ["e", " the"]}])
def test_a_stream_has_the_text_of_the_whole_answer(server, options):
    options = {"max_tokens": 60, "temperature": 0} | options
    whole = chat(server, **options)
    chunks = list(chat(server, **options, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].delta.content or "" for one in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({one.id for one in chunks}) == 1 and len(chunks) > 3
    ask = {"model": "small", "prompt": "Hello"} | options
    parts = [one.choices[0].text for one in client(server).completions.create(**ask, stream=True)]
    assert "".join(parts) == client(server).completions.create(**ask).choices[0].text


def test_a_drawn_answer_depends_on_its_seed_alone_also_in_a_batch(server):
    def drawn(seed, text="Hello"):
        messages = [{"role": "user", "content": text}]
        return chat(server, messages, temperature=1.0, seed=seed).choices[0].message.content

    alone = [drawn(seed, "Hello " * (1 + seed)) for seed in range(5)]
    assert alone[1] == drawn(1, "Hello Hello ") and len(set(alone)) > 1
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda seed: drawn(seed, "Hello " * (1 + seed)), range(5)))
    assert found == alone
    assert drawn(None) != drawn(None), "the server draws a seed for each request"


def test_an_answer_ends_before_a_stop_text(server):
    whole = chat(server, max_tokens=60).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    found = chat(server, max_tokens=60, stop=stop)
    assert found.choices[0].message.content == whole[: whole.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens < 60


def test_requests_of_the_benchmark_of_vllm_have_all_their_tokens(server):
    drawn = {"temperature": 1.5, "max_tokens": 100}
    answers = ((seed, chat(server, seed=seed, **drawn)) for seed in range(50))
    seed, whole = next(one for one in answers if one[1].choices[0].finish_reason == "stop")
    benchmark = {"ignore_eos": True, "repetition_penalty": 1.0}
    found = chat(server, seed=seed, **drawn, extra_body=benchmark)
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (100, "length")
    assert found.choices[0].message.content.startswith(whole.choices[0].message.content)
    text = client(server).completions.create(
        model="small", prompt="Hello", seed=seed, **drawn, extra_body=benchmark | {"logprobs": None}
    )
    assert text.usage.completion_tokens == 100


def test_the_bound_on_tokens_holds_and_is_the_length_of_an_answer_without_one(server):
    assert chat(server, max_tokens=3).usage.completion_tokens == 3
    found = chat(server, max_tokens=openai.NOT_GIVEN, temperature=1, seed=3, max_completion_tokens=5)
    assert found.usage.completion_tokens <= 5
    assert chat(server, max_tokens=24, max_completion_tokens=3).usage.completion_tokens == 3
    assert chat(server, max_tokens=openai.NOT_GIVEN).usage.completion_tokens <= 100
    with pytest.raises(openai.BadRequestError, match=r"max_tokens is 101, and the server gives at most 100"):
        chat(server, max_tokens=101)
    with pytest.raises(openai.BadRequestError, match="together they may have 256") as caught:
        chat(server, [{"role": "user", "content": "word " * 400}])
    assert caught.value.code == "context_length_exceeded"


def test_an_answer_without_a_bound_takes_what_its_prompt_leaves_of_the_context(server, folder):
    context = chat(server).usage.prompt_tokens + 4
    with raymill.answer(folder, port=0, max_context=context) as short:
        found = chat(short, max_tokens=openai.NOT_GIVEN)
        assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (4, "length")
        with pytest.raises(openai.BadRequestError, match=rf"the answer 5; together they may have {context}"):
            chat(short, max_tokens=5)


def test_without_a_temperature_an_answer_is_drawn_at_1(server):
    given = {"model": "small", "messages": USER, "max_tokens": 24, "seed": 3}
    found = client(server).chat.completions.create(**given).choices[0].message.content
    greedy = chat(server).choices[0].message.content
    assert found == chat(server, temperature=1, seed=3).choices[0].message.content != greedy


def test_parts_of_text_and_names_are_read(server):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there."}]}]
    assert chat(server, parts).choices[0].message.content == chat(server).choices[0].message.content


def test_the_models_are_listed_with_their_digest(server, folder):
    digest = model_digest(Store(), folder)
    (one,) = client(server).models.list()
    assert (one.id, one.owned_by, one.model_extra) == ("small", "raymill", {"digest": digest})
    assert client(server).models.retrieve("small").id == "small"
    assert chat(server).system_fingerprint == digest


def test_requests_of_one_moment_are_one_batch(folder, monkeypatch):
    sizes = []
    complete = completing.Completer._complete
    monkeypatch.setattr(
        completing.Completer, "_complete", lambda self, rows: sizes.append(len(rows)) or complete(self, rows)
    )
    with raymill.answer(folder, port=0, batch=4) as server:
        first = threading.Thread(target=lambda: chat(server, max_tokens=150, temperature=1, seed=5))
        first.start()
        while not sizes:
            time.sleep(0.01)
        others = [threading.Thread(target=lambda: chat(server)) for _ in range(6)]
        for one in others:
            one.start()
        for one in [first, *others]:
            one.join()
    assert sum(sizes) == 7 and sizes[0] == 1 and max(sizes) <= 4 and len(sizes) < 7


# --- errors


@pytest.mark.parametrize(
    ("change", "said", "param"),
    [
        ({"temperature": 3}, "less than or equal to 2", "temperature"),
        ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"n": 2}, "Input should be 1", "n"),
        ({"tools": [{"type": "function"}]}, "at most 0 items", "tools"),
        ({"logprobs": True}, "Input should be False", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "Input should be 'text'", "response_format.type"),
        ({"top_k": 3}, "not supported here", "top_k"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'system', 'developer'", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Input should be 'text'", None),
        ({"stop": ["a"] * 5}, "at most 4 items", "stop"),
        ({"seed": 1 << 70}, "Unable to parse|less than", "seed"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "tokenizer fails", None),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(server, change, said, param):
    reply = post(server, json.dumps(asked(**change)).encode())
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["type"] == "invalid_request_error" and set(error) == {
        "message", "type", "param", "code"
    }  # fmt: skip
    assert any(one in error["message"] for one in said.split("|")), error
    assert param is None or error["param"] == param
    assert reply.headers["x-should-retry"] == "false"


def test_errors_have_the_classes_of_the_client(server):
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here; it is 'small'") as caught:
        chat(server, model="other")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.NotFoundError, match="GET /v1/nothing: Not Found"):
        client(server).get("/nothing", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client(server).embeddings.create(model="small", input="x")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"model": ' + b"9" * 5000 + b"}"])
def test_a_body_that_is_no_request_is_refused(server, body):
    reply = post(server, body)
    assert reply.status_code == 400 and reply.json()["error"]["message"]


def test_a_huge_body_is_refused_before_it_is_parsed(server):
    body = b'{"model": "small", "messages": [' + b'{"role": "user", "content": "a"},' * 1_000_000 + b"]}"
    reply = post(server, body, timeout=60)
    assert reply.status_code == 413 and reply.json()["error"]["code"] == "request_too_large"
    many = post(server, asked(messages=[{"role": "user", "content": ""}] * 20_000))
    assert many.status_code == 400 and "at most 10000 items" in many.json()["error"]["message"]
    packed = post(server, b"\x1f\x8b\x08", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    assert packed.status_code == 400
    assert chat(server).choices[0].message.content


def body_of(start, one, count, end):
    return b'{"model": "small", ' + start + b", ".join([one] * count) + end


@pytest.mark.parametrize(
    ("start", "one", "end"),
    [
        (b'"messages": [{"role": "user", "content": [', b"1", b"]}]}"),
        (b'"messages": [{"role": "user", "content": [', b"{}", b"]}]}"),
        (b'"messages": [', b"[1]", b"]}"),
        (b'"stop": [', b"1", b"]}"),
        (b'"tools": [', b'"[\\", \\\\"', b"]}"),
        (b'"metadata": {', b'"a": 1', b"}}"),
        (b"", b'"messages": [""]', b"}"),
    ],
)
def test_a_body_of_many_values_is_refused_before_they_become_objects(monkeypatch, start, one, end):
    monkeypatch.setattr(api.json, "loads", lambda *data, **how: pytest.fail("it was parsed"))
    with pytest.raises(ApiError, match="more than 200,000 values"):
        parsed(body_of(start, one, 200_000, end), ChatRequest)


@pytest.mark.parametrize("kind", [ChatRequest, TextRequest])
@pytest.mark.parametrize(
    "body",
    [
        body_of(b'"messages": [{"role": "user", "content": [', b"1", 100_000, b"]}]}"),
        body_of(b'"messages": [', b"{}", 20_000, b"]}"),
        body_of(b'"stop": [', b"[1, {}]", 20_000, b"]}"),
        body_of(b'"prompt": [', b"1", 20_000, b"]}"),
        b'{"metadata": {' + b", ".join(b'"%d": 1' % one for one in range(64)) + b"}}",
        b"{" + b", ".join(b'"%d": 1' % one for one in range(64)) + b"}",
    ],
)
def test_few_of_many_errors_in_a_body_are_made(kind, body):
    with pytest.raises(ApiError) as caught:
        parsed(body, kind)
    assert caught.value.__cause__.error_count() <= 70


def test_an_object_of_many_names_is_refused_and_long_texts_are_no_values():
    names = b", ".join(b'"%d": 1' % one for one in range(65))
    for body in (b"{" + names + b"}", b'{"model": "m", "metadata": {' + names + b"}}"):
        with pytest.raises(ApiError, match="an object with more than 64 names"):
            parsed(body, ChatRequest)
    long = json.dumps(asked(messages=[{"role": "user", "content": '{"a": [1, "\\\\"]}, ' * 100_000}])).encode()
    most = json.dumps(
        asked(messages=[{"role": "user", "name": "n", "content": [{"type": "text", "text": ""}]}] * 10_000)
    )
    assert len(parsed(long, ChatRequest).prompt_given[0]["content"]) == 1_800_000
    assert len(parsed(most.encode(), ChatRequest).messages) == 10_000


def test_pages_of_the_web_in_a_browser_get_no_answer(server):
    renamed = httpx2.get(server.url + "/models", headers={"Host": "attacker.example"})
    assert renamed.status_code == 403 and "not for attacker.example" in renamed.json()["error"]["message"]
    assert httpx2.get(server.url + "/models", headers={"Host": "localhost:1"}).status_code == 200
    form = post(server, json.dumps(asked()).encode(), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415


def test_a_token_is_made_for_an_address_that_others_reach_and_read_from_the_environment(folder, monkeypatch):
    with raymill.answer(folder, host="0.0.0.0", port=0) as server:
        assert len(server.token) > 40
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for given in ({}, {"Authorization": "Bearer x"}, {"Authorization": server.token}):
            reply = httpx2.get(url + "/models", headers=given)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(url + "/models", headers={"Authorization": f"Bearer {server.token}"}).status_code == 200
    monkeypatch.setenv("RAYMILL_ANSWER_TOKEN", "one-of-mine")
    with raymill.answer(folder, port=0) as server:
        assert server.token == "one-of-mine" and chat(server).choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=server.url, api_key="another", max_retries=0).models.list()
    monkeypatch.setenv("RAYMILL_ANSWER_TOKEN", " ")
    with pytest.raises(ConfigError, match="is set and empty"):
        raymill.answer(folder, port=0)


def test_a_port_that_is_taken_is_named(server, folder):
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=f"127.0.0.1, port {port}: cannot listen there \\(Address already in use\\)"):
        raymill.answer(folder, port=port)


def test_requests_beyond_the_bound_are_refused_and_late_ones_end(folder):
    with raymill.answer(folder, port=0, concurrent=1, timeout_s=1.5, max_tokens=200) as server:
        slow = server._model._complete
        server._model._complete = lambda rows: (time.sleep(3), slow(rows))
        outcomes = {}

        def first():
            try:
                chat(server)
            except openai.APIStatusError as error:
                outcomes["first"] = error

        thread = threading.Thread(target=first)
        thread.start()
        while not server._open:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            chat(server)
        assert caught.value.code == "rate_limit_exceeded"
        thread.join()
        assert outcomes["first"].status_code == 504 and "no whole answer within 1.5 s" in str(outcomes["first"])
        server._model._complete = slow
        until = time.monotonic() + 30
        while time.monotonic() < until:  # the model is at the first request still
            try:
                assert chat(server).choices[0].message.content
                break
            except openai.APIStatusError:
                continue
        assert wait_until(lambda: server._open == 0, 30), "a request that ended is not counted"


def leaving(server, buffer=None, **changes):
    """A client that sends a request, and leaves when it is closed. buffer: bytes that it takes without reading."""
    body = json.dumps(asked(**changes)).encode()
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    one = socket.socket()
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.connect(("127.0.0.1", port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    one.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    return one


@pytest.mark.parametrize("timeout_s", [60.0, 0.5])
def test_requests_that_ended_leave_the_models_queue_and_count_while_it_computes_them(folder, timeout_s):
    """The model is at the first of three; their clients leave, or are told that they are late."""
    free, begun, records = threading.Event(), [], []
    with raymill.answer(folder, port=0, concurrent=3, batch=1, timeout_s=timeout_s, log=records.append) as server:
        model, complete = server._model, server._model._complete
        model._complete = lambda rows: (begun.append(len(rows)), free.wait(60), complete(rows))
        clients = [leaving(server)]
        assert wait_until(lambda: begun == [1], 30)
        clients += [leaving(server), leaving(server, stream=True)]
        assert timeout_s < 1 or wait_until(lambda: len(model._waiting) == 2, 30)
        for one in clients if timeout_s > 1 else ():
            one.close()
        assert wait_until(lambda: len(records) == 3 and server._open == 1, 30)
        assert not model._waiting and begun == [1]
        kind = "timeout" if timeout_s < 1 else "client_closed_request"
        assert [one["error.type"] for one in records] == [kind] * 3
        if timeout_s > 1:
            clients += [leaving(server), leaving(server)]
            assert wait_until(lambda: server._open == 3, 30)
            with pytest.raises(openai.RateLimitError):
                chat(server)
        free.set()
        assert wait_until(lambda: server._open == 0, 30)
        for one in clients:
            one.close()


def test_prompts_whose_clients_left_are_not_rendered_and_count_until_they_leave_the_queue(folder):
    free, rendered, records = threading.Event(), [], []
    with raymill.answer(folder, port=0, concurrent=3, log=records.append) as server:
        prompt = server._model.prompt
        server._model.prompt = lambda given: (rendered.append(given), free.wait(60), prompt(given))[2]
        clients = [leaving(server) for _ in range(3)]
        assert wait_until(lambda: server._open == 3 and rendered, 30)
        for one in clients:
            one.close()
        assert wait_until(lambda: len(records) == 3, 30)
        assert server._open == 3 and len(rendered) == 1
        with pytest.raises(openai.RateLimitError):
            chat(server)
        free.set()
        assert wait_until(lambda: server._open == 0, 30) and len(rendered) == 1
        assert chat(server).choices[0].message.content


def test_a_server_that_is_closed_ends_the_requests_that_wait(folder):
    free, ended = threading.Event(), []
    server = raymill.answer(folder, port=0, batch=1, log=ended.append)
    model, complete = server._model, server._model._complete
    model._complete = lambda rows: (free.wait(60), complete(rows))
    clients = [leaving(server) for _ in range(3)]
    assert wait_until(lambda: len(model._waiting) == 2, 30)
    threading.Timer(0.5, free.set).start()
    server.close()
    assert [one["http.response.status_code"] for one in ended] == [500] * 3
    for one in clients:
        one.close()


def test_a_stream_that_fails_ends_with_the_error(folder, records):
    seen = []
    with raymill.answer(folder, port=0, log=seen.append) as server:
        grow = completing.GrowingText.grow

        def failing(self, tokens, is_last):
            if len(tokens) > 4:
                raise RuntimeError("a secret of the machine")
            return grow(self, tokens, is_last)

        completing.GrowingText.grow = failing
        try:
            with pytest.raises(openai.APIError, match="the model failed") as caught:
                list(chat(server, stream=True))
            assert "secret" not in str(caught.value)
            with pytest.raises(openai.InternalServerError):
                chat(server, stop="never")
        finally:
            completing.GrowingText.grow = grow
        assert chat(server).choices[0].message.content
    assert [one.get("error.type") for one in seen] == ["server_error", "server_error", None]


def test_a_template_that_does_not_end_costs_its_bound_and_the_next_request_is_answered(tmp_path, monkeypatch):
    bomb = (
        "{% if messages[0].content == 'bomb' %}{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}"
        "{% endfor %}{% endif %}" + CHATML
    )
    monkeypatch.setattr(completing, "OF_A_PROMPT", WorkBounds(1.0, 256 << 20))
    with raymill.answer(language_model(tmp_path / "bombed", bomb), port=0) as server:
        with pytest.raises(openai.BadRequestError, match="the chat template or tokenizer fails \\(Exceeded"):
            chat(server, [{"role": "user", "content": "bomb"}])
        assert chat(server).choices[0].message.content
        host, _, port = server.url.removeprefix("http://").removesuffix("/v1").partition(":")
    with socket.create_server((host, int(port))):  # the child that renders was forked while the server listened
        pass


def test_a_client_that_leaves_ends_its_completion(folder):
    seen = []
    with raymill.answer(folder, port=0, log=seen.append, max_tokens=240) as server:
        completions, add = [], server._model.add
        server._model.add = lambda one: (completions.append(one), add(one))
        stream = chat(server, stream=True, max_tokens=200, temperature=1.5, seed=1)
        next(iter(stream))
        stream.close()
        until = time.monotonic() + 30
        while not seen and time.monotonic() < until:
            time.sleep(0.01)
        chat(server, max_tokens=1)  # after the batch before it
        assert len(completions[0].output) < 200
    assert seen[0]["error.type"] == "client_closed_request" and seen[0]["http.response.status_code"] == 499
    assert seen[0]["gen_ai.usage.output_tokens"] < 200


@pytest.mark.parametrize("timeout_s", [60.0, 1.5])
def test_a_client_that_does_not_read_the_end_of_its_stream_loses_its_place(folder, timeout_s):
    """TCP keeps such a connection for ever."""
    seen = []
    with raymill.answer(folder, port=0, log=seen.append, max_tokens=200, timeout_s=timeout_s) as server:
        server._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        add = server._model.add

        def with_a_full_buffer(completion):  # of 1 kB, in place of 64
            for one in server._runner.server.connections:
                one.transport.set_write_buffer_limits(1000)
            add(completion)

        server._model.add = with_a_full_buffer
        client = leaving(server, stream=True, max_tokens=150, ignore_eos=True, buffer=1)
        if timeout_s < 60:
            assert wait_until(lambda: server._open == 0 and len(seen) == 1, 30)
            assert seen[0].get("error.type") == "timeout", seen
        else:  # it reads in time
            with client.makefile("rb") as answer:
                assert any(b"data: [DONE]" in line for line in answer)
            assert wait_until(lambda: len(seen) == 1, 30) and "error.type" not in seen[0]
        client.close()


# --- the log


def test_each_request_is_a_record_in_the_names_of_opentelemetry(server, records):
    records.clear()
    found = chat(server, seed=4)
    list(client(server).completions.create(model="small", prompt="Hi", max_tokens=5, stream=True))
    with pytest.raises(openai.NotFoundError):
        chat(server, model="other")
    first, second, third = records
    assert first["gen_ai.operation.name"] == "chat" and second["gen_ai.operation.name"] == "text_completion"
    assert first["gen_ai.request.model"] == first["gen_ai.response.model"] == "small"
    assert first["gen_ai.usage.output_tokens"] == found.usage.completion_tokens
    assert first["gen_ai.usage.input_tokens"] == found.usage.prompt_tokens
    assert first["gen_ai.response.id"] == found.id and first["gen_ai.request.seed"] == 4
    assert first["gen_ai.response.finish_reasons"] == [found.choices[0].finish_reason]
    assert first["openai.response.system_fingerprint"] == found.system_fingerprint
    assert 0 < second["gen_ai.response.time_to_first_chunk"] <= second["gen_ai.server.request.duration"]
    assert third["error.type"] == "model_not_found" and third["http.response.status_code"] == 404
    assert "Hello" not in json.dumps(records) and found.choices[0].message.content not in json.dumps(records)


def test_content_is_logged_if_it_is_asked_for(folder):
    seen = []
    with raymill.answer(folder, port=0, log=seen.append, log_content=True) as server:
        text = chat(server).choices[0].message.content
    assert seen[0]["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "Hello there."}]}
    ]
    (said,) = seen[0]["gen_ai.output.messages"]
    assert said["parts"] == [{"type": "text", "content": text}] and said["finish_reason"] in ("stop", "length")


# --- what is served


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/chat/completions HTTP/1.1\nHost: localhost\nAuthorization: Bearer hidden\n\n"
        + b'{"prompt": "hidden"}',
        b"POST /hidden HTTP/1.1\r\nHost: a\r\nX: " + b"hidden" * 10_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: hidden\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nhidden\r\n",
        b"hidden\r\n\r\n",
    ],
)
def test_a_request_that_is_no_http_is_at_most_a_line_of_the_log_without_its_bytes(server, capfd, caplog, data):
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(data)
        assert re.match(rb"HTTP/1.[01] 4", one.recv(1 << 16))
    seen = caplog.text + "".join(capfd.readouterr())
    assert "hidden" not in seen and "Traceback" not in seen
    assert len(caplog.records) <= 1


def test_an_alias_is_served_with_its_version_and_refused_once_its_model_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 1), ("two", 2)):
        language_model(tmp_path / name, seed=seed)
        raymill.promote(model=name, alias="champion", output=f"promoted/{name}", progress=False)
    with raymill.answer("models", "champion", port=0) as server:
        digest = model_digest(Store(), str(tmp_path / "two"))
        found = chat(server)
        assert (found.model, found.system_fingerprint) == ("champion", f"champion/2/{digest}")
        assert next(iter(client(server).models.list())).model_extra == {"digest": digest, "version": 2}
    raymill.alias("models", "champion", rollback=True)
    with raymill.answer("models", "champion", port=0) as server:
        assert chat(server).system_fingerprint.startswith("champion/3/")
    shutil.rmtree("one")
    language_model(tmp_path / "one", seed=3)
    with pytest.raises(DataError, match="It was made again"):
        raymill.answer("models", "champion", port=0)
    with pytest.raises(ConfigError, match="there is no alias other here"):
        raymill.answer("models", "other", port=0)


def test_the_command_prints_the_endpoint_and_a_line_for_each_request(folder):
    code = "from raymill.cluster.cli import command; command()"
    program = [sys.executable, "-c", code, "answer", folder, "--port", "0"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        lines = [process.stderr.readline().split() for _ in range(3)]
        assert [one[0] for one in lines] == ["model", "fingerprint", "endpoint"]
        one = openai.OpenAI(base_url=lines[2][1], api_key="x", max_retries=0)
        answer = one.chat.completions.create(model="small", messages=USER, max_tokens=4)
        record = json.loads(process.stdout.readline())
        assert record["gen_ai.response.id"] == answer.id
        process.send_signal(2)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_an_adapter_is_served_on_its_base(folder, tmp_path, kind):
    torch.manual_seed(3)
    settings = (
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        if kind == "lora"
        else PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    )
    path = str(tmp_path / "adapter")
    get_peft_model(LlamaForCausalLM.from_pretrained(folder), settings).save_pretrained(path)
    saved(tmp_path / "adapter", tiny(CHATML))
    request = {"model": "m", "messages": USER, "temperature": 0, "top_p": 1, "max_tokens": 24, "seed": 1}
    alone = asyncio.run(ModelFolder(Store(), path).send(json.dumps(request))).content
    texts = ["Hello there.", "Hello", "Hello there.", "What is that?"]
    with raymill.answer(path, port=0) as server, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: chat(server, [{"role": "user", "content": text}]), texts))
    assert answers[0].choices[0].message.content == answers[2].choices[0].message.content == alone
    with raymill.answer(folder, port=0) as server:
        assert chat(server).choices[0].message.content != alone


def test_a_finished_training_is_served_by_what_it_exported(tmp_path, monkeypatch):
    made = tmp_path / "run"
    made.mkdir()
    base = {"artifacts": {}, "kind": "train", "digest": "d" * 64}

    def served(folders):
        (made / RUN_MANIFEST).write_text(
            json.dumps(base | {"export": {"folders": folders, "files": [], "made_from": ""}})
        )
        monkeypatch.setattr("raymill.training.serving.served.model_digest", lambda store, model: "d" * 64)
        found = find_served(Store(), str(made), None)
        return Path(found.folder).name, found.name, found.fingerprint

    assert served({"adapter": "adapter", "merged": "merged"}) == ("merged", "run", "d" * 64)
    assert served({"adapter": "adapter", "base": "base"})[0] == "adapter"
    with pytest.raises(ConfigError, match="exported probe, and none of"):
        served({"probe": "probe"})
