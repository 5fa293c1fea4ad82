"""Sizes that cut a few documents into many units, so that every stage runs, with those that prepare it."""

from dataclasses import astuple, replace
from functools import partial

import pytest

from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.output import OutputFiles
from raymill.pipelines.curate import job as curating
from raymill.pipelines.curate.stages import boilerplate, repeats
from raymill.pipelines.dedup.group import Sizes
from raymill.training.pack import job as packing
from raymill.training.pack import split
from raymill.training.pack.corpus import freeze_corpora
from raymill.training.pack.packing import pack_stage

_UNIT_BYTES = 4_000
_SIZES = Sizes(documents=16, pairs=150, batch=6, block=4)
# Candidates of a component that is compared in blocks.
COMPONENT = 6


def cut_into_many_units(patch: pytest.MonkeyPatch, unit_bytes: int = _UNIT_BYTES, times: int = 1) -> None:
    """Make `curate`, `pack` and `train` of this process do so. Grouping has stages of its own, packing levels.

    unit_bytes: of the text of a unit of `curate`. times: so much larger are the units of grouping, for more documents.
    """
    sizes = Sizes(*(times * size for size in astuple(_SIZES)))
    patch.setattr(curating, "run_stages", partial(curating.run_stages, sizes=sizes))
    patch.setattr(FilesExecution, "unit_bytes", property(lambda self: unit_bytes))
    for module in (boilerplate, repeats):
        patch.setattr(module, "slices_for", lambda keys: 3)
    patch.setattr(packing, "freeze_corpora", lambda config, unit_bytes: freeze_corpora(config, _UNIT_BYTES // 2))
    patch.setattr(packing, "survey_first_documents", lambda *_: None)
    patch.setattr(packing, "pack_stage", partial(pack_stage, unit_tokens=1_000, fan=2))
    patch.setattr(split, "_FILES_AT_ONCE", 3)


def write_small_row_groups(patch: pytest.MonkeyPatch, row_group_bytes: int = 2_000) -> None:
    """Make the stages of this process write files of several row groups, which are read as one table each."""
    begin = OutputFiles.__init__
    patch.setattr(
        OutputFiles,
        "__init__",
        lambda self, output, folder: begin(self, replace(output, row_group_bytes=row_group_bytes), folder),
    )
