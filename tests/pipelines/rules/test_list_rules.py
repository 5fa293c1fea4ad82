"""The rules that work from a user's files: URL block lists, bad-word lists, fastText quality classifiers."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.rules.bad_words import BadWords
from raymill.pipelines.rules.quality_classifier import QualityClassifier
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.rules.url_blocklist import UrlBlocklist
from raymill.pipelines.rules.url_words import UrlWords
from raymill.pipelines.text.characters import UNSPACED, WORD, tables
from raymill.pipelines.text.texts import Texts


def documents(texts: list[str], **columns: list) -> Analysis:
    table = pa.table(columns) if columns else pa.table({"row": list(range(len(texts)))})
    return Analysis(Texts.from_strings(texts), "paper", table, Store())


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def removed(rule, analysis: Analysis) -> list[str | None]:
    """The reason of each document, by the rule's own checks."""
    signals = rule.measure(analysis)
    assert set(signals) == set(rule.signals)
    reasons: list[str | None] = [None] * len(analysis.texts)
    for check in reversed(rule.checks("paper")):
        assert check.reason in rule.reasons
        for row in np.flatnonzero(check.fails(signals[check.signal])):
            reasons[row] = check.reason
    return reasons


# --- url_blocklist

BLOCKED = """\
# a comment
example.com
Sub.Other.ORG   # from here on a comment
https://www.news.net/forum/
shop.de/item?id=1

10.0.0.1
"""


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("https://example.com/", True),
        ("http://example.com", True),
        ("EXAMPLE.com/a/b?c#d", True),
        ("//example.com/a", True),
        ("https://www.example.com/a", True),
        ("https://a.b.example.com:8080/a", True),
        ("https://user:secret@example.com/", True),
        ("example.com:443", True),
        ("https://example.com./", True),
        ("<https://example.com/a>", True),
        (" <example.com>", True),
        ("<https://shop.de/item?id=1>", True),
        ("http:\\\\example.com\\a", True),
        ("https://example.org\\example.com", False),
        ("https://notexample.com/", False),
        ("https://example.com.org/", False),
        ("https://example.org/?to=https://example.com/", False),
        ("https://example.org/@example.com", False),
        ("https://example.org/example.com", False),
        ("https://sub.other.org/", True),
        ("https://deep.sub.other.org/", True),
        ("https://other.org/", False),
        ("http://news.net/forum/thread/1", True),
        ("news.net/forum/", True),
        ("https://news.net/forum", False),
        ("https://news.net/Forum/", False),
        ("https://a.news.net/forum/", False),
        ("https://news.net/", False),
        ("https://shop.de/item?id=1", True),
        ("https://shop.de/item?id=12", True),
        ("https://shop.de:8080/item?id=1", True),
        ("https://shop.de/item?id=2", False),
        ("http://10.0.0.1/x", True),
        ("http://110.0.0.1/x", False),
        ("http://[::1]:80/x", False),
        ("", False),
        ("   ", False),
        ("no url at all", False),
        (None, False),
    ],
)
def test_a_block_list_blocks_domains_their_subdomains_and_url_prefixes(tmp_path, url, blocked):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", BLOCKED),))
    analysis = documents(["a", "b"], url=pa.array([url, "https://fine.example.net/"], pa.string()))
    assert removed(rule, analysis) == ["blocked_url" if blocked else None, None]


def test_www_is_a_prefix_only_when_a_domain_remains(tmp_path):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "www.com\n"),))
    urls = ["http://www.com/", "http://a.www.com/", "http://other.com/"]
    assert rule.measure(documents(urls, url=urls))["url_blocked"].tolist() == [1, 1, 0]


def test_several_lists_add_up_and_unusual_files_are_read(tmp_path):
    first = written(tmp_path / "a.txt", "\ufeffone.com\r\ntwo.com\r\n")
    second = written(tmp_path / "b.txt", "#\n\nthree.com/\nbücher.de\n# end")
    rule = UrlBlocklist(paths=(first, second), column="link")
    urls = ["http://one.com", "http://two.com", "http://three.com", "http://x.BÜCHER.de/", "http://four.com"]
    assert rule.measure(documents(urls, link=urls))["url_blocked"].tolist() == [1, 1, 1, 1, 0]
    assert rule.fingerprint_files() == (first, second)


def test_documents_without_a_url_column_stay(tmp_path):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "example.com"),))
    assert rule.measure(documents(["a", "b"]))["url_blocked"].tolist() == [0, 0]
    assert rule.measure(documents([], url=pa.array([], pa.string())))["url_blocked"].tolist() == []
    assert rule.measure(documents(["a"], url=pa.nulls(1)))["url_blocked"].tolist() == [0]


