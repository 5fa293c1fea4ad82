"""What a step should take on a GPU: the written predictions are those of the code, and the code's are as by hand."""

from pathlib import Path

import pytest

from raymill.training.models.base import named_config
from raymill.training.models.cost import flops_per_token, shape_of
from tests.benchmarks.gpu.predict import context_of, document, predict, setting, summed
from tests.benchmarks.gpu.workload import document_lengths, mean_context, random_batch

WRITTEN = Path(__file__).parents[3] / "tests" / "benchmarks" / "gpu" / "PREDICTIONS.md"


def test_the_written_predictions_are_what_the_code_computes():
    assert WRITTEN.read_text() == document(), "make it anew with python -m tests.benchmarks.gpu.predict"


def test_the_parts_of_llama_1b_are_those_by_hand():
    """16 layers of 2,048 hidden, 8,192 feed-forward, 32 heads of 64, 8 of them for keys; 128,256 tokens."""
    lines = {line.part: line for line in predict(setting("1b", "full", 1, 8192), 4)}
    weights = 16 * (2048 * 2048 * 2 + 2048 * 512 * 2 + 2048 * 8192 * 3)
    assert lines["products of the layers"].amount == 6 * weights * 8192
    assert lines["products of the layers"].ms(0) == pytest.approx(6 * weights * 8192 / (0.63 * 989.4e12) * 1e3)
    assert lines["products of the lm_head"].amount == 6 * 128_256 * 2048 * 8192
    # Scores and sums: 2 x 2 x 64 FLOP a head and position seen; in rows of 1 to 7 documents a token sees 8,192 times
    # the mean of 1/2 .. 1/8.
    seen = 8192 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6 + 1 / 7 + 1 / 8) / 7 + 0.5
    assert lines["flash attention"].amount == pytest.approx(3.5 * 16 * 32 * 4 * 64 * seen * 8192)
    assert lines["norm, clip, AdamW, zero"].amount == 44 * 1_235_814_400
    assert lines["norm, clip, AdamW, zero"].ms(1) == pytest.approx(44 * 1_235_814_400 / (0.9 * 4.8e12) * 1e3)


def test_more_rows_cost_more_but_not_the_optimizers_part_again():
    one, four = (summed(setting("1b", "full", rows, 8192), 4) for rows in (1, 4))
    assert 3 * one.fast < four.fast < 4 * one.fast and one.slow > one.fast
    config = setting("1b", "full", 4, 8192)
    of_flops = flops_per_token(
        named_config(config.store, config.model), shape_of(config).trained, "full", context_of(8192, 4)
    )
    assert four.flops == pytest.approx(of_flops)
    assert four.mfu(four.fast) > one.mfu(one.fast)


@pytest.mark.parametrize("documents", [1, 4])
def test_the_mean_context_of_random_cuts_is_what_random_rows_have(documents):
    batches = [random_batch((seed,), 8, 512, documents, 300) for seed in range(40)]
    assert mean_context(document_lengths(batches)) == pytest.approx(context_of(512, documents), rel=0.05)
