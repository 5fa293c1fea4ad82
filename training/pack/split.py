"""The split of a document, decided by a hash: of its group if there is a group column, else of its content.

The hashes 0 .. 2**64 are divided at two cuts into train, validation and test. So the split depends neither on the seed
nor on the order or number of files, and documents of one group, or of equal content, are in the same split.

In a large corpus, each cut is at its share of the hashes: with 4,097 groups a share of 10% has a standard deviation of
half a percentage point. In a small corpus, and in each small stratum, the cuts are between its own groups, so that the
shares are exact to one group. The rounding error of one stratum is carried to the next, so that many tiny strata
together also have the right shares. A requested split is not empty if there are enough groups.

The cuts, and the classes to predict, are found by a survey before documents are tokenised. The driver reads the
first LOOKED_AT documents (`survey_first_documents`). They are enough if the corpus has no more, or if it has neither
strata nor classes and these documents have more than MAX_RANKED groups. Otherwise stages read all documents:

    survey   per unit of the corpus: the groups of each stratum, and the classes
    split    one unit, which reads them all: the cuts and the classes   -> _work/split/CORPUS

So the driver's time and memory do not depend on the number of documents. The result of a unit has at most 1,000 strata
of MAX_RANKED groups, and 1,000 classes.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.splits import SPLITS, split_places
from raymill.cluster.output import read_slice, read_slices
from raymill.cluster.stage import Output, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Split
from raymill.training.pack.corpus import CorpusReading, FrozenCorpus, Unit, as_json, files_of, stage_of
from raymill.training.pack.documents import Document, LeftOut, documents_of

VERSION = 3  # of the stages' results; results of another version are made again
MAX_RANKED = 4096
LOOKED_AT = 4 * MAX_RANKED
_MAX_STRATA = 1000
_MAX_CLASSES = 1000
_MOST_DIGITS = 18  # of a class that is sorted as a number
_END = 1 << 64
_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")
_FILES_AT_ONCE = 64
# One core reads this in less than a second; workers of Ray take 3 s to start.
SMALL_BYTES = 64 << 20
# Half a GiB for the groups, and the libraries.
_MEMORY = 3 << 28
_NO_COLUMNS = pa.schema([])

# (end of train, end of validation) as hashes: below the first is train, from the second on is test.
Cut = tuple[int, int]


@dataclass(frozen=True)
class Cuts:
    """The cut of each stratum. default: of strata that are not in `strata`. fold: which is tested, in place of cuts."""

    default: Cut
    strata: dict[str, Cut] = field(default_factory=dict)
    fold: int | None = None

    def split_of(self, key: int, stratum: str) -> int:
        """Index in SPLITS of a document with this hash and stratum."""
        return bisect_right(self.strata.get(stratum, self.default), key)


ALL_TEST = Cuts((0, 0))


def split_of(document: Document, cuts: Cuts) -> int:
    """Index in SPLITS: by its fold if one is tested, else by its column if it has one, else by the cuts."""
    if cuts.fold is not None:
        return _TEST if document.fold == cuts.fold else _TRAIN
    return cuts.split_of(document.key, document.stratum) if document.split is None else document.split


class Surveyed(NamedTuple):
    """The result of a survey. classes: values of the label column; empty without a classifier."""

    cuts: Cuts
    classes: frozenset[str] = frozenset()


@dataclass
class Survey:
    """The groups of each stratum of some documents, and their classes.

    Memory: at most MAX_RANKED * _MAX_STRATA hashes, half a gigabyte; without strata, half a megabyte.

    Attributes:
        where: corpus and column, for errors.
        classes: None if not wanted.
        strata: groups as hash -> number of documents; None if there are more than MAX_RANKED.
    """

    where: str = ""
    classes: set[str] | None = None
    strata: dict[str, dict[int, int] | None] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        """Add a document's group and class.

        Raises:
            ConfigError: there are too many strata or classes.
        """
        self.count(document.key, document.stratum)
        if self.classes is not None:
            assert document.label is not None
            self._add_classes([document.label])

    def count(self, key: int, stratum: str, documents: int = 1) -> None:
        """Count documents of a group. key: its hash. Errors are those of `add`."""
        groups = self._groups_of(stratum)
        if groups is not None:
            groups[key] = groups.get(key, 0) + documents
            if len(groups) > MAX_RANKED:
                self.strata[stratum] = None

    def merge(self, plain: dict[str, Any]) -> None:
        """Add the survey of other documents, the JSON value of `to_json`. Errors are those of `add`."""
        for stratum, groups in plain["strata"].items():
            if self._groups_of(stratum) is None or groups is None:
                self.strata[stratum] = None
                continue
            for key, documents in zip(*groups, strict=True):
                self.count(key, stratum, documents)
        if self.classes is not None:
            self._add_classes(plain["classes"])

    def to_json(self) -> bytes:
        strata = {name: own and (list(own), list(own.values())) for name, own in self.strata.items()}
        return json.dumps({"strata": strata, "classes": sorted(self.classes or ())}).encode()

    def result(self, split: Split) -> Surveyed:
        return Surveyed(choose_cuts(self, split), frozenset(self.classes or ()))

    def _groups_of(self, stratum: str) -> dict[int, int] | None:
        groups = self.strata.setdefault(stratum, {})
        if len(self.strata) > _MAX_STRATA:
            raise ConfigError(
                f"columns.stratify: more than {_MAX_STRATA} different values, such as {stratum!r:.80}. Choose a column "
                "with few values, or leave stratify out."
            )
        return groups

    def _add_classes(self, classes: Iterable[str]) -> None:
        assert self.classes is not None
        self.classes.update(classes)
        if len(self.classes) > _MAX_CLASSES:
            raise _too_many_classes(self.where)


def choose_cuts(found: Survey, split: Split) -> Cuts:
    """The cuts for the surveyed groups. The order in which they were surveyed has no effect."""
    shares = (split.train, split.train + split.validation)
    default = tuple(_END if share >= 1 - 1e-12 else int(share * _END) for share in shares)
    strata: dict[str, Cut] = {}
    carried = [0.0, 0.0]
    small = {name: groups for name, groups in sorted(found.strata.items()) if groups is not None}
    for name, groups in small.items():
        keys = sorted(groups)
        sizes = np.array([groups[key] for key in keys])
        wanted = [sizes.sum() * share + of_others for share, of_others in zip(shares, carried, strict=True)]
        places = split_places(sizes, np.array(wanted))
        first, second = (int(np.searchsorted(places, split, side="right")) for split in (0, 1))
        carried = [wanted[0] - sizes[:first].sum(), wanted[1] - sizes[:second].sum()]
        strata[name] = (_before(keys, first), _before(keys, second))
    if len(small) == len(found.strata):
        _fill_empty(small, strata, split)
    return Cuts((default[0], default[1]), strata, split.fold)


def _fill_empty(small: Mapping[str, dict[int, int]], strata: dict[str, Cut], split: Split) -> None:
    """In a tiny corpus, move one group of the largest split to each requested split that is empty."""
    wanted = [share > 0 for share in (split.train, split.validation, split.test)]
    for empty in range(3):
        held: list[list[str]] = [[], [], []]  # the stratum of each group of a split
        for name, groups in small.items():
            for key in groups:
                held[bisect_right(strata[name], key)].append(name)
        largest = max(range(3), key=lambda index: len(held[index]))
        if not wanted[empty] or held[empty] or len(held[largest]) < 2:
            continue
        # Of one stratum, the groups that are nearest to the empty split are moved: cuts between both splits move.
        name = max(small, key=lambda one: (held[largest].count(one), one))
        keys = sorted(small[name])
        step = 1 if empty < largest else -1
        moved = [
            sum(key < cut for key in keys) + (step if min(empty, largest) <= at < max(empty, largest) else 0)
            for at, cut in enumerate(strata[name])
        ]
        strata[name] = (_before(keys, moved[0]), _before(keys, moved[1]))


def _before(keys: list[int], index: int) -> int:
    return keys[index] if index < len(keys) else _END


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
    decided = "split" in frozen.columns.named or split.fold is not None
    if decided and not classes:
        return found.result(split)
    for unit in frozen.units:
        for document in documents_of(frozen.reading, unit, left_out):
            if documents >= limit:
                return None
            documents += 1
            found.add(document)
            if not classes and "stratify" not in frozen.columns.named and found.strata[document.stratum] is None:
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
    Cost: reading the corpus once; memory `_MEMORY`.

    Args:
        store: of the output. classes: whether they are wanted.
    """
    decided_by = [VERSION, frozen.fingerprint, as_json(frozen.units), frozen.plain_columns, split.model_dump()]
    made_from = fingerprint([*decided_by, classes])
    nothing = _nothing_of(frozen, classes)
    stage = Stage(
        name=stage_of("split", name),
        outputs=(Output(survey_name(name), _NO_COLUMNS),),
        units=(),
        work=MergeSurveys(store, nothing, survey_name(name), split),
        fingerprint=made_from,
        store=store,
        describe=files_from,
        small=sum(frozen.unit_bytes) <= SMALL_BYTES,
        memory=_MEMORY,
    )
    of_units = f"_work/survey/{name}"
    survey = replace(
        stage,
        name=f"{stage.name}.survey",
        outputs=(Output(of_units, _NO_COLUMNS),),
        units=frozen.units,
        work=SurveyUnit(frozen.reading, nothing, of_units),
        fingerprint=fingerprint([made_from, "survey"]),
        describe=files_of,
    )
    return replace(stage, prepare=lambda run: [run(survey)[of_units].file_uris])