def test_urls_may_come_in_chunks(tmp_path):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "example.com"),))
    urls = pa.chunked_array([["http://example.com"], ["http://fine.net", None], ["http://a.example.com"]])
    assert rule.measure(documents(["", "", "", ""], url=urls))["url_blocked"].tolist() == [1, 0, 0, 1]


LABEL = st.text("ab", min_size=1, max_size=2)
HOST = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
PATH = st.lists(LABEL, max_size=2).map(lambda parts: "".join(f"/{part}" for part in parts))


@settings(max_examples=60)
@given(st.lists(st.tuples(HOST, PATH), min_size=1, max_size=4), st.lists(st.tuples(HOST, PATH), max_size=8))
def test_a_block_list_agrees_with_its_definition(tmp_path_factory, entries, urls):
    def is_blocked(host: str, path: str) -> bool:
        return any(
            (host + path).startswith(blocked + prefix) and host == blocked
            if prefix
            else f".{host}".endswith(f".{blocked}")
            for blocked, prefix in entries
        )

    file = written(tmp_path_factory.mktemp("lists") / "list.txt", "\n".join(host + path for host, path in entries))
    columns = [f"https://{host}{path}" for host, path in urls]
    measured = UrlBlocklist(paths=(file,)).measure(documents(columns, url=pa.array(columns, pa.string())))
    assert measured["url_blocked"].tolist() == [int(is_blocked(host, path)) for host, path in urls]


@pytest.mark.parametrize("line", ["||ads.com^", "*.ads.com", "0.0.0.0 ads.com", "a.com,b.com", "/banner/", "https://"])
def test_a_line_that_is_no_domain_is_refused_with_its_number(tmp_path, line):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", f"# list\nfine.com\n{line}\n"),))
    with pytest.raises(ConfigError, match=r"list\.txt, line 3: .* is neither a domain nor a URL\. Write example\.com"):
        rule.measure(documents(["a"], url=["http://x.com"]))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "has no entry"), (b"# only\n", "has no entry"), (b"caf\xe9.fr", "is not UTF-8")]
)
def test_a_block_list_without_entries_or_in_another_encoding_is_refused(tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        UrlBlocklist(paths=(str(path),)).measure(documents(["a"], url=["http://x.com"]))


def test_a_url_column_of_numbers_is_refused(tmp_path):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "example.com"),), column="size")
    with pytest.raises(ConfigError, match=r"url_blocklist\.column: 'size' holds int64"):
        rule.measure(documents(["a"], size=[1]))


@pytest.mark.parametrize("line", ["a.com/b,c;d", "a.com/x|y^*", 'a.com/"quoted"', "a.com/<b>"])
def test_a_path_may_have_any_character_but_a_space(tmp_path, line):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", f"{line}\n"),))
    assert rule.measure(documents(["", ""], url=[f"http://{line}", "http://a.com/"]))["url_blocked"].tolist() == [1, 0]
    with pytest.raises(ConfigError, match="neither a domain nor a URL"):
        UrlBlocklist(paths=(written(tmp_path / "other.txt", "a.com/b c"),)).measure(documents([""], url=["x.com"]))


def test_a_long_wrong_line_is_quoted_in_part(tmp_path):
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "x y" * 100_000),))
    with pytest.raises(ConfigError, match="neither a domain nor a URL") as error:
        rule.measure(documents([""], url=["http://x.com"]))
    assert len(str(error.value)) < 1000


def test_a_link_out_of_a_folder_of_categories_is_not_read(tmp_path):
    written(tmp_path / "secret", "inside.com\n")
    for category in ("ads", "adult"):
        (tmp_path / "lists" / category).mkdir(parents=True)
    written(tmp_path / "lists/ads/domains", "a.com\n")
    (tmp_path / "lists/ads/urls").symlink_to(tmp_path / "secret")
    (tmp_path / "lists/adult/domains").symlink_to("../ads/domains")
    rule = UrlBlocklist(paths=(str(tmp_path / "lists"),))
    urls = ["http://a.com", "http://inside.com"]
    assert rule.measure(documents(urls, url=urls))["url_blocked"].tolist() == [1, 0]


