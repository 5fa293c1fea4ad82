"""`raymill curate` on Ray: the same files with any number of workers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from tests.support.processes import Command
from tests.support.stories import story

UNITS = 8

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def corpus_input(tmp_path_factory) -> Path:
    """About a megabyte a row group: stories, a third of them repeated with a few words changed."""
    path = tmp_path_factory.mktemp("faults") / "in.parquet"
    generator = np.random.default_rng(7)
    stories = [story(n, sentences=15) for n in range(60)]
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("text", pa.string())])) as writer:
        for group in range(UNITS):
            texts = []
            for _ in range(250):
                parts = [stories[n] for n in generator.integers(0, 60, 2)]
                words = " ".join(parts).split(" ")
                for at in generator.integers(0, len(words), 10):
                    words[at] = f"word{generator.integers(100)}"
                texts.append(" ".join(words))
            writer.write_table(pa.table({"id": [f"{group}-{n}" for n in range(250)], "text": texts}))
    return path


def config_for(source: Path, output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    config = output.with_suffix(".yaml")
    settings = {
        "kind": "curate",
        "name": "faults",
        "inputs": [{"path": str(source), "id": "id"}],
        "output": str(output),
        "language": {"keep": ["en"]},
        "corpus": {"file_mib": 2},
        "execution": {"unit_mib": 1, "stall_s": 60, "cpus": 2},
    }
    config.write_text(json.dumps(settings))
    return config


@pytest.fixture(scope="module")
def undisturbed(corpus_input) -> Path:
    output = corpus_input.parent / "undisturbed"
    run_whole(config_for(corpus_input, output))
    assert Artifact.load(Store(), f"{output}/corpus").manifest.rows > 100
    return output


def run_whole(config: Path, *words: str) -> None:
    command = Command("curate", str(config), *words)
    try:
        code, _, err = command.wait(300)
    finally:
        command.end_all()
    assert code == 0, err


def content(output: Path) -> dict[str, object]:
    """Everything of a run that must not depend on what happened on the way."""
    found: dict[str, object] = {"digest": json.loads((output / "manifest.json").read_text())["digest"]}
    for name in ("corpus", "removed", "attributes", "quarantine"):
        artifact = Artifact.load(Store(), f"{output}/{name}")
        listed = {str(path) for path in (output / name).glob("*.parquet")}
        assert listed == set(artifact.file_uris), f"{name}: files that the manifest does not know"
        found[name] = [Path(uri).read_bytes() for uri in artifact.file_uris]
    return found


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_nothing(corpus_input, undisturbed, workers):
    output = corpus_input.parent / f"workers-{workers}"
    run_whole(config_for(corpus_input, output), "-o", f"execution.cpus={workers}")
    assert content(output) == content(undisturbed)


@pytest.mark.slow
def test_what_if_counts_on_ray_what_it_counts_in_one_process(undisturbed):
    """In a process of its own, with a bound that removes some documents, and a few documents a task."""
    program = (
        "import json, sys; from raymill.cluster.session import Session\n"
        "from raymill.pipelines.curate.questions import what_if\n"
        "from raymill.cluster.frame.calls import config_of\n"
        "before, after = config_of(sys.argv[1]), config_of(sys.argv[1], override=sys.argv[2:])\n"
        "here = what_if.compare_decisions(before, after)\n"
        "what_if._MOST_HERE, what_if._DOCUMENTS_OF_A_TASK = 0, 700\n"
        "with Session(cpus=2) as session:\n"
        "    there = what_if.compare_decisions(before, after, session)\n"
        "print(json.dumps([here, there]))"
    )
    changes = ["rules.gopher_quality.min_words=425", "rules.packs=[gopher_quality, c4]"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(undisturbed.with_suffix(".yaml")), *changes],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here, there = json.loads(done.stdout)
    assert there == here
    assert here["documents"] == {"decided": UNITS * 250, "of": UNITS * 250}
    assert 0 < here["total"]["after"]["documents"] < here["total"]["before"]["documents"]
