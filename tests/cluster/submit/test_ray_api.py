"""Addresses and tokens of a dashboard, and servers that do not answer as one."""

import gzip
import re
import socket
import threading
import time
from contextlib import suppress

import pytest

from raymill.cluster.cli import main
from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.backend import NoAnswer, NotThere
from raymill.cluster.submit.ray_api import RayApi, Refused, checked_address, found_token


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "http://localhost:8265/", "http://[::1]:8265", "https://ray.example/x"]
)
def test_addresses_that_are_taken(address):
    assert checked_address(address, insecure_http=False) == address.rstrip("/")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("http://10.0.0.1:8265", "would cross the network unencrypted"),
        ("http://127.0.0.1.example:8265", "would cross the network unencrypted"),
        ("ray://10.0.0.1:10001", "not the address of a dashboard"),
        ("os://x", "not the address of a dashboard"),
        ("127.0.0.1:8265", "not the address of a dashboard"),
        ("http://127.0.0.1:x", "not the address of a dashboard"),
        ("https://user:secret@host", "holds a user name or password"),
    ],
)
def test_addresses_that_are_refused(address, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        checked_address(address, insecure_http=False)
    assert "secret" not in str(caught.value)


def test_http_to_another_machine_needs_a_flag():
    assert checked_address("http://10.0.0.1:8265/", insecure_http=True) == "http://10.0.0.1:8265"


def test_the_token_of_a_file_comes_before_the_one_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert found_token(None) is None
    for name, text in (("default", "of-home\n"), ("named", "of-path\n"), ("given", "of-file\n"), ("empty", "\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / ".ray").mkdir()
    (tmp_path / "default").rename(tmp_path / ".ray" / "auth_token")
    assert found_token(None) == "of-home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert found_token(None) == "of-path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert found_token(None) == "of-variable"
    assert found_token(str(tmp_path / "given")) == "of-file"
    for wrong in ("empty", "absent"):
        with pytest.raises(ConfigError, match="token_file"):
            found_token(str(tmp_path / wrong))


def test_the_file_of_a_token_is_named_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        found_token(str(tmp_path / "absent"))
    assert str(caught.value).count("absent") == 1 and "(No such file or directory)" in str(caught.value)


def test_a_server_that_does_not_answer_ends_in_a_message_within_the_time_given(monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.ray_api._REQUEST_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = RayApi(f"http://127.0.0.1:{silent.getsockname()[1]}", "token-of-this-test")
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="Read timed out") as caught:
            api.get("/api/version")
        assert time.monotonic() - began < 5
        assert "token-of-this-test" not in str(caught.value)


def test_ray_address_does_not_replace_the_address_and_the_header_reaches_the_server_alone(monkeypatch):
    """Also not a password for the host in ~/.netrc, nor a proxy of the environment."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = []

        def answer() -> None:
            connection, _ = server.accept()
            got.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:5/\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="answered /api/version with a redirect"):
            RayApi(f"http://127.0.0.1:{server.getsockname()[1]}", "word").get("/api/version")
        thread.join()
    assert b"Authorization: Bearer word" in got[0]


def test_the_bytes_of_a_stream_are_given_as_they_arrive():
    first_arrived = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
                first_arrived.wait(5)
                connection.sendall(b"4\r\ntwo\n\r\n0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        pieces = RayApi(f"http://127.0.0.1:{server.getsockname()[1]}", None).stream("/api/v0/logs/stream")
        assert next(pieces) == b"one\n"
        first_arrived.set()
        assert list(pieces) == [b"two\n"]


def answering(data: bytes, requests: list[bytes] | None = None) -> int:
    """The port of a server that answers one connection with these bytes. requests: gets what it was sent."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        received = connection.recv(1 << 16)
        if requests is not None:
            requests.append(received)
        connection.sendall(data)
        connection.close()
        server.close()

    threading.Thread(target=answer, daemon=True).start()
    return server.getsockname()[1]


def test_an_address_without_a_dashboard_is_a_mistake_of_the_user(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    http2 = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])  # as the head's port 6379 begins
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n<html>Log in</html>"
    port = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for address, message in (
        (f"http://127.0.0.1:{closed}", "no answer to /api/jobs/ .*Connection refused"),
        ("http://no-such-host.localhost:1", "no answer to /api/jobs/"),
        (f"http://127.0.0.1:{answering(http2)}", "answers, but not as HTTP"),
        (f"http://127.0.0.1:{answering(page)}", "to /api/jobs/ is not JSON .<html>Log in</html>.*Give the address of"),
        (f"https://127.0.0.1:{port}", f"does not use https. Use http://127.0.0.1:{port}"),
    ):
        with pytest.raises(SystemExit) as done:
            main(["runs", "--address", address])
        error = capsys.readouterr().err
        assert done.value.code == 2 and re.search(message, error), error
        assert error.strip().isprintable(), error


@pytest.mark.parametrize(
    "body", ["[" * 100_000, "9" * 5000, "null", '"x"', "3", "[1]", "[[]]", '["\\ud800"]', "{}", ""]
)
def test_an_answer_that_is_not_one_of_the_dashboard_is_a_mistake_of_the_user(body, capsys):
    port = answering(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    with pytest.raises(SystemExit) as left:
        main(["runs", "--address", f"http://127.0.0.1:{port}"])
    assert left.value.code == 2 and "the answer to /api/jobs/ is not" in capsys.readouterr().err


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_an_answer_that_drips_ends_at_its_deadline(begin, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.ray_api._CONNECT_S", 0.1)
    monkeypatch.setattr("raymill.cluster.submit.ray_api._REQUEST_S", 0.5)
    with pytest.raises(NoAnswer, match="no whole answer within"):
        RayApi(f"http://127.0.0.1:{dripping(begin)}").get("/api/version")


def dripping(begin: bytes) -> int:
    """The port of a server that answers a request with this beginning, and a byte each hundredth of a second."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = server.accept()
        connection.sendall(begin)
        with server, connection, suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"a")
                time.sleep(0.01)

    threading.Thread(target=drip, daemon=True).start()
    return server.getsockname()[1]


def test_an_answer_without_end_is_not_kept(monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.ray_api._LARGEST_ANSWER", 1 << 20)
    packed = gzip.compress(bytes(2 << 20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with pytest.raises(NoAnswer, match="has more than 1 MiB"):
        RayApi(f"http://127.0.0.1:{answering(head + packed)}").get("/api/version")


def test_the_answer_to_a_refused_request_is_read_to_a_bound_that_cuts_no_word():
    body = b"first " + b"word " * 60_000 + b"s" * 100_000 + b" last"
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with pytest.raises(Refused) as caught:
        RayApi(f"http://127.0.0.1:{answering(head + body)}").get("/api/version")
    assert caught.value.text.startswith("first word") and caught.value.text.endswith(" word")


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 500 X\r\nContent-Length: 9999\r\n\r\n"])
def test_a_log_whose_headers_or_error_drip_ends_at_its_deadline(begin, monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.ray_api._CONNECT_S", 0.1)
    monkeypatch.setattr("raymill.cluster.submit.ray_api._REQUEST_S", 0.5)
    with pytest.raises(NoAnswer, match="no whole answer within"):
        list(RayApi(f"http://127.0.0.1:{dripping(begin)}").stream("/api/v0/logs/file"))


def test_without_a_token_no_authorization_is_sent():
    requests: list[bytes] = []
    port = answering(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", requests)
    with pytest.raises(NotThere):
        RayApi(f"http://127.0.0.1:{port}").get("/api/x")
    assert requests[0].startswith(b"GET /api/x ") and b"authorization" not in requests[0].lower()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, "", ConfigError, "requires a token, and none was sent"),
        (403, "", ConfigError, "refused the token"),
        (404, "no page", NotThere, r"no /api/x \(no page\)"),
        (400, "a bad field", Refused, "refused /api/x with status 400: a bad field"),
        (500, "Request failed with status code 400: job exists", Refused, "status 500: .*job exists"),
        (500, "broken", NoAnswer, "failed there with status 500: broken. Try again"),
    ],
)
def test_each_status_of_an_answer_has_its_error(status, body, kind, message):
    port = answering(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    with pytest.raises(kind, match=message) as caught:
        RayApi(f"http://127.0.0.1:{port}").get("/api/x")
    assert type(caught.value) is kind
