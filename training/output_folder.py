"""The output of a training beside what it reads."""

from pathlib import Path

from raymill.cluster.errors import ConfigError
from raymill.cluster.output_folder import fixed_folder, path_below, refuse_impossible_output, refuse_output_in_folder
from raymill.cluster.readers.formats import format_of
from raymill.cluster.readers.formats.hub import is_hub_data
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig

# A file of each kind that a run writes below its output and that a glob of a corpus may match.
_LEFT_BY_A_RUN = ("steps.jsonl", "packed/corpus-0/train/000000-000-0.parquet", "rollouts/0/step-00000001.parquet")
assert all(format_of(name) for name in _LEFT_BY_A_RUN)


def refuse_output_among_inputs(config: TrainConfig) -> None:
    """Compare `output` and `packed` with the folders of corpora, model and tokenizer, in every phase.

    Raises:
        ConfigError: one of these folders is equal to the other or lies inside it.
    """
    for one in (config, *config.trainings):
        for setting in ("output", "packed"):
            if folder := getattr(one, setting):
                _refuse(setting, paths.absolute(folder), one)
                refuse_impossible_output(folder)


def _refuse(setting: str, root: str, config: TrainConfig) -> None:
    for named, path, store in _inputs(config):
        if store.endpoint_of(path) != config.store.endpoint_of(root):
            continue
        refuse_output_in_folder(setting, root, named, path, _LEFT_BY_A_RUN, "trained")
        if path_below(fixed_folder(path)[0], root) is not None:
            raise ConfigError(
                f"{setting}: {root} contains {named}, and a run may not write above what it reads. Choose a folder "
                "that is not above it."
            )


def _inputs(config: TrainConfig) -> list[tuple[str, str, Store]]:
    """(description, absolute path or URI, store) of each folder that a training reads; names of a hub are left out."""
    found = []
    for name, corpus, store in zip(config.corpus_names, config.corpus, config.corpus_stores, strict=True):
        path = paths.absolute(corpus.path)
        found.append((f"the corpus {name} ({path})", path, store))
    found += [(f"evaluate.sets.{n} ({one.path})", one.path, config.store) for n, one in config.evaluate.sets.items()]
    found = [one for one in found if not is_hub_data(one[1])]
    if config.continue_from:
        earlier = paths.absolute(config.continue_from.run)
        found.append((f"the run to continue ({earlier})", earlier, config.store))
    models = [("model", config.model.name), ("tokenizer", config.model.tokenizer)]
    models += [("reward model", one.model) for one in config.grpo.rewards]
    for what, place in models:
        if place and (paths.is_remote(place) or Path(paths.absolute(place)).is_dir()):
            found.append((f"the {what} ({paths.absolute(place)})", paths.absolute(place), config.store))
    return found
