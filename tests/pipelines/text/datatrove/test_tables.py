"""The character classes are those of the libraries whose behaviour they state."""

import hashlib

import numpy as np
import pytest

from raymill.pipelines.text.datatrove import tables
from raymill.pipelines.text.datatrove.tables import after_digits, character_classes

# Number of characters, and the first digits of the sha256 of their code points (ascending, as little-endian uint32),
# without surrogates. Computed from the sources of spaCy 3.8.7: lang/char_classes.py (ALPHA, ALPHA_LOWER, ALPHA_UPPER,
# CONCAT_QUOTES, CONCAT_ICONS), the single characters among TOKENIZER_PREFIXES and TOKENIZER_SUFFIXES, and
# default_punct_chars of pipeline/sentencizer.pyx; and of datatrove 0.10.1: utils/text.py (TERMINAL_PUNCTUATION, and
# what is not in PUNCTUATION_SET).
CLASSES = {
    "ALPHA": (105724, "a430f9a54df7f65b"),
    "LOWER": (105177, "f97c6182824bf28a"),
    "UPPER": (104939, "873315cef620a3b8"),
    "QUOTE": (31, "58a97837445c5b31"),
    "ICON": (5984, "97ebc48c58be5582"),
    "PREFIX": (6091, "debf04978f0faf1f"),
    "SUFFIX": (6051, "040445c819043a86"),
    "SENTENCE_END": (128, "18ce7db5e077c16e"),
    "TERMINAL": (159, "ef891fb275cc11b9"),
    "NON_PUNCTUATION": (1111783, "fbc5509bf7d36f43"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_characters_of_spacy_or_datatrove(name):
    points = np.flatnonzero(character_classes() & getattr(tables, name)).astype("<u4")
    points = points[(points < 0xD800) | (points >= 0xE000)]
    assert (len(points), hashlib.sha256(points.tobytes()).hexdigest()[:16]) == CLASSES[name]


def test_a_character_may_split_a_chunk_if_an_affix_begins_with_it():
    classes = character_classes()
    assert all(classes[ord(one)] & tables.MAY_SPLIT for one in "0123456789.+-*^,:<>=/~—'\"€§😀")
    assert not any(classes[ord(one)] & tables.MAY_SPLIT for one in "abzAZé中²|\\")
    assert all(classes[ord(one)] & tables.BEFORE_STOP for one in "aé中'09%²-+|)」,")
    assert not any(classes[ord(one)] & tables.BEFORE_STOP for one in "AÉ$=€😀")


def test_units_and_currencies_follow_a_number():
    found = after_digits()
    assert {"km", "m/s", "µm", "%", "US$", "€", "+", "كم", "км/ч"} <= set(found) and "§" not in found
    assert len(set(found)) == 144, "103 units and 37 currencies of spaCy, a plus sign and three dollars"
