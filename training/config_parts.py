"""The parts of a `kind: train` config. config.py combines them and checks that they are consistent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raymill.cluster.frame.execution import Execution
from raymill.cluster.plugins import PluginKind, PluginUse
from raymill.cluster.readers.inputs import ENCODING, Encoding, Format, WithShortForm
from raymill.cluster.score_plugins import ScoreUse, names_once
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions

Overflow = Literal["split", "truncate", "drop"]


# Columns that are not recorded where they are not given, as in earlier versions, which had none.
_UNRECORDED = ("chosen", "rejected", "copies", "margin")


class Settings(BaseModel):
    """Base class of settings: unknown keys are an error, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WithLaterSettings(Settings):
    """Base class of settings some of which earlier versions did not have.

    later: their names. Records leave them out at their default, so that they equal those of earlier versions.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if name not in self.later or getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }


# Forms of documents: plain text, prompt and completion, or chat messages and preferences.
Form = Literal["text", "pair", "chat"]


class Columns(Settings):
    """Columns of a corpus. Exactly one of: text; prompt and completion; messages.

    Every setting except system_prompt is the name of a column, or COLUMN.FIELD of a column of structs.
    """

    text: str | None = Field(
        None, description="Column with plain text, for continued pre-training with the loss on every token; null: none"
    )
    prompt: str | None = Field(
        None, description="Column with the prompt of a pair or of a preference, which has no loss; null: none"
    )
    completion: str | None = Field(
        None, description="Column with the answer to `prompt`, which has the loss; null: none"
    )
    chosen: str | None = Field(
        None,
        description="Column with the better of two answers, text or messages, which has the loss; null: none",
    )
    rejected: str | None = Field(
        None,
        description="Column with the worse of two answers, which objective sft does not train on; null: none",
    )
    margin: str | None = Field(
        None,
        description="Column with a number, the wanted difference of both answers' rewards, for objective reward; null: "
        "none",
    )
    input: str | None = Field(
        None,
        description="Column with a text that follows the prompt of a pair or preference after a blank line, and may "
        "be empty; null: none",
    )
    history: str | None = Field(
        None,
        description="Column with the earlier turns of a pair, a list of [prompt, answer]; their answers are trained "
        "on too; null: none",
    )
    system: str | None = Field(
        None,
        description="Column with the system prompt of a pair, or of a conversation that begins without one; null: none",
    )
    system_prompt: str | None = Field(
        None, min_length=1, description="Text of the system prompt of pairs without one; null: none"
    )
    messages: str | None = Field(
        None,
        description="Column with a conversation: a list of {role, content} or, as in ShareGPT, {from, value}, with "
        "the loss on assistant turns; null: none",
    )
    tools: str | None = Field(
        None, description="Column with the tools of a conversation, for the chat template; null: none"
    )
    label: str | None = Field(
        None,
        description="Column with the class of a text for method probe: text, a whole number, or a list, whose most "
        "frequent value counts; null: the labels, else the categories, of a data set of `raymill "
        "prepare`; for objective kto true or false",
    )
    id: str | None = Field(
        None, description="Column with document ids; null: `id` if there is one, else a hash of the content"
    )
    group: str | None = Field(
        None, description="Column whose equal values keep documents in one split; null: `group_id` if there is one"
    )
    stratify: str | None = Field(
        None, description="Column whose values have the same fractions in every split; null: none"
    )
    split: str | None = Field(
        None,
        description="Column with the split of each document (train, validation or test), in place of the setting "
        "`split`; null: `split` of a data set of `raymill prepare`",
    )
    fold: str | None = Field(
        None,
        description="Column with the fold of each document, a whole number from 0, for `split.fold`; null: `fold` of "
        "a data set of `raymill prepare`",
    )
    stage: str | None = Field(
        None,
        description="Column with the curriculum stage of each document, a whole number from 0 (easiest) to 255; "
        "null: `stage` of a data set of `raymill prepare`",
    )
    copies: str | None = Field(
        None,
        description="Column with the number of times that each document to train on is in an epoch, 0 to 100; a "
        "fraction is the probability of one more; null: `copies` of a corpus of `raymill curate` if no document has "
        "more than 10",
    )

    ignore: tuple[str, ...] | None = Field(
        None, description="Names of columns and of keys of messages that are not read; null: the config's `ignore`"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected go together: give both")
        if self.chosen is None and (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion go together: give both")
        forms = [name for name in ("text", "completion", "chosen", "messages") if getattr(self, name)]
        if len(forms) != 1:
            raise ValueError(
                f"{' and '.join(forms) or 'no form'} given; wanted one of {{text: COLUMN}}, "
                "{prompt: COLUMN, completion: COLUMN}, {messages: COLUMN}, {prompt: COLUMN, chosen: COLUMN, rejected: "
                "COLUMN}"
            )
        if self.tools and self.text:
            raise ValueError("tools goes with messages, or with prompt and completion or two answers")
        for name in ("input", "history", "system_prompt"):
            if getattr(self, name) and not (self.completion or (name == "input" and self.chosen)):
                raise ValueError(f"{name} goes with prompt and completion")
        if self.margin and not self.chosen:
            raise ValueError("margin goes with chosen and rejected")
        if self.system and self.text:
            raise ValueError("system goes with prompt and completion, or with messages")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the answers of preferences and the copies where there are none."""
        return {name: value for name, value in plain(self).items() if value is not None or name not in _UNRECORDED}

    @property
    def form(self) -> Form:
        """The form of the documents."""
        return "text" if self.text else "pair" if self.completion else "chat"

    @property
    def read(self) -> "ReadColumns":
        """The part of these settings that readers of documents use."""
        named = self.model_dump(exclude_none=True, exclude={"system_prompt", "ignore"})
        return ReadColumns(self.form, named, self.system_prompt or "", self.ignore or ())


