"""The terms of generated records: the columns that `raymill generate` writes, and the setting that forbids some."""

from collections.abc import Collection

from pydantic import BaseModel, Field

GENERATED = "records"  # artifact of a run of `raymill generate`
# Columns of generated records that a data set keeps. The first two mark a file as one of generated records.
COLUMNS = ("synthetic", "generator", "terms", "licence")
TERMS = ("terms", "metadata.terms")  # where a row of a file, or of a data set of `raymill prepare`, has them


class GenerationTerms(BaseModel, extra="forbid", frozen=True):
    """Terms of generated records that a run does not take."""

    forbid: tuple[str, ...] = Field(
        min_length=1,
        description="Terms whose records are left out, as `model.terms` of `raymill generate` names them, such as "
        "no-training",
    )


def generated_columns(names: Collection[str]) -> dict[str, str]:
    """The columns of generated records in a file with these columns, as {field: column}; empty of other files."""
    return {name: name for name in COLUMNS if name in names} if {*COLUMNS[:2]} <= {*names} else {}
