"""Requests in batch files, against a server that has the interface, loses answers of calls, and lets batches expire."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.ask import ask_all
from raymill.cluster.asking.batch_files import BatchEndpoint, BatchRefused
from raymill.cluster.asking.endpoint import Endpoint
from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.asking.money import TokenCounts, TokenPrices, most_tokens
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.asking.requests import request_of
from raymill.cluster.asking.throttle import AskingBounds, Throttle
from raymill.cluster.store.store import Store

ALL = AnswerRange("", "")
PRICES = TokenPrices(input=10, output=20, batch=0.5)


def request(number):
    text = f"This is the text with number {number}. It has two sentences."
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    return request_of({"at": "private"}, body)


REQUESTS = {one.key: one for one in map(request, range(60))}


@pytest.fixture(autouse=True)
def without_waits(monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask_in_batches._POLL_S", 0.01)
    monkeypatch.setattr("raymill.cluster.asking.batch_files.pause_before", lambda tries, wait: 0.001)


@pytest.fixture
def answers(tmp_path):
    return Answers(Store(), str(tmp_path / "answers"), "run-1")


def ask(server, answers, requests=REQUESTS, keys=ALL, budget=None, files=BatchEndpoint, tries=6):
    throttle = Throttle(AskingBounds(16, None, None, budget, PRICES.in_batches, 60), answers.spending().most(PRICES))

    async def report(worker, made):
        return throttle.report(worker, made)

    @asynccontextmanager
    async def opened():
        async with files(server.url, "", 5.0) as made:
            yield made

    found = ask_all(requests, opened, answers, keys, report, PRICES.in_batches, tries, 50)
    return {key: (one.reply.outcome, one.reply.finish, one.reply.content) for key, one in found.items()}


def test_answers_of_a_batch_are_those_of_single_requests_at_the_price_of_batches(answers, tmp_path):
    with FaultyServer() as server:
        found = ask(server, answers)
        assert len(server.batches) == 1 and {one[0] for one in found.values()} == {"answered"}
        assert server.stats()["requests"] == server.stats()["different"] == 60
        spent = answers.spending()
        assert (spent.in_batches.input, spent.in_batches.output) == server.tokens and spent.single.input == 0
        assert spent.most(PRICES) == pytest.approx(spent.in_batches.cost(PRICES) / 2)
        assert ask(server, answers) == found and len(server.batches) == 1, "nothing is asked twice"
        single = Answers(Store(), str(tmp_path / "single"), "run-1")
        assert ask(server, single, files=Endpoint) == found
        assert single.spending().most(PRICES) == pytest.approx(2 * spent.most(PRICES))


@pytest.mark.parametrize("seed", range(6))
def test_with_every_fault_each_request_has_its_answer_and_none_is_paid_twice(answers, seed):
    with FaultyServer(share=0.4, seed=seed) as server:
        found = ask(server, answers, tries=30)
        stats = server.stats()
    assert len(found) == 60 and {one[0] for one in found.values()} <= {"answered", "refused"}
    assert stats["twice"] == 0 and any("batches" in call for call in server.calls)
    spent = answers.spending()
    assert (spent.tokens.input, spent.tokens.output) == (stats["input_tokens"], stats["output_tokens"])
    assert spent.unknown.input == 0, "no try is left that may have been billed"


def test_a_plan_measures_the_answers_of_batches(answers):
    with FaultyServer() as server:
        ask(server, answers)
        bytes_of, inputs, outputs = answers.sizes(1000)
        assert (len(bytes_of), sum(inputs), sum(outputs)) == (60, *server.tokens)


def test_what_expired_is_asked_again_in_another_batch(answers):
    with FaultyServer(share=1.0, faults=["unknown"], seed=2) as server:
        server.share = 0.0
        found = {}
        with pytest.MonkeyPatch.context() as patch:
            compute = FaultyServer._compute

            def first_expires(self, batch):
                self.share = 1.0 if batch["id"] == "batch-0" else 0.0
                compute(self, batch)
                self.share = 0.0

            patch.setattr(FaultyServer, "_compute", first_expires)
            found = ask(server, answers)
        assert [one["status"] for one in server.batches.values()] == ["expired", "completed"]
        assert len(found) == 60 and server.stats()["twice"] == 0 and server.stats()["requests"] == 60


def test_a_request_that_is_in_no_file_of_results_is_asked_again(answers, monkeypatch):
    compute = FaultyServer._compute

    def cancelled(self, batch):
        compute(self, batch)
        if batch["id"] == "batch-0":
            batch["status"] = "cancelled"
            lines = self.files[batch["output_file_id"]].splitlines(keepends=True)
            self.files[batch["output_file_id"]] = b"".join(lines[:40])

    monkeypatch.setattr(FaultyServer, "_compute", cancelled)
    with FaultyServer() as server:
        assert len(ask(server, answers)) == 60 and len(server.batches) == 2
        assert answers.spending().tries == {"answered": 60, "again": 20} and answers.spending().unknown.input == 0


def test_a_batch_is_found_behind_many_newer_ones(answers, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(name, where):
        if name == "batch_begun":
            raise Killed

    with FaultyServer() as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("raymill.cluster.asking.ask_in_batches.failpoint", killed)
            ask(server, answers)
        for number in range(5):  # the server lists two on a page, the newest first
            one = request(1000 + number)
            ask(server, Answers(Store(), str(tmp_path / f"other{number}"), f"run-{number + 2}"), {one.key: one})
        assert len(ask(server, answers)) == 60 and len(server.batches) == 6


@pytest.mark.parametrize("at", ["batch_sent", "batch_begun", "answer_stored"])
def test_a_killed_call_leaves_a_batch_that_the_next_one_reads(answers, monkeypatch, at):
    class Killed(BaseException):
        pass

    def failpoint(name, where):
        if name == at:
            raise Killed

    with FaultyServer() as server:
        monkeypatch.setattr("raymill.cluster.asking.ask_in_batches.failpoint", failpoint)
        with pytest.raises(Killed):
            ask(server, answers)
        monkeypatch.undo()
        begun = len(server.batches)
        assert begun == (at != "batch_sent")
        # What may have been billed counts, until the batch is read.
        assert answers.spending().in_batches_unknown.input > 0
        monkeypatch.setattr("raymill.cluster.asking.ask_in_batches._POLL_S", 0.01)
        monkeypatch.setattr("raymill.cluster.asking.batch_files.pause_before", lambda tries, wait: 0.001)
        of_batches, lost = FaultyServer._of_batches, []

        def fails_twice(self, posted, target, body):
            if target.endswith("/content") and len(lost) < 2:
                lost.append(target)
                return 503, b"{}"
            return of_batches(self, posted, target, body)

        monkeypatch.setattr(FaultyServer, "_of_batches", fails_twice)
        found = ask(server, answers)
        assert len(server.batches) == 1 and len(found) == 60 and server.stats()["twice"] == 0
        spent = answers.spending()
        assert (spent.tokens.input, spent.tokens.output) == server.tokens
        assert spent.unknown.input == 0, "what was not begun is not billed"
        stored, _ = answers.finals(ALL, REQUESTS, 1 << 20)
        assert len(stored) == 60 and all(one.request for one in stored.values()), "requests are kept beside answers"


def test_a_batch_whose_begin_was_not_answered_is_begun_once(answers, monkeypatch):
    with FaultyServer() as server:
        of_batches = FaultyServer._of_batches
        lost = []

        def loses_the_first(self, posted, target, body):
            made = of_batches(self, posted, target, body)
            if posted and target == "/v1/batches" and not lost:
                lost.append(1)
                return 502, b"<html>Bad Gateway</html>"
            return made

        monkeypatch.setattr(FaultyServer, "_of_batches", loses_the_first)
        assert len(ask(server, answers)) == 60 and lost
        assert len(server.batches) == 1


def test_a_budget_limits_the_requests_of_a_batch_and_stops(answers):
    each = 51 * 10 * 0.5 / 1e6  # the answer and some of the prompt
    with FaultyServer() as server:
        with pytest.raises(AskingStopped, match="the budget of"):
            ask(server, answers, budget=20 * each)
        assert 0 < server.stats()["requests"] < 40
        assert answers.spending().most(PRICES) <= 20 * each
        found = ask(server, answers, budget=100.0)
        assert len(found) == 60 and server.stats()["twice"] == 0


def test_a_budget_holds_for_batches_whose_answers_count_no_tokens(answers, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.endpoint.tokens_of", lambda usage: TokenCounts())
    each = [most_tokens(one.body, 50).cost(PRICES.in_batches) for one in REQUESTS.values()]
    with FaultyServer() as server:
        with pytest.raises(AskingStopped, match="the budget of"):
            ask(server, answers, budget=20.5 * max(each))
        assert 20 <= server.stats()["requests"] < 23
        assert 20 * min(each) <= answers.spending().most(PRICES) <= 20.5 * max(each)
        assert len(ask(server, answers, budget=100.0)) == 60
    assert answers.spending().most(PRICES) == pytest.approx(sum(each))


def test_ranges_and_runs_have_batches_of_their_own(answers, tmp_path):
    halves = [AnswerRange("", "80000000"), AnswerRange("80000000", "")]
    with FaultyServer() as server:
        for keys in halves:
            ask(server, answers, {key: one for key, one in REQUESTS.items() if key in keys}, keys)
        other = Answers(Store(), str(tmp_path / "other"), "run-2")
        ask(server, other)
        tags = [one["metadata"]["raymill"] for one in server.batches.values()]
    assert len({*tags}) == 3 and server.stats()["requests"] == 120


@pytest.mark.parametrize(
    ("code", "said"), [("token_limit_exceeded", None), ("invalid_request", "batch batch-0 failed: the file is bad")]
)
def test_a_full_queue_is_waited_for_and_another_failure_stops(answers, monkeypatch, code, said):
    with FaultyServer() as server:
        compute = FaultyServer._compute

        def fails_first(self, batch):
            if batch["id"] == "batch-0":
                batch |= {"status": "failed", "errors": {"data": [{"code": code, "message": "the file is bad"}]}}
            else:
                compute(self, batch)

        monkeypatch.setattr(FaultyServer, "_compute", fails_first)
        if said:
            with pytest.raises(AskingStopped, match=said):
                ask(server, answers)
        else:
            assert len(ask(server, answers)) == 60 and len(server.batches) == 2
            assert answers.spending().unknown.input == 0


def test_a_wrong_key_stops_at_once(answers):
    with FaultyServer(status=401) as server, pytest.raises(AskingStopped, match=r"status 401 .*model\.key_env"):
        ask(server, answers)


# ---- a provider that lies


class Lying(FaultyServer):
    """Changes what it answers. change: called with (target, JSON or bytes of the answer); returns it changed."""

    change = staticmethod(lambda target, made: made)

    def _of_batches(self, posted, target, body):
        status, made = super()._of_batches(posted, target, body)
        if target.endswith("/content"):
            return status, self.change(target, made)
        return status, json.dumps(self.change(target, json.loads(made))).encode()


def killed_at_begin(server, answers, monkeypatch):
    """A call that ends when its batch was begun."""

    class Killed(BaseException):
        pass

    def failpoint(name, where):
        if name == "batch_begun":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("raymill.cluster.asking.ask_in_batches.failpoint", failpoint)
        ask(server, answers)


def test_no_answer_to_a_request_that_was_not_sent_is_stored(answers, monkeypatch):
    """Its key can be the one of a request to another model, whose answers are in the same store."""
    others = [f"{number:032x}" for number in range(50)]

    def names_others(target, made):
        if not target.endswith("/content"):
            return made
        first = json.loads(made.splitlines()[0])
        of_others = [first | {"custom_id": f"{key}.{key[:16]}"} for key in others]
        odd = [first | {"custom_id": one} for one in ("../../x.0123456789abcdef", "", "a" * 100_000, 5, None)]
        return made + b"".join(json.dumps(one).encode() + b"\n" for one in (*of_others, *odd, [], 3))

    with Lying() as server:
        killed_at_begin(server, answers, monkeypatch)
        server.change = names_others
        found = ask(server, answers)
    assert len(found) == 60 and {one[0] for one in found.values()} == {"answered"}
    stored, _ = answers.finals(ALL, [*REQUESTS, *others], 1 << 20)
    assert stored.keys() == REQUESTS.keys()
    spent = answers.spending()
    assert (spent.tokens.input, spent.tokens.output) == server.tokens


@pytest.mark.parametrize(
    ("of", "value", "said"),
    [
        ("/batches?", {"data": 5}, None),
        ("/batches?", {"data": [{"id": "a", "metadata": "x"}, {"id": {"a": 1}}, {"id": "a/../b"}, 3]}, None),
        ("/batches?", {"data": [{"id": "a&x=\r\nY: z", "metadata": {}}] * 3, "has_more": True}, None),
        ("/batches/", {"status": "failed", "errors": [1]}, "failed: without a reason"),
        ("/batches/", {"status": "failed", "errors": {"data": 5}}, "failed: without a reason"),
        ("/batches/", {"status": "completed", "output_file_id": "../../../x", "error_file_id": ["y"]}, ""),
        ("/files", {"id": {"a": 1}}, "the answer has no id of a file"),
        ("/files", {"id": "x" * 10_000}, "the answer has no id of a file"),
    ],
)
def test_an_answer_of_another_form_is_none_or_stops_with_a_reason(answers, of, value, said):
    with Lying() as server:
        server.change = lambda target, made: value if target.removeprefix("/v1").startswith(of) else made
        if said:
            with pytest.raises(AskingStopped, match=said):
                ask(server, answers)
        else:
            asked = ask(server, answers)
            assert {one[0] for one in asked.values()} == ({"answered"} if said is None else {"again"})


@pytest.mark.parametrize("status", [1e999, -5, 10**9, "x", None, []])
def test_a_result_with_no_status_of_http_is_asked_again(answers, status):
    def changed(target, made):
        if not target.endswith("/content"):
            return made
        lines = [json.loads(line) for line in made.splitlines()]
        lines[0]["response"] = {"status_code": status, "body": {}}
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    with Lying() as server:
        server.change = changed
        found = ask(server, answers)
    assert {one[0] for one in found.values()} == {"answered", "again"}
    assert not answers.spending().tries["in_flight"], "each try has an end in the store"


def test_a_file_of_results_has_bounds_in_bytes_and_time(answers, monkeypatch):
    with Lying() as server:
        server.change = lambda target, made: made + b"\n" * (4 << 20) if target.endswith("/content") else made
        monkeypatch.setattr("raymill.cluster.asking.batch_files._LARGEST_ANSWER", 1 << 16)
        monkeypatch.setattr("raymill.cluster.asking.batch_files._LARGEST_LINE", 1 << 10)
        with pytest.raises(AskingStopped, match="the file has more than"):
            ask(server, answers, files=lambda *given: BatchEndpoint(*given, most_bytes=1000))


def test_files_and_answers_that_drip_are_given_up(answers, monkeypatch):
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"id": "b", "status": "completed", "output_file_id": "f"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", "9999" if slow in self.path else str(len(body)))
            self.end_headers()
            with suppress(OSError):
                if slow not in self.path:
                    self.wfile.write(body)
                    return
                while not ended.wait(0.02):
                    self.wfile.write(b"x")

        def log_message(self, *_):
            pass

    async def read(url):
        async with BatchEndpoint(url, "", 0.2) as files:
            return [one async for one in files.results(await files.look("b"), 1)]

    monkeypatch.setattr("raymill.cluster.asking.batch_files._BYTES_PER_S", 1 << 40)
    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        slow = "/files/"
        with pytest.raises(httpx2.ReadError, match=r"bytes in 0 s"):
            asyncio.run(read(url))
        slow = "/batches/"
        with pytest.raises(BatchRefused, match=r"batches/b: no answer after 8 tries: TimeoutError"):
            asyncio.run(read(url))
        ended.set()
        server.shutdown()


def test_results_that_are_never_received_end_the_call(answers, monkeypatch):
    with Lying() as server:
        of_batches = Lying._of_batches

        def lost(self, posted, target, body):
            return (503, b"{}") if target.endswith("/content") else of_batches(self, posted, target, body)

        monkeypatch.setattr(Lying, "_of_batches", lost)
        with pytest.raises(AskingStopped, match=r"the results of batch batch-0 were not received in 8 tries"):
            ask(server, answers)
        assert answers.spending().in_batches_unknown.input > 0


def test_files_are_deleted_at_the_provider_once_their_answers_are_stored(answers):
    with FaultyServer(share=0.3, seed=4) as server:
        found = ask(server, answers, tries=30)
        assert server.batches and not server.files
        before = len(server.calls)
        assert ask(server, answers, tries=30) == found and len(server.calls) == before
        more = {one.key: one for one in map(request, range(60, 70))}
        assert len(ask(server, answers, requests=more, tries=30)) == 10, "old batches without files are no obstacle"
        assert not server.files and server.stats()["twice"] == 0


@pytest.mark.parametrize("at", ["answer_stored", "batches_read"])
def test_nothing_is_deleted_before_it_is_stored_and_a_later_call_deletes_the_rest(answers, monkeypatch, at):
    class Killed(BaseException):
        pass

    def killed(name, where):
        if name == at:
            raise Killed

    with FaultyServer() as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            for module in ("ask", "ask_in_batches"):
                patch.setattr(f"raymill.cluster.asking.{module}.failpoint", killed)
            ask(server, answers)
        assert len(server.files) == 2
        found = ask(server, answers)
        assert {one[0] for one in found.values()} == {"answered"} and server.stats()["requests"] == 60
        if at == "batches_read":  # all were stored, so the call before had nothing to ask
            ask(server, answers, requests={one.key: one for one in map(request, range(60, 61))})
        assert not server.files


def test_a_provider_that_deletes_nothing_is_a_warning(answers, caplog):
    with FaultyServer() as server:
        server.deletes = False
        found = ask(server, answers)
        assert len(found) == 60 and len(server.files) == 2
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == 2 and all("was not deleted: http" in one and "Delete it there" in one for one in warnings)
