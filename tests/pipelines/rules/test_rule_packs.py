"""The four packs on readable texts, and against slow Python code of their definitions."""

import re
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.rules.c4 import C4
from raymill.pipelines.rules.fineweb import FineWeb
from raymill.pipelines.rules.gopher import OTHER_LABELS, STOP_WORDS, GopherQuality, GopherRepetition, language_of
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.prose_lines import PHRASES
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.words import split_words
from tests.support.slow_words import split_slowly

PACKS = (GopherQuality(), GopherRepetition(), C4(), FineWeb())
DIALECTS = ("paper", "datatrove")
both_dialects = pytest.mark.parametrize("dialect", DIALECTS)

LOOSE_QUALITY = GopherQuality(
    min_words=0,
    max_words=10**9,
    min_mean_word_length=0,
    max_mean_word_length=1e9,
    max_hashes_per_word=1e9,
    max_ellipses_per_word=1e9,
    max_bullet_line_fraction=1,
    max_ellipsis_line_fraction=1,
    min_alpha_word_fraction=0,
    min_stop_words=0,
)
LOOSE_REPETITION = replace(GopherRepetition(), **{field.name: 1e9 for field in fields(GopherRepetition)})
LOOSE_FINEWEB = FineWeb(min_line_punct_ratio=0, max_short_line_ratio=1, max_char_dup_ratio=1, max_list_ratio=1e9)


def analysis_of(texts: list[str], dialect: str, **columns: list) -> Analysis:
    return Analysis(Texts.from_strings(texts), dialect, pa.table({"id": range(len(texts)), **columns}), Store())


def verdicts(rule, analysis: Analysis) -> list[str | None]:
    """The first check that fails, per document."""
    signals = rule.measure(analysis)
    reasons: list[str | None] = [None] * len(analysis.texts)
    for check in reversed(rule.checks(analysis.dialect)):
        for document in np.flatnonzero(check.fails(signals[check.signal])):
            reasons[document] = check.reason
    return reasons


def verdict(rule, text: str, dialect: str = "paper", **columns: list) -> str | None:
    return verdicts(rule, analysis_of([text], dialect, **columns))[0]


@both_dialects
@pytest.mark.parametrize(
    ("setting", "bound", "passes", "fails", "reason"),
    [
        ("min_words", 3, "one two three", "one two ...", "gopher_short_doc"),
        ("max_words", 3, "one two three !", "one two three four", "gopher_long_doc"),
        ("min_mean_word_length", 3, "abc -- abc", "abc ab", "gopher_below_avg_threshold"),
        ("max_mean_word_length", 3, "abc ab", "abc abcd", "gopher_above_avg_threshold"),
        ("max_hashes_per_word", 0.5, "# a", "# # a", "gopher_too_many_hashes"),
        ("max_ellipses_per_word", 0.5, "... a", "... … a", "gopher_too_many_ellipsis"),
        ("max_bullet_line_fraction", 0.5, "- a\nb - c", " - a\n\u2022 b\nc", "gopher_too_many_bullets"),
        ("max_ellipsis_line_fraction", 0.5, "a...\nb . . .", "a...\nb… \r\nc", "gopher_too_many_end_ellipsis"),
        ("min_alpha_word_fraction", 0.5, "a 1", "a 1 2", "gopher_below_alpha_threshold"),
        ("min_stop_words", 2, "the cat and", "the cat the", "gopher_enough_stop_words"),
    ],
)
def test_gopher_quality_keeps_a_document_at_its_bound_and_removes_one_beyond(
    setting, bound, passes, fails, reason, dialect
):
    rule = replace(LOOSE_QUALITY, **{setting: bound})
    assert verdict(rule, passes, dialect) is None
    assert verdict(rule, fails, dialect) == reason


