"""Combine LoRA adapters of one base into one adapter folder, optionally merged into the base. The work of `compose`.

The combination is the weighted sum of the adapters, exactly. Letters: m, n sizes of a matrix, r rank; an adapter adds
s B A to a matrix, with A [r, n], B [m, r] and a scale s.

    w1 s1 B1 A1 + w2 s2 B2 A2  =  [B1 B2] [w1 s1 A1; w2 s2 A2]

Its rank is the sum of the ranks, and nothing is approximated. Adding the A matrices and the B matrices (peft's
`linear`) would also add the cross products B1 A2 and B2 A1.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, TaskType
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymill import cluster
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import Exceeded, Guard, WorkBounds
from raymill.cluster.report.markdown import escaped
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_folder
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_folder.adapter_settings import LARGEST_ALPHA, PLAIN_INITIALISATIONS
from raymill.training.model_folder.folder import model_fingerprint, read_object, read_shapes, refuse_foreign_files
from raymill.training.models.base import load_base
from raymill.training.models.quiet import quiet_libraries

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# peft's names of A and B, of a linear module and of an embedding.
_KINDS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))

# The keys of alpha_pattern are regular expressions of whoever made the adapter.
_pattern_key: Guard[tuple[list[str], str], str] = Guard(lambda found: get_pattern_key(*found))
_OF_A_PATTERN = WorkBounds(5, 1 << 30)
# Names of modules that are no regular expression, or one without repetitions.
_PLAIN = re.compile(r"[\w.-]+")
# Settings of `peft.LoraConfig` about the base model and the shape of its matrices.
_OF_THE_BASE = ("peft_type", "task_type", "base_model_name_or_path", "revision", "fan_in_fan_out")


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter as peft saves it.

    name: for messages. config: adapter_config.json. tensors: adapter_model.safetensors, by peft's names.
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def pairs(self) -> dict[str, tuple[str, str]]:
        """The names of A and B, by the name of the matrix that they adapt."""
        found = {}
        for a, b in _KINDS:
            for key in self.tensors:
                if key.endswith(f".{a}"):
                    found[key.removesuffix(f".{a}")] = (key, key.removesuffix(a) + b)
        return found

    def scale(self, matrix: str, rank: int) -> float:
        """The scale s of a matrix: alpha / rank, or alpha / sqrt(rank) with rsLoRA; `alpha_pattern` is applied."""
        module = matrix.removeprefix(_PREFIX)
        patterns = self.config.get("alpha_pattern") or {}
        try:
            key = _pattern_key((list(patterns), module), _OF_A_PATTERN) if patterns else module
        except (Exceeded, re.error) as error:
            raise ConfigError(
                f"--adapter {self.name}: {CONFIG}: alpha_pattern cannot be matched with {module} ({error}). Name the "
                "modules in it, as peft does."
            ) from error
        alpha = patterns.get(key, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, matrix: str, weight: float) -> tuple[Tensor, Tensor]:
        """(B, weighted s A) of a matrix, float64[m, r] and [r, n]."""
        a, b = (self.tensors[key] for key in self.pairs()[matrix])
        return b.double(), weight * self.scale(matrix, len(a)) * a.double()

    def change(self, matrix: str) -> Tensor:
        """The matrix that the adapter adds: s B A, float64[m, n]."""
        b, a = self.factors(matrix, 1.0)
        return b @ a


def weighted_sum(adapters: Sequence[LoraAdapter], weights: Sequence[float]) -> LoraAdapter:
    """The adapter whose change of every matrix is the weighted sum of the adapters' changes.

    Raises:
        ConfigError: one of the adapters changes the base in another way than by s B A.
    """
    for adapter in adapters:
        _require_exact(adapter)
    matrices = sorted({matrix for adapter in adapters for matrix in adapter.pairs()})
    tensors: dict[str, Tensor] = {}
    for matrix in matrices:
        parts: list[tuple[Tensor, Tensor]] = []
        for adapter, weight in zip(adapters, weights, strict=True):
            if matrix in adapter.pairs():
                key_a, key_b = adapter.pairs()[matrix]
                a, b = adapter.tensors[key_a], adapter.tensors[key_b]
                scale = weight * adapter.scale(matrix, len(a))
                parts.append(((a.double() * scale).float(), b.float()))
        tensors[key_a] = torch.cat([a for a, _ in parts])
        tensors[key_b] = torch.cat([b for _, b in parts], dim=1)
    return LoraAdapter("the combination", _config(adapters, matrices, tensors), tensors)


def _config(adapters: Sequence[LoraAdapter], matrices: list[str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The combination's adapter_config.json. Alpha equals the rank of each module, so that the scale is 1.

    Modules are listed by their full names if the adapters' targets differ, or are regular expressions.
    """
    ranks = {
        matrix.removeprefix(_PREFIX): len(tensors[f"{matrix}.{a}"])
        for matrix in matrices
        for a, _ in _KINDS
        if f"{matrix}.{a}" in tensors
    }
    usual = max(sorted(set(ranks.values())), key=list(ranks.values()).count)
    unusual = {re.escape(module): rank for module, rank in ranks.items() if rank != usual}
    first = adapters[0].config
    targets = []
    for config in (adapter.config for adapter in adapters):
        modules = config["target_modules"]
        own = sorted(modules) if isinstance(modules, list) else modules
        layers = [config.get(name) for name in ("layers_to_transform", "layers_pattern", "exclude_modules")]
        targets.append([own, *layers])
    alike = all(target == targets[0] for target in targets) and all(map(_is_plain, targets[0]))
    return {name: first[name] for name in _OF_THE_BASE if name in first} | {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": unusual,
        "target_modules": first["target_modules"] if alike else sorted(ranks),
        "layers_to_transform": first.get("layers_to_transform") if alike else None,
        "layers_pattern": first.get("layers_pattern") if alike else None,
        "exclude_modules": first.get("exclude_modules") if alike else None,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _is_plain(names: Any) -> bool:
    """Whether the value of a setting names modules or layers by no regular expression."""
    named = names if isinstance(names, list) else [names]
    return all(one is None or isinstance(one, int) or _PLAIN.fullmatch(str(one)) for one in named)


def _require_exact(adapter: LoraAdapter) -> None:
    """
    Raises:
        ConfigError: the adapter's change is not s B A for every matrix that it adapts.
    """
    config = adapter.config
    reasons = {
        f"it is of type {config.get('peft_type')}, which is not additive": config.get("peft_type") != "LORA",
        "DoRA rescales whole columns of the sum, so its change is not additive": config.get("use_dora"),
        "it adapts the experts of a mixture in one parameter (target_parameters)": config.get("target_parameters"),
        "it holds whole modules besides (modules_to_save)": config.get("modules_to_save"),
        "it trains biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "it repeats layers of the base (layer_replication)": config.get("layer_replication"),
        "it holds new rows of an embedding (trainable_token_indices)": config.get("trainable_token_indices"),
        "it is added after certain tokens alone (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        "it adapts pooled inputs (use_qalora)": config.get("use_qalora"),
        f"peft changes the base when it loads it (init_lora_weights: {str(config.get('init_lora_weights'))[:40]!a})":
            config.get("init_lora_weights") not in PLAIN_INITIALISATIONS,
    }  # fmt: skip
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConfigError(f"--adapter {adapter.name}: cannot be combined exactly: {'; '.join(found)}. Leave it out.")
    known = {key for pair in adapter.pairs().values() for key in pair}
    if strange := sorted(set(adapter.tensors) - known | known - set(adapter.tensors)):
        raise ConfigError(
            f"--adapter {adapter.name}: cannot be combined exactly: {strange[0]} is no A or B of LoRA, or lacks its "
            "counterpart. Leave it out."
        )
    if wide := [key for key, values in adapter.tensors.items() if values.dim() != 2]:
        raise ConfigError(f"--adapter {adapter.name}: cannot be combined exactly: {wide[0]} belongs to a convolution.")
    for key_a, key_b in adapter.pairs().values():
        a, b = adapter.tensors[key_a], adapter.tensors[key_b]
        if not (len(a) == b.shape[1] > 0 and len(b) and a.shape[1] and a.is_floating_point() and b.is_floating_point()):
            raise ConfigError(
                f"--adapter {adapter.name}: {key_a} is {_shape(a)} and its counterpart {_shape(b)}; wanted "
                "floating-point [r, n] and [m, r], none of them 0. Fetch it again."
            )
    if not adapter.tensors:
        raise ConfigError(f"--adapter {adapter.name}: {TENSORS} holds no matrix. Leave it out, or fetch it again.")
    if (task := config.get("task_type")) not in (None, *TaskType):
        raise ConfigError(f"--adapter {adapter.name}: {CONFIG}: task_type is {str(task)[:40]!a}. Fetch it again.")
    patterns = config.get("alpha_pattern") or {}
    alphas = [config["lora_alpha"], *patterns.values()] if isinstance(patterns, dict) else [None]
    numbers = [alpha for alpha in alphas if isinstance(alpha, int | float) and not isinstance(alpha, bool)]
    if len(numbers) < len(alphas) or not all(abs(alpha) < LARGEST_ALPHA for alpha in numbers):
        raise ConfigError(
            f"--adapter {adapter.name}: {CONFIG}: lora_alpha and alpha_pattern want numbers below {LARGEST_ALPHA:g}."
        )


def _shape(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')}{list(values.shape)}"


def largest_deviation(result: LoraAdapter, adapters: Sequence[LoraAdapter], weights: Sequence[float]) -> float:
    """The largest difference, over all matrices, between the result's change and the weighted sum of the adapters'.

    The Frobenius norm of the difference over the largest norm of a weighted change: about 1e-7 with float32. NaN if a
    value is not finite. Matrices of m x n are not made, so the cost depends on the sizes of the adapters alone.
    """
    deviations = [0.0]
    for matrix in result.pairs():
        parts = [
            one.factors(matrix, weight) for one, weight in zip(adapters, weights, strict=True) if matrix in one.pairs()
        ]
        b, a = result.factors(matrix, -1.0)
        difference = _norm(
            torch.cat([b, *(left for left, _ in parts)], 1), torch.cat([a, *(right for _, right in parts)])
        )
        most = max(_norm(*part) for part in parts)
        deviations.append(difference / (most or 1.0))
    return math.nan if any(map(math.isnan, deviations)) else max(deviations)


def _norm(b: Tensor, a: Tensor) -> float:
    """The Frobenius norm of B A, equal to the norm of R_B R_A^T of their QR factors. NaN if a value is not finite."""
    if not (b.isfinite().all() and a.isfinite().all()):
        return math.nan
    left, right = (torch.linalg.qr(one, mode="r").R for one in (b, a.T))
    return float(torch.linalg.norm(left @ right.T))


_LARGEST_DEVIATION = 1e-5


@quiet_libraries()
def compose_adapters(
    store: Store, output: str, weights: dict[str, float], merged: bool = False, base: str | None = None
) -> tuple[float, str]:
    """Write the combined adapter; returns (largest relative deviation from the weighted sum, its ranks in words).

    Libraries' progress bars, warnings and log lines below errors are switched off.

    Args:
        output: folder or URI. weights: by absolute path of the adapter. merged: also write OUTPUT/merged.
        base: a base model that is read although it is on another store than the adapters that name it.

    Raises:
        ConfigError: the adapters cannot be combined, or there are files at the output.
        DataError: a folder is no adapter, or the combination is not exact.
    """
    output = paths.absolute(output)
    if store.list_files(output):
        raise ConfigError(f"{output}: there are files already. Give another folder, or remove them.")
    adapters = [_read(store, uri) for uri in weights]
    model = _common_base(store, adapters, merged, base)
    with tempfile.TemporaryDirectory(prefix="compose-") as scratch:
        folder = Path(scratch, "adapter")
        folder.mkdir()
        combination = weighted_sum(adapters, list(weights.values()))
        tensors = {name: values.contiguous() for name, values in combination.tensors.items()}
        save_file(tensors, folder / TENSORS, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(combination.config, indent=2, ensure_ascii=False), encoding="utf-8")
        # The check reads the files that were written.
        written = _read(store, str(folder))
        deviation = largest_deviation(written, adapters, list(weights.values()))
        if not deviation <= _LARGEST_DEVIATION:  # also true for NaN
            raise DataError(
                f"{output}: the combination deviates by {deviation:.1e} of the largest change; at most "
                f"{_LARGEST_DEVIATION:.0e} is allowed. Nothing was written. Check the adapters for values that "
                "are not finite."
            )
        tokenizers = [
            {path.name: path.read_bytes() for path in _tokenizer_files(local_folder(store, uri))} for uri in weights
        ]
        if all(one == tokenizers[0] for one in tokenizers):
            for name, data in tokenizers[0].items():
                (folder / name).write_bytes(data)
        ranks = _ranks(written)
        (folder / "README.md").write_text(_card(model, weights, adapters, ranks, deviation), encoding="utf-8")
        if merged:
            whole: Any = load_base(store, model, 0, torch.float32, None)
            modules = {f"{_PREFIX}{name}" for name, _ in whole.named_modules()}
            if strange := sorted(written.pairs().keys() - modules):
                raise ConfigError(
                    f"{output}: the base {model.name} has no module {strange[0].removeprefix(_PREFIX)}, of which an "
                    "adapter has a matrix. Leave out the adapter, or --merged."
                )
            whole = PeftModel.from_pretrained(whole, str(folder), local_files_only=True)
            whole.merge_and_unload(safe_merge=True).save_pretrained(Path(scratch, "merged"))
            for path in _tokenizer_files(folder):
                shutil.copy(path, Path(scratch, "merged"))
            _put(store, Path(scratch, "merged"), paths.join(output, "merged"))
        _put(store, folder, output)
    return deviation, ranks


def _read(store: Store, uri: str) -> LoraAdapter:
    """
    Raises:
        DataError: there is no adapter at the URI.
    """
    folder = local_folder(store, uri)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise DataError(f"--adapter {uri}: has no {name}. Give the folder of an adapter as peft writes it.")
    refuse_foreign_files(folder)
    read_shapes(Store(), str(folder / TENSORS))
    config = read_object(Store(), str(folder / CONFIG))
    of_lora = {"lora_alpha", "target_modules"} if config.get("peft_type", "LORA") == "LORA" else set()
    if missing := {"base_model_name_or_path", *of_lora} - config.keys():
        raise DataError(f"--adapter {uri}: {CONFIG} has no {', '.join(sorted(missing))}. Fetch it again.")
    try:
        return LoraAdapter(uri, config, load_file(folder / TENSORS))
    except SafetensorError as error:
        raise DataError(f"--adapter {uri}: {TENSORS} is damaged ({error}). Fetch it again.") from error


def _common_base(
    store: Store, adapters: list[LoraAdapter], merged: bool = False, confirmed: str | None = None
) -> Model:
    """The base model that all the adapters name. It is read to compare it with another, and if it is merged.

    Raises:
        ConfigError: an adapter names no base, the bases differ, or one is on a store that only an adapter names.
    """
    bases = []
    for adapter in adapters:
        if not (name := adapter.config.get("base_model_name_or_path")):
            raise ConfigError(f"--adapter {adapter.name}: its {CONFIG} names no base_model_name_or_path. Add it.")
        revision = adapter.config.get("revision")
        if not isinstance(name, str) or not isinstance(revision, str | None):
            raise ConfigError(
                f"--adapter {adapter.name}: {CONFIG}: base_model_name_or_path is {str(name)[:80]!a} and revision is "
                f"{str(revision)[:80]}; texts were wanted. Correct the file."
            )
        bases.append(Model(name=name, revision=revision))
    if merged or any(base != bases[0] for base in bases):
        for adapter, base in zip(adapters, bases, strict=True):
            # Elsewhere, whoever made the adapter would choose where requests with the user's keys go.
            name = str(base.name)
            on_hub = not (paths.is_remote(name) or name.startswith(("/", ".", "~")))
            if not (on_hub or name == confirmed or paths.store_of(name) == paths.store_of(adapter.name)):
                raise ConfigError(
                    f"--adapter {adapter.name}: its base model is {name} by its {CONFIG}, which is not on "
                    f"{paths.store_of(adapter.name)} as the adapter is. To have it read with your keys, name it: "
                    f"--base {name}"
                )
    for adapter, base in zip(adapters[1:], bases[1:], strict=True):
        # Copies of one base in different folders have the same fingerprint.
        if base != bases[0] and model_fingerprint(store, base) != model_fingerprint(store, bases[0]):
            raise ConfigError(
                f"--adapter {adapter.name}: is of base {base.name} at revision {base.revision}, and {adapters[0].name} "
                f"of {bases[0].name} at {bases[0].revision}. Only adapters of one base can be combined."
            )
    return bases[0]


def _tokenizer_files(folder: Path) -> list[Path]:
    names = ("tokenizer*", "*token*.json", "vocab*", "merges.txt", "*.jinja")
    return sorted({path for name in names for path in folder.glob(name) if path.is_file()})


def _put(store: Store, folder: Path, output: str) -> None:
    """Upload a folder, its adapter config last: without the config a folder is not read as an adapter."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.name == CONFIG):
        if path.is_file():
            store.upload(path, paths.join(output, path.relative_to(folder).as_posix()))


def _ranks(adapter: LoraAdapter) -> str:
    ranks = {len(adapter.tensors[a]) for a, _ in adapter.pairs().values()}
    return str(min(ranks)) if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"


def _card(base: Model, weights: dict[str, float], adapters: list[LoraAdapter], ranks: str, deviation: float) -> str:
    """The combined adapter's README.md."""
    rows = "\n".join(
        f"| {weights[one.name]:g} | `{one.name}` | {_ranks(one)} | {len(one.pairs())} |" for one in adapters
    )
    revision = f" at revision {escaped(base.revision)}" if base.revision else ""
    return f"""---
base_model: {json.dumps(base.name)}
library_name: peft
tags: [lora, raymill]
---

# A combination of {len(adapters)} LoRA adapters

Base model: {escaped(base.name)}{revision}. The change of every matrix is exactly the weighted sum of the changes of
these adapters:

| weight | adapter | rank | matrices |
|---|---|---|---|
{rows}

Ranks of the combination: {ranks}. Checked in float64 on every matrix: the largest deviation from the weighted sum,
relative to the largest of the changes that are added (Frobenius norms), is {deviation:.1e}. Made by Raymill
{cluster.__version__}.
"""
