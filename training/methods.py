"""The methods of training: what each trains, its settings and checks, its cost, its exports, its words in reports.

Every other module asks METHODS instead of comparing names. What needs torch is beside the model: models/build.py makes
adapters, models/objective.py has the modules whose loss is trained, and export/job.py writes the folders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from raymill.training.config_parts import WithLaterSettings

MethodName = Literal["full", "lora", "qlora", "prefix", "prompt", "probe"]


# Settings


class Lora(WithLaterSettings):
    """The adapter of methods lora and qlora."""

    later: ClassVar = ("loraplus_ratio", "modules_to_save", "init")

    other_names: ClassVar = {
        "r": "rank", "lora_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "target",
        "use_rslora": "rslora", "use_dora": "dora", "loraplus_lr_ratio": "loraplus_ratio",
        "init_lora_weights": "init",
    }  # fmt: skip

    rank: int = Field(16, ge=1, description="Rank of the LoRA matrices")
    alpha: float = Field(32, gt=0, description="Scale of the LoRA update, which is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropout on the input of LoRA layers")
    target: str | tuple[str, ...] = Field(
        "all-linear",
        description="Names of the modules that have an adapter; all-linear: all linear layers but the lm_head",
    )
    init: Literal["default", "pissa"] = Field(
        "default",
        description="Initial adapter: one that changes nothing (B is zero), or pissa, which moves the largest singular "
        "vectors of each matrix from the frozen base to the adapter",
    )
    modules_to_save: tuple[str, ...] = Field(
        (),
        description="Names of modules that are trained in full beside the adapter and saved with it, such as "
        "embed_tokens and lm_head for a model with new tokens",
    )
    rslora: bool = Field(
        False, description="Whether the LoRA update is scaled by alpha / sqrt(rank) in place of alpha / rank"
    )
    dora: bool = Field(
        False, description="Whether the adapter is weight-decomposed (DoRA), with a trained magnitude for each output"
    )

    loraplus_ratio: float = Field(
        1.0,
        gt=0,
        description="Learning rate of the B matrices (and of DoRA's magnitudes) divided by the rate of the A "
        "matrices, as in LoRA+; 1: equal rates",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """`target` as names."""
        return (self.target,) if isinstance(self.target, str) else self.target


class Virtual(BaseModel, extra="forbid", frozen=True):
    """The virtual tokens of methods prefix and prompt."""

    tokens: int = Field(20, ge=1, description="Number of trained virtual tokens before the text")


class Probe(BaseModel, extra="forbid", frozen=True):
    """The classifier of method probe."""

    pool: Literal["last", "mean"] = Field(
        "last", description="Input of the classification head: hidden state of the last token, or mean over all tokens"
    )


# What the methods are described with


@dataclass(frozen=True)
class MetricWords:
    """The words for measurements in reports.

    Attributes:
        labels: what a loss is a mean over.
        right: what accuracy counts.
        accuracy: a sentence about accuracy.
        scores: caption of the table of scores.
        perplexity: whether it is meaningful.
        is_reward: whether the loss is minus a mean reward, which is shown in its place.
    """

    labels: str
    right: str
    accuracy: str
    scores: str
    perplexity: bool
    is_reward: bool = False


_OF_TOKENS = MetricWords(
    labels="label tokens",
    right="next token",
    accuracy="Accuracy is the share of label tokens to which the model gave the highest probability.",
    scores="Greedy answers to held-out prompts; from 0 to 1, BLEU from 0 to 100",
    perplexity=True,
)


@dataclass(frozen=True)
class ExportedFolder:
    """A folder that an export may have.

    Attributes:
        what: a sentence for its model card.
        library, task: `library_name` and `pipeline_tag` of the card.
        relation: `base_model_relation` of the card.
        base_at: file in the folder, and keys in it, that name the base model which the folder is loaded on.
    """

    what: str
    library: str = "transformers"
    task: str = "text-generation"
    relation: str | None = None
    base_at: tuple[str, tuple[str, ...]] | None = None


FOLDERS: Mapping[str, ExportedFolder] = {
    "full": ExportedFolder("All weights of the model after training.", relation="finetune"),
    "adapter": ExportedFolder(
        "The adapter alone; it is loaded on top of its base model.",
        library="peft",
        relation="adapter",
        base_at=("adapter_config.json", ("base_model_name_or_path",)),
    ),
    "merged": ExportedFolder("The base model with the adapter merged into its weights.", relation="finetune"),
    "base": ExportedFolder(
        "The randomly initialised base that the adapter in the folder beside this one was trained on."
    ),
    "probe": ExportedFolder(
        "A classification head on the frozen base model.",
        task="text-classification",
        base_at=("probe.json", ("base", "name")),
    ),
}


# The methods


class TrainingMethod:
    """A method of training; by default one that trains an adapter on a frozen base.

    `config` in its functions is a `raymill.training.config.TrainConfig`.

    Attributes:
        name: value of the setting `method`.
        group: the settings that it uses besides those of every method.
        of_weights: those of them that decide the shape or the meaning of the trained weights.
        trains_base: all weights of the base are trained; otherwise they are frozen.
        merges: LoRA, which can be merged into the base's weights.
        four_bit: the base has 4-bit weights. They need a GPU, and engines cannot shard them.
        virtual: virtual tokens precede every row.
        classifies: it predicts a class of each document, and no token; of the base only the body is used.
        one_document: a row must be one document.
        recomputes: activation checkpointing is possible and saves memory.
        not_compiled: the reason why decoder layers are not compiled by default, if there is one.
        without_effect: settings that change nothing -> the reason.
        usual_rates: lowest and highest usual learning rate on a trained model.
        words: see MetricWords.
    """

    name: MethodName
    group: str | None = None
    of_weights: tuple[str, ...] = ()
    trains_base = merges = four_bit = virtual = classifies = one_document = False
    recomputes = True
    not_compiled: str | None = None
    without_effect: Mapping[str, str] = {}
    usual_rates = (0.0, 0.0)
    words = _OF_TOKENS

    def check(self, config: Any) -> None:
        """
        Raises:
            ValueError: the config's settings do not fit this method.
        """
        if any(columns.label for columns in config.all_columns) and config.objective != "kto":
            raise ValueError(f"columns.label: only method {CLASSIFIER} and objective kto use a label")

    def settings(self, config: Any) -> dict[str, Any]:
        """The settings that decide the shape or the meaning of the trained weights, as JSON values."""
        return getattr(config, self.group).model_dump(mode="json", include={*self.of_weights}) if self.group else {}

    def description(self, config: Any) -> str:
        """Name and main settings, in a line."""
        return self.name

    def card_rows(self, config: Any, classes: list[str]) -> list[tuple[str, str]]:
        """Rows of a model card's recipe."""
        return []

    def flops(self, body: float, lm_head: float, trained: int, attention: float) -> float:
        """Floating-point operations of one trained token, forward and backward.

        2 for each weight that the token is multiplied with are the forward pass; each gradient is one product more, of
        the input and of the weight. A frozen weight needs no gradient. Positions of virtual tokens are not counted.

        Args:
            body, lm_head: weights that a token is multiplied with. trained: weights of an adapter.
            attention: operations of attention in the forward pass.
        """
        return 4 * (body + lm_head) + 3 * attention