@both_dialects
@pytest.mark.parametrize(
    ("setting", "bound", "passes", "fails", "reason"),
    [
        ("max_list_ratio", 0, "a", " \n ", "empty"),
        ("min_line_punct_ratio", 0.5, "Yes.\n\nno", "Yes. \nno。\n", None),
        ("min_line_punct_ratio", 0.5, "Yes。\nno", "Yes. \nno", "line_punct_ratio"),
        ("max_short_line_ratio", 0.5, "a" * 30 + "\n" + "b" * 31, "a\nb\n" + "c" * 31, "short_line_ratio"),
        ("max_char_dup_ratio", 0.5, "ab\ncd\nab\ncd", "ab\nab\nab", "char_dup_ratio"),
        ("max_list_ratio", 0.5, "a\nb", "a\n\nb", "list_ratio"),
    ],
)
def test_fineweb_keeps_a_document_at_its_bound_and_removes_one_beyond(setting, bound, passes, fails, reason, dialect):
    rule = replace(LOOSE_FINEWEB, **{setting: bound})
    assert verdict(rule, passes, dialect) is None
    assert verdict(rule, fails, dialect) == reason


@pytest.mark.parametrize(
    ("more", "share"), [("", 0.25), ("'\"", 0.75), ("'\"”", 1.0)], ids=["none", "straight", "straight and closing"]
)
def test_fineweb_counts_lines_that_end_in_quotation_marks_only_if_told_to(more, share):
    text = "It ends.\n\"It ends.\"\n'It ends.'\n“It ends.”"
    measured = FineWeb(more_line_ends=more).measure(analysis_of([text], "datatrove"))
    assert measured["fineweb_line_punct_ratio"].tolist() == [share]


def test_fineweb_allows_ten_times_the_repeated_lines_in_the_paper():
    text = "\n".join([f"Line number {number} says something of its own." for number in range(20)] + ["A."] * 20)
    rule = replace(LOOSE_FINEWEB, max_char_dup_ratio=None)
    assert verdict(rule, text, "paper") is None
    assert verdict(rule, text, "datatrove") == "char_dup_ratio"
    assert verdict(replace(rule, max_char_dup_ratio=0.2), text, "datatrove") is None


PROSE = "One line is here.\nTwo lines are here.\nThree lines are here.\nFour lines are here.\nFive lines are here.\n"


@both_dialects
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        (PROSE.replace("Five lines are here.", ""), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "Only two"), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "Please enable JavaScript here."), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "This site uses cookies."), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "See our Terms of Use."), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "x" * 1001 + " is a word."), "too_few_sentences"),
        (PROSE.replace("Five lines are here.", "x" * 1000 + " is a word."), None),
        (PROSE + "Lorem Ipsum dolor sit amet.", "lorem_ipsum"),
        (PROSE + "lorem[1] ipsum dolor", "lorem_ipsum"),
        (PROSE + "if (a) { return", "curly_bracket"),
        (PROSE + "if (a) { return\nlorem ipsum dolor", "curly_bracket"),
        (PROSE + "lorem ipsum dolor\nif (a) { return", "lorem_ipsum"),
        (PROSE + "lorem ipsum { dolor", "lorem_ipsum"),
        (PROSE + "javascript { is dropped first", None),
        (PROSE + "{ alone", None),
    ],
)
def test_c4_drops_documents_for_lines_that_no_earlier_test_removed(text, reason, dialect):
    assert verdict(C4(), text, dialect) == reason


@both_dialects
def test_c4_can_ask_for_terminal_punctuation(dialect):
    text = PROSE + 'He said "no."\nand nothing more\nso it goes...\nis that so?'
    assert C4(require_terminal_punctuation=True).clean(Texts.from_strings([text]), dialect)[0] == (
        PROSE + 'He said "no."\nis that so?'
    )
    chinese = "一二三四。"
    kept = C4(require_terminal_punctuation=True, min_words_per_line=1).clean(Texts.from_strings([chinese]), dialect)[0]
    assert kept == (chinese if dialect == "paper" else "")


def test_c4_counts_letters_of_an_unspaced_script_as_words_in_the_paper_dialect_only():
    line = "今天天气很好。"
    assert C4().clean(Texts.from_strings([line]), "paper")[0] == line
    assert C4().clean(Texts.from_strings([line]), "datatrove")[0] == ""


