"""Merge an adapter into its base, and check that the merged model's logits equal the adapter's.

The adapter's product is added to each weight in float32, so the logits differ by rounding only. The
tolerance grows with the largest logit (float32 has about seven digits, and errors add up over layers) and with the
adapter's largest effect on logits, so that a merge without effect is also detected for an adapter of small effect.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cluster.artifact import Artifact
from cluster.errors import RaymillError
from training.data.packed import PackedRows
from training.evaluation.prompts import evenly_spaced
from training.records.evaluation import MergedCheck

PROMPTS, PROMPT_TOKENS = 8, 64

# The tolerance is the sum of these fractions of the largest logit and of the adapter's largest effect.
_LOGIT_FRACTION, _EFFECT_FRACTION = 1e-5, 1e-2


def merge(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, MergedCheck]:
    """(merged model, its comparison with the adapter).

    Args:
        model: peft model in float32 on the CPU. It is merged in place; do not use it afterwards. prompts: token ids.

    Raises:
        RaymillError: the logits differ by more than the tolerance, or a merged weight is not finite.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "a merge in fewer bits rounds the adapter away"
    model.eval()
    wanted = [logits(model, ids) for ids in prompts]
    with model.disable_adapter():
        effect = _difference(model, prompts, wanted)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise RaymillError(
            f"export: the adapter cannot be merged ({error}). The adapter itself is exported; set export.merged: false "
            "to leave out the merged model."
        ) from error
    return merged, compare_logits(merged, prompts, wanted, effect)


def compare_logits(
    merged: Any, prompts: Sequence[Sequence[int]], wanted: Sequence[torch.Tensor], effect: float
) -> MergedCheck:
    """Compare a merged model's logits with the adapter's.

    Args:
        wanted: the adapter's logits, float32[tokens, vocabulary] for each prompt. effect: largest difference of
            adapter and base.

    Raises:
        RaymillError: a difference is above the tolerance or not finite.
    """
    largest = max((float(kept.abs().max()) for kept in wanted), default=0.0)
    found = _difference(merged, prompts, wanted)
    tolerance = _LOGIT_FRACTION * largest + _EFFECT_FRACTION * effect
    if not found <= tolerance:
        raise RaymillError(
            f"export: the merged model's logits differ from the adapter's by up to {found:.3g} on {len(prompts)} "
            f"prompts; {tolerance:.3g} was allowed (largest logit {largest:.3g}, the adapter moves them by up to "
            f"{effect:.3g}). The adapter itself is exported; set export.merged: false to leave out the merged model."
        )
    return {
        "prompts": len(prompts),
        "tokens": sum(map(len, prompts)),
        "max_abs_difference": found,
        "tolerance": tolerance,
        "adapter_effect": effect,
        "largest_logit": largest,
    }


def logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """The logits of one prompt, float32[tokens, vocabulary]."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def _difference(model: Any, prompts: Sequence[Sequence[int]], wanted: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference of the logits; NaN if a logit is NaN."""
    pairs = zip(prompts, wanted, strict=True)
    # np.max returns NaN if a value is NaN; Python's max may not.
    return float(np.max([0.0, *(float((logits(model, ids) - kept).abs().max()) for ids, kept in pairs)]))


def first_tokens(artifacts: Sequence[Artifact], count: int = PROMPTS, tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """The first tokens of at most `count` rows of these packed artifacts, taken from the artifacts in turn."""

    def of(artifact: Artifact) -> Iterator[list[int]]:
        rows = PackedRows(artifact)
        for table in rows.read(evenly_spaced(rows.rows, count)):
            yield table["ids"][0].as_py()[:tokens]
        rows.close()

    sources = [list(of(artifact)) for artifact in artifacts]
    longest = max(map(len, sources), default=0)
    in_turn = [source[at] for at in range(longest) for source in sources if at < len(source)]
    return in_turn[:count]
