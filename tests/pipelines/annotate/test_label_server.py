"""The server of the labelling page: who may ask it, what it takes, and that no label is lost or doubled."""

import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.pipelines.annotate import serve
from raymill.pipelines.annotate.annotations import Annotation, Annotations, latest
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.labelling import Labelling
from raymill.pipelines.annotate.round import Round, put_guideline
from raymill.pipelines.annotate.serve import LARGEST_BODY, MOST_ANSWERS, PageServer
from tests.support.annotate_inline import annotate_inline, settings_of, write_records
from tests.support.labelling_page import ANSWERS, HOSTILE, TASKS, Client, Page, make_round


def label(task: str, value: object = "login", second: int = 0, **more: object) -> dict:
    at = f"2026-11-27T04:{second // 60:02d}:{second % 60:02d}.000Z"
    return {"task": task, "status": "labelled", "value": value, "at": at, "seconds": 2.5} | more


class Served:
    """A server in this process. client: with the cookie. server: on 127.0.0.1, a free port."""

    def __init__(self, round: Round, **options: object) -> None:
        self.round = round
        self.labelling = Labelling(round, **options)  # type: ignore[arg-type]
        self.server = PageServer(self.labelling, port=0)
        self.client = Client(self.server.url)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def served(tmp_path, monkeypatch):
    with Served(make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(30)])) as found:
        yield found


def test_the_page_is_served_while_labels_are_read(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], ["one", "two"])
    first = Labelling(round).next_tasks("ada", [])["tasks"][0]["id"]
    Labelling(round).add("ada", [label(first)])
    read, go_on = Annotations.read, threading.Event()
    monkeypatch.setattr(Annotations, "read", lambda self: read(self) if go_on.wait(20) else [])
    with Served(round) as served, ThreadPoolExecutor() as pool:
        reading = pool.submit(served.labelling.load)
        assert served.client.ask("GET", "/")[0] == served.client.ask("GET", "/api/state")[0] == 200
        waits = pool.submit(served.labelling.next_tasks, "ada", [])
        with pytest.raises(TimeoutError):
            waits.result(0.1)
        assert not reading.done()
        go_on.set()
        assert first not in [one["id"] for one in waits.result(20)["tasks"]]


def test_damaged_labels_end_the_command(tmp_path, monkeypatch, capsys):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], ["one"])
    round.store.write_bytes(f"{round.uri}/answers/page-0.jsonl", b"{}\n")
    with pytest.raises(DataError, match="a line is no label"):
        serve.serve_labels(round, port=0)
    assert "label at http://127.0.0.1" in capsys.readouterr().out


def test_labels_at_the_start_count_as_one_after_the_other(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(12)],
                       annotators=["ada", "grace"], overlap=2)  # fmt: skip
    drawn = random.Random(0)
    places = [row.id for row in round.tasks] + ["unknown"]
    people = [one.name for one in round.annotators] + ["eve"]
    statuses = ["labelled", "labelled", "skipped", "draft", "withdrawn"]
    answers = [
        Annotation(drawn.choice(places), drawn.choice(people), status := drawn.choice(statuses),
                   drawn.choice(["login", "other"]) if status in ("labelled", "draft") else None,
                   at=f"2026-01-01T00:00:{drawn.randrange(20):02}")
        for _ in range(200)
    ]  # fmt: skip
    round.answers.add(answers)
    at_once, one_by_one = Labelling(round), Labelling(round)
    at_once.load()
    one_by_one._loaded = True
    for answer in drawn.sample(answers, len(answers)):  # in any order
        one_by_one._take(answer)
    for name in ("_answers", "_finished", "_disputed"):
        assert getattr(at_once, name) == getattr(one_by_one, name)
    assert at_once._disputed and sum(one["labelled"] for one in at_once._finished.values()) > 3


def ids(served: Served) -> list[str]:
    return [row.id for row in served.round.tasks]


