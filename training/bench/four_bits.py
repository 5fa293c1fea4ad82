"""A model in memory quantised to 4 bits for QLoRA.

transformers quantises while it loads files, and the benchmark's random weights have none.
"""

from typing import Any

import torch
from torch import nn

from training.models.build import four_bit_settings


def quantise(model: Any) -> Any:
    """Replace every linear module but the lm_head by bitsandbytes' of 4 bits, on the device that it is on.

    One matrix after the other, so that the device holds the whole base in 16 bits and never twice.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    settings = four_bit_settings()
    kind = {
        "quant_type": settings.bnb_4bit_quant_type,
        "compress_statistics": settings.bnb_4bit_use_double_quant,
        "quant_storage": settings.bnb_4bit_quant_storage,
    }
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear) or linear is model.get_output_embeddings():
                continue
            sizes = (linear.in_features, linear.out_features, linear.bias is not None)
            with torch.device("meta"):
                small = Linear4bit(*sizes, compute_dtype=settings.bnb_4bit_compute_dtype, **kind)
            device = linear.weight.device
            small.weight = Params4bit(linear.weight.data, requires_grad=False, module=small, **kind).to(device)
            small.bias = linear.bias
            setattr(parent, name, small)
    model.is_loaded_in_4bit = True  # what peft looks at
    return model
