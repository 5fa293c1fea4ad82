"""A hub that answers without end, or in another form: the push ends with what to do."""

import json
import socket
import threading
import time
from contextlib import nullcontext

import httpcore2
import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants

from raymill.cluster import hub_client, hub_push
from raymill.cluster.errors import StorageError
from raymill.cluster.hub_client import AnswerRefused
from raymill.cluster.hub_push import HubRepository
from tests.support.hub_commits import hub_server
from tests.support.web_server import Reply, as_json, web_server


@pytest.fixture
def hub(monkeypatch):
    with hub_server(monkeypatch, "model") as found:
        yield found


@pytest.fixture
def push(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def call():
        return HubRepository("acme/help", "model").push(tmp_path, "a title", "", ["*"], public=False)

    return call


def test_bounds_let_an_ordinary_push_pass(hub, push):
    assert push().files == 1 and hub.files == {"config.json": b"{}"}


@pytest.mark.parametrize(
    ("bound", "value", "seen"),
    [
        ("_MAX_ANSWER_BYTES", 1 << 16, r"an answer of over [\d,]+ bytes"),
        ("_MAX_ANSWER_S", -1, "no whole answer within"),
    ],
)
def test_an_answer_that_is_too_large_or_takes_too_long_ends_the_push(hub, push, monkeypatch, bound, value, seen):
    monkeypatch.setattr(hub_client, bound, value)
    hub.site.answers["/api/repos/create"] = Reply(b'"' + b"a" * (1 << 20))
    with pytest.raises(StorageError, match=seen):
        push()


def test_a_listing_that_names_itself_as_the_next_page_ends_the_push(hub, push, monkeypatch):
    monkeypatch.setattr(hub_push, "_MAX_ANSWERS", 20)
    tree = f"{hub.at}/tree/main"
    page = [{"type": "file", "path": "a.bin", "size": 1, "oid": ""}]
    hub.site.answers[tree] = as_json(page, headers={"Link": f'<{hub.site.url}{tree}>; rel="next"'})
    with pytest.raises(StorageError, match="too many answers"):
        push()


@pytest.mark.parametrize("seconds", ["0", "99999"])
def test_a_push_waits_as_long_as_the_hub_asks_for_but_not_for_hours(hub, push, monkeypatch, seconds):
    waits, sleep, this = [], time.sleep, threading.get_ident()

    def noted(seconds: float) -> None:  # threads of others go on sleeping
        waits.append(seconds) if threading.get_ident() == this else sleep(seconds)

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", noted)
    modes = f"{hub.at}/preupload/main"
    answers = iter([Reply("", 429, headers={"Retry-After": seconds}), hub.site.answers[modes]])
    hub.site.answers[modes] = lambda asked: found(asked) if callable(found := next(answers)) else found
    if seconds == "0":
        assert push().files == 1 and waits == [1.0]
    else:
        with pytest.raises(StorageError, match="asks to wait for over 300 s"):
            push()
        assert waits == []


@pytest.mark.parametrize("path", ["/api/repos/create", "/commit/main"])
@pytest.mark.parametrize("answer", ["<html>", "{}", "[]", "null"])
def test_an_answer_in_another_form_is_named_with_what_to_check(hub, push, path, answer):
    hub.site.answers[path if path.startswith("/api/repos") else f"{hub.at}{path}"] = Reply(answer)
    with pytest.raises(StorageError, match=r"hf://acme/help: .*(in another form|cannot be reached).*Check"):
        push()


def test_the_token_goes_to_the_hub_alone(hub, push, tmp_path):
    """An answer about large files names an address at which an upload is to be confirmed, with the token."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    batch = f"/{hub.place.removeprefix(f'{hub.site.url}/')}.git/info/lfs/objects/batch"
    answer = hub.site.answers[batch]

    def with_verification(url: str) -> None:
        def changed(asked):
            found = json.loads(answer(asked).body)
            for one in found["objects"]:
                one["actions"]["verify"] = {"href": f"{url}/verify"}
            return as_json(found)

        hub.site.answers[batch] = changed

    with web_server() as other:
        other.answers["/verify"] = hub.site.answers["/verify"] = as_json({})
        with_verification(other.url)
        with pytest.raises(StorageError, match=r"would have the token sent to '[\w.]+'.*Nothing was committed"):
            push()
        assert other.asked == [] and hub.files == {}
    with_verification(hub.site.url)
    assert push().files == 2 and any(one.path == "/verify" for one in hub.site.asked)


@pytest.fixture
def large_file(hub, tmp_path):
    """Called with a function that changes the answer about the upload of model.safetensors, an object of JSON."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    batch = f"/{hub.place.removeprefix(f'{hub.site.url}/')}.git/info/lfs/objects/batch"
    usual = hub.site.answers[batch]

    def changed(change) -> None:
        def answer(asked):
            found = json.loads(usual(asked).body)
            change(found["objects"][0])
            return as_json(found)

        hub.site.answers[batch] = answer

    return changed


@pytest.fixture
def public_hub(hub, monkeypatch):
    """The hub, whose address 127.0.0.1 is as one of the public internet."""
    kind_of = hub_client.kind_of
    monkeypatch.setattr(hub_client, "kind_of", lambda address: None if address == "127.0.0.1" else kind_of(address))
    return hub


@pytest.mark.parametrize("host", ["127.0.0.2", "2130706434", "store.example", "[::1]"])
@pytest.mark.parametrize("what", ["upload", "part", "redirect"])
def test_files_are_not_uploaded_to_addresses_of_private_networks(public_hub, push, large_file, monkeypatch, what, host):
    """An answer names any address: of the metadata of a cloud, a router, a database. By name, too."""
    look_up, sent = socket.getaddrinfo, []
    inner = f"http://{host}:9/inner"

    def looked_up(asked: str, *how, **more):
        return look_up("127.0.0.2" if asked == "store.example" else asked, *how, **more)

    def connected(backend, host: str, port: int, *how, **more):
        sent.append(host)
        return connect(backend, host, port, *how, **more)

    connect = httpcore2.SyncBackend.connect_tcp
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connected)

    def change(found) -> None:
        upload = found["actions"]["upload"]
        match what:
            case "upload":
                upload["href"] = inner
            case "part":
                upload["header"] = {"chunk_size": "7", "1": inner}
            case "redirect":
                path = httpx2.URL(upload["href"]).path
                public_hub.site.answers[path] = Reply("", 307, headers={"Location": inner})

    large_file(change)
    with pytest.raises(StorageError, match=r"leads to .*, an address of .*Nothing was committed"):
        push()
    assert set(sent) <= {"127.0.0.1"} and public_hub.files == {}


