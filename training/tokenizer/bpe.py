"""`tokenizer: train`: fitting a byte-level BPE of `model.config.vocab_size` entries on the train split.

There is no unknown token, because every text is a sequence of bytes, and decoding gives the text back. The fit reads at
most SAMPLE_BYTES of text: the beginnings of at most _SAMPLED_UNITS units at even distances in all corpora. The same
documents give the same tokenizer.
"""

import logging
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cluster.errors import ConfigError
from training.pack.chatml import CHATML, TURN_END, TURN_START
from training.pack.documents import Content, LeftOut, Pair, documents_of
from training.pack.sources import FrozenCorpus
from training.pack.split import Cuts, split_of

log = logging.getLogger(__name__)

SAMPLE_BYTES = 100 << 20
END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
SPECIALS = (END_OF_TEXT, PADDING, TURN_START, TURN_END)

_SAMPLED_UNITS = 256
_BYTES = 256


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
