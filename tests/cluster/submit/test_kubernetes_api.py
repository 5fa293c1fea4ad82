"""Kubeconfigs that cannot be used, and addresses at which another server answers."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest

from raymill.cluster.cli import main
from raymill.cluster.kuberay.rayjob import RUN_ID

KUBECONFIG = """
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
"""

USER = "user: {}"
PLUGIN = "user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: 'NAME', interactiveMode: Never}}"
OLD_PROVIDER = "user: {auth-provider: {name: gcp}}"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"\x7fELF\xff", (), "kubeconfig FILE: not UTF-8 YAML."),
        (b"\x00", (), "kubeconfig FILE: not UTF-8 YAML (unacceptable character"),
        (b"- a", (), "kubeconfig FILE: not a kubeconfig (TypeError"),
        (b"", (), "FILE file is empty. Set the environment variable KUBECONFIG"),
        (KUBECONFIG.encode(), ("--context", "nope"), "--context nope: kubeconfig FILE has no such context. It has: a."),
        (KUBECONFIG.encode(), (), "http://127.0.0.1:1: no answer to list rayjobs.ray.io (NewConnectionError"),
        (
            KUBECONFIG.replace("context: a\n", "context: ''\n").encode(),
            (),
            "kubeconfig FILE: names no current context. Give --context: a.",
        ),
        (
            KUBECONFIG.replace("context: a\n", "context: b\n").encode(),
            (),
            "kubeconfig FILE: has no context b, which is its current one. Give --context: a.",
        ),
        (KUBECONFIG.replace(USER, PLUGIN).encode(), (), "No such file or directory: 'NAME'"),
        (
            KUBECONFIG.replace(USER, PLUGIN.replace("NAME", "false")).encode(),
            (),
            "the kubeconfig's program that logs in failed: exec: process returned 1",
        ),
        (KUBECONFIG.replace(USER, OLD_PROVIDER).encode(), (), "kubeconfig FILE: its credentials cannot be used ("),
        (None, (), "kubeconfig FILE: no such file."),
        (None, ("no KUBECONFIG",), "there is no ~/.kube/config, and this is not a pod."),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_with_its_mistake(
    content, options, message, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "config"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "" if options == ("no KUBECONFIG",) else str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # the old provider of GKE asks no metadata server
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(SystemExit) as done:
        main(["runs", "--to", "kuberay", *(options if "--context" in options else ())])
    error = capsys.readouterr().err
    assert done.value.code == 2 and message.replace("FILE", str(file)) in error


class LoginPage(BaseHTTPRequestHandler):
    body = b"<html>Please log in</html>"

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


class Refusing(LoginPage):
    def do_GET(self):
        self.send_response(401)
        self.end_headers()


def test_a_login_that_cannot_be_renewed_is_named_when_the_server_refuses(tmp_path, monkeypatch, capsys):
    (program := tmp_path / "login").write_text(
        f"""#!/bin/sh
