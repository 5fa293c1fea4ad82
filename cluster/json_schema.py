"""The check of a JSON schema that a config names: its form, and that each of its references leads to a part of it."""

from collections.abc import Mapping
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from jsonschema_specifications import REGISTRY
from referencing import Specification
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

_REFERENCES = ("$ref", "$dynamicRef")


def check_json_schema(schema: Mapping[str, Any], of_any_draft: bool = False) -> None:
    """Check a schema of draft 2020-12, or of the draft that it states.

    References to files and addresses are not followed.

    Raises:
        ValueError: it is none, or has a reference to what is no schema in it.
    """
    try:
        kind = validator_for(schema, Draft202012Validator) if of_any_draft else Draft202012Validator
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message:.200}") from None
    except (TypeError, AttributeError, RecursionError, OverflowError) as error:  # such as a `$schema` that is a list
        raise ValueError(f"it is no JSON schema ({type(error).__name__}: {error!s:.200})") from None
    specification: Specification[Any] = specification_with(kind.META_SCHEMA["$schema"])
    resource = specification.create_resource(schema)
    waiting, seen = [(resource, REGISTRY.resolver_with_root(resource))], {id(schema)}
    while waiting:
        resource, resolver = waiting.pop()
        found = [(one, resolver.in_subresource(one)) for one in resource.subresources()]
        for name in _REFERENCES if isinstance(resource.contents, Mapping) else ():
            if (reference := resource.contents.get(name)) is None:
                continue
            try:
                named = resolver.lookup(reference)
                kind.check_schema(named.contents)
            except (Unresolvable, SchemaError, ValueError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"the reference {reference:.200} is not part of the schema ({type(error).__name__}), and "
                    "references to other files are not followed. Put what it names under `$defs`"
                ) from None
            found.append((specification.create_resource(named.contents), named.resolver))
        for part, of_part in found:
            if id(part.contents) not in seen:
                seen.add(id(part.contents))
                waiting.append((part, of_part))
