"""How many bytes of activations the backward pass finds, for a decoder of the Llama kind.

Letters: H hidden size, F feed-forward size, Q = heads x head size, K = key-value heads x head size, T positions of a
row, R an adapter's rank, c bytes of a value that products compute with (2 or 4), r bytes of one of the residual stream.

The method is Korthikanti et al. 2022 (arXiv 2205.05198), section 4: go through a layer and count what each operation
keeps. Theirs is GPT with LayerNorm, GELU and dropout: s b h (34 + 5 a s / h) bytes. Ours, per token and layer, as
transformers computes Llama (RMSNorm in float32, SwiGLU, grouped queries, no dropout):

    norms        2 (4 H + r H)    the input in float32, and the normalised values if the norm's weight is trained
    inputs       2 c H            of q, k, v together and of gate, up together, if those weights are trained;
                 5 c H            where r > c, since autocast casts for each product anew
    adapters     2 c H            as those inputs, for LoRA's A matrices
                 c (5 H + Q + F)  instead, in bf16 with dropout or DoRA: peft casts the input of each of the seven
                 7 c R            and what comes out of them, R values each
    attention    c (2 Q + 2 K)    q, k, v and the result; K counts as Q where a mask makes transformers repeat heads
                 c T              the mask, where there is one (sdpa); eager keeps all probabilities: heads T 4,
                                  and in bf16 a copy of them
    SwiGLU       4 c F            gate, its activation, up, their product (the last only if `down` or an adapter of it
                                  is trained, and not cast)

The `varlen` and flash kernels keep no mask and no scores: attention inside documents costs them nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.plan.shape import Shape


@dataclass(frozen=True)
class Pass:
    """How a forward pass computes. attention: `kernel` (varlen, flash), `mask` (sdpa) or `scores` (eager).
    backward: false where nothing is kept for one (probe). adapter_rank: of lora and its kin, else 0. adapter_casts:
    peft casts what enters its matrices.

    compute_bytes, residual_bytes: c and r. whole: all weights train, not an adapter.
    """

    tokens: int
    length: int
    compute_bytes: int
    residual_bytes: int
    whole: bool
    adapter_rank: int
    adapter_casts: bool
    attention: str
    checkpointing: bool
    backward: bool


def saved_by_layer(shape: "Shape", how: Pass) -> int:
    """Bytes that one layer keeps for the backward pass."""
    c, r, h, f = how.compute_bytes, how.residual_bytes, shape.hidden, shape.feed_forward
    norms = 2 * (4 * h + (r * h if how.whole else 0) + 4)
    if how.whole:
        inputs = c * h * (5 if r > c else 2)
    else:
        inputs = c * (5 * h + shape.query + f) if how.adapter_casts else c * 2 * h
        inputs += 7 * c * how.adapter_rank
    keys = shape.key if how.attention == "kernel" else shape.query
    attention = c * (2 * shape.query + 2 * keys) + 4 * shape.heads
    if how.attention == "mask":
        attention += c * how.length
    elif how.attention == "scores":
        attention += shape.heads * how.length * (4 if c == 4 else 4 + c)
    swiglu = c * f * (4 if how.whole or (how.adapter_rank and not how.adapter_casts) else 3)
    return how.tokens * (norms + inputs + attention + swiglu)


def kept_bytes(shape: "Shape", how: Pass) -> int:
    """What the forward pass leaves for the backward pass. With checkpointing, of each layer its input alone."""
    c, r, h = how.compute_bytes, how.residual_bytes, shape.hidden
    # The last norm and its result, the rotary table, token numbers.
    ends = how.tokens * (4 * h + r * h + max(r, c) * h + 8 * shape.query // shape.heads + 32)
    layer = how.tokens * r * h if how.checkpointing else saved_by_layer(shape, how)
    return shape.layers * layer + ends


def activation_bytes(shape: "Shape", how: Pass) -> int:
    """At the fullest moment, as the backward pass enters the last layer: what is kept, and what that layer needs.

    The work: gradients of the SwiGLU's three and, in float32, of the norm; with checkpointing, all that the layer keeps
    when it is computed again.
    """
    c, r, h = how.compute_bytes, how.residual_bytes, shape.hidden
    work = how.tokens * (3 * c * shape.feed_forward + (2 * r + 8) * h)
    if not how.backward:
        return saved_by_layer(shape, how) + how.tokens * r * h
    if how.checkpointing:
        work += saved_by_layer(shape, how)
    return kept_bytes(shape, how) + work


def logit_bytes(shape: "Shape", chunk_tokens: int, compute_bytes: int) -> int:
    """Of one chunk of positions: float32 log-probabilities, two gradients of them, and one as computed with."""
    return chunk_tokens * shape.vocabulary * (12 + compute_bytes)
