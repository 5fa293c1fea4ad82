"""Metrics as Prometheus scrapes them: from a real Ray head with its metrics agent, while curate and train run on it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.deploy import monitoring
from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_S, REPORT_S = 90, 1

# Records every metric of the table once: those that a run without mishaps does not have must be exported too. It then
# lives for a few reports (REPORT_S), since Ray exports only at those times what a process recorded.
EVERY_METRIC = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
from raymill.cluster.metrics import METRICS, NOT_EXPORTED, connect
metrics = connect("probe")
assert metrics is not NOT_EXPORTED, ray.nodes()
for metric in METRICS.values():
    tags = {name: "x" for name in metric.tags if name != "run"}
    (metrics.add if metric.kind == "counter" else metrics.set)(metric.name, 7, **tags)
time.sleep(5)
"""


class Head:
    """A Ray head with its metrics agent. Its environment is for the commands that join it."""

    def __init__(self) -> None:
        assert find_spec("opentelemetry.exporter.prometheus"), "the metrics agent needs: pip install 'ray[default]'"
        self.exported: set[str] = set()  # names of all metrics that were scraped
        self.folder = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
        self.port, self.metrics_port = free_port(), free_port()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": str(1000 * REPORT_S),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
        }

    def __enter__(self) -> "Head":
        ports = {"port": self.port, "metrics-export-port": self.metrics_port}
        ports |= {name: free_port() for name in ("dashboard-port", "dashboard-agent-listen-port")}
        options = [f"--{name}={port}" for name, port in ports.items()]
        self.log = (self.folder / "head.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2",
             "--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--temp-dir={self.folder}", *options],
            env=self.environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        ready = wait_until(
            lambda: self.process.poll() is not None or "ray_node_cpu_utilization" in self.scrape(), START_S
        )
        assert ready and self.process.poll() is None, (self.folder / "head.txt").read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def scrape(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return ""
        self.exported |= set(re.findall(r"^# TYPE (\S+) ", text, re.M))
        return text

    def call(self, *command: str) -> dict[str, list[float]]:
        """Run a command that joins the head, and scrape every half second. Returns the values of our metrics:
        `name{run}` -> one per scrape."""
        found: dict[str, list[float]] = defaultdict(list)
        ended = threading.Event()

        def collect() -> None:
            while not ended.wait(0.5):
                for name, run, value in re.findall(
                    r'^(ray_raymill_\w+)\{.*\brun="([^"]*)".*\} (\S+)$', self.scrape(), re.M
                ):
                    found[f"{name}{{{run}}}"].append(float(value))

        scraper = threading.Thread(target=collect)
        scraper.start()
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300)
            time.sleep(3 * REPORT_S)  # the last values reach a scrape one report later; nothing announces them
        finally:
            ended.set()
            scraper.join()
        assert done.returncode == 0, done.stdout + done.stderr
        return found


def written(path: Path, settings: dict) -> str:
    path.write_text(json.dumps(settings))
    return str(path)


@pytest.mark.cluster
def test_alerts_and_panels_name_metrics_that_a_ray_head_exports_and_they_move_with_a_run(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        lines = [
            json.dumps({"id": f"{number}-{k}", "text": f"Sentence {k} of file {number}. " * 60}) for k in range(80)
        ]
        (texts / f"{number:02}.jsonl").write_text("\n".join([*lines, "not JSON" * (number == 0)]) + "\n")
    curate = written(tmp_path / "curate.json", {
        "kind": "curate", "name": "scraped", "output": str(tmp_path / "curated"), "inputs": [{"path": str(texts)}],
        "rules": None, "language": None, "dedup": None, "execution": {"unit_mib": 1, "max_bad_documents": 1},
    })  # fmt: skip
    model = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
             "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 64}  # fmt: skip
    train = written(tmp_path / "train.json", {
        "kind": "train", "name": "scraped", "corpus": str(tmp_path / "curated" / "corpus"), "columns": {"text": "text"},
        "model": {"config": model, "tokenizer": "train"}, "sequence_length": 64, "tokens_per_step": 128, "steps": 40,
        "evaluate": {"every_steps": 20}, "checkpoint": {"every_steps": 10}, "output": str(tmp_path / "trained"),
    })  # fmt: skip
    raymill = [sys.executable, "-m", "raymill.cluster.cli"]
    with Head() as head:
        address = f"127.0.0.1:{head.port}"
        head.call(sys.executable, "-c", EVERY_METRIC, address)
        wanted = monitoring.named_metrics() - monitoring.OPERATOR - monitoring.RAY_AFTER_AN_EVENT.keys()
        assert wanted - head.exported == set()
        assert monitoring.own_metrics() - head.exported == set()

        seen = head.call(*raymill, "curate", curate, "--address", address)
        assert max(seen["ray_raymill_units_committed_total{curated}"]) >= 2
        assert max(seen["ray_raymill_documents_total{curated}"]) == 960
        assert max(seen["ray_raymill_documents_quarantined_total{curated}"]) == 1
        assert max(seen["ray_raymill_rows_committed_total{curated}"]) >= 960
        assert {1.0, 0.0} <= set(seen["ray_raymill_run_state{curated}"])
        assert 0 <= time.time() - max(seen["ray_raymill_progress_time{curated}"]) < 60

        seen = head.call(*raymill, "train", train, "--address", address)
        assert max(seen["ray_raymill_training_step{trained}"]) == 40
        assert max(seen["ray_raymill_training_tokens_total{trained}"]) > 1000
        assert max(seen["ray_raymill_training_tokens_per_second{trained}"]) > 0
        assert 0 <= time.time() - max(seen["ray_raymill_checkpoint_time{trained}"]) < 60
