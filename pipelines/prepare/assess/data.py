"""Data that `raymill assess` takes besides the output of `raymill prepare`, which is written into a folder of its own.

    a split of a run, or the whole run    assessed as it is
    anything that has records             prepared as it is first: no record is changed or left out by a rule

Records are what `inputs` may have: an output of `raymill curate`, a folder of Parquet or other files, or one file.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from cluster.config import load_values
from cluster.errors import ConfigError, DataError
from cluster.examples.content import Shape
from cluster.examples.splits import SPLITS
from cluster.output_folder import refuse_impossible_output, refuse_output_in_folder
from cluster.run import RunFolder
from cluster.store.store import Store
from pipelines.prepare.config import Clean, Duplicates, PrepareConfig, Source, Split, Validate
from pipelines.prepare.named_fields import fields_of_settings
from pipelines.prepare.sources import Fields, fields_of, with_corpora

# Columns that are read as metadata under their own names, besides those that the settings name.
USUAL = ("source", "licence", "domain", "task_type", "language", "label", "category", "annotator")

# No record fails one of these.
NO_RULES = Validate(
    question_chars=None,
    answer_chars=None,
    refusals=(),
    copied_answer=False,
    answer_in_question=None,
    boilerplate=(),
    truncated_answers="keep",
)

_FIELD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FILES = ("assessment.json",)


def of_prepared_run(store: Store, data: str) -> tuple[str, tuple[str, ...]] | None:
    """(the output of a finished `raymill prepare`, the splits that are meant); None if `data` is not of one."""
    if data.startswith("hf://"):
        return None
    above, _, name = data.rpartition("/")
    for root, splits in ((data, SPLITS), *([(above, (name,))] if name in SPLITS else [])):
        if RunFolder(store, root).finished("prepare") is not None:
            return root, splits
    return None


def refuse_output(store: Store, output: str, run: str) -> None:
    """
    Raises:
        ConfigError: the folder of the assessment is that of the run, or inside it.
        DataError: it holds a finished run.
    """
    refuse_impossible_output(output)
    refuse_output_in_folder("--output", output, "the data set", run, _FILES, "assessment")
    if RunFolder(store, output).manifest_file.read() is not None:
        raise DataError(
            f"--output: {output} holds a finished run, whose report this would replace. Choose another folder."
        )


def configs_of(
    store: Store, data: str, output: str, settings: PrepareConfig | None, overrides: Sequence[str]
) -> tuple[PrepareConfig, PrepareConfig]:
    """(a config that prepares the data as they are, the config whose rules, terms, `assess` and `gates` are used).

    settings: of `--config`; None: the defaults with the overrides.

    Raises:
        UserError: the data have no records, or columns that are not recognised.
    """
    plain: dict[str, Any] = {"kind": "prepare", "name": _name(data), "output": output, "dedup": None}
    source: dict[str, Any] = {"source": _name(data), "path": data}
    if not any(one.startswith("inputs.") for one in overrides):
        named = _named(settings) if settings else {word for one in overrides for word in _FIELD.findall(one)}
        source |= _columns(store, source, named)
    plain["inputs"] = [source]
    if settings is None:
        wanted = load_values(plain, data, overrides)
        assert isinstance(wanted, PrepareConfig)
    else:
        of_config = settings.model_dump(
            mode="json", by_alias=True, include={"assess", "gates", "validation", "execution", "limits"}
        )
        of_config |= {"clean": {"terminology": settings.clean.terminology}, "storage": settings.storage}
        wanted = PrepareConfig.model_validate(plain | of_config)
    shape = _shape(fields_of(with_corpora(wanted.inputs, store), store, output)[0])
    as_it_is = {
        "records": wanted.records.model_copy(update={"shape": shape}),
        "clean": Clean(normalize=False),
        "validation": NO_RULES,
        "dedup": None,
        "duplicates": Duplicates(contradictory="ignore"),
        "split": Split(train=1, validation=0, test=0),
        "curriculum": None,
    }
    return wanted.model_copy(update=as_it_is), wanted


def _name(data: str) -> str:
    """A name of a source and a run, from the last part of a path."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", data.rstrip("/").rpartition("/")[2]).strip("-._")[:100] or "data"


def _named(settings: PrepareConfig) -> set[str]:
    """Names of the metadata that the assessment and the rules of a config name."""
    parts = ("assess.", "validate.")
    return {name for setting, names in fields_of_settings(settings) if setting.startswith(parts) for name in names}


def _columns(store: Store, source: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """`columns`, and `id` if there is such a column: the columns that are read beside the content."""
    (found,) = with_corpora([Source.model_validate(source)], store)
    (fields,) = fields_of([found], store, "")
    read = [name for name in fields.unread if name in (*USUAL, *named) and _FIELD.fullmatch(name)]
    return {"columns": {name: name for name in read}} | ({"id": "id"} if "id" in fields.unread else {})


def _shape(fields: Fields) -> Shape:
    """The shape that has these columns."""
    columns = fields.columns
    if "text" in columns:
        return "text"
    if "chosen" in columns:
        return "preference"
    if "messages" in columns:
        return "messages"
    if "prompt" not in columns:
        raise ConfigError(f"{fields.main}: no content. Name the columns: -o inputs.0.columns.prompt=COLUMN.")
    return "instruction" if "input" in columns else "pairs"
