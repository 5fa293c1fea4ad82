"""Templates: what a model is asked about a seed, and the record that its answers make.

    prompt: |                            Jinja2; the seed's fields are names: `text`, `id`, and its carried columns
      Write {{ per_document }} questions about this text.

      {{ text }}
    answer:                              JSON schema of the answer; without it the answer is a text
      type: object
      properties: {pairs: {type: array, items: {type: object, properties: {question: {type: string}, ...}}}}
    each: pairs                          every item of this list makes a record of its own
    record: {prompt: "{{ question }}", completion: "{{ answer }}"}
    variables: {per_document: 3}         settings of `make`, with their defaults

Several requests for a record are `steps`, of which each sees the answers of those before under their names:

    steps:
      - {name: harder, prompt: "Make this question harder: {{ text }}"}
      - {name: solved, prompt: "{{ harder.text }}"}
    record: {prompt: "{{ harder.text }}", completion: "{{ solved.text }}"}
"""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Self

import pyarrow as pa
import yaml
from jinja2 import PackageLoader, StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raymill.cluster.config import load_part
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.json_schema import check_json_schema
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.draw import Choices
from raymill.pipelines.prepare.augment.pieces import Kept

_LARGEST = 1 << 20  # bytes of a template's file
# Fields of a record, by its shape.
SHAPES = {
    "text": ("text",),
    "pairs": ("prompt", "completion"),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
}
# What records have besides their content and the metadata of their template.
PROVENANCE: dict[str, pa.DataType] = {
    "source": pa.string(),
    "licence": pa.string(),
    "synthetic": pa.bool_(),
    "generator": pa.string(),
    "revision": pa.string(),
    "terms": pa.string(),
    "template": pa.string(),
    "template_hash": pa.string(),
    "sampling": pa.string(),
    "requests": pa.list_(pa.string()),  # keys in the answer store
    "provenance": pa.struct([("parents", pa.list_(pa.string())), ("operation", pa.string())]),
}
_STEP_NAME = r"^[a-z][a-z0-9_]*$"
_SEEN = 200  # characters
_LONGEST = 32 << 20  # characters of a prompt, or of a field of a record

_LOADER = PackageLoader("raymill.pipelines.generate", "templates")
jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False)


class Step(BaseModel, extra="forbid", frozen=True):
    """One request, and how its answer is read."""

    name: str = Field("answer", pattern=_STEP_NAME, description="Name of the answer in later steps and in `record`")
    system: str = Field("", description="Template of the system message; empty: none")
    prompt: str = Field(min_length=1, description="Template of the user's message; what stays the same comes first")
    answer: dict[str, Any] | None = Field(None, description="JSON schema of the answer; null: the answer is a text")
    each: str | None = Field(
        None, description="List in the answer of which every item makes a record; null: the answer makes one"
    )
    samples: int | str = Field(
        1, description="Number of answers, or the variable that has it; above 1 the answer is the list `samples`"
    )
    keep: str | None = Field(
        None, description="Condition that a record has to meet after the step, as in `score >= 3`; null: none"
    )
    never: tuple[str, ...] = Field((), description="Phrases of the prompt that an answer must not have")
    differs: str | None = Field(
        None, description="Field of the seed that the answer must not repeat, such as text; null: none is compared"
    )
    similarity: tuple[float, float] | None = Field(
        None,
        description="Minimum and maximum similarity of the answer and the field of `differs`, from 0 to 1: the "
        "fraction of three-character sequences that they have in common; null: any",
    )
    keeps: tuple[Kept, ...] = Field(
        (),
        description="What of the seed's text the answer must have too: numbers (and no others), code in backquotes, "
        "quotes, links",
    )
    quote: str | None = Field(
        None, description="Field of the answer that must stand in the seed's text word for word; null: none"
    )

    @field_validator("answer")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            try:
                check_json_schema(schema)
            except ValueError as error:
                raise ValueError(f"is no JSON schema: {error}") from None
            if schema.get("type") != "object":
                raise ValueError("type: wanted object, which all servers can be asked for")
        return schema

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("system", "prompt", "keep"):
            if text := getattr(self, name):
                _refuse_wrong_syntax(text if name != "keep" else f"{{{{ {text} }}}}", name)
        if self.similarity is not None:
            least, most = self.similarity
            if self.differs is None or not 0 <= least < most <= 1:
                raise ValueError("similarity: goes with `differs`; wanted two numbers from 0 to 1, the smaller first")
        if self.each and self.answer is None:
            raise ValueError("each: is a list of the answer; give the JSON schema `answer`")
        return self