[ -e {tmp_path}/used ] && exit 1
touch {tmp_path}/used
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {{"token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}'
"""
    )
    program.chmod(0o700)
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        login = KUBECONFIG.replace("http://127.0.0.1:1", address).replace(USER, PLUGIN.replace("NAME", str(program)))
        (tmp_path / "config").write_text(login)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(SystemExit) as done:
            main(["runs", "--to", "kuberay"])
        server.shutdown()
    error = capsys.readouterr().err
    assert done.value.code == 1
    assert f"{address}: cannot list rayjobs.ray.io, and the kubeconfig's program that logs in failed: exec: " in error


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"<html>Please log in</html>", "is not JSON (<html>Please log in</html>). Another server"),
        (b"[" * 100_000, "is not JSON ([["),
        (b"[1]", "is not JSON ([1]). Another server"),
        (b"{}", "is no list of objects ({})"),
        (b'{"items": [1]}', 'is no list of objects ({"items": [1]})'),
        (b" " * 3000, "has more than 0 MiB"),
    ],
    ids=["login page", "deep", "no object", "no list", "no objects", "large"],
)
def test_an_answer_that_is_none_of_the_api_server_is_shown(body, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LoginPage, "body", body)
    if body.isspace():
        monkeypatch.setattr("raymill.cluster.submit.kubernetes_api._LARGEST_ANSWER", 2000)
    with HTTPServer(("127.0.0.1", 0), LoginPage) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "config").write_text(KUBECONFIG.replace("http://127.0.0.1:1", address))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(SystemExit) as done:
            main(["runs", "--to", "kuberay"])
        server.shutdown()
    error = capsys.readouterr().err
    assert done.value.code == 1 and wanted in error


# ---- answers of a server that lies


def answered(handle, tmp_path, monkeypatch, capsys, *verb: str) -> tuple[int, str]:
    """(exit code, messages) of a verb at a server that calls `handle` with each request."""

    class Lying(LoginPage):
        def do_GET(self):
            with suppress(OSError):
                handle(self)

        do_PATCH = do_DELETE = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Lying) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        kubeconfig = KUBECONFIG.replace("http://127.0.0.1:1", f"http://127.0.0.1:{server.server_port}")
        (tmp_path / "config").write_text(kubeconfig)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(SystemExit) as done:
            main([*verb, "--to", "kuberay"])
        server.shutdown()
    return done.value.code, capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("where", ["headers", "body"])
def test_an_answer_that_drips_ends_at_its_deadline(where, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raymill.cluster.submit.kubernetes_api._ANSWER_S", 0.5)

    def drip(request: LoginPage) -> None:
        begin = f"HTTP/1.1 {status} X\r\n" + ("X: " if where == "headers" else "Content-Length: 9999\r\n\r\n")
        request.wfile.write(begin.encode())
        for _ in range(1000):
            request.wfile.write(b"a")
            time.sleep(0.01)

    code, error = answered(drip, tmp_path, monkeypatch, capsys, "runs")
    assert code == 1 and "no answer to list rayjobs.ray.io (TimeoutError: no whole answer within" in error


def test_the_answer_to_a_refused_request_is_read_to_a_bound(tmp_path, monkeypatch, capsys):
    sent = []

    def flood(request: LoginPage) -> None:
        request.send_response(500)
        request.end_headers()
        for _ in range(2000):
            request.wfile.write(b"x" * (1 << 16))
            sent.append(1 << 16)

    code, error = answered(flood, tmp_path, monkeypatch, capsys, "runs")
    assert code == 1 and "list rayjobs.ray.io failed there with status 500: xxx" in error and sum(sent) < 64 << 20


def test_an_error_whose_json_is_too_deep_is_shown(tmp_path, monkeypatch, capsys):
    def deep(request: LoginPage) -> None:
        request.send_response(500)
        request.end_headers()
        request.wfile.write(b'{"message":' + b"[" * 50_000)

    code, error = answered(deep, tmp_path, monkeypatch, capsys, "runs")
    assert code == 1 and 'failed there with status 500: {"message":[[' in error


WHOLE = {
    "metadata": {"name": "r-1", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {RUN_ID: "r-1"}},
    "spec": {"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {}}}}},
    "status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"metadata": []},
        {"metadata": {}},
        {"metadata": WHOLE["metadata"] | {"name": "x" * 300}},
        {"metadata": WHOLE["metadata"] | {"name": "r-1\nr-3  succeeded"}},
        {"metadata": WHOLE["metadata"] | {"labels": {RUN_ID: 5}}},
        {"spec": None},
        {"spec": {"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"terminationGracePeriodSeconds": "9"}}}}}},
        {"status": "x"},
        {"status": {"jobDeploymentStatus": ["Running"]}},
        {"status": {"jobDeploymentStatus": "Initializing", "rayClusterName": {}}},
    ],
)
def test_a_rayjob_with_a_field_of_another_type_is_left_out_and_the_others_are_listed(
    changed, tmp_path, monkeypatch, capsys
):
    other = WHOLE | {"metadata": WHOLE["metadata"] | {"name": "r-2", "labels": {RUN_ID: "r-2"}}}

    def lie(request: LoginPage) -> None:
        request.send_response(200)
        request.end_headers()
        items = [WHOLE | changed] * 15 + [other] if "rayjobs" in request.path else []
        request.wfile.write(json.dumps({"items": items}).encode())

    code, error = answered(lie, tmp_path, monkeypatch, capsys, "cancel", "r-1")
    assert code == 2 and "r-1: no run of this name" in error and "Did you mean r-2?" in error
    assert error.count("not listed: the RayJob") == 10 and "not listed: 5 more like these" in error


def test_a_listing_of_many_waiting_rayjobs_takes_no_request_for_each(tmp_path, monkeypatch, capsys):
    asked = []

    def many(request: LoginPage) -> None:
        asked.append(request.path)
        request.send_response(200)
        request.end_headers()
        status = {"jobDeploymentStatus": "Initializing", "rayClusterName": "x"}
        items = [WHOLE | {"status": status}] * 500 if "rayjobs" in request.path else []
        request.wfile.write(json.dumps({"items": items}).encode())

    code, _ = answered(many, tmp_path, monkeypatch, capsys, "runs")
    assert code == 0 and len(asked) < 5
