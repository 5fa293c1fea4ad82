"""What each answer of a server means, and what becomes of requests to a server with every fault."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import pytest

from raymill.cluster.asking.answers import Answers
from raymill.cluster.asking.ask import ask_all
from raymill.cluster.asking.endpoint import Endpoint, Reply, judged, most_bytes, pause_before
from raymill.cluster.asking.faulty_server import FAULTS, FaultyServer
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.asking.requests import request_of
from raymill.cluster.asking.throttle import AskingBounds, Grant, Throttle
from raymill.cluster.store.store import Store
from tests.support.stored_answers import ALL, tries_in

ANSWER = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
PRICES = TokenPrices(input=1, output=10)


def of_error(status, headers=None, **error):
    return judged(status, headers or {}, json.dumps({"error": error}).encode(), 0.1)


def of_answer(**changes):
    choice = ANSWER["choices"][0]
    message = choice["message"] | {name: changes.pop(name) for name in ("content", "refusal") if name in changes}
    return judged(200, {}, json.dumps(ANSWER | {"choices": [choice | {"message": message} | changes]}).encode(), 0.1)


@pytest.mark.parametrize(
    ("status", "error", "outcome", "overloaded"),
    [
        (400, {"code": "context_length_exceeded"}, "refused", False),
        (413, {}, "refused", False),
        (422, {}, "refused", False),
        (401, {}, "stopped", False),
        (403, {}, "stopped", False),
        (404, {"message": "The model does not exist"}, "stopped", False),
        (302, {}, "stopped", False),
        (408, {}, "again", False),
        (409, {}, "again", False),
        (429, {"code": "rate_limit_exceeded"}, "again", True),
        (429, {"type": "rate_limit_error", "code": "slow_down"}, "again", True),
        (429, {"type": "insufficient_quota", "code": "credit_balance_exhausted"}, "stopped", False),
        (429, {"code": "insufficient_quota"}, "stopped", False),
        (429, {"code": "project_spend_limit_exceeded"}, "stopped", False),
        (429, {"code": 429, "message": "vLLM's code is the status"}, "again", True),
        (500, {}, "again", False),
        (502, {}, "again", False),
        (503, {"code": "server_is_overloaded"}, "again", True),
        (529, {}, "again", True),
    ],
)
def test_a_refusal_is_of_the_request_of_all_or_of_the_moment(status, error, outcome, overloaded):
    reply = of_error(status, **error)
    assert (reply.outcome, reply.overloaded, reply.status) == (outcome, overloaded, status)
    assert f"status {status}" in reply.reason and error.get("message", "") in reply.reason and not reply.billed


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),  # infinite as a float
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for(headers, wait):
    assert of_error(429, headers).wait == wait


def test_a_wait_of_hours_ends_the_run_and_is_named():
    reply = of_error(429, {"retry-after": "7200"}, code="rate_limit_exceeded")
    assert reply.outcome == "stopped" and reply.reason.endswith("asks to wait for 7,200 s")


def test_a_date_to_wait_for(monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.endpoint.time.time", lambda: 784111777 - 30)
    assert of_error(503, {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}).wait == 30
    assert pause_before(1, 7.5) == 7.5 and 0.375 <= pause_before(1, None) <= 0.5 and pause_before(50, None) <= 30


@pytest.mark.parametrize(
    ("changes", "content", "refusal", "finish"),
    [
        ({}, "Yes.", "", "stop"),
        ({"content": None}, None, "", "stop"),
        ({"content": None, "refusal": "No."}, None, "No.", "stop"),
        ({"finish_reason": "length"}, "Yes.", "", "length"),
        ({"finish_reason": None}, "Yes.", "", ""),
        ({"content": [{"type": "text"}]}, None, "", "stop"),
    ],
)
def test_an_answer_has_content_refusal_and_end(changes, content, refusal, finish):
    reply = of_answer(**changes)
    assert (reply.outcome, reply.content, reply.refusal, reply.finish) == ("answered", content, refusal, finish)
    assert reply.tokens == TokenCounts(7, 0, 2)


@pytest.mark.parametrize(
    ("usage", "content", "counted"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2}, "Yes.", True),
        ({"prompt_tokens": 7, "completion_tokens": 0}, None, True),
        ({"prompt_tokens": 7, "completion_tokens": 0}, "Yes.", False),
        ({"prompt_tokens": 7}, "Yes.", False),
        ({"completion_tokens": 2}, "Yes.", False),
        ({"prompt_tokens": -7, "completion_tokens": 2}, "Yes.", False),
        ({"prompt_tokens": 1 << 31, "completion_tokens": 2}, "Yes.", False),
        ({}, "Yes.", False),
        (None, "Yes.", False),
    ],
)
def test_an_answer_without_a_count_of_its_tokens_may_have_cost_the_most(usage, content, counted):
    choice = {"finish_reason": "stop", "message": {"content": content}}
    reply = judged(200, {}, json.dumps({"choices": [choice], "usage": usage}).encode(), 0.1)
    assert (reply.outcome, reply.billed) == ("answered", not counted)
    assert reply.tokens == (TokenCounts(7, 0, usage["completion_tokens"]) if counted else TokenCounts())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": 1}]}',
     b"<html>", b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_answer_is_asked_again_and_may_have_been_billed(body):
    reply = judged(200, {}, body, 0.1)
    assert reply.outcome == "again" and reply.billed and reply.body == body


# --- all requests of a range, against a server


class Asked:
    """Requests about numbered texts, and a store for their answers."""

    def __init__(self, folder, count=40):
        made = [self.request(number) for number in range(count)]
        self.requests = {one.key: one for one in made}
        self.answers = Answers(Store(), str(folder / "answers"), "run-1")

    @staticmethod
    def request(number):
        text = f"This is the text with number {number}. It has two sentences."
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
        return request_of({"at": "private"}, body)

    def ask(self, server, throttle=None, tries=8, key="", timeout_s=5.0, **bounds):
        settings = {"concurrency": 16, "give_up_s": 60, "budget": None, "prices": PRICES} | bounds
        shared = throttle or Throttle(
            AskingBounds(requests_per_minute=None, tokens_per_minute=None, **settings),
            self.answers.spending().most(PRICES),
        )

        async def report(worker, made):
            return shared.report(worker, made)

        @asynccontextmanager
        async def endpoint():
            async with Endpoint(server.url, key, timeout_s) as made:
                yield made

        found = ask_all(self.requests, endpoint, self.answers, ALL, report, PRICES, tries, 50)
        return {key: (one.reply.outcome, one.reply.finish, one.reply.content) for key, one in found.items()}

    def counted(self):
        """(input, output) tokens in the store."""
        tokens = self.answers.spending().tokens
        return tokens.input, tokens.output


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
    return Asked(tmp_path)


def test_each_request_is_asked_once_and_its_answer_is_kept(asked):
    with FaultyServer() as server:
        found = asked.ask(server)
        assert len(found) == 40 and {one[:2] for one in found.values()} == {("answered", "stop")}
        assert server.stats()["requests"] == server.stats()["different"] == 40
        assert asked.ask(server) == found and server.stats()["requests"] == 40
        assert asked.counted() == server.tokens


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_ends_with_an_answer_or_a_reason(asked, fault, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: min(wait or 0, 0.02))
    with FaultyServer(share=0.4, faults=[fault], seed=5) as server:
        found = asked.ask(server, tries=30)
        stats = server.stats()
    outcomes = {one[0] for one in found.values()}
    assert len(found) == 40 and outcomes == ({"answered", "refused"} if fault == "bad_request" else {"answered"})
    assert stats["twice"] == 0, "nothing that was answered was asked again"
    again = stats["requests"] - 40
    lasting = fault in ("truncated", "refused", "null", "garbled", "filtered", "bad_request", "slow", "unknown")
    assert again == 0 if lasting else again > 5
    assert asked.answers.spending().tries.total() == stats["requests"], "every try is in the store"
    assert asked.counted() == (stats["input_tokens"], stats["output_tokens"]), "costs are those of the server"


def test_a_truncated_answer_is_not_asked_again_at_the_same_length(asked):
    with FaultyServer(share=1, faults=["truncated"]) as server:
        first = asked.ask(server)
        assert {one[1] for one in first.values()} == {"stop", "length"} and server.stats()["requests"] == 40
        assert asked.ask(server) == first and server.stats()["requests"] == 40


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everything_stops_the_run_at_once(asked, status):
    with FaultyServer(status=status) as server:
        with pytest.raises(AskingStopped, match=f"status {status} \\(refused for all\\)"):
            asked.ask(server)
        assert server.stats()["requests"] <= 16


def test_a_refusal_about_money_stops_the_run_and_the_answers_stay(asked):
    with FaultyServer(money=10, seconds=0.02) as server:
        with pytest.raises(AskingStopped, match="quota"):
            asked.ask(server)
        assert server.stats()["answered"] == 10 and server.stats()["requests"] <= 26
        server.money = None
        assert len(asked.ask(server)) == 40 and server.stats()["answered"] == 40


def test_a_request_that_fails_each_time_has_a_reason_and_is_asked_again_later(asked, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0)
    with FaultyServer(share=1, faults=["error"]) as server:
        found = asked.ask(server, tries=3)
        assert {one[0] for one in found.values()} == {"again"} and server.stats()["requests"] == 120
        server.share = 0
        assert {one[0] for one in asked.ask(server).values()} == {"answered"}


def test_a_server_that_refused_every_request_is_asked_again_and_one_that_refused_some_is_not(asked):
    with FaultyServer(share=2, faults=["bad_request"]) as server:
        assert {one[0] for one in asked.ask(server).values()} == {"refused"}
        server.share = 0.5  # set up rightly, it refuses a few
        found = asked.ask(server)
        assert {one[0] for one in found.values()} == {"answered", "refused"} and server.stats()["requests"] == 80
        assert asked.ask(server) == found and server.stats()["requests"] == 80


def test_a_server_that_is_not_there_is_told_after_the_tries_of_one_request(asked, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.01)
    with FaultyServer() as server:
        pass
    seen = r"no connection to http://127.*; 3 tries, and no request of this call has an answer\. Start the server, or "
    with pytest.raises(AskingStopped, match=seen):
        asked.ask(server, tries=3, give_up_s=60)
    assert asked.answers.spending().most(PRICES) == 0, "no connection costs nothing"


@pytest.mark.parametrize("path", ["", "/v1/chat/completions", "/v2"])
def test_an_address_without_the_interface_stops_the_run_and_names_the_setting(asked, monkeypatch, path):
    with FaultyServer() as server:
        monkeypatch.setattr(type(server), "url", f"http://127.0.0.1:{server.port}{path}")
        with pytest.raises(
            AskingStopped, match=r"status 404 \(Not Found\)\. Look at the model's `endpoint`, which ends with"
        ):
            asked.ask(server)


def test_a_server_that_goes_away_is_waited_for_and_asked_when_it_is_back(asked, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.02)
    with FaultyServer(seconds=0.02) as server:
        send, sent = Endpoint.send, itertools.count(1)

        async def send_unless_away(self, body):
            if 10 < next(sent) < 100:  # far more tries than requests have
                return await send(Endpoint("http://127.0.0.1:9/v1", "", 5.0), body)
            return await send(self, body)

        monkeypatch.setattr(Endpoint, "send", send_unless_away)
        found = asked.ask(server, tries=2, give_up_s=60)
        assert {one[0] for one in found.values()} == {"answered"} and server.stats()["twice"] == 0


def test_a_server_that_stays_away_is_given_up_after_give_up_s(asked, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.02)
    with FaultyServer(seconds=0.02) as server:
        send, sent = Endpoint.send, itertools.count(1)

        async def send_at_first(self, body):
            there = self if next(sent) <= 10 else Endpoint("http://127.0.0.1:9/v1", "", 5.0)
            return await send(there, body)

        monkeypatch.setattr(Endpoint, "send", send_at_first)
        seen = r"no answer for .* s \(model\.give_up_s: 0\.5\): no connection to http://127\.0\.0\.1:9/v1/chat"
        with pytest.raises(AskingStopped, match=seen):
            asked.ask(server, tries=2, give_up_s=0.5)


def test_what_may_have_been_billed_is_spent_from_the_budget(asked):
    """A request that times out may cost 0.0007; the server counts none of them."""
    most = max(len(one.body) for one in asked.requests.values()) / 1e6 + 50 * 10 / 1e6
    with FaultyServer(seconds=30) as server:
        with pytest.raises(AskingStopped, match=r"the budget of .* has no room"):
            asked.ask(server, tries=100, timeout_s=0.1, budget=3.5 * most)
        assert server.stats()["requests"] == 3
    assert 3 * most * 0.9 < asked.answers.spending().most(PRICES) <= 3.5 * most


def test_an_answer_that_is_compressed_is_not_unpacked(asked):
    with FaultyServer(share=1, faults=["encoded"]) as server:
        asked.ask(server, tries=1)
    (reason,) = {one.reason for tries in tries_in(asked.answers).values() for one in tries}
    assert reason == "the answer is encoded as gzip, which was not asked for"


def test_a_time_out_may_have_been_billed(asked):
    with FaultyServer(seconds=30) as server:
        found = asked.ask(server, tries=1, timeout_s=0.2)
    assert {one[0] for one in found.values()} == {"again"}
    sent = [len(one.body.encode()) for one in asked.requests.values()]
    assert asked.answers.spending().most(PRICES) == pytest.approx(sum(sent) / 1e6 + 40 * 50 * 10 / 1e6)


@pytest.mark.parametrize("budget", [0.0, 0.001, 0.003])
def test_a_budget_is_not_exceeded_and_a_larger_one_continues(asked, budget):
    def cost(server):
        return TokenCounts(server.tokens[0], 0, server.tokens[1]).cost(PRICES)

    with FaultyServer(seconds=0.01) as server:
        with pytest.raises(AskingStopped, match=r"the budget of .* has no room"):
            asked.ask(server, budget=budget)
        assert cost(server) <= budget and asked.answers.spending().most(PRICES) == pytest.approx(cost(server))
        before = server.stats()["answered"]
        assert len(asked.ask(server, budget=5.0)) == 40
        assert server.stats()["requests"] == 40 and before < 40


def test_a_budget_holds_for_a_server_that_counts_no_tokens(asked, monkeypatch):
    """The most that a request can cost: each byte of it, and 50 tokens of the answer."""
    monkeypatch.setattr("raymill.cluster.asking.endpoint.tokens_of", lambda usage: TokenCounts())
    each = [len(one.body.encode()) / 1e6 + 50 * 10 / 1e6 for one in asked.requests.values()]
    with FaultyServer() as server:
        with pytest.raises(AskingStopped, match=r"the budget of .* has no room"):
            asked.ask(server, budget=20.5 * max(each))
        spent = asked.answers.spending()
        answered = server.stats()["answered"]
        assert spent.tokens == TokenCounts() and 20 <= answered < 23
        assert answered * min(each) - 1e-12 <= spent.most(PRICES) <= 20.5 * max(each)
        assert len(asked.ask(server, budget=5.0)) == 40
    assert asked.answers.spending().most(PRICES) == pytest.approx(sum(each))


def test_the_rate_of_a_minute_holds(asked):
    with FaultyServer() as server:
        throttle = Throttle(AskingBounds(16, 1200, None, None, PRICES, 60), 0.0)
        begun = asyncio.new_event_loop().time()
        asked.ask(server, throttle)
        assert asyncio.new_event_loop().time() - begun > 1.7, "40 requests at 20 a second"


def test_the_key_is_sent_and_is_in_no_file(asked, tmp_path):
    with FaultyServer() as server:
        asked.ask(server, key="sk-canary-0123456789")
        assert b"uthorization: Bearer sk-canary-0123456789" in server.head
    assert not any(b"sk-canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_ends_between_two_reports_counts_against_the_grant(asked):
    """Forty requests that are answered at once, and a grant for the money of five until the next report."""
    most = max(len(one.body) for one in asked.requests.values()) / 1e6 + 50 * 10 / 1e6
    reports = []

    class AtOnce:
        async def send(self, body):
            return Reply("answered", content="Yes.", tokens=TokenCounts(input=len(body), output=50))

    @asynccontextmanager
    async def at_once():
        yield AtOnce()

    async def report(worker, made):
        reports.append(made.answered)
        return Grant(in_flight=100, reserve=5 * most)

    ask_all(asked.requests, at_once, asked.answers, ALL, report, PRICES, 1, 50)
    assert max(after - before for before, after in itertools.pairwise(reports)) == 5 and reports[-1] == 40


def test_halves_of_surrogate_pairs_in_an_answer_become_question_marks():
    choice = '{"message": {"content": "a\\ud800", "refusal": "b\\ud800"}, "finish_reason": "c\\ud800"}'
    found = judged(200, {}, f'{{"choices": [{choice}]}}'.encode(), 0)
    assert (found.content, found.refusal, found.finish) == ("a?", "b?", "c?")
    assert judged(400, {}, b'{"error": {"message": "d\\ud800"}}', 0).reason == "status 400 (d?)"


def test_a_long_message_of_a_server_is_cut_before_it_is_looked_at():
    body = b'{"error": {"message": "' + b"http://a:" * 2_000_000 + b'"}}'
    assert len(judged(400, {}, body, 0).reason) < 250


def test_an_answer_has_as_many_bytes_as_its_tokens_allow():
    assert most_bytes(400, None) < 1.2e6 < 4e6 < most_bytes(400, 20) < 6e6
    assert most_bytes(1_000_000, 20) == 64 << 20

    async def send():
        async with Endpoint(server.url, "", 10, 50) as made:
            return await made.send('{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}')

    with FaultyServer() as server:
        found = asyncio.run(send())
    assert (found.outcome, found.reason) == ("again", "the answer has more than 50 bytes")
