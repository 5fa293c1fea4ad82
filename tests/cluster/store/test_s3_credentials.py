"""Credentials of S3: those of a machine's role and of a web identity, and what an error says of expired ones."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from raymill.cluster.errors import StorageError
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.object_store import bucket
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS, moto

NAME = "raymill-nodes"  # of a role
Answer = Callable[[str, str], tuple[int, bytes]]


@pytest.fixture
def no_settings(monkeypatch, tmp_path) -> None:
    """No AWS settings but those of the test, and no bucket of an earlier one."""
    bucket.cache_clear()
    for name in ("PROFILE", "ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@contextmanager
def served(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """(address of an HTTP server on the loopback interface, the requests that it got). answer: to method and path."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            got.append(f"{self.command} {self.path}")
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Role:
    """A role that may read the bucket `lake`, on a server that refuses others. keys: of one who has the role."""

    url: str
    arn: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def role() -> Iterator[Role]:
    # This number of first calls, those below and the web identity's, are answered whoever makes them.
    with moto(INITIAL_NO_AUTH_ACTION_COUNT="6") as url:
        place = {"endpoint_url": url, "region_name": "us-east-1"} | CREDENTIALS
        iam, s3 = boto3.client("iam", **place), boto3.client("s3", **place)
        arn = iam.create_role(RoleName=NAME, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        policy = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
        iam.put_role_policy(RoleName=NAME, PolicyName="read", PolicyDocument=document)
        s3.create_bucket(Bucket="lake")
        s3.put_object(Bucket="lake", Key="x", Body=b"1")
        found = boto3.client("sts", **place).assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
        yield Role(url, arn, {name: found[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")})


def metadata_of(keys: dict[str, str]) -> Answer:
    """The metadata service of a cloud machine, as botocore asks it: a token, the role's name, its credentials."""
    credentials = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": keys["AccessKeyId"],
        "SecretAccessKey": keys["SecretAccessKey"],
        "Token": keys["SessionToken"],
        "Expiration": (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    folder = "/latest/meta-data/iam/security-credentials/"
    answers = {
        ("PUT", "/latest/api/token"): b"token",
        ("GET", folder): NAME.encode(),
        ("GET", folder + NAME): json.dumps(credentials).encode(),
    }
    return lambda method, path: (200, answers[method, path]) if (method, path) in answers else (404, b"")


def reads_and_may_not_write(role: Role) -> None:
    """With the credentials that the environment gives."""
    store = Store(StorageOptions(endpoint_url=role.url, retries=0))
    assert store.read_bytes("s3://lake/x") == b"1"
    with pytest.raises(StorageError, match=r"^s3://lake/y: cannot write, the store refused these credentials"):
        store.write_bytes("s3://lake/y", b"1")


def test_a_web_identity_gives_the_credentials_of_its_role(role, no_settings, monkeypatch, tmp_path):
    """As in a pod with a service account: STS, here moto's, gives keys of the role for the token in a file."""
    (tmp_path / "token").write_text("a token of the cluster")
    settings = {"WEB_IDENTITY_TOKEN_FILE": tmp_path / "token", "ROLE_ARN": role.arn, "ENDPOINT_URL_STS": role.url}
    for name, value in settings.items() | {("DEFAULT_REGION", "us-east-1")}:
        monkeypatch.setenv(f"AWS_{name}", str(value))
    reads_and_may_not_write(role)


def test_a_machine_has_the_credentials_of_its_role(role, no_settings, monkeypatch):
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with served(metadata_of(role.keys)) as (url, got):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        reads_and_may_not_write(role)
        assert f"GET /latest/meta-data/iam/security-credentials/{NAME}" in got
    with served(metadata_of(role.keys | {"SecretAccessKey": "wrong"})) as (url, _):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        bucket.cache_clear()  # it keeps the credentials
        store = Store(StorageOptions(endpoint_url=role.url, retries=0))
        with pytest.raises(StorageError, match=r"^s3://lake/x: cannot read, the store refused these credentials"):
            store.read_bytes("s3://lake/x")


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
def test_credentials_that_have_expired_are_named_with_object_and_operation(code, no_settings, tmp_path):
    """S3 answers 400 to every request with such a token; without a body, where it is a HEAD."""
    body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>The token is not valid.</Message></Error>"
    (tmp_path / "file").write_bytes(b"1")
    with served(lambda method, path: (400, body.encode())) as (url, got):
        keys = {"access_key_id": "key", "secret_access_key": "hunter2", "session_token": "token"}
        store = Store(StorageOptions.model_validate({"endpoint_url": url, "retries": 2} | keys))
        acts = {
            "read": [lambda: store.read_bytes("s3://lake/x"), lambda: store.read_range("s3://lake/x", 0, 5)],
            "write": [
                lambda: store.write_bytes("s3://lake/x", b"1"),
                lambda: store.create("s3://lake/x", b"1"),
                lambda: store.upload(tmp_path / "file", "s3://lake/x"),
            ],
            "list": [lambda: store.list_files("s3://lake/x")],
            "look up": [lambda: store.info("s3://lake/x")],
            "delete": [lambda: store.delete(["s3://lake/x"])],
        }
        for name, tried in acts.items():
            for act in tried:
                with pytest.raises(
                    StorageError, match=rf"^s3://lake/x: cannot {name}, .*refused.*{code}.*expired"
                ) as e:
                    act()
                assert e.value.is_final and "hunter2" not in str(e.value)
        assert len(got) == 9, "no request is repeated, and a HEAD is followed by a GET"


def test_a_bad_request_for_another_reason_is_not_blamed_on_the_credentials(no_settings):
    with served(lambda method, path: (400, b"<Error><Code>InvalidRequest</Code></Error>")) as (url, _):
        store = Store(StorageOptions(endpoint_url=url, retries=0, access_key_id="key", secret_access_key="secret"))
        for act in (store.read_bytes, store.info):
            with pytest.raises(StorageError, match=r"did not answer as it should.*InvalidRequest"):
                act("s3://lake/x")
