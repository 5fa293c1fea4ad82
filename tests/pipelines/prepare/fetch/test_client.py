"""Requests go to checked addresses, are bounded in size, time and redirects, and are repeated where that may help."""

import socket
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from raymill.pipelines.prepare.fetch import client
from raymill.pipelines.prepare.fetch.client import (
    Client,
    RequestFailed,
    checked_addresses,
    is_public,
    same_server,
    shown,
)
from raymill.pipelines.prepare.fetch.settings import Web
from tests.support.web_server import Reply, as_html


def asking(**more) -> Client:
    limits = {"allow_private": True, "timeout_s": 10, "attempts": 3, "longest_wait_s": 60, "max_redirects": 3}
    return Client(Web(**limits | {"max_mib": 1} | more))


def got(site, path: str = "/", **more):
    with asking(**more) as connection:
        return connection.get(site.url + path)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255",
     "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.7",
     "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
     "255.255.255.255",
     "::", "::1", "::7f00:1", "::8.8.8.8", "100::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
     "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1",
     "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8",
     "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::808:808", "64:ff9b:1::1", "2002:7f00:1::",
     "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_private_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "168.63.129.17", "172.32.0.1", "192.0.1.1",
     "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"],
)  # fmt: skip
def test_public_addresses_are(address):
    assert is_public(address)


