"""The fields that settings name, such as `split.group`, and the columns that hold them.

A field that no `columns` of an input names is the input's column of that name, where its files have one:

    tables with a header or a schema   the column, if the first files have it
    JSON records                       the column, which any record may have
    documents, mail, transcripts       one of the format's own columns, such as `thread` of mail

A column `provenance` or `parents` is read as the provenance of records, see provenance.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from cluster.errors import ConfigError, UserError
from cluster.examples.content import FIELDS
from cluster.readers.formats import READERS
from cluster.readers.inputs import input_stores
from cluster.readers.listing import find_files
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.config import BASE_METADATA, FOUND, PrepareConfig, Source
from pipelines.prepare.fetch.snapshot import is_fetched
from pipelines.prepare.records.provenance import PROVENANCE
from pipelines.prepare.sources import FILES_LOOKED_AT, TEXT, as_input, with_corpora

_SHOWN = 30  # columns in a message


@dataclass(frozen=True)
class _Names:
    """Columns at the beginning of a source's files. kinds: of their readers, see `Reader.columns`."""

    columns: frozenset[str]
    kinds: frozenset[str]


def fields_of_settings(config: PrepareConfig) -> list[tuple[str, tuple[str, ...]]]:
    """(setting, the fields that it names) of every setting that names metadata or annotations."""
    split, assess, rules = config.split, config.assess, config.validation
    column = None if assess.predictions_file else assess.predictions
    single = {"predictions": column, "label": assess.label, "extrinsic": assess.extrinsic, "period": assess.period}
    return [
        ("split.stratify", split.stratify),
        ("split.group", split.group),
        ("assess.fields", assess.fields),
        ("assess.groups", tuple(assess.groups)),
        ("assess.annotators", assess.annotators),
        *((f"assess.{setting}", (name,)) for setting, name in single.items() if name is not None),
        ("validate.require", rules.require),
        ("validate.allowed", tuple(rules.allowed)),
        ("validate.since", tuple(rules.since)),
        ("validate.until", tuple(rules.until)),
        ("validate.outliers.by", rules.outliers.by if rules.outliers else ()),
        ("clean.labels", tuple(config.clean.labels)),
        ("clean.redact_except", tuple(one for one in config.clean.redact_except if one not in ("id", "provenance"))),
        ("split.by_time", (split.by_time,) if split.by_time else ()),
        ("split.balance.by", split.balance.by if split.balance else ()),
    ]


def refuse_unknown_fields(config: PrepareConfig, columns: Sequence[str] = ()) -> None:
    """
    Args:
        columns: of the inputs, which are named besides the fields.

    Raises:
        ConfigError: a setting names a field that no input has.
    """
    known = {*config.known, *columns}
    for setting, names in fields_of_settings(config):
        fields = known | {*FOUND} if setting in ("split.stratify", "split.balance.by") else known
        for name in names:
            if name not in config.known and not (name in FOUND and name in fields):
                near = get_close_matches(name, sorted(fields), 1)
                mend = f"Did you mean {near[0]}?" if near else "Add it to `columns` of the inputs that have it."
                shown = sorted(fields)[:_SHOWN]
                more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
                raise ConfigError(
                    f"{setting}: no input has a field or column {name}; there are {', '.join(shown)}{more}. {mend}"
                )


