"""Raw text on an object store to a training corpus, and the corpus to a fine-tuned model, on Ray.

    import raymill

    run = raymill.curate(inputs="data/*.jsonl.gz", output="runs/web", language={"keep": ["en"]})
    run.removed.sample(5, reason="line_punct_ratio")

The functions have the names of the command's verbs. Each is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from raymill.cluster import __version__

if TYPE_CHECKING:
    from raymill import data
    from raymill.cluster.errors import ClusterError, ConfigError, DataError, RaymillError, StorageError, UserError
    from raymill.cluster.frame import config_calls as config
    from raymill.cluster.frame.dry_run import dry_run
    from raymill.cluster.frame.opening import open
    from raymill.cluster.garbage import collect_garbage as gc
    from raymill.cluster.inspection import describe as inspect
    from raymill.cluster.kuberay.rayjob import render_config as render
    from raymill.cluster.plan.plan import plan_config as plan
    from raymill.cluster.session import session
    from raymill.cluster.submit.calls import cancel, job, logs, runs, status, submit
    from raymill.pipelines.curate.questions.explain import explain_document as explain
    from raymill.pipelines.curate.questions.sample import sample
    from raymill.pipelines.curate.questions.what_if import what_if
    from raymill.pipelines.demo.commands import run_demo as demo
    from raymill.pipelines.demo.helpdesk import run_prepare_demo as prepare_demo
    from raymill.pipelines.prepare.commands import assess_data as assess
    from raymill.pipelines.prepare.versions import calls as dataset
    from raymill.pipelines.recipes import write_recipe as init
    from raymill.pipelines.warm import warm_kernels as warm
    from raymill.training.commands import export_config as export
    from raymill.training.commands import pack_corpora as pack
    from raymill.training.commands import preview_corpora as preview
    from raymill.training.folds import cross_validate_config as cross_validate
    from raymill.training.model_commands import add_tokens_to as add_tokens
    from raymill.training.model_commands import compose_to as compose
    from raymill.training.model_commands import push_run as push
    from raymill.training.model_commands import run_tune_demo as tune_demo
    from raymill.training.promote.commands import alias_at as alias
    from raymill.training.serving.commands import answer_requests as answer
    from raymill.typed_settings import (
        annotate,
        compare,
        curate,
        distil,
        errors,
        generate,
        prepare,
        promote,
        prompt,
        run,
        train,
    )

# Public names besides the verbs -> module, or module:name.
_OTHERS = {
    "ClusterError": "raymill.cluster.errors:ClusterError",
    "ConfigError": "raymill.cluster.errors:ConfigError",
    "DataError": "raymill.cluster.errors:DataError",
    "RaymillError": "raymill.cluster.errors:RaymillError",
    "StorageError": "raymill.cluster.errors:StorageError",
    "UserError": "raymill.cluster.errors:UserError",
    "config": "raymill.cluster.frame.config_calls",
    "data": "raymill.data",
    "dataset": "raymill.pipelines.prepare.versions.calls",
    "dry_run": "raymill.cluster.frame.dry_run:dry_run",
    "job": "raymill.cluster.submit.calls:job",
    "open": "raymill.cluster.frame.opening:open",
    "preview": "raymill.training.commands:preview_corpora",
    "session": "raymill.cluster.session:session",
}

__all__ = [
    "ClusterError",
    "ConfigError",
    "DataError",
    "RaymillError",
    "StorageError",
    "UserError",
    "__version__",
    "add_tokens",
    "alias",
    "annotate",
    "answer",
    "assess",
    "cancel",
    "compare",
    "compose",
    "config",
    "cross_validate",
    "curate",
    "data",
    "dataset",
    "demo",
    "distil",
    "dry_run",
    "errors",
    "explain",
    "export",
    "gc",
    "generate",
    "init",
    "inspect",
    "job",
    "logs",
    "open",
    "pack",
    "plan",
    "prepare",
    "prepare_demo",
    "preview",
    "promote",
    "prompt",
    "push",
    "render",
    "run",
    "runs",
    "sample",
    "session",
    "status",
    "submit",
    "train",
    "tune_demo",
    "warm",
    "what_if",
]


if not TYPE_CHECKING:  # a type checker reports other names

    def __getattr__(name: str) -> Any:
        """A public name, at its first use."""
        if name.startswith("_"):
            raise AttributeError(f"module 'raymill' has no attribute {name!r}")
        module, _, attribute = _OTHERS.get(name, "").partition(":")
        if not module:
            found = importlib.import_module("raymill.cluster.frame.functions").function_of(name)
        else:
            found = importlib.import_module(module)
            found = getattr(found, attribute) if attribute else found
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
