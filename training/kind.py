"""The kinds of runs `train`, a corpus to a fine-tuned model, and `cross-validate`, a training for each fold."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

TRAIN = Kind(
    name="train",
    call=Entry("raymill.typed_settings:train"),
    text="a corpus to a fine-tuned model; run it again to continue",
    config=Entry("raymill.training.config:TrainConfig"),
    job=Entry("raymill.training.job:TrainJob"),
    own_plan=Entry("raymill.training.plan.planning:plan_training"),
    dry_run=Entry("raymill.training.commands:dry_run"),
    extra="train",
    verbs={
        "pack": Verb(
            Entry("raymill.training.commands:pack"),
            "only the first part of `train`: tokenise, mask, shuffle, pack; --preview",
            call=Entry("raymill.training.commands:pack_corpora"),
            extra="train",
        ),
        "export": Verb(
            Entry("raymill.training.commands:export"),
            "a checkpoint as folders that transformers and peft load, also while training",
            call=Entry("raymill.training.commands:export_config"),
            extra="train",
        ),
        "answer": Verb(
            Entry("raymill.training.serving.commands:answer"),
            "serve a model with OpenAI's interface, to try it",
            call=Entry("raymill.training.serving.commands:answer_requests"),
            extra="train",
        ),
        "push": Verb(
            Entry("raymill.training.model_commands:push"),
            "an exported model to the Hugging Face hub, with its card",
            call=Entry("raymill.training.model_commands:push_run"),
        ),
        "add-tokens": Verb(
            Entry("raymill.training.model_commands:add_tokens"),
            "a base model with new tokens, their embeddings the mean of all",
            call=Entry("raymill.training.model_commands:add_tokens_to"),
            extra="train",
        ),
        "compose": Verb(
            Entry("raymill.training.model_commands:compose"),
            "one adapter of several, with weights, exactly",
            call=Entry("raymill.training.model_commands:compose_to"),
            extra="train",
        ),
        "tune-demo": Verb(
            Entry("raymill.training.model_commands:tune_demo"),
            "fine-tune a tiny model on the demo's corpus: LoRA, then in full",
            call=Entry("raymill.training.model_commands:run_tune_demo"),
            extra="train",
        ),
    },
    files=("pack.json", "steps.jsonl", "fit.json", "evaluation.json"),
    folders=(
        "attempts",
        "broken",
        "checkpoints",
        "errors",
        "export",
        "exports",
        "hangs",
        "held_out",
        "rollouts",
        "tensorboard",
        "tokenizer",
    ),
    made_of=("reference",),
    report=(
        "schema",
        "run",
        "fits",
        "warnings",
    ),
)

CROSS_VALIDATE = Kind(
    name="cross-validate",
    of="train",
    call=Entry("raymill.training.folds:cross_validate_config"),
    text="score a prepared data set: a training a fold, with spread",
    config=Entry("raymill.training.config:TrainConfig"),
    job=Entry("raymill.training.folds:CrossValidateJob"),
    own_plan=Entry("raymill.training.plan.planning:plan_training"),
    dry_run=Entry("raymill.training.commands:dry_run"),
    extra="train",
    files=("folds.json",),
    report=(
        "name",
        "datasets",
        "folds",
        "scores",
    ),
)
