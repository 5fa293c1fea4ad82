"""The manifest of a run: its digest, and what a command with other settings or inputs is told."""

import json

import pytest

from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import DataError
from raymill.cluster.run import RunFolder, changes, differences
from raymill.cluster.store.store import Store

SETTINGS = {"rules": {"min_words": 5}, "seed": 1}
ARTIFACTS = {"removed": "2", "corpus": "1"}


def put(folder, settings=SETTINGS, inputs="a", artifacts=ARTIFACTS, **more) -> dict:
    return RunFolder(Store(), str(folder)).put("curate", folder.name, settings, inputs, artifacts, **more)


def test_the_digest_of_a_run_is_of_its_artifacts_alone(tmp_path):
    made = put(tmp_path / "one")
    assert made["digest"] == fingerprint(ARTIFACTS)
    again = put(tmp_path / "two", {"seed": 2}, "b", dict(reversed(ARTIFACTS.items())), told={"rows": "3"})
    assert again["digest"] == made["digest"] and again["config"] == {"seed": 2} and again["told"] == {"rows": "3"}
    assert put(tmp_path / "three", artifacts=ARTIFACTS | {"corpus": "9"})["digest"] != made["digest"]


def test_a_second_driver_gets_the_manifest_that_the_first_created(tmp_path):
    first = put(tmp_path)
    assert put(tmp_path, {"seed": 2}, "b") == first == RunFolder(Store(), str(tmp_path)).manifest_file.read()


@pytest.mark.parametrize(
    ("settings", "inputs", "seen"),
    [
        (SETTINGS | {"seed": 2}, "a", "seed was 1, now 2. "),
        ({"rules": {"min_words": 6}}, "b", "rules.min_words was 5, now 6; seed was 1, now null. "),
        (SETTINGS, "b", "2 files are new. "),
    ],
)
def test_a_run_of_other_settings_or_inputs_is_refused_with_the_differences_or_replaced(
    tmp_path, settings, inputs, seen
):
    made, folder = put(tmp_path), RunFolder(Store(), str(tmp_path))
    assert folder.find(SETTINGS, "a", replace=False) == folder.find(SETTINGS, "a", replace=True) == made
    with pytest.raises(DataError) as refused:
        folder.find(settings, inputs, replace=False, input_changes=lambda: "2 files are new")
    assert f"with other settings or inputs: {seen}Choose another output" in str(refused.value)
    assert folder.manifest_file.read() == made
    assert folder.find(settings, inputs, replace=True) is None and folder.manifest_file.read() is None


def test_settings_in_lists_of_groups_differ_one_by_one():
    before = {"inputs": [{"path": "a", "columns": ["x"]}, {"path": "b"}], "seed": 1}
    now = {"inputs": [{"path": "a", "columns": ["y"]}], "seed": 1}
    assert list(changes(before, now)) == [
        ("inputs.0.columns", ["x"], ["y"]),
        ("inputs.1", {"path": "b"}, None),
    ]
    assert differences({"inputs": [{"path": "b", "split": None}]}, {"inputs": []}) == [
        'inputs.0 was {"path": "b"}, now null'
    ]
    assert differences(before, before) == []


def test_a_finished_run_of_a_kind_is_found_or_refused_with_what_was_seen(tmp_path):
    root = str(tmp_path / "run")
    folder = RunFolder(Store(), root)
    assert folder.finished("curate") is None
    with pytest.raises(DataError, match="there is no run and no artifact here"):
        folder.require("curate")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "part").write_text("x")
    with pytest.raises(DataError, match=r"run: no finished run; wanted the output of `raymill.curate`\. Look\.$"):
        folder.require("curate", "Look.")
    manifest = folder.put("prepare", "n", {}, "i", {})
    assert folder.finished("prepare") == folder.require("prepare") == manifest
    assert folder.finished("curate") is None
    with pytest.raises(DataError, match=r"run: a run of kind prepare; wanted the output of `raymill.curate`"):
        folder.require("curate")


@pytest.mark.parametrize("key", ["kind", "name", "version", "digest"])
@pytest.mark.parametrize("value", [7, None, {}])
def test_a_manifest_with_another_type_than_text_is_a_data_error(tmp_path, key, value):
    made, folder = put(tmp_path), RunFolder(Store(), str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(made | {key: value}))
    with pytest.raises(DataError, match="kind, name, version, digest are text"):
        folder.manifest_file.read()
    del made[key]
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(DataError, match=f"has no {key}"):
        folder.manifest_file.read()