def test_the_page_is_served_with_its_cookie_and_loads_nothing_from_elsewhere(served):
    url = urlsplit(served.server.url)
    status, content, headers = served.client.ask("GET", f"/?{url.query}", headers={"Cookie": ""})
    assert status == 200 and b"<main" in content
    assert headers["Set-Cookie"].endswith("; HttpOnly; SameSite=Strict; Path=/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    for path in ("/", "/page.js", "/page.css"):
        status, content, _ = served.client.ask("GET", path)
        assert status == 200 and len(content) > 1000
        assert b"http://" not in content and b"https://" not in content
    assert served.client.ask("GET", "/../serve.py")[0] == 404


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.server.port), 10)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it before it answers."""
    try:
        connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def test_connections_without_the_token_have_a_bound_and_those_that_end_make_room(served, monkeypatch):
    monkeypatch.setattr(serve, "_CONNECTIONS_OF_AN_ADDRESS", 5)
    held = [connect(served) for _ in range(5)]
    with connect(served) as sixth:
        assert is_closed(sixth)
    for one in held:
        one.close()
    for _ in range(100):
        with connect(served) as later:
            if not is_closed(later):
                break
        time.sleep(0.05)
    else:
        pytest.fail("connections that ended are counted")


def test_a_request_ends_at_its_time_and_size_however_slowly_it_comes(served, monkeypatch):
    monkeypatch.setattr(serve, "_REQUEST_S", 0.6)
    with connect(served) as slow:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            while time.monotonic() < started + 10:
                slow.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - started < 5
    monkeypatch.setattr(serve, "_REQUEST_S", 60)
    with connect(served) as large:
        sent = 0
        with pytest.raises(ConnectionError):
            large.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(90):  # http.server takes 100 lines of 64 KiB
                line = f"X{number}: ".encode() + b"x" * 60_000 + b"\r\n"
                large.sendall(line)
                sent += len(line)
                time.sleep(0.01)
        assert sent < 3_000_000


@pytest.mark.parametrize(
    "cookie", ["", "raymill_1=x", "raymill_{port}=", "raymill_{port}=wrong", "raymill_{port}=é;;=\x7f"]
)
def test_without_the_token_nothing_is_told(served, cookie):
    stranger = {"Cookie": cookie.replace("{port}", str(served.server.port)).encode("utf-8").decode("latin-1")}
    for method, path in [("GET", "/"), ("GET", "/?token=wrong"), ("GET", "/api/state"), ("POST", "/api/next"),
                         ("POST", "/api/answers")]:  # fmt: skip
        body = b"{}" if method == "POST" else None
        status, content, _ = served.client.ask(method, path, body, stranger)
        assert status == 403 and b"Open the address" in content
    assert served.round.answers.read() == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that_is_none_is_answered(served, method):
    host = {"Host": f"{served.client.host}:{served.client.port}"}  # else http.client would look for it in the address
    status, content, _ = served.client.ask(method, "http://[/", b"{}" if method == "POST" else None, host)
    assert (status, content) == (400, b"The address is none.\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost@evil"]
)
def test_a_site_that_leads_its_name_to_this_machine_is_refused(served, host):
    assert served.client.ask("GET", "/api/state", headers={"Host": host})[0] == 421
    assert served.client.ask("POST", "/api/next", b"{}", {"Host": host})[0] == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "192.168.1.5:20000"])
def test_names_of_this_machine_and_tunnels_to_it_are_taken(served, host):
    assert served.client.ask("GET", "/api/state", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},  # of the same site, to which browsers send the cookie
        {"Content-Type": "text/plain"},  # what a form of another page can send
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_other_pages_in_the_browser_cannot_label(served, headers):
    body = json.dumps({"annotator": "ada", "answers": [label(ids(served)[0])]}).encode()
    assert served.client.ask("POST", "/api/answers", body, headers)[0] in (403, 415)
    assert served.round.answers.read() == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"\xff", {}, 400),
        (b'{"annotator": NaN}', {}, 400),
        (b"[" * 200_000, {}, 400),
        (b'{"annotator": "ada"}', {}, 400),
        (b'{"annotator": "eve", "answers": []}', {}, 400),
        (b"{}", {"Content-Length": str(LARGEST_BODY + 1)}, 413),
        (b"{}", {"Content-Length": "-2"}, 411),
        (b"{}", {"Content-Length": "x"}, 411),
        (b"{}", {"Content-Length": "2", "Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_requests_have_a_bounded_size_and_a_form(served, body, headers, status):
    assert served.client.ask("POST", "/api/answers", body, headers)[0] == status
    assert served.client.ask("GET", "/api/state")[0] == 200
    many = json.dumps({"annotator": "ada", "answers": [label(ids(served)[0])] * (MOST_ANSWERS + 1)}).encode()
    assert served.client.ask("POST", "/api/answers", many)[0] == 400
    assert served.round.answers.read() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "none"},
        {"task": ["r000000"]},
        {"task": None},
        {"value": "no label"},
        {"value": None},
        {"value": ["login"]},
        {"value": {"login": 1}},
        {"status": "done"},
        {"status": "skipped"},
        {"status": "skipped", "reason": " "},
        {"status": "skipped", "reason": "x" * 1001},
        {"status": "skipped", "reason": "\ud800"},
        {"status": "skipped", "reason": 7},
        {"at": "2026-11-27"},
        {"at": "2026-11-27T04:00:00"},
        {"at": "0001-01-01T00:00:00+14:00"},
        {"at": 12},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": "2"},
        {"seconds": 1e300},
        {"guideline": "x" * 65},
        {"guideline": 7},
    ],
)
def test_a_wrong_label_is_refused_with_the_reason_and_the_others_are_stored(served, wrong):
    first, second, third = ids(served)[:3]
    told = served.client.add(label(first), label(second) | wrong, label(third))
    (refused,) = told["refused"]
    assert refused["number"] == 1 and len(refused["problem"]) > 10
    assert {one.task for one in served.round.answers.read()} == {first, third}
    assert served.client.add("no object", 7)["refused"][1]["number"] == 1


def test_a_label_has_its_time_in_utc_and_the_version_of_the_guideline(served):
    first = ids(served)[0]
    served.client.add(label(first, at="2026-11-27T06:00:00.5+02:00", guideline="abc", seconds=2.34))
    (one,) = served.round.answers.read()
    assert (one.at, one.guideline, one.seconds, one.origin) == ("2026-11-27T04:00:00.500+00:00", "abc", 2.3, "page")


def test_the_same_post_again_adds_nothing_also_among_others(served):
    first, second = ids(served)[:2]
    for _ in range(3):
        assert served.client.add(label(first))["progress"]["labelled"] == 1
    assert len(served.round.store.list_files(f"{served.round.uri}/answers")) == 1
    assert served.client.add(label(first), label(second))["progress"]["labelled"] == 2
    assert len(served.round.answers.read()) == 2


def test_tasks_are_given_a_few_at_a_time_in_order_without_those_at_hand_or_done(served):
    order = ids(served)
    client = served.client
    given = client.post("/api/next", having=[])
    assert [one["id"] for one in given["tasks"]] == order[:20]
    assert given["progress"] == {"tasks": 30, "labelled": 0, "skipped": 0, "disputed": 0}
    client.add(label(order[0]), label(order[2], status="skipped", reason="damaged", value=None))
    given = client.post("/api/next", having=[order[1], order[3]])
    assert [one["id"] for one in given["tasks"]] == order[4:24]
    assert given["progress"] == {"tasks": 30, "labelled": 1, "skipped": 1, "disputed": 0}


def test_a_label_that_is_taken_back_is_no_label_and_its_task_is_given_again(served):
    first = ids(served)[0]
    served.client.add(label(first, "login", 1))
    told = served.client.add({"task": first, "status": "withdrawn", "at": "2026-11-27T04:00:02Z"})
    assert told["progress"]["labelled"] == 0
    assert served.client.post("/api/next", having=[])["tasks"][0]["id"] == first
    assert latest(served.round.answers.read()) == {}
    served.client.add(label(first, "login", 1))  # what arrives late does not come back
    assert served.client.post("/api/next", having=[])["tasks"][0]["id"] == first
    served.client.add(label(first, "other", 3))
    assert latest(served.round.answers.read())[first, "ada"].value == "other"


def test_a_draft_comes_back_and_never_replaces_a_label(tmp_path, monkeypatch):
    with Served(make_round(tmp_path, monkeypatch, TASKS["write"], ["one", "two"])) as served:
        first = ids(served)[0]
        served.client.add(label(first, "half an ans", status="draft"))
        given = served.client.post("/api/next", having=[])["tasks"][0]
        assert given["draft"]["value"] == "half an ans"
        served.client.add(label(first, "the answer", 5))
        served.client.add(label(first, "from another tab", 9, status="draft"))
        assert latest(served.round.answers.read())[first, "ada"].value == "the answer"
        again = Labelling(served.round)
        assert again.progress("ada")["labelled"] == 1


def test_the_page_never_has_the_known_label_the_strategy_or_the_prediction(tmp_path, monkeypatch):
    from tests.support.annotate_inline import annotate_inline, settings_of, write_records

    records = write_records(tmp_path / "in.parquet", 200)
    choose = {"count": 20, "uncertainty": 0.5, "label": "label"}
    round = annotate_inline(
        settings_of(records, tmp_path / "out", choose=choose, gold="label", gold_share=0.5), monkeypatch
    ).round
    assert any(row.gold for row in round.tasks) and any(row.prediction for row in round.tasks)
    for labelling in (Labelling(round), Labelling(round, predictions=True)):
        shown = [one for name in ("a1", "a2", "a3") for one in labelling.next_tasks(name, [])["tasks"]]
        allowed = {"id", "parts", "answers"} | ({"prediction"} if labelling._predictions else set())
        assert shown and {key for one in shown for key in one} == allowed


def test_answers_are_shuffled_by_task_and_annotator_and_their_values_are_the_columns(tmp_path, monkeypatch):
    people = ["ada", "grace"]
    round = make_round(
        tmp_path, monkeypatch, TASKS["compare"], [f"text {at}" for at in range(200)], annotators=people, overlap=2
    )
    first = {name: [Labelling(round).task(name, row.id)["answers"][0] for row in round.tasks] for name in people}
    for name in people:
        assert 70 < sum(one["value"] == "answer_a" for one in first[name]) < 130
        assert all(one["text"] == ANSWERS[one["value"]] for one in first[name])
    assert 70 < sum(one == other for one, other in zip(*first.values(), strict=True)) < 130
    again = [Labelling(round).task("ada", row.id)["answers"][0] for row in round.tasks]
    assert again == first["ada"]


def test_an_expert_is_given_what_others_disagree_about_with_their_votes(tmp_path, monkeypatch):
    people = ["ada", "grace", {"name": "eve", "expert": True, "topics": ["none"]}]
    round = make_round(
        tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(6)], annotators=people, overlap=2,
        expertise="answer_a",
    )  # fmt: skip
    labelling = Labelling(round)
    mine = {row.id for row in round.tasks if "eve" in row.annotators}
    others = [row.id for row in round.tasks if row.id not in mine]
    assert len(others) >= 2
    for id in others:
        labelling.add("ada", [label(id, "login")])
        labelling.add("grace", [label(id, "login" if id != others[1] else "other")])
    for one_of_two in (labelling, Labelling(round)):
        given = one_of_two.next_tasks("eve", sorted(mine))
        assert [one["id"] for one in given["tasks"]] == [others[1]] and given["progress"]["disputed"] == 1
        votes = [(one["annotator"], one["value"]) for one in given["tasks"][0]["votes"]]
        assert votes == [("ada", "login"), ("grace", "other")]
        assert one_of_two.next_tasks("ada", [])["progress"]["disputed"] == 0
        with pytest.raises(ValueError, match="not given"):
            one_of_two.task("ada", next(iter(mine - {row.id for row in round.tasks if "ada" in row.annotators}), "?"))
    finish_round(round)
    labelling = Labelling(round)
    assert [one["id"] for one in labelling.next_tasks("eve", sorted(mine))["tasks"]] == [others[1]]
    labelling.add("eve", [label(others[1], "other", 9)])
    assert labelling.next_tasks("eve", sorted(mine))["tasks"] == []
    finish_round(round)
    assert round.labels()[others[1]] == "other"


def test_an_expert_is_given_disputes_of_the_own_topics_first(tmp_path, monkeypatch):
    both = ["chat", "mail"]
    people = [{"name": "ada", "topics": both}, {"name": "grace", "topics": both},
              {"name": "eve", "expert": True, "topics": ["mail"]}]  # fmt: skip
    path = write_records(tmp_path / "in.parquet", 30)
    settings = settings_of(path, tmp_path / "out", choose={"count": 15}, annotators=people, expertise="channel")
    round = annotate_inline(settings, monkeypatch).round
    others = [row for row in round.tasks if "eve" not in row.annotators]
    mine = [row.id for row in round.tasks if "eve" in row.annotators]
    assert {row.topic for row in others} == {*both} and {row.topic for row in round.tasks if row.id in mine} == {"mail"}
    labelling = Labelling(round)
    for row in others:
        labelling.add("ada", [label(row.id, "login")])
        labelling.add("grace", [label(row.id, "other")])
    wanted = [row.id for row in others if row.topic == "mail"] + [row.id for row in others if row.topic == "chat"]
    assert [one["id"] for one in labelling.next_tasks("eve", mine)["tasks"]] == wanted


def test_one_annotator_alone_can_be_served(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], ["text"], annotators=["ada", "grace"])
    with Served(round, annotator="grace") as served:
        assert [one["name"] for one in served.labelling.state()["annotators"]] == ["grace"]
        assert served.client.ask("POST", "/api/next", b'{"annotator": "ada", "having": []}')[0] == 400
    with pytest.raises(ConfigError, match="none of ada, grace"):
        Labelling(round, annotator="eve")


def test_a_changed_guideline_is_a_new_version_and_its_markup_is_text(tmp_path, monkeypatch):
    (tmp_path / "guide.md").write_text("# Labels\n\n<script>1</script> [a](javascript:1) ![b](http://x/)")
    round = make_round(
        tmp_path / "in", monkeypatch, TASKS["classify"] | {"guideline": str(tmp_path / "guide.md")}, ["text"]
    )
    labelling = Labelling(round)
    first = labelling.guideline()
    assert "<script" not in first["html"] and "<a" not in first["html"] and "<img" not in first["html"]
    (tmp_path / "guide.md").write_text("# Others")
    put_guideline(round.store, round.uri, str(tmp_path / "guide.md"))
    labelling._guideline = (-1e9, ("", ""))
    told = labelling.add("ada", [label("r000000")])
    assert told["guideline"] == labelling.guideline()["version"] != first["version"]


def test_texts_are_sent_as_they_are(tmp_path, monkeypatch):
    chat = json.dumps([{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": None}])
    with Served(make_round(tmp_path, monkeypatch, TASKS["classify"], [HOSTILE, chat])) as served:
        parts = {one["id"]: one["parts"] for one in served.client.post("/api/next", having=[])["tasks"]}
    assert parts["r000000"] == [{"name": "prompt", "text": HOSTILE}]
    assert parts["r000001"][0]["turns"] == [{"role": "user", "text": HOSTILE}, {"role": "assistant", "text": ""}]


def test_the_port_is_of_the_round_unless_it_is_taken(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], ["text"])
    with PageServer(Labelling(round)) as one, PageServer(Labelling(round)) as other:
        assert 20_000 <= one.port < 30_000 and other.port != one.port
    with PageServer(Labelling(round)) as again:
        assert again.port == one.port and again.token != one.token
        with pytest.raises(ConfigError, match="Choose others"):
            PageServer(Labelling(round), port=again.port)
    with pytest.raises(ConfigError, match="Choose others"):
        PageServer(Labelling(round), host="192.0.2.1")


def test_ctrl_c_ends_it_with_the_number_of_labels(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(5)])
    first, second, third = (row.id for row in round.tasks[:3])
    with Page(round) as page:
        client = Client(page.url)
        client.add(label(first), label(second), label(second, "other", 3))
        client.add(label(third, status="skipped", reason="damaged"))
        assert page.interrupt() == "2 labels came in, 1 task skipped\n"
        assert page.process.returncode == 0
    assert len(latest(round.answers.read())) == 3


def _drops_and_kills(round: Round, kills: int, drops: int, seed: int) -> None:
    """Labels in posts, among which connections end and the server is killed: each label is there once."""
    chosen = random.Random(seed)
    rows = [row.id for row in round.tasks]
    wanted: dict[str, str] = {}
    posts = [
        [label(id, value, at) for at in range(start, min(start + chosen.randint(1, 4), len(rows)))
         for id, value in [(rows[at], chosen.choice(["billing", "login", "other"]))]]
        for start in range(0, len(rows), 4)
    ]  # fmt: skip
    for post in posts:
        wanted |= {one["task"]: one["value"] for one in post}
    faults = ["kill"] * kills + ["drop"] * drops
    at_posts = dict(zip(chosen.sample(range(len(posts)), len(faults)), chosen.sample(faults, len(faults)), strict=True))
    with Page(round) as page:
        client, waiting = Client(page.url), list[dict]()
        for number, post in enumerate(posts):
            waiting += post
            content = json.dumps({"annotator": "ada", "answers": waiting}).encode()
            fault = at_posts.get(number)
            if fault == "drop":
                client.cut_off(content, chosen.randint(1, len(content) + 300))
                continue
            if fault == "kill":
                with ThreadPoolExecutor(1) as pool:
                    asked = pool.submit(client.ask, "POST", "/api/answers", content)
                    threading.Event().wait(chosen.random() * 0.01)
                    page.kill()
                    try:
                        status, _, _ = asked.result()
                    except OSError:
                        status = 0
                    except Exception as error:  # the connection ended within the answer
                        assert type(error).__name__ in ("IncompleteRead", "RemoteDisconnected", "BadStatusLine")
                        status = 0
                if status == 200:
                    waiting = []
                page.start()
                client = Client(page.url)
                continue
            status, told, _ = client.ask("POST", "/api/answers", content)
            assert status == 200 and json.loads(told)["refused"] == []
            waiting = []
        if waiting:
            client.add(*waiting)
    found = round.answers.read()
    assert {one.task: one.value for one in found} == wanted and len(found) == len(wanted)
    assert all(one.seconds == 2.5 for one in found)


def test_no_label_is_lost_or_doubled_when_the_server_or_a_connection_ends(tmp_path, monkeypatch):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(80)])
    _drops_and_kills(round, kills=1, drops=10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_no_label_is_lost_or_doubled_in_hundred_faults(tmp_path, monkeypatch, seed):
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(200)])
    _drops_and_kills(round, kills=25, drops=15, seed=seed)
