"""`tokenizer: train`: a byte-level BPE of `model.config.vocab_size` entries, fitted on the corpus's train split.

Every text can be written in bytes, so there is no unknown token and decoding gives back the text. The fit reads at most
SAMPLE_BYTES of text, taken evenly: the beginning of each of at most _SAMPLED_UNITS units spread over all corpora. The
same documents give the same tokenizer.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.pack.chatml import CHATML, TURN_END, TURN_START
from training.pack.documents import Content, LeftOut, Pair, all_documents, documents_of
from training.pack.sources import FrozenCorpus, freeze_corpora
from training.pack.split import choose_cuts, survey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

VERSION = 1  # of what is fitted; another one makes the tokenizer anew
SAMPLE_BYTES = 100 << 20
END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
SPECIALS = (END_OF_TEXT, PADDING, TURN_START, TURN_END)

_UNIT_BYTES = 8 << 20  # not of the config: the tokenizer must not change with how work is cut
_SAMPLED_UNITS = 256
_BYTES = 256


def fit(config: TrainConfig) -> "PreTrainedTokenizerFast":
    """
    Raises:
        ConfigError: vocab_size has no room for bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    size = (config.model.config or {})["vocab_size"]
    least = _BYTES + len(SPECIALS)
    if size < least:
        raise ConfigError(
            f"model.config.vocab_size: {size}; a byte-level tokenizer wants {least} or more: {_BYTES} bytes and "
            f"{len(SPECIALS)} special tokens, then what it learns."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(_sample(freeze_all(config), config), trainer)
    log.info("fitted a tokenizer of %d entries (vocab_size %d)", tokenizer.get_vocab_size(), size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        extra_special_tokens=[TURN_START, TURN_END],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def freeze_all(config: TrainConfig) -> list[FrozenCorpus]:
    """All corpora, cut the same way whatever the config's unit size is."""
    return list(freeze_corpora(config, _UNIT_BYTES).values())


def _sample(corpora: list[FrozenCorpus], config: TrainConfig) -> Iterator[str]:
    """Texts of documents in the train split, in order, about SAMPLE_BYTES in all."""
    units = [(frozen, number) for frozen in corpora for number in range(len(frozen.units))]
    chosen = units[:: -(-len(units) // _SAMPLED_UNITS)]
    share = SAMPLE_BYTES / max(sum(frozen.unit_bytes[number] for frozen, number in chosen), 1)
    if share < 1 or len(chosen) < len(units):
        log.info("fits the tokenizer on a sample of %d MiB, from %d units", SAMPLE_BYTES >> 20, len(chosen))
    cuts = {}
    for frozen in corpora:
        keyed = ((document.key, document.stratum) for document in all_documents(frozen))
        cuts[id(frozen)] = choose_cuts(survey(keyed, frozen.columns.stratify is not None), config.split)
    for frozen, number in chosen:
        left = share * frozen.unit_bytes[number]
        for document in documents_of(frozen.store, frozen.units[number], frozen.columns, LeftOut()):
            if cuts[id(frozen)].split_of(document.key, document.stratum) == 0:
                yield from _texts(document.content)
            left -= document.bytes
            if share < 1 and left <= 0:
                break


def _texts(content: Content) -> Iterator[str]:
    match content:
        case str():
            yield content
        case Pair():
            yield content.prompt
            yield content.completion
        case _:
            for message in content.messages:
                if isinstance(message.get("content"), str):
                    yield message["content"]
