"""Synonyms of a thesaurus: the file of Moby, or a folder of WordNet.

Moby does not distinguish senses. So a word is replaced only by a synonym that lists the word in return, is a single
word with the same ending, and is not rare by wordfreq. The nearest of these are used, ranked by the fraction of
synonyms in common (Moby) or the number of shared senses (WordNet).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

from wordfreq import zipf_frequency

from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.noise import Edit, in_case_of, with_changed_words
from raymill.pipelines.prepare.augment.pieces import TextPiece
from raymill.pipelines.prepare.augment.thesaurus import files_of

_LARGEST = 256 << 20  # bytes of a file
# Far above those of a thesaurus: a line of WordNet has up to 28 words, of each of which all others are synonyms, and a
# word of Moby has up to 1,500 synonyms, which are compared with those of each of them.
_MOST_OF_SYNSET, _MOST_SYNONYMS = 256, 10_000
_NEAREST = 4
_LEAST_FREQUENCY = 3.3  # of a synonym, on the Zipf scale of wordfreq: twice in a million words
_WORD = re.compile(r"[a-z]{3,}")
_ENDINGS = ("ing", "ed", "ly", "ness", "est", "er", "s")
# Words whose meaning depends on the sentence.
_STAY = frozenset(
    (
        "about", "above", "after", "again", "all", "also", "and", "another", "any", "are", "around", "back",
        "because", "been", "before", "being", "below", "between", "both", "but", "can", "could", "did", "does",
        "doing", "down", "each", "even", "ever", "every", "few", "for", "from", "further", "get", "got", "had",
        "has", "have", "having", "her", "here", "hers", "herself", "him", "himself", "his", "how", "however",
        "into", "its", "itself", "just", "let", "like", "made", "make", "many", "may", "might", "more", "most",
        "much", "must", "myself", "never", "nor", "not", "now", "off", "once", "one", "only", "other", "our",
        "ours", "out", "over", "own", "same", "shall", "she", "should", "since", "some", "still", "such", "take",
        "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "through",
        "too", "two", "under", "until", "upon", "use", "used", "very", "was", "well", "were", "what", "when",
        "where", "which", "while", "who", "whom", "whose", "why", "will", "with", "within", "without", "would",
        "yes", "yet", "you", "your", "yours", "yourself", "way", "thing", "things",
    )
)  # fmt: skip


class Thesaurus:
    """The synonyms of each word, single words in lower case.

    synonyms: word -> its synonyms with their counts. has_senses: whether a count is the number of shared senses.
    """

    def __init__(self, synonyms: dict[str, Counter[str]], *, has_senses: bool) -> None:
        self._synonyms, self._has_senses = synonyms, has_senses

    def nearest(self, word: str) -> tuple[str, ...]:
        """The synonyms that may replace a word, the nearest first."""
        # Words of texts may be megabytes, those of the thesaurus are kept.
        return self._nearest(word) if word in self._synonyms and word not in _STAY else ()

    @lru_cache(1 << 16)  # noqa: B019 -- a process has one thesaurus, for its whole life
    def _nearest(self, word: str) -> tuple[str, ...]:
        own, ranked = self._synonyms[word], []
        for other, senses in own.items():
            theirs = self._synonyms.get(other, Counter())
            if other == word or other in _STAY or word not in theirs or _ending(word) != _ending(other):
                continue
            if zipf_frequency(other, "en") >= _LEAST_FREQUENCY:
                near = senses if self._has_senses else len(own & theirs) / len(own | theirs)
                ranked.append((-near, other))
        return tuple(other for _, other in sorted(ranked)[:_NEAREST])


def _ending(word: str) -> str:
    return next((one for one in _ENDINGS if word.endswith(one) and len(word) > len(one) + 2), "")


def synonyms(words: float, thesaurus: Thesaurus, pieces: Sequence[TextPiece], draws: Draws) -> str:
    """The text with some words replaced by synonyms."""

    def others(word: str) -> list[Edit]:
        return [(0, len(word), in_case_of(word, one)) for one in thesaurus.nearest(word.lower())]

    return with_changed_words(pieces, draws, words, others)


@lru_cache(1)
def load(store: Store, named: str) -> Thesaurus:
    """A thesaurus, read once in a process. Moby's 25 MB take 2 s and 300 MB. named: the setting `thesaurus`.

    Raises:
        ConfigError: as of `files_of`.
        DataError: its files have no synonyms, or more than a thesaurus.
    """
    uris = files_of(store, named)
    synonyms = defaultdict[str, Counter[str]](Counter)
    texts = [store.read_bytes(uri, _LARGEST).decode("utf-8", "replace") for uri in uris]
    is_wordnet = uris[0].rpartition("/")[2].startswith("data.")
    for text in texts:
        for line in text.splitlines():
            words = _of_synset(line) if is_wordnet else line.strip().split(",")
            single = [one for one in words if _WORD.fullmatch(one)]
            if is_wordnet and len(single) > _MOST_OF_SYNSET:
                raise _no_thesaurus(uris[0], f"{len(single):,} words of one meaning")
            for word in single if is_wordnet else single[:1] if single[:1] == words[:1] else []:
                synonyms[word].update(one for one in single if one != word)
                if len(synonyms[word]) > _MOST_SYNONYMS:
                    raise _no_thesaurus(uris[0], f"over {_MOST_SYNONYMS:,} synonyms of {word:.80}")
    if not any(synonyms.values()):
        raise _no_thesaurus(uris[0], "no synonyms")
    return Thesaurus(dict(synonyms), has_senses=is_wordnet)


def _no_thesaurus(uri: str, has: str) -> DataError:
    return DataError(
        f"{uri}: has {has}. Wanted lines of a word and its synonyms with commas between, or the files data.noun, "
        "data.verb, data.adj and data.adv of WordNet."
    )


def _of_synset(line: str) -> list[str]:
    """The words of a line of WordNet's data files: offset, file, part of speech, number of words in hex, words."""
    parts = line.split(" ")
    if line.startswith(" ") or len(parts) < 5:  # the licence
        return []
    try:
        count = int(parts[3], 16)
    except ValueError:
        return []
    return [part.partition("(")[0] for part in parts[4 : 4 + 2 * min(count, len(parts)) : 2]]