def test_a_folder_of_categories_is_its_files_of_domains_and_urls(tmp_path):
    for name, text in {
        "adult/domains": "a.com\n", "adult/urls": "b.com/x\n", "ads/domains": "c.com\n", "ads/usage": "black\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, text)
    rule = UrlBlocklist(paths=(str(tmp_path),))
    urls = ["http://a.com", "http://b.com/x/y", "http://b.com/", "http://c.com", "http://black/"]
    assert rule.measure(documents(urls, url=urls))["url_blocked"].tolist() == [1, 1, 0, 1, 0]
    assert rule.fingerprint_files() == tuple(
        f"{tmp_path}/{one}" for one in ("ads/domains", "adult/domains", "adult/urls")
    )
    (tmp_path / "none").mkdir()
    written(tmp_path / "none" / "list", "a.com\n")
    with pytest.raises(ConfigError, match="folder without files named domains or urls"):
        UrlBlocklist(paths=(str(tmp_path / "none"),)).fingerprint_files()


@pytest.mark.parametrize("size", [1, 7, 20, 10_000])
def test_a_list_read_in_blocks_is_the_whole_list(tmp_path, monkeypatch, size):
    monkeypatch.setattr("raymill.pipelines.rules.url_blocklist._BLOCK_BYTES", size)
    names = [f"d{number}.com" for number in range(30)]
    rule = UrlBlocklist(paths=(written(tmp_path / "list.txt", "\ufeff" + "\r\n".join(names)),))
    assert rule.measure(documents(names, url=names))["url_blocked"].all()
    wrong = UrlBlocklist(paths=(written(tmp_path / "b.txt", "\n".join([*names, "#", "*.x.com", "y.com"])),))
    with pytest.raises(ConfigError, match=r"b\.txt, line 32: '\*\.x\.com'"):
        wrong.measure(documents(["a"], url=["http://x.com"]))


# --- url_words


def words_rule(folder: Path, banned=(), soft=(), substrings=(), **settings) -> UrlWords:
    lists = {
        name: (written(folder / f"{name}.txt", "\n".join(entries)),)
        for name, entries in (("banned", banned), ("soft", soft), ("substrings", substrings))
        if entries
    }
    return UrlWords(**lists, **settings)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://a.com/casino/x", "banned_url_word"),
        ("https://CASINO.com", "banned_url_word"),
        ("https://a.com/casinos", None),
        ("https://a.com/my-casino_2", "banned_url_word"),
        ("https://a.com/mycasino2", None),
        ("https://a.com/free", None),
        ("https://a.com/free/free", None),
        ("https://a.com/free-chat", "soft_url_words"),
        ("https://fr-ee.com/hot.deal", "banned_url_substring"),
        ("https://a.com/?q=HOT%20DEAL", None),  # %20 leaves the digits 20
        ("https://a.com/xhot/dealx", "banned_url_substring"),
        ("", None),
        (None, None),
    ],
)
def test_words_and_substrings_of_a_url_remove_it(tmp_path, url, reason):
    rule = words_rule(tmp_path, ["casino"], ["# soft", "free", "Chat", "cam"], ["hot-deal"])
    assert removed(rule, documents(["a", "b"], url=pa.array([url, "https://fine.net/"], pa.string()))) == [reason, None]


PART = st.text("aB1", min_size=1, max_size=3)


@settings(max_examples=100)
@given(
    st.lists(PART, max_size=3),
    st.lists(PART, max_size=3),
    st.lists(PART, max_size=3),
    st.lists(st.text("aB1-/.é", max_size=12), max_size=6),
    st.integers(0, 2),
)
def test_url_words_agree_with_their_definition(tmp_path_factory, banned, soft, substrings, urls, most):
    """The definition of datatrove's filter, with lower case everywhere."""
    if not (banned or soft or substrings):
        return
    lowered = [{entry.lower() for entry in entries} for entries in (banned, soft, substrings)]

    def reason(url: str) -> str | None:
        inside = set("".join(one.lower() if one.isascii() and one.isalnum() else " " for one in url).split())
        if inside & lowered[0]:
            return "banned_url_word"
        if len(inside & lowered[1]) > most:
            return "soft_url_words"
        squeezed = "".join(one.lower() for one in url if one.isascii() and one.isalnum())
        return "banned_url_substring" if any(one in squeezed for one in lowered[2]) else None

    rule = words_rule(tmp_path_factory.mktemp("lists"), banned, soft, substrings, max_soft=most)
    assert removed(rule, documents(urls, url=pa.array(urls, pa.string()))) == [reason(url) for url in urls]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# only\n", "has no entry"),
        (b"caf\xe9", "is not UTF-8"),
        ("fine\n毒品\n".encode(), "line 2: '毒品' has no ASCII letter"),
        ("\u212a\n".encode(), "line 1: .* has no ASCII letter"),  # the Kelvin sign, in lower case a plain k
    ],
)
def test_a_list_of_words_that_no_url_can_have_is_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        UrlWords(banned=(str(tmp_path / "list.txt"),)).measure(documents(["a"], url=["http://x.com"]))


