"""Kubeconfigs that cannot be used."""

import pytest

from cluster.cli import main

KUBECONFIG = """
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
"""


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"\x7fELF\xff", (), "kubeconfig FILE: not UTF-8 YAML."),
        (b"\x00", (), "kubeconfig FILE: not UTF-8 YAML (unacceptable character"),
        (b"- a", (), "kubeconfig FILE: not a kubeconfig (TypeError"),
        (b"", (), "FILE file is empty. Set the environment variable KUBECONFIG"),
        (KUBECONFIG.encode(), ("--context", "nope"), "--context nope: kubeconfig FILE has no such context. It has: a."),
        (KUBECONFIG.encode(), (), "http://127.0.0.1:1: no answer to list rayjobs.ray.io (NewConnectionError"),
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
    with pytest.raises(SystemExit) as done:
        main(["runs", "--to", "kuberay", *(options if "--context" in options else ())])
    error = capsys.readouterr().err
    assert done.value.code == 2 and message.replace("FILE", str(file)) in error
