"""What a model's config.json and tokenizer.json may not hold, whichever library reads them."""

import base64
import re
from math import prod
from typing import Any

from raymill.cluster.errors import ConfigError

# Settings that count parts of a model, and their bound: the deepest models of the hub have about 130 layers, the widest
# 512 experts. torch makes some thousand modules a second, also without memory for their weights.
_COUNTS = re.compile(r"(?:\w+_)?(?:layers?|experts?|heads?|blocks?|depth)|attention_types")
_LARGEST_COUNT = 4096
# transformers names each label of a classifier.
_LABELS = re.compile(r"_?num_labels")
_MOST_LABELS = 100_000
# What replaced or added text is called in a tokenizer.json, and the most characters that may be written for one.
_WRITTEN = ("content", "prepend", "replacement")
_MOST_GROWTH = 256


def refuse_hostile(settings: Any, where: str, name: str = "") -> None:
    """Check a config.json before transformers reads it: many of its classes make a list with an entry for each layer.

    Args:
        settings: config.json, or a value in it. name: the setting that has this value.

    Raises:
        ConfigError: it names code of a hub, such as the kernel of an attention, which transformers would run if its
            package `kernels` is installed, or another file of weights; or a number of layers, heads, experts or labels
            is beyond all models.
    """
    if isinstance(settings, dict | list):
        for key, value in settings.items() if isinstance(settings, dict) else ((name, one) for one in settings):
            refuse_hostile(value, where, name if "_implementation" in name else key)
    elif "_implementation" in name and isinstance(settings, str) and "/" in settings:
        raise ConfigError(
            f"{where}: {name} names code of a hub, {settings[:80]!a}. Code from a model's folder or a hub is never "
            "run: remove this line from the file."
        )
    elif name == "transformers_weights" and settings is not None:
        raise ConfigError(
            f"{where}: {name} names other weights than model.safetensors, {str(settings)[:80]!a}, which may lie "
            "anywhere. Remove this line from the file."
        )
    elif isinstance(settings, int | float):
        most = _MOST_LABELS if _LABELS.fullmatch(name) else _LARGEST_COUNT if _COUNTS.fullmatch(name) else None
        if most is not None and settings > most:
            raise ConfigError(
                f"{where}: {name} is {settings:,}, and no model has more than {most:,}. Correct the file, or fetch it "
                "again."
            )


def refuse_growing(parts: Any, where: str) -> None:
    """Check a tokenizer.json for steps that multiply a text: a few of them make gigabytes of a line.

    Raises:
        ConfigError: one writes more than 256 characters for one.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if isinstance(parts, dict) and (growth := _growth(parts.get(part))) > _MOST_GROWTH:
            raise ConfigError(
                f"{where}: its {part} may write {growth:,} characters for one, and tokenizers write a few. Take "
                "another tokenizer."
            )


def _growth(part: Any) -> int:
    """The most characters that a part of a tokenizer writes for one that it reads, of its steps together."""
    if isinstance(part, list):
        return prod(map(_growth, part))
    if not isinstance(part, dict):
        return 1
    if part.get("type") == "ByteLevel":
        return 4  # a character for each byte in UTF-8
    written = [part[name] for name in _WRITTEN if isinstance(part.get(name), str)]
    if charsmap := base64.b64decode(part.get("precompiled_charsmap") or b""):
        # Of sentencepiece: the length of an index, the index, and the texts to write, each with a zero byte at its end.
        index = int.from_bytes(charsmap[:4], "little")
        written += charsmap[4 + index :].decode(errors="replace").split("\0")
    longest = max(map(len, written), default=1)
    return max(longest, 1) * prod(_growth(inner) for inner in part.values() if isinstance(inner, list))
