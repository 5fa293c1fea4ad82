"""The verb `init`: configs of `curate` that follow the steps of published corpora.

They are the files of configs/recipes: steps, order and bounds of a paper or its code, with what differs. What a recipe
reads and cannot be shipped, such as models and lists, is named there with its source and its licence.

FineWeb2 has bounds and stop words for each of its languages, in a folder of small YAML files, `deu_Latn.yml` and the
like. `--bounds` writes them into the config, where each can be read and changed.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raymill.cluster.cli import shell_command
from raymill.cluster.config_text import parse
from raymill.cluster.errors import ConfigError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store

RECIPES = Path(__file__).parent / "configs" / "recipes"
_BY_LANGUAGE = "fineweb2"
_LARGEST_FILE = 1 << 16
_LABEL = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")  # ISO 639-3 and ISO 15924
_LONGEST_MEAN = 200  # characters of a word, above which no language is

log = logging.getLogger(__name__)

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Ngrams = tuple[tuple[int, Annotated[float, Field(ge=0)]], ...]  # above 1 where occurrences overlap


class _LanguageFile(BaseModel):
    """A file of FineWeb2's folder `configs`. line_punct_thr: -1 is no bound."""

    model_config = ConfigDict(extra="forbid")

    language_score: _Fraction
    dup_line_frac: Annotated[float, Field(ge=0)]
    top_n_grams: _Ngrams
    dup_n_grams: _Ngrams
    line_punct_thr: Annotated[float, Field(ge=-1, le=1)]
    new_line_ratio: Annotated[float, Field(ge=0)]
    min_avg_word_length: Annotated[float, Field(ge=0, le=100)]
    max_avg_word_length: Annotated[float, Field(gt=0)]
    max_non_alpha_words_ratio: _Fraction
    stopwords: tuple[str, ...]


def init(
    recipe: Annotated[str | None, typer.Argument(help="name of a recipe; none: list them")] = None,
    file: Annotated[Path | None, typer.Argument(help="file to write; default: RECIPE.yaml")] = None,
    bounds: Annotated[
        Path | None, typer.Option(help="for fineweb2: the folder `configs` of github.com/huggingface/fineweb-2")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(help="for fineweb2: languages to keep, as deu_Latn,fra_Latn; default: all of the folder"),
    ] = None,
) -> None:
    """Write a config that follows a published corpus: FineWeb, DCLM, C4 and others. Without a name, list them."""
    if recipe is None:
        width = max(map(len, recipes()))
        for name, text in recipes().items():
            print(f"  {name:{width}}  {text}")
        return
    written = write_recipe(recipe, file, bounds, languages.split(",") if languages else ())
    print(f"{written}: set inputs and output, and the files that it names, and look at what it would do:\n")
    print(shell_command("curate", written, "--dry-run"))


def write_recipe(
    recipe: str,
    file: str | os.PathLike[str] | None = None,
    bounds: str | os.PathLike[str] | None = None,
    languages: Sequence[str] = (),
) -> str:
    """Write a config of `curate` that follows a published corpus, such as fineweb, dclm or c4. Returns its path.

    Args:
        recipe: its name; the command `raymill init` lists them.
        file: None: RECIPE.yaml in the working folder.
        bounds: for fineweb2, the folder `configs` of github.com/huggingface/fineweb-2.
        languages: for fineweb2, the languages to keep, as deu_Latn; empty: all of the folder.

    Raises:
        ConfigError: there is no such recipe, the file exists, or a file of `bounds` is wrong.
    """
    if recipe not in recipes():
        raise ConfigError(f"init: {recipe!r} is no recipe; there are {', '.join(recipes())}")
    if (recipe == _BY_LANGUAGE) != (bounds is not None):
        raise ConfigError(
            f"init: {_BY_LANGUAGE} needs --bounds FOLDER, the folder `configs` of github.com/huggingface/fineweb-2; "
            "other recipes have no bounds of languages"
        )
    store, path, text = Store(), os.fspath(file or f"{recipe}.yaml"), _text_of(recipe)
    if store.exists(path):
        raise ConfigError(f"init: {path} exists. Name another file, as `raymill init {recipe} FILE`.")
    if bounds is not None:
        text = _with_bounds(text, os.fspath(bounds), languages)
    store.write_bytes(path, text.encode())
    return path


