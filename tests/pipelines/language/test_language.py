"""Language identification: the excerpt, its label and score, the verdicts, the models."""

import re
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language import identification as language
from raymill.pipelines.language.identification import LanguageId, excerpts, identify, language_verdict, load
from raymill.pipelines.text.texts import Texts
from tests.support.fasttext_files import Kind, write_model

BUILT_IN = fasttext_classifier.built_in()


@pytest.fixture(scope="module")
def lid176() -> fasttext_classifier.Classifier:
    return fasttext_classifier.load(Store(), None)


def strings(texts: Texts) -> list[str]:
    return [texts[index] for index in range(len(texts))]


def one_line(text: str) -> str:
    """A text with a space for each control character, line and paragraph separator, as in an excerpt."""
    return "".join(" " if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029" else c for c in text)


# Words short enough never to be cut, from scripts of 1 to 4 bytes a character, with every kind of space between them.
WORDS = st.text(st.sampled_from("abcZ09-éßжяאבक्षि한글𐐀😀"), min_size=1, max_size=5)
SPACES = st.sampled_from([" ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "  "])
PROSE = st.lists(st.tuples(WORDS, SPACES), max_size=60).map(lambda pairs: "".join(w + s for w, s in pairs))
ANYTHING = st.text(max_size=300)


# --- excerpts


def test_a_document_that_fits_is_taken_whole_on_one_line():
    text = "first line\nsecond\tline\x85third\u2028last 汉字"
    assert strings(excerpts(Texts.from_strings([text]), len(text) + 20)) == ["first line second line third last 汉字"]


def test_a_document_of_exactly_the_limit_is_whole_and_one_more_character_is_cut():
    whole, longer = "é" * 40, "é" * 41 + " "
    taken = strings(excerpts(Texts.from_strings([whole, longer]), 40))
    assert taken[0] == whole
    assert len(taken[1]) < 40
    assert set(taken[1]) == {"é", " "}


def test_a_long_document_gives_its_start_its_thirds_and_its_end():
    words = [f"w{number:03}" for number in range(300)]
    taken = strings(excerpts(Texts.from_strings([" ".join(words)]), 83))[0].split()
    assert set(taken) <= set(words)
    assert taken[0] == "w000"
    assert taken[-1] == "w299"
    assert [any(low <= int(word[1:]) < low + 8 for word in taken) for low in (100, 200)] == [True, True]


def test_scripts_without_spaces_are_cut_between_characters():
    text = "".join(chr(0x4E00 + number) for number in range(400))
    assert strings(excerpts(Texts.from_strings([text]), 43)) == [
        " ".join([text[:10], text[133:143], text[266:276], text[390:]])
    ]


@pytest.mark.parametrize("documents", [[], [""], ["", "", ""]])
def test_no_text_gives_no_excerpt(documents):
    assert strings(excerpts(Texts.from_strings(documents), 100)) == documents


@settings(deadline=None)  # the first example may compile
@given(st.lists(ANYTHING, max_size=5), st.integers(20, 120))
@example(["😀" * 21, "a" * 20 + "😀" * 15, "😀" * 15 + "a" * 20], 20)
def test_an_excerpt_is_valid_bounded_and_made_of_the_documents_characters(documents, max_chars):
    taken = strings(excerpts(Texts.from_strings(documents), max_chars))  # decoding would raise on broken UTF-8
    for document, excerpt in zip(documents, taken, strict=True):
        assert len(excerpt) <= max_chars
        assert len(document) > max_chars or excerpt == one_line(document)
        assert set(excerpt) <= {*one_line(document), " "}


@settings(deadline=None)  # the first example may compile
@given(st.lists(PROSE, max_size=4), st.integers(40, 200))
def test_an_excerpt_holds_only_whole_words_of_the_document_in_their_order(documents, max_chars):
    for document, excerpt in zip(documents, strings(excerpts(Texts.from_strings(documents), max_chars)), strict=True):
        words = iter(one_line(document).split())
        assert all(word in words for word in excerpt.split())  # `in` consumes: a subsequence


@settings(deadline=None)  # the first example may compile
@given(st.lists(st.one_of(ANYTHING, PROSE), max_size=6), st.integers(0, 6), st.integers(20, 60))
def test_excerpts_do_not_depend_on_how_documents_are_cut_into_tables(documents, at, max_chars):
    column = pa.array(documents, pa.large_string())
    parts = [strings(excerpts(Texts.from_arrow(part), max_chars)) for part in (column[:at], column[at:])]
    assert parts[0] + parts[1] == strings(excerpts(Texts.from_arrow(column), max_chars))


def slow_excerpt(text: str, max_chars: int) -> str:
    """The excerpt by its definition: four pieces, cut at the nearest boundaries of words inside of their places."""
    if len(text) <= max_chars:
        return one_line(text)

    def is_boundary(start: int, at: int) -> bool:
        return at in (start, len(text)) or any(c.isspace() or c in "汉字ไท" for c in text[at - 1 : at + 1])

    most, size, end, found = (max_chars - 3) // 4, len(text.encode()), 0, []
    for piece in range(4):
        third = len(text.encode()[: size // 3 * piece].decode(errors="ignore"))
        start = max(len(text) - most if piece == 3 else third, end)
        near = range(start, min(start + min(most, 64), len(text)))
        start = next((at for at in near if is_boundary(0, at)), start)
        end = min(start + most, len(text))
        near = range(end, max(end - min(most, 64), start), -1)
        end = next((at for at in near if is_boundary(start, at)), end)
        found.append(one_line(text[start:end]))
    return " ".join(found)


LETTERS = st.sampled_from(["a", "b", "é", "😀", "汉", "ไ", "ab cd ", " ", "\n", "x" * 20, "abcdefg " * 8])
LONG = st.lists(LETTERS | st.sampled_from(["a", "é"]), max_size=120).map("".join)


@settings(max_examples=100)
@given(LONG, st.integers(20, 400))
@example("a" * 1000 + " " + "b" * 1000, 400)
@example("ab " * 22 + "c" * 63 + " " + "d" * 64 + " " + "e" * 65 + " fg" * 100, 300)
def test_an_excerpt_equals_the_one_of_its_definition(text, max_chars):
    assert strings(excerpts(Texts.from_strings([text]), max_chars)) == [slow_excerpt(text, max_chars)]


def test_nothing_between_the_pieces_of_a_long_document_is_read():
    text = Texts.from_strings(["word " * 3000])
    expected = strings(excerpts(text, 200))
    spoiled = text.data.copy()
    for third in range(3):
        spoiled[third * 5000 + 1000 : third * 5000 + 4000] = 0xFF
    assert strings(excerpts(Texts(spoiled, text.offsets), 200)) == expected


# --- identify

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "zh": "这个城市有很多人,我们在这里工作和学习,孩子们喜欢去公园玩。",
}


def test_one_sentence_is_enough_in_every_script(lid176):
    languages, scores = identify(Texts.from_strings(list(SENTENCES.values())), lid176, 1000)
    assert languages.to_pylist() == list(SENTENCES)
    assert scores.dtype == np.float32
    assert (scores > 0.65).all()
    assert (scores <= 1).all()


def test_a_long_document_is_identified_by_all_four_positions(lid176):
    text = SENTENCES["en"] + "\n" + (SENTENCES["de"] + "\n") * 200
    languages, _ = identify(Texts.from_strings([text]), lid176, 1000)
    assert languages.to_pylist() == ["de"]


@pytest.mark.parametrize("text", ["", " \n ", "12,345 + 67 = ?", "-----\n|||||", "😀😀😀"])
def test_a_text_without_letters_is_undetermined(lid176, text):
    languages, scores = identify(Texts.from_strings([SENTENCES["fr"], text]), lid176, 1000)
    assert languages.to_pylist() == ["fr", "und"]
    assert scores[1] == 0


def test_no_documents_have_no_languages(lid176):
    languages, scores = identify(Texts.from_strings([]), lid176, 1000)
    assert (languages.to_pylist(), languages.type, scores.tolist()) == ([], pa.string(), [])


@settings(max_examples=30)
@given(st.lists(st.one_of(ANYTHING, st.sampled_from(list(SENTENCES.values()))), max_size=6), st.integers(0, 6))
def test_languages_do_not_depend_on_how_documents_are_cut_into_tables(documents, at):
    classifier = fasttext_classifier.load(Store(), None)
    whole = identify(Texts.from_strings(documents), classifier, 100)
    parts = [identify(Texts.from_strings(part), classifier, 100) for part in (documents[:at], documents[at:])]
    assert parts[0][0].to_pylist() + parts[1][0].to_pylist() == whole[0].to_pylist()
    assert [*parts[0][1], *parts[1][1]] == [*whole[1]]


# Languages of the Declaration with a label of lid.176: ISO 639-3, as in the data, and that label.
LARGE = """
    eng en  deu de  fra fr  spa es  por pt  ita it  nld nl  swe sv  dan da  fin fi  pol pl  ces cs  slk sk
    hun hu  ron ro  bul bg  rus ru  ukr uk  ell el  tur tr  heb he  arb ar  pes fa  hin hi  ben bn  tam ta  kat ka
    hye hy  tha th  vie vi  jpn ja  kor ko  cmn zh  cat ca  est et  lit lt  ind id  isl is  eus eu
    glg gl  urd ur  epo eo
"""
SMALL = """
    srp sr  hrv hr  bos bs  slv sl  nob no  nno nn  mlt mt  cym cy  gle ga  bel be  kaz kk  uzn uz  azj az
    mkd mk  als sq  mar mr  guj gu  pan pa  kan kn  mal ml  khm km  mya my  lao lo  swh sw  afr af  lat la  tgl tl
    bod bo  amh am
"""


def label_of_code(table: str) -> dict[str, str]:
    return dict(re.findall(r"(\w{3}) (\w+)", table))


def test_the_declaration_of_human_rights_is_recognised(lid176, shared_data):
    large, small = label_of_code(LARGE), label_of_code(SMALL)
    table = pq.read_table(shared_data / "udhr.parquet")
    codes = [name.split("_")[0] for name in table["id"].to_pylist()]
    languages, scores = identify(Texts.from_arrow(table["text"]), lid176, 1000)
    found = list(zip(codes, languages.to_pylist(), scores, strict=True))

    assert set(large) <= set(codes)
    assert [row for row in found if row[0] in large and (row[1] != large[row[0]] or row[2] < 0.65)] == []
    wrong = [(code, label) for code, label, _ in found if code in small and label != small[code]]
    # Bosnian resembles Serbian and Croatian; the others are in scripts that were not in the training data of lid.176.
    assert {code for code, _ in wrong} == {"bos", "uzn", "azj", "tgl"}
    known = sum(code in large or code in small for code in codes)
    print(f"lid.176 agrees with {known - len(wrong)} of {known} translations of the Declaration")


# --- the verdict


def verdict(languages: list[str | None], scores: list[float], **settings) -> list[tuple]:
    result = language_verdict(pa.array(languages), np.array(scores, np.float32), LanguageId(**settings))
    reason, value, threshold = result
    assert (value.dtype, threshold.dtype) == (np.float64, np.float64)
    return [*zip(reason.to_pylist(), value.round(6), threshold, strict=True)]


def test_other_languages_and_low_scores_have_each_their_reason():
    assert verdict(["en", "en", "de", "de"], [0.9, 0.4, 0.9, 0.4], keep=("en",)) == [
        (None, 0.9, 0.65),
        ("language_low_score", 0.4, 0.65),
        ("language_not_kept", 0.9, 0.65),
        ("language_not_kept", 0.4, 0.65),
    ]


def test_a_language_can_have_a_threshold_of_its_own():
    assert verdict(["en", "yo", "yo"], [0.6, 0.6, 0.2], keep=("en", "yo"), min_scores={"yo": 0.3}) == [
        ("language_low_score", 0.6, 0.65),
        (None, 0.6, 0.3),
        ("language_low_score", 0.2, 0.3),
    ]


def test_without_a_keep_list_any_sure_language_stays():
    reasons = [reason for reason, _, _ in verdict(["en", "xx", "und", None], [0.9, 0.9, 0, 0])]
    assert reasons == [None, None, "language_low_score", "language_low_score"]


def test_undetermined_documents_stay_when_asked_for():
    reasons = [reason for reason, _, _ in verdict(["und", None, "de"], [0, 0, 1], keep=("und",), min_scores={"und": 0})]
    assert reasons == [None, None, "language_not_kept"]


def test_a_score_at_the_threshold_stays():
    """0.65 as float32 is less than 0.65 as float64."""
    assert verdict(["en"], [0.65], keep=("en",))[0][0] is None


def test_a_verdict_takes_dictionary_and_chunked_columns():
    languages = pa.chunked_array([pa.array(["en"]), pa.array(["de"])]).dictionary_encode()
    reason, _, _ = language_verdict(languages, np.ones(2, np.float32), LanguageId(keep=("en",)))
    assert reason.to_pylist() == [None, "language_not_kept"]


def test_every_reason_is_declared():
    given_reasons = {reason for reason, _, _ in verdict(["en", "de"], [0, 1], keep=("en",))}
    assert given_reasons == set(language.REASONS)


# --- settings and models


@pytest.mark.parametrize("wrong", [{"keeps": ["en"]}, {"min_score": 1.5}, {"min_scores": {"en": -1}}, {"max_chars": 5}])
def test_settings_out_of_range_or_unknown_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(LanguageId).validate_python(wrong)


def test_settings_come_from_plain_yaml_values():
    made = TypeAdapter(LanguageId).validate_python({"keep": ["en", "de"], "min_scores": {"de": 0.5}})
    assert made == LanguageId(keep=("en", "de"), min_scores={"de": 0.5})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep": ("en", "eng")}, r"language\.keep: 'eng' is not a label of lid\.176\.ftz, which has 176: .*mean en"),
        ({"keep": ("eng_Latn",)}, r"Did you mean .*en"),
        ({"keep": ("__label__de",)}, r"Did you mean de\b"),
        ({"keep": ("eng",)}, r"'eng' is not a label .* Did you mean en\?"),
        ({"keep": ("deu",)}, r"Did you mean de\?"),
        ({"keep": ("ger",)}, r"Did you mean de\?"),
        ({"keep": ("cmn",)}, r"Did you mean zh\?"),
        ({"min_scores": {"spa": 0.5}}, r"language\.min_scores: 'spa' .* Did you mean es\?"),
        ({"keep": ("EN",)}, r"Did you mean en\?"),
        ({"keep": ("en-GB",)}, r"Did you mean en\?"),
        ({"min_scores": {"klingon": 0.5}}, r"language\.min_scores: 'klingon' is not a label"),
    ],
)
def test_a_language_without_a_label_is_refused_with_near_names(wrong, message):
    with pytest.raises(ConfigError, match=message):
        load(Store(), LanguageId(**wrong))
    load(Store(), LanguageId(keep=("en", "und"), min_scores={"de": 0.3}))


def test_the_labels_are_read_from_the_file_in_the_models_order(lid176):
    assert len(lid176.labels) == 176
    assert lid176.labels[:5] == ("en", "ru", "de", "fr", "it")
    everything = Texts.from_strings(["Hello there, my friend"])
    total = sum(float(lid176.score(everything, label)[0]) for label in lid176.labels)
    assert total == pytest.approx(1, abs=2e-3)  # fastText rounds each probability up by 1e-5


def test_a_model_is_loaded_once_and_again_when_its_file_changed(tmp_path):
    copy = tmp_path / "model.ftz"
    shutil.copy(BUILT_IN, copy)
    first = fasttext_classifier.load(Store(), str(copy))
    assert fasttext_classifier.load(Store(), str(copy)) is first
    assert fasttext_classifier.fingerprint(Store(), str(copy)) == fasttext_classifier.fingerprint(Store(), None)
    with copy.open("ab") as file:
        file.write(b"more")
    assert fasttext_classifier.load(Store(), str(copy)) is not first
    assert fasttext_classifier.fingerprint(Store(), str(copy)) != fasttext_classifier.fingerprint(Store(), None)


@pytest.mark.parametrize("share", [0, 0.000_005, 0.0001, 0.01, 0.1, 0.5, 0.99, 0.999_999])
def test_a_model_cut_short_is_refused(tmp_path, share):
    whole = BUILT_IN.read_bytes()
    part = tmp_path / "part.ftz"
    part.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StorageError, match=r"part\.ftz: .*is shorter than its header requires"):
        fasttext_classifier.load(Store(), str(part))


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    text, vectors = tmp_path / "notes.txt", tmp_path / "vectors.bin"
    text.write_text("These are my notes. " * 10)
    header = bytearray(BUILT_IN.read_bytes())
    header[36:40] = struct.pack("<i", 2)  # args.model: 1 cbow, 2 skip-gram, 3 supervised
    vectors.write_bytes(header)
    with pytest.raises(ConfigError, match=r"notes\.txt: this is not a fastText model"):
        fasttext_classifier.load(Store(), str(text))
    with pytest.raises(ConfigError, match=r"vectors\.bin: .*has no labels.*supervised"):
        fasttext_classifier.load(Store(), str(vectors))


def test_a_model_that_is_not_there_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"absent\.bin: no such file"):
        fasttext_classifier.load(Store(), str(tmp_path / "absent.bin"))


@pytest.mark.parametrize(("asked", "answer"), [("en", "eng_Latn"), ("eng", "eng_Latn"), ("zh", "cmn_Hani or zho_Hans")])
def test_a_code_is_answered_with_the_longer_labels_of_the_model(tmp_path, asked, answer):
    kind = Kind(labels=4, names=("deu_Latn", "eng_Latn", "cmn_Hani", "zho_Hans"))
    glot = fasttext_classifier.load(Store(), str(write_model(tmp_path / "glot.bin", kind)))
    with pytest.raises(ConfigError, match=rf"Did you mean {answer}\?"):
        glot.require(asked, "language.keep")
