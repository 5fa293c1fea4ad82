"""The run's tokenizer: the model's own, another one, or one fitted on the corpus, kept beside the packed rows.

    prepare_tokenizer    make or find it under PACKED/tokenizer/, with its chat template
    load_tokenizer       from such a folder, or any folder, URI or hub name

Only fast tokenizers are taken: masks need to know where a token stands in the text. Nothing that a tokenizer's folder
brings along as code is run.
"""

import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cluster.artifact import fingerprint
from cluster.errors import ConfigError, DataError
from cluster.store import paths
from cluster.store.interface import FileInfo, NotFound
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model
from training.models.folder import hub_problem
from training.models.tokenizer_checks import is_tokenizer_file, no_tokenizer
from training.pack.chatml import CHATML, TURN_END, TURN_START
from training.pack.prepared import RECORD, Prepared, discard_tokenizer, tokenizer_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

# What a tokenizer's folder may consist of; weights beside it are left where they are.
_ENDINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab")
_MAX_FILE_BYTES = 256 << 20


def prepare_tokenizer(config: TrainConfig, packed_uri: str, replace: bool = False) -> str:
    """Make the tokenizer that the config asks for under `packed_uri`, or find it there; its fingerprint.

    Raises:
        ConfigError: there is no such tokenizer, or it cannot do what this config needs.
        DataError: another one stands there already, and not `replace`.
    """
    folder, store = tokenizer_folder(packed_uri), config.store
    wanted = fingerprint(_request(config))
    if (prepared := Prepared.read(store, packed_uri)) is not None:
        if prepared.request == wanted:
            return prepared.fingerprint
        if not replace:
            raise DataError(
                f"{folder}: holds a tokenizer of other settings or another corpus. Choose another output, or run with "
                "--replace to make it anew."
            )
        discard_tokenizer(store, packed_uri)  # first: without it nobody believes the other files
    tokenizer = _make(config)
    _check(tokenizer, config)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        made = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        contents = {path.relative_to(scratch).as_posix(): path.read_bytes() for path in made}
    for name, content in contents.items():
        store.write_bytes(paths.join(folder, name), content)
    # What an attempt with other settings left would be loaded too.
    uris = {paths.join(folder, name) for name in (*contents, RECORD)}
    store.delete({file.uri for file in store.list_files(folder)} - uris)
    files = {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents.items()}
    Prepared(wanted, tokenizer_fingerprint(tokenizer), files).create(store, packed_uri)
    prepared = Prepared.read(store, packed_uri)  # another driver may have been first, and then its record holds
    assert prepared is not None
    return prepared.fingerprint


def check_tokenizer_of(config: TrainConfig) -> None:
    """Load the tokenizer that the config names, and write nothing. One that is to be trained passes.

    Raises:
        ConfigError: as `prepare_tokenizer`.
    """
    if config.model.tokenizer != "train":
        _check(_make(config), config)


def load_tokenizer(store: Store, uri: str, revision: str | None = None) -> "PreTrainedTokenizerFast":
    """A fast tokenizer from a local folder, a store's folder or, where there is no such folder, the hub.

    Raises:
        ConfigError: none there, or only a slow one.
    """
    found = [file for file in store.list_files(uri) if _belongs(file, paths.absolute(uri))]
    if not any(is_tokenizer_file(file.uri.rpartition("/")[2]) for file in found):
        if found or paths.is_remote(uri) or uri.startswith((".", "/", "~")):
            raise no_tokenizer(uri)
        return _load(uri, uri, revision, hub_problem(uri, revision))
    with tempfile.TemporaryDirectory() as scratch:
        for file in found:
            path = Path(scratch, file.uri.removeprefix(paths.absolute(uri)).lstrip("/"))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(store.read_bytes(file.uri))
        return _load(scratch, uri, None)


def load_prepared(store: Store, uri: str, fingerprint: str) -> "PreTrainedTokenizerFast":
    """
    Raises:
        DataError: it is not the one with this fingerprint.
    """
    tokenizer = load_tokenizer(store, uri)
    if (found := tokenizer_fingerprint(tokenizer)) != fingerprint:
        raise DataError(f"{uri}: the tokenizer has changed since it was prepared ({found}, not {fingerprint}).")
    return tokenizer


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Of all that decides ids: vocabulary, merges, normalisation, special tokens and the chat template."""
    return fingerprint(
        [
            json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None},
            tokenizer.chat_template,
            [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        ]
    )


def pad_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """What fills up a row. Padding is known by its place, so any token will do where there is none for it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in known if token is not None)