def test_a_hub_of_a_private_network_has_its_store_there(hub, push, large_file):
    """The hub's own address is of this machine here, and the store has another one of it."""
    large_file(lambda found: found["actions"]["upload"].update(href=found["actions"]["upload"]["href"].replace(
        "127.0.0.1", "localhost"
    )))  # fmt: skip
    assert push().files == 2


@pytest.mark.parametrize(
    ("hub_at", "address", "is_refused"),
    [
        ("http://10.1.2.3", "192.168.0.7", False),
        ("http://10.1.2.3", "93.184.216.34", False),
        ("http://10.1.2.3", "127.0.0.1", True),
        ("http://10.1.2.3", "169.254.169.254", True),
        ("http://127.0.0.1:8080", "10.1.2.3", True),
        ("https://93.184.216.34", "10.1.2.3", True),
        ("https://93.184.216.34", "::ffff:10.1.2.3", True),
        ("https://93.184.216.34", "fd00::1", True),
        ("https://93.184.216.34", "2606:4700::1111", False),
        ("https://no.hub.invalid", "10.1.2.3", True),
    ],
)
def test_addresses_of_answers_are_public_or_like_the_hubs(monkeypatch, hub_at, address, is_refused):
    monkeypatch.setattr(constants, "ENDPOINT", hub_at)
    with pytest.raises(AnswerRefused, match="leads to") if is_refused else nullcontext():
        hub_client._check_address("store.example", address)


def test_a_proxy_may_be_in_a_private_network_and_no_private_address_is_asked_of_it(hub, push, large_file, monkeypatch):
    """The proxy looks names up: hub.example has no address here."""
    store = iter(["10.1.2.3", "store.example"])
    large_file(lambda found: found["actions"]["upload"].update(
        href=f"http://{next(store)}{httpx2.URL(found['actions']['upload']['href']).path}"
    ))  # fmt: skip
    hub.place = "http://hub.example/acme/help"
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HTTP_PROXY", hub.site.url)
    huggingface_hub.close_session()  # the next client reads the environment
    try:
        with pytest.raises(StorageError, match=r"leads to '10.1.2.3', an address of a private network"):
            push()
        assert all(one.method != "PUT" for one in hub.site.asked)
        assert push().files == 2
    finally:
        huggingface_hub.close_session()


@pytest.mark.parametrize("size", ["0", "nan", "1e400"])
def test_a_size_of_parts_that_is_none_is_named_with_what_to_check(hub, push, large_file, size):
    large_file(lambda found: found["actions"]["upload"].update(header={"chunk_size": json.loads(size.replace(
        "nan", "NaN"
    )), "1": hub.site.url}))  # fmt: skip
    with pytest.raises(StorageError, match=r"hf://acme/help: .*Check HF_ENDPOINT"):
        push()


def test_an_answer_about_another_file_is_named_with_what_to_check(hub, push, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    batch = f"/{hub.place.removeprefix(f'{hub.site.url}/')}.git/info/lfs/objects/batch"
    upload = {"actions": {"upload": {"href": f"{hub.site.url}/put"}}, "oid": "0" * 64, "size": 7}
    hub.site.answers[batch] = as_json({"transfer": "basic", "objects": [upload]})
    with pytest.raises(StorageError, match=r"hf://acme/help: .*Check HF_ENDPOINT"):
        push()


@pytest.mark.parametrize(
    ("hub_at", "url", "is_hub"),
    [
        ("https://huggingface.co", "https://huggingface.co/api/x", True),
        ("https://huggingface.co", "https://huggingface.co:443/api/x", True),
        ("https://huggingface.co", "http://huggingface.co/api/x", False),
        ("https://huggingface.co", "https://huggingface.co.evil.example/x", False),
        ("https://huggingface.co", "https://huggingface.co:444/x", False),
        ("https://huggingface.co", "https://cdn.huggingface.co/x", False),
        ("http://hub.example", "https://hub.example/x", True),
        ("http://hub.example:8080", "https://hub.example/x", False),
    ],
)
def test_an_address_is_of_the_hub_by_scheme_name_and_port(monkeypatch, hub_at, url, is_hub):
    monkeypatch.setattr(constants, "ENDPOINT", hub_at)
    assert hub_client._is_of_the_hub(httpx2.URL(url)) is is_hub
