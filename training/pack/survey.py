"""The survey of a corpus, made before its documents are tokenised: the cuts of its splits, and its classes.

The driver reads the first LOOKED_AT documents (`survey_first_documents`). They are enough if the corpus has no more, or
if it has neither strata nor classes and these documents have more than MAX_RANKED groups. Otherwise stages read all
documents:

    survey   per unit of the corpus: the groups of each stratum, and the classes
    split    one unit, which reads them all: the cuts and the classes   -> _work/split/CORPUS

So the driver's time and memory do not depend on the number of documents. The result of a unit has at most 1,000 strata
of MAX_RANKED groups, and 1,000 classes.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint
from cluster.errors import ConfigError
from cluster.output import read_slice, read_slices
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from training.config_parts import Split
from training.pack.documents import Document, LeftOut, documents_of
from training.pack.sources import CorpusReading, FrozenCorpus, Unit, as_json, stage_of
from training.pack.split import MAX_RANKED, Cuts, Survey, choose_cuts

VERSION = 3  # of the stages' results; results of another version are made again
LOOKED_AT = 4 * MAX_RANKED
_FILES_AT_ONCE = 64
# One core reads this in less than a second; workers of Ray take 3 s to start.
SMALL_BYTES = 64 << 20

_MAX_CLASSES = 1000
# Half a GiB for the groups, and the libraries.
_MEMORY = 3 << 28
_NO_COLUMNS = pa.schema([])


class Surveyed(NamedTuple):
    """The result of a survey. classes: values of the label column; empty without method probe."""

    cuts: Cuts
    classes: frozenset[str] = frozenset()


@dataclass
class Found:
    """Groups and classes of some documents. classes: None if not wanted. where: corpus and column, for errors."""

    where: str
    groups: Survey = field(default_factory=Survey)
    classes: set[str] | None = None

    def add(self, document: Document) -> None:
        """Add a document's group and class.

        Raises:
            ConfigError: there are too many strata or classes.
        """
        self.groups.add(document.key, document.stratum)
        if self.classes is not None:
            assert document.label is not None
            self._add_classes([document.label])

    def merge(self, survey: bytes) -> None:
        """Add the survey of other documents, as of `plain`. Errors are those of `add`."""
        plain = json.loads(survey)
        for stratum, own in plain["strata"].items():
            self.groups.merge(stratum, own and dict(zip(*own, strict=True)))
        if self.classes is not None:
            self._add_classes(plain["classes"])

    def plain(self) -> bytes:
        """As JSON."""
        strata = {name: own and (list(own), list(own.values())) for name, own in self.groups.strata.items()}
        return json.dumps({"strata": strata, "classes": sorted(self.classes or ())}).encode()

    def result(self, split: Split) -> Surveyed:
        return Surveyed(choose_cuts(self.groups, split), frozenset(self.classes or ()))

    def _add_classes(self, classes: Iterable[str]) -> None:
        assert self.classes is not None
        self.classes.update(classes)
        if len(self.classes) > _MAX_CLASSES:
            raise _too_many_classes(self.where)


def survey_first_documents(
    frozen: FrozenCorpus, split: Split, classes: bool, limit: float = LOOKED_AT
) -> Surveyed | None:
    """The survey of a corpus from its first documents; None if they are not enough. Reads about `limit` rows.

    Args:
        classes: whether they are wanted.

    Raises:
        ConfigError: there are too many strata or classes.
    """
    found, left_out, documents = _nothing_of(frozen, classes), LeftOut(), 0
    decided = frozen.columns.split is not None or split.fold is not None
    if decided and not classes:
        return found.result(split)
    for unit in frozen.units:
        for document in documents_of(frozen.reading, unit, left_out):
            if documents >= limit:
                return None
            documents += 1
            found.add(document)
            if not classes and frozen.columns.stratify is None and found.groups.strata[document.stratum] is None:
                return found.result(split)
        if documents + left_out.reasons.total() >= limit and unit is not frozen.units[-1]:
            return None
    return found.result(split)


def survey_here(frozen: FrozenCorpus, split: Split, classes: bool = False) -> Surveyed:
    """The survey of a corpus. Reads as many documents as needed in this process.

    Raises:
        ConfigError: as of `survey_first_documents`.
    """
    surveyed = survey_first_documents(frozen, split, classes, float("inf"))
    assert surveyed is not None
    return surveyed


def survey_stage(name: str, frozen: FrozenCorpus, store: Store, split: Split, classes: bool) -> Stage:
    """The stage that counts strata, groups and classes of a corpus; `read_survey` returns the result.

    Reads: the columns of all documents that the split names; no text is tokenised.
    Writes: no rows; the counts are in the counters and files of its units, at most 1,000 strata a unit.
    Cost: that of reading the corpus; memory `_MEMORY`.

    Args:
        store: of the output. classes: whether they are wanted.
    """
    output = survey_name(name)
    decided_by = [VERSION, frozen.fingerprint, as_json(frozen.units), frozen.columns.model_dump(), split.model_dump()]
    made_from = fingerprint([*decided_by, classes])
    nothing = _nothing_of(frozen, classes)
    stage = Stage(
        name=stage_of("split", name),
        outputs=(Output(output, _NO_COLUMNS),),
        units=(),
        work=MergeSurveys(store, nothing, output, split),
        fingerprint=made_from,
        store=store,
        describe=files_from,
        small=sum(frozen.unit_bytes) <= SMALL_BYTES,
        memory=_MEMORY,
    )
    of_units = f"_work/survey/{name}"
    survey = dataclasses.replace(
        stage,
        name=f"{stage.name}.survey",
        outputs=(Output(of_units, _NO_COLUMNS),),
        units=frozen.units,
        work=SurveyUnit(frozen.reading, nothing, of_units),
        fingerprint=fingerprint([made_from, "survey"]),
        describe=_files,
    )
    return dataclasses.replace(stage, prepare=lambda run: [run(survey)[of_units].file_uris])


def survey_name(corpus: str) -> str:
    """Name of the artifact of a corpus' survey, below the folder of packed corpora."""
    return f"_work/split/{corpus}"


