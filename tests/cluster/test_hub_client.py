"""A hostile hub: ids of its answers are no paths, and answers are bounded, whoever asks."""

import gzip
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import is_package_available

from raymill.cluster import hub_client
from raymill.cluster.hub_client import AnswerRefused, checked_hub, hub_folder
from tests.support.web_server import Reply, as_json, web_server

COMMIT = "0123456789" * 4
FILES = {"config.json": b"{}", "notes.txt": b"hello"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with web_server() as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        publish(site)
        yield site


def publish(site, commit: str = COMMIT, **headers: str) -> None:
    """The model acme/x. headers: of notes.txt."""
    listed = [{"type": "file", "path": name, "size": len(data), "oid": "a" * 40} for name, data in FILES.items()]
    about = as_json({"id": "acme/x", "sha": commit, "siblings": []})
    site.answers |= {"/api/models/acme/x/revision/main": about, f"/api/models/acme/x/tree/{COMMIT}": as_json(listed)}
    for name, data in FILES.items():
        own = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT} | (headers if name == "notes.txt" else {})
        site.answers[f"/acme/x/resolve/{COMMIT}/{name}"] = Reply(data, headers=own)


def fetched() -> Path:
    return hub_folder("acme/x", None, ["*"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_model_are_fetched_to_the_cache(hub):
    assert files_of(fetched()) == {"config.json": b"{}", "notes.txt": b"hello"}


@pytest.mark.parametrize("form", ["{private}/found", "../../../private/found", "../../../../../private/found", ".."])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit", "sha"])
def test_no_id_of_an_answer_reads_or_writes_a_file_outside_of_the_cache(hub, tmp_path, header, form):
    private = tmp_path / "private"
    private.mkdir()
    (private / "found").write_text("private words")
    (private / "found.json").write_text("settings")
    name = form.format(private=private)
    publish(hub, **({"commit": name} if header == "sha" else {header: f'"{name}"'}))
    with pytest.raises(AnswerRefused, match="in place of the id of a commit or file"):
        fetched()
    assert files_of(private) == {"found": b"private words", "found.json": b"settings"}
    assert not any(b"private words" in data for data in files_of(tmp_path / "cache").values())
    assert {one.name for one in tmp_path.iterdir()} <= {"private", "cache"}


def test_a_commit_of_a_missing_file_makes_no_folder_outside_of_the_cache(hub, tmp_path):
    hub.answers[f"/acme/x/resolve/{COMMIT}/notes.txt"] = Reply(
        "", 404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": str(tmp_path / "made")}
    )
    with pytest.raises(AnswerRefused, match="made"):
        fetched()
    assert not (tmp_path / "made").exists()


def test_the_ids_of_a_redirect_are_checked(hub):
    """The hub answers for a large file with a redirect that has the file's id, as the library uses it."""
    path = f"/acme/x/resolve/{COMMIT}/notes.txt"
    hub.answers[path] = Reply("", 302, headers={"Location": "/large", "X-Linked-Etag": '"../../found"'})
    hub.answers["/large"] = Reply(b"hello", headers={"ETag": '"a"', "X-Repo-Commit": COMMIT})
    with pytest.raises(AnswerRefused, match="found"):
        fetched()
    assert "/large" not in {one.path for one in hub.asked}


def test_an_error_may_have_any_etag(hub):
    hub.answers[f"/acme/x/resolve/{COMMIT}/notes.txt"] = Reply(
        "", 404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT, "ETag": 'W/"f-mY2/vLxuxB7+w"'}
    )
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        fetched()


@pytest.mark.parametrize("what", ["file", "listing"])
def test_nothing_is_fetched_from_an_address_of_a_private_network(hub, monkeypatch, what):
    kind_of = hub_client.kind_of
    monkeypatch.setattr(hub_client, "kind_of", lambda address: None if address == "127.0.0.1" else kind_of(address))
    inner = "http://127.0.0.2:9/inner"
    if what == "file":
        hub.answers[f"/acme/x/resolve/{COMMIT}/notes.txt"] = Reply(
            "", 302, headers={"Location": inner, "ETag": '"a"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "5"}
        )
    else:
        tree = f"/api/models/acme/x/tree/{COMMIT}"
        hub.answers[tree] = Reply(hub.answers[tree].body, headers={"Link": f'<{inner}>; rel="next"'})
    with pytest.raises(AnswerRefused, match=r"leads to '127.0.0.2', an address of this machine"):
        fetched()


def test_the_id_of_an_object_in_a_listing_is_checked(hub):
    large = {"type": "file", "path": "a.bin", "size": 1, "oid": "a", "lfs": {"oid": "/etc/x", "size": 1}}
    hub.answers[f"/api/models/acme/x/tree/{COMMIT}"] = as_json([large])
    with pytest.raises(AnswerRefused, match="'/etc/x'"):
        fetched()


def test_a_link_in_the_cache_that_leads_out_of_it_is_refused(hub, tmp_path):
    (tmp_path / "private.txt").write_text("private words")
    folder = fetched()
    (folder / "more.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(AnswerRefused, match=r"is a link to .*outside of the cache"):
        fetched()


def test_an_answer_that_is_compressed_although_none_was_asked_for_is_refused(hub):
    bomb = gzip.compress(b'"' + b"a" * (1 << 20) + b'"')
    hub.answers["/api/models/acme/x/revision/main"] = Reply(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(AnswerRefused, match="encoded as gzip"):
        fetched()
    assert {one.headers["Accept-Encoding"] for one in hub.asked} == {"identity"}


def test_a_redirect_does_not_make_an_answer_of_the_api_one_without_a_bound(hub, monkeypatch):
    monkeypatch.setattr(hub_client, "_MAX_ANSWER_BYTES", 1 << 16)
    hub.answers["/api/models/acme/x/revision/main"] = Reply("", 307, headers={"Location": f"{hub.url}/large"})
    hub.answers["/large"] = Reply(b'"' + b"a" * (1 << 20) + b'"')
    with pytest.raises(AnswerRefused, match=r"an answer of over [\d,]+ bytes"):
        fetched()


def test_all_answers_together_are_bounded(hub, monkeypatch):
    monkeypatch.setattr(hub_client, "_MAX_BYTES", 1 << 20)
    tree = f"/api/models/acme/x/tree/{COMMIT}"
    page = [{"type": "file", "path": "a" * 1000, "size": 1, "oid": "a"}] * 100
    hub.answers[tree] = as_json(page, headers={"Link": f'<{hub.url}{tree}>; rel="next"'})
    with pytest.raises(AnswerRefused, match="all of over 1 MiB"):
        fetched()


@pytest.mark.parametrize("path", ["/api/models/acme/x/revision/main", f"/acme/x/resolve/{COMMIT}/notes.txt"])
def test_an_answer_whose_headers_drip_ends_at_its_time(hub, monkeypatch, path):
    monkeypatch.setattr(hub_client, "_MAX_ANSWER_S", 0.5)
    monkeypatch.setattr(hub_client, "_MAX_READ_S", 0.5)
    stopped = threading.Event()

    class Drip(dict):
        def items(self):
            for number in range(100):
                if stopped.wait(0.1):
                    break
                yield f"X-{number}", "a" * 10_000

    hub.answers[path] = Reply("{}", headers=Drip())
    started = time.monotonic()
    with pytest.raises(AnswerRefused, match=r"no whole answer within 0\.5 s"):
        fetched()
    stopped.set()
    assert time.monotonic() - started < 9  # not the 10 s of the drip


def test_outside_of_raymill_the_client_of_the_process_is_as_before(hub, monkeypatch):
    with checked_hub():
        pass
    monkeypatch.setattr(hub_client, "_MAX_ANSWER_BYTES", 1)
    hub.answers["/api/models/acme/x/revision/main"] = as_json({"id": "acme/x", "sha": "no/id", "siblings": []})
    assert huggingface_hub.HfApi().model_info("acme/x", revision="main").sha == "no/id"


def test_a_file_with_more_bytes_than_its_size_is_refused(hub):
    path = f"/acme/x/resolve/{COMMIT}/notes.txt"
    hub.answers[path] = Reply(b"hello" * 1000, headers={"ETag": '"a"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "5"})
    with pytest.raises(AnswerRefused, match="more bytes than the answer to HEAD states"):
        fetched()


def test_the_size_of_a_file_is_known_behind_redirects(hub):
    path = f"/acme/x/resolve/{COMMIT}/notes.txt"
    hub.answers[path] = Reply("", 307, headers={"Location": "/large", "X-Linked-Size": "5", "X-Repo-Commit": COMMIT})
    hub.answers["/large"] = Reply(b"hello", headers={"ETag": '"a"', "X-Repo-Commit": COMMIT})
    assert files_of(fetched())["notes.txt"] == b"hello"
    publish(hub)
    hub.answers[path] = Reply("", 307, headers={"Location": "/large", "X-Repo-Commit": COMMIT})
    hub.answers["/large"] = Reply(b"hello" * 9, headers={"ETag": '"b"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "5"})
    hub.answers[f"/api/models/acme/x/tree/{COMMIT}"] = as_json([{"type": "file", "path": "notes.txt", "oid": "b" * 40}])
    cache = Path(constants.HF_HUB_CACHE)
    cache.rename(cache.with_name("before"))
    with pytest.raises(AnswerRefused, match="more bytes than the answer to HEAD states"):
        fetched()


def test_a_file_for_which_the_disk_has_no_room_is_not_begun(hub):
    path = f"/acme/x/resolve/{COMMIT}/notes.txt"
    hub.answers[path] = Reply(b"x", headers={"ETag": '"a"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(1 << 55)})
    with pytest.raises(AnswerRefused, match=r"a file of 36,028,797,018,963,968 bytes, and [\d,]+ are free"):
        fetched()


@pytest.mark.parametrize("size", ["+5", "5_0", "-5", "1e3", "5 5", "0x5", "9" * 30])
def test_a_size_that_is_no_number_of_bytes_is_refused(hub, size):
    """The library reads some with `int`, and downloads a file without a size whatever comes."""
    path = f"/acme/x/resolve/{COMMIT}/notes.txt"
    hub.answers[path] = Reply(b"x" * 9, headers={"ETag": '"a"', "X-Repo-Commit": COMMIT, "X-Linked-Size": size})
    with pytest.raises(AnswerRefused, match="a file of '"):
        fetched()
    assert ("GET", path) not in {(one.method, one.path) for one in hub.asked}


def test_a_file_whose_size_no_head_states_has_the_one_of_its_own_answer(hub):
    there = f"{hub.url.replace('127.0.0.1', 'localhost')}/large"  # to another server HEAD is not redirected
    headers = {"Location": there, "X-Linked-Etag": '"a"', "X-Repo-Commit": COMMIT}
    hub.answers[f"/acme/x/resolve/{COMMIT}/notes.txt"] = Reply("", 302, headers=headers)
    hub.answers["/large"] = Reply(b"hello", length=1 << 55)
    with pytest.raises(AnswerRefused, match=r"a file of 36,028,797,018,963,968 bytes, and [\d,]+ are free"):
        fetched()
    hub.answers["/large"] = Reply(b"hello")
    assert files_of(fetched())["notes.txt"] == b"hello"


@pytest.mark.parametrize("setting", [False, True])
def test_files_are_fetched_over_http_and_not_by_the_client_of_another_store(hub, monkeypatch, setting):
    """hf_xet has a client of its own without any of these bounds: an answer of its store takes all memory."""
    token = {"X-Xet-Cas-Url": f"{hub.url}/store", "X-Xet-Access-Token": "a", "X-Xet-Token-Expiration": f"{2**40}"}
    routes = [f"/api/models/acme/x/xet-{kind}-token/{at}" for kind in ("read", "write") for at in (COMMIT, "main")]
    hub.answers |= dict.fromkeys(["/refresh", *routes], Reply("{}", headers=token))
    publish(hub, **{"X-Xet-Hash": "c" * 64, "X-Xet-Refresh-Route": f"{hub.url}/refresh"})
    large = {"type": "file", "oid": "a" * 40, "xetHash": "c" * 64}
    listed = [
        large | {"path": name, "size": len(data), "lfs": {"oid": "b" * 64, "size": len(data), "pointerSize": 9}}
        for name, data in FILES.items()
    ]
    hub.answers[f"/api/models/acme/x/tree/{COMMIT}"] = as_json(listed)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", setting)
    assert files_of(fetched())["notes.txt"] == b"hello"
    assert constants.HF_HUB_DISABLE_XET is setting  # the process's own is kept
    assert is_package_available("hf_xet")  # or this shows nothing
    assert not [path for path in hub.paths() if path.startswith("/store") or "xet" in path or path == "/refresh"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "99999"}),
        (429, {"RateLimit": '"api";r=0;t=99999'}),
        (429, {"Retry-After": "9" * 5_000}),
        (503, {"Retry-After": "301"}),
        (408, {"Retry-After": "99999"}),
    ],
)
@pytest.mark.parametrize("path", ["/api/models/acme/x/revision/main", f"/acme/x/resolve/{COMMIT}/notes.txt"])
def test_an_answer_that_asks_to_wait_for_hours_is_refused(hub, monkeypatch, path, status, headers):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    hub.answers[path] = Reply("", status, headers=headers)
    with pytest.raises((AnswerRefused, LocalEntryNotFoundError)) as error:
        fetched()
    assert "asks to wait" in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize("answer", ["5", '{"sha": "a"}', '{"id": "a", "sha": "a", "siblings": "-"}'])
def test_an_answer_in_another_form_than_the_hubs_is_refused(hub, answer):
    hub.answers["/api/models/acme/x/revision/main"] = Reply(answer)
    with pytest.raises(AnswerRefused, match=r"^http://127.* answered in another form than the hub does .*HF_ENDPOINT"):
        fetched()


def test_a_file_has_more_time_the_larger_it_is():
    request = hub_client._ThisRequest()
    request.seconds = 60.0
    request.begin()
    request.allow(60 + (1 << 30) / hub_client._LEAST_BYTES_PER_S)
    assert request.left(None) == pytest.approx(60 + 32768, abs=1)
    request.allow(-1)
    with pytest.raises(AnswerRefused, match="no whole answer within"):
        request.left(None)


def test_answers_have_a_time_together(hub):
    with checked_hub():
        hub_client._bounds[-1].seconds = -1.0
        with pytest.raises(AnswerRefused, match="no end of its answers within"):
            huggingface_hub.HfApi(endpoint=hub.url).model_info("acme/x", revision="main")