def survey_name(corpus: str) -> str:
    """Name of the artifact of a corpus' survey, below the folder of packed corpora."""
    return f"_work/split/{corpus}"


@dataclass(frozen=True)
class SurveyUnit:
    """The work of the stage `survey`. nothing: the survey of no documents."""

    corpus: CorpusReading
    nothing: Survey
    output: str

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        found = deepcopy(self.nothing)
        for document in documents_of(self.corpus, unit, LeftOut()):
            found.add(document)
        scratch.write_slices(self.output, [found.to_json()])
        return {}


@dataclass(frozen=True)
class MergeSurveys:
    """The work of the stage `split`, whose unit is the files of the surveys. nothing: as in `SurveyUnit`."""

    store: Store
    nothing: Survey
    output: str
    split: Split

    def __call__(self, unit: list[str], scratch: Scratch) -> Counters:
        found = deepcopy(self.nothing)
        for first in range(0, len(unit), _FILES_AT_ONCE):
            for survey in read_slices(self.store, unit[first : first + _FILES_AT_ONCE], 0, json.loads):
                found.merge(survey)
        cuts, classes = found.result(self.split)
        plain = {"default": cuts.default, "strata": cuts.strata, "classes": sorted(classes)}
        scratch.write_slices(self.output, [json.dumps(plain).encode()])
        return {}