def _load(where: str, uri: str, revision: str | None, problem: str | None = None) -> "PreTrainedTokenizerFast":
    """problem: why nothing can be fetched, where it would have to be."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where, revision=revision, trust_remote_code=False, local_files_only=problem is not None
        )
    except Exception as error:  # of transformers, and of tokenizers, whose errors have no class of their own
        first = problem and f"no such folder here, and the hub: {problem}"
        first = first or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{uri}: no tokenizer can be loaded from here ({first}). Give model.tokenizer a folder with a "
            "tokenizer.json, a URI of one, a hub name, or `train`."
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{uri}: its tokenizer is a slow one ({type(tokenizer).__name__}), which does not say where a token "
            "stands in the text. Give model.tokenizer a folder with a tokenizer.json."
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def _belongs(file: FileInfo, root: str) -> bool:
    name = file.uri.removeprefix(root).lstrip("/")
    nested = "/" in name and not name.startswith("additional_chat_templates/")
    kind = name.endswith(_ENDINGS) and not name.endswith(".index.json")
    return kind and not nested and name != RECORD and file.size <= _MAX_FILE_BYTES


def _request(config: TrainConfig) -> list[object]:
    """What decides the tokenizer. A fitted one also hangs on the documents; they are listed, not read."""
    model = config.model
    forms = sorted({columns.form for columns in config.all_columns})
    request: list[object] = [model.name, model.revision, model.tokenizer, _template(config), forms]
    if model.tokenizer == "train":
        from training.pack.bpe import VERSION, freeze_all

        corpora = freeze_all(config)
        request += [VERSION, (model.config or {})["vocab_size"], config.split.model_dump()]
        request += [[frozen.fingerprint, frozen.columns.model_dump()] for frozen in corpora]
    return request


def _make(config: TrainConfig) -> "PreTrainedTokenizerFast":
    model = config.model
    if model.tokenizer == "train":
        from training.pack.bpe import fit

        tokenizer = fit(config)
    else:
        source = model.tokenizer or model.name
        assert source is not None
        tokenizer = load_tokenizer(config.store, source, model.revision if source == model.name else None)
    if (template := _template(config)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def _template(config: TrainConfig) -> str | None:
    setting = config.model.chat_template
    if setting is None or setting == "chatml":
        return setting and CHATML
    try:
        return config.store.read_bytes(setting).decode()
    except NotFound:
        raise ConfigError(f"model.chat_template: no file {setting}. Give a Jinja file, or `chatml`.") from None


def _check(tokenizer: "PreTrainedTokenizerFast", config: TrainConfig) -> None:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "model.tokenizer: it has no end-of-text token (eos_token), so a model could not learn to stop. Add one to "
            "its tokenizer_config.json, or give another tokenizer."
        )
    if isinstance(tokenizer.chat_template, dict):
        if "default" not in tokenizer.chat_template:
            raise ConfigError("model.tokenizer: several chat templates and no default. Give model.chat_template one.")
        tokenizer.chat_template = tokenizer.chat_template["default"]
    if tokenizer.chat_template:
        _check_syntax(tokenizer, config.model)
    if any(columns.form == "chat" for columns in config.all_columns) and not tokenizer.chat_template:
        raise ConfigError(
            "columns.messages: the tokenizer has no chat template to write messages with. Set model.chat_template to a "
            "Jinja file or, for a tokenizer with its tokens, `chatml`."
        )
    if any(one.system or one.system_prompt for one in config.all_columns) and not tokenizer.chat_template:
        raise ConfigError(
            "columns: a system prompt is written by a chat template, and the tokenizer has none. Set "
            "model.chat_template, or put the text into the prompts."
        )
    model = config.model
    if model.tokenizer not in (None, "train", model.name):
        _check_vocabulary(len(tokenizer), config)
    known = tokenizer.get_added_vocab()
    if config.model.chat_template == "chatml" and not {TURN_START, TURN_END} <= known.keys():
        raise ConfigError(
            f"model.chat_template: chatml needs {TURN_START} and {TURN_END} as tokens of their own, which this "
            "tokenizer does not have. Give a Jinja file that ends turns with a token it has, such as {{ eos_token }}."
        )


def _check_syntax(tokenizer: "PreTrainedTokenizerFast", model: Model) -> None:
    """Whether the chat template compiles; what conversations it takes is seen with each document."""
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([[{"role": "user", "content": "a"}]], tokenize=False)
    except TemplateSyntaxError as error:
        place = model.chat_template or f"that of {model.tokenizer or model.name}"
        raise ConfigError(
            f"model.chat_template: {place} is not a Jinja template (line {error.lineno}: {error.message}). Correct it, "
            "or set model.chat_template to another file."
        ) from error
    except Exception as error:
        log.debug("the chat template refuses a first question alone: %s", error)


def _check_vocabulary(tokens: int, config: TrainConfig) -> None:
    """Of a tokenizer that is not the model's own."""
    from training.plan.shape import transformers_config

    embedded = transformers_config(config.store, config.model).get_text_config().vocab_size
    if tokens > embedded:
        raise ConfigError(
            f"model.tokenizer: it has {tokens:,} tokens, and the model embeds {embedded:,}. Give the model's own "
            f"(leave `tokenizer` out), or for random weights set config.vocab_size: {tokens}."
        )