def read_survey(made: Artifact) -> Surveyed:
    """The result of the stage, from its artifact."""
    (uri,) = made.file_uris
    plain = json.loads(read_slice(made.store, uri, 0))
    strata = {stratum: (first, second) for stratum, (first, second) in plain["strata"].items()}
    return Surveyed(Cuts(tuple(plain["default"]), strata), frozenset(plain["classes"]))


def find_classes(corpora: Sequence[FrozenCorpus], surveys: Sequence[Surveyed]) -> tuple[str, ...]:
    """The classes of method probe in order: the values of the label columns, integers by size, then strings.

    Raises:
        ConfigError: there is one class, or more than 1,000.
    """
    classes: set[str] = set()
    for frozen, surveyed in zip(corpora, surveys, strict=True):
        classes |= surveyed.classes
        if len(classes) > _MAX_CLASSES:
            raise _too_many_classes(_where(frozen))
    if len(classes) < 2:
        raise ConfigError(f"columns.label: only one value, {classes}; a classifier needs two or more classes.")
    return tuple(sorted(classes, key=lambda name: (not _is_integer(name), int(name) if _is_integer(name) else 0, name)))


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii()


def _too_many_classes(where: str) -> ConfigError:
    return ConfigError(
        f"{where} (columns.label) has more than {_MAX_CLASSES} values; it needs names or numbers of classes."
    )


def _where(frozen: FrozenCorpus) -> str:
    return f"{frozen.path}: column {frozen.columns.label}"


def _nothing_of(frozen: FrozenCorpus, classes: bool) -> Found:
    return Found(_where(frozen), classes=set() if classes else None)


def _files(unit: Unit) -> str:
    return files_from(list(dict.fromkeys(span.uri for span in unit)))


@dataclass(frozen=True)
class SurveyUnit:
    """The work of the stage `survey`. nothing: Found of no documents."""

    corpus: CorpusReading
    nothing: Found
    output: str

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        found = deepcopy(self.nothing)
        for document in documents_of(self.corpus, unit, LeftOut()):
            found.add(document)
        scratch.write_slices(self.output, [found.plain()])
        return {}


@dataclass(frozen=True)
class MergeSurveys:
    """The work of the stage `split`, whose unit is the files of the surveys. nothing: as in `SurveyUnit`."""

    store: Store
    nothing: Found
    output: str
    split: Split

    def __call__(self, unit: list[str], scratch: Scratch) -> Counters:
        found = deepcopy(self.nothing)
        for first in range(0, len(unit), _FILES_AT_ONCE):
            for survey in read_slices(self.store, unit[first : first + _FILES_AT_ONCE], 0):
                found.merge(survey)
        cuts, classes = found.result(self.split)
        plain = {"default": cuts.default, "strata": cuts.strata, "classes": sorted(classes)}
        scratch.write_slices(self.output, [json.dumps(plain).encode()])
        return {}