@dataclass(frozen=True)
class ReadColumns:
    """The columns of a corpus that are read.

    form: form of the documents. named: use -> column. system_prompt: system message of pairs that have none. ignored:
    columns and keys of messages that are treated as if they were not there.
    """

    form: Form
    named: Mapping[str, str]
    system_prompt: str
    ignored: tuple[str, ...]

    @cached_property
    def known(self) -> frozenset[str]:
        """The names of top-level columns that are read or ignored."""
        return frozenset({name.partition(".")[0] for name in self.named.values()} | {*self.ignored})


class DocumentFiles(Settings):
    """Settings of a corpus or set that say how its files are read."""

    columns: Columns | None = Field(None, description="Columns of these documents; null: the config's `columns`")
    follow_links: bool = Field(
        False,
        description="Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face "
        "cache do",
    )
    exclude: tuple[str, ...] | None = Field(
        None,
        description="Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`); null: none",
    )
    format: Format | None = Field(
        None,
        description="Format of the files; null: by the ending of each name, without .gz, .zst, .bz2 or .lz4; of a "
        "folder with records, documents (text, HTML, PDF ..) are not read",
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV",
    )
    encoding: Encoding | None = Field(None, description=ENCODING)


class Corpus(DocumentFiles):
    """One corpus of a mixture."""

    short_form: ClassVar = "path"

    path: str = Field(
        min_length=1,
        description="Artifact, folder, glob, file or URI of any format that `curate` reads; a folder saved by "
        "Hugging Face `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION]",
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="Name of the split to read of a Hugging Face data set; null: train, validation and test, as "
        "splits of the training",
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="Name of the corpus in logs and reports, other than reference and tokenizer; null: corpus-0, "
        "corpus-1 and so on",
    )
    weight: float | None = Field(
        None,
        gt=0,
        description="Weight of the corpus among the tokens of the mixture; null: `epochs`, `tokens` or the corpus's "
        "own size decides",
    )
    epochs: float | None = Field(
        None, gt=0, description="Number of epochs of this corpus, in place of `weight`; null: none given"
    )
    tokens: int | None = Field(
        None, ge=1, description="Number of tokens of this corpus to train on, in place of `weight`; null: none given"
    )
    storage: StorageOptions | None = Field(
        None, description="Object-store settings for this source alone; null: the config's `storage`"
    )


