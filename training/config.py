"""The config of `kind: train`. `raymill config schema` prints every setting with its description."""

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from raymill.cluster.examples.terms import GenerationTerms
from raymill.cluster.plugins import context_of, plugins_in
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.training.config_parts import (
    CallbackUse,
    Checkpointing,
    Columns,
    ContinueFrom,
    Corpus,
    Evaluate,
    Export,
    Failures,
    Form,
    Generate,
    Model,
    Optimizer,
    Overflow,
    PackExecution,
    Packing,
    Split,
    Track,
    WithLaterSettings,
    Workers,
)
from raymill.training.methods import METHODS, Lora, MethodName, MetricWords, Probe, TrainingMethod, Virtual
from raymill.training.objectives import (
    OBJECTIVES,
    Dpo,
    Grpo,
    Ipo,
    Kto,
    ObjectiveName,
    Orpo,
    Reward,
    Simpo,
    TrainingObjective,
    check_objective,
)

Order = Literal["shuffled", "curriculum", "reverse", "mixed"]
EngineName = Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"]
ZERO = ("zero1", "zero2", "zero3")

# Settings that do not change the trained weights: how and where a run computes, and where its curves are sent.
_NOT_RESULT = {"output", "packed", "storage", "execution", "workers", "engine", "offload", "micro_batch", "checkpoint",
              "callbacks", "failures", "track", "device_memory_gib", "compile", "deterministic",
              "shard", "reduce_every_micro_batch", "loss_chunk_tokens"}  # fmt: skip
# Positions of a micro-batch if neither `micro_batch` nor the limit of the device's memory is known.
_MICRO_TOKENS = 8192
# Settings that are used only after the last training step.
_AFTER_TRAINING = {"export", "generate"}