class _Full(TrainingMethod):
    name = "full"
    trains_base = True

    def flops(self, body: float, lm_head: float, trained: int, attention: float) -> float:
        return 3 * (2 * (body + lm_head) + attention)


class _Lora(TrainingMethod):
    name: MethodName = "lora"
    group = "lora"
    of_weights = ("rank", "alpha", "target", "rslora", "dora", "modules_to_save", "init")
    merges = True
    # Ten times the usual rate of full training: Schulman et al. 2025, LoRA without regret.
    usual_rates = (2e-5, 1e-3)

    def check(self, config: Any) -> None:
        super().check(config)
        if config.lora.init == "pissa" and (config.lora.dora or self.four_bit):
            other = "method qlora" if self.four_bit else "lora.dora"
            raise ValueError(f"lora.init: pissa changes the frozen weights, which does not go with {other}")
        if both := {*config.lora.targets} & {*config.lora.modules_to_save}:
            raise ValueError(
                f"lora.modules_to_save: {min(both)} is in lora.target too, and it is trained in full or by an adapter"
            )

    def description(self, config: Any) -> str:
        return f"{self.name}, rank {config.lora.rank}, alpha {config.lora.alpha:g}"

    def card_rows(self, config: Any, classes: list[str]) -> list[tuple[str, str]]:
        lora = config.lora
        kind = ", rsLoRA" * lora.rslora + ", DoRA" * lora.dora
        kind += ", PiSSA" * (lora.init == "pissa")
        kind += f", LoRA+ with ratio {lora.loraplus_ratio:g}" if lora.loraplus_ratio != 1 else ""
        return [
            ("LoRA", f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}{kind}"),
            ("LoRA on", ", ".join(lora.targets)),
            *([("Trained in full", ", ".join(lora.modules_to_save))] if lora.modules_to_save else []),
        ]

    def flops(self, body: float, lm_head: float, trained: int, attention: float) -> float:
        return 4 * (body + lm_head) + 6 * trained + 3 * attention


