"""The verb `raymill compose`: several LoRA adapters of one base, with weights, as one adapter that peft loads."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import ConfigError, DataError
from cluster.store import paths
from cluster.store.store import Store
from training.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from training.config_parts import Model
    from training.models.combine import LoraAdapter

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_LARGEST_DEVIATION = 1e-5


def compose(
    output: Annotated[str, typer.Argument(help="folder or URI to write the combined adapter to")],
    adapter: Annotated[list[str], typer.Option(help="PATH=WEIGHT, a folder or URI; give several")],
    merged: Annotated[bool, typer.Option("--merged", help="also write OUTPUT/merged, the base with it added")] = False,
) -> None:
    """Combine LoRA adapters of one base: every matrix changes by exactly the weighted sum of their changes.

    raymill compose OUT --adapter A=0.7 --adapter B=0.3
    """
    with quiet_libraries():
        deviation, ranks = compose_adapters(Store(), output, weighted(adapter), merged)
    print(f"adapter   {paths.absolute(output)}, ranks {ranks}")
    print(f"checked   every matrix against the weighted sum: largest relative deviation {deviation:.1e}")
    if merged:
        print(f"merged    {paths.join(paths.absolute(output), 'merged')}")


def weighted(adapters: list[str]) -> dict[str, float]:
    """PATH=WEIGHT strings as weights by absolute path, in the order given.

    Raises:
        ConfigError: no weight, a weight that is no number or zero, or an adapter given twice.
    """
    found: dict[str, float] = {}
    for one in adapters:
        path, _, number = one.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not path or not math.isfinite(weight):
            raise ConfigError(f"--adapter {one}: wanted PATH=WEIGHT with a number, as in runs/a/export/adapter=0.7")
        if weight == 0:
            raise ConfigError(f"--adapter {one}: with weight 0 it changes nothing. Leave it out.")
        uri = paths.absolute(path)
        if uri in found:
            raise ConfigError(f"--adapter {uri}: given twice. Give it once, with the sum of the weights.")
        found[uri] = weight
    return found


def compose_adapters(store: Store, output: str, weights: dict[str, float], merged: bool = False) -> tuple[float, str]:
    """Write the combination, and return its largest relative deviation from the weighted sum and its ranks in words.

    Raises:
        ConfigError: adapters that do not go together, or something at the output already.
        DataError: a folder is no adapter, or the combination is not exact.
    """
    from training.models.combine import combine, largest_deviation

    output = paths.absolute(output)
    if store.list_files(output):
        raise ConfigError(f"{output}: there are files already. Give another folder, or remove them.")
    adapters = [_read(store, uri) for uri in weights]
    base = _common_base(store, adapters)
    with tempfile.TemporaryDirectory(prefix="compose-") as scratch:
        folder = Path(scratch, "adapter")
        folder.mkdir()
        _write(combine(adapters, list(weights.values())), folder)
        # What was written is checked, as a reader will see it.
        written = _read(store, str(folder))
        deviation = largest_deviation(written, adapters, list(weights.values()))
        if not deviation <= _LARGEST_DEVIATION:  # NaN is not, either
            raise DataError(
                f"{output}: the combination is off by {deviation:.1e} of the largest change, and at most "
                f"{_LARGEST_DEVIATION:.0e} was wanted. Nothing was written. Are there values that are not finite?"
            )
        _copy_tokenizer(store, list(weights), folder)
        ranks = _ranks(written)
        (folder / "README.md").write_text(_card(base, weights, adapters, ranks, deviation), encoding="utf-8")
        if merged:
            _put(store, _merge(store, base, folder, Path(scratch, "merged")), paths.join(output, "merged"))
        _put(store, folder, output)
    return deviation, ranks


def _read(store: Store, uri: str) -> "LoraAdapter":
    import json

    from safetensors.torch import load_file

    from cluster.store.copies import local_folder
    from training.models.combine import LoraAdapter

    folder = local_folder(store, uri)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise DataError(f"--adapter {uri}: has no {name}, so it is no adapter as peft writes it.")
    return LoraAdapter(uri, json.loads((folder / CONFIG).read_text(encoding="utf-8")), load_file(folder / TENSORS))


def _write(adapter: "LoraAdapter", folder: Path) -> None:
    import json

    from safetensors.torch import save_file

    save_file(
        {name: values.contiguous() for name, values in adapter.tensors.items()}, folder / TENSORS, {"format": "pt"}
    )
    (folder / CONFIG).write_text(json.dumps(adapter.config, indent=2, ensure_ascii=False), encoding="utf-8")


def _common_base(store: Store, adapters: "list[LoraAdapter]") -> "Model":
    """
    Raises:
        ConfigError: the adapters name no base, or bases that differ.
    """
    from training.config_parts import Model
    from training.models.identity import model_identity

    bases = []
    for adapter in adapters:
        if not (name := adapter.config.get("base_model_name_or_path")):
            raise ConfigError(
                f"--adapter {adapter.name}: its {CONFIG} names no base_model_name_or_path. Write it there."
            )
        bases.append(Model(name=name, revision=adapter.config.get("revision")))
    for adapter, base in zip(adapters[1:], bases[1:], strict=True):
        # One base may lie in two folders.
        if base != bases[0] and model_identity(store, base) != model_identity(store, bases[0]):
            raise ConfigError(
                f"--adapter {adapter.name}: is of base {base.name} at revision {base.revision}, and {adapters[0].name} "
                f"of {bases[0].name} at {bases[0].revision}. Only adapters of one base add up."
            )
    return bases[0]


def _merge(store: Store, base: "Model", adapter: Path, folder: Path) -> Path:
    import torch
    from peft import PeftModel

    from training.models.base import load_base

    model: Any = PeftModel.from_pretrained(load_base(store, base, 0, torch.float32, None), str(adapter))
    model.merge_and_unload(safe_merge=True).save_pretrained(folder)
    for path in _tokenizer_files(adapter):
        shutil.copy(path, folder)
    return folder


def _tokenizer_files(folder: Path) -> list[Path]:
    names = ("tokenizer*", "*token*.json", "vocab*", "merges.txt", "*.jinja")
    return sorted({path for name in names for path in folder.glob(name) if path.is_file()})


def _copy_tokenizer(store: Store, uris: list[str], folder: Path) -> None:
    """Where all adapters were trained with the same one."""
    from cluster.store.copies import local_folder

    sets = [{path.name: path.read_bytes() for path in _tokenizer_files(local_folder(store, uri))} for uri in uris]
    if all(one == sets[0] for one in sets):
        for name, data in sets[0].items():
            (folder / name).write_bytes(data)


def _put(store: Store, folder: Path, output: str) -> None:
    """The config last: without it a folder is no adapter."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.name == CONFIG):
        if path.is_file():
            store.upload(path, paths.join(output, path.relative_to(folder).as_posix()))


def _ranks(adapter: "LoraAdapter") -> str:
    ranks = {len(adapter.tensors[a]) for a, _ in adapter.pairs().values()}
    return str(min(ranks)) if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"


def _card(base: "Model", weights: dict[str, float], adapters: "list[LoraAdapter]", ranks: str, deviation: float) -> str:
    import json

    import cluster

    rows = "\n".join(
        f"| {weights[one.name]:g} | `{one.name}` | {_ranks(one)} | {len(one.pairs())} |" for one in adapters
    )
    revision = f" at revision {base.revision}" if base.revision else ""
    return f"""---
base_model: {json.dumps(base.name)}
library_name: peft
tags: [lora, raymill]
---

# A combination of {len(adapters)} LoRA adapters

Of the base model `{base.name}`{revision}. It changes every matrix by exactly the weighted sum of what these
adapters change it by:

| weight | adapter | rank | matrices |
|---|---|---|---|
{rows}

Ranks of the combination: {ranks}. Checked in float64 on every matrix: the largest deviation from the weighted sum,
relative to the largest value of that sum, is {deviation:.1e}. Made by Raymill {cluster.__version__}.
"""
