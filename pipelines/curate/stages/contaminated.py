"""The artifact `contaminated`: every text of an evaluation set that a document contains, and where it begins and ends.

It has all documents above the bound `rules.decontamination.max_fraction`, also those that another rule removed or that
stay. Positions in characters are those of the normalised text, before personal data is replaced.
"""

import numpy as np
import pyarrow as pa

from cluster.store.store import Store
from pipelines.rules.decontamination import MATCHES_SCHEMA, SIGNAL, Decontamination
from pipelines.rules.filters import Filters
from pipelines.text.texts import Texts

CONTAMINATED = "contaminated"

CONTAMINATED_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("position", pa.int64()), *list(MATCHES_SCHEMA)[1:]]
)


def decontamination_of(filters: Filters) -> Decontamination | None:
    """The rule, if the config has it."""
    for rule in filters.rules:
        if isinstance(rule, Decontamination):
            return rule
    return None


def contaminated_rows(
    rule: Decontamination, store: Store, source: str, texts: Texts, attributes: pa.Table, first: int
) -> pa.Table:
    """Rows of CONTAMINATED_SCHEMA of D documents.

    texts: normalised. attributes: D rows, with the columns `id` and SIGNAL. first: position of the first document.
    """
    found = np.flatnonzero(attributes[SIGNAL].to_numpy() > rule.max_fraction)
    if not len(found):
        return CONTAMINATED_SCHEMA.empty_table()
    matches = rule.matches(Texts.from_arrow(texts.to_arrow().take(pa.array(found))), store)
    rows = found[matches["document"].to_numpy()]
    columns = {name: matches[name] for name in matches.column_names} | {
        "id": attributes["id"].take(pa.array(rows)),
        "source": pa.repeat(source, len(rows)),
        "position": first + rows,
    }
    return pa.table(columns).select(CONTAMINATED_SCHEMA.names).cast(CONTAMINATED_SCHEMA)
