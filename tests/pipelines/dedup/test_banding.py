"""The banding derived from a threshold is the one that datasketch derives."""

import pytest
from datasketch import MinHashLSH

from pipelines.dedup.banding import best_banding


@pytest.mark.parametrize("columns", [2, 16, 112, 128, 300])
def test_the_banding_is_that_of_datasketch(columns):
    for threshold in (0.05, 0.3, 0.5, 0.62, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        bands, rows = best_banding(threshold, columns)
        if bands > 1:  # datasketch refuses a single band
            index = MinHashLSH(threshold=threshold, num_perm=columns, weights=(0.1, 0.9))
            assert (bands, rows) == (index.b, index.r), threshold


def test_a_threshold_of_one_is_one_band_of_all_columns():
    assert best_banding(1.0, 128) == (1, 128)