class Model(Settings, WithShortForm):
    """A base model by name, or a randomly initialised one by its config."""

    short_form: ClassVar = "name"

    name: str | None = Field(
        None,
        description="Folder, URI (fetched once by every machine) or hub name of the base model, or the output of a "
        "training: its exported model; null: random weights by `config`",
    )
    revision: str | None = Field(
        None, description="Revision of the model's hub repository, best a commit; null: the newest"
    )
    config: dict[str, Any] | None = Field(
        None, description="Transformers settings of a model with random weights, in place of `name`; null: none"
    )
    tokenizer: str | None = Field(
        None,
        description="Folder, URI or hub name of the tokenizer; `train`: a byte-level BPE fitted on the corpus; null: "
        "the model's",
    )
    chat_template: str | None = Field(
        None,
        description="Path of a Jinja chat template, or `chatml`; null: the tokenizer's; a fitted tokenizer has chatml",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="Variables of the chat template, as {enable_thinking: false}; they are its defaults in packing, "
        "evaluation and the exported tokenizer",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.name is None) == (self.config is None):
            raise ValueError("give a name (path, URI or hub name), or a config for random weights, and not both")
        for variable in self.chat_template_kwargs:
            if not variable.isidentifier() or variable in ("messages", "tools", "add_generation_prompt"):
                raise ValueError(f"chat_template_kwargs: {variable} cannot be set; give variables of the template")
        if self.config is not None:
            if "model_type" not in self.config:
                raise ValueError("config: needs a model_type, as in {model_type: llama, hidden_size: 64, ...}")
            if self.tokenizer is None:
                raise ValueError("tokenizer: a randomly initialised model has no tokenizer; give one, or `train`")
            if self.tokenizer == "train" and not isinstance(self.config.get("vocab_size"), int):
                raise ValueError("config.vocab_size: a tokenizer that is to be trained needs it, as a whole number")
        return self


class ContinueFrom(Settings, WithShortForm):
    """The finished run that a training continues: it starts from that run's weights and optimizer state."""

    short_form: ClassVar = "run"

    run: str = Field(min_length=1, description="Output of the finished run that is continued, or of one of its phases")
    checkpoint: Literal["newest", "best"] = Field(
        "newest", description="Checkpoint that is continued: the newest, or best (lowest validation loss)"
    )


class Split(Settings):
    """Shares of documents. A hash of the document (or its group) decides, so a document is always in the same split.

    fold: documents of this fold are for testing, those of the others for training; the shares are not used.
    """

    train: float = Field(0.8, gt=0, le=1, description="Fraction of the documents for training")
    validation: float = Field(0.1, ge=0, lt=1, description="Fraction of the documents for validation")
    test: float = Field(0.1, ge=0, lt=1, description="Fraction of the documents for testing")
    fold: int | None = Field(
        None,
        ge=0,
        description="Number of the fold (`columns.fold`) that is for testing; all others are for training, and the "
        "fractions are not used; null: none",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test sum to {total:g}; wanted 1")
        return self


class Packing(Settings):
    """How documents become rows."""

    mode: Literal["best_fit", "none"] = Field(
        "best_fit",
        description="Packing of documents into rows: best_fit (several a row, attention inside each document), or "
        "none (one a row)",
    )
    overflow: Overflow | None = Field(
        None,
        description="Treatment of documents longer than a row: split (into pieces), truncate (after the last label "
        "token that fits), or drop; null: split for text, drop for chats and pairs, truncate for method "
        "probe",
    )


class Optimizer(WithLaterSettings):
    """The optimizer and its learning-rate schedule."""

    later: ClassVar = ("warmup_fraction", "restarts", "layer_decay", "ema_decay", "algorithm")

    other_names: ClassVar = {
        "lr": "learning_rate", "lr_scheduler": "schedule", "lr_scheduler_type": "schedule", "scheduler": "schedule",
        "warmup": "warmup_steps", "warmup_ratio": "warmup_fraction", "num_warmup_steps": "warmup_steps",
        "max_grad_norm": "clip", "gradient_clipping": "clip", "eps": "epsilon", "adam_epsilon": "epsilon",
        "adam_beta1": "betas", "adam_beta2": "betas", "min_lr_ratio": "final_fraction",
        "optim": "algorithm", "name": "algorithm", "type": "algorithm", "num_cycles": "restarts",
        "layerwise_lr_decay": "layer_decay", "llrd": "layer_decay",
    }  # fmt: skip

    algorithm: Literal["adamw", "muon"] = Field(
        "adamw",
        description="Optimizer: AdamW, or Muon for the matrices of the decoder layers and AdamW for all others",
    )
    learning_rate: float = Field(2e-5, gt=0, description="Learning rate after warm-up")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of matrices; biases and norms have none")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine",
        description="Learning rate after warm-up: a half cosine or a straight line to `final_fraction`, constant, or "
        "wsd (constant, then a straight line over the last `decay_steps`)",
    )
    warmup_steps: int = Field(
        0, ge=0, description="Number of optimizer steps in which the learning rate rises to its full value"
    )
    warmup_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of all optimizer steps in which the learning rate rises, rounded up to whole steps, in "
        "place of `warmup_steps`; null: `warmup_steps`",
    )
    restarts: int = Field(
        0,
        ge=0,
        description="Number of times that schedule cosine starts again at the full learning rate, after equal parts "
        "of the steps",
    )
    decay_steps: int | None = Field(
        None,
        ge=1,
        description="Number of optimizer steps of the decay at the end, for schedule wsd; null: a tenth of all steps",
    )
    final_fraction: float = Field(
        0.0, ge=0, le=1, description="Learning rate at the end of the schedule, as a fraction of `learning_rate`"
    )
    clip: float | None = Field(
        1.0,
        gt=0,
        description="Maximum global norm of the gradients, to which they are scaled down; null: no clipping, the "
        "norm is only recorded",
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="Decay rates of AdamW's averages of the gradients and of their squares"
    )
    epsilon: float = Field(1e-8, gt=0, description="Term in the denominator of AdamW's update, for numerical stability")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of each decoder layer divided by the rate of the layer above it; 1: equal rates",
    )

    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, which is validated and exported in their "
        "place; null: none",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_fraction is not None and self.warmup_steps:
            raise ValueError("warmup_steps and warmup_fraction given; wanted one of them")
        if self.restarts and self.schedule != "cosine":
            raise ValueError(f"restarts: only schedule cosine starts again; the schedule is {self.schedule}")
        return self

    def warmup(self, steps: int) -> int:
        """Number of warm-up steps of a training of `steps` steps."""
        if self.warmup_fraction is None:
            return self.warmup_steps
        # Rounded before it is rounded up: 70 * 0.1 is 7.000000000000001.
        return math.ceil(round(self.warmup_fraction * steps, 6))


SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class HeldOutSet(DocumentFiles, WithShortForm):
    """Documents that are measured before and after training, and never trained on."""

    short_form: ClassVar = "path"

    path: paths.AbsolutePath = Field(
        description="Artifact, folder, glob, file or URI of any format that `curate` reads, on the store of the "
        "config's `storage`; a folder saved by `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION]"
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="Name of the split to measure, of documents with splits; null: test, or all documents without a "
        "split",
    )


class Evaluate(WithLaterSettings):
    """Validation during training, early stopping, and sets that are measured before and after training."""

    later: ClassVar = ("tokens",)

    every_steps: int = Field(50, ge=1, description="Number of optimizer steps between two validations")
    tokens: int | None = Field(
        1 << 19,
        ge=1,
        description="Maximum number of tokens of the validation split that are measured, in whole rows; null: all",
    )
    rows: int | None = Field(
        None, ge=1, description="Maximum number of rows of the validation split, in place of `tokens`; null: `tokens`"
    )
    test_tokens: int | None = Field(
        1 << 20,
        ge=1,
        description="Maximum number of tokens of the test split, and of each of `sets`, that are measured before and "
        "after training; null: all",
    )
    sets: dict[SetName, HeldOutSet] = Field(
        {},
        description="Further sets to measure before and after training, by name: a path, or {path, columns, split}",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Number of validations without a better loss after which training stops early; null: never",
    )
    least_gain: float = Field(0.0, ge=0, description="Minimum decrease of the validation loss that counts as better")

    @field_validator("sets")
    @classmethod
    def _names_are_no_splits(cls, sets: dict[str, HeldOutSet]) -> dict[str, HeldOutSet]:
        if taken := sorted(sets.keys() & {"train", "validation", "test"}):
            raise ValueError(f"{', '.join(taken)}: the corpora's own split has this name; give the set another")
        return sets


class Checkpointing(Settings):
    """When checkpoints are written, and how many are kept."""

    every_steps: int | None = Field(
        500, ge=1, description="Number of optimizer steps between two checkpoints; null: none by steps"
    )
    every_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes between two checkpoints, besides those by steps; null: none by time",
    )
    keep: int = Field(
        2, ge=1, description="Number of newest checkpoints to keep, besides the one with the best validation loss"
    )


class Failures(Settings):
    """What a run does after a crash, a preemption or a broken loss."""

    max: int = Field(3, ge=0, description="Maximum number of restarts from a checkpoint after crashes of workers")
    max_preemptions: int = Field(
        -1, ge=-1, description="Maximum number of restarts from a checkpoint after lost nodes; -1: any number"
    )
    skip_back: int = Field(
        0,
        ge=0,
        description="Maximum number of broken losses after which training returns to a checkpoint and skips the "
        "steps since then; at the next one the run ends",
    )
    loss_limit: float | None = Field(
        None, gt=0, description="Training loss above which a step is broken, as with NaN; null: NaN and infinity alone"
    )


