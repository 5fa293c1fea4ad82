"""Cleaning of text fields: terms in the case of the text, and personal data that is the same or not."""

import re

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.clean import Clean, Cleaner, load_terms


def cleaned(texts: list[list[str]], key: bytes = b"", **settings):
    clean = Clean(**settings)
    return Cleaner(clean, key, load_terms(Store(), clean))(texts)[0]


def test_terms_are_replaced_as_whole_words_in_the_case_of_the_text():
    terms = {"log in": "sign in", "PC": "computer", "pc card": "card"}
    (found,) = cleaned([["Log in to the PC. LOG IN! A pc card; pcs, log info, blog in"]], terminology=terms)
    assert found == ["Sign in to the COMPUTER. SIGN IN! A card; pcs, log info, blog in"]


def test_a_term_is_plain_text_and_may_be_taken_out():
    terms = {"a.b": "x", "e": "electric", "well,": "", "C++": "C"}
    (found,) = cleaned([["a.b is not acb. E is e. Well, so it is in C++ and c++."]], terminology=terms)
    assert found == ["x is not acb. Electric is electric.  so it is in C and C."]


def test_spaces_and_unicode_get_one_form():
    (found,) = cleaned([["Itâ€™s   fine\r\nso"]])
    assert found == ["It\u2019s   fine\nso"]
    assert cleaned([["a \u2028 b"]], normalize=False) == [["a \u2028 b"]]


def test_quotation_marks_are_straight_if_asked_for_before_terms_are_looked_for():
    terms = {"can't": "cannot"}
    given = [["I can\u2019t: \u201cno\u201d", "`can\u2019t`"], ["Itâ€™s"]]
    assert cleaned(given, quotes="straight", terminology=terms) == [['I cannot: "no"', "`can\u2019t`"], ["It's"]]
    assert cleaned(given, terminology=terms)[0] == given[0]


MAILS = [["Write to ann@example.com or BOB@example.com", "ann@example.com answers"], ["ann@example.com again"]]


def test_without_pseudonyms_all_findings_look_the_same():
    found, counts = Cleaner(Clean(redact=("email",)))(MAILS)
    assert counts == [3, 1]
    assert found[0][1].split()[0] == found[1][0].split()[0]
    assert "example" not in str(found)


def test_a_record_numbers_its_own_findings():
    found = cleaned(MAILS, redact=("email",), pseudonyms="per_record")
    assert found == [["Write to <EMAIL_1> or <EMAIL_2>", "<EMAIL_1> answers"], ["<EMAIL_1> again"]]


def test_numbers_are_of_a_record_and_of_a_kind_and_spellings_of_a_value_have_one():
    texts = [
        ["bob@example.com or +1 415 555 2671", "ann@example.com, BOB@example.com, +1-415-555-2671 and +1 415 555 2672"],
        ["nobody", "ann@example.com"],
        ["nobody"],
    ]
    found, counts = Cleaner(Clean(redact=("email", "phone"), pseudonyms="per_record"))(texts)
    assert found == [
        ["<EMAIL_1> or <PHONE_1>", "<EMAIL_2>, <EMAIL_1>, <PHONE_1> and <PHONE_2>"],
        ["nobody", "<EMAIL_1>"],
        ["nobody"],
    ]
    assert counts == [6, 1, 0]


def test_one_value_has_one_name_in_the_whole_corpus_which_another_key_changes():
    settings = {"redact": ("email", "phone"), "pseudonyms": "per_corpus", "pseudonym_key": "KEY"}
    found = cleaned([*MAILS, ["Ann@Example.com"]], b"secret", **settings)
    names = [re.findall(r"<EMAIL_(\w{12})>", text) for record in found for text in record]
    assert names[0][0] == names[1][0] == names[2][0] == names[3][0] != names[0][1]
    other = cleaned(MAILS, b"other", **settings)
    assert names[0][0] not in str(other)


@pytest.mark.parametrize(
    "settings",
    [
        {"pseudonyms": "per_corpus", "redact": ["email"]},
        {"pseudonym_key": "KEY"},
        {"pseudonyms": "per_record"},
        {"terminology": {"": "x"}},
        {"terminology": {"PC": "x", "pc": "y"}},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError):
        Clean(**settings)


def test_texts_of_many_records_stay_apart():
    texts = [["", "a"], [], ["b", "", "c"]]
    assert cleaned(texts) == texts


def test_terms_come_from_a_file(tmp_path):
    path = tmp_path / "terms.yaml"
    path.write_text("e-mail: email\nlog in: sign in\n")
    assert cleaned([["Log in by E-mail"]], terminology=str(path)) == [["Sign in by Email"]]
    for content in ("- a\n", "a: 1\n", "{", '"": x\n', "a: b\nA: c\n"):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"clean\.terminology: .*terms\.yaml: .*Correct the file\."):
            load_terms(Store(), Clean(terminology=str(path)))


MAIL = """<p>Yes &amp; no.</p>

This message is confidential.

Kind regards
Ann

bob@example.com wrote:
> Well?""".replace("\n", "\r\n")


def test_parts_of_mails_and_html_are_taken_out_if_asked_for():
    assert cleaned([[MAIL]], html=True, email=("quotes", "signatures", "disclaimers")) == [["Yes & no."]]
    assert "Yes & no." in cleaned([[MAIL]], html=True)[0][0] and "Ann" in cleaned([[MAIL]], html=True)[0][0]
    assert "<p>" in cleaned([[MAIL]])[0][0] and "> Well?" in cleaned([[MAIL]], email=("signatures",))[0][0]


def test_mails_with_the_line_ends_of_old_systems_are_cleaned_without_html_too():
    for end in ("\r\n", "\r"):
        mail = f"Yes.{end}{end}bob@example.com wrote:{end}> Well?"
        assert cleaned([[mail]], email=("quotes",), normalize=False) == [["Yes."]]
