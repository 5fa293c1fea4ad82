"""The parts of a `kind: train` config. config.py combines them and checks that they are consistent."""

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
from raymill.cluster.readers.inputs import ENCODING, Encoding, Format
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions
from raymill.training.methods import CLASSIFIER

Overflow = Literal["split", "truncate", "drop"]


_ANSWERS = ("chosen", "rejected")


class Settings(BaseModel):
    """Base class of settings: unknown keys are an error, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WithShortForm(Settings):
    """Settings for which a text alone stands for the setting `short_form`."""

    short_form: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {cls.short_form: value} if isinstance(value, str) else value


class Columns(Settings):
    """Columns of a corpus. Exactly one of: text; prompt and completion; messages.

    Every setting except system_prompt is the name of a column, or COLUMN.FIELD of a column of structs.
    """

    text: str | None = Field(None, description="continued pre-training: loss on every token")
    prompt: str | None = Field(None, description="with completion, or chosen and rejected: loss on the answer")
    completion: str | None = None
    chosen: str | None = Field(
        None,
        description="with rejected, and prompt unless both are conversations: the better of two answers, text or "
        "messages; loss on it alone",
    )
    rejected: str | None = Field(None, description="with chosen: the worse answer, which is not trained on")
    input: str | None = Field(None, description="with prompt: text that follows it after a blank line; may be empty")
    history: str | None = Field(
        None, description="with prompt: earlier turns, a list of [prompt, answer]; the answers are trained on too"
    )
    system: str | None = Field(
        None, description="the system prompt; with messages, for conversations that do not begin with one"
    )
    system_prompt: str | None = Field(
        None, min_length=1, description="with prompt: the text of the system prompt of rows without one"
    )
    messages: str | None = Field(
        None, description="chat: a list of {role, content} or, as in ShareGPT, {from, value}; loss on assistant turns"
    )
    tools: str | None = Field(None, description="with messages: the tools that are passed to the chat template")
    label: str | None = Field(
        None,
        description=f"method {CLASSIFIER}: the class, text or a whole number; of a list its most frequent value. "
        "Default: the labels, else the categories, of a data set of `raymill prepare`",
    )
    id: str | None = Field(None, description="default: `id` where there is one, else a hash of the content")
    group: str | None = Field(None, description="documents of one group go to one split; default: `group_id` if there")
    stratify: str | None = Field(None, description="splits have the same shares of this column's values")
    split: str | None = Field(
        None,
        description="train, validation or test: the document's split, in place of `split`; default: `split` of a data "
        "set of `raymill prepare`",
    )
    fold: str | None = Field(
        None,
        description="with split.fold: the document's fold, a whole number from 0; default: `fold` of a data set of "
        "`raymill prepare`",
    )
    stage: str | None = Field(
        None,
        description="stage of a curriculum: a whole number from 0, the easiest, to 255; default: `stage` of a data set "
        "of `raymill prepare`",
    )

    ignore: tuple[str, ...] | None = Field(
        None, description="columns and keys of messages to pass over; default: the config's `ignore`"
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
        if self.tools and not self.messages:
            raise ValueError("tools goes with messages")
        for name in ("input", "history", "system_prompt"):
            if getattr(self, name) and not self.completion:
                raise ValueError(f"{name} goes with prompt and completion")
        if self.system and self.text:
            raise ValueError("system goes with prompt and completion, or with messages")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the answers of preferences where there are none, as earlier versions recorded the columns."""
        return {name: value for name, value in plain(self).items() if value is not None or name not in _ANSWERS}

    @property
    def named(self) -> dict[str, str]:
        """Names of columns, by their use."""
        return self.model_dump(exclude_none=True, exclude={"system_prompt", "ignore"})

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The columns and keys of messages that are treated as if they were not there."""
        return self.ignore or ()

    @property
    def form(self) -> Literal["text", "pair", "chat"]:
        """The form of the documents: plain text, prompt and completion, or chat messages and preferences."""
        return "text" if self.text else "pair" if self.completion else "chat"


class DocumentFiles(Settings):
    """Settings of a corpus or set that say how its files are read."""

    columns: Columns | None = Field(None, description="default: the config's `columns`")
    follow_links: bool = Field(False, description="whether links in the folder may lead out of it")
    exclude: tuple[str, ...] | None = Field(
        None, description="globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)"
    )
    format: Format | None = Field(
        None,
        description="default: by the file's ending, after .gz, .zst or .bz2; of a folder, files without records "
        "(text, HTML, PDF ..) only if it has none with records",
    )
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="default: comma for csv, tab for tsv")
    encoding: Encoding | None = Field(None, description=ENCODING)


class Corpus(DocumentFiles):
    """One corpus of a mixture."""

    short_form: ClassVar = "path"

    path: str = Field(
        min_length=1,
        description="an artifact, a folder, file, glob or URI with files of any format that `curate` reads; a folder "
        "saved by Hugging Face `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION] for a data set of its hub",
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="split to read of a data set of `datasets`; null: train, validation and test, which then are the "
        "splits of the training",
    )
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="default: corpus-0, corpus-1 .."
    )
    weight: float | None = Field(None, gt=0, description="share of the mixture's tokens, relative to the others'")
    epochs: float | None = Field(None, gt=0, description="instead of weight: epochs of this corpus")
    tokens: int | None = Field(None, ge=1, description="instead of weight: tokens of this corpus to train on")
    storage: StorageOptions | None = Field(
        None, description="settings of the store that has this corpus; default: the config's `storage`"
    )


class Model(WithShortForm):
    """A base model by name, or a randomly initialised one by its config."""

    short_form: ClassVar = "name"

    name: str | None = Field(None, description="a folder, a URI (every machine fetches it once), or a hub name")
    revision: str | None = Field(None, description="revision of the hub repository; pin it to a commit")
    config: dict[str, Any] | None = Field(
        None, description="instead of name: transformers settings of a model with random weights"
    )
    tokenizer: str | None = Field(
        None,
        description="folder, URI or hub name; `train`: a byte-level BPE fitted on the corpus; default: the model's",
    )
    chat_template: str | None = Field(
        None, description="a Jinja file, or `chatml`; default: the tokenizer's; a trained tokenizer has chatml"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="variables of the chat template, such as {enable_thinking: false}; they are its defaults in "
        "packing, evaluation and the exported tokenizer",
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


class ContinueFrom(WithShortForm):
    """The finished run that a training continues: it starts from that run's weights and optimizer state."""

    short_form: ClassVar = "run"

    run: str = Field(min_length=1, description="the output of a finished run, or of one of its phases")
    checkpoint: Literal["newest", "best"] = Field(
        "newest", description="best: the checkpoint with the lowest validation loss, which that run exported"
    )


