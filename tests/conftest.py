"""Shared fixtures. Pure tests need none of them; what needs Ray, a store or real data asks by name."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs beside the checkout; a fresh clone has none, and says so."""
    if not SHARED.is_dir():
        pytest.skip(f"no real inputs at {SHARED}: this test compares with measured data that is not part of the repository")
    return SHARED
