"""The settings `execution` of a config, which have no effect on the result."""

from pydantic import BaseModel, ConfigDict, Field


class Execution(BaseModel):
    """How often and how long the units of a run are tried, and on how many cores of this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: int = Field(3, ge=1, le=100, description="how often a unit is tried")
    losses: int = Field(5, ge=0, le=1000, description="further tries of a unit after its machine was lost")
    stall_s: float = Field(900, ge=1, le=604_800, description="Ray restarts if no unit commits or fails for this long")
    cpus: int | None = Field(None, ge=1, le=1024, description="cores of this machine for the embedded Ray; null: all")


class FilesExecution(Execution):
    """Also the units that the input files are divided into, and how much of them may be unreadable."""

    unit_mib: int | None = Field(
        None, ge=1, le=4096, description="approximate text of a unit of work; default: by the size of the input"
    )
    max_bad_documents: float = Field(0.01, ge=0, le=1, description="largest fraction of input that may be unreadable")
    max_bad_files: float = Field(
        0.01, ge=0, le=1, description="largest fraction of the files of a source that may be unreadable"
    )

    @property
    def unit_bytes(self) -> int | None:
        """Text of one unit of work; None: by the size of the input."""
        return self.unit_mib and self.unit_mib << 20