class Split(Settings):
    """Shares of documents. A hash of the document (or its group) decides, so a document is always in the same split.

    fold: documents of this fold are for testing, those of the others for training; the shares are not used.
    """

    train: float = Field(0.8, gt=0, le=1)
    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    fold: int | None = Field(
        None, ge=0, description="instead: test on the documents of this fold (`columns.fold`), train on the others"
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
        "best_fit", description="several documents a row, attention inside each document; none: one document a row"
    )
    overflow: Overflow | None = Field(
        None,
        description="documents longer than a row: `split` into several pieces; `truncate` after the last label token "
        "that fits; `drop`. Default: split for text, drop for chat and pairs, truncate for method "
        f"{CLASSIFIER}",
    )


class Optimizer(Settings):
    """AdamW and its learning-rate schedule."""

    other_names: ClassVar = {
        "lr": "learning_rate", "lr_scheduler": "schedule", "lr_scheduler_type": "schedule", "scheduler": "schedule",
        "warmup": "warmup_steps", "warmup_ratio": "warmup_steps", "num_warmup_steps": "warmup_steps",
        "max_grad_norm": "clip", "gradient_clipping": "clip", "eps": "epsilon", "adam_epsilon": "epsilon",
        "adam_beta1": "betas", "adam_beta2": "betas", "min_lr_ratio": "final_fraction",
    }  # fmt: skip

    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="weight decay of matrices; biases and norms have none")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int | None = Field(None, ge=1, description="wsd: steps of the decay at the end; default: a tenth")
    final_fraction: float = Field(0.0, ge=0, le=1, description="the last learning rate, as a fraction of learning_rate")
    clip: float | None = Field(
        1.0, gt=0, description="largest global gradient norm; null: no clipping, the norm is only recorded"
    )
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(1e-8, gt=0)


SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class HeldOutSet(DocumentFiles, WithShortForm):
    """Documents that are measured before and after training, and never trained on."""

    short_form: ClassVar = "path"

    path: paths.AbsolutePath = Field(
        description="an artifact, a folder, file, glob or URI with files of any format that `curate` reads, on the "
        "store of the config's `storage`; a folder saved by `datasets`, or hf://ORG/NAME[/CONFIG][@REVISION]"
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="split to measure, for documents that have splits; null: test, or all documents without a split",
    )