def test_url_words_need_a_list_and_strings(tmp_path):
    with pytest.raises(ValidationError, match="no list is given"):
        TypeAdapter(UrlWords).validate_python({})
    with pytest.raises(ConfigError, match=r"url_words\.column: 'size' holds int64"):
        words_rule(tmp_path, ["a"], column="size").measure(documents(["a"], size=[1]))
    assert removed(words_rule(tmp_path, ["a"]), documents(["a"])) == [None]


# --- bad_words

LIST = "# words\ndarn\nholy cow\nÄrger\ns&m\n毒品\n🖕\nยาเสพติด\nbad\nbad dog"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a fine text", 0),
        ("darn", 1),
        ("Darn! DARN? (darn)", 3),
        ("darned undarn darn2 darñ", 0),
        ("darn_it darn-it darn's", 3),
        ("darn darn darn", 3),
        ("holy cow, Holy\n  Cow and HOLY\u00a0COW", 3),
        ("holy  smoke, unholy cow, holy cows", 0),
        ("ärger ÄRGER verärgert", 2),
        ("they like S&M here", 1),
        ("tis&m s&me", 0),
        ("他买毒品了毒品", 2),
        ("これはdarnです", 1),
        ("🖕🖕 no🖕way", 3),
        ("เขาขายยาเสพติดทุกวัน", 1),
        ("bad dog bad cat bad dogs", 3),
        ("holy", 0),
        ("holy cow", 1),
        ("holy co", 0),
    ],
)
def test_bad_words_are_counted_at_the_edges_of_words(tmp_path, text, count):
    rule = BadWords(paths={"en": written(tmp_path / "list.txt", LIST)})
    assert rule.measure(documents([text, "x"]))["bad_words"].tolist() == [count, 0]


def test_one_bad_word_removes_a_document_unless_more_are_allowed(tmp_path):
    path = written(tmp_path / "list.txt", LIST)
    texts = documents(["fine", "darn", "darn, darn", ""])
    assert removed(BadWords(paths={"en": path}), texts) == [None, "bad_words", "bad_words", None]
    assert removed(BadWords(paths={"en": path}, max_count=1), texts) == [None, None, "bad_words", None]


def test_a_document_is_measured_with_the_list_of_its_language(tmp_path):
    english, german = written(tmp_path / "en.txt", "gift"), written(tmp_path / "de.txt", "mist")
    rule = BadWords(paths={"en": english, "de": german})
    texts = ["gift mist mist"] * 4
    by_language = documents(texts, language=pa.array(["en", "de", "fr", None]).dictionary_encode())
    assert rule.measure(by_language)["bad_words"].tolist() == [1, 2, 0, 0]
    assert rule.measure(documents(texts))["bad_words"].tolist() == [3, 3, 3, 3]
    assert rule.fingerprint_files() == (german, english)


def test_a_changed_list_is_read_again_and_a_missing_one_is_named(tmp_path):
    words, domains = tmp_path / "words.txt", tmp_path / "domains.txt"
    bad, urls = BadWords(paths={"en": str(words)}), UrlBlocklist(paths=(str(domains),))
    for word, counted in (("darn", 2), ("x", 1), ("darn", 2)):
        words.write_text(word)
        assert bad.measure(documents(["darn x darn"]))["bad_words"].tolist() == [counted]
    for domain, blocked in (("a.org", 1), ("b.orgs", 0)):
        domains.write_text(domain)
        assert urls.measure(documents(["text"], url=["http://a.org/"]))["url_blocked"].tolist() == [blocked]
    words.unlink()
    with pytest.raises(StorageError, match=f"bad_words.paths: {words}: no such file"):
        bad.measure(documents(["darn"]))


def test_two_languages_may_share_a_list(tmp_path):
    path = written(tmp_path / "list.txt", "mist")
    rule = BadWords(paths={"de": path, "als": path})
    assert rule.measure(documents(["mist", "mist"], language=["de", "als"]))["bad_words"].tolist() == [1, 1]


def test_list_entries_are_normalised_as_documents_are(tmp_path):
    decomposed = unicodedata.normalize("NFD", "  Ärger   MACHEN \r\n")
    rule = BadWords(paths={"de": written(tmp_path / "list.txt", "\ufeff" + decomposed)})
    assert rule.measure(documents(["Ärger machen"]))["bad_words"].tolist() == [1]


def joins(character: str) -> bool:
    return bool(tables()[0][ord(character)] & (WORD | UNSPACED) == WORD)