class _QLora(_Lora):
    name: MethodName = "qlora"
    four_bit = True
    not_compiled = "compilation of 4-bit layers is not tested"

    def check(self, config: Any) -> None:
        super().check(config)
        if not config.workers.gpus_each:
            raise ValueError(
                "method: qlora computes on 4-bit weights, which needs GPUs; set workers.gpus_each: 1, or lora"
            )
        if config.model.config:
            raise ValueError("method: qlora quantises a trained model; random weights have nothing to keep")


class _Prompt(TrainingMethod):
    name: MethodName = "prompt"
    group = "prompt"
    of_weights = ("tokens",)
    virtual = one_document = True
    # Lester et al. 2021: 0.3 with Adafactor; peft's examples: 3e-2.
    usual_rates = (1e-3, 3e-1)

    def check(self, config: Any) -> None:
        if config.packing.mode != "none":
            raise ValueError(
                f"packing.mode: method {self.name} puts virtual tokens before a row, so a row must be one document; "
                "set packing: {mode: none}"
            )
        super().check(config)

    def description(self, config: Any) -> str:
        return f"{self.name}, {getattr(config, self.name).tokens} virtual tokens"

    def card_rows(self, config: Any, classes: list[str]) -> list[tuple[str, str]]:
        return [("Virtual tokens", str(getattr(config, self.name).tokens))]


class _Prefix(_Prompt):
    name: MethodName = "prefix"
    group = "prefix"
    recomputes = False  # transformers drops the cache with the virtual tokens when it recomputes layers
    not_compiled = "the cache of method prefix breaks the graphs"
    usual_rates = (5e-5, 5e-2)  # Li and Liang 2021: 5e-5 and up


class _Probe(TrainingMethod):
    name = "probe"
    group = "probe"
    of_weights = ("pool",)
    classifies = one_document = True
    recomputes = False
    without_effect: Mapping[str, str] = {
        "generate": "method probe generates no text",
        "loss_chunk_tokens": "method probe computes no logits of tokens",
        "activation_checkpointing": "method probe computes no gradients of the base",
        "neftune_alpha": "method probe classifies texts by features without noise",
    }
    usual_rates = (1e-4, 1e-1)
    words = MetricWords(
        labels="documents",
        right="class",
        accuracy="Accuracy is the share of documents whose class the probe scored highest.",
        scores="Classes given to held-out documents; from 0 to 1",
        perplexity=False,
    )

    def check(self, config: Any) -> None:
        if config.packing.mode != "none" or config.packing.overflow == "split":
            raise ValueError(
                "packing: method probe classifies whole documents; set packing: {mode: none}, and overflow to "
                "truncate (the default) or drop"
            )
        if any(columns.form != "text" for columns in config.all_columns):
            raise ValueError("columns: method probe needs {text: COLUMN, label: COLUMN}")

    def card_rows(self, config: Any, classes: list[str]) -> list[tuple[str, str]]:
        return [("Head on", f"{config.probe.pool} hidden state"), ("Classes", ", ".join(classes))]

    def flops(self, body: float, lm_head: float, trained: int, attention: float) -> float:
        return 2 * body + attention


METHODS: Mapping[str, TrainingMethod] = {
    one.name: one for one in (_Full(), _Lora(), _QLora(), _Prefix(), _Prompt(), _Probe())
}
# The method that predicts classes, for descriptions and messages.
CLASSIFIER = _Probe.name
# What `preview` says of a document whose class is predicted.
CLASS_WORDS = "a probe predicts the class of each document"


def metric_words(method: str) -> MetricWords:
    """The words for a config's method, or for a report's description of the method, which begins with its name."""
    found = METHODS.get(method.partition(",")[0])  # a report's text is foreign
    return found.words if found else _OF_TOKENS
