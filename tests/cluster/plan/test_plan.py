"""Prices, and the plan of a run as text."""

import re
from dataclasses import asdict

import pytest

from raymill.cluster.cost import Cost
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import amount_of_bytes
from raymill.cluster.plan.plan import Prices, core_time, load_prices, money, plan_text


def test_numbers_of_a_plan_are_short_and_keep_their_unit():
    assert [core_time(s) for s in (0, 119.9, 120, 5999, 6000, 7199, 7200, 359_999, 360_000)] == [
        "0.0 s", "119.9 s", "2.0 min", "100.0 min", "100 min", "120 min", "2.0 h", "100.0 h", "100 h"
    ]  # fmt: skip
    assert [amount_of_bytes(n) for n in (0, 1, 999, 999.6, 1500, 99_900, 99_960, 999_600, 2.5e9, 3e12, 4e15, 5e18)] == [
        "-", "1 B", "999 B", "1.0 kB", "1.5 kB", "99.9 kB", "100 kB", "1.0 MB", "2.5 GB", "3.0 TB", "4.0 PB", "5,000 PB"
    ]  # fmt: skip
    assert [money(n) for n in (0, 0.001, 0.01, 1234.5)] == ["0.00", "under 0.01", "0.01", "1,234.50"]


def test_a_plan_has_a_row_for_each_stage_and_their_sums():
    stages = [
        Cost("first", 1000, 10.0, read=1e9, written=2e6, gets=5, puts=7, memory=2 << 30, scratch=3e9),
        Cost("second", 2, 7200.0, read=3e9, written=0, gets=0, puts=11, memory=0, scratch=4e9),
    ]
    sample = {"documents": 1, "text_bytes": 2000, "pieces": 3, "unreadable": 0.25, "outcome": "50.0% pass the rules"}
    size = {
        "documents": 10**9,
        "text_bytes": 3_300 * 10**9,
        "stored_bytes": 2 * 10**12,
        "files": 100_000,
        "units": 6147,
        "exact": False,
    }
    plan = {
        "name": "n", "noun": "document", "sample": sample, "input": size,
        "stages": [asdict(stage) for stage in stages], "core_s": 7210.0, "shuffle_bytes": 6e6, "store_money": 1.5,
        "on_cores": [{"cores": 2000, "seconds": 3600.0, "machine_gib": 64.4, "money": 12.345}],
        "prices": Prices().model_dump(), "assumed": ["One.", "Two " * 40 + "end."],
        "warnings": [],
    }  # fmt: skip
    lines = plan_text(plan).splitlines()
    rows = {line.split()[0]: re.split(r"  +", line.strip()) for line in lines if line}
    assert rows["first"] == ["first", "1,000", "10.0 s", "1.0 GB", "2.0 MB", "5", "7", "2.0 GiB", "3.0 GB"]
    assert rows["second"] == ["second", "2", "2.0 h", "3.0 GB", "-", "-", "11", "-", "4.0 GB"]
    assert rows["all"] == ["all", "2.0 h", "4.0 GB", "2.0 MB", "5", "18", "2.0 GiB", "4.0 GB"]
    assert rows["2,000"] == ["2,000", "1 h 0 min", "64 GiB", "12.35"]
    assert lines[1] == ("input    about 1,000,000,000 documents, 3.3 TB of text, 2.0 TB in 100,000 files, 6,147 units")
    assert lines[2] == "sample   1 document, 2.0 kB, from 3 units: 50.0% pass the rules, 25.0% cannot be read"
    ends = {
        line.rindex(cell) + len(cell)
        for line, cell in zip(lines[4:8], ("scratch", "3.0 GB", "4.0 GB", "4.0 GB"), strict=True)
    }
    assert len(ends) == 1, "columns are aligned"
    assert lines[-3] == "- One." and lines[-2].startswith("- Two") and lines[-1].startswith("  Two")
    assert max(map(len, lines)) <= 120
    warned = plan_text(plan | {"warnings": ["25.0% cannot be used."]}).splitlines()
    assert warned == [*lines[:3], "warning  25.0% cannot be used.", *lines[3:]]
    exact = plan | {"input": size | {"exact": True}, "sample": sample | {"unreadable": 0.0}}
    assert plan_text(exact).splitlines()[1].startswith("input    1,000") and "cannot" not in plan_text(exact)


def test_a_file_of_prices_is_a_mapping_of_known_settings(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("name: ours\ncore_hour: 1000\n")
    found = load_prices(str(file))
    assert (found.name, found.core_hour, found.gib_hour) == ("ours", 1000, 0)
    file.write_text("core_hours: 1\n")
    with pytest.raises(ConfigError, match=r"prices.yaml, core_hours: .*The settings are name, core_hour"):
        load_prices(str(file))
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a YAML mapping"):
        load_prices(str(file))
