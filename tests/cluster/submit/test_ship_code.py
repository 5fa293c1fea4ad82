"""Packing and sending a checkout."""

import io
import logging
import zipfile
from pathlib import Path

import pytest

import raymill
from raymill.cluster.errors import ConfigError
from raymill.cluster.submit import jobs_api as module
from raymill.cluster.submit.backend import NotThere
from raymill.cluster.submit.jobs_api import ship_code


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder that `ship_code` takes for the checkout of Raymill."""
    (tmp_path / "pyproject.toml").touch()
    for folder in ("raymill", "cluster", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1\n")
    (tmp_path / "raymill" / "cluster").symlink_to("../cluster")
    monkeypatch.setattr(raymill, "__file__", str(tmp_path / "raymill" / "__init__.py"))
    return tmp_path


class Packages:
    """The packages of a cluster, by path."""

    address = "http://127.0.0.1:8265"

    def __init__(self) -> None:
        self.packages: dict[str, bytes] = {}

    def get(self, path):
        if path not in self.packages:
            raise NotThere(path)

    def put(self, path, data):
        self.packages[path] = data


def test_shipping_code_prints_its_size_and_no_lines_of_ray(checkout, capsys):
    api = Packages()
    logging.getLogger("ray").setLevel(logging.INFO)
    ship_code(api)
    assert not logging.getLogger("ray._private.runtime_env.packaging").isEnabledFor(logging.INFO)
    assert len(api.packages) == 1
    assert capsys.readouterr().err == "sending 0.0 MiB of code to http://127.0.0.1:8265\n"


def test_code_is_sent_again_only_if_a_file_of_the_package_changed(checkout):
    api = Packages()
    uri = ship_code(api)
    (checkout / "tests" / "a.py").write_text("x = 2\n")
    assert ship_code(api) == uri and len(api.packages) == 1
    (package,) = api.packages.values()
    names = [name for name in zipfile.ZipFile(io.BytesIO(package)).namelist() if name.endswith("a.py")]
    assert sorted(names) == ["raymill/a.py", "raymill/cluster/a.py"]
    (checkout / "cluster" / "a.py").write_text("x = 2\n")
    assert ship_code(api) != uri and len(api.packages) == 2


def test_code_that_is_no_checkout_or_too_large_is_not_sent(checkout, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 200)
    (checkout / "cluster" / "data.py").write_bytes(bytes(range(256)) * 10)
    api = Packages()
    with pytest.raises(ConfigError, match=r"are 0 MiB packed; a cluster takes 0 MiB\. Move data and results"):
        ship_code(api)
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(ConfigError, match=rf"installed at {checkout} and not run from a checkout"):
        ship_code(api)
    assert api.packages == {}


def test_a_package_is_sent_under_its_name_and_that_is_the_uri(checkout):
    api = Packages()
    protocol, _, name = ship_code(api).partition("://")
    assert list(api.packages) == [f"/api/packages/{protocol}/{name}"] and protocol == "gcs"


def test_only_code_is_sent(checkout):
    """Others can read the package on the cluster."""
    for path in (".env", "notes.txt", "raymill/.env", "cluster/.netrc"):
        (checkout / path).write_text("key")
    api = Packages()
    ship_code(api)
    (package,) = api.packages.values()
    files = [name for name in zipfile.ZipFile(io.BytesIO(package)).namelist() if not name.endswith("/")]
    assert sorted(files) == ["raymill/a.py", "raymill/cluster/a.py"]


@pytest.mark.parametrize("place", ["raymill/data", "cluster/data", "cluster/b.py"])
def test_a_link_out_of_the_checkout_ends_it(checkout, tmp_path_factory, place):
    outside = tmp_path_factory.mktemp("private")
    (outside / "credentials").write_text("key")
    (checkout / place).symlink_to(outside / "credentials" if place.endswith(".py") else outside)
    api = Packages()
    with pytest.raises(ConfigError, match=f"{place} is a link to {outside}.*whose content would be sent"):
        ship_code(api)
    assert not api.packages
