"""What a text says, without how it is written: the words that answers are compared by."""

import re
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Kana, and the ideographs that Chinese, Japanese and Korean share: scripts without spaces, one character a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
_WORDS = re.compile(r"\w+")


def normalised(text: str) -> str:
    """Lower case, without punctuation and English articles, single spaces.

    The normalisation of SQuAD's evaluation (Rajpurkar et al. 2016), whose punctuation is ASCII's; ours is Unicode's
    (every category P), and the ASCII symbols among SQuAD's (`$ + < = > ^ ` | ~`) are removed as there.
    """
    kept = "".join(sign for sign in text.lower() if not _is_punctuation(sign))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "P" or sign in "$+<=>^`|~"


def answer_words(text: str) -> list[str]:
    """The words of `normalised(text)`."""
    return _UNSPACED.sub(r" \1 ", normalised(text)).split()


def plain_words(text: str) -> list[str]:
    """Runs of letters and digits in lower case: what ROUGE counts, but of any script, not of ASCII only."""
    return _WORDS.findall(_UNSPACED.sub(r" \1 ", text.lower()))
