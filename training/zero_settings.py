"""DeepSpeed's settings for a config. Pure: `raymill plan` reads the buffer sizes from here without loading torch."""

from typing import Any

from training.config import TrainConfig

# Values of one communication, and of the buffer that it needs.
BUCKET_VALUES = 1 << 26
# ZeRO-3 keeps tensors of fewer values whole on every worker: norms, and the matrices of most adapters.
WHOLE_BELOW_VALUES = 100_000


def zero_settings(config: TrainConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `world` workers.

    `gradient_accumulation_steps` is 1 because the engine itself marks the last micro-batch of a step.
    """
    gpu = config.workers.gpus_each > 0
    stage = int(config.engine.removeprefix("zero"))
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_VALUES,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": BUCKET_VALUES,
            "stage3_param_persistence_threshold": WHOLE_BELOW_VALUES,
        }
    else:
        zero["allgather_bucket_size"] = BUCKET_VALUES
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": gpu}
    settings: dict[str, Any] = {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip or 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.bf16:
        # Matrix products in bf16; master weights, averages and summed gradients in float32.
        settings |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return settings
