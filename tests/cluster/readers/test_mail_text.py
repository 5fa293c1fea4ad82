"""Parts of e-mails: quotes, signatures and disclaimers go, and texts that look like them stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.readers.formats.mail_text import read_mail, without_disclaimers, without_quotes, without_signature

SIGNED = {
    "a delimiter": ("Yes.\n-- \nAnn", "Yes."),
    "a closing phrase": ("Yes.\n\nKind regards,\nAnn Example\nSupport, Example Ltd\n+49 228 1234", "Yes."),
    "German": ("Ja.\n\nMit freundlichen Grüßen\n\nAnn", "Ja."),
    "a telephone": ("Yes.\n\nSent from my iPhone", "Yes."),
    "both": ("Yes.\nBest regards\nAnn\n\nSent from my phone", "Yes."),
    "no name": ("Yes.\nThanks!", "Yes."),
    "eight lines": ("Yes.\nThanks\n" + "line\n" * 8, "Yes."),
    "a long line": ("Yes.\nThanks\n" + "l" * 80, "Yes."),
}

NOT_SIGNED = (
    "Yes.",
    "Thanks",  # all that it says
    "Hello,\nThank you!\nThe printer works now.",
    "Best\nThe word is a superlative.",
    "Kind regards are what we send.",
    "Thanks\n" + "a long line of a text that goes on after the closing phrase and ends without a mark " * 2,
    "Yes.\nThanks\n" + "line\n" * 9,
    "Yes.\nThanks\n" + "l" * 81,
    "Yes.\nThanks\nAnn?",
)

DISCLAIMED = (
    "This e-mail and any attachments are confidential and intended solely for the addressee.",
    "If you are not the intended recipient, please delete it.",
    "You have received this message in error? Then tell us.",
    "Please consider the environment before printing this mail.",
    "Diese E-Mail enthält vertrauliche Informationen.",
)


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature_is_removed(name):
    text, wanted = SIGNED[name]
    assert without_signature(text)[0] == wanted


@pytest.mark.parametrize("text", NOT_SIGNED)
def test_what_is_no_signature_stays(text):
    assert without_signature(text)[0] == text.strip()


@pytest.mark.parametrize("text", DISCLAIMED)
def test_a_disclaimer_is_removed_and_other_paragraphs_stay(text):
    assert without_disclaimers(f"Yes.\n \nWell.\n\n{text}\nMore of it.\n\nEnd.")[0] == "Yes.\n\nWell.\n\nEnd."
    assert without_disclaimers("Our printing costs are not confidential. Send an e-mail.")[1] == []


def test_quotes_go_and_the_signature_stays():
    assert without_quotes("Yes.\nOn Monday Ann wrote:\n> Why?\n--\nBob")[0] == "Yes.\n--\nBob"
    assert read_mail("Yes.\nOn Monday Ann wrote:\n> Why?\n--\nBob").new == "Yes."


@given(st.text("ab>: \n-Thanks,regds.", max_size=200))
def test_only_whole_lines_go(text):
    lines = {line.rstrip() for line in text.split("\n")} | {line.strip() for line in text.split("\n")}
    for without in (without_quotes, without_signature, without_disclaimers):
        assert set(without(text)[0].split("\n")) <= lines | {""}


ATTRIBUTIONS = """
On Mon, Nov 2, 2026 at 10:00 AM Ann <ann@example.org> wrote:
Am Mo., 2. Nov. 2026 um 10:00 Uhr schrieb Ann <ann@example.org>:
Le lun. 2 nov. 2026 à 10:00, Ann <ann@example.org> a écrit :
El lun, 2 nov 2026 a las 10:00, Ann (<ann@example.org>) escribió:
Il giorno lun 2 nov 2026 alle ore 10:00 Ann <ann@example.org> ha scritto:
Em seg., 2 de nov. de 2026 às 10:00, Ann <ann@example.org> escreveu:
Ann <ann@example.org> escreveu (segunda, 2/11/2026 à(s) 10:00):
Op ma 2 nov 2026 om 10:00 schreef Ann <ann@example.org>:
Den mån 2 nov. 2026 kl 10:00 skrev Ann <ann@example.org>:
man. 2. nov. 2026 kl. 10:00 skrev Ann <ann@example.org>:
ma 2. marrask. 2026 klo 10.00 Ann (ann@example.org) kirjoitti:
pon., 2 lis 2026 o 10:00 Ann <ann@example.org> napisał(a):
po 2. 11. 2026 v 10:00 odesílatel Ann <ann@example.org> napsal:
Ann <ann@example.org> ezt írta (időpont: 2026. nov. 2., H, 10:00):
În lun., 2 nov. 2026 la 10:00, Ann <ann@example.org> a scris:
пн, 2 нояб. 2026 г. в 10:00, Ann <ann@example.org>:
02.11.2026 10:00, Ann пишет:
пн, 2 лист. 2026 р. о 10:00 Ann <ann@example.org> пише:
Ann <ann@example.org>, 2 Kas 2026 Pzt, 10:00 tarihinde şunu yazdı:
Στις Δευ 2 Νοε 2026 στις 10:00 π.μ., ο/η Ann <ann@example.org> έγραψε:
2026年11月2日(月) 10:00 Ann <ann@example.org>:
Ann <ann@example.org> 于2026年11月2日周一 10:00写道：
Ann <ann@example.org> 於 2026年11月2日 週一 上午10:00寫道：
2026년 11월 2일 (월) 오전 10:00, Ann <ann@example.org>님이 작성:
Vào Th 2, 2 thg 11, 2026 vào lúc 10:00 Ann <ann@example.org> đã viết:
Pada tanggal Sen, 2 Nov 2026 pukul 10.00 Ann <ann@example.org> menulis:
ในวันที่ จ. 2 พ.ย. 2026 เวลา 10:00 Ann <ann@example.org> เขียนว่า:
في الاثنين، 2 نوفمبر 2026 في 10:00 ص تمت كتابة ما يلي بواسطة Ann <ann@example.org>:
בתאריך יום ב׳, 2 בנוב׳ 2026 ב-10:00 מאת ‎Ann‏ <ann@example.org>:‏
در تاریخ دوشنبه ۲ نوامبر ۲۰۲۶، ۱۰:۰۰ Ann <ann@example.org> نوشت:
सोम, 2 नव॰ 2026 को 10:00 पर Ann <ann@example.org> ने लिखा:
সোম, ২ নভে, ২০২৬ তারিখে ১০:০০ টায় Ann <ann@example.org> লিখেছেন:
"""

HEADERS = """
From|Sent|To|Subject
Von|Gesendet|An|Betreff
De |Envoyé |À |Objet
De|Enviado el|Para|Asunto
Da|Inviato|A|Oggetto
De|Enviada em|Para|Assunto
Van|Verzonden|Aan|Onderwerp
Från|Skickat|Till|Ämne
Fra|Sendt|Til|Emne
Lähettäjä|Lähetetty|Vastaanottaja|Aihe
Od|Wysłano|Do|Temat
Od|Odesláno|Komu|Předmět
Feladó|Küldve|Címzett|Tárgy
De la|Trimis|Către|Subiect
От|Отправлено|Кому|Тема
Від|Надіслано|Кому|Тема
Kimden|Gönderildi|Kime|Konu
Από|Στάλθηκε|Προς|Θέμα
差出人|送信日時|宛先|件名
发件人|发送时间|收件人|主题
寄件者|寄件日期|收件者|主旨
보낸 사람|보낸 날짜|받는 사람|제목
Từ|Đã gửi|Đến|Chủ đề
Dari|Dikirim|Kepada|Subjek
จาก|ส่ง|ถึง|เรื่อง
من|تاريخ الإرسال|إلى|الموضوع
מאת|נשלח|אל|נושא
از|ارسال شده|به|موضوع
प्रेषक|भेजा गया|प्रति|विषय
"""


@pytest.mark.parametrize("line", ATTRIBUTIONS.strip().split("\n"))
def test_what_announces_a_quote_is_known_in_many_languages(line):
    found = read_mail(f"Yes.\n\n{line}\n\n> Why?\n> Because.")
    assert (found.new, [kind for kind, _ in found.cut]) == ("Yes.", ["quote"])


@pytest.mark.parametrize("labels", HEADERS.strip().split("\n"))
def test_the_headers_of_outlook_are_known_in_many_languages(labels):
    values = ("Ann <ann@example.org>", "2. 11. 2026 10:00", "Bob", "x")
    headers = "\n".join(f"{label}: {value}" for label, value in zip(labels.split("|"), values, strict=True))
    for colon in (":", "：", ":*"):
        found = read_mail(f"Yes.\n{headers.replace(':', colon, 4)}\n\nWhy?", "AW: x")
        assert (found.new, found.forwarded, [kind for kind, _ in found.cut]) == ("Yes.", [], ["quote"])
    found = read_mail(f"Yes.\n{headers}\n\nWhy?", "[list] Fwd: x")
    assert (found.new, found.forwarded, [kind for kind, _ in found.cut]) == ("Yes.", ["Why?"], ["forwarded_header"])


FOOTERS = """
Python-list mailing list
Python-list@python.org
https://mail.python.org/mailman/listinfo/python-list
|
Liste de diffusion des développeurs
dev@example.org
https://example.org/mailman3/lists/dev.example.org/
|
dev mailing list -- dev@example.org

