"""What a curate config asks of a cluster: equal ids for equal results, and machines that follow from the text."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.plan.sample import document_count
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import InputFile, InputManifest, Reading, Unit
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Machines, cores_of
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import CurateJob, machine_of, machines
from raymill.pipelines.dedup.cost import memory_to_group
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
    return CurateJob(CurateConfig.model_validate(settings | changes)).work(seconds)


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
    assert CurateJob(again).work().run_id == found.run_id == of(settings).run_id


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


MIB = 1 << 20


def manifest(*sizes: int, files: tuple[InputFile, ...] = (), uris: tuple[str, ...] = ()) -> InputManifest:
    """Units of these sizes, each of one file."""
    uris = uris or tuple(f"/{number}" for number in range(len(sizes)))
    units = [
        Unit(number, "input", (Span(uri, size, "", "jsonl", 0, size),), size)
        for number, (uri, size) in enumerate(zip(uris, sizes, strict=True))
    ]
    return InputManifest(Reading(Store(), (), pa.schema([])), files, tuple(units), {}, "f")


@pytest.mark.parametrize(
    ("sizes", "seconds", "cores"),
    [
        ([1], None, 1), ([1] * 8, None, 2), ([1] * 9, None, 3), ([1] * 10_000, None, 256),
        # At 1 MB/s, with twice the cores; the first 180 s are the start of the machines.
        ([90_000_000] * 4, 360, 4), ([90_000_000] * 3 + [90_000_001], 360, 4), ([90_000_000] * 4, 540, 2),
        ([60_000_000] * 6, 359.9, 4), ([90_000_000] * 4, 180, 4), ([90_000_000] * 4, 1, 4),
        ([180_000_000] * 2, 360, 2), ([1], 3600, 1),
    ],
)  # fmt: skip
def test_cores_for_a_number_of_units_or_a_duration(sizes, seconds, cores):
    found, why = cores_of(manifest(*sizes), seconds, rate=1e6)
    assert found == cores
    assert ("a core for each unit is the most" in why) == (sum(sizes) / 90e6 > len(sizes))
    assert why.startswith(f"{sum(sizes) / 1e9:,.2f} GB of text in {len(sizes):,} unit")


def test_documents_are_counted_by_footers_and_else_by_the_size_of_their_text():
    files = tuple(
        InputFile(uri, 1, "", "input", "parquet" if rows is not None else "jsonl", rows)
        for uri, rows in (("/a", 7), ("/b", None), ("/c", 0), ("/d", None))
    )
    found = manifest(10_000, 4_000, 50, 1, files=files, uris=("/a", "/b", "/c", "/d"))
    assert document_count(found) == 7 + 3, "4,001 bytes are three documents of at most 2,000"
    assert document_count(found, 4001) == 7 + 1 and document_count(found, 1) == 7 + 4001


def machine(cpus: int, documents: int = 1000, unit: int = 64 * MIB, **changes) -> Machines:
    """Tasks take 1 GiB, and units of 64 MiB with 1.5 corpus files of 128 MiB are 256 MiB of disk."""
    limits = {"max_document_bytes": 8 * MIB}
    plain = {"kind": "curate", "name": "m", "inputs": [{"path": "/in"}], "output": "/out", "limits": limits}
    return machine_of(CurateConfig.model_validate(plain | changes), cpus, documents, unit)


def test_a_machine_has_memory_and_disk_for_a_task_on_each_core_and_for_ray():
    """With 2 GiB and 10 GiB for Ray, and a tenth of the memory free."""
    four = machine(4)
    assert (four.cpus, four.memory, four.disk, four.largest_task) == (4, 7 * GIB, 11 * GIB, GIB)
    assert machine(7).memory == 10 * GIB and machine(8).memory == 12 * GIB and machine(5).disk == 12 * GIB
    assert machine(4, corpus={"file_mib": 256}).disk == 12 * GIB and machine(4, unit=300 * MIB).disk == 12 * GIB
    # A document over 8 MiB takes 20 times its bytes beyond them.
    assert machine(1, limits={"max_document_bytes": 9 * MIB}).largest_task == GIB + 20 * MIB


def test_grouping_decides_on_the_memory_of_a_machine_where_its_largest_task_is_larger_than_the_others_together():
    documents = 1 << 26
    plain = CurateConfig.model_validate({"kind": "curate", "name": "m", "inputs": [{"path": "/i"}], "output": "/o"})
    largest = memory_to_group(documents, plain.dedup)
    assert 2 * GIB < largest <= 4 * GIB, "the test needs these bounds"
    few, many = machine(1, documents), machine(4, documents)
    assert few.largest_task == many.largest_task == largest
    assert few.memory > machine(1, documents, dedup=None).memory == 4 * GIB and many.memory == machine(4).memory
    assert "grouping about 67,108,864 documents" in few.reasons["memory"]
    assert (
        "4 tasks of 1.00 GiB" in many.reasons["memory"]
        and "tasks of" in machine(1, documents, dedup=None).reasons["memory"]
    )


@pytest.mark.parametrize(
    ("changes", "unit", "task"),
    [
        ({"boilerplate": {}}, 256 * MIB, GIB + 512 * MIB),  # twice the text of a unit
        ({"boilerplate": {}}, MIB, GIB + 128 * MIB),  # the text of a corpus file
        ({"repeats": {}}, 256 * MIB, 2 * GIB),  # four times the text of a unit
        ({"boilerplate": {}, "repeats": {}}, 256 * MIB, 2 * GIB),
        ({"repeats": {}, "corpus": {"file_mib": 2048}}, 256 * MIB, 3 * GIB),
        ({}, 256 * MIB, GIB),
    ],
)
def test_what_is_counted_and_cut_takes_memory(changes, unit, task):
    assert machine(1, unit=unit, **changes).largest_task == task


@pytest.mark.parametrize(
    ("cores", "cpus", "most", "limited"),
    [
        (1, 2, 1, False), (3, 3, 1, False), (16, 16, 1, False), (17, 16, 2, False), (1024, 16, 64, False),
        (1025, 16, 64, True),
    ],
)  # fmt: skip
def test_machines_have_at_most_sixteen_cores_and_are_at_most_sixty_four(settings, cores, cpus, most, limited):
    config = CurateConfig.model_validate(settings)
    size = cores * 8_300_000 * 180 // 2 - 1  # in 360 s, of which 180 start the machines
    found = machines(config, manifest(*[size // 2000] * 2000, size % 2000), 360)
    assert (found.cpus, found.least, found.most) == (cpus, 1, most)
    assert ("at most 64" in found.reasons["most"]) == limited


def test_files_that_must_exist_are_the_first_readable_of_each_input_models_lists_and_earlier_runs(
    tmp_path, monkeypatch
):
    lines = json.dumps({"text": "A text."}) + "\n"
    for name in ("a/bad.parquet", "a/good.jsonl", "a/more.jsonl", "b/1.jsonl", "b/2.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines)
    monkeypatch.chdir(tmp_path)
    plain = {
        "kind": "curate", "name": "m", "output": "out", "execution": {"max_bad_files": 0.5},
        "inputs": [{"source": one, "path": f"{tmp_path}/{one}"} for one in "ba"],
        "rules": {"bad_words": {"paths": {"en": "words"}}}, "language": {"model": "/lid.bin"},
        "dedup": {"against": ["s3://old/run"]},
    }  # fmt: skip
    found = CurateJob(CurateConfig.model_validate(plain)).must_exist()
    assert found == (
        f"{tmp_path}/b/1.jsonl", f"{tmp_path}/a/good.jsonl", "/lid.bin", f"{tmp_path}/words", "s3://old/run/manifest.json"
    )  # fmt: skip


def test_a_file_that_is_a_document_counts_as_one(tmp_path):
    for name in ("a.txt", "b.md", "c.html", "d.txt"):
        (tmp_path / name).write_text("x" * 20_000)
    assert document_count(freeze(Store(), [Input(path=str(tmp_path))])) == 4