def counted(text: str, entries: list[str]) -> int:
    """The definition, written out: from the left, the longest entry between two edges; then on after it."""
    count = at = 0
    while at < len(text):
        ends = [
            at + len(entry)
            for entry in entries
            if text.startswith(entry, at)
            and not (at and joins(text[at - 1]) and joins(text[at]))
            and not (at + len(entry) < len(text) and joins(text[at + len(entry) - 1]) and joins(text[at + len(entry)]))
        ]
        count += bool(ends)
        at = max(ends, default=at + 1)
    return count


ENTRY = st.text("ab毒-", min_size=1, max_size=3)


@settings(max_examples=100)
@given(st.lists(ENTRY, min_size=1, max_size=5), st.lists(st.text("ab毒- é", max_size=20), min_size=1, max_size=5))
def test_bad_words_agree_with_their_definition_whatever_the_table(tmp_path_factory, entries, texts):
    file = written(tmp_path_factory.mktemp("lists") / "list.txt", "\n".join(entries))
    rule = BadWords(paths={"en": file})
    single_spaced = [" ".join(text.split()) for text in texts]
    counts = rule.measure(documents(single_spaced))["bad_words"].tolist()
    assert counts == [counted(text, entries) for text in single_spaced]
    assert [rule.measure(documents([text]))["bad_words"][0] for text in single_spaced] == counts


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n# only\n", "has no entry"), (b"sch\xf6n", "is not UTF-8 text .*Save it as UTF-8")]
)
def test_a_word_list_without_entries_or_in_another_encoding_is_refused(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        BadWords(paths={"en": str(path)}).measure(documents(["a"]))


# --- quality_classifier


def lid176_as_quality(**changes) -> QualityClassifier:
    return replace(
        QualityClassifier(model=str(fasttext_classifier.built_in()), label="en", min_score=0.6),
        **changes,
    )


TEXTS = ["This is plainly a good English text about nothing.", "Das ist ein deutscher Satz.", ""]


@pytest.mark.parametrize("label", ["en", "__label__en"])
def test_a_low_probability_of_the_positive_label_removes_a_document(label):
    rule = lid176_as_quality(label=label)
    scores = rule.measure(documents(TEXTS))["quality_score"]
    assert scores.dtype == np.float32
    assert scores[0] > 0.9
    assert scores[1] < 0.1
    assert removed(rule, documents(TEXTS)) == [None, "low_quality_score", "low_quality_score"]
    assert removed(lid176_as_quality(min_score=0.0), documents(TEXTS)) == [None, None, None]


def test_the_score_equals_the_one_of_the_label_even_when_another_is_more_probable():
    """Both are fastText's own probabilities."""
    german = lid176_as_quality(label="de").measure(documents(TEXTS[1:2]))["quality_score"][0]
    english = lid176_as_quality(label="en").measure(documents(TEXTS[1:2]))["quality_score"][0]
    assert german > 0.9
    assert 0 <= english <= 1 - german + 1e-3


def test_a_long_text_is_scored_by_an_excerpt():
    text = "An English sentence here. " * 50 + "Und hier ein deutscher Satz. " * 500
    short, whole = lid176_as_quality(max_chars=200), lid176_as_quality(max_chars=100_000)
    assert short.measure(documents([text]))["quality_score"][0] > whole.measure(documents([text]))["quality_score"][0]


def test_a_label_the_model_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"quality_classifier\.label: 'hq' is not a label of lid\.176\.ftz"):
        lid176_as_quality(label="hq").measure(documents(TEXTS))


# --- all three


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        (UrlBlocklist, {"paths": []}),
        (UrlBlocklist, {}),
        (BadWords, {"paths": {}}),
        (BadWords, {"paths": {"en": "x"}, "max_count": -1}),
        (QualityClassifier, {"model": "m.bin"}),
        (QualityClassifier, {"model": "m.bin", "label": "hq", "min_score": 2}),
        (QualityClassifier, {"model": "m.bin", "label": "hq", "min_scores": 0.2}),
    ],
)
def test_settings_that_cannot_work_are_refused(rule, wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(rule).validate_python(wrong)


@pytest.mark.parametrize(
    "rule",
    [
        UrlBlocklist(paths=("absent.txt",)),
        BadWords(paths={"en": "absent.txt"}),
        QualityClassifier(model="absent.txt", label="hq"),
    ],
)
def test_a_missing_file_is_named(tmp_path, monkeypatch, rule):
    monkeypatch.chdir(tmp_path)
    assert rule.fingerprint_files() == ("absent.txt",)
    with pytest.raises(StorageError, match=r"absent\.txt"):
        rule.measure(documents(["a"], url=["http://x.com"]))
