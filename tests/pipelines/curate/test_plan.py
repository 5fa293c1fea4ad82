"""`raymill plan` of a curation: its units, requests and bytes beside those of a run, and what the verb prints."""

import json
from collections import Counter

import pytest
import yaml

from raymill.cluster.plan.plan import Prices, plan_of
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import CurateJob, run_stages
from raymill.pipelines.curate.job import plan as subject
from tests.support.inline import InlineEngine
from tests.support.stories import story

CONFIG = {"kind": "curate", "name": "p", "inputs": [{"path": "s3://in/*.parquet"}], "output": "s3://out/run"}


def config_of(**changes):
    return CurateConfig.model_validate(CONFIG | changes)


def write_stories(folder, files=12, documents=30):
    folder.mkdir()
    for number in range(files):
        rows = [
            {"id": f"{number}-{row}", "text": (story(number * documents + row) + " ") * 40} for row in range(documents)
        ]
        (folder / f"{number:03}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- beside a run


class CountingEngine(InlineEngine):
    """Counts the requests that the units of each stage send."""

    def counting(self, proxy):
        self.proxy, self.requests = proxy, {}
        return self

    def _round(self, stage, missing, records, failures):
        self.proxy.requests.clear()
        super()._round(stage, missing, records, failures)
        self.requests[stage.name] = Counter(
            "get" if request.method in ("GET", "HEAD") else "put" for request in self.proxy.requests
        )


def test_units_and_requests_of_every_stage_are_those_of_a_run(tmp_path, s3_root, s3_store, counting_s3, monkeypatch):
    write_stories(tmp_path / "in", files=12, documents=20)
    for file in sorted((tmp_path / "in").iterdir()):
        s3_store.write_bytes(f"{s3_root}/in/{file.name}", file.read_bytes())
    storage = {"endpoint_url": counting_s3.url, "access_key_id": "key", "secret_access_key": "secret"}
    config = config_of(
        inputs=[{"path": f"{s3_root}/in", "id": "id"}],
        output=f"{s3_root}/out",
        storage=storage,
        execution={"unit_mib": 1},
        corpus={"file_mib": 2},
        rules=None,
        boilerplate={},
        repeats={},
    )
    root, inputs = CurateJob(config).root, CurateJob(config).frozen
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    plan = plan_of(subject(config, duplicates=0.0), (2,), Prices())
    engine = CountingEngine(root, Session(), Progress()).counting(counting_s3)
    run_stages(config, inputs, engine.run)
    found = {stage["name"]: stage for stage in plan["stages"]}
    assert {name: stage["units"] for name, stage in found.items()} == engine.units
    for name, stage in found.items():
        gets, puts, seen = stage["gets"], stage["puts"], engine.requests[name]
        assert seen["get"] / 2 - 2 <= gets <= 2 * seen["get"] + 2, (name, seen, gets)
        assert seen["put"] / 2 <= puts <= 2 * seen["put"] + 2, (name, seen, puts)


# --- the verb


@pytest.fixture
def run_plan(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    write_stories(tmp_path / "in")
    given = {"kind": "curate", "name": "told", "output": str(tmp_path / "out"), "rules": None}
    given["inputs"] = [{"path": str(tmp_path / "in"), "id": "id"}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))

    def call(*words):
        return run_cli("plan", str(tmp_path / "c.yaml"), *words)

    return call


def test_the_verb_prints_a_table_and_writes_nothing(run_plan, tmp_path):
    code, out, err = run_plan("--cores", "3", "--cores", "5")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "plan of told" and lines[1].startswith("input    about 36")
    named = [line.split()[0] for line in lines if line[:1].isalpha()]
    for stage in ("measure", "index", "ids", "decide", "group", "duplicates", "select", "merge", "all"):
        assert stage in named
    assert [line.split()[0] for line in lines if line.startswith("       ")] == ["cores", "3", "5"] or "cores" in out
    assert max(map(len, lines)) <= 120
    assert not (tmp_path / "out").exists()


def test_the_numbers_for_a_program_follow_the_given_size_and_share(run_plan):
    found = {}
    for documents in ("1e8", "1e9"):
        code, out, err = run_plan("--json", "--documents", documents, "--duplicates", "0.5")
        assert code == 0, err
        found[documents] = json.loads(out)
    assert found["1e8"]["input"]["documents"] == 10**8 and found["1e8"]["duplicates"] == 0.5
    assert [one["cores"] for one in found["1e8"]["on_cores"]] == [2, 16, 64, 256]
    assert found["1e9"]["shuffle_bytes"] == pytest.approx(10 * found["1e8"]["shuffle_bytes"], rel=0.2)
    assert any("(given)" in sentence for sentence in found["1e8"]["assumed"])


def test_an_option_of_another_kind_is_refused(run_plan):
    code, _, err = run_plan("--gpu", "h100")
    assert code == 2 and "--gpu: an option for configs of kind train" in err and "of kind curate" in err


def test_prices_come_from_a_file(run_plan, tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("name: ours\ncore_hour: 1000\n")
    code, out, _ = run_plan("--prices", str(file), "--json")
    found = json.loads(out)
    assert code == 0 and found["prices"]["name"] == "ours" and found["prices"]["gib_hour"] == 0
    two = found["on_cores"][0]
    assert two["money"] == pytest.approx(2 * 1000 * two["seconds"] / 3600)
