"""The user's own forms of examples: the setting `form` of an input.

A form is a function `record(fields)`, or a class with this method, from the fields of a row to the content of a record
in one of the forms that sources have (cluster/examples/rows.py).
"""

from collections.abc import Collection, Mapping
from typing import ClassVar

from raymill.cluster.errors import DataError
from raymill.cluster.examples.content import FIELDS, Unusable
from raymill.cluster.plugins import Plugin, PluginError, PluginKind, PluginUse, call, shown_value
from raymill.cluster.readers.reader import as_json_text

# Sets of fields that are complete content.
_FORMS = ({"text"}, {"messages"}, {"prompt", "completion"}, {"prompt", "chosen", "rejected"}, {"chosen", "rejected"})
JUDGEMENTS = {"desirable", "margin"}  # of answers
OPTIONAL = {"system", "input", "tools", "history", *JUDGEMENTS}
WANTED = "text; messages; prompt and completion; prompt, chosen and rejected; chosen and rejected"


def is_content(fields: Collection[str]) -> bool:
    """Whether these fields together are the content of a record."""
    return {*fields} - OPTIONAL in _FORMS


class FormUse(PluginUse):
    """A form of examples of the user, as `module:attribute`, or with settings."""

    kind: ClassVar = PluginKind("form of examples", "raymill.forms", ("fields",), ("record",))


def formed(form: Plugin, fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """The fields of a row's content. fields: all fields of the row.

    Raises:
        PluginError: the form raised an exception, or a value has no JSON.
        Unusable: the row is no record.
        DataError: the form returned a value that is no such content.
    """
    made = form.make()
    try:
        found = call(getattr(made, "record", made), dict(fields))
    except PluginError as error:
        if isinstance(error.__cause__, Unusable):
            raise error.__cause__ from None
        raise
    if found is None:
        raise Unusable("empty")
    if not isinstance(found, Mapping) or not found.keys() <= {*FIELDS} or not is_content(found):
        seen = f"the fields {', '.join(map(str, found))}" if isinstance(found, Mapping) else shown_value(found)
        raise DataError(
            f"form: {form.use}: returned {seen}, for the row {dict(fields)!r:.200}; wanted a dictionary with one of: "
            f"{WANTED}; or None for a row that is no record. Correct the form."
        )
    return call(lambda: {name: as_json_text(value) for name, value in found.items()})
