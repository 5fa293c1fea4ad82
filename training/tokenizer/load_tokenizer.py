"""Tokenizers of transformers: loaded from a folder, a URI or the hub, or fitted; checked, and written to a folder.

Only fast tokenizers are accepted, because labels need the position of each token in the text. Code that comes with a
tokenizer is never run.

`tokenizer: train` fits a byte-level BPE of `model.config.vocab_size` entries on the train split. It has no unknown
token, because every text is a sequence of bytes, and decoding gives the text back. The fit reads at most SAMPLE_BYTES
of text: the beginnings of at most _SAMPLED_UNITS units at even distances in all corpora. The same documents give the
same tokenizer.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raymill.cluster.artifact import fingerprint
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import Exceeded, once
from raymill.cluster.model_settings import (
    check_tokenizer,
    is_tokenizer_file,
    refuse_hostile,
    without_file_arguments,
)
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.paths import FileName, RelativePath
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import scratch_folder
from raymill.training.config_parts import Model, ReadColumns
from raymill.training.model_folder.checks import check_template_variables, no_tokenizer
from raymill.training.model_folder.folder import hub_copy, refuse_foreign_files
from raymill.training.pack.corpus import FrozenCorpus
from raymill.training.pack.documents import Chat, LeftOut, Pair, TwoAnswers, documents_of
from raymill.training.pack.packed_run import RECORD, TokenizerRecord
from raymill.training.pack.split import Cuts, split_of
from raymill.training.pack.template import CHATML, TURN_END, TURN_START, render_checked, with_defaults

log = logging.getLogger(__name__)

SAMPLE_BYTES = 100 << 20
END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
SPECIALS = (END_OF_TEXT, PADDING, TURN_START, TURN_END)

_SAMPLED_UNITS = 256
_BYTES = 256

# Endings of the files of a tokenizer; weights in the same folder are not copied.
_ENDINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab")
_MAX_FILE_BYTES = 256 << 20

# Loads torch, which few tokenizers need.
_transformers_config = Entry("raymill.training.models.cost:transformers_config")


def fit_tokenizer(size: int, corpora: Sequence[FrozenCorpus], cuts: Sequence[Cuts]) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` entries, fitted on documents of the train split. cuts: of each corpus.

    Raises:
        ConfigError: `size` has no room for the bytes and special tokens.
    """
    least = _BYTES + len(SPECIALS)
    if size < least:
        raise ConfigError(
            f"model.config.vocab_size: {size}; a byte-level tokenizer needs {least} or more: {_BYTES} bytes and "
            f"{len(SPECIALS)} special tokens, besides what it learns."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(_sample(corpora, cuts), trainer)
    log.info("fitted a tokenizer of %d entries (vocab_size %d)", tokenizer.get_vocab_size(), size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        extra_special_tokens=[TURN_START, TURN_END],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _sample(corpora: Sequence[FrozenCorpus], cuts: Sequence[Cuts]) -> Iterator[str]:
    """Texts of documents in the train split, in order, with about SAMPLE_BYTES in all."""
    each = zip(corpora, cuts, strict=True)
    units = [(frozen, own, number) for frozen, own in each for number in range(len(frozen.units))]
    chosen = units[:: -(-len(units) // _SAMPLED_UNITS)]
    share = SAMPLE_BYTES / max(sum(frozen.unit_bytes[number] for frozen, _, number in chosen), 1)
    if share < 1 or len(chosen) < len(units):
        log.info("fitting the tokenizer on a sample of %d MiB from %d units", SAMPLE_BYTES >> 20, len(chosen))
    for frozen, own, number in chosen:
        left = share * frozen.unit_bytes[number]
        for document in documents_of(frozen.reading, frozen.units[number], LeftOut()):
            if split_of(document, own) == 0:
                match document.content:
                    case str(text):
                        yield text
                    case Pair():
                        yield document.content.prompt
                        yield document.content.completion
                    case Chat(messages):
                        yield from (one["content"] for one in messages if isinstance(one.get("content"), str))
                    case TwoAnswers(better, worse):
                        yield from (one["content"] for one in (*better.messages, worse.messages[-1]))
            left -= document.bytes
            if share < 1 and left <= 0:
                break


def write_tokenizer(
    store: Store,
    folder: str,
    model: Model,
    template: str | None,
    columns: Sequence[ReadColumns],
    corpora: Sequence[FrozenCorpus],
    cuts: Sequence[Cuts],
) -> tuple[dict[str, tuple[str, int]], str]:
    """Load or fit a tokenizer, check it and write it to a folder.

    Args:
        template: chat template that replaces its own; None: it keeps its own.
        columns: of all corpora. corpora, cuts: for a fitted tokenizer, which is fitted on the train split only.

    Returns:
        The files, as name -> (sha256, bytes), and the tokenizer's fingerprint.

    Raises:
        ConfigError: there is no such tokenizer, or it lacks something that the model or the columns need.
    """
    if model.tokenizer == "train":
        tokenizer = fit_tokenizer((model.config or {})["vocab_size"], corpora, cuts)
        if template is not None:
            tokenizer.chat_template = template
        _check(tokenizer, store, model, columns)
    else:
        tokenizer = load_checked(store, model, template, columns)
    with scratch_folder("tokenizer") as scratch:
        tokenizer.save_pretrained(scratch)
        made = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
        contents = {path.relative_to(scratch).as_posix(): path.read_bytes() for path in made}
    for name, content in contents.items():
        store.write_bytes(paths.join(folder, name), content)
    files = {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents.items()}
    return files, tokenizer_fingerprint(tokenizer)


def load_checked(
    store: Store, model: Model, template: str | None, columns: Sequence[ReadColumns]
) -> PreTrainedTokenizerFast:
    """The tokenizer that a config names, checked. The arguments and errors are those of `write_tokenizer`."""
    source = model.tokenizer or model.name
    assert source is not None
    tokenizer = load_tokenizer(store, source, model.revision if source == model.name else None)
    if template is not None:
        tokenizer.chat_template = template
    _check(tokenizer, store, model, columns)
    return tokenizer


def fingerprint_checked(store: Store, model: Model, template: str | None, columns: Sequence[ReadColumns]) -> str:
    """The fingerprint of `load_checked`'s tokenizer."""
    return tokenizer_fingerprint(load_checked(store, model, template, columns))


def load_tokenizer(store: Store, uri: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """A fast tokenizer from a folder or URI, or from the hub if there is no such folder.

    Raises:
        ConfigError: there is none, or only a slow one.
    """
    if not paths.is_remote(uri) and (folder := Path(paths.absolute(uri))).is_dir():
        refuse_foreign_files(folder)
    found = _files(store, uri)
    if any(is_tokenizer_file(name.rpartition("/")[2]) for name in found):
        return _load_files(store, uri, found, uri)
    if found or paths.is_remote(uri) or uri.startswith((".", "/", "~")):
        raise no_tokenizer(uri)
    copy = str(hub_copy(uri, revision, [f"*{ending}" for ending in _ENDINGS]))
    return _load_files(Store(), copy, _files(Store(), copy), uri)


def load_prepared(store: Store, uri: str, fingerprint: str) -> PreTrainedTokenizerFast:
    """The prepared tokenizer of a folder. The folder is not listed, because workers may have no right to.

    Raises:
        DataError: it has another fingerprint.
    """
    record = TokenizerRecord.from_json(store.read_bytes(paths.join(uri, RECORD)))
    tokenizer = _load_files(store, uri, record.files, uri) if record.files else load_tokenizer(store, uri)
    if (found := tokenizer_fingerprint(tokenizer)) != fingerprint:
        raise DataError(f"{uri}: the tokenizer has changed since it was prepared ({found}, not {fingerprint}).")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Fingerprint of all that decides token ids: vocabulary, merges, normalisation, special tokens, chat template."""
    return fingerprint(
        [
            json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None},
            tokenizer.chat_template,
            [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        ]
    )


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token id of padding, or any other id if there is none: padding is recognised by its position."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in known if token is not None)


def _files(store: Store, folder: str) -> list[RelativePath]:
    """Names of the files in a folder that may belong to a tokenizer."""
    root = paths.absolute(folder)
    found = [file for file in store.list_files(folder) if _belongs(file, root)]
    return [RelativePath(file.uri.removeprefix(root).lstrip("/")) for file in found]


def _load_files(store: Store, folder: str, names: Iterable[RelativePath], uri: str) -> PreTrainedTokenizerFast:
    """The tokenizer of these files of a folder. uri: its name in messages."""
    content = list[str]()
    with scratch_folder("tokenizer") as scratch:
        for name in names:
            path, data = scratch / name, store.read_bytes(paths.join(folder, name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(without_file_arguments(path.name, data))
            content.append(f"{name} {hashlib.sha256(data).hexdigest()}")
        return _load(str(scratch), fingerprint(sorted(content)), uri)


def _load(folder: str, content: str, uri: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder on this machine with transformers.

    content: fingerprint of its files. uri: its name in messages.
    """
    load = partial(AutoTokenizer.from_pretrained, folder, trust_remote_code=False, local_files_only=True)
    try:
        with suppress(FileNotFoundError):  # AutoTokenizer reads a config.json too, if there is one
            refuse_hostile(json.loads(Path(folder, "config.json").read_bytes()), f"{uri}: config.json")
        once(("tokenizer", content), lambda: check_tokenizer(load, uri))
        tokenizer = load()
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{uri}: no tokenizer can be loaded from here ({first}). Give model.tokenizer a folder with a "
            "tokenizer.json, a URI of one, a hub name, or `train`."
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{uri}: its tokenizer is a slow one ({type(tokenizer).__name__}), which has no positions of tokens "
            "in the text. Give model.tokenizer a folder with a tokenizer.json."
        )
    _check_templates(tokenizer.chat_template, uri)
    return cast(PreTrainedTokenizerFast, tokenizer)


def _check_templates(templates: Any, uri: str) -> None:
    """Check that chat templates are text, and that their names are names of files, to which transformers saves them.

    Raises:
        ConfigError: they are not.
    """
    where = f"{paths.join(uri, 'tokenizer_config.json')}, chat_template"
    for name, template in (templates if isinstance(templates, dict) else {"default": templates}).items():
        if template is not None and not isinstance(template, str):
            raise ConfigError(f"{where}: the template {str(name)[:80]!a} is no text. Correct it, or remove it.")
        try:
            FileName(f"{name}.jinja")
        except ValueError as error:
            raise ConfigError(
                f"{where}: the template {str(name)[:80]!a} cannot be saved, because no file can have its name "
                f"({error}). Give it another name."
            ) from error


def _belongs(file: FileInfo, root: str) -> bool:
    name = file.uri.removeprefix(root).lstrip("/")
    nested = "/" in name and not name.startswith("additional_chat_templates/")
    kind = name.endswith(_ENDINGS) and not name.endswith(".index.json")
    return kind and not nested and name != RECORD and file.size <= _MAX_FILE_BYTES


def _check(tokenizer: PreTrainedTokenizerFast, store: Store, model: Model, columns: Sequence[ReadColumns]) -> None:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "model.tokenizer: it has no end-of-text token (eos_token), so a model could not learn to stop. Add one to "
            "its tokenizer_config.json, or give another tokenizer."
        )
    if isinstance(tokenizer.chat_template, dict):
        if "default" not in tokenizer.chat_template:
            raise ConfigError("model.tokenizer: several chat templates and no default. Give model.chat_template one.")
        tokenizer.chat_template = tokenizer.chat_template["default"]
    if variables := model.chat_template_kwargs:
        template = str(tokenizer.chat_template or "")
        check_template_variables(template, variables)
        tokenizer.chat_template = with_defaults(template, variables)
    if tokenizer.chat_template:
        _check_syntax(tokenizer, model)
    if any(one.form == "chat" for one in columns) and not tokenizer.chat_template:
        raise ConfigError(
            "columns.messages: the tokenizer has no chat template to write messages with. Set model.chat_template to a "
            "Jinja file or, for a tokenizer with its tokens, `chatml`."
        )
    system = any(one.system_prompt or {"system", "history"} & one.named.keys() for one in columns)
    if system and not tokenizer.chat_template:
        raise ConfigError(
            "columns: system prompts and earlier turns are written by a chat template, and the tokenizer has none. Set "
            "model.chat_template, or put the text into the prompts."
        )
    if model.tokenizer not in (None, "train", model.name):
        embedded = _transformers_config(store, model).get_text_config().vocab_size
        if (tokens := len(tokenizer)) > embedded:
            raise ConfigError(
                f"model.tokenizer: it has {tokens:,} tokens, and the model has {embedded:,} embeddings. Give the "
                f"model's own (leave `tokenizer` out), or for random weights set config.vocab_size: {tokens}."
            )
    known = tokenizer.get_added_vocab()
    if model.chat_template == "chatml" and not {TURN_START, TURN_END} <= known.keys():
        raise ConfigError(
            f"model.chat_template: chatml needs {TURN_START} and {TURN_END} as tokens of their own, which this "
            "tokenizer does not have. Give a Jinja file that ends turns with a token it has, such as {{ eos_token }}."
        )


def _check_syntax(tokenizer: PreTrainedTokenizerFast, model: Model) -> None:
    """Check that the chat template compiles and ends. Whether it takes a conversation is checked with each document."""
    source = model.chat_template or f"the template of {model.tokenizer or model.name}"
    try:
        render_checked(tokenizer)
    except Exceeded as error:
        raise ConfigError(
            f"model.chat_template: {source} does not end, or grows without end: a conversation of a few words takes it "
            f"{error.seen}. Set model.chat_template to another file, or give a tokenizer whose template you trust."
        ) from error
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"model.chat_template: {source} is not a Jinja template (line {error.lineno}: {error.message}). Correct "
            "it, or set model.chat_template to another file."
        ) from error
    except Exception as error:
        log.debug("the chat template refuses a conversation of one question: %s", error)
