"""An adapter merged into its base, and the proof that the merged model says the same.

Merging adds the adapter's product to each weight in float32, so only rounding may differ. How far logits may be apart
is therefore measured by two things: their own size (float32 keeps about seven digits, and layers add up their errors),
and how much the adapter moves them at all, so that an adapter of small effect cannot hide a merge that lost it.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cluster.errors import RaymillError
from training.data.packed import PackedRows
from training.evaluation.prompts import spread

if TYPE_CHECKING:
    import torch

    from cluster.artifact import Artifact

PROMPTS, PROMPT_TOKENS = 8, 64

# Of the largest logit, and of the adapter's largest effect.
_OF_LOGITS, _OF_EFFECT = 1e-5, 1e-2


class MergedCheck(TypedDict):
    """Logits of the merged model against the adapter's, over all positions of the prompts.

    max_abs_difference: of the two. tolerance: what it may be. adapter_effect: largest difference of adapter and base.
    largest_logit: of the adapter's, without sign.
    """

    prompts: int
    tokens: int
    max_abs_difference: float
    tolerance: float
    adapter_effect: float
    largest_logit: float


def merge(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, MergedCheck]:
    """The base with the adapter in its weights, in place, and how it compares.

    Args:
        model: peft model in float32 on the CPU; not to be used again. prompts: token ids.

    Raises:
        RaymillError: the merged model says something else, or a merged weight is not finite.
    """
    import torch

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
            "to go without the merged model."
        ) from error
    return merged, compare(merged, prompts, wanted, effect)


def compare(
    merged: Any, prompts: Sequence[Sequence[int]], wanted: Sequence["torch.Tensor"], effect: float
) -> MergedCheck:
    """
    Args:
        wanted: the adapter's logits, float32[tokens, vocabulary] for each prompt.

    Raises:
        RaymillError: a difference is over the tolerance, or no number.
    """
    largest = max((float(kept.abs().max()) for kept in wanted), default=0.0)
    found = _difference(merged, prompts, wanted)
    tolerance = _OF_LOGITS * largest + _OF_EFFECT * effect
    if not found <= tolerance:
        raise RaymillError(
            f"export: the merged model's logits differ from the adapter's by up to {found:.3g} on {len(prompts)} "
            f"prompts; {tolerance:.3g} was allowed (largest logit {largest:.3g}, the adapter moves them by up to "
            f"{effect:.3g}). The adapter itself is exported; set export.merged: false to go without the merged model."
        )
    return {
        "prompts": len(prompts),
        "tokens": sum(map(len, prompts)),
        "max_abs_difference": found,
        "tolerance": tolerance,
        "adapter_effect": effect,
        "largest_logit": largest,
    }


def logits(model: Any, ids: Sequence[int]) -> "torch.Tensor":
    """float32[tokens, vocabulary] of one prompt."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def _difference(model: Any, prompts: Sequence[Sequence[int]], wanted: Sequence["torch.Tensor"]) -> float:
    """The largest one, without sign; no number where a logit is none."""
    pairs = zip(prompts, wanted, strict=True)
    # np.max, since Python's passes over what is no number.
    return float(np.max([0.0, *(float((logits(model, ids) - kept).abs().max()) for ids, kept in pairs)]))


def first_tokens(artifacts: Sequence["Artifact"], count: int = PROMPTS, tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """The first tokens of `count` rows from all over these packed artifacts, in turn; fewer where there are fewer."""

    def of(artifact: "Artifact") -> Iterator[list[int]]:
        rows = PackedRows(artifact)
        for table in rows.read(spread(rows.rows, count)):
            yield table["ids"][0].as_py()[:tokens]
        rows.close()

    sources = [list(of(artifact)) for artifact in artifacts]
    longest = max(map(len, sources), default=0)
    dealt = [source[at] for at in range(longest) for source in sources if at < len(source)]
    return dealt[:count]
