"""Packing and sending a checkout."""

import logging

import cluster
from cluster.submit.ray_api import NotThere
from cluster.submit.ship_code import ship_code


def test_shipping_code_prints_its_size_and_no_lines_of_ray(capsys, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cluster, "__file__", str(tmp_path / "cluster" / "__init__.py"))
    sent = []

    class Empty:
        address = "http://127.0.0.1:8265"

        def get(self, path):
            raise NotThere(path)

        def put(self, path, data):
            sent.append(data)

    logging.getLogger("ray").setLevel(logging.INFO)
    ship_code(Empty())
    assert not logging.getLogger("ray._private.runtime_env.packaging").isEnabledFor(logging.INFO)
    assert len(sent) == 1 and capsys.readouterr().err == "sending 0.0 MiB of code to http://127.0.0.1:8265\n"