To unsubscribe send an email to dev-leave@example.org
|
To unsubscribe, e-mail: users-unsubscribe@httpd.example.org
For additional commands, e-mail: users-help@httpd.example.org
"""


@pytest.mark.parametrize("footer", [one.strip() for one in FOOTERS.split("|\n")])
@pytest.mark.parametrize("rule", ["_" * 47, "-" * 69, "#" * 72, "=" * 20])
def test_the_footer_of_a_mailing_list_is_cut_as_a_signature(footer, rule):
    text = f"Yes.\n\n> Why?\n\nBecause.\n{rule}\n{footer}\n"
    found = read_mail(text)
    assert (found.new, found.cut[-1]) == ("Yes.\n\nBecause.", ("signature", footer))
    assert without_signature(text)[0] == "Yes.\n\n> Why?\n\nBecause."
    quoted = read_mail(f"{text}\n> older")
    assert (quoted.new, [kind for kind, _ in quoted.cut]) == ("Yes.\n\nBecause.", ["quote", "signature", "quote"])


NO_FOOTERS = (
    f"One\n{'-' * 30}\nHow do I unsubscribe?",  # no address
    f"One\n{'-' * 30}\nSee https://example.org",
    f"One\n{'-' * 19}\nunsubscribe a@b.org",
    f"One\n{'-' * 30}\nunsubscribe a@b.org" + "\nmore" * 10,
)


@pytest.mark.parametrize("text", NO_FOOTERS)
def test_a_rule_above_other_text_begins_no_footer(text):
    assert read_mail(text).new == without_signature(text)[0] == text
    assert read_mail(NO_FOOTERS[3].removesuffix("\nmore")).new == "One"


@pytest.mark.parametrize("line", ["Ann said:", "Ann Lee sagte:", "Ann a dit :", "Quoting Ann <ann@example.org>:"])
def test_what_persons_write_above_a_quote_is_known_only_above_one(line):
    assert read_mail(f"Yes.\n\n{line}\n\n> Why?").new == "Yes."
    assert read_mail(f"Yes.\n\n{line}\nWhy?").new == f"Yes.\n\n{line}\nWhy?"


NO_MAIL = (
    "On Monday the minister said:\nwe are open.",
    "My pizza:\n\n> is quoted",
    "The 2 things he wrote:\n1. one",
    "I go\nFrom: Berlin\nTo: Paris\nDate: 3 May\nby train.",
    "Der Test mit 10 Geräten schreibt:\nrot",
    "She is at ann@example.org, in short:\nwrite to her",
)


@pytest.mark.parametrize("text", NO_MAIL)
def test_what_looks_like_a_quote_and_is_none_stays(text):
    assert read_mail(text, "Fwd: x").new == text.removesuffix("\n\n> is quoted")


def test_the_line_that_announces_a_quote_may_be_wrapped_twice():
    text = "Yes.\n\nOn Mon, Nov 2, 2026 at 10:00 AM\nAnn Example\n<ann@example.org> wrote:\nWhy?\n> Because."
    assert read_mail(text).new == "Yes.\n\nWhy?"


def test_a_sentence_of_two_lines_with_a_time_announces_no_quote():
    text = "At 10:00 the printer stopped,\nas Ann wrote:\nit is broken."
    assert read_mail(text).new == text
    assert read_mail(text.replace("At", "On 2 Nov 2026 at")).new == "it is broken."


HEADER = "From: Ann <ann@example.org>\nSent: 2 Nov 2026 10:00\n"


def test_addresses_on_several_lines_are_headers():
    for end in (";", ","):
        found = read_mail(
            f"{HEADER}To: Bob <bob@example.org>{end}\nEve <eve@example.org>\nSubject: x\n\nWhy?", "Fwd: x"
        )
        assert (found.forwarded, len(found.cut)) == (["Why?"], 1)


def test_a_second_sender_begins_another_mail():
    found = read_mail(f"{HEADER}Subject: x\n{HEADER.replace('Ann', 'Bob')}Subject: y\n\nWhy?", "Fwd: x")
    assert (found.forwarded, [kind for kind, _ in found.cut]) == ([], ["forwarded_header", "quote"])


def test_vs_forwards_a_mail_in_danish_and_answers_one_in_finnish():
    danish, finnish = HEADER.replace("From", "Fra"), HEADER.replace("From", "Lähettäjä")
    assert read_mail(f"{danish}\nHvorfor?", "VS: x").forwarded == ["Hvorfor?"]
    assert read_mail(f"{finnish}\nMiksi?", "VS: x").forwarded == []


@pytest.mark.parametrize("mark", ["", "> "])
def test_mails_forwarded_within_each_other_are_read_to_a_depth_of_20(mark):
    lines = ["---------- Forwarded message ---------", *HEADER.split("\n"), "Please see below.", ""]
    found = read_mail("\n".join(mark * depth + line for depth in range(1, 101) for line in lines))
    assert found.forwarded == ["Please see below."] * 20
    assert [kind for kind, _ in found.cut] == ["forwarded_header"] * 20 + ["quote"]
