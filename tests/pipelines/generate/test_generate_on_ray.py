"""A generation on Ray: several workers share one limit, one budget and one answer store."""

import json

import pytest

from raymill.cluster.errors import UserError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.generate import stages
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from tests.support.generate_inline import generate_inline, rows


@pytest.mark.ray
def test_workers_share_the_limit_the_rate_and_the_budget(settings, server, monkeypatch, tmp_path):
    """Forty requests in some ten units, on two CPUs."""
    documents = [{"text": f"Guide {n} is about the router. Its lamp is green when it is ready."} for n in range(40)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    monkeypatch.setattr(stages, "_RANGE_REQUESTS", 4)
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

    with Session(cpus=2) as session:
        with pytest.raises(UserError, match=r"the budget of 0\.001 is spent"):
            run(budget=0.001)
        cost = (server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6
        assert 0 < cost <= 0.001 and server.stats()["requests"] < 40
        found = run()
    assert server.most_in_flight <= 6
    assert server.stats()["requests"] == 40 and server.stats()["twice"] == 0
    assert rows(found, "records") == rows(inline, "records") and len(rows(found, "records")) > 30