@both_dialects
def test_c4_cleans_citations_but_no_other_brackets(dialect):
    text = "[1]a fact[23] here[edit] and [citation needed]there[] [see 4] [Edit] \u2028  the \f next line is here "
    assert (
        C4().clean(Texts.from_strings([text]), dialect)[0] == "a fact here and there [see 4] [Edit]\nnext line is here"
    )


@both_dialects
def test_c4_settings_turn_each_test_off(dialect):
    text = PROSE + "javascript is here now\nour privacy policy applies\nlorem ipsum dolor [1]\na { b c"
    loose = C4(
        remove_citations=False,
        remove_javascript_lines=False,
        remove_policy_lines=False,
        drop_lorem_ipsum=False,
        drop_curly_bracket=False,
    )
    assert verdict(loose, text, dialect) is None
    assert loose.clean(Texts.from_strings([text]), dialect)[0] == text


@both_dialects
@pytest.mark.parametrize(
    ("setting", "line", "verdict_with_it", "text_with_it"),
    [
        ("remove_citations", "a fact [1] is here", None, "a fact  is here"),
        ("remove_javascript_lines", "javascript is here now", None, ""),
        ("remove_policy_lines", "our privacy policy applies", None, ""),
        ("drop_lorem_ipsum", "lorem ipsum dolor sit", "lorem_ipsum", "lorem ipsum dolor sit"),
        ("drop_curly_bracket", "if a { b c", "curly_bracket", "if a { b c"),
    ],
)
def test_each_setting_of_c4_turns_its_own_test_off(dialect, setting, line, verdict_with_it, text_with_it):
    for rule, reason, kept in (
        (C4(), verdict_with_it, text_with_it),
        (C4(**{setting: False}), None, line),
    ):
        assert verdict(rule, PROSE + line, dialect) == reason
        assert rule.clean(Texts.from_strings([PROSE + line]), dialect)[0] == (PROSE + kept).strip()


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, lambda phrase: phrase.replace("k", "\u212a")])
def test_c4_finds_every_phrase_in_any_case_and_place(phrase, change):
    for line in (f"{change(phrase)} and then more", f"before it: {change(phrase)}", f"xx yy{change(phrase)}zz"):
        cleaned, signals = C4().clean(Texts.from_strings([line])), C4().measure(analysis_of([line], "paper"))
        found = bool(signals["c4_lorem_ipsum"][0]) if phrase == "lorem ipsum" else cleaned[0] == ""
        assert found, line


# Sentences in a line by the sentencizer of spaCy 3.8.18, as datatrove 0.10.1 uses it.
@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("Wait... what", 1),
        ('"Quoted." He said.', 2),
        ("end. (Really.) Next", 3),
        ("Foo.  ) bar", 2),
        ("Foo. [1] [2]", 2),
        ("Mr. Smith e.g. this", 1),
        ("a ! ! b", 2),
        ("One.Two", 2),
        ("one ... two. . three", 2),
        ("[1]", 1),
    ],
)
def test_c4_counts_sentences_as_spacy_does_in_the_datatrove_dialect(line, sentences):
    counted = C4(min_words_per_line=0).measure(analysis_of([f"{line}\n{line}"], "datatrove"))["c4_sentences"]
    assert counted.tolist() == [2 * sentences]


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("Wait... what now", 2),
        ('He said "no." (Really.) Next', 3),
        ("version 3.14 is out", 1),
        ("a ! ! b", 2),
        ("- - -", 0),
        ("一二三。四五！六", 3),
        ("यह है। वह है।", 2),
    ],
)
def test_c4_counts_sentences_by_the_ends_of_words_in_the_paper_dialect(line, sentences):
    assert C4().measure(analysis_of([line], "paper"))["c4_sentences"].tolist() == [sentences]


