"""The kind of run `train`: a corpus to a fine-tuned model."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

TRAIN = Kind(
    name="train",
    text="a corpus to a fine-tuned model; run it again to continue",
    config=Entry("raymill.training.config:TrainConfig"),
    job=Entry("raymill.training.job:TrainJob"),
    print_plan=Entry("raymill.training.plan.planning:print_plan"),
    dry_run=Entry("raymill.training.commands:dry_run"),
    extra="train",
    verbs={
        "cross-validate": Verb(
            Entry("raymill.training.folds:cross_validate"),
            "score a prepared data set: a training a fold, with spread",
            extra="train",
        ),
        "pack": Verb(
            Entry("raymill.training.commands:pack"),
            "only the first part of `train`: tokenise, mask, shuffle, pack; --preview",
            extra="train",
        ),
        "push": Verb(
            Entry("raymill.training.model_commands:push"), "an exported model to the Hugging Face hub, with its card"
        ),
        "compose": Verb(
            Entry("raymill.training.model_commands:compose"),
            "one adapter of several, with weights, exactly",
            extra="train",
        ),
        "tune-demo": Verb(
            Entry("raymill.training.model_commands:tune_demo"),
            "fine-tune a tiny model on the demo's corpus: LoRA, then in full",
            extra="train",
        ),
    },
    files=("pack.json", "steps.jsonl", "fit.json", "evaluation.json"),
    folders=("attempts", "broken", "checkpoints", "errors", "export", "tensorboard", "tokenizer"),
)
