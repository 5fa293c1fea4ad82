"""What `raymill curate --dry-run` prints about the settings of a run."""

import math
from collections.abc import Iterator

from cluster.formats import plural
from cluster.frame.first_look import FirstLook
from pipelines.curate.config import CurateConfig
from pipelines.curate.stages.contaminated import decontamination_of


def about(settings: CurateConfig) -> Iterator[tuple[str, str]]:
    """(word, line) of what the settings do."""
    yield "rules", f"{', '.join(rule.name for rule in settings.active_rules()) or 'none'}"
    if decontamination := decontamination_of(settings.filters):
        for line in decontamination.examples(settings.store).summary:
            yield "sets", line
    if settings.dedup:
        bands, columns = settings.dedup.banding
        caught = ", ".join(f"{s}: {settings.dedup.caught(s):.0%}" for s in (0.6, 0.7, 0.8, 0.9))
        yield "dedup", f"{bands} bands of {columns} signature columns; pairs compared, by similarity: {caught}"
    else:
        yield "dedup", "none"
    if boilerplate := settings.boilerplate:
        most = plural(boilerplate.max_documents, "document")
        yield "cut", f"{boilerplate.cut} that more than {most} of their source have"
    if repeats := settings.repeats:
        what = "listed, and cut out of all documents but the first" if repeats.cut else "listed"
        yield "repeats", f"of {repeats.min_words} words and more are {what}"


def too_many_unreadable(look: FirstLook, allowed: float) -> list[str]:
    """A sentence if the run would stop because more rows cannot be read than this share."""
    if look.unreadable <= allowed * look.rows:
        return []
    share = look.unreadable / look.rows
    return [
        f"{share:.1%} of the rows seen cannot be read, and the run allows {allowed:.1%}: if the others are like them, "
        "it stops after measuring. Mend them, or allow more with "
        f"-o execution.max_bad_documents={math.ceil(100 * share) / 100}."
    ]
