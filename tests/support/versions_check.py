"""Imports all of training and trains a tiny model by the installed versions; tests/training/test_versions.py runs it.

Prints the versions of torch and transformers, then for each method the first and last loss of ten steps.
"""

import importlib
import json
import pkgutil
import sys
import tempfile

import torch
import transformers

from raymill import training

METHODS = {
    "full": {},
    "full, activation checkpointing": {"activation_checkpointing": True},
    "lora": {"method": "lora", "optimizer": {"learning_rate": 1e-2}},
}


def main() -> None:
    for module in pkgutil.walk_packages(training.__path__, "raymill.training."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from tests.support.fit_jobs import column, fit_alone, pack_tiny, tiny_job

    losses = {}
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        pack_tiny(folder)
        for number, (name, settings) in enumerate(METHODS.items()):
            job = tiny_job(folder, **{"output": f"{folder}/{number}", "steps": 10} | settings)
            fit_alone(job)
            taken = column(job, "loss")
            losses[name] = [taken[0], taken[-1]]
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "losses": losses}))


if __name__ == "__main__":
    sys.exit(main())
