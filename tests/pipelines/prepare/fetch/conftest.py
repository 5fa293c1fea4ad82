"""A web server for each test; pauses between requests are recorded, not waited for."""

import pytest

from tests.support.web_server import web_server


@pytest.fixture
def site():
    with web_server() as found:
        yield found


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Pauses between requests are recorded in place of being waited for."""
    waited: list[float] = []
    monkeypatch.setattr("raymill.pipelines.prepare.fetch.client.pause", waited.append)
    return waited
