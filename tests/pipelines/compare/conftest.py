"""A data set of tickets, an endpoint with planted models, and the settings of a comparison."""

import pytest

from tests.support.compare_inline import Planted, planted, tickets


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return tickets(tmp_path_factory.mktemp("tickets"), patch)


@pytest.fixture
def server():
    with Planted() as server:
        yield server


@pytest.fixture
def config(data, server, tmp_path):
    models = [planted(server, "right-90"), planted(server, "right-60")]
    return {"models": models, "on": str(data), "answer": "label", "output": str(tmp_path / "out")}
