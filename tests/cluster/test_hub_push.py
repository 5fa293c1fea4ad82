"""A hub that answers without end, or in another form: the push ends with what to do."""

import json
import threading
import time

import httpx2
import pytest
from huggingface_hub import constants

from raymill.cluster import hub_client, hub_push
from raymill.cluster.errors import StorageError
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
