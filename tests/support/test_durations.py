"""The sample of `make test` has the share of a long function's cases that its budget allows."""

from types import SimpleNamespace

from tests.conftest import pytest_collection_modifyitems
from tests.support.durations import left_out, measured, recorded


def test_a_function_within_the_budget_is_whole_and_of_a_longer_one_a_share_of_its_cases_is_kept():
    cases = [f"tests/test_a.py::test_b[{at}]" for at in range(2000)]
    assert not any(left_out(case, 0.3) for case in cases)
    kept = [case for case in cases if not left_out(case, 3)]
    assert 150 < len(kept) < 250  # a tenth: 200, with a standard deviation of 13
    assert kept == [case for case in cases if not left_out(case, 3)]


def test_the_times_of_all_cases_of_a_function_are_added(tmp_path):
    case = '<testcase classname="{}" name="{}" time="{}"/>'
    report = tmp_path / "a.xml"
    rows = [
        case.format("tests.a.test_b", "test_long[1]", 0.4),
        case.format("tests.a.test_b", "test_long[2]", 0.25),
        case.format("tests.a.test_b", "test_short", 0.3),
        case.format("tests.a.test_b.TestClass", "test_c", 0.7),
    ]
    report.write_text(f"<testsuites><testsuite>{''.join(rows)}</testsuite></testsuites>")
    assert measured(str(report)) == "0.7 tests/a/test_b.py::test_c\n0.7 tests/a/test_b.py::test_long\n"


def test_cases_of_a_recorded_long_function_are_marked_and_no_others():
    long = max(recorded(), key=recorded().get)
    names = [*(f"{long}[{at}]" for at in range(200)), *(f"tests/test_new.py::test_a[{at}]" for at in range(200))]
    marked: list[str] = []
    items = [SimpleNamespace(nodeid=name, add_marker=lambda mark, name=name: marked.append(name)) for name in names]
    pytest_collection_modifyitems(items)
    assert len(marked) > 150 and all(name.startswith(f"{long}[") for name in marked)
