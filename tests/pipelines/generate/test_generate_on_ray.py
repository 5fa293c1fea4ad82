"""A generation on Ray: several workers share one limit, one budget and one answer store."""

import io
import json
import re

import pytest

from raymill.cluster import engine, progress
from raymill.cluster.errors import UserError
from raymill.cluster.progress import Progress, ProgressLines
from raymill.cluster.session import Session
from raymill.pipelines.generate import stages
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from tests.support.generate_inline import generate_inline, rows

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def session(shared_session: Session) -> Session:
    return shared_session


def test_workers_share_the_limit_the_rate_and_the_budget(session, settings, server, monkeypatch, tmp_path):
    """Forty requests in some ten units, on two CPUs."""
    documents = [{"text": f"Guide {n} is about the router. Its lamp is green when it is ready."} for n in range(40)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    monkeypatch.setattr("raymill.cluster.asking.backends.RANGE_REQUESTS", 4)
    monkeypatch.setattr(stages, "document_count", lambda inputs: 40)
    server.seconds = 0.1
    settings |= {"inputs": [str(tmp_path / "seeds.jsonl")], "dedup": None}
    settings["model"] |= {"concurrency": 6}
    inline = generate_inline(settings | {"output": str(tmp_path / "inline")}, monkeypatch)
    server.asked.clear(), server.answered.clear()
    server.most_in_flight, server.tokens = 0, (0, 0)

    def run(**changes):
        config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings | changes)
        return GenerateJob(config).run(session, Progress())

    with pytest.raises(UserError, match=r"the budget of 0\.001 has no room"):
        run(budget=0.001)
    cost = (server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6
    assert 0 < cost <= 0.001 and server.stats()["requests"] < 40
    found = run()
    assert server.most_in_flight <= 6
    assert server.stats()["requests"] == 40 and server.stats()["twice"] == 0
    assert rows(found, "records") == rows(inline, "records") and len(rows(found, "records")) > 30


def test_a_unit_that_takes_long_shows_what_it_has_done_and_spent(session, settings, server, monkeypatch, tmp_path):
    """Thirty requests in one unit, two at a time."""
    documents = [{"text": f"Guide {n} is about the router. Its lamp is green when it is ready."} for n in range(30)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    monkeypatch.setattr(engine, "_POLL_S", 0.3)
    monkeypatch.setattr(progress, "_EVERY_S", {True: 0.0, False: 0.0})
    server.seconds = 0.2
    settings |= {"inputs": [str(tmp_path / "seeds.jsonl")], "dedup": None}
    settings["model"] |= {"concurrency": 2}
    stream = io.StringIO()
    config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings)
    GenerateJob(config).run(session, ProgressLines(stream))
    found = [
        re.search(r"ask\.0: 0/1 unit, (\d+)/30 requests, (\d+) in flight, spent ([\d.e-]+) of 5", line)
        for line in stream.getvalue().splitlines()
    ]
    seen = [(int(one[1]), int(one[2]), float(one[3])) for one in found if one]
    assert len(seen) > 2 and [one for one, _, _ in seen] == sorted(one for one, _, _ in seen)
    assert max(in_flight for _, in_flight, _ in seen) <= 2
    assert seen[0][0] < seen[-1][0] <= 30 and 0 < seen[-1][2] < 5
    assert "to go" in stream.getvalue()