def test_no_connection_is_used_for_another_host_of_the_same_address(monkeypatch):
    """The certificate of a TLS connection was checked for one name alone."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open

        def do_GET(self) -> None:
            seen.append((self.headers["Host"].partition(":")[0], self.client_address[1]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format, *values) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *how, **more: look_up("127.0.0.1", *how, **more))
    try:
        with asking() as connection:
            for host in ("evil", "evil", "good", "evil"):
                connection.get(f"http://{host}.test:{server.server_port}/")
    finally:
        server.shutdown()
        server.server_close()
    (first, again, good, last) = [port for _, port in seen]
    assert first == again and len({first, good, last}) == 3


def test_addresses_of_this_machine_are_refused_before_anything_is_sent(site):
    site.answers["/"] = as_html("secret")
    for url in (site.url, site.url.replace("127.0.0.1", "localhost"), site.url.replace("127.0.0.1", "2130706433")):
        with (
            asking(allow_private=False) as connection,
            pytest.raises(RequestFailed, match="allow_private: true") as refused,
        ):
            connection.get(url)
        assert refused.value.problem == "private_address"
    assert site.asked == []


def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch):
    found = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **more: found)
    with pytest.raises(RequestFailed, match=r"desk\.example \(10\.0\.0\.7\)"):
        checked_addresses("desk.example", 80, allow_private=False, timeout_s=5)


def test_the_connection_goes_to_the_address_that_was_checked(site, monkeypatch):
    """A name that has another address at each look-up is looked up once; its name is still in the request."""
    site.answers["/"] = as_html("here")
    looked_up, port = [], int(site.url.rpartition(":")[2])

    def once(host, *asked, **more):
        looked_up.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))] if host == "desk.example" else real(host, *asked, **more)

    real = socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", once)
    with asking() as connection:
        connection.get(f"http://desk.example:{port}/")
    assert looked_up.count("desk.example") == 1 and site.asked[0].headers["Host"] == f"desk.example:{port}"


def test_another_address_of_a_host_is_tried_if_one_does_not_answer(site, monkeypatch):
    site.answers["/"] = as_html("here")
    port = int(site.url.rpartition(":")[2])
    real = socket.getaddrinfo
    both = [(2, 1, 6, "", ("127.0.0.2", port)), (2, 1, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *asked, **more: (
        both if host == "desk.example" else real(host, *asked, **more)
    ))  # fmt: skip
    with asking(attempts=1) as connection:
        assert b"here" in connection.get(f"http://desk.example:{port}/").body


def test_redirects_are_followed_checked_and_bounded(site, monkeypatch):
    site.answers["/a"] = Reply(status=302, headers={"Location": "/b"})
    site.answers["/b"] = as_html("there")
    assert got(site, "/a").url == f"{site.url}/b"
    site.answers["/round"] = Reply(status=301, headers={"Location": "/round"})
    with pytest.raises(RequestFailed, match="more than 3 redirects"):
        got(site, "/round")
    site.answers["/file"] = Reply(status=302, headers={"Location": "file:///etc/passwd"})
    with pytest.raises(RequestFailed, match="which is no page of a web server"):
        got(site, "/file")
    seen = iter([True, False])
    monkeypatch.setattr(client, "is_public", lambda address: next(seen))
    with pytest.raises(RequestFailed, match="of a private network"):
        got(site, "/a", allow_private=False)


def test_secrets_stay_with_their_server(site):
    other = site.url.replace("127.0.0.1", "localhost")
    site.answers["/a"] = Reply(status=302, headers={"Location": f"{other}/b"})
    site.answers["/b"] = as_html("there")
    with asking() as connection:
        connection.get(f"{site.url}/a", None, {"X-Team": "desk"}, {"X-Key": "hunter2"}, {"key": "hunter3"})
    assert [one.parameters for one in site.asked] == [{"key": "hunter3"}, {}]
    assert [one.headers.get("X-Key") for one in site.asked] == ["hunter2", None]
    assert [one.headers.get("X-Team") for one in site.asked] == ["desk", "desk"]


def test_a_refused_request_is_repeated_after_the_time_that_the_server_wants(site, no_waiting):
    replies = iter([Reply(status=429, headers={"Retry-After": "7"}), Reply(status=503), as_html("now")])
    site.answers["/"] = lambda asked: next(replies)
    assert b"now" in got(site).body
    assert no_waiting[0] == 7 and 0.5 <= no_waiting[1] <= 2
    site.answers["/"] = Reply(status=429, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    with pytest.raises(RequestFailed, match=r"answered with status 429 \(3 times\)"):
        got(site)
    assert 20 < no_waiting[2] <= 30
    site.answers["/"] = Reply(status=503, headers={"Retry-After": "3600"})
    with pytest.raises(RequestFailed, match="asks to wait for 3,600 s"):
        got(site)


def test_other_refusals_are_not_repeated(site):
    site.answers["/"] = Reply("no such ticket", 403, "text/plain")
    with pytest.raises(RequestFailed, match=r"status 403 \(no such ticket\)") as refused:
        got(site)
    assert len(site.asked) == 1 and refused.value.status == 403


def test_an_answer_that_ends_early_is_asked_for_again(site):
    site.answers["/"] = Reply("half", length=100)
    with pytest.raises(RequestFailed, match=r"no whole answer .*3 times") as refused:
        got(site)
    assert refused.value.problem == "unreachable" and len(site.asked) == 3


def test_a_server_that_is_not_there_is_named():
    with (
        asking() as connection,
        pytest.raises(RequestFailed, match=r"http://127\.0\.0\.1:1/: no whole answer \(.*refused"),
    ):
        connection.get("http://127.0.0.1:1/")
    with asking() as connection, pytest.raises(RequestFailed, match=r"the name no\.such\.invalid has no address"):
        connection.get("http://no.such.invalid/")


def test_an_answer_that_is_too_large_is_not_read_on(site):
    site.answers["/"] = Reply("x" * 3000)
    with pytest.raises(RequestFailed, match=r"more than 0\.000976562 MiB") as refused:
        got(site, max_mib=1 / 1024)
    assert refused.value.problem == "too_large"


def test_secrets_in_addresses_are_not_shown():
    assert shown("https://h/p?page=2&access_token=abc&x=1") == "https://h/p?page=2&access_token=***&x=1"
    assert shown("https://h/p?page=2") == "https://h/p?page=2"
    assert shown("https://h/p?X-Amz-Signature=abc#top") == "https://h/p?X-Amz-Signature=***#top"
    assert (
        shown("https://h/p?API_KEY=a&Password=b&SECRET=c&key") == "https://h/p?API_KEY=***&Password=***&SECRET=***&key"
    )


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_these_refusals_may_pass(site, status):
    replies = iter([Reply(status=status), as_html("now")])
    site.answers["/"] = lambda asked: next(replies)
    assert b"now" in got(site).body


def test_the_pause_doubles_up_to_half_a_minute(site, no_waiting):
    site.answers["/"] = Reply(status=503)
    with pytest.raises(RequestFailed, match=r"status 503 \(8 times\)$") as refused:
        got(site, attempts=8)
    assert refused.value.status == 503 and len(site.asked) == 8
    for waited, longest in zip(no_waiting, (1, 2, 4, 8, 16, 30, 30), strict=True):
        assert longest / 2 <= waited <= longest


def test_one_attempt_is_one_request(site, no_waiting):
    site.answers["/"] = Reply(status=503)
    with pytest.raises(RequestFailed, match=r"answered with status 503$"):
        got(site, attempts=1)
    assert len(site.asked) == 1 and no_waiting == []


@pytest.mark.parametrize(("asks", "waits"), [("60", 60), ("0", 0), (formatdate(0, usegmt=True), 0), ("60.5", None)])
def test_a_server_may_ask_for_a_wait_up_to_the_longest(site, no_waiting, asks, waits):
    replies = iter([Reply(status=429, headers={"Retry-After": asks}), as_html("now")])
    site.answers["/"] = lambda asked: next(replies)
    got(site, longest_wait_s=60)
    assert no_waiting == [waits] if waits is not None else 0.5 <= no_waiting[0] <= 1, "others wait as usual"


@pytest.mark.parametrize("asks", ["\u00b2", "soon", ""])
def test_a_wait_that_is_no_number_is_left_to_the_client(site, no_waiting, asks):
    replies = iter([Reply(status=429, headers={"Retry-After": asks}), as_html("now")])
    site.answers["/"] = lambda asked: next(replies)
    assert b"now" in got(site).body and 0.5 <= no_waiting[0] <= 1


def test_as_many_redirects_are_followed_as_allowed(site):
    for number, status in enumerate((301, 303, 307, 308)):
        site.answers[f"/{number}"] = Reply(status=status, headers={"Location": f"/{number + 1}"})
    site.answers["/4"] = as_html("there")
    assert b"there" in got(site, "/1").body
    with pytest.raises(RequestFailed, match=r"more than 3 redirects, the last one to .*/4"):
        got(site, "/0")
    for status, headers in ((302, {}), (300, {"Location": "/4"}), (304, {})):
        site.answers["/no"] = Reply(status=status, headers=headers)
        with pytest.raises(RequestFailed, match=f"answered with status {status}") as failed:
            got(site, "/no")
        assert failed.value.status == status
    for address in ("http://h:port/", "ftp://host/x"):
        site.answers["/odd"] = Reply(status=302, headers={"Location": address})
        with pytest.raises(RequestFailed, match="leads to") as failed:
            got(site, "/odd")
        assert failed.value.problem == "http_error"


def test_parameters_are_added_to_those_of_the_address(site):
    site.answers["/"] = as_html("here")
    with asking() as connection:
        assert connection.get(f"{site.url}/?a=1", {"b": "2 3"}).url == f"{site.url}/?a=1&b=2+3"
    assert site.asked[0].parameters == {"a": "1", "b": "2 3"}


def test_an_answer_may_have_the_largest_size(site):
    site.answers["/"] = Reply("x" * 1024)
    assert len(got(site, max_mib=1024 / (1 << 20)).body) == 1024
    with pytest.raises(RequestFailed, match="the answer has more than"):
        got(site, max_mib=1023 / (1 << 20))


def test_a_compressed_answer_that_is_damaged_is_asked_for_again(site):
    site.answers["/"] = Reply("no gzip", headers={"Content-Encoding": "gzip"})
    with pytest.raises(RequestFailed, match=r"the compressed answer is damaged .*3 times") as failed:
        got(site)
    assert failed.value.problem == "http_error"


def test_a_proxy_of_the_environment_is_not_used(site, monkeypatch):
    """It would look the name up itself, after the check."""
    site.answers["/"] = as_html("here")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert b"here" in got(site, attempts=1).body


def test_the_kind_of_an_answer_is_in_lower_case_and_what_it_says_of_an_error_is_cut(site):
    site.answers["/"] = Reply("x", kind="Text/HTML; Charset=UTF-8")
    assert got(site).content_type == "text/html; charset=utf-8"
    site.answers["/"] = Reply("x" * 1000, 404)
    with pytest.raises(RequestFailed, match=r"status 404 \(x{150}\)$"):
        got(site)
    site.answers["/"] = Reply(" \n", 404)
    with pytest.raises(RequestFailed, match=r"status 404$"):
        got(site)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h/a", "http://h:80/b", True), ("https://h/a", "https://h:443/b?c", True),
        ("http://h", "https://h", False), ("http://h:443", "https://h", False), ("http://h:1", "http://h:2", False),
        ("http://h", "http://i.h", False), ("http://H", "http://h", True),
    ],
)  # fmt: skip
def test_a_server_is_a_scheme_a_host_and_a_port(one, other, same):
    assert same_server(one, other) is same


def test_addresses_are_tried_once_each_and_without_the_name_of_a_network(monkeypatch):
    found = [(10, 1, 6, "", (f"{ip}%eth0", 80, 0, 2)) for ip in ("2606:4700::1111", "2606:4700::1111", "fe80::1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **more: found)
    assert checked_addresses("h", 80, allow_private=True, timeout_s=5) == ["2606:4700::1111", "fe80::1"]
    with pytest.raises(RequestFailed, match=r"h \(fe80::1\) is of this machine"):
        checked_addresses("h", 80, allow_private=False, timeout_s=5)


@contextmanager
def dripping(head: bytes, piece: bytes):
    """The address of a server that sends `head` at once, and then a piece every tenth of a second for a minute."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(head)
                    for _ in range(600):
                        connection.sendall(piece)
                        time.sleep(0.1)

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    listening.close()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"", b"H"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
)
def test_a_request_ends_at_its_timeout_however_slowly_the_answer_drips_and_is_sent_again(head, piece):
    with dripping(head, piece) as url, asking(timeout_s=0.5, attempts=2) as connection:
        began = time.monotonic()
        with pytest.raises(RequestFailed, match=r"no whole answer within 0\.5 s \(2 times\)") as failed:
            connection.get(url)
        assert time.monotonic() - began < 30  # the answer takes a minute
    assert failed.value.problem == "unreachable"


