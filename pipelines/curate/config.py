"""What a `kind: curate` config may say. `raymill config schema` prints every setting with its description."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from datasketch import MinHashLSH
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from cluster.store.interface import StorageOptions
from cluster.store.store import Store
from pipelines.language.identification import LanguageId
from pipelines.readers import Limits
from pipelines.readers.inputs import Input
from pipelines.rules import PACKS, RULES, Dialect, Rule
from pipelines.text.personal_data import KINDS

# Verified candidates cost time, missed pairs cost truth: so the banding is chosen for recall.
_LSH_WEIGHTS = (0.1, 0.9)
_LEAST_RECALL_AT_THRESHOLD = 0.5

# Four bytes of every document each, and time: 128 columns are computed at 238 MB/s of text, 4,096 at a 32nd of that.
_MOST_COLUMNS = 4096
_PERMUTATIONS = 128


# How stores are reached, keys included: left out of run manifests and reports (`exclude` of pydantic's model_dump).
STORES: dict[str, Any] = {"storage": True, "inputs": {"__all__": {"storage": True}}}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class _RulesBase(_Settings):
    packs: tuple[Literal[tuple(PACKS)], ...] = Field(  # type: ignore[valid-type]
        tuple(PACKS), description="rule packs to apply, in this order; the first objection is the reason"
    )
    dialect: Dialect = Field("paper", description="how text is read: as the papers say, or as datatrove 0.10.1 does")

    @model_validator(mode="before")
    @classmethod
    def _fill_packs(cls, settings: Any) -> Any:
        """A pack that is on has settings, so that a config printed with its defaults shows them."""
        if isinstance(settings, dict) and isinstance(packs := settings.get("packs", tuple(PACKS)), list | tuple):
            return settings | {name: settings.get(name) or {} for name in packs if name in PACKS}
        return settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.packs)) < len(self.packs):
            raise ValueError(f"packs: {list(self.packs)} names a pack twice; name each once")
        for name in PACKS:
            if getattr(self, name) is not None and name not in self.packs:
                raise ValueError(f"{name} has settings but is not in packs; add it there, or remove its settings")
        return self

    def active(self) -> tuple[Rule, ...]:
        """The rules that judge, in order."""
        order = [name for name in RULES if name not in PACKS]
        first = list(RULES).index(next(iter(PACKS)))
        named = [n for n in order if list(RULES).index(n) < first] + [*self.packs]
        named += [n for n in order if n not in named]
        return tuple(rule for name in named if (rule := getattr(self, name)) is not None)


# One optional field a rule, so that a new rule needs nothing here.
_fields: dict[str, Any] = {
    name: (rule | None, Field(None, description=(rule.__doc__ or "").split("\n")[0])) for name, rule in RULES.items()
}
Rules: Any = create_model("Rules", __base__=_RulesBase, **_fields)


class PersonalData(_Settings):
    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        KINDS, description="kinds replaced by a placeholder in the corpus; all kinds are counted anyway"
    )


class Dedup(_Settings):
    threshold: float = Field(0.8, gt=0, le=1, description="least estimated Jaccard similarity of a duplicate")
    ngram_words: int = Field(5, ge=1, le=64, description="tokens of a shingle")
    bands: int | None = Field(
        14, ge=1, le=_MOST_COLUMNS, description="null, with rows_per_band: derived from threshold, permutations"
    )
    rows_per_band: int | None = Field(8, ge=1, le=_MOST_COLUMNS, description="signature columns of a band")
    permutations: int = Field(
        _PERMUTATIONS, ge=2, le=_MOST_COLUMNS, description="signature columns, where bands are derived"
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="of the permutations")
    keeper: Literal["position", "longest", "score", "source"] = Field(
        "position",
        description="which of duplicates stays: the first, the longest, the best scored, the preferred source",
    )
    keeper_score: str | None = Field(None, description="the signal that `keeper: score` compares; more is better")
    sources: tuple[str, ...] = Field((), description="`keeper: source`: the most trusted first; the others follow")
    scope: Literal["all", "source", "snapshot"] = Field("all", description="where duplicates are looked for")
    remove: bool = Field(True, description="false: keep duplicates in the corpus, with group_id and duplicate_count")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.bands is None) != (self.rows_per_band is None):
            raise ValueError("bands and rows_per_band go together: give both, or null for both")
        if (self.keeper == "score") != (self.keeper_score is not None):
            raise ValueError("keeper: score needs keeper_score, the name of a signal, and nothing else does")
        if (self.keeper == "source") != bool(self.sources):
            raise ValueError(
                "keeper: source needs sources, the most trusted first, and nothing else does; give both, or neither"
            )
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources: {list(self.sources)} names a source twice; name each once")
        columns = (self.bands or 0) * (self.rows_per_band or 0)
        if columns > _MOST_COLUMNS:
            raise ValueError(
                f"{self.bands} bands of {self.rows_per_band} rows are {columns:,} signature columns of every document; "
                f"at most {_MOST_COLUMNS:,} are computed, and 112 are usual. Lower one"
            )
        if columns and self.permutations != _PERMUTATIONS:
            raise ValueError(
                f"permutations: {self.permutations} has no effect beside bands and rows_per_band, which make {columns} "
                "columns; set both to null, or leave permutations out"
            )
        recall = self.caught(self.threshold)
        if recall < _LEAST_RECALL_AT_THRESHOLD:
            bands, rows = self.banding
            raise ValueError(
                f"{bands} bands of {rows} rows catch only {recall:.0%} of the pairs at similarity {self.threshold}; "
                "set bands and rows_per_band to null to derive them from the threshold"
            )
        return self

    @cached_property
    def banding(self) -> tuple[int, int]:
        """(bands, rows of each)."""
        if self.bands is not None and self.rows_per_band is not None:
            return self.bands, self.rows_per_band
        index = MinHashLSH(threshold=self.threshold, num_perm=self.permutations, weights=_LSH_WEIGHTS)
        return index.b, index.r

    def caught(self, similarity: float) -> float:
        """The probability that two documents of this similarity share a band."""
        bands, rows = self.banding
        return 1 - (1 - similarity**rows) ** bands


class CorpusFiles(_Settings):
    file_mib: int = Field(128, ge=1, le=65_536, description="text of one corpus file before compression, about")
    columns: tuple[str, ...] = Field((), description="measured signals to write beside each document")


class Execution(_Settings):
    unit_mib: int = Field(64, ge=1, le=4096, description="text of one unit of work, about")
    attempts: int = Field(3, ge=1, le=100, description="how often a unit is tried")
    stall_s: float = Field(900, ge=1, le=604_800, description="nothing committed for this long: Ray is started anew")
    max_bad_documents: float = Field(0.01, ge=0, le=1, description="largest fraction of input that may be unreadable")
    cpus: int | None = Field(None, ge=1, le=1024, description="of this machine, for the embedded Ray; null: all")


class Report(_Settings):
    samples: int = Field(3, ge=0, le=20, description="examples shown for each reason")
    groups: int = Field(10, ge=0, le=100, description="largest duplicate groups shown")
    warn_source_loss: float = Field(0.9, gt=0, le=1, description="warn of a source that loses a larger share")


class CurateConfig(_Settings):
    """Raw text to a training corpus."""

    kind: Literal["curate"]
    name: str = Field(
        max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="of the run, in logs and reports"
    )
    inputs: tuple[Input, ...] = Field(min_length=1)
    output: str = Field(min_length=1, description="folder or URI; everything the run makes is below it")
    language: LanguageId | None = LanguageId()
    rules: Annotated[Rules | None, Field(validate_default=True)] = Rules()
    personal_data: PersonalData | None = PersonalData()
    dedup: Dedup | None = Dedup()
    limits: Limits = Limits()
    corpus: CorpusFiles = CorpusFiles()
    execution: Execution = Execution()
    report: Report = Report()
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        signals = {signal for rule in self.active_rules() for signal in rule.signals} | {"language_score"}
        asked = [("corpus.columns", name) for name in self.corpus.columns]
        if self.dedup and self.dedup.keeper_score:
            asked.append(("dedup.keeper_score", self.dedup.keeper_score))
        for setting, name in asked:
            if name not in signals:
                raise ValueError(
                    f"{setting}: {name} is not measured by this config; it measures {', '.join(sorted(signals))}"
                )
        for entry in self.inputs:
            for name in sorted(set(entry.columns) & set(self.corpus.columns)):
                raise ValueError(
                    f"corpus.columns: {name} is also a carried column of {entry.source}; take one of them out"
                )
        sources = {entry.source for entry in self.inputs}
        for name in self.dedup.sources if self.dedup else ():
            if name not in sources:
                raise ValueError(f"dedup.sources: no input has source {name}; there are {', '.join(sorted(sources))}")
        if self.dedup and self.dedup.scope == "snapshot" and any(entry.snapshot is None for entry in self.inputs):
            raise ValueError("dedup.scope: snapshot needs `snapshot:` on every input")
        return self

    @property
    def store(self) -> Store:
        """The store of the output, of the files that rules read, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def dialect(self) -> Dialect:
        return self.rules.dialect if self.rules else "paper"

    def active_rules(self) -> tuple[Rule, ...]:
        return self.rules.active() if self.rules else ()