class RecordTemplate(BaseModel):
    """A template: its steps, and the record that they make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = Field("", description="What it makes, in a line")
    steps: tuple[Step, ...] = Field(min_length=1, description="Requests for a record, one after the other")
    record: dict[str, str] = Field(
        description="Template of each field of a record: text; prompt and completion; messages; or prompt, chosen and "
        "rejected; and of further metadata"
    )
    variables: dict[str, Any] = Field({}, description="Names of the variables of the prompts, with their defaults")
    needs: dict[str, Literal["text", "number", "list"]] = Field(
        {}, description="Type of each variable that has no default"
    )
    choices: dict[str, tuple[str, ...]] = Field({}, description="Possible values of variables that have few")
    agreement: tuple[str, str] | None = Field(
        None,
        description="Two fields of the record whose agreement the report has, such as the verdicts of a judge on both "
        "orders of two answers; null: none",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_one_step(cls, value: Any) -> Any:
        """A template with the fields of a step is one of a single step."""
        if isinstance(value, dict) and "steps" not in value:
            of_step = {name: value[name] for name in Step.model_fields if name in value and name != "name"}
            rest = {name: one for name, one in value.items() if name not in of_step}
            text = "{{ text }}" if "answer" not in value else None
            return {"record": {"text": text}} | rest | {"steps": [of_step]} if text else rest | {"steps": [of_step]}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, text in self.record.items():
            _refuse_wrong_syntax(text, f"record.{name}")
        if len({one.name for one in self.steps}) < len(self.steps):
            raise ValueError("steps: two have the same name; give each a name of its own")
        if taken := {*self.record} & {"id", *PROVENANCE}:
            raise ValueError(f"record: {', '.join(sorted(taken))} is written to every record; use another name")
        if absent := [name for name in self.agreement or () if name not in self.record]:
            raise ValueError(f"agreement: {', '.join(absent)} is no field of `record`")
        if self.shape is None:
            raise ValueError(
                f"record: has {', '.join(self.record)}; wanted text, or prompt and completion, or messages, or prompt, "
                "chosen and rejected"
            )
        return self

    @property
    def shape(self) -> str | None:
        """Of its records: a key of SHAPES."""
        return next((name for name in reversed(SHAPES) if all(one in self.record for one in SHAPES[name])), None)

    @property
    def metadata(self) -> list[str]:
        """Fields of its records beside the content."""
        return [name for name in self.record if name not in SHAPES[self.shape or "text"]]


def _refuse_wrong_syntax(text: str, where: str) -> None:
    try:
        jinja.from_string(text)
    except TemplateError as error:
        raise ValueError(f"{where}: is no Jinja2 template: {error}") from error


def names_of_package() -> list[str]:
    """The templates that come with Raymill."""
    return sorted(name.removesuffix(".yaml") for name in _LOADER.list_templates() if name.endswith(".yaml"))


def load_template(given: str | Mapping[str, Any], store: Store) -> RecordTemplate:
    """The template of the setting `make.template`.

    given: the name of one of the package; a template in the config, as settings or as the text of a prompt; or the path
    or URI of a YAML file.

    Raises:
        ConfigError: there is none, or it has a mistake.
    """
    if not isinstance(given, str):
        return _checked(dict(given), "make.template")
    if given in names_of_package():
        text, _, _ = _LOADER.get_source(jinja, f"{given}.yaml")
        return _checked(yaml.safe_load(text), given)
    if "{{" in given or "\n" in given:
        return _checked({"prompt": given, "record": {"text": "{{ text }}"}}, "make.template")
    if not given.endswith((".yaml", ".yml", ".json")):
        raise ConfigError(
            f"make.template: {given} is no template of Raymill; wanted one of {', '.join(names_of_package())}, a file "
            "that ends in .yaml, or a text with {{ .. }}"
        )
    try:
        plain = yaml.safe_load(store.read_bytes(given, _LARGEST).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"make.template: {given} cannot be read as YAML: {error}") from error
    return _checked(plain, given)


def _checked(plain: Any, where: str) -> RecordTemplate:
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: is no mapping of settings; wanted a template, with `prompt` and `record`")
    try:
        return load_part(RecordTemplate, plain, where)
    except ConfigError as error:
        # The fields of a template of one step stand in it directly.
        if "steps" in plain:
            raise
        raise ConfigError(str(error).replace(", steps.0.", ", ").replace(", steps.0: ", ", ")) from error


def refuse_variables(
    template: RecordTemplate, given: Mapping[str, Any], choices: Mapping[str, Choices] | None = None
) -> None:
    """Compare the variables of `make`, and the values of `draw`, with the variables of the template.

    Raises:
        ConfigError: one is unknown, missing or of another type; lists all.
    """
    known, problems = [*template.variables, *template.needs], list[Problem]()
    drawn = [(name, value) for name, one in (choices or {}).items() if name in known for value in one.values]
    values = [*((f"make.{name}", name, value) for name, value in given.items())]
    values += [(f"draw.{name}", name, value) for name, value in drawn]
    for where, name, value in values:
        default = template.variables.get(name)
        of_default = "number" if isinstance(default, int | float) else "list" if isinstance(default, list) else "text"
        kind = template.needs.get(name) or of_default
        wanted = _TYPES[kind]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            fix = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known) or 'none'}."
            problems.append(Problem.of(where, "no variable of the template", fix=fix))
        elif name in template.choices and value not in template.choices[name]:
            problems.append(Problem.of(where, f"{value!r} given", f"one of: {', '.join(template.choices[name])}"))
        elif not _is_of(kind, value):
            problems.append(Problem.of(where, f"{value!r} given", wanted))
    for name in template.needs.keys() - given.keys() - (choices or {}).keys():
        problems.append(Problem.of(f"make.{name}", "missing", _TYPES[template.needs[name]]))
    if problems:
        raise ConfigError.about(*problems)


_TYPES = {"text": "a text", "number": "a number above 0", "list": "a list of at least one value"}


def _is_of(kind: str, value: Any) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return isinstance(value, str) if kind == "text" else isinstance(value, list) and bool(value)


def refuse_names(template: RecordTemplate, fields: Collection[str], drawn: Collection[str] = ()) -> frozenset[str]:
    """Compare the names in a template with what there is.

    Args:
        fields: of the seeds: `text`, `id` and carried columns. drawn: names of `draw`.

    Returns:
        The fields without which a seed makes no record.

    Raises:
        ConfigError: a name is unknown, or the first prompt has no field of the seed; or a drawn value has the name of
            something else, or is in no prompt; lists all.
    """
    problems, needed, named = list[Problem](), set[str](), set[str]()
    known = {*fields, *template.variables, *template.needs, *drawn, "seed"}

    def look(text: str, where: str, names: Collection[str] | None, items: Collection[str] = ()) -> None:
        parsed = jinja.parse(text)
        used = meta.find_undeclared_variables(parsed)
        named.update(used)
        of_seed = {node.attr for node in parsed.find_all(nodes.Getattr) if getattr(node.node, "name", "") == "seed"}
        unknown = {f"seed.{name}" for name in of_seed - {*fields}} | (used - {*names} if names is not None else set())
        for name in sorted(unknown):
            near = difflib.get_close_matches(name.removeprefix("seed."), [*(names or ()), *fields], 1)
            fix = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(names or fields))}."
            problems.append(Problem.of(where, f"no {name}", fix=fix))
        if "defined" not in text and "default" not in text:
            needed.update(of_seed & {*fields}, (used & {*fields}) - {*items})

    for number, step in enumerate(template.steps):
        where = "" if len(template.steps) == 1 else f"steps.{number}."
        look(step.system, f"make.template, {where}system", known)
        look(step.prompt, f"make.template, {where}prompt", known)
        if number == 0 and not meta.find_undeclared_variables(jinja.parse(step.prompt)) & {*fields, "seed"}:
            problems.append(
                Problem.of(
                    f"make.template, {where}prompt",
                    "no field of the seed, so all seeds have one answer",
                    fix=f"Put one into it, as {{{{ text }}}}; there are {', '.join(sorted(fields))}.",
                )
            )
        known |= {step.name}
        items = _item_names(step)
        if step.keep:
            names = None if items is None else known | items
            look(f"{{% if {step.keep} %}}{{% endif %}}", f"make.template, {where}keep", names, items or ())
    for name, text in template.record.items():
        look(text, f"make.template, record.{name}", None if items is None else known | items, items or ())
    columns = {"id", *PROVENANCE, *SHAPES[template.shape or "text"]}
    taken = {*fields, *columns, "seed", *(one.name for one in template.steps)}
    for name in drawn:
        if name in taken:
            problems.append(Problem.of(f"draw.{name}", "the name of a field or column", "another name"))
        elif name not in named:
            fix = f"Put {{{{ {name} }}}} into one, or leave it out."
            problems.append(Problem.of(f"draw.{name}", "in no prompt", fix=fix))
    if problems:
        raise ConfigError.about(*problems)
    return frozenset(needed)


def refuse_carried(
    template: RecordTemplate, carried: Sequence[str], fields: Collection[str], drawn: Collection[str]
) -> None:
    """Check the setting `carry`. fields: of the seeds. drawn: names of `draw`.

    Raises:
        ConfigError: a name is no column of the seeds, or records have another column of this name; lists all.
    """
    problems, taken = list[Problem](), {"id", *PROVENANCE, *SHAPES[template.shape or "text"], *drawn, *template.record}
    for name in carried:
        if name in taken:
            fix = "Name the column in `record` of the template instead, under another name."
            problems.append(Problem.of("carry", f"{name} is a column of the records already", fix=fix))
        elif name not in fields:
            there = ", ".join(sorted({*fields} - {"text", "id"})) or "none"
            fix = f"Add it to `columns` of the inputs, which have {there}."
            problems.append(Problem.of("carry", f"no column {name}", fix=fix))
    if problems:
        raise ConfigError.about(*problems)


def _item_names(step: Step) -> set[str] | None:
    """The names of what a step makes; None if its schema does not list them."""
    if step.samples != 1 and not step.each:
        return {"samples"}
    if step.answer is None:
        return {"text"}
    schema = step.answer
    if step.each:
        schema = schema.get("properties", {}).get(step.each, {}).get("items", {})
        if schema.get("type") not in (None, "object"):
            return {"text"}
    return {*schema["properties"]} if "properties" in schema else None


class Refusal(Exception):
    """A prompt or record that cannot be made of these fields. reason: of parse.REASONS. seen: what of it, cut short."""

    def __init__(self, reason: str, seen: str = "") -> None:
        super().__init__(reason, seen)
        self.reason, self.seen = reason, seen[:_SEEN]


@lru_cache(256)
def _template(text: str) -> Template:
    return jinja.from_string(text)


def rendered(text: str, fields: Mapping[str, Any]) -> str:
    """A template with these fields.

    Raises:
        Refusal: a field is missing, or of the wrong type; or the text is too long.
    """
    pieces, size = list[str](), 0
    try:
        for piece in _template(text).generate(fields):
            pieces.append(piece)
            if (size := size + len(piece)) > _LONGEST:
                raise Refusal("too_large", f"over {_LONGEST:,} characters")
        return "".join(pieces)
    except Refusal:
        raise
    except Exception as error:  # whatever an expression can raise
        raise Refusal("template_error", f"{type(error).__name__}: {error}") from error


def holds(condition: str, fields: Mapping[str, Any]) -> bool:
    """Whether a condition is met. Raises Refusal as `rendered`."""
    return rendered(f"{{% if {condition} %}}1{{% endif %}}", fields) == "1"


def messages_of(step: Step, fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a request."""
    system = rendered(step.system, fields).strip()
    prompt = rendered(step.prompt, fields).strip()
    if not prompt:
        raise Refusal("empty_prompt")
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]


def strict_schema(schema: Any) -> Any:
    """A schema as servers want it with `strict`: every property required, and no others."""
    if isinstance(schema, list):
        return [strict_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict_schema(one) for name, one in schema.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made |= {"required": list(made["properties"]), "additionalProperties": False}
    return made


def complete_schema(schema: Any) -> Any:
    """A schema by which an answer is checked: every property required, unless the schema itself says which are."""
    if isinstance(schema, list):
        return [complete_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: complete_schema(one) for name, one in schema.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("required", list(made["properties"]))
    return made


def template_text(template: RecordTemplate) -> str:
    """The template as JSON, of which its hash is made."""
    return json.dumps(template.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