def recipes() -> dict[str, str]:
    """Name of each recipe -> what it is, in a line."""
    files = Store().list_files(str(RECIPES))
    names = [os.path.basename(file.uri).removesuffix(".yaml") for file in files]
    return {name: _text_of(name).partition("\n")[0].removeprefix("# ") for name in names}


def _text_of(recipe: str) -> str:
    return Store().read_bytes(str(RECIPES / f"{recipe}.yaml")).decode()


def _with_bounds(text: str, folder: str, languages: Sequence[str]) -> str:
    """The recipe with the bounds of the languages."""
    if not languages:
        listed = [os.path.basename(file.uri) for file in Store().list_files(folder)]
        languages = [name.removesuffix(".yml") for name in listed if name.endswith(".yml")]
    if not languages:
        raise ConfigError(f"init: {folder} has no files such as deu_Latn.yml")
    # The names are keys of the config, whose rules can name code.
    if wrong := [label for label in languages if not _LABEL.fullmatch(label)]:
        raise ConfigError(f"init: {wrong[0][:80]!a} is no language of {folder}. Languages are named as deu_Latn.")
    found = {label: _language_file(paths.join(folder, f"{label}.yml")) for label in languages}
    # A word with a space in it can match no word.
    lists = {
        label: kept for label, one in found.items() if (kept := [w for w in one.stopwords if not re.search(r"\s", w)])
    }
    lines = ["  gopher_quality:", "    min_stop_words: 2", "    stop_words:"]
    lines += [f"      {label}: {_flow(words)}" for label, words in lists.items()]
    lines.append("  by_language:")
    for label, one in found.items():
        lines.append(f"    {label}:")
        lines += [f"      {rule}: {_flow(bounds)}" for rule, bounds in _bounds_of(one).items()]
    rules, _, language = text.partition("language:\n")
    scores = [f"    {label}: {one.language_score:g}" for label, one in found.items()]
    kept = [f"  keep: {_flow(list(found))}", "  min_scores:", *scores]
    return rules + "\n".join([*lines, "language:", *kept]) + "\n" + language


def _language_file(file: str) -> _LanguageFile:
    """The file of a language.

    Raises:
        ConfigError, StorageError: it is missing, or a value of it is wrong.
    """
    try:
        found = _LanguageFile.model_validate(parse(Store().read_bytes(file, _LARGEST_FILE).decode(), file, "yaml"))
    except NotFound as error:
        raise ConfigError(f"init: {file}: no such file. Languages are named as deu_Latn.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"init: {file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"init: {file}: {error}") from error
    if found.max_avg_word_length > _LONGEST_MEAN:
        log.warning("%s: max_avg_word_length %g bounds nothing", file, found.max_avg_word_length)
    return found


def _bounds_of(one: _LanguageFile) -> dict[str, dict[str, float]]:
    """Rule -> its bounds for the language."""
    repetition = {"max_dup_line_frac": one.dup_line_frac}
    repetition |= {f"max_top_{n}_gram": bound for n, bound in one.top_n_grams}
    repetition |= {f"max_duplicated_{n}_n_grams": bound for n, bound in one.dup_n_grams}
    return {
        "gopher_repetition": repetition,
        "fineweb": {"min_line_punct_ratio": max(one.line_punct_thr, 0.0), "max_list_ratio": one.new_line_ratio},
        "gopher_quality": {
            "min_mean_word_length": one.min_avg_word_length,
            "max_mean_word_length": one.max_avg_word_length,
            "min_alpha_word_fraction": one.max_non_alpha_words_ratio,
        },
    }


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    ).strip()
