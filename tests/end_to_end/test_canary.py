"""Secrets as canaries in the environment: no file, message, log line or object of a run and a submission has one.

The server of the source sends every secret back in records, in links to the next page and in errors.
"""

import base64
import json
import logging
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from raymill.cluster import cli
from raymill.cluster.frame.work import work_of
from raymill.cluster.kuberay.profiles import OVERLAYS
from raymill.cluster.kuberay.rayjob import rendered
from raymill.cluster.submit.backend import Request
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.kuberay import KubeRay
from raymill.cluster.submit.kubernetes_api import KubernetesApi
from raymill.cluster.submit.local import Local
from raymill.cluster.submit.preflight import CheckRequest
from raymill.cluster.submit.ray_api import RayApi
from tests.support.inline import without_ray
from tests.support.kubernetes_server import KubernetesServer
from tests.support.ray_dashboard import RayDashboard
from tests.support.tickets import answer, question
from tests.support.web_server import Asked, Reply, as_json, web_server
from tests.support.works import IMAGE

CANARIES = {
    name: f"C4n4ry/{name.lower()}+=W0rd"
    for name in ("DESK_HEADER", "DESK_PARAMETER", "DESK_BASIC", "DESK_BEARER", "DESK_CACHE", "PSEUDONYMS", "STORE_ID",
                 "STORE_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN")
}  # fmt: skip


def spelled(canary: str) -> set[str]:
    """The canary as it is, and as addresses, JSON and Basic authentication have it."""
    basic = base64.b64encode(f"desk:{canary}".encode()).decode()
    return {canary, quote(canary), quote(canary, safe=""), json.dumps(canary)[1:-1], basic}


def found_in(text: str) -> list[str]:
    return [name for name, canary in CANARIES.items() if any(one in text for one in spelled(canary))]


def found_below(folder: Path) -> dict[str, list[str]]:
    """File -> the canaries in it. Of Parquet the values are read."""
    texts = {}
    for path in (one for one in folder.rglob("*") if one.is_file()):
        try:
            texts[path] = str(pq.read_table(path).to_pylist())
        except (OSError, ValueError):
            texts[path] = path.read_bytes().decode("latin-1")
    return {str(path): names for path, text in texts.items() if (names := found_in(f"{path} {text}"))}


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prepare.fetch.client.pause", lambda seconds: None)
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, f"desk:{value}" if name == "DESK_BASIC" else value)
    with web_server() as found:
        yield found


@pytest.fixture
def config(site, tmp_path, monkeypatch) -> Path:
    without_ray(monkeypatch)

    def page(asked: Asked) -> Reply:
        number = int(asked.parameters.get("page", 1))
        echo = json.dumps([dict(asked.headers), asked.parameters])
        user = {"user": asked.headers["X-Api-Key"]}
        tickets = [{"key": f"T-{n}", "ask": question(n), "fix": f"{answer(n)} {echo}"} | user
                   for n in range(4 * number, 4 * number + 4)]  # fmt: skip
        following = f"{site.url}/t?page={number + 1}&api_key={quote(asked.parameters['api_key'])}"
        return as_json({"tickets": [*tickets, echo], "next": following if number < 5 else None})

    site.answers["/t"] = page
    auth = [
        {"variable": "DESK_HEADER", "scheme": "none", "header": "X-Api-Key"},
        {"variable": "DESK_PARAMETER", "parameter": "api_key"},
        {"variable": "DESK_BASIC", "scheme": "Basic", "header": "Proxy-Authorization"},
        {"variable": "DESK_BEARER"},
    ]
    api = {"url": f"{site.url}/t", "records": "tickets", "paging": {"by": "next", "field": "next"}, "auth": auth,
           "allow_private": True, "requests_per_s": 1000, "attempts": 1}  # fmt: skip
    columns = {"prompt": "ask", "completion": "fix", "user": "user"}
    settings = {
        "kind": "prepare",
        "inputs": [{"source": "desk", "api": api, "id": "key", "columns": columns}],
        "clean": {"redact": ["email"], "pseudonyms": "per_corpus", "pseudonym_key": "PSEUDONYMS"},
        "execution": {"max_bad_documents": 0.5},
        "output": str(tmp_path / "run"),
    }
    file = tmp_path / "c.json"
    file.write_text(json.dumps(settings))
    return file