def test_the_datatrove_dialect_counts_only_english_stop_words_in_exact_case():
    rule = replace(LOOSE_QUALITY, min_stop_words=2)
    assert verdict(rule, "The (and) of", "datatrove") is None
    assert verdict(rule, "The And of", "datatrove") == "gopher_enough_stop_words"
    assert verdict(rule, "der und die", "datatrove", language=["de"]) == "gopher_enough_stop_words"


@pytest.mark.parametrize(
    ("text", "language", "stop_words"),
    [
        ("THE house, (and) “of” other:", "en", 3),
        ("Der Hund und die Katze", "de", 3),
        ("Der Hund und die Katze", "deu_Latn", 3),
        ("the dog and the cat", "de", 0),
        ("the dog and the cat", "zh", np.nan),
        ("the dog and the cat", None, np.nan),
        ("и в не на что с как по и", "ru", 8),
    ],
)
def test_the_paper_dialect_counts_the_stop_words_of_the_documents_language(text, language, stop_words):
    analysis = analysis_of([text, "the and"], "paper", language=pa.array([language, "en"], pa.string()))
    counted = GopherQuality().measure(analysis)["gopher_stop_words"]
    np.testing.assert_array_equal(counted, [stop_words, 2])


def test_documents_of_languages_without_a_list_have_no_stop_word_signal():
    analysis = analysis_of(["你好", "สวัสดี"], "paper", language=["zh", "th"])
    assert np.isnan(GopherQuality().measure(analysis)["gopher_stop_words"]).all()


def test_without_a_language_every_document_counts_as_english():
    assert GopherQuality().measure(analysis_of(["the of"], "paper"))["gopher_stop_words"].tolist() == [2]
    english = GopherQuality(stop_words="english")
    assert english.measure(analysis_of(["the of"], "paper", language=["de"]))["gopher_stop_words"].tolist() == [2]


def test_every_stop_word_list_has_eight_words_that_are_one_lowered_word_each():
    for language, words in STOP_WORDS.items():
        assert len(set(words)) == 8
        assert split_words(Texts.from_strings(list(words))).counts.tolist() == [1] * 8
        assert [word.lower() for word in words] == list(words)
        assert language_of(language) == language
    assert set(OTHER_LABELS.values()) <= set(STOP_WORDS)


REPETITIVE = "\n\n".join(["ab cd ef gh ij kl mn op qr st uv wx"] * 3 + ["a line of its own"] * 2 + ["more\nmore\nless"])


@both_dialects
@pytest.mark.parametrize("reason", GopherRepetition.reasons[1:])
def test_gopher_repetition_keeps_a_document_at_its_bound_and_removes_one_beyond(reason, dialect):
    value = GopherRepetition().measure(analysis_of([REPETITIVE], dialect))[reason][0]
    assert value > 0.05
    assert verdict(replace(LOOSE_REPETITION, **{f"max_{reason}": float(value)}), REPETITIVE, dialect) is None
    beyond = replace(LOOSE_REPETITION, **{f"max_{reason}": float(np.nextafter(value, 0))})
    assert verdict(beyond, REPETITIVE, dialect) == reason


@both_dialects
@pytest.mark.parametrize(
    ("text", "signal", "value"),
    [
        ("a\n\nb\n\na\n\nb", "dup_para_frac", 2 / 4),
        ("aa\n\nb\n\naa", "dup_para_char_frac", 2 / 9),
        ("\n\n  a\n\n\na \n", "dup_para_frac", 1 / 2),
        ("a\nb\n\na\n", "dup_line_frac", 1 / 4),  # the last line is empty, and new
        ("aa\nb\naa", "dup_line_char_frac", 2 / 7),
        ("a b a b c", "top_2_gram", 2 * 3 / 9),
        ("a a a a", "top_2_gram", 3 * 3 / 7),
        ("ab cd", "top_2_gram", 5 / 5),
        ("ab cd", "top_3_gram", 0),
        ("a b c d e a b c d e", "duplicated_5_n_grams", 5 / 19),
        ("a a a a a a a a a a a", "duplicated_5_n_grams", 10 / 21),
    ],
)
def test_gopher_repetition_counts_what_repeats_an_earlier_piece(text, signal, value, dialect):
    assert GopherRepetition().measure(analysis_of([text], dialect))[signal].tolist() == [value]


