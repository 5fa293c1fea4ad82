"""A canary in every setting of every kind: the config is refused, and no message shows the canary.

The settings are found in the models, so that a new one is tried too.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import cycle
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from raymill.cluster.config import _field_types, _members, _step, load_values, model_of
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.kinds import kind_of, names
from raymill.cluster.secret_values import VARIABLE
from raymill.cluster.store.interface import SECRETS

CANARY = "C4n4ryW0rd"
# Forms in which a secret is recognised in any setting.
FORMS = (
    f"ghp_{CANARY}abcdefghijklmnop",
    f"https://me:{CANARY}@host/x",
    f"s3://bucket/x?X-Amz-Signature={CANARY}",
    f"postgresql://me@host/db?sslpassword={CANARY}",
    f"host=db user=me password={CANARY}",
    f"DRIVER={{X}};UID=me;PWD={{{CANARY}}}",
)
# What is wrong in a setting, and so shown by a message, although nothing but its place says that it is a secret.
OF_SECRETS = ("password", "variable", "key_env", "pseudonym_key", "secrets", "headers", "parameters", "auth", *SECRETS)

SMALLEST = {
    "curate": {"inputs": [{"path": "/in"}], "output": "/out", "name": "n"},
    "prepare": {"inputs": [{"path": "/in"}], "output": "/out"},
    "generate": {
        "inputs": [{"path": "/in"}],
        "model": {"endpoint": "http://127.0.0.1/v1", "name": "m"},
        "make": {"template": "qa"},
        "output": "/out",
    },
    "distil": {
        "inputs": [{"path": "/in"}],
        "judges": [{"model": {"endpoint": "http://127.0.0.1/v1", "name": "m"}}],
        "output": "/out",
    },
    "annotate": {
        "inputs": [{"path": "/in"}],
        "task": {"type": "classify", "show": ["text"], "labels": ["a", "b"]},
        "annotators": [{"name": "a"}],
        "output": "/out",
    },
    "errors": {"inputs": [{"path": "/in"}], "columns": {"score": "s"}, "output": "/out"},
    "compare": {"models": ["/a", "/b"], "on": "/data", "output": "/out"},
    "prompt": {"data": "/data", "models": {"m": {"endpoint": "http://127.0.0.1/v1", "name": "m"}}, "output": "/out"},
    "train": {"corpus": "/in", "model": "/model", "output": "/out", "name": "n", "steps": 1},
    "run": {"steps": {"a": {"kind": "curate", "inputs": [{"path": "/in"}]}}, "output": "/out"},
    "promote": {"model": "/model", "alias": "champion", "output": "/out"},
}

Keys = tuple[str | int, ...]


def settings_of(model: Any, keys: Keys = (), inside: tuple[Any, ...] = ()) -> Iterator[Keys]:
    """The keys of every setting of a model: of a list its first entry, of a mapping the entry `name`."""
    for name, annotation in _field_types(model).items():
        yield from settings_at(annotation, (*keys, name), (*inside, model))


def settings_at(annotation: Any, keys: Keys, inside: tuple[Any, ...]) -> Iterator[Keys]:
    yield keys
    for member in _members(annotation):
        if member in inside:
            continue
        yield from settings_of(member, keys, inside)
        for step in (0, "name"):
            for inner in _step(member, step) if not _field_types(member) else ():
                yield from settings_at(inner, (*keys, step), (*inside, member))


def groups_of(model: Any, inside: tuple[Any, ...]) -> Iterator[Any]:
    """The models inside of a model, and itself."""
    if isinstance(model, type):
        yield model
    parts = [*_field_types(model).values(), *(one for step in (0, "name") for one in _step(model, step))]
    for member in (member for part in parts for member in _members(part)):
        if member not in (*inside, model):
            yield from groups_of(member, (*inside, model))


def with_setting(kind: str, keys: Keys, value: Any) -> dict[str, Any]:
    """The smallest config of a kind, with a setting."""
    made: Any = value
    for key in reversed(keys):
        made = [made] if key == 0 else {key: made}
    return {"kind": kind, **SMALLEST[kind], **made}


KINDS = [kind for kind in names() if kind_of(kind).of is None]  # the others have the configs of one of these
EVERY = [(kind, keys) for kind in KINDS for keys in dict.fromkeys(settings_of(model_of(kind)))]


def refusal(kind: str, keys: Keys, value: Any, *, by_override: bool = False) -> str:
    """What is said about a setting with this value."""
    with pytest.raises(ConfigError) as raised:
        if by_override:
            # An override of a group that is not there makes mappings alone.
            load_values({"kind": kind, **SMALLEST[kind]}, "c.yaml", [f"{'.'.join(map(str, keys))}={value!r}"])
        else:
            load_values(with_setting(kind, keys, value), "c.yaml")
    return str(raised.value)


def test_every_setting_is_tried():
    names = {keys[-1] for _, keys in EVERY}
    assert len(EVERY) > 400 and {"url", "headers", "mlflow", "pseudonym_key", "chat_template", "reasoning"} <= names
    assert ("prepare", ("inputs", 0, "api", "auth", "variable")) in EVERY


def test_every_setting_with_the_name_of_a_variable_counts_as_one_for_secrets():
    models = {id(one): one for kind in KINDS for one in groups_of(model_of(kind), ())}
    fields = [pair for model in models.values() if issubclass(model, BaseModel) for pair in model.model_fields.items()]
    found = {name for name, field in fields if VARIABLE in repr(field)}
    assert {"password", "variable", "pseudonym_key", "secrets"} <= found <= set(OF_SECRETS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_is_refused_in_every_setting_and_not_shown(kind):
    tried = [keys for one, keys in EVERY if one == kind and keys[-1] not in SECRETS and keys != ("kind",)]
    for keys, form in zip(tried, cycle(FORMS), strict=False):
        said = refusal(kind, keys, form)
        assert CANARY not in said and "holds a secret (" in said, (keys, said)


@pytest.mark.parametrize("most", [40, pytest.param(None, marks=pytest.mark.slow)], ids=["sample", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_override_with_a_secret_is_refused_and_not_shown(kind, most):
    every = [keys for one, keys in EVERY if one == kind and keys != ("kind",)]
    for keys in Random(1).sample(every, min(len(every), most or len(every))):
        assert CANARY not in refusal(kind, keys, FORMS[0], by_override=True), keys


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_value_of_a_setting_for_secrets_is_not_shown(kind):
    """Somebody writes the password itself, where the name of its variable is wanted, or a text in place of a group."""
    for keys in [keys for one, keys in EVERY if one == kind and set(keys) & set(OF_SECRETS)]:
        for value in (f"my {CANARY}", [f"my {CANARY}"], {"name": [f"my {CANARY}"]}):
            with suppress(ConfigError):
                load_values(with_setting(kind, keys, value), "c.yaml")
                continue  # a text is a name of a database's parameter too
            assert CANARY not in refusal(kind, keys, value), (keys, value)


def test_the_message_names_what_to_use_instead():
    instead = {
        ("prepare", ("inputs", 0, "database", "url")): "`database: {password: NAME}`",
        ("prepare", ("inputs", 0, "api", "url")): "`{variable: NAME, parameter: PARAMETER}`",
        ("prepare", ("inputs", 0, "api", "headers", "X-Token")): "`{variable: NAME, scheme: none, header: HEADER}`",
        ("prepare", ("inputs", 0, "pages", "urls", 0)): "use `api` with `auth`",
        ("train", ("track", "mlflow")): "MLFLOW_TRACKING_PASSWORD",
        ("train", ("model", "name")): "HF_TOKEN",
        ("curate", ("inputs", 0, "path")): "`storage.access_key_id: ${NAME}`",
    }
    for (kind, keys), wanted in instead.items():
        said = refusal(kind, keys, FORMS[1])
        where = ".".join(map(str, keys))
        assert said.startswith(f"c.yaml, {where}: holds a secret (") and wanted in said.partition("\n")[0], said


class Group(BaseModel):
    members: tuple[dict[str, Mapping[str, int]], ...] = ()


def test_settings_inside_of_lists_and_mappings_are_found():
    assert list(settings_of(Group)) == [
        ("members",), ("members", 0), ("members", 0, "name"), ("members", 0, "name", "name"),
    ]  # fmt: skip
