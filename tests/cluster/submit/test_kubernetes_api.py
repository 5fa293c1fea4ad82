"""Kubeconfigs that cannot be used, and addresses at which another server answers."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raymill.cluster.cli import main

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
