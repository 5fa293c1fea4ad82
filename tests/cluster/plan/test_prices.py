"""Prices from a file."""

import pytest

from cluster.errors import ConfigError
from cluster.plan.plan import load_prices


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
