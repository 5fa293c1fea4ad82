"""The requirements of a training on a cluster: machines for its workers, and what must exist beforehand.

The workers, their GPUs and their engine are settings; the machines follow from them and from the memory of the plan
(training/plan). Packing, export and evaluation run on the same machines.
"""

import math
from typing import Any

from raymill.cluster.artifact import canonical_json
from raymill.cluster.entry import Entry
from raymill.cluster.formats import plural
from raymill.cluster.readers.formats.hub import is_hub_data
from raymill.cluster.run import RUN_MANIFEST
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB, RAY_DISK, RAY_MEMORY, USABLE_MEMORY, Machines, whole_gib
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model
from raymill.training.continuing import recorded_parent
from raymill.training.model_folder.folder import located, model_fingerprint, on_hub
from raymill.training.pack.corpus import FrozenCorpus
from raymill.training.plan.memory import memory

_shape_of = Entry("raymill.training.models.cost:shape_of")
_bytes_in_files = Entry("raymill.training.models.cost:bytes_in_files")

# Of one worker's process, without its model: 0.6 to 0.9 GiB measured on CPUs (tests/benchmarks/README.md, every
# method on one base); with CUDA's libraries and pinned buffers more, not measured.
_LIBRARIES = {"CPU": GIB, "GPU": 4 * GIB}
# A task of tokenising or packing: 0.5 to 0.7 GiB measured (tests/benchmarks, bench_pack), most of it libraries.
_PACK_TASK = GIB
# For each GPU: the worker, the thread that reads its rows, NCCL's, and tokenising before the training.
_CPUS_OF_A_GPU = 4
_MOST_GPUS = 8
_MOST_CPUS = 16


def machines(config: TrainConfig, corpora: dict[str, FrozenCorpus]) -> Machines:
    """The machines of one training: of up to 8 GPUs, or up to 16 CPUs without GPUs."""
    least, most = config.workers.range
    shape = _shape_of(config)
    need = memory(config, shape)
    gpus = config.workers.gpus_each
    cpus_each = max(config.workers.cpus_each, _CPUS_OF_A_GPU) if gpus else config.workers.cpus_each
    together = min(least, _MOST_GPUS) if gpus else max(1, min(least, int(_MOST_CPUS / cpus_each)))
    cpus = math.ceil(together * cpus_each)
    # Each worker builds the whole model in the memory of its machine, unless the weights stay in the model's files,
    # which the machine then keeps in memory once.
    weights = 4 * shape.total
    shared = _bytes_in_files(config) * shape.total
    own = 0 if shared else weights
    device = "GPU" if gpus else "CPU"
    each = _LIBRARIES[device] + (need.host + own if gpus else need.total + own)
    tasks = max(together * each + shared, cpus * _PACK_TASK)
    text = sum(size for corpus in corpora.values() for size in corpus.unit_bytes)
    states = 12 * shape.trained
    disk = 3 * weights + 2 * states + text + RAY_DISK
    offloaded = f", {need.host / GIB:.1f} GiB offloaded" if need.host else ""
    computed = "" if gpus else f", {need.total / GIB:.2f} GiB of weights, gradients, optimizer and activations"
    return Machines(
        name="gpu" if gpus else "cpu",
        cpus=cpus,
        memory=whole_gib((tasks + RAY_MEMORY) / USABLE_MEMORY),
        disk=whole_gib(disk),
        gpus=together * gpus,
        largest_task=each,
        least=math.ceil(least / together),
        most=math.ceil(most / together),
        reasons={
            "cpus": f"{plural(together, 'worker')} with {cpus_each:g} each"
            + (f": itself, its reader, NCCL, and tokenising before ({_CPUS_OF_A_GPU} a GPU)" if gpus else ""),
            "memory": f"{plural(together, 'worker')} of {each / GIB:.1f} GiB: libraries {_LIBRARIES[device] // GIB}, "
            f"{own / GIB:.2f} for {shape.total:,} weights while they are loaded{offloaded}{computed}; "
            + (f"{shared / GIB:.2f} for the model's files; " if shared else "")
            + f"{RAY_MEMORY // GIB} GiB for Ray, a tenth free",
            "disk": f"the model, its export and a copy while that is written ({3 * weights / GIB:.2f} GiB), two "
            f"checkpoints before their upload ({2 * states / GIB:.2f}), {text / GIB:.2f} of documents while they are "
            f"packed; {RAY_DISK // GIB} for logs",
            "gpus": "workers.gpus_each: 0"
            if not gpus
            else f"workers.gpus_each: {gpus} and engine {config.engine}; up to {_MOST_GPUS} GPUs of one machine, "
            "because they exchange gradients fastest there",
            "least": f"workers.count: {least}, {together} a machine",
            "most": f"workers.count: {most}, {together} a machine; {config.method} on {device}s",
        },
    )


def model_identity(config: TrainConfig) -> str:
    """What is equal for equal base models. Of a hub's model its commit, so that nothing is fetched."""
    if not on_hub(config.model):
        return model_fingerprint(config.store, config.model, config.seed)
    return canonical_json([config.model.name, located(config.model).revision]).decode()


def files_that_must_exist(config: TrainConfig, corpora: dict[str, FrozenCorpus]) -> list[str]:
    """The first file of each corpus; config.json of the model, the tokenizer's folder, the chat template."""
    found = [one.units[0][0].uri for one in corpora.values() if not is_hub_data(one.path)]
    if config.model.name and not on_hub(config.model):
        found.append(paths.join(paths.absolute(config.model.name), "config.json"))
    if config.continue_from and recorded_parent(config) is None:
        found.append(paths.join(paths.absolute(config.continue_from.run), RUN_MANIFEST))
    tokenizer, template = config.model.tokenizer, config.model.chat_template
    if tokenizer and tokenizer != "train" and not on_hub(Model(name=tokenizer)):
        found.append(paths.join(paths.absolute(tokenizer), "tokenizer_config.json"))
    if template and template != "chatml":
        found.append(paths.absolute(template))
    return found


def with_absolute_paths(settings: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The settings with absolute paths, because the job has another working directory."""
    settings["output"] = paths.absolute(config.output)
    if config.packed:
        settings["packed"] = paths.absolute(config.packed)
    if (before := config.continue_from) is not None:
        settings["continue_from"] = before.model_dump() | {"run": paths.absolute(before.run)}
    for reward in settings.get("grpo", {}).get("rewards", ()):
        if reward.get("model"):
            reward["model"] = paths.absolute(reward["model"])
    for given in (settings, *settings.get("phases", ())):
        if isinstance(corpora := given.get("corpus"), str):
            given["corpus"] = paths.absolute(corpora)
        elif corpora:
            listed = [one if isinstance(one, dict) else {"path": one} for one in corpora]
            given["corpus"] = [one | {"path": paths.absolute(one["path"])} for one in listed]
        if isinstance(model := given.get("model"), str):
            model = {"name": model}
        if model:
            found = located(Model.model_validate(model))
            places = {name: getattr(found, name) for name in ("name", "tokenizer", "chat_template") if model.get(name)}
            given["model"] = model | places
    return settings
