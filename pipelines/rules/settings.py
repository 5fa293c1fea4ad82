"""The setting `rules` of a config: one field for each rule."""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from pipelines.rules import PACKS, RULES, Dialect, Rule


class _RulesBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _default_packs: ClassVar[tuple[str, ...]] = tuple(PACKS)

    packs: tuple[Literal[tuple(PACKS)], ...] = Field(  # type: ignore[valid-type]
        tuple(PACKS), description="rule packs to apply, in this order; the first failed check is the reason"
    )
    dialect: Dialect = Field("paper", description="checks as computed in the papers, or in datatrove 0.10.1")

    @model_validator(mode="before")
    @classmethod
    def _fill_packs(cls, settings: Any) -> Any:
        """Give every pack in `packs` its default settings, so that they are printed with the config.

        A pack with null in place of its settings is left out.
        """
        if isinstance(settings, dict) and isinstance(packs := settings.get("packs", cls._default_packs), list | tuple):
            packs = [name for name in packs if name not in PACKS or settings.get(name, {}) is not None]
            return settings | {"packs": packs} | {name: settings.get(name, {}) for name in packs if name in PACKS}
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
        """The rules with settings, in the order of their checks."""
        order = [name for name in RULES if name not in PACKS]
        first = list(RULES).index(next(iter(PACKS)))
        named = [n for n in order if list(RULES).index(n) < first] + [*self.packs]
        named += [n for n in order if n not in named]
        return tuple(rule for name in named if (rule := getattr(self, name)) is not None)


# One optional field for each rule in RULES.
_fields: dict[str, Any] = {
    name: (rule | None, Field(None, description=(rule.__doc__ or "").split("\n")[0])) for name, rule in RULES.items()
}
Rules: Any = create_model("Rules", __base__=_RulesBase, **_fields)


class RulesOfRecords(Rules):
    """Rules of `curate` on records for fine-tuning. Packs are made for web pages, so none applies unless named."""

    _default_packs: ClassVar[tuple[str, ...]] = ()

    packs: tuple[Literal[tuple(PACKS)], ...] = Field(  # type: ignore[valid-type]
        (), description="rule packs to apply, in this order; the first failed check is the reason"
    )
