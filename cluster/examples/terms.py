"""The terms of generated records: the columns that `raymill generate` writes, and the setting that forbids some."""

from collections.abc import Collection

from pydantic import BaseModel, Field

GENERATED = "records"  # artifact of a run of `raymill generate`
# Columns of generated records that a data set keeps. A file with the first two has generated records.
COLUMNS = ("synthetic", "generator", "terms", "licence")
TERMS = ("terms", "metadata.terms")  # columns with the terms: in a file, and in a data set of `raymill prepare`


class GenerationTerms(BaseModel, extra="forbid", frozen=True):
    """Terms under which a run leaves out generated records."""

    forbid: tuple[str, ...] = Field(
        min_length=1,
        description="Terms whose records are left out, as `model.terms` of `raymill generate` names them, such as "
        "no-training",
    )


def generated_columns(names: Collection[str]) -> dict[str, str]:
    """The columns of generated records among `names`, as {field: column}; empty for files of other records."""
    return {name: name for name in COLUMNS if name in names} if {*COLUMNS[:2]} <= {*names} else {}
