"""What a curate config asks of a cluster: equal ids for equal results, and machines that follow from the text."""

import json
from dataclasses import replace

import pytest

from cluster.errors import ConfigError
from cluster.submit.work import GIB, Machines
from pipelines.curate.config import CurateConfig
from pipelines.curate.work import machines, work
from pipelines.readers.freeze import freeze
from tests.support.inline import curate_inline


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        lines = [json.dumps({"text": f"Document {number} {line}. " + "Eight words of plain English in it. " * 20})
                 for line in range(20)]  # fmt: skip
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return {"kind": "curate", "name": "my-run", "inputs": [{"path": str(tmp_path / "in")}],
            "output": str(tmp_path / "out"), "execution": {"unit_mib": 1}}  # fmt: skip


def of(settings, seconds=None, **changes):
    return work(CurateConfig.model_validate(settings | changes), seconds)


def test_equal_results_have_one_id_and_others_have_another(settings, tmp_path):
    one = of(settings)
    assert of(settings).run_id == one.run_id and one.run_id.startswith("my-run-")
    assert of(settings, execution={"unit_mib": 1, "attempts": 5}).run_id == one.run_id, "it does not change the corpus"
    assert of(settings, dedup=None).run_id != one.run_id
    assert of(settings, output=str(tmp_path / "other")).run_id != one.run_id
    (tmp_path / "in" / "3.jsonl").write_text(json.dumps({"text": "One more."}) + "\n")
    assert of(settings).run_id != one.run_id


def test_the_config_of_a_job_is_the_config_again_with_an_absolute_output(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = of(settings, output="out")
    assert found.config["output"] == str(tmp_path / "out")
    again = CurateConfig.model_validate(json.loads(json.dumps(found.config)))
    assert work(again).run_id == found.run_id == of(settings).run_id


def test_a_job_has_absolute_paths_of_inputs_models_and_lists_and_the_run_has_one_id(settings, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("example.org\n")
    (tmp_path / "words").write_text("word\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def given(start):
        rules = {
            "packs": [],
            "url_blocklist": {"column": "url", "paths": [f"{start}blocked"]},
            "bad_words": {"paths": {"en": f"{start}words"}},
            "quality_classifier": {"model": f"{start}model.bin", "label": "good"},
        }
        inputs = [{"path": f"{start}in/*.jsonl", "columns": ["url"]}]
        return {"inputs": inputs, "rules": rules, "language": {"model": f"{start}model.bin"}}

    one = of(settings, **given(""))
    assert [line for line in strings(one.config) if "/" in line] == [
        f"{tmp_path}/{name}" for name in ("in/*.jsonl", "out", "model.bin", "blocked", "words", "model.bin")
    ]
    for start in ("~/", f"file://{tmp_path}/", f"{tmp_path}/"):
        assert of(settings, **given(start)).run_id == one.run_id, start


def strings(value):
    """All strings in JSON values, in their order."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [line for one in inner for line in strings(one)]


def test_a_finished_run_is_found(settings, monkeypatch):
    assert not of(settings).finished
    curate_inline(settings, monkeypatch)
    assert of(settings).finished


def test_keys_of_a_store_are_refused_by_name_and_never_shown(settings):
    storage = {"access_key_id": "AKIA", "secret_access_key": "hidden"}
    with pytest.raises(ConfigError, match=r"storage\.access_key_id.*role") as refused:
        of(settings, storage=storage)
    assert "hidden" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"inputs\[0\]\.storage\.secret_access_key"):
        of(settings, inputs=[settings["inputs"][0] | {"storage": storage}])


def test_a_shorter_time_takes_more_cores_up_to_one_for_each_unit(settings):
    config = CurateConfig.model_validate(settings)
    frozen = freeze(config.store, config.inputs, 1 << 20)
    many = replace(frozen, units=tuple(replace(frozen.units[0], bytes=64 << 20) for _ in range(1000)))
    hours, minutes, at_once = (machines(config, many, seconds) for seconds in (7200, 600, 1))
    assert (hours.cpus * hours.most, minutes.cpus * minutes.most) == (3, 48), "twice 67 GB / (8.3 MB/s x time)"
    assert at_once.cpus * at_once.most <= 1000 and "within 600 s" in minutes.reasons["most"]
    assert (machines(config, frozen).cpus, machines(config, frozen).most) == (2, 1)


def test_memory_holds_the_tasks_of_all_cores_and_the_largest_document(settings):
    usual = of(settings).workers[0]
    assert usual.memory >= 2 * GIB + usual.cpus * GIB
    large = of(settings, limits={"max_document_bytes": 1_000_000_000}).workers[0]
    assert large.memory > usual.memory + 2 * 15 * GIB
    cutting = of(settings, boilerplate={}, corpus={"file_mib": 4096}).workers[0]
    assert cutting.memory > usual.memory + cutting.cpus * 3 * GIB
    assert set(usual.reasons) == {"cpus", "memory", "disk", "least", "most"}


def test_machines_of_another_size_keep_the_largest_task_and_the_number_of_cores():
    wide = Machines("cpu", 16, 40 * GIB, 60 * GIB, largest_task=30 * GIB, least=1, most=4)
    narrow = wide.resized(cpus=4)
    assert (narrow.cpus, narrow.most, narrow.least) == (4, 16, 4)
    assert narrow.memory > 30 * GIB, "grouping is one task"
    gpus = replace(wide, gpus=8, cpus=32, largest_task=GIB).resized(gpus=1)
    assert (gpus.cpus, gpus.gpus, gpus.most) == (4, 1, 32)


def test_the_first_file_of_each_input_and_the_lists_must_exist(settings, tmp_path):
    (blocked := tmp_path / "blocked").write_text("example.org\n")
    inputs = [settings["inputs"][0] | {"columns": ["url"]}]
    found = of(settings, inputs=inputs, rules={"url_blocklist": {"column": "url", "paths": [str(blocked)]}})
    assert found.must_exist == (str(tmp_path / "in" / "0.jsonl"), str(blocked))
