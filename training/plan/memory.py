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

from cluster.errors import ConfigError
from training.data.loader import micro_rows
from training.plan.activations import Pass, activation_bytes, logit_bytes
from training.plan.states import states

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.plan.shape import Shape

GIB = 1 << 30
# CUDA's context, cuBLAS' and NCCL's workspaces.
CONTEXT_BYTES = GIB
# Of a GPU's memory, what the allocator can use before fragments get in the way.
USABLE = 0.95

# From the least communication to the most; what is offloaded comes last, because it is slowest.
CHOICES = (
    ("ddp", "none"),
    ("zero1", "none"),
    ("zero2", "none"),
    ("fsdp2", "none"),
    ("zero3", "none"),
    ("zero2", "optimizer"),
    ("zero3", "optimizer"),
    ("zero3", "parameters"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. All but `host` are device memory; host: what offload puts into CPU memory.

    logits: of one chunk of positions. buffers: what an engine gathers, casts or sends, at most.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
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
    """Of `config` as it stands, with as many rows at once as training takes, on the fewest workers it may have."""
    world = workers or config.workers.range[0]
    how = forward_pass(config, micro_batch or micro_rows(config, world))
    return Memory(
        **states(config, shape, world),
        activations=activation_bytes(shape, how),
        logits=_logits(config, shape, how),
        context=CONTEXT_BYTES if config.workers.gpus_each else 0,
    )


def _logits(config: "TrainConfig", shape: "Shape", how: Pass) -> int:
    if config.method == "probe":
        return 0
    chunk = logit_bytes(shape, min(config.loss_chunk_tokens, how.tokens), how.compute_bytes)
    if config.method != "full":
        return chunk
    # The lm_head's gradient of a chunk, as computed and, in bf16, as it is added up.
    return chunk + shape.vocabulary * shape.hidden * (6 if config.bf16 else 4)


def forward_pass(config: "TrainConfig", micro_batch: int) -> Pass:
    """How this config computes. On GPUs `auto` means the kernel that needs no mask, see models/attention.py."""
    kernel = config.attention in ("varlen", "flash_attention_2") or (
        config.attention == "auto"
        and config.workers.gpus_each > 0
        and config.bf16
        and config.method not in ("prefix", "prompt")
    )
    masters_compute = config.engine == "ddp" and config.method == "full"
    return Pass(
        tokens=micro_batch * config.sequence_length,
        length=config.sequence_length,
        compute_bytes=2 if config.bf16 else 4,
        residual_bytes=2 if config.bf16 and not masters_compute else 4,
        whole=config.method == "full",
        adapter_rank=config.lora.rank if config.method in ("lora", "qlora") else 0,
        attention="kernel" if kernel else "scores" if config.attention == "eager" else "mask",
        checkpointing=config.activation_checkpointing,
        backward=config.method != "probe",
    )


def possible_choices(config: "TrainConfig") -> list["TrainConfig"]:
    """The config with each engine and offload that it could have, in the order of CHOICES."""
    found = []
    for engine, offload in CHOICES:
        if config.method == "qlora" and engine != "ddp":
            continue
        if config.compile is True and engine == "zero3":
            continue
        if not config.workers.gpus_each and offload != "none":
            continue
        found.append(config.model_copy(update={"engine": engine, "offload": offload}))
    return found


def fits(config: "TrainConfig", shape: "Shape", device_bytes: float, micro_batch: int | None = None) -> bool:
    """Whether one worker's part has room in a device of so many bytes."""
    return memory(config, shape, micro_batch).total <= USABLE * device_bytes


def smallest_fitting(config: "TrainConfig", shape: "Shape", device_bytes: float) -> "TrainConfig | None":
    """The config with the simplest engine that fits, with its own rows at once or else with one; None: nothing does.

    Fewer rows at once cost little, since a step has as many rows as before; a heavier engine costs time in every step.
    """
    for choice in possible_choices(config):
        for rows in (None, 1):
            if fits(choice, shape, device_bytes, rows):
                return choice if rows is None else choice.model_copy(update={"micro_batch": rows})
    return None


def largest_micro_batch(config: "TrainConfig", device_bytes: float) -> int:
    """The largest power of two of rows that fits, at least 1."""
    from training.plan.shape import shape_of

    shape, rows = shape_of(config), 1
    while rows < 1024 and fits(config, shape, device_bytes, 2 * rows):
        rows *= 2
    return rows


def check_memory(config: "TrainConfig") -> None:
    """Nothing, unless the config says what a GPU has (`device_memory_gib`).

    Raises:
        ConfigError: the training cannot fit, with what it needs by part and the smallest change that would.
    """
    if config.device_memory_gib is None:
        return
    from training.plan.shape import shape_of

    shape, device = shape_of(config), config.device_memory_gib * GIB
    need = memory(config, shape)
    if need.total <= USABLE * device:
        return
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in asdict(need).items() if size and name != "host")
    raise ConfigError(
        f"device_memory_gib: a worker needs about {need.total / GIB:.1f} GiB ({parts}) with engine {config.engine} and "
        f"micro_batch {micro_rows(config, config.workers.range[0])}; the GPU has {config.device_memory_gib:g}, of "
        f"which {USABLE:.0%} can be used. {mend(config, shape, device)}"
    )


def mend(config: "TrainConfig", shape: "Shape", device_bytes: float) -> str:
    """What to set so that it fits; a sentence."""
    tries = [config, config.model_copy(update={"activation_checkpointing": True})]
    for number, one in enumerate(tries):
        if (found := smallest_fitting(one, shape, device_bytes)) is not None:
            settings = {
                "engine": found.engine,
                "offload": found.offload,
                "micro_batch": found.micro_batch,
                "activation_checkpointing": found.activation_checkpointing,
            }
            changed = [
                f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
                for name, value in settings.items()
                if value != getattr(config, name)
            ]
            return f"The smallest change that fits: {', '.join(changed)}."
        if number == 0 and (config.activation_checkpointing or config.method == "prefix"):
            break
    more = "method lora, " if config.method == "full" else ""
    least = config.workers.range[0]
    workers = "1 worker" if least == 1 else f"{least} workers"
    return f"No engine fits on {workers}: use {more}more workers, or a shorter sequence_length."
