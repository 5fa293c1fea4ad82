"""A run's model in one process, with the weights it began with or those it ended with."""

from typing import TYPE_CHECKING, Any

from cluster.errors import DataError
from training.fit.job import Job
from training.fit.records import Outcome

if TYPE_CHECKING:
    import torch

    from training.models.objective import Objective


def at_start(job: Job, device: "torch.device | str" = "cpu", **changes: Any) -> "Objective":
    """The weights of step 0, ready to be looked at: not compiled, nothing computed twice, an attention that generates.

    changes: settings of the config to have otherwise.
    """
    from training.models.attention import choose_attention
    from training.models.base import named_config
    from training.models.build import build_objective

    # What `auto` takes on a CPU works everywhere, with a cache and with padding; `varlen` has neither.
    attention = choose_attention("auto", named_config(job.store, job.config.model), "cpu", False, False)
    plain = {"attention": attention, "compile": False, "activation_checkpointing": False}
    return build_objective(job.config.model_copy(update=plain | changes), len(job.classes), device=device).eval()


def take_trained(objective: "Objective", job: Job, outcome: Outcome) -> None:
    """Give it the weights that the run ended with: the best on the validation split where there is one.

    Raises:
        DataError: their checkpoint is damaged.
    """
    from training.fit.checkpoint.format import Saved, fill, problem

    uri = outcome["best_checkpoint"] or outcome["checkpoint"]
    try:
        fill(objective, Saved.load(job.store, uri))
    except DataError as error:
        which = "with the best validation loss" if outcome["best_checkpoint"] else "of the last step"
        raise DataError(
            f"{uri}: the checkpoint {which} of this finished training is damaged, so its weights cannot be evaluated "
            f"or exported ({problem(error)}). Put its files back from a copy and run the same command again, or train "
            "anew from step 0: raymill train CONFIG --replace."
        ) from error


def evaluation_device(job: Job) -> "torch.device":
    import torch

    return torch.device("cuda" if job.config.workers.gpus_each and torch.cuda.is_available() else "cpu")