class Evaluate(Settings):
    """Validation during training, early stopping, and sets that are measured before and after training."""

    every_steps: int = Field(50, ge=1)
    rows: int | None = Field(512, ge=1, description="most rows of the validation split to measure; null: all")
    test_tokens: int | None = Field(
        1 << 20,
        ge=1,
        description="maximum number of tokens of the test split, and of each of `sets`, that are measured before and "
        "after training; null: all",
    )
    sets: dict[SetName, HeldOutSet] = Field(
        {},
        description="further sets to measure before and after training, by name, each a path or {path, columns, split}",
    )
    patience: int | None = Field(None, ge=1, description="stop early after this many evaluations without a better loss")
    least_gain: float = Field(0.0, ge=0, description="a loss counts as better when lower by more than this")

    @field_validator("sets")
    @classmethod
    def _names_are_no_splits(cls, sets: dict[str, HeldOutSet]) -> dict[str, HeldOutSet]:
        if taken := sorted(sets.keys() & {"train", "validation", "test"}):
            raise ValueError(f"{', '.join(taken)}: the corpora's own split has this name; give the set another")
        return sets


class Checkpointing(Settings):
    """When checkpoints are written, and how many are kept."""

    every_steps: int | None = Field(500, ge=1)
    every_minutes: float | None = Field(None, gt=0)
    keep: int = Field(2, ge=1, description="number of newest ones to keep, besides that of the best validation loss")


class Failures(Settings):
    """What a run does after a crash, a preemption or a broken loss."""

    max: int = Field(3, ge=0, description="crashes of workers after which the run starts again from a checkpoint")
    max_preemptions: int = Field(-1, ge=-1, description="lost nodes after which it starts again; -1: any number")
    skip_back: int = Field(
        0, ge=0, description="broken losses after which it goes back to a checkpoint and skips the steps since then"
    )
    loss_limit: float | None = Field(None, gt=0, description="a training loss above this counts as broken, as NaN does")


class Generate(Settings):
    """Greedy generation on held-out prompts after training."""

    prompts: int = Field(32, ge=1)
    max_new_tokens: int = Field(128, ge=1)
    prompt_tokens: int = Field(32, ge=1, description="for plain text: number of first tokens that are the prompt")
    answer: Literal["text", "label", "number"] = Field(
        "text",
        description="label: accuracy, precision, recall, F1 too; number: compare the number after the first `####` "
        "(GSM8K) if references have that mark, else the last; number_match_flexible always compares the last",
    )
    decimal_mark: Literal[".", ","] = Field(
        ".",
        description="decimal mark of numbers in answers and references; `,`: 1.000,50 is a number and 1,000.50 is not",
    )


class Export(Settings):
    """The exported weights."""

    merged: bool = Field(True, description="methods with an adapter: also the merged model")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="number type of the exported full or merged weights; null: that of the base model's files, float32 "
        "for random weights",
    )


class Track(Settings):
    """Where curves are sent while training runs."""

    for_secrets: ClassVar = (
        "Set the environment of the workers: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN; for a database PGPASSWORD or a file ~/.pgpass; for Weights & Biases WANDB_API_KEY."
    )

    tensorboard: bool = True
    mlflow: str | None = Field(None, description="tracking URI, without user name and password")
    wandb: str | None = Field(None, description="project")


class Elastic(Settings):
    """A range of workers."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


# Enough for one worker to load a model or to compile while the others wait.
TIMEOUT_S = 1800.0


class Workers(Settings):
    """The processes that train, and their resources."""

    count: Annotated[int, Field(ge=1)] | Elastic = Field(1, description="or {min: 2, max: 8}")
    gpus_each: int = Field(0, ge=0, le=1)
    cpus_each: float = Field(1, gt=0)
    timeout_s: float = Field(
        TIMEOUT_S,
        gt=0,
        description="longest wait for another worker; then the attempt fails and names the worker's rank",
    )

    @property
    def range(self) -> tuple[int, int]:
        """(fewest, most) workers."""
        return (self.count.min, self.count.max) if isinstance(self.count, Elastic) else (self.count, self.count)


class PackExecution(Execution):
    """Also the units of packing."""

    unit_mib: int = Field(32, ge=1, description="approximate text of a unit of tokenising")
