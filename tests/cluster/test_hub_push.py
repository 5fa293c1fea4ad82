"""A hub that answers without end, or in another form: the push ends with what to do."""

import threading
import time

import pytest

from raymill.cluster import hub_client, hub_push
from raymill.cluster.errors import StorageError
from raymill.cluster.hub_push import HubRepository
from tests.support.hub_commits import hub_server
from tests.support.web_server import Reply, as_json


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