def raymill(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return int(left.value.code or 0)


def test_a_run_its_card_and_its_errors_have_no_secret(config, site, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("RAYMILL_DATASETS", str(tmp_path / "datasets"))
    keys = ("-o", "storage.access_key_id=${STORE_ID}", "-o", "storage.secret_access_key=${STORE_KEY}")
    good = site.answers["/t"]
    with caplog.at_level(logging.DEBUG, "raymill"):
        for status in (500, 200):  # an error with a text, and a text that is no JSON
            site.answers["/t"] = lambda asked: Reply(str([asked.parameters, dict(asked.headers)]), status)  # noqa: B023
            assert raymill("prepare", str(config), *keys, "--debug", "--verbose") == 2
        site.answers["/t"] = good
        for words in (("prepare", str(config), *keys, "--verbose"), ("config", "check", str(config), *keys),
                      ("gc", str(tmp_path / "run"), *keys), ("sample", str(tmp_path / "run" / "train")),
                      ("dataset", "tag", "desk", str(tmp_path / "run")), ("dataset", "card", "desk"),
                      ("dataset", "export", "desk", str(tmp_path / "exported"))):  # fmt: skip
            assert raymill(*words) == 0, capsys.readouterr()
    shown = capsys.readouterr()
    assert '"T-' in shown.out and "***" in shown.out + shown.err and len(site.asked) == 8
    assert site.asked[-1].parameters == {"page": "5", "api_key": CANARIES["DESK_PARAMETER"]}, "sent with every page"
    assert found_in(shown.out + shown.err) == [] and found_in(caplog.text) == []
    assert len(list(tmp_path.rglob("*.parquet"))) > 10 and found_below(tmp_path) == {}


def test_a_submission_has_no_secret(config, tmp_path, monkeypatch, capsys):
    work = work_of(str(config), [], None, None)
    assert set(work.variables) == {"DESK_HEADER", "DESK_PARAMETER", "DESK_BASIC", "DESK_BEARER", "PSEUDONYMS"}
    request = Request(work, work.run_id)
    profile = replace(OVERLAYS["kind"], image=IMAGE, claims={str(tmp_path): "shared"})
    texts = [rendered(work, profile), str(CheckRequest.of(work).to_json()), str(request.metadata)]
    local = Local(tmp_path / "jobs", ("python3", "-c", "import sys; print(sys.argv)"))
    texts += [str(line) for line in local.logs(local.start(request), follow=True)]
    with KubernetesServer(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        KubeRay(KubernetesApi("raymill"), profile).start(request)
        texts += [str(server.objects.history), str(server.requests)]
    with RayDashboard() as ray:
        JobsApi(RayApi(ray.url, CANARIES["RAY_AUTH_TOKEN"])).start(request)
        texts += [json.dumps(ray.bodies), str(ray.requests)]
    assert len(texts) == 8 and "DESK_PARAMETER" in texts[0] and "RAYMILL_CONFIG" in texts[-2]
    assert [found_in(text) for text in texts] == [[]] * 8 and found_below(tmp_path) == {}
    keys = ("-o", "storage.access_key_id=${STORE_ID}", "-o", "storage.secret_access_key=${STORE_KEY}")
    for words in (("submit", str(config), *keys), ("render", str(config), *keys, "--overlay", "kind")):
        assert raymill(*words) == 2
    shown = capsys.readouterr()
    assert "storage.secret_access_key (a key of a store)" in shown.err and found_in(shown.out + shown.err) == []


def test_the_error_of_a_driver_that_quotes_the_address_has_no_secret(site, tmp_path, capsys):
    """SQLite says: no such cache mode."""
    (tmp_path / "desk.db").touch()
    asked = {"url": f"sqlite:///{tmp_path}/desk.db", "query": "SELECT 1", "secrets": {"cache": "DESK_CACHE"}}
    settings = {"kind": "prepare", "inputs": [{"source": "d", "database": asked}], "output": str(tmp_path / "run")}
    (tmp_path / "d.json").write_text(json.dumps(settings))
    assert raymill("prepare", str(tmp_path / "d.json"), "--debug") == 2
    shown = capsys.readouterr().err
    assert "no such cache mode: ***" in shown and found_in(shown) == [] and found_below(tmp_path) == {}
