"""The settings `execution` of a config, which have no effect on the result."""

from pydantic import BaseModel, ConfigDict, Field


class Execution(BaseModel):
    """How often and how long the units of a run are tried, and on how many cores of this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Maximum number of tries of a unit of work that fails; then the run ends with its error",
    )
    losses: int = Field(
        5,
        ge=0,
        le=1000,
        description="Maximum number of further tries of a unit of work whose worker or machine was lost",
    )
    stall_s: float = Field(
        900,
        ge=1,
        le=604_800,
        description="Seconds without a committed or failed unit of work after which Ray is restarted; time in which "
        "no unit could run does not count",
    )
    cpus: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Number of this machine's CPU cores for the Ray that the command starts; null: all",
    )


class FilesExecution(Execution):
    """Also the units that the input files are divided into, and how much of them may be unreadable."""

    unit_mib: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Approximate size of the text of a unit of work, in MiB; null: derived from the size of the input",
    )
    max_bad_documents: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Maximum fraction of the documents that may be unreadable; above it the run stops after reading "
        "them",
    )
    max_bad_files: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Maximum fraction of the files of a source that may be unreadable; above it the run is refused",
    )

    @property
    def unit_bytes(self) -> int | None:
        """Text of one unit of work; None: by the size of the input."""
        return self.unit_mib and self.unit_mib << 20
