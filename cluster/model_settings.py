"""What a model's config.json and tokenizer.json may not hold, whichever library reads them."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import Exceeded, Guard, WorkBounds

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
# Bounds on loading a tokenizer. One with 256,000 tokens takes 2 s (2026-11-26, AMD EPYC) and 350 MiB.
LOADING = WorkBounds(60.0, 2 << 30)
# Bounds on making a model without memory for its weights: 1 s for 32 layers.
MAKING = WorkBounds(60.0, 4 << 30)
# The smallest weights have 2 bits. Buffers that are not stored, such as masks of all positions, have some megabytes.
_VALUES_PER_BYTE, _MOST_BUFFERS = 4, 1 << 30
_LARGEST_ID = (1 << 31) - 1
# Tokens beside the vocabulary, which every process looks for in each text: 20,000 take 10 s in all, known ones have
# some thousand.
_MOST_BESIDE = 20_000
_LONGEST_TOKEN = 10_000  # characters that a token stands for
_MOST_ADDED = 64  # tokens that a post-processor may add to a text
_TOKENIZER = re.compile(r"token|vocab|merges|\.model$")
# Files whose values transformers gives to the class of the tokenizer as arguments, and the arguments that name files.
_ARGUMENTS = ("tokenizer_config.json", "special_tokens_map.json")
_FILE_ARGUMENTS = re.compile(
    r"(?:\w+_)?(?:file|files|path|paths|dir|directory|folder|vocab|merges|rules|spm|dic|option|kwargs|object)|init_inputs|subfolder"
)
_SPECIAL_TOKENS = re.compile(r"\w+_tokens?")
# Names of files for versions of transformers, which are files beside this one.
_FILES_BY_VERSION = "fast_tokenizer_files"


def refuse_hostile(settings: Any, where: str, name: str = "") -> None:
    """Check a config.json before transformers reads it: many of its classes make a list with an entry for each layer.

    Args:
        settings: config.json, or a value in it. name: the setting that has this value.

    Raises:
        ConfigError: it names code of a hub, such as the kernel of an attention, which transformers would run if its
            package `kernels` is installed, or another file of weights or settings; or a number of layers, heads,
            experts or labels is beyond all models.
    """
    if name == "configuration_files" and settings:
        raise ConfigError(
            f"{where}: {name} names other files of settings, {str(settings)[:80]!a}, which may lie anywhere. Remove "
            "this line from the file."
        )
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


def without_file_arguments(name: str, data: bytes) -> bytes:
    """A file of a tokenizer without values that name other files.

    transformers gives the values in tokenizer_config.json and special_tokens_map.json to the class of the tokenizer,
    and most classes open a text as `vocab` or `merges` as a file. So the vocabulary would be the lines of any file of
    the user, and end in exports. Without these values, transformers takes the files beside this one.

    Args:
        name: of the file, without a folder. data: its content.

    Returns:
        The content as it is, if the file is of another name, or has no such value, or is no JSON object.
    """
    if name not in _ARGUMENTS:
        return data
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):  # transformers names it
        return data
    if not isinstance(plain, dict):
        return data
    kept = {key: value for key, value in plain.items() if _is_harmless(name, key, value)}
    return data if len(kept) == len(plain) else json.dumps(kept).encode()


def _is_harmless(name: str, key: str, value: Any) -> bool:
    """Whether a value of a tokenizer's file names no file in another folder."""
    if name == "special_tokens_map.json":
        return _SPECIAL_TOKENS.fullmatch(key) is not None
    if key == _FILES_BY_VERSION:
        return isinstance(value, list) and not any("/" in str(one) or "\\" in str(one) for one in value)
    return _FILE_ARGUMENTS.fullmatch(key) is None


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer."""
    return _TOKENIZER.search(name) is not None


def check_tokenizer(load: Callable[[], Any], where: str) -> None:
    """Load a tokenizer in a child process with bounds, and check its parts.

    Its normalizer is applied to its added tokens while it is loaded, so a small file can take any time and memory.

    Args:
        load: returns a tokenizer of transformers.

    Raises:
        ConfigError: loading takes too much time or memory, or ends the process; or as `_refuse_parts`.
        Exception: what `load` raises.
    """

    def check(_: None) -> None:
        if backend := getattr(load(), "backend_tokenizer", None):  # a slow one has none
            _refuse_parts(json.loads(backend.to_str()), where)

    try:
        Guard(check)(None, LOADING)
    except Exceeded as error:
        raise ConfigError(
            f"{where}: the tokenizer cannot be loaded within its bounds ({error.seen}), and large ones take 2 s and "
            "350 MiB. Take another tokenizer."
        ) from error


def check_size(make: Callable[[], Any], stored: int | None, where: str) -> None:
    """Make a model without memory for its weights, in a child process with bounds, and compare it with its files.

    Weights that the files lack are made when a model is loaded, and so are masks and tables of its positions, whose
    sizes are numbers in config.json.

    Args:
        make: returns the model, on torch's device `meta`. stored: bytes of its files of weights; None if they are
            elsewhere.

    Raises:
        ConfigError: making it takes too much time or memory, or it has far more weights than its files, or buffers of
            over a gigabyte more.
        Exception: what `make` raises.
    """

    def sizes(_: None) -> tuple[int, int]:
        model = make()
        buffers = sum(one.numel() * one.element_size() for one in model.buffers())
        return sum(one.numel() for one in model.parameters()), buffers

    try:
        values, buffers = Guard(sizes)(None, MAKING)
    except Exceeded as error:
        raise ConfigError(
            f"{where}: making the model, still without its weights, goes beyond the bounds ({error.seen}); large ones "
            "take seconds. Correct the numbers in config.json, or fetch the model again."
        ) from error
    if stored is not None and values > _VALUES_PER_BYTE * (stored + (1 << 20)):
        raise ConfigError(
            f"{where}: config.json describes {values:,} weights, and the files have {stored:,} bytes. Correct its "
            "numbers, or fetch the model again."
        )
    if buffers > (stored or 0) + _MOST_BUFFERS:
        raise ConfigError(
            f"{where}: by its config.json the model has {buffers:,} bytes of buffers, such as masks of its positions. "
            "Correct the numbers, or fetch the model again."
        )


def _refuse_parts(parts: dict[str, Any], where: str) -> None:
    """Check a tokenizer.json.

    Raises:
        ConfigError: a part writes more than 256 characters for one, and a few such make gigabytes of a line; a token
            stands for more than 10,000 characters; decoding has a regular expression; it has over 20,000 added tokens,
            or its post-processor adds over 64; a token id is beyond int32; merges are left out at random.
    """
    if (beside := len(parts["added_tokens"])) > _MOST_BESIDE:
        raise ConfigError(
            f"{where}: has {beside:,} added tokens, over {_MOST_BESIDE:,}, which make each process slow and large. Put "
            "them into its vocabulary, or take another tokenizer."
        )
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (growth := _growth(parts[name])) > _MOST_GROWTH:
            raise ConfigError(
                f"{where}: its {name} may write {growth:,} characters for one, and tokenizers write a few. Take "
                "another tokenizer."
            )
    vocabulary = parts["model"]["vocab"]  # a list of [token, score] in Unigram models
    texts = [*(one if isinstance(one, str) else one[0] for one in vocabulary)]
    texts += [token["content"] for token in parts["added_tokens"]]
    if (longest := max(map(len, texts), default=0) * _growth(parts["decoder"])) > _LONGEST_TOKEN:
        raise ConfigError(
            f"{where}: has a token that stands for {longest:,} characters, so a short answer may take gigabytes. Known "
            "tokens have some hundred. Take another tokenizer."
        )
    if _has_expression(parts["decoder"]):
        raise ConfigError(
            f"{where}: its decoder has a regular expression, which could take any time; known ones have none. "
            "Take another tokenizer."
        )
    if (added := sum(_added(parts["post_processor"]))) > _MOST_ADDED:
        raise ConfigError(
            f"{where}: its post_processor adds {added:,} tokens to each text, and tokenizers add one or two. Take "
            "another tokenizer."
        )
    largest = max(_numbers([parts["model"]["vocab"], parts["added_tokens"], parts["post_processor"]]), default=0)
    if largest > _LARGEST_ID:
        raise ConfigError(
            f"{where}: has the token id {largest:,}; ids go up to {_LARGEST_ID:,}. Correct tokenizer.json, or take "
            "another tokenizer."
        )
    if dropout := parts["model"].get("dropout"):
        raise ConfigError(
            f"{where}: leaves out merges at random (dropout {dropout}), so a text has other tokens each time. Set "
            '"dropout" to null in the "model" of tokenizer.json.'
        )


def _has_expression(part: Any) -> bool:
    if isinstance(part, dict):
        return "Regex" in part or any(map(_has_expression, part.values()))
    return isinstance(part, list) and any(map(_has_expression, part))


def _added(part: Any) -> Iterator[int]:
    """The numbers of tokens that the parts of a post-processor add to a text."""
    if isinstance(part, list):
        for inner in part:
            yield from _added(inner)
    elif isinstance(part, dict) and part.get("type") == "TemplateProcessing":
        lengths = {name: len(token["ids"]) for name, token in part["special_tokens"].items()}
        yield sum(lengths[piece["SpecialToken"]["id"]] for piece in part["single"] if "SpecialToken" in piece)
    elif isinstance(part, dict):
        yield from _added(part.get("processors", []))


def _numbers(part: Any) -> Iterator[int]:
    """All whole numbers in a value of JSON."""
    if isinstance(part, int):
        yield part
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _numbers(inner)


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
        # sentencepiece's form: the length of an index, the index, and the texts to write, each ended by a zero byte.
        index = int.from_bytes(charsmap[:4], "little")
        written += charsmap[4 + index :].decode(errors="replace").split("\0")
    longest = max(map(len, written), default=1)
    return max(longest, 1) * prod(_growth(inner) for inner in part.values() if isinstance(inner, list))