# Names of the scores of training/evaluation/scores.py, and of the loss beside them.
class Generate(Settings):
    """Greedy generation on held-out prompts after training."""

    prompts: int = Field(32, ge=1, description="Number of held-out prompts to answer after training")
    max_new_tokens: int = Field(128, ge=1, description="Maximum number of tokens of a generated answer")
    prompt_tokens: int = Field(32, ge=1, description="Number of first tokens of a plain text that are its prompt")
    answer: Literal["text", "label", "number"] = Field(
        "text",
        description="Comparison of answers with references: text, label (accuracy, precision, recall, F1 too), or "
        "number (the one after the first `####`, as in GSM8K, if references have that mark, else the "
        "last)",
    )
    decimal_mark: Literal[".", ","] = Field(
        ".",
        description="Decimal mark of numbers in answers and references; with a comma 1.000,50 is a number and "
        "1,000.50 is not",
    )
    custom: tuple[ScoreUse, ...] = Field(
        (),
        description="Scores of your own, classes or functions from a dictionary with `prompt`, `reference` and "
        "`generated` to a number, of which the mean over all answers is reported",
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names_once(self.custom)
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `custom` where it is empty, so that records of earlier versions are equal."""
        return {name: value for name, value in handler(self).items() if name != "custom" or value}


class Export(Settings):
    """The exported weights."""

    merged: bool = Field(
        True,
        description="Whether the base model with the adapter merged into it is exported too, for methods lora and "
        "qlora",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="Number type of the exported full or merged weights; null: as in the base model's files, float32 "
        "for random weights",
    )


class Track(Settings):
    """Where curves are sent while training runs."""

    for_secrets: ClassVar = (
        "Set the environment of the workers: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN; for a database PGPASSWORD or a file ~/.pgpass; for Weights & Biases WANDB_API_KEY."
    )

    tensorboard: bool = Field(True, description="Whether curves are written for TensorBoard")
    mlflow: str | None = Field(None, description="Tracking URI of MLflow, without user name and password; null: none")
    wandb: str | None = Field(None, description="Project of Weights & Biases; null: none")


class CallbackUse(PluginUse):
    """A callback of the user, see training/fit/callbacks.py."""

    kind: ClassVar = PluginKind("callback", "raymill.callbacks", ("record",), ("on_step", "on_checkpoint", "on_end"))


class Elastic(Settings):
    """A range of workers."""

    min: int = Field(ge=1, description="Minimum number of workers with which training goes on")
    max: int = Field(ge=1, description="Maximum number of workers")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


# Enough for one worker to load a model or to compile while the others wait.
TIMEOUT_S = 1800.0


class Workers(Settings):
    """The processes that train, and their resources."""

    count: Annotated[int, Field(ge=1)] | Elastic = Field(
        1, description="Number of workers, or a range as {min: 2, max: 8}"
    )
    context: int = Field(
        1,
        ge=1,
        description="Number of workers that share each row (context parallelism): each computes a part of its tokens, "
        "and attention of the whole row for a part of the heads; for rows too long for one GPU",
    )
    gpus_each: int = Field(0, ge=0, le=1, description="Number of GPUs of each worker")
    cpus_each: float = Field(1, gt=0, description="Number of CPUs of each worker")
    accelerator_type: str | None = Field(
        None, min_length=1, description="Type of the GPUs by Ray's name, such as H100 or A100-80G; null: any"
    )
    labels: dict[str, str] = Field(
        {}, description="Labels of Ray nodes on which workers run, such as {ray.io/market-type: on-demand}"
    )
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack",
        description="Placement of workers: pack (few nodes), spread (many), strict_pack (one node) or strict_spread "
        "(a node each)",
    )
    timeout_s: float = Field(
        TIMEOUT_S,
        gt=0,
        description="Seconds that a worker waits for another until the first step is taken, and while checkpoints are "
        "written or read; then the other counts as crashed, and the error names its rank",
    )
    step_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds that a worker waits for another after the first step, if less than `timeout_s`; a store "
        "may need longer for one row group",
    )

    @property
    def resources(self) -> dict[str, float]:
        """What a worker needs of a node, by Ray's names."""
        found = {"CPU": self.cpus_each, "GPU": float(self.gpus_each)}
        if self.accelerator_type is not None:
            found[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return {name: amount for name, amount in found.items() if amount}

    @property
    def range(self) -> tuple[int, int]:
        """(fewest, most) workers."""
        return (self.count.min, self.count.max) if isinstance(self.count, Elastic) else (self.count, self.count)


class PackExecution(Execution):
    """Also the units of packing."""

    unit_mib: int = Field(32, ge=1, description="Approximate size of the text that a unit of packing tokenises, in MiB")