def test_an_empty_document_is_removed_as_empty():
    assert verdict(GopherRepetition(), "") == "empty"
    assert verdict(FineWeb(), "") == "empty"
    assert verdict(GopherQuality(), "") == "gopher_short_doc"
    assert verdict(C4(), "") == "too_few_sentences"


@both_dialects
@pytest.mark.parametrize("rule", PACKS, ids=lambda rule: rule.name)
def test_no_documents_and_blank_ones_are_measured_too(rule, dialect):
    nothing = rule.measure(analysis_of([], dialect))
    assert {name: len(values) for name, values in nothing.items()} == dict.fromkeys(rule.signals, 0)
    blank = rule.measure(analysis_of(["", " \n\t", "\u00a0"], dialect))
    assert not any(np.isinf(values).any() for values in blank.values())


@both_dialects
@pytest.mark.parametrize("rule", PACKS, ids=lambda rule: rule.name)
def test_a_pack_declares_what_it_measures_and_why_it_removes(rule, dialect):
    signals = rule.measure(analysis_of([PROSE], dialect))
    checks = rule.checks(dialect)
    assert list(signals) == list(rule.signals)
    assert tuple(check.reason for check in checks) == rule.reasons
    assert {check.signal for check in checks} <= set(rule.signals)
    assert set(rule.measured_by) <= {field.name for field in fields(rule)}
    assert all(values.dtype.kind in "iuf" for values in signals.values())


def test_signals_of_different_packs_have_different_names():
    names = [name for rule in PACKS for name in rule.signals]
    assert len(names) == len(set(names))


def test_bounds_that_no_document_could_meet_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"min_words=5 is above max_words=1"):
        GopherQuality(min_words=5, max_words=1)
    with pytest.raises(ConfigError, match=r"min_mean_word_length=11 is above max_mean_word_length=10"):
        GopherQuality(min_mean_word_length=11)


@pytest.mark.parametrize(
    ("pack", "config"),
    [
        (GopherQuality, {"min_words": -1}),
        (GopherQuality, {"min_alpha_word_fraction": 1.1}),
        (GopherQuality, {"stop_words": "german"}),
        (GopherRepetition, {"max_top_2_gram": -0.1}),
        (C4, {"max_word_length": 0}),
        (FineWeb, {"max_char_dup_ratio": 2}),
        (FineWeb, {"max_line_punct_ratio": 0.1}),
    ],
)
def test_a_setting_out_of_range_or_unknown_is_refused(pack, config):
    with pytest.raises(ValidationError):
        TypeAdapter(pack).validate_python(config)
    assert TypeAdapter(pack).validate_python({}) == pack()


# Against slow Python code.

SCRAPS = [
    "a",
    "b",
    "ab",
    "the",
    "of",
    "x1",
    "7",
    "--",
    "#",
    "...",
    "…",
    "•",
    "- ",
    ".",
    "!",
    "。",
    "é",
    "ไท",
    "中",
    "{",
]
SCRAPS += (
    [" "] * 8 + ["\n"] * 5 + ["\n\n", "\r\n", "\t", "\u2028", "\x0c", "[1]", "[edit]", "lorem ipsum", "javascript"]
)
SCRAPS += ["use cookies", '"', "terms of use"]
SCRAPS += ["\u00a0", "\x85", "\x1c", "....", "\t..", "more than one block of bytes " * 2]
scraps = st.lists(st.lists(st.sampled_from(SCRAPS), max_size=60).map("".join), min_size=1, max_size=4)
repetitive = st.lists(st.lists(st.sampled_from(["a", "b", "cc", "\n", "\n\n"]), max_size=90).map(" ".join), max_size=3)


def slow_words(text: str, dialect: str) -> list[str]:
    analysis = analysis_of([text], dialect)
    words, data = analysis.words, analysis.texts.data.tobytes()
    places = zip(words.begins.tolist(), words.lengths.tolist(), strict=True)
    return [data[begin:].decode()[:length] for begin, length in places]


