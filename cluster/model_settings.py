"""What a model's config.json may not hold, whichever library reads it."""

import re
from typing import Any

from cluster.errors import ConfigError

# Settings that count parts of a model, and their bound: the deepest models of the hub have about 130 layers, the widest
# 512 experts. torch makes some thousand modules a second, also without memory for their weights.
_COUNTS = re.compile(r"(?:\w+_)?(?:layers?|experts?|heads?|blocks?|depth)|attention_types")
_LARGEST_COUNT = 4096


def refuse_hostile(settings: Any, where: str, name: str = "") -> None:
    """Check a config.json before transformers reads it: many of its classes make a list with an entry for each layer.

    Args:
        settings: config.json, or a value in it. name: the setting that has this value.

    Raises:
        ConfigError: it names code of a hub, such as the kernel of an attention, which transformers would run if its
            package `kernels` is installed; or a number of layers, heads or experts is beyond all models.
    """
    if isinstance(settings, dict | list):
        for key, value in settings.items() if isinstance(settings, dict) else ((name, one) for one in settings):
            refuse_hostile(value, where, name if "_implementation" in name else key)
    elif "_implementation" in name and isinstance(settings, str) and "/" in settings:
        raise ConfigError(
            f"{where}: {name} names code of a hub, {settings[:80]!a}. Code from a model's folder or a hub is never "
            "run: remove this line from the file."
        )
    elif isinstance(settings, int | float) and settings > _LARGEST_COUNT and _COUNTS.fullmatch(name):
        raise ConfigError(
            f"{where}: {name} is {settings:,}, and no model has more than {_LARGEST_COUNT:,}. Correct the file, or "
            "fetch it again."
        )
