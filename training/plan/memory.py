"""How much memory a GPU needs for a training, part by part, for each engine: arithmetic on a model's shape.

Letters: N trained values, M frozen ones, W workers. Bytes a worker holds, as the engines of this project keep them
(float32 masters everywhere: see training/engines):

                    weights                gradients        AdamW (masters and averages)
    ddp             4 N + m M              4 N              8 N            the weights are the masters
    fsdp2           (4 N + m M) / W        4 N / W          8 N / W        the same, each worker a part
    zero1, bf16     2 (N + M)              4 N + 2 N        12 N / W       gradients as computed and summed in float32
    zero2, bf16     2 (N + M)              4 N / W          12 N / W
    zero3, bf16     2 (N + M) / W          4 N / W          12 N / W       and whole what is smaller than 100,000 values
    zero*, float32  4 instead of 2                          12 N / W       masters are kept beside the weights

m is 2 in a bf16 run (frozen weights are stored in bf16), 4 in float32; 4-bit weights take 0.516 bytes (NF4 with scales
quantised twice, Dettmers et al. 2023). Rajbhandari et al. 2020 (arXiv 1910.02054) count 2 + 2 + 12 bytes
a value of mixed-precision Adam; here the gradients add up in float32, so it is 2 + 4 + 12.

Offload moves AdamW's part, and with it the gradients' sum, to CPU memory; `parameters` moves the weights' parts too.
Activations are counted in activations.py. Nothing here allocates, and nothing asks a GPU.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from training.data.loader import micro_rows
from training.plan.activations import Pass, activation_bytes, logit_bytes
from training.plan.states import states, step_bytes

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.plan.shape import Shape

GIB = 1 << 30
# CUDA's context, cuBLAS' and NCCL's workspaces.
CONTEXT_BYTES = GIB


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. All but `host` are device memory; host: what offload puts into CPU memory.

    logits: of one chunk of positions, with the gradient of the lm_head. buffers: what an engine gathers, casts or
    sends, at most. step: what the optimizer's step needs beyond all that the backward pass held; 0 where it needs less.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    step: int
    context: int
    host: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values()) - self.host

    def parts(self) -> dict[str, int]:
        return asdict(self)

    @property
    def states(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer


def memory(config: "TrainConfig", shape: "Shape", micro_batch: int | None = None, workers: int | None = None) -> Memory:
    """Of `config` as it stands, on the fewest workers it may have unless said otherwise.

    micro_batch: rows at once; default: the config's, or about 8,192 positions (choices.py has the largest that fits).
    """
    world = workers or config.workers.range[0]
    how = forward_pass(config, shape, micro_batch or micro_rows(config, world))
    engine = states(config, shape, world)
    activations, logits = activation_bytes(shape, how), _logits(config, shape, how)
    return Memory(
        **engine,
        activations=activations,
        logits=logits,
        step=max(0, step_bytes(config, shape, world) - activations - logits - engine["buffers"]),
        context=CONTEXT_BYTES if config.workers.gpus_each else 0,
    )


def _logits(config: "TrainConfig", shape: "Shape", how: Pass) -> int:
    if config.method == "probe":
        return 0
    positions = min(config.loss_chunk, how.tokens)
    full, head = config.method == "full", shape.vocabulary * shape.hidden
    if config.engine == "zero3":  # loss.py, chunked: the lm_head's gradient of a chunk as computed, and their sum
        chunk = logit_bytes(shape, positions, how.compute_bytes)
        return chunk + head * (6 if config.bf16 else 4) if full else chunk
    # Logits, probabilities and what cross entropy keeps of them in float32; in bf16 the gradient is one more.
    chunk = positions * shape.vocabulary * (14 if config.bf16 else 12)
    if not full:
        return chunk
    # loss.py, fused, at its three fullest moments: as a chunk's gradient is made, beside the lm_head's in float32; as
    # it is added to that, by a product of its own in bf16 (which CPUs cast besides); as the backward pass begins.
    added = 0 if not config.bf16 else 2 if config.workers.gpus_each else 6
    gradient = how.compute_bytes * positions * shape.vocabulary
    return max(chunk + 4 * head, gradient + (4 + added) * head, 8 * head)


def forward_pass(config: "TrainConfig", shape: "Shape", micro_batch: int) -> Pass:
    """How this config computes. attention `auto` takes the kernel without a mask where models/attention.py does."""
    virtual = config.method in ("prefix", "prompt")
    kernel = config.attention in ("varlen", "flash_attention_2") or (
        config.attention == "auto" and config.workers.gpus_each > 0 and config.bf16 and shape.varlen and not virtual
    )
    adapts = config.method in ("lora", "qlora")
    masters_compute = config.engine == "ddp" and config.method == "full"
    return Pass(
        tokens=micro_batch * config.sequence_length,
        length=config.sequence_length,
        compute_bytes=2 if config.bf16 else 4,
        residual_bytes=2 if config.bf16 and not masters_compute else 4,
        whole=config.method == "full",
        adapter_rank=config.lora.rank if adapts else 0,
        adapter_casts=adapts and config.bf16 and (config.lora.dora or config.lora.dropout > 0),
        attention="kernel" if kernel else "scores" if config.attention == "eager" else "mask",
        checkpointing=config.activation_checkpointing,
        backward=config.method != "probe",
    )