def with_named_columns(config: PrepareConfig) -> PrepareConfig:
    """The config with the columns of each input that settings name and `columns` does not. Reads the beginning of one
    file of each input, or of some while names are missing.

    Raises:
        ConfigError: no input has a field that a setting names, although all are there; or a source of tables has no
            column that `validate.require` or `split.by_time` names, so that all of its records would be removed.
    """
    store, root = config.store, paths.absolute(config.output)
    wanted = _wanted(config)
    stores = input_stores(store, [as_input(one, TEXT) for one in config.inputs])
    sources, seen, complete = [], set[str](), True
    lacking: list[tuple[str, _Names, set[str]]] = []
    for number, (source, of_source) in enumerate(zip(config.inputs, stores, strict=True)):
        missing = [name for name in wanted if name not in source.columns]
        names = _names(source, store, of_source, root, missing)
        if names is None:
            complete = complete and not missing
        else:
            found = {name: name for name in missing if _has(names, name)} | _provenance(source, names)
            seen |= names.columns
            lacking.append((f"inputs[{number}] ({source.source})", names, set(missing) - found.keys()))
            source = source.model_copy(update={"columns": {**source.columns, **found}})
        sources.append(source)
    if complete:  # what no record at the beginning of any input has is a mistake, though a later one may have it
        nowhere = {*wanted} - seen - {name for one in config.inputs for name in one.columns}
        sources = [_without(one, nowhere) for one in sources]
    resolved = config.model_copy(update={"inputs": tuple(sources)})
    if complete:
        refuse_unknown_fields(resolved, sorted(seen))
    for where, names, without in lacking:
        _refuse_lacking(config, where, names, without)
    return resolved


def _wanted(config: PrepareConfig) -> tuple[str, ...]:
    """The fields that settings name and that are not of every record."""
    found = []
    for setting, names in fields_of_settings(config):
        made = FOUND if setting in ("split.stratify", "split.balance.by") else ()
        found += [name for name in names if name not in (*made, *BASE_METADATA, *FIELDS)]
    return tuple(dict.fromkeys(found))


def _has(names: _Names, name: str) -> bool:
    return name in names.columns or "open" in names.kinds


def _provenance(source: Source, names: _Names) -> dict[str, str]:
    """The field with the provenance of records, if the source has such a column and `columns` names none."""
    named = {*source.columns, *source.columns.values()} & {*PROVENANCE}
    column = next((one for one in ("provenance", "parents") if one in names.columns), None)
    return {} if named or column is None or source.table else {"provenance": column}


def _without(source: Source, names: set[str]) -> Source:
    """The source without some of its columns."""
    kept = {field: column for field, column in source.columns.items() if field not in names}
    return source.model_copy(update={"columns": kept})


def _names(source: Source, store: Store, of_source: Store, root: str, wanted: Sequence[str]) -> _Names | None:
    """The columns of a source; None if they are not known: it is not fetched, or cannot be read, which listing the
    inputs reports.
    """
    if source.table is not None:
        return _Names(frozenset(source.table.columns), frozenset({"header"}))
    if source.connection and not is_fetched(source, store, root):
        return None
    columns, kinds = set[str](), set[str]()
    try:
        (source,) = with_corpora([source], store)
        input = as_input(source, TEXT, root)
        for file, format in find_files(of_source, input).files[:FILES_LOOKED_AT]:
            reader = READERS[format]
            columns.update(reader.column_names(of_source, file, input))
            kinds.add("fixed" if source.pages else reader.columns)
            if columns and columns.issuperset(wanted):
                break
    except UserError:
        return None
    return _Names(frozenset(columns), frozenset(kinds)) if kinds else None


def _refuse_lacking(config: PrepareConfig, where: str, names: _Names, lacking: set[str]) -> None:
    """
    Raises:
        ConfigError: a source of tables lacks a field without which all of its records are removed. Documents have no
            columns, so that nothing is required of them.
    """
    if not names.columns or not names.kinds & {"header", "typed"}:
        return
    needing = [("validate.require", config.validation.require)]
    needing += [("split.by_time", (config.split.by_time,) if config.split.by_time else ())]
    for setting, required in needing:
        for name in required:
            if name in lacking:
                near = get_close_matches(name, sorted(names.columns), 1)
                mend = f"Did you mean {near[0]}? " if near else ""
                raise ConfigError(
                    f"{where}: no column {name}, which {setting} names, so that all of its records would be removed; "
                    f"there are {', '.join(sorted(names.columns))}. {mend}Name the column, as in `columns: "
                    f"{{{name}: COLUMN}}`, or leave {name} out of {setting}."
                )