def read_survey(made: Artifact) -> Surveyed:
    """The result of the stage, from its artifact."""
    (uri,) = made.file_uris
    plain = read_slice(made.store, uri, 0, json.loads)
    strata = {stratum: (first, second) for stratum, (first, second) in plain["strata"].items()}
    return Surveyed(Cuts(tuple(plain["default"]), strata), frozenset(plain["classes"]))


def find_classes(corpora: Sequence[FrozenCorpus], surveys: Sequence[Surveyed]) -> tuple[str, ...]:
    """The classes to predict in order: the values of the label columns, integers by size, then strings.

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

    def order(name: str) -> tuple[bool, int, str]:
        is_integer = name.removeprefix("-").isdecimal() and name.isascii() and len(name) <= _MOST_DIGITS
        return not is_integer, int(name) if is_integer else 0, name

    return tuple(sorted(classes, key=order))


def _nothing_of(frozen: FrozenCorpus, classes: bool) -> Survey:
    return Survey(_where(frozen), set() if classes else None)


def _where(frozen: FrozenCorpus) -> str:
    return f"{frozen.path}: column {frozen.columns.named.get('label')}"


def _too_many_classes(where: str) -> ConfigError:
    return ConfigError(
        f"{where} (columns.label) has more than {_MAX_CLASSES} values; it needs names or numbers of classes."
    )
