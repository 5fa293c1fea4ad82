"""How many bytes of activations the backward pass finds, for a decoder of the Llama kind.

Letters: H hidden size, F feed-forward size, Q = heads x head size, K = key-value heads x head size, T positions of a row,
c bytes of a value that matrix products compute with (2 or 4), r bytes of a value of the residual stream.

The method is Korthikanti et al. 2022 (arXiv 2205.05198), section 4: go through a layer and count what each operation
keeps. Theirs is GPT with LayerNorm, GELU and dropout: s b h (34 + 5 a s / h) bytes. Ours, per token and layer, as
transformers computes Llama (RMSNorm in float32, SwiGLU, grouped queries, no dropout):

    norms        2 (4 H + r H)    the input in float32, and the normalised values if the norm's weight is trained
    inputs       2 c H            of q, k, v together and of gate, up together, if those weights are trained;
                 5 c H            where r > c, since autocast casts for each product anew
    adapters     c (5 H + Q + F)  instead: LoRA casts the input of each of its seven A matrices
    attention    c (2 Q + 2 K)    q, k, v and the result; K counts as Q where a mask makes transformers repeat heads
                 c T              the mask, where there is one (sdpa); eager keeps all scores: heads T (4 + c)
    SwiGLU       4 c F            gate, its activation, up, their product (the last only if `down` is trained)

The `varlen` and flash kernels keep no mask and no scores: attention inside documents costs them nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.plan.shape import Shape


@dataclass(frozen=True)
class Pass:
    """How a forward pass computes. attention: `kernel` (varlen, flash), `mask` (sdpa) or `scores` (eager).

    compute_bytes, residual_bytes: c and r. whole: all weights train, not an adapter. adapted: of lora and its kin.
    """

    tokens: int
    length: int
    compute_bytes: int
    residual_bytes: int
    whole: bool
    adapted: bool
    attention: str
    checkpointing: bool


def saved_by_layer(shape: "Shape", how: Pass) -> int:
    """Bytes that one layer keeps for the backward pass."""
    c, r, h, f = how.compute_bytes, how.residual_bytes, shape.hidden, shape.feed_forward
    norms = 2 * (4 * h + (r * h if how.whole else 0) + 4)
    if how.whole:
        inputs = c * h * (5 if r > c else 2)
    else:
        inputs = c * (5 * h + shape.query + f) if how.adapted and c < 4 else c * 2 * h
    keys = shape.query if how.attention == "mask" else shape.key
    attention = c * (2 * shape.query + 2 * keys) + 4 * shape.heads
    if how.attention == "mask":
        attention += c * how.length
    elif how.attention == "scores":
        attention += shape.heads * how.length * (4 + c)
    swiglu = c * f * (4 if how.whole or (how.adapted and c == 4) else 3)
    return how.tokens * (norms + inputs + attention + swiglu)


def activation_bytes(shape: "Shape", how: Pass) -> int:
    """At the fullest moment, when the backward pass begins: what all layers keep, and what computing one layer needs.

    With checkpointing each layer keeps its input alone, and the one being computed again keeps all.
    """
    c, r, h = how.compute_bytes, how.residual_bytes, shape.hidden
    layer = saved_by_layer(shape, how)
    # The last norm, the rotary table, the hidden states with their gradient.
    ends = how.tokens * (8 * h + 2 * r * h + 4 * shape.query // max(shape.heads, 1))
    # Gradients inside the layer at work: of the SwiGLU's three, of the norms in float32.
    work = how.tokens * (3 * c * shape.feed_forward + (2 * r + 8) * h)
    if how.checkpointing:
        return shape.layers * how.tokens * r * h + layer + work + ends
    return shape.layers * layer + work + ends


def logit_bytes(shape: "Shape", chunk_tokens: int, compute_bytes: int) -> int:
    """Of one chunk of positions: float32 log-probabilities and two gradients of them, and the gradient as computed with.

    The gradient of the lm_head's weight is there once more while a chunk is added to it.
    """
    return chunk_tokens * shape.vocabulary * (12 + compute_bytes)
