"""The descriptions of settings, which `raymill config schema`, editors and the reference show.

Each stands alone: it is read without the setting's name, its group and its neighbours.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter

from raymill.cluster.kuberay.profiles import Profile
from raymill.cluster.plan.plan import Prices
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.training.config import TrainConfig

# Longer than three lines of an editor's pop-up.
LONGEST = 240
UNWANTED = re.compile(r"\b(mend\w*|learnt|likewise)\b|so many|that of\b|as of\b", re.IGNORECASE)
# What a number is, in its description.
UNITS = re.compile(
    r"\b(number|ratio|fraction|probability|weights?|seconds|minutes|mib|gib|bytes|characters|words|tokens|rank|scale|"
    r"multiple|similarity|f1|score|accuracy|relevance|diversity|parity|evenness|distance|norm|rates?|decay|decrease|"
    r"seed|price|memory|denominator|loss|value)\b",
    re.IGNORECASE,
)


def settings(schema: dict[str, Any], title: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(GROUP.SETTING, its JSON schema) of every setting, groups and alternatives of groups included."""
    for group, part in {title: schema, **schema.get("$defs", {})}.items():
        for name, one in part.get("properties", {}).items():
            yield f"{group.rpartition('__')[2]}.{name}", one


def all_settings() -> dict[str, dict[str, Any]]:
    models: tuple[type[BaseModel], ...] = (CurateConfig, PrepareConfig, TrainConfig)
    schemas = [(model.model_json_schema(), model.__name__) for model in models]
    schemas += [(TypeAdapter(one).json_schema(), one.__name__) for one in (Profile, Prices)]
    return {name: one for schema, title in schemas for name, one in settings(schema, title)}


ALL = all_settings()


def types(setting: dict[str, Any]) -> set[str]:
    return {one.get("type", "") for one in (setting, *setting.get("anyOf", ()), *setting.get("oneOf", ()))}


def mistakes(setting: dict[str, Any]) -> Iterator[str]:
    text = setting.get("description", "")
    if not re.match(r"[A-Z]", text):
        yield "continues the setting's name; wanted a noun phrase that stands alone"
    if re.match(r"(Of|That|Those|Or|None|Null|Default|As|With|The same)\b", text, re.IGNORECASE):
        yield "begins as if something stood before it"
    if text.endswith("."):
        yield "ends with a full stop"
    if len(text) > LONGEST:
        yield f"has {len(text)} characters; what else there is to say belongs in the guide"
    if found := UNWANTED.search(text):
        yield f"has {found[0]!r}"
    if "null" in types(setting) and "null: " not in text:
        yield "does not say what null means"
    if "null" not in types(setting) and "null: " in text:
        yield "says what null means, which the setting cannot be"
    if types(setting) & {"integer", "number"} and not UNITS.search(text):
        yield "has no unit"


def test_the_description_of_every_setting_stands_alone():
    found = [
        f"{name}: {text!r} {mistake}"
        for name, one in ALL.items()
        for text in [one.get("description", "")]
        for mistake in mistakes(one)
    ]
    assert not found, "\n".join(found)


def test_a_description_that_continues_a_name_is_found():
    wrong = {"type": "integer", "description": "of a row, so many as fit; null: all"}
    assert [line.split(";")[0] for line in mistakes(wrong)] == [
        "continues the setting's name",
        "begins as if something stood before it",
        "has 'so many'",
        "says what null means, which the setting cannot be",
        "has no unit",
    ]


def test_two_settings_of_one_group_differ_in_their_descriptions():
    described: dict[tuple[str, str], str] = {}
    for name, one in ALL.items():
        key = (name.partition(".")[0], one["description"])
        assert key not in described, f"{name} and {described[key]}"
        described[key] = name
