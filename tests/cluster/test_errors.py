"""Errors: the exit code and the finality of each class, and what of one crosses a process."""

import json

import pytest

from raymill.cluster import errors
from raymill.cluster.errors import RaymillError, as_record, from_record, is_panic
from raymill.cluster.store.interface import NotFound, Unavailable

CODES = {
    "RaymillError": (1, False), "UserError": (2, True), "ConfigError": (2, True), "StorageError": (2, True),
    "DataError": (2, True), "BusyError": (2, True), "ClusterError": (1, False), "StageError": (1, False),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_an_error_comes_back_from_its_record_with_class_message_code_and_finality(name):
    error = getattr(errors, name)("where: what. Do this.")
    record = as_record(error)
    assert record == {"kind": name, "message": "where: what. Do this.", "final": CODES[name][1]}
    again = from_record(json.loads(json.dumps(record)))
    assert type(again) is type(error) and str(again) == str(error)
    assert (again.exit_code, again.is_final) == CODES[name]


def test_every_class_of_the_module_is_in_the_table():
    found = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RaymillError)}
    assert found == set(CODES)


@pytest.mark.parametrize("error", [NotFound("s3://b/x"), Unavailable("no answer")])
def test_an_error_of_another_module_crosses_as_the_nearest_class_of_this_one_and_is_as_final_as_it_was(error):
    assert as_record(error) == {"kind": "StorageError", "message": str(error), "final": False}


def test_a_panic_is_known_by_its_name():
    panic = type("PanicException", (BaseException,), {})
    assert is_panic(panic("x")) and not is_panic(ValueError("PanicException")) and not is_panic(KeyboardInterrupt())
