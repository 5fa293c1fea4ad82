"""The commit of one unit in every interleaving up to a small bound, and that the simulation finds mistakes."""

import dataclasses
import itertools

import pytest

from raymill.cluster import stage as stages
from raymill.cluster.record import RecordFile
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from tests.cluster import commit_schedules
from tests.cluster.commit_schedules import CASES, run_all, run_some
from tests.support.interleavings import Choices, ExploredWorld, explore


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_random_interleaving_breaks_the_commit_of_a_unit(case):
    explored = run_some(dataclasses.replace(case, switches=4, faults=2), seed=1, count=300)
    assert not explored.violation, explored.violation
    assert explored.schedules == 300 and explored.steps > 12 * explored.schedules


# --- mistakes, each put into the real code


def record_before_files(patch) -> str:
    upload, create = Store.upload, RecordFile.create
    late: list[tuple] = []

    def then_files(record, data):
        made = create(record, data)
        while late:
            upload(*late.pop())
        return made

    patch.setattr(Store, "upload", lambda *place, new=False: late.append(place))
    patch.setattr(RecordFile, "create", then_files)
    return "names files that are not there"


def unconditional_create(patch) -> str:
    def create(world, key, data) -> bool:
        world.step("create", key)
        world._put(key, data)
        return True

    patch.setattr(ExploredWorld, "create", create)
    return "was replaced"


def own_record_is_believed(patch) -> str:
    """The loser of a race returns its own record, and not the one that is on the store."""

    def create(record, data):
        record.store.create(record.uri, data)
        return record.parse(data)

    patch.setattr(RecordFile, "create", create)
    return "the manifest names"


def equal_names_of_attempts(patch) -> str:
    patch.setattr(commit_schedules, "attempt_numbers", lambda: itertools.repeat(0))
    return "was replaced"


def visible_parts(patch) -> str:
    upload = ExploredWorld.upload

    def half(world, path, key, *, new=False) -> None:
        world._put(key, path.read_bytes()[:4])
        upload(world, path, key, new=new)

    patch.setattr(ExploredWorld, "upload", half)
    return "visible half-written"


def manifest_from_a_listing(patch) -> str:
    """The driver lists the files of a folder instead of what the records name."""
    real = stages.committed

    def from_listing(stage, root):
        records = real(stage, root)
        for output in stage.outputs if records else ():
            record = records[0]
            names = [file.uri.rpartition("/")[2] for file in stage.store.list_files(paths.join(root, output.name))]
            files = [stages.DataFile(name, 0, 1, 1, "") for name in names if name.endswith(".parquet")]
            records[0] = stages.replace(record, files={output.name: files})
        return records

    patch.setattr(stages, "committed", from_listing)
    return "the manifest names"


def sweep_before_the_manifest(patch) -> str:
    """A driver removes files that its records do not name, before any manifest is there."""
    real = stages.committed

    def and_sweep(stage, root):
        records = real(stage, root)
        wanted = {file.path for record in records.values() for file in record.files["numbers"]}
        listed = stage.store.list_files(f"{root}/numbers")
        stage.store.delete(file.uri for file in listed if file.uri.rpartition("/")[2] not in wanted)
        return records

    patch.setattr(stages, "committed", and_sweep)
    return "names files that are not there"


def files_listed_before_records_are_read(patch) -> str:
    """`committed` takes a record for damaged whose files were uploaded after it listed them."""
    real, early = Store.list_files, dict[str, list]()

    def list_files(store, folder, **options):
        if folder.endswith("/numbers") and folder in early:
            return early.pop(folder)
        found = real(store, folder, **options)
        if "/_commits/" not in folder:
            return found
        early[folder.partition("/_commits/")[0] + "/numbers"] = real(
            store, folder.partition("/_commits/")[0] + "/numbers"
        )
        return real(store, folder, **options)

    patch.setattr(Store, "list_files", list_files)
    return "is needed, and was deleted"


MISTAKES = [
    record_before_files,
    unconditional_create,
    own_record_is_believed,
    equal_names_of_attempts,
    visible_parts,
    manifest_from_a_listing,
    sweep_before_the_manifest,
    files_listed_before_records_are_read,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_protocol_is_found(monkeypatch, mistake):
    message = mistake(monkeypatch)
    found = []
    for case in CASES:
        found.append(run_some(case, seed=1, count=300).violation)
        if message in found[-1]:
            return
    pytest.fail(f"not found: {found}")


# --- the search


def test_a_mistake_that_needs_one_switch_is_found_by_a_search(monkeypatch):
    message = record_before_files(monkeypatch)
    assert message in run_all(dataclasses.replace(CASES[0], switches=1, faults=0)).violation


def test_a_search_makes_every_sequence_of_choices_once():
    seen = []

    def run(choices: Choices) -> None:
        first = choices.choose(3)
        seen.append((first, choices.choose(2) if first else 0, choices.choose(1)))

    assert len(list(explore(run))) == 5 == len(set(seen))
    seen.clear()
    assert len(list(explore(run, [2]))) == 2 and {first for first, *_ in seen} == {2}