def test_writes_and_the_start_of_tls_end_with_the_request_too():
    given = []

    class Stream:
        def write(self, buffer, timeout):
            given.append(timeout)

        def start_tls(self, context, name, timeout):
            given.append(timeout)
            return self

    deadline = client._Deadline()
    deadline.until = time.monotonic() + 5
    stream = client._TimedStream(Stream(), deadline)
    stream.write(b"x", 60)
    stream.start_tls(None, "host", 60).write(b"x", 60)
    assert len(given) == 3 and max(given) <= 5


def test_a_look_up_that_takes_too_long_ends_too(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **more: threading.Event().wait(3) or [])
    with pytest.raises(httpx2.ConnectTimeout, match=r"no name server has answered for desk\.example"):
        checked_addresses("desk.example", 80, allow_private=False, timeout_s=0.05)


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://a:99999999/", "http://a b/", "//[", "http://\x00/", "http://xn--\udcff/", "\x01"]
)
def test_an_address_or_a_redirect_that_is_none_fails_that_request(site, monkeypatch, address):
    site.answers["/"] = Reply(status=302, headers={"Location": "/next"})
    with asking() as connection:
        with pytest.raises(RequestFailed):
            connection.get(address)
        monkeypatch.setattr(connection, "_once", lambda *_: address)
        with pytest.raises(RequestFailed) as failed:
            connection.get(site.url)
    assert failed.value.problem == "http_error"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "compress"])
def test_encodings_that_unpack_without_a_bound_are_not_read(site, encoding):
    site.answers["/"] = Reply("x", headers={"Content-Encoding": encoding})
    with pytest.raises(RequestFailed, match="not as gzip or deflate"):
        got(site)


@pytest.mark.parametrize(
    "value", ["\u00b2", "9" * 5000, "Mon, 1 Jan 0001 00:00:00", "Mon, 99 Zzz 99999 99:99:99 +9999", "-", ""]
)
def test_a_senseless_retry_after_is_no_error(value):
    assert client._wait({"retry-after": value}) in (None, 0.0, 999_999_999_999.0)