def slow_repeats(pieces: list[str]) -> tuple[int, int]:
    repeated = [piece for number, piece in enumerate(pieces) if piece in pieces[:number]]
    return len(repeated), sum(map(len, repeated))


def slow_repetition(text: str, words: list[str]) -> dict[str, float]:
    paragraphs, lines = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    over = max(len(text), 1)
    signals: dict[str, float] = {"repetition_characters": len(text)}
    for name, pieces in (("para", paragraphs), ("line", lines)):
        repeats, characters = slow_repeats(pieces)
        signals |= {f"dup_{name}_frac": repeats / len(pieces), f"dup_{name}_char_frac": characters / over}
    for n in (2, 3, 4):
        grams = Counter(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
        top, times = grams.most_common(1)[0] if grams else ("", 0)
        signals[f"top_{n}_gram"] = len(top) * times / over
    for n in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        at = characters = 0
        while at <= len(words) - n:
            gram = tuple(words[at : at + n])
            if gram in seen:
                characters += len("".join(gram))
                at += n
            else:
                seen.add(gram)
                at += 1
        signals[f"duplicated_{n}_n_grams"] = characters / over
    return signals


@settings(max_examples=150)
@given(st.one_of(repetitive, scraps), st.sampled_from(DIALECTS))
def test_gopher_repetition_equals_its_definition(texts, dialect):
    signals = GopherRepetition().measure(analysis_of(texts, dialect))
    for number, text in enumerate(texts):
        wanted = slow_repetition(text, slow_words(text, dialect))
        assert {name: values[number] for name, values in signals.items()} == wanted


def slow_fineweb(text: str, words: list[str], terminal: str) -> dict[str, float]:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return {"fineweb_lines": 0}
    return {
        "fineweb_lines": len(lines),
        "fineweb_line_punct_ratio": sum(line[-1] in terminal for line in lines) / len(lines),
        "fineweb_short_line_ratio": sum(len(line) <= 4 for line in lines) / len(lines),
        "fineweb_char_dup_ratio": slow_repeats(lines)[1] / len(text.replace("\n", "")),
        "fineweb_list_ratio": text.count("\n") / len(words),
    }


@settings(max_examples=150)
@given(scraps, st.sampled_from(DIALECTS))
def test_fineweb_equals_its_definition(texts, dialect):
    signals = FineWeb(short_line_characters=4).measure(analysis_of(texts, dialect))
    for number, text in enumerate(texts):
        for name, value in slow_fineweb(text, slow_words(text, dialect), ".!。").items():
            assert signals[name][number] == value


@settings(max_examples=150)
@given(scraps, st.sampled_from(DIALECTS))
def test_gopher_quality_equals_its_definition(texts, dialect):
    signals = GopherQuality().measure(analysis_of(texts, dialect))
    for number, text in enumerate(texts):
        words, lines = slow_words(text, dialect), text.splitlines()
        if not words:
            assert signals["gopher_words"][number] == 0
            continue
        spoken = [word for word in words if not re.fullmatch(r'[-#.…•!。{\[\]"]+', word)]
        if dialect == "datatrove":  # where • is not punctuation
            spoken = [word for word in words if not re.fullmatch(r'[-#.…!。{\[\]"]+', word)]
        assert signals["gopher_words"][number] == len(spoken)
        if spoken:
            assert signals["gopher_mean_word_length"][number] == sum(map(len, spoken)) / len(spoken)
        assert signals["gopher_hashes_per_word"][number] == text.count("#") / len(words)
        assert signals["gopher_ellipses_per_word"][number] == (text.count("...") + text.count("…")) / len(words)
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        assert signals["gopher_bullet_line_fraction"][number] == bullets / len(lines)
        trailing = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        assert signals["gopher_ellipsis_line_fraction"][number] == trailing / len(lines)
        alphabetic = sum(any(map(str.isalpha, word)) for word in words)
        assert signals["gopher_alpha_word_fraction"][number] == alphabetic / len(words)


def slow_sentences(words: list[str]) -> int:
    """Sentences of a line in the paper dialect."""
    sentences, has_text = 0, False
    for word in words:
        has_text |= any(letter not in '-#.…•!。{[]"' for letter in word)
        if has_text and word.rstrip(']"').endswith((".", "!", "。")):
            sentences, has_text = sentences + 1, False
    return sentences + has_text


def slow_clean(text: str, rule: C4, dialect: str) -> tuple[str, str | None, int]:
    """C4's cleaned text, which of lorem ipsum and a bracket drops the document, and its sentences as in the paper."""
    kept, reason, sentences = [], None, 0
    split = split_slowly if dialect == "paper" else str.split
    final = (".", "!", '"', "。") if dialect == "paper" else (".", "!", '"')
    for line in text.splitlines():
        line = line.strip()
        words = split(line)
        if max(map(len, words), default=0) > rule.max_word_length:
            continue
        line = re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", line)
        lowered = line.lower()
        if rule.require_terminal_punctuation and (line.endswith("...") or not line.endswith(final)):
            continue
        if len(words) < 3:
            continue
        if rule.drop_lorem_ipsum and "lorem ipsum" in lowered:
            reason = reason or "lorem_ipsum"
        if "javascript" in lowered:
            continue
        if rule.drop_curly_bracket and "{" in line:
            reason = reason or "curly_bracket"
        if "terms of use" in lowered or "use cookies" in lowered:
            continue
        kept.append(line)
        sentences += slow_sentences(split(line))
    return "\n".join(kept).strip(), reason, sentences


@settings(max_examples=300)
@given(scraps, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([8, 1000]), st.sampled_from(DIALECTS))
def test_c4_equals_its_definition(texts, lorem_ipsum, curly_bracket, terminal, longest, dialect):
    rule = C4(
        min_sentences=0, drop_lorem_ipsum=lorem_ipsum, drop_curly_bracket=curly_bracket, max_word_length=longest,
        require_terminal_punctuation=terminal,
    )  # fmt: skip
    analysis = analysis_of(texts, dialect)
    cleaned = rule.clean(analysis.texts, dialect)
    signals = rule.measure(analysis)
    for number, (text, reason) in enumerate(zip(texts, verdicts(rule, analysis), strict=True)):
        wanted, why, sentences = slow_clean(text, rule, dialect)
        assert (cleaned[number], reason) == (wanted, why)
        assert signals["c4_kept_characters"][number] == len(wanted)
        if dialect == "paper":
            assert signals["c4_sentences"][number] == sentences


@settings(max_examples=60)
@given(scraps, st.sampled_from(DIALECTS), st.sampled_from(PACKS))
def test_numbers_do_not_depend_on_the_table_a_document_is_in(texts, dialect, rule):
    together = rule.measure(analysis_of(texts, dialect))
    part = Texts.from_strings(["a b\n\na b\n\n{ lorem ipsum", *texts])
    inner = rule.measure(
        Analysis(Texts(part.data, part.offsets[1:]), dialect, pa.table({"id": range(len(texts))}), Store())
    )
    for name, values in together.items():
        alone = [rule.measure(analysis_of([text], dialect))[name][0] for text in texts]
        np.testing.assert_array_equal(values, alone)
        np.testing.assert_array_equal(values, inner[name])


def test_word_length_and_letters_do_not_apply_to_a_language_written_without_spaces():
    texts = Texts.from_strings(["春天来了，花开了。" * 20, "a b c d e f g h i j " * 20])
    analysis = Analysis(texts, "paper", pa.table({"language": ["zh", "en"]}), Store())
    found = GopherQuality().measure(analysis)
    assert np.isnan(found["gopher_mean_word_length"]).tolist() == [True, False]
    assert np.isnan(found["gopher_alpha_word_fraction"]).tolist() == [True, False]
    unknown = GopherQuality().measure(Analysis(texts, "paper", pa.table({"x": [1, 2]}), Store()))
    assert unknown["gopher_mean_word_length"][0] == 1