class TrainConfig(WithLaterSettings):
    """Fine-tune a model on corpora."""

    later: ClassVar = ("prompt_loss_weight", "neftune_alpha", "callbacks")

    other_names: ClassVar = {
        "lr": "optimizer.learning_rate", "learning_rate": "optimizer.learning_rate",
        "warmup_steps": "optimizer.warmup_steps", "warmup_ratio": "optimizer.warmup_fraction",
        "loraplus_lr_ratio": "lora.loraplus_ratio", "weight_decay": "optimizer.weight_decay",
        "max_grad_norm": "optimizer.clip", "max_steps": "steps", "num_train_epochs": "epochs", "num_epochs": "epochs",
        "max_length": "sequence_length", "max_seq_length": "sequence_length", "seq_length": "sequence_length",
        "sequence_len": "sequence_length", "cutoff_len": "sequence_length",
        "batch_size": "tokens_per_step", "per_device_train_batch_size": "micro_batch",
        "micro_batch_size": "micro_batch", "gradient_accumulation_steps": "tokens_per_step",
        "gradient_checkpointing": "activation_checkpointing", "output_dir": "output", "dataset": "corpus",
        "datasets": "corpus", "base_model": "model", "model_name_or_path": "model", "bf16": "precision",
        "resume_from_checkpoint": "continue_from", "context_parallel_size": "workers.context",
        "train_on_inputs": "prompt_loss_weight", "train_on_prompt": "prompt_loss_weight",
        "completion_only_loss": "prompt_loss_weight", "assistant_only_loss": "prompt_loss_weight",
        "neftune_noise_alpha": "neftune_alpha",
        "lora_r": "lora.rank", "lora_alpha": "lora.alpha", "eval_steps": "evaluate.every_steps",
        "save_steps": "checkpoint.every_steps", "system_prompt": "columns.system_prompt",
    }  # fmt: skip

    kind: Literal["train", "cross-validate"] = Field(
        description="Kind of run: train; or cross-validate, which trains once a fold and writes the scores"
    )
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the run in logs and reports")
    corpus: tuple[Corpus, ...] = Field(
        min_length=1,
        description="Documents to train on: a path or URI, a corpus {path, ..}, or a list of corpora with weights",
    )
    columns: Columns = Field(
        Columns(text="text"),
        description="Columns of every corpus without `columns` of its own; if left out, recognised by their names",
    )
    ignore: tuple[str, ...] = Field(
        (),
        description="Names of columns and of keys of messages that are not read, though they may decide what is "
        "trained on, such as `label` or `weight`; for corpora whose columns have no `ignore`",
    )
    terms: GenerationTerms | None = Field(
        None, description="Terms under which generated records are left out; null: none are left out"
    )
    model: Model = Field(description="Base model: a folder, URI or hub name, or {name, revision, tokenizer, ..}")
    continue_from: ContinueFrom | None = Field(
        None,
        description="Output of a finished run to continue: weights, optimizer state and position in the data are "
        "kept; steps, epochs, tokens and learning-rate schedule are those of the new run alone; null: "
        "none",
    )
    objective: ObjectiveName = Field(
        "sft",
        description="Loss that is minimised: cross entropy (sft), losses of pairs of a better and a worse answer (dpo, "
        "ipo, simpo, orpo, reward) or of answers that are desirable or not (kto), or rewards of sampled answers (grpo)",
    )
    dpo: Dpo = Field(Dpo(), description="Loss of objective dpo")
    ipo: Ipo = Field(Ipo(), description="Loss of objective ipo")
    simpo: Simpo = Field(Simpo(), description="Loss of objective simpo")
    orpo: Orpo = Field(Orpo(), description="Loss of objective orpo")
    kto: Kto = Field(Kto(), description="Loss of objective kto")
    reward: Reward = Field(Reward(), description="Loss of objective reward")
    grpo: Grpo = Field(Grpo(), description="Sampling, rewards and loss of objective grpo")
    method: MethodName = Field(
        "full",
        description="Training method: all weights (full), LoRA, LoRA on a 4-bit base (qlora), prefix tuning, prompt "
        "tuning, or a classification head (probe)",
    )
    lora: Lora = Field(Lora(), description="Adapter of methods lora and qlora")
    prefix: Virtual = Field(Virtual(), description="Virtual tokens of method prefix")
    prompt: Virtual = Field(Virtual(), description="Virtual tokens of method prompt")
    probe: Probe = Field(Probe(), description="Classifier of method probe")
    engine: EngineName = Field(
        "ddp",
        description="Division of the model among workers: none (ddp), DeepSpeed's ZeRO stages (zero1, zero2, zero3), "
        "or torch's fully sharded data parallel (fsdp2)",
    )
    shard: Literal["all", "machine"] = Field(
        "all",
        description="Workers among which engine fsdp2 divides the model: all; or those of each machine, and machines "
        "exchange gradients alone, once a step",
    )
    reduce_every_micro_batch: bool = Field(
        True,
        description="Whether engine fsdp2 reduces gradients after every micro-batch; false: once a step, and until "
        "then every worker has all gradients in memory",
    )
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none",
        description="State of a ZeRO engine in CPU memory: none, optimizer, or parameters (with the optimizer's)",
    )
    precision: Literal["auto", "float32", "bf16", "float8"] = Field(
        "auto",
        description="Number type of matrix products; weights are float32 in any case; float8: of those of the layers, "
        "with a scale for each row, the others in bf16 (method full); auto: bf16 on GPUs, float32 on CPUs",
    )
    attention: Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2"] = Field(
        "auto",
        description="Implementation of attention; auto: variable-length FlashAttention in bf16 on GPUs, else "
        "transformers' choice",
    )
    activation_checkpointing: Literal["selective"] | bool = Field(
        False,
        description="Whether activations are computed again in the backward pass, which takes less memory and more "
        "time; selective: of compiled layers those that are cheapest to compute, so that at most 70% of the bytes are "
        "kept",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Whether the decoder layers are compiled by torch.compile; auto: on GPUs, for model types that "
        "are tested to compile",
    )
    deterministic: bool = Field(
        False,
        description="Whether a resumed run has bit-identical results on GPUs, which is slower; on CPUs it always has",
    )
    loss_chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="Number of positions whose logits are in memory at once; null: 4096 on GPUs, 1024 on CPUs",
    )
    workers: Workers = Field(Workers(), description="Number of training processes, and the resources of each")
    sequence_length: int = Field(1024, ge=2, description="Number of tokens of a row")
    tokens_per_step: int = Field(
        65536,
        ge=2,
        description="Number of tokens of an optimizer step over all workers, a multiple of `sequence_length`; "
        "gradient accumulation is derived",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Number of rows that a worker computes at once; null: as many as its GPU holds, on CPUs about "
        "8,192 tokens",
    )
    packing: Packing = Field(Packing(), description="Packing of documents into rows of tokens")
    prompt_loss_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of the loss of each token of pairs and chats that is not an answer, in training; 0: the "
        "loss counts answers alone, 1: all tokens alike",
    )
    split: Split = Field(Split(), description="Fractions of the documents for training, validation and testing")
    order: Order = Field(
        "shuffled",
        description="Order of examples: shuffled, curriculum (its stages from easy to hard in every epoch), reverse "
        "(from hard to easy), or mixed (every stage spread evenly over the epoch)",
    )
    steps: int | None = Field(None, ge=1, description="Number of optimizer steps; null: `epochs` or `tokens` is given")
    epochs: float | None = Field(
        None, gt=0, description="Number of epochs, which may be a fraction; null: `steps` or `tokens` is given"
    )
    tokens: int | None = Field(
        None, ge=1, description="Number of tokens to train on; null: `steps` or `epochs` is given"
    )
    neftune_alpha: float | None = Field(
        None,
        gt=0,
        description="Scale of uniform noise on the token embeddings in training, divided by the root of a document's "
        "tokens times the hidden size (NEFTune); null: none",
    )
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer and its learning-rate schedule")
    evaluate: Evaluate = Field(Evaluate(), description="Validation, early stopping, and held-out sets")
    checkpoint: Checkpointing = Field(
        Checkpointing(), description="Times at which checkpoints are written, and the number that is kept"
    )
    failures: Failures = Field(Failures(), description="Restarts after crashes, preemptions and broken losses")
    generate: Generate | None = Field(
        None, description="Generation of answers to held-out prompts after training; null: none"
    )
    export: Export = Field(Export(), description="Forms of the exported weights")
    track: Track = Field(Track(), description="Services that receive the curves of the training")
    callbacks: tuple[CallbackUse, ...] = Field(
        (),
        description="Classes or functions that the first worker calls: on_step with the line of the step log, "
        "on_checkpoint, on_end; a function after each step",
    )
    device_memory_gib: float | None = Field(
        None,
        gt=0,
        description="Memory in GiB of a GPU, into which the run must fit or is refused; null: not checked, and rows "
        "at once are chosen by the GPU of the worker",
    )
    seed: int = Field(
        1, ge=0, lt=1 << 32, description="Random seed of initial weights, dropout, splits and the order of examples"
    )
    packed: str | None = Field(
        None, description="Folder or URI of packed rows, which several runs may share; null: below `output`"
    )
    output: paths.OutputFolder
    phases: tuple[dict[str, Any], ...] = Field(
        (),
        description="Trainings in sequence, each with a name and the settings that differ; each starts from the "
        "weights of the one before",
    )
    execution: PackExecution = Field(
        PackExecution(), description="Retries, CPU cores, and units of work of packing; no effect on the result"
    )
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _expand_corpus(cls, settings: Any) -> Any:
        if isinstance(settings, dict):
            if isinstance(corpus := settings.get("corpus"), str | dict | list):
                several = corpus if isinstance(corpus, list) else [corpus]
                whole = [{Corpus.short_form: one} if isinstance(one, str) else one for one in several]
                settings = settings | {"corpus": whole}
            if isinstance(phases := settings.get("phases"), list):
                settings = settings | {"phases": [_with_parsed_storage(phase) for phase in phases]}
        return settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_length()
        self._check_corpora()
        self.training_method.check(self)
        check_objective(self)
        self._check_engine()
        if self.workers.context > 1:
            self.check_context()
        if self.continue_from and self.phases:
            raise ValueError(
                "continue_from: every phase would continue the same run; set it in a config without phases"
            )
        names = [str(phase.get("name")) for phase in self.phases]
        if self.phases and (any("name" not in phase for phase in self.phases) or len(set(names)) < len(names)):
            raise ValueError("phases: every phase needs a name of its own, as in {name: domain, corpus: ...}")
        if any("storage" in phase for phase in self.phases):
            raise ValueError("phases: all phases write to one store; give `storage` beside `phases`, not in a phase")
        if any(isinstance(phase.get("generate"), dict) and phase["generate"].get("custom") for phase in self.phases):
            raise ValueError("phases: scores of your own are of all phases; give `generate.custom` beside `phases`")
        if any(isinstance(phase.get("grpo"), dict) and phase["grpo"].get("rewards") for phase in self.phases):
            raise ValueError("phases: rewards are of all phases; give `grpo.rewards` beside `phases`")
        if any("callbacks" in phase for phase in self.phases):
            raise ValueError("phases: callbacks are of all phases; give `callbacks` beside `phases`, not in a phase")
        for number, phase in enumerate(self.phases):
            whole = self.phase(phase)
            if number + 1 < len(self.phases) and whole.objective == "reward":
                raise ValueError(f"phases: {phase['name']} trains a reward model, from which no phase can start")
            if number + 1 < len(self.phases) and not whole.exports_whole_weights:
                raise ValueError(
                    f"phases: {phase['name']} exports no full weights, which the next phase starts from; "
                    "use method full, lora or qlora there, and export.merged: true"
                )
        return self

    def _check_length(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none'} given; wanted exactly one of steps, epochs, tokens")
        over = self.tokens_per_step % self.sequence_length
        if over or self.tokens_per_step < self.sequence_length:
            below = self.tokens_per_step - over
            near = [str(n) for n in (below, below + self.sequence_length) if n]
            nearest = f"nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"
            raise ValueError(
                f"tokens_per_step: {self.tokens_per_step} is no multiple of sequence_length {self.sequence_length}; "
                f"the {nearest}"
            )
        sharing = self.workers.context
        most, rows = self.workers.range[1], self.rows_per_step
        if most > rows * sharing:
            has = "1 row" if rows == 1 else f"{rows} rows"
            use = "1 worker" if rows * sharing == 1 else f"{rows * sharing} workers or fewer"
            shared = f", each shared by {sharing}" if sharing > 1 else ""
            raise ValueError(
                f"workers.count: {most} workers, but a step has {has} of {self.sequence_length}{shared}; "
                f"use {use}, or tokens_per_step {-(-most // sharing) * self.sequence_length} or more"
            )
        if self.steps is not None:
            self.check_schedule(self.steps)

    def check_schedule(self, steps: int) -> None:
        """Check that the learning rate reaches its full value in a training of `steps` steps.

        Raises:
            ValueError: warm-up, or warm-up and decay, take more steps, or there are more restarts than steps.
        """
        rate = self.optimizer
        warmup = rate.warmup(steps)
        if warmup >= steps:
            by_steps = rate.warmup_fraction is None
            name, less = ("warmup_steps", "fewer") if by_steps else ("warmup_fraction", "a smaller one")
            raise ValueError(f"optimizer.{name}: {warmup:,} of {steps:,} steps; use {less}")
        if rate.restarts >= steps - warmup:
            raise ValueError(f"optimizer.restarts: {rate.restarts:,} in {steps - warmup:,} steps; use fewer")
        if rate.schedule == "wsd" and rate.decay_steps and warmup + rate.decay_steps > steps:
            after = f" after {warmup:,} of warm-up" if warmup else ""
            raise ValueError(f"optimizer.decay_steps: {rate.decay_steps:,}{after}, of {steps:,} steps; use fewer")

    def _check_corpora(self) -> None:
        shares = {tuple(n for n in ("weight", "epochs", "tokens") if getattr(c, n) is not None) for c in self.corpus}
        if len(shares) > 1 or any(len(share) > 1 for share in shares):
            raise ValueError("corpus: give every corpus of the list a weight, or every one epochs, or every one tokens")
        names = self.corpus_names
        if len(set(names)) < len(names):
            raise ValueError(f"corpus: the names {', '.join(names)} are not all different")
        if taken := {"reference", "tokenizer"} & {*names}:
            raise ValueError(
                f"corpus: the name {taken.pop()} is taken by a folder beside the packed rows; give another"
            )
        if self.order == "shuffled" and not self.phases and any(columns.stage for columns in self.all_columns):
            raise ValueError(
                "columns.stage: only the orders curriculum, reverse and mixed use curriculum stages; set `order`"
            )

    def _check_engine(self) -> None:
        if self.offload != "none" and self.engine not in ZERO:
            raise ValueError(f"offload: only engines {', '.join(ZERO)} offload; the engine is {self.engine}")
        if self.offload == "parameters" and self.engine != "zero3":
            raise ValueError(f"offload: parameters are offloaded by zero3 only; the engine is {self.engine}")
        if self.shard != "all" and self.engine != "fsdp2":
            raise ValueError(f"shard: {self.shard} is a choice of engine fsdp2; the engine is {self.engine}")
        if not self.reduce_every_micro_batch and self.engine != "fsdp2":
            raise ValueError(
                f"reduce_every_micro_batch: false is a choice of engine fsdp2; the engine is {self.engine}"
            )
        if self.optimizer.algorithm == "muon":
            if not self.training_method.trains_base:
                raise ValueError(f"optimizer.algorithm: muon is for method full; the method is {self.method}")
            if self.engine in ZERO:
                raise ValueError(
                    f"optimizer.algorithm: {self.engine} flattens and cuts matrices, and muon needs whole ones; use "
                    "engine fsdp2 or ddp"
                )
        if self.precision == "float8":
            if not self.training_method.trains_base or self.training_method.classifies:
                raise ValueError(f"precision: float8 is for method full; the method is {self.method}")
            if self.sequence_length % 16:
                raise ValueError(
                    f"precision: products in float8 need rows of a multiple of 16 tokens; sequence_length is "
                    f"{self.sequence_length}"
                )
        if self.training_method.four_bit and self.engine != "ddp":
            raise ValueError(f"engine: {self.engine} cannot shard 4-bit weights; qlora needs engine ddp")
        if self.compile is True and self.engine == "zero3":
            raise ValueError(
                "compile: zero3's gathering hooks break torch.compile's graphs; use fsdp2, or compile: false"
            )

    def check_context(self) -> None:
        """Check the settings beside `workers.context`: those that need whole rows, and numbers that it divides.

        Raises:
            ValueError: a setting does not fit.
        """
        sharing, (least, most) = self.workers.context, self.workers.range
        if least < most or most % sharing:
            count = f"{least} to {most}" if least < most else f"{most}"
            raise ValueError(
                f"workers.context: {sharing} workers share a row; workers.count is {count}, and must be one number, a "
                f"multiple of {sharing}"
            )
        if self.sequence_length % sharing:
            raise ValueError(
                f"workers.context: rows of sequence_length {self.sequence_length} cannot be cut into {sharing} equal "
                f"parts; use a multiple of {sharing}"
            )
        if self.objective != "sft":
            raise ValueError(
                f"workers.context: objective {self.objective} needs whole answers on a worker; set workers.context: 1"
            )
        if self.training_method.virtual or self.training_method.classifies:
            raise ValueError(
                f"workers.context: method {self.method} needs whole rows on a worker; use full, lora or qlora"
            )
        if self.neftune_alpha is not None:
            raise ValueError("workers.context: the noise of neftune_alpha is drawn for whole rows; remove one of both")
        if self.attention in ("eager", "flash_attention_2"):
            raise ValueError(f"workers.context: attention {self.attention} is not for shared rows; use attention: auto")

    @property
    def loss_chunk(self) -> int:
        """Positions whose logits are in memory at once, with the default applied."""
        return self.loss_chunk_tokens or (4096 if self.workers.gpus_each else 1024)

    @property
    def steps_per_row(self) -> int:
        """Number of steps that train on a row's prompt, one after the other; 1 but for `grpo.updates`."""
        return self.grpo.updates if self.objective == "grpo" else 1

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, over all workers."""
        return self.tokens_per_step // self.sequence_length

    def rows_of_worker(self, world: int) -> int:
        """The most rows of a step that one of `world` workers has, or a part of each of them with `workers.context`."""
        return -(-self.rows_per_step // max(1, world // self.workers.context))

    @property
    def gpu_fraction(self) -> float:
        """Fraction of a GPU's memory that is the training's: without what a server of vLLM reserves."""
        return 1 - self.grpo.vllm_memory if self.objective == "grpo" and self.grpo.engine == "vllm" else 1

    @property
    def validation_rows(self) -> int | None:
        """The most rows of the validation split that are measured; None: all."""
        rows, tokens = self.evaluate.rows, self.evaluate.tokens
        return rows or (None if tokens is None else -(-tokens // self.sequence_length))

    def micro_rows(self, world: int, most: int | None = None) -> int:
        """Rows of a micro-batch on each of `world` workers, of which `workers.context` share each row.

        `micro_batch`, else `most` (the limit of the device), else about 8,192 positions; at most a worker's share of a
        step. Without `micro_batch`, rows are spread evenly over the step's micro-batches.
        """
        share = self.rows_of_worker(world)
        positions = self.sequence_length // self.workers.context
        rows = min(share, self.micro_batch or most or max(1, _MICRO_TOKENS // positions))
        return rows if self.micro_batch else -(-share // -(-share // rows))

    @property
    def corpus_names(self) -> tuple[str, ...]:
        """The name of each corpus, with defaults applied."""
        return tuple(corpus.name or f"corpus-{number}" for number, corpus in enumerate(self.corpus))

    @property
    def store(self) -> Store:
        """The store of the output, of models, and of corpora without `storage` of their own."""
        return Store(self.storage)

    @property
    def corpus_stores(self) -> tuple[Store, ...]:
        """The store that each corpus is read from."""
        return tuple(
            self.store if one.storage is None else Store(one.storage, f"corpus[{number}].storage")
            for number, one in enumerate(self.corpus)
        )

    @property
    def all_columns(self) -> tuple[Columns, ...]:
        """The columns of each corpus."""
        return tuple(corpus.columns or self.columns for corpus in self.corpus)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The form of the documents of each corpus."""
        return tuple(columns.form for columns in self.all_columns)

    @property
    def set_columns(self) -> dict[str, Columns]:
        """The columns of each of `evaluate.sets`."""
        return {name: one.columns or self.columns for name, one in self.evaluate.sets.items()}

    def overflow(self, form: Form) -> Overflow:
        """The handling of documents of this form that are longer than a row.

        Only plain text is split by default, since the second part of a conversation has answers without a question.
        """
        if self.training_objective.records != "text":
            return "drop"
        if self.packing.overflow is not None:
            return self.packing.overflow
        if self.training_method.classifies:
            return "truncate"
        return "split" if form == "text" else "drop"

    @property
    def ignored(self) -> list[str]:
        """The given groups of settings that no method of this config uses."""
        used = {one.training_method.group for one in self.trainings} | {one.objective for one in self.trainings}
        given = set().union(self.model_fields_set, *self.phases)
        return [name for name in (*_users(), *OBJECTIVES) if name in given and name not in used]

    @property
    def without_effect(self) -> list[str]:
        """Sentences about given settings that change nothing, in this config or in one of its phases."""
        found = []
        for name in self.ignored:
            kind, users = ("objective", [name]) if name in OBJECTIVES else ("method", _users()[name])
            found.append(
                f"{name}: only {kind} {' or '.join(users)} uses it, so it has no effect. Set {kind}: {users[0]}, or "
                f"remove {name}."
            )
        own = {name: reason for one in self.trainings for name, reason in one._without_effect().items()}
        return found + [f"{name}: has no effect, because {reason}. Remove it." for name, reason in own.items()]

    def _without_effect(self) -> dict[str, str]:
        """Given settings of one training that change nothing -> the reason."""
        generate, held_out = self.generate, self.split.validation or self._given_splits
        reasons = {
            **dict.fromkeys(
                ("split.train", "split.validation", "split.test"),
                self.split.fold is not None and "split.fold decides what is tested, and all else is trained on",
            ),
            "optimizer.decay_steps": self.optimizer.schedule != "wsd" and "only schedule wsd has a decay of its own",
            "optimizer.layer_decay": (self.training_method.virtual or self.training_method.classifies)
            and f"method {self.method} trains nothing in the decoder layers",
            "optimizer.final_fraction": self.optimizer.schedule == "constant" and "schedule constant never falls",
            **dict.fromkeys(
                (f"evaluate.{name}" for name in ("every_steps", "tokens", "rows", "patience", "least_gain")),
                not held_out and "no document is held out for validation (split.validation: 0)",
            ),
            **({"evaluate.tokens": "evaluate.rows sets the number of rows"} if self.evaluate.rows is not None else {}),
            "prompt_loss_weight": (self.training_method.classifies or {*self.forms} == {"text"})
            and "there are no prompts in plain text",
            "export.merged": not self.training_method.merges
            and f"method {self.method} has no adapter that can be merged",
            "export.dtype": not (self.exports_whole_weights or self.objective == "reward")
            and "no full or merged weights are exported",
            "generate.decimal_mark": generate and generate.answer != "number" and "generate.answer is not number",
            "generate.prompt_tokens": all(one.form != "text" for one in self.all_columns)
            and "the corpus itself has prompts",
            "columns.margin": self.objective != "reward" and "only objective reward trains on margins",
            "model.revision": _is_place(self.model.name or "") and "the model is a folder or URI, no name of a hub",
            "columns": all(one.columns for one in self.corpus)
            and all(one.columns for one in self.evaluate.sets.values())
            and "every corpus has columns of its own",
        }
        reasons |= self.training_method.without_effect
        found = {name: reason for name, reason in reasons.items() if reason and self._is_set(name)}
        if len(self.corpus) == 1 and self.corpus[0].weight is not None:
            found["corpus.0.weight"] = "there is one corpus, which is all of the mixture"
        return found

    def _is_set(self, name: str) -> bool:
        """Whether the config sets a setting to another value than its default. name: such as `export.dtype`."""
        group, _, key = name.rpartition(".")
        settings = getattr(self, group) if group else self
        if settings is None or key not in settings.model_fields_set:
            return False
        return getattr(settings, key) != type(settings).model_fields[key].get_default(call_default_factory=True)

    @property
    def _given_splits(self) -> bool:
        """Whether a corpus states the split of its documents itself."""
        return self.split.fold is not None or any(columns.split for columns in self.all_columns)

    @property
    def exports_whole_weights(self) -> bool:
        """Whether a model is exported that is loaded without an adapter."""
        return self.training_method.trains_base or (self.training_method.merges and self.export.merged)

    @property
    def number_type(self) -> str:
        """Number type of the layers' matrix products: float32, bf16 or float8."""
        return "float8" if self.precision == "float8" else "bf16" if self.bf16 else "float32"

    @property
    def bf16(self) -> bool:
        """Whether matrix products are bf16, of float8 those outside of the layers."""
        return self.precision in ("bf16", "float8") or (self.precision == "auto" and self.workers.gpus_each > 0)

    @property
    def training_method(self) -> TrainingMethod:
        """The method of training."""
        return METHODS[self.method]

    @property
    def training_objective(self) -> TrainingObjective:
        """The objective of training."""
        return OBJECTIVES[self.objective]

    @property
    def metric_words(self) -> MetricWords:
        """The words for measurements."""
        return self.training_objective.words or self.training_method.words

    @property
    def trainings(self) -> "tuple[TrainConfig, ...]":
        """The config of each phase; without phases, this one."""
        return tuple(self.phase(overrides) for overrides in self.phases) or (self,)

    def phase(self, overrides: dict[str, Any], model: str | None = None) -> "TrainConfig":
        """The config of one phase: this config overridden by the phase's settings, with an output of its own.

        model: folder of the previous phase's exported weights and tokenizer; None for the first phase.
        """
        own = self.without_stores({"phases", "packed"}, exclude_unset=True)
        for plain, corpus in zip(own["corpus"], self.corpus, strict=True):
            plain |= {} if corpus.storage is None else {"storage": corpus.storage}
        name = overrides["name"]
        place = {"name": f"{self.name}-{name}", "output": f"{self.output.rstrip('/')}/{name}", "storage": self.storage}
        if {"steps", "epochs", "tokens"} & overrides.keys():
            own = {key: value for key, value in own.items() if key not in ("steps", "epochs", "tokens")}
        plain = _merged(own, overrides) | place | ({"model": model} if model else {})
        return TrainConfig.model_validate(plain, context=context_of(plugins_in(self)))

    def fit_settings(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON values. A checkpoint is resumed only if its own are equal."""
        settings = self.without_stores(_NOT_RESULT | _AFTER_TRAINING | {"name", "phases"})
        for name in ("test_tokens", "sets"):  # used after the last step
            del settings["evaluate"][name]
        return self._with_decisive_rewards(settings)

    def run_settings(self) -> dict[str, Any]:
        """The settings that decide a run's results, as JSON values."""
        return self._with_decisive_rewards(self.without_stores(_NOT_RESULT))

    def _with_decisive_rewards(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with what of judges decides their scores, and without kinds that records of before lack."""
        for use, plain in zip(self.grpo.rewards, settings.get("grpo", {}).get("rewards", ()), strict=False):
            for name in ("length", "language", "judge"):
                if plain[name] is None:
                    del plain[name]
            if use.judge is not None:
                plain["judge"] = use.judge.decisive
        if grpo := settings.get("grpo"):
            del grpo["vllm_memory"]
            if grpo["engine"] == "transformers":
                del grpo["engine"]
        return settings

    def without_stores(self, left_out: Collection[str] = (), **how: Any) -> dict[str, Any]:
        """The settings as JSON values without `storage`, so that no credentials are in records and reports.

        Args:
            left_out: further settings to leave out. how: arguments of pydantic's model_dump_json.
        """
        stores: dict[str, Any] = {"storage": True, "corpus": {"__all__": {"storage": True}}}
        # Without the settings of other objectives, so that records of earlier versions, which had none, are equal.
        unused = {name for name in OBJECTIVES if name != self.objective}
        if self.objective == "sft":
            unused.add("objective")
        plain = json.loads(self.model_dump_json(exclude=stores | dict.fromkeys((*left_out, *unused), True), **how))
        for phase in plain.get("phases", ()):
            for corpus in phase["corpus"] if isinstance(phase.get("corpus"), list) else ():
                corpus.pop("storage", None)
        return plain


def _users() -> dict[str, list[str]]:
    """Groups of settings that only some methods use -> these methods."""
    found: dict[str, list[str]] = {}
    for one in METHODS.values():
        if one.group:
            found.setdefault(one.group, []).append(one.name)
    return found


def _is_place(name: str) -> bool:
    """Whether a model's name is written as a path or URI."""
    return name.startswith(("/", "./", "../", "~")) or "://" in name


def _with_parsed_storage(phase: Any) -> Any:
    """The phase with the storage settings of its corpora parsed, so that their keys are never printed.

    Raises:
        ValueError: a storage setting is wrong; the message contains none of its values.
    """
    if not isinstance(phase, dict) or not isinstance(corpora := phase.get("corpus"), list):
        return phase
    parsed = []
    for number, corpus in enumerate(corpora):
        if isinstance(corpus, dict) and isinstance(corpus.get("storage"), dict):
            try:
                corpus = corpus | {"storage": StorageOptions.model_validate(corpus["storage"])}
            except ValidationError as error:
                wrong = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
                raise ValueError(f"phases: {phase.get('name')}, corpus[{number}].storage: {wrong}") from None
        parsed.append({"path": corpus} if isinstance(corpus, str) else corpus)
    return phase | {"corpus": parsed}


def _merged(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`settings` overridden by `overrides`: nested mappings key by key, except `model` and `columns`."""
    merged = dict(settings)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and key not in ("model", "columns"):
            value = _merged(old, value)
        merged[key] = value
    return merged
