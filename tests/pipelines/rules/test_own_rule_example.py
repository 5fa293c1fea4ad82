"""The example of the guide, docs/examples/own_rule, as a whole run."""

import shutil
import sys
from pathlib import Path

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from tests.support.inline import without_ray

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "own_rule"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_rules", None)


def test_each_rule_of_the_example_removes_its_document(folder, monkeypatch):
    without_ray(monkeypatch)
    run = job.curate(load("curate.yaml"), Session(), Progress())
    removed = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    assert {row["id"]: row["reason"] for row in removed} == {
        "draft": "no_placeholder",
        "links": "few_links",
        "sale": "too_many_capitals",
    }
