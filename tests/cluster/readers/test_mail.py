"""E-mail: threads become questions and answers, whatever refers to what, and only what is new in a message counts."""

import gzip
import json
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.formats import mail as mail_reader
from raymill.cluster.readers.formats.mail import _messages, _of_charset, _parsed
from raymill.cluster.readers.formats.mail_text import read_mail
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import RecordWork
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.report.page import report_text
from raymill.pipelines.prepare.sources import RecordsInput
from tests.support.inline import prepare_inline
from tests.support.mails import ANN, BOB, mail, mbox

COLUMNS = ("subject", "prompt", "completion", "messages", "date", "thread")


def rows_of(path: Path, content: bytes, limits: Limits | None = None, **settings) -> list[dict]:
    path.write_bytes(content)
    manifest = freeze(Store(), [Input(path=str(path), columns=COLUMNS, id="thread", **settings)], 1 << 20)
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, limits or Limits())]
    return [row for table in tables for row in table.to_pylist()]


def turns(row: dict) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in json.loads(row["messages"])]


QUOTED = "Try again.\n\nOn Mon, 2 Nov 2026, Ann Lee wrote:\n> My phone is off.\n> Why?\n-- \nBob\nSupport"
HTML = (
    "<html><head><title>t</title></head><body><p>It&nbsp;works,<br>thanks!</p><blockquote>Try again.</blockquote>"
    "</body></html>"
)


def test_a_thread_is_a_question_and_its_answers(tmp_path):
    html_only = EmailMessage()
    html_only["From"], html_only["References"], html_only["Message-ID"] = ANN, "<m2@example.org>", "<m4@example.org>"
    html_only["Date"] = "Wed, 4 Nov 2026 10:00:00 +0100"
    html_only.set_content(HTML, subtype="html")
    other = mail(5, BOB, "Another question\nFrom here")
    first_two = mail(2, BOB, QUOTED, 1, html=HTML), mail(1, ANN, "My phone is off.\nWhy?")
    messages = mbox(html_only.as_bytes(), *first_two, other, mail(3, BOB, "And wait.", 1, 2))
    first, second = rows_of(tmp_path / "a.mbox", messages)
    question = "My phone is off.\nWhy?"
    assert turns(first) == [
        ("user", question), ("assistant", "Try again.\n\nAnd wait."), ("user", "It works,\nthanks!")
    ]  # fmt: skip
    assert (first["prompt"], first["completion"]) == (question, "Try again.\n\nAnd wait.")
    assert first["text"] == f"Grüße Grüße Grüße 1\n\n{question}\n\nTry again.\n\nAnd wait.\n\nIt works,\nthanks!"
    assert (first["id"], first["thread"], first["date"]) == ("<m1@example.org>",) * 2 + ("2026-11-01T09:00:00+00:00",)
    assert (second["prompt"], second["completion"]) == ("Another question\nFrom here", None)
    (as_prompt,) = rows_of(tmp_path / "a.eml", mail(1, ANN, question), text="prompt")
    assert (as_prompt["text"], as_prompt["completion"]) == (question, None)


def test_a_message_refers_to_another_by_either_header(tmp_path):
    asked = mail(1, ANN, "question")
    for name in ("In-Reply-To", "References"):
        answer = mail(2, BOB, "answer", **{name: "<m1@example.org>"})
        (row,) = rows_of(tmp_path / "a.mbox", mbox(asked, answer))
        assert turns(row) == [("user", "question"), ("assistant", "answer")], name


def test_a_sender_is_the_same_in_capitals_and_a_message_without_a_new_text_is_no_turn(tmp_path):
    messages = mail(1, ANN, "question"), mail(2, "ANN@example.org", "and more", 1), mail(3, BOB, "> question", 2)
    (row,) = rows_of(tmp_path / "a.mbox", mbox(*messages, mail(4, BOB, "answer", 3)))
    assert turns(row) == [("user", "question\n\nand more"), ("assistant", "answer")]


def test_columns_name_a_thread_and_its_text_may_be_one_of_them(tmp_path):
    (tmp_path / "a.mbox").write_bytes(mbox(mail(1, ANN, "question"), b"From: Ann <a@b>\n\nno subject\n"))

    def read(**settings) -> list[tuple]:
        given = Input(path=str(tmp_path / "a.mbox"), columns=("subject",), **settings)
        manifest = freeze(Store(), [given], 1 << 20)
        tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
        return [(row["id"], row["subject"], row["problem"]) for table in tables for row in table.to_pylist()]

    named = ("Gr\u00fc\u00dfe " * 3 + "1", None)
    assert [subject for _, subject, _ in read()] == list(named)
    assert read(id="subject")[0][0] == named[0]
    assert [id for id, _, _ in read(id="prompt")] == ["question", "no subject"]
    assert [problem for _, _, problem in read(text="completion")] == ["null_text", "null_text"]


def test_lines_that_begin_with_from_divide_an_mbox_after_a_blank_line_alone(tmp_path):
    head = b"From ann@example.org Mon Nov  2 10:00:00 2026\nFrom: Ann <a@b>\n\n"
    rows = rows_of(tmp_path / "a.mbox", head + b"Hello\nFrom here on\n\n" + head + b"Two\n")
    assert [row["prompt"] for row in rows] == ["Hello\nFrom here on", "Two"]
    (row,) = rows_of(tmp_path / "a.eml", b"From: Ann <a@b>\n\nHello\n\nFrom here on\n>From that\n")
    assert row["prompt"] == "Hello\n\nFrom here on", "an .eml is one message, whose > is a quote"


@pytest.mark.parametrize("references", [[(1,), (1,)], [(2,), (1,)], [(3,), (1,), (2,)], [(1, 2, 3)] * 3])
def test_messages_that_refer_to_each_other_in_a_circle_are_one_thread(tmp_path, references):
    messages = [mail(n, (ANN, BOB)[n % 2], f"text {n}", *answers) for n, answers in enumerate(references, 1)]
    rows = rows_of(tmp_path / "a.mbox", mbox(*messages))
    assert [[text for _, text in turns(row)] for row in rows] == [[f"text {n}" for n in range(1, len(messages) + 1)]]


@given(st.lists(st.lists(st.integers(1, 12), max_size=3), min_size=1, max_size=12))
def test_every_message_is_in_one_thread_with_those_it_refers_to(tmp_path_factory, references):
    messages = [mail(n, ANN, f"text{n}", *answers) for n, answers in enumerate(references, 1)]
    rows = rows_of(tmp_path_factory.mktemp("mail") / "a.mbox", mbox(*messages))
    threads = [[int(text[4:]) for text in row["prompt"].split()] for row in rows]
    assert sorted(n for thread in threads for n in thread) == list(range(1, len(messages) + 1))
    assert all(thread == sorted(thread) for thread in threads)
    thread_of = {n: at for at, thread in enumerate(threads) for n in thread}
    for number, answers in enumerate(references, 1):
        assert {thread_of[one] for one in answers if one in thread_of} <= {thread_of[number]}


def test_a_file_with_much_text_is_joined_in_parts(tmp_path, monkeypatch):
    messages = mbox(mail(1, ANN, "question"), mail(2, BOB, "answer", 1), mail(3, ANN, "thanks", 2))
    monkeypatch.setattr("raymill.cluster.readers.formats.mail._MAX_HELD_BYTES", 700)
    rows = rows_of(tmp_path / "a.mbox", messages)
    assert [(row["prompt"], row["completion"]) for row in rows] == [("question", "answer"), ("thanks", None)]


def test_attached_texts_and_messages_are_left_out(tmp_path):
    message = EmailMessage()
    message["From"], message["Subject"] = ANN, "=?nope?q?x?="
    message.set_content("<p>See the file.</p>", subtype="html")
    message.add_attachment("text of the file", filename="a.txt")
    message.add_attachment(EmailMessage())
    (row,) = rows_of(tmp_path / "a.eml", message.as_bytes())
    assert (row["prompt"], row["thread"], row["date"]) == ("See the file.", None, None)


NEW_TEXT = {
    "two lines before a quote": ("Yes.\nOn Mon, 2 Nov 2026 at 10:00 Ann\n<ann@example.org> wrote:\n\n> Why?", "Yes."),
    "answers between quotes": ("> One?\n\nYes.\n\n> Two?\nNo.", "Yes.\n\nNo."),
    "text before it that begins alike": ("On the whole it works.\nOn Monday Ann wrote:\n> x", "On the whole it works."),
    "German": ("Ja.\n\nAm 2. November schrieb Ann:\n> Nein", "Ja."),
    "an address": ("Yes.\nann@example.org wrote:\n> x", "Yes."),
    "no announcement": ("As the manual wrote:\npress the button", None),
    "Outlook": ("Yes.\n\n-----Original Message-----\nFrom: Ann\nWhy?", "Yes."),
    "forwarded headers": ("Yes.\n\nFrom: Ann\nSent: Monday\nTo: Bob\n\nWhy?", "Yes."),
    "a line that begins with From:": ("From: is a header.\nYes.", None),
    "a signature": ("Yes.\n--\nAnn", "Yes."),
    "a rule of dashes": ("One\n---\ntwo", None),
    "a blank line in what announces a quote": ("On Monday\n\nAnn wrote:\n> x", "On Monday"),
    "four lines before a quote": ("On Monday\nat ten\nAnn Lee\nof x wrote:", None),
    "many blank lines": ("One\n\n\n\ntwo  ", "One\n\ntwo"),
    "a forwarded header alone": ("Yes.\nFrom: Ann", None),
}


@pytest.mark.parametrize("name", NEW_TEXT)
def test_the_new_text_has_no_quotes_and_no_signature(name):
    text, wanted = NEW_TEXT[name]
    assert read_mail(text).new == (text if wanted is None else wanted)


@given(st.text("ab>: \nOnwrote-@1", max_size=300))
def test_the_new_text_has_nothing_that_the_text_has_not(text):
    rest = iter("".join(text.split()))
    assert all(letter in rest for letter in "".join(read_mail(text).new.split()))


@pytest.mark.parametrize(("most", "messages"), [(9, [b"A: defg\n", b"d:"]), (8, [None, b"d:"]), (7, [None, b"d:"])])
def test_a_message_of_exactly_the_largest_size_is_read(most, messages):
    """With its line ends, nine bytes and three."""
    found = [
        one.content if one.is_whole else None
        for one in _messages([b"From x\nA: defg\n\nFrom y\nd:\n"], most, RecordWork())
    ]
    assert found == messages


def test_a_message_that_cannot_be_read_costs_no_other(tmp_path):
    good = mail(1, ANN, "Hello"), mail(2, BOB, "Hi", 1)
    bad = (
        mail(3, ANN, "x\n" * 2500),
        b"X: no mail",
        mail(4, ANN, "> quoted"),
        b"Subject: \xff\n\nb\xe4d",
        good[0],
    )
    rows = rows_of(tmp_path / "a.mbox", mbox(*bad, *good), Limits(max_document_bytes=1000))
    found = [row["problem"] or row["text"].split("\n")[-1] for row in rows]
    assert found == ["too_large", "bad_message", "no_new_text", "bäd", "Hi"]
    assert rows[1]["where"].endswith("message 2 (ValueError)")


def plain(content_type: str, body: str, *headers: str) -> bytes:
    lines = ["From: Ann <a@b>", f"Content-Type: {content_type}", *headers, "", body]
    return "\r\n".join(lines).encode()


FLOWED = "A paragraph that \r\n goes on \r\nand ends.\r\nThe next \r\n> quoted \r\n  stuffed\r\nlast \r\n-- \r\nAnn"
PAGE = "<style>s</style><div>a<br>b<ul><li>c</li><li>d &amp;  e</li></ul></div><p>f</p>g<script>t</script>"
TWO_KINDS = "--b\r\nContent-Type: text/html\r\n\r\n<p>h\r\n--b\r\nContent-Type: text/plain\r\n\r\np\r\n--b--"
TWO_PARTS = "--b\r\n\r\nfirst\r\n--b\r\n\r\nsecond\r\n--b--"
WITH_FOOTER = f"--b\r\n\r\nfirst\r\n--b\r\n\r\n{'_' * 47}\r\nx mailing list\r\nx@example.org\r\n--b--"
BODIES = {
    "flowed": (
        plain("text/plain; format=flowed", FLOWED),
        "A paragraph that goes on and ends.\nThe next\n stuffed\nlast",
    ),
    "not flowed": (plain("text/plain", "one \r\ntwo\rthree"), "one\ntwo\nthree"),
    "a charset": (plain("text/plain; charset=koi8-r", "") + "мельница".encode("koi8-r"), "мельница"),
    "HTML before plain text": (plain("multipart/alternative; boundary=b", TWO_KINDS), "p"),
    "two parts of one kind": (plain("multipart/mixed; boundary=b", TWO_PARTS), "first\n\nsecond"),
    "the footer of a list": (plain("multipart/mixed; boundary=b", WITH_FOOTER), "first"),
    "a page": (plain("text/html", PAGE), "a\nb\nc\nd & e\nf\ng"),
    "a table": (plain("text/html", "<table><tr><td>a</td></tr><tr><td>b</td></tr></table>c"), "a\nb\nc"),
    "a Message-ID alone": (b"Message-ID: <a@b>\n\nHello", "Hello"),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_text_of_a_message_is_what_a_mail_program_shows(tmp_path, name):
    content, wanted = BODIES[name]
    (row,) = rows_of(tmp_path / "a.eml", content)
    assert row["prompt"] == wanted


@pytest.mark.parametrize(
    ("dates", "order"),
    [
        (["Mon, 2 Nov 2026 10:00:00 +0100", "Mon, 2 Nov 2026 09:30:00 -0000", "Mon, 2 Nov 2026 08:00:00 +0000"], "312"),
        (["Mon, 2 Nov 2026 10:00:00 +0100", "", "Mon, 2 Nov 2026 08:00:00 +0000"], "123"),  # one has no date
    ],
)
def test_a_thread_is_in_the_order_of_its_dates_in_any_zone(tmp_path, dates, order):
    messages = []
    for number, date in enumerate(dates, 1):
        message = EmailMessage()
        message["From"], message["Message-ID"], message["References"] = ANN, f"<{number}@x>", "<1@x>"
        if date:
            message["Date"] = date
        message.set_content(str(number))
        messages.append(message.as_bytes())
    (row,) = rows_of(tmp_path / "a.mbox", mbox(*messages))
    assert row["prompt"].split() == list(order)
    assert row["date"] == ("2026-11-02T08:00:00+00:00" if order == "312" else "2026-11-02T09:00:00+00:00")


def test_a_repeated_message_is_counted_and_what_is_cut_off_is_one_problem(tmp_path):
    whole = mbox(mail(1, ANN, "one"), mail(1, ANN, "again"), mail(2, BOB, "two"))
    path = tmp_path / "a.mbox.gz"
    path.write_bytes(gzip.compress(whole + mbox(mail(3, ANN, "x " * 99)), compresslevel=0)[:-50])
    manifest = freeze(Store(), [Input(path=str(path), columns=COLUMNS)], 1 << 20)
    counts = ReaderCounts()
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits(), counts=counts)
    rows = table.to_pylist()
    assert counts.skipped == {"message with a repeated Message-ID": 1}
    assert (rows[0]["problem"], rows[0]["where"]) == ("truncated", f"{path} after message 3")
    assert [row["prompt"] for row in rows[1:3]] == ["one", "two"]


@pytest.mark.parametrize("more", [0, 1])
def test_a_message_may_have_four_times_the_bytes_of_a_document(tmp_path, more):
    head = b"Subject: s\n\n"
    content = head + b"> " + b"x" * (4000 - len(head) - 7 + more) + b"\nend\n"
    assert len(content) == 4000 + more
    (row,) = rows_of(tmp_path / "a.eml", content, Limits(max_document_bytes=1000))
    assert (row["problem"], row["prompt"]) == (("too_large", None) if more else (None, "end"))


FILES = {
    "rubbish": (b"\x00\xff" * 50, ["bad_message"]),
    "blank lines": (b"\n\n\n", []),
    "no text": (mail(1, ANN, ""), ["no_new_text"]),
    "an empty page": (plain("text/html", " <!-- x --> "), ["no_new_text"]),
    "a quote alone": (plain("text/html", "<blockquote>x</blockquote>"), ["no_new_text"]),
    "an unknown charset": (b"From: a@b\nContent-Type: text/plain; charset=nope\n\nHallo", [None]),
    "parts in parts": (b"From: a@b\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)), ["bad_message"]),
    "cut in base64": (b"From: a@b\nContent-Transfer-Encoding: base64\n\nSGFsbG8", [None]),
    "a date that is none": (b"From: a@b\nDate: Mon, 99 Foo 99999 99:99\n\nHallo", [None]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path, name):
    content, problems = FILES[name]
    assert [row["problem"] for row in rows_of(tmp_path / "a.eml", content)] == problems


def test_threads_are_prepared_as_chats_without_settings(tmp_path, monkeypatch):
    words = ["red", "green", "blue", "small", "large", "new", "old", "loud", "quiet", "fast"]
    messages = []
    for n in range(10):
        question, answer = (
            f"How do I start the {words[n]} machine?",
            f"Press its {words[n]} button for {n + 3} seconds.",
        )
        messages += [mail(2 * n, ANN, question, day=1), mail(2 * n + 1, BOB, answer, 2 * n, day=2)]
    (tmp_path / "a.mbox").write_bytes(mbox(*messages, mail(99, ANN, "Is anybody there to answer?")))
    config = {
        "inputs": [{"path": str(tmp_path / "a.mbox"), "columns": {"subject": "subject"}}],
        "execution": {"max_bad_documents": 0.2},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(config, monkeypatch)
    found = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    assert len(found) == 10
    (unanswered,) = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert unanswered["problem"] == "wrong_order"
    assert all([one["role"] for one in row["messages"]] == ["user", "assistant"] for row in found)
    assert {row["metadata"]["subject"] for row in found} == {f"Grüße Grüße Grüße {2 * n}" for n in range(10)}


def records(path: Path, content: bytes) -> list[dict]:
    """Rows as `prepare` reads them, with what was cut as pairs."""
    path.write_bytes(content)
    given = RecordsInput(path=str(path), text="messages", columns=("prompt", "completion"))
    manifest = freeze(Store(), [given], 1 << 20)
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
    rows = [row for table in tables for row in table.to_pylist()]
    return [row | {"cut": [tuple(one) for one in json.loads(row["_cut"] or "[]")]} for row in rows]


FORWARDED = {
    "Gmail": "Can you help?\n\n---------- Forwarded message ---------\nFrom: Kim <kim@ex.com>\nDate: Sun, Mar 1, 2026\n"
    "Subject: Broken link\nTo: J <j@ex.org>\n\n\nThe link is broken.",
    "after a signature": "Can you help?\n-- \nBob\n\n-------- Weitergeleitete Nachricht --------\nBetreff: Link\n"
    "Von: Kim <kim@ex.com>\n\nThe link is broken.\n-- \nKim",
    "Apple Mail": "Can you help?\n\nBegin forwarded message:\n\n> From: Kim <kim@ex.com>\n> Date: 1 March 2026\n>\n"
    "> The link is broken.\n",
    "Outlook, by its subject": "Can you help?\n________________________________\nVon: Kim <kim@ex.com>\n"
    "Gesendet: Sonntag, 1. März 2026 10:00\nAn: Bob\nBetreff: Link\n\nThe link is broken.",
    "forwarded twice": "Can you help?\n\n---------- Forwarded message ---------\nFrom: <lee@ex.com>\nSubject: Fwd: x"
    "\n\n---------- Forwarded message ---------\nFrom: Kim <kim@ex.com>\n\nThe link is broken.\n\n> older",
}


@pytest.mark.parametrize("name", FORWARDED)
def test_a_forwarded_question_is_the_question(tmp_path, name):
    question = EmailMessage()
    question["From"], question["Message-ID"], question["Subject"] = BOB, "<m1@example.org>", "WG: Link"
    question.set_content(FORWARDED[name])
    (row,) = records(tmp_path / "a.mbox", mbox(question.as_bytes(), mail(2, ANN, "It works again.", 1)))
    assert row["prompt"] == "Can you help?\n\nThe link is broken."
    assert row["completion"] == "It works again."
    assert "forwarded_header" in [kind for kind, _ in row["cut"]]


def test_the_same_block_of_outlook_in_an_answer_is_a_quote_and_a_mail_forwarded_within_its_thread_stays_out(tmp_path):
    block = FORWARDED["Outlook, by its subject"].replace("Can you help?", "Yes.")
    asked = mail(1, ANN, "The link is broken.")
    (row,) = records(tmp_path / "a.mbox", mbox(asked, mail(2, BOB, block, 1)))
    assert (row["completion"], [kind for kind, _ in row["cut"]]) == ("Yes.", ["quote"])
    again = FORWARDED["Gmail"].replace("Can you help?", "Look at this.")
    (row,) = records(tmp_path / "a.mbox", mbox(asked, mail(2, BOB, again, 1)))
    assert (row["completion"], row["cut"][0]) == ("Look at this.", ("forwarded_again", "The link is broken."))


def test_a_mail_that_is_attached_is_forwarded_and_of_other_attachments_the_names_stay(tmp_path):
    message, attached = EmailMessage(), EmailMessage()
    attached["From"], attached["Subject"] = ANN, "Link"
    attached.set_content("The link is broken.\n-- \nAnn")
    message["From"] = BOB
    message.set_content("Can you help?")
    message.add_attachment("log", filename="log.txt")
    message.add_attachment(attached)
    (row,) = records(tmp_path / "a.eml", message.as_bytes())
    assert row["prompt"] == "Can you help?\n\nThe link is broken."
    assert row["cut"] == [("attachment", "log.txt (text/plain)"), ("signature", "Ann")]


AUTOMATIC = (
    {"Auto-Submitted": "auto-replied"}, {"Auto-Submitted": "auto-generated (x)"}, {"X-Autoreply": "yes"},
    {"Precedence": "auto_reply"}, {"Precedence": "bulk"},
)  # fmt: skip


@pytest.mark.parametrize("headers", AUTOMATIC)
def test_an_automatic_reply_is_no_turn(tmp_path, headers):
    automatic = EmailMessage()
    automatic["From"], automatic["Message-ID"], automatic["In-Reply-To"] = BOB, "<a@b>", "<m1@example.org>"
    automatic["Subject"] = "Automatic reply: Refund"
    for name, value in headers.items():
        automatic[name] = value
    automatic.set_content("We have received it.")
    asked, answered = mail(1, ANN, "A refund, please."), mail(2, BOB, "It is refunded.", 1, **{"Auto-Submitted": "no"})
    (row,) = records(tmp_path / "a.mbox", mbox(asked, automatic.as_bytes(), answered))
    assert (row["completion"], row["cut"]) == ("It is refunded.", [("automatic_reply", "We have received it.")])
    (alone,) = records(tmp_path / "a.mbox", mbox(automatic.as_bytes()))
    assert (alone["problem"], alone["_content"]) == (
        "automatic_message", "Automatic reply: Refund\n\nWe have received it."
    )  # fmt: skip


def test_a_mailing_list_is_written_by_persons(tmp_path):
    (row,) = rows_of(tmp_path / "a.mbox", mbox(mail(1, ANN, "A question.", Precedence="bulk"), mail(2, BOB, "Yes.", 1)))
    assert row["completion"] == "Yes."


def test_a_blank_plain_part_gives_way_to_html(tmp_path):
    for blank in ("\n", " \u00a0\n\u200b\n"):
        (row,) = rows_of(
            tmp_path / "a.mbox", mbox(mail(1, ANN, blank, html="<div>one<div>two</div></div><p>three</p>"))
        )
        assert row["prompt"] == "one\ntwo\nthree"


def test_a_line_of_a_text_that_begins_with_from_divides_no_mbox(tmp_path):
    text = b"We are closed.\n\nFrom next Monday\n\nFrom Ann in 2026 at 10:00, we are open."
    head = b"From ann@example.org Mon Nov  2 10:00:00 2026\n"
    escaped = b"Subject: x\n\n>From the start\n"
    rows = rows_of(tmp_path / "a.mbox", head + b"Subject: y\n\n" + text + b"\n\n" + head + escaped)
    assert [row["prompt"] for row in rows] == [text.decode(), "From the start"]
    for following in (b"no header", b"", b"a word: and text", b"\xff: x"):
        (row,) = rows_of(tmp_path / "a.mbox", head + b"Subject: y\n\none\n\n" + head + following)
        assert row["prompt"] == f"one\n\n{(head + following).decode('windows-1252').strip()}"
    for date in ("Mon Nov 02 10:00:00 +0000 2026", "Mon, 2 Nov 2026 10:00:00 +0100", "Mon Nov  2 10:00 CET 2026"):
        lines = f"From {{}} {date}\nSubject: x\n\ntext\n\n"
        file = lines.format("-") + lines.format("ann at example.org")
        assert len(rows_of(tmp_path / "a.mbox", file.encode())) == 2, date


PATCH = b"From %s Mon Sep 17 00:00:00 2001\nFrom: Ann <a@b>\nSubject: [PATCH] x\n\n" % (b"1da177e4" * 5)


def test_a_patch_of_git_within_a_mail_divides_no_mbox_and_a_series_of_patches_is_divided(tmp_path):
    for head in (b"From ann@example.org Mon Nov  2 10:00:00 2026\n", b"From ann\n"):
        mails = head + b"Subject: y\n\nTry this:\n\n" + PATCH + b"One.\n\n" + head + b"Subject: z\n\nGood.\n"
        assert [row["subject"] for row in rows_of(tmp_path / "a.mbox", mails)] == ["y", "z"]
    series = PATCH + b"One.\n---\n a.c | 1 +\n-- \n2.43.0\n\n" + PATCH + b"Two.\n"
    assert [row["subject"] for row in rows_of(tmp_path / "a.mbox", series)] == ["[PATCH] x"] * 2


def test_a_message_ends_at_its_content_length_if_one_ends_there(tmp_path):
    head = b"From ann@example.org Mon Nov  2 10:00:00 2026\n"
    body = b"A mail had:\n\n" + head + b"Subject: inner\n\nhello\n"

    def file(length: int) -> bytes:
        first = head + b"Subject: outer\nContent-Length: %d\n\n" % length + body + b"\n"
        return first + head + b"Subject: last\n\nend\n"

    subjects = [row["subject"] for row in rows_of(tmp_path / "a.mbox", file(len(body)))]
    assert subjects == ["outer", "last"]
    for wrong in (3, len(body) - 5, 10_000):
        subjects = [row["subject"] for row in rows_of(tmp_path / "a.mbox", file(wrong))]
        assert subjects == ["outer", "inner", "last"], wrong


def test_what_is_cut_out_of_mails_is_counted_with_an_example_and_kept_on_request(tmp_path, monkeypatch):
    messages = []
    for n in range(6):
        asked = f"How do I start machine number {n} of the hall?\n-- \nAnn, ann@example.org"
        said = f"Press the button number {n} for a while.\n\nOn Monday Ann wrote:\n> How do I?"
        messages += [mail(2 * n, ANN, asked, day=1), mail(2 * n + 1, BOB, said, 2 * n, day=2)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mbox").write_bytes(mbox(*messages, messages[0]))
    (tmp_path / "in" / "b.mbox").write_bytes(b"")
    config = {
        "inputs": [{"path": str(tmp_path / "in"), "id": "thread"}],
        "dedup": None,
        "clean": {"redact": ["email"], "keep_cut": True},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(config, monkeypatch)
    found = {one["kind"]: (one["pieces"], one["example"]) for one in run.report["cut"]}
    assert found == {"quote": (6, "On Monday Ann wrote:\n> How do I?"), "signature": (6, "Ann, <EMAIL>")}
    notes = " ".join(run.report["notes"])
    assert "1 of zero bytes, 1 message with a repeated Message-ID" in notes
    rows = Artifact.load(Store(), f"{run.uri}/cut").table().to_pylist()
    assert len(rows) == 12 and {row["text"] for row in rows if row["kind"] == "signature"} == {"Ann, <EMAIL>"}
    records = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    assert {row["id"] for row in rows} == {row["id"] for row in records}, "also redacted"
    assert "cut from text" in report_text(run.report)


@pytest.mark.parametrize(
    ("charset", "content", "wanted"),
    [
        ("x-mac-roman", "déjà".encode("mac_roman"), "déjà"),
        ("unknown-8bit", "déjà".encode("latin-1"), "déjà"),
        ("utf-8", "déjà".encode("latin-1"), "déjà"),
        ("us-ascii", "déjà".encode(), "déjà"),
        ("iso-8859-1", b"\x93so\x94", "\u201cso\u201d"),
        ("gb2312", "镕".encode("gbk"), "镕"),
    ],
)
def test_no_character_is_lost_to_a_charset_that_is_unknown_or_wrong(charset, content, wanted):
    assert _of_charset(content, charset) == wanted


def test_a_plain_text_that_only_says_that_there_is_html_is_not_the_text():
    notice, html = (
        "This message requires an HTML viewer.",
        "<p>Buy one.</p><div id=yahoo_quoted_1>Ann wrote: What?</div>",
    )
    raw = "From: a@b.org\nContent-Type: multipart/alternative; boundary=X\n\n"
    raw += "".join(f"--X\nContent-Type: text/{kind}\n\n{text}\n" for kind, text in (("plain", notice), ("html", html)))
    assert _parsed((f"{raw}--X--\n".encode(), 1)).text == "Buy one."


def test_lengths_that_are_wrong_in_many_messages_are_not_looked_for(tmp_path, monkeypatch):
    """Each is looked for in up to 1,000 messages after it."""
    monkeypatch.setattr("raymill.cluster.readers.formats.mail._MOST_WRONG_LENGTHS", 3)
    looked = []
    whole = mail_reader._whole
    monkeypatch.setattr(mail_reader, "_whole", lambda *about: looked.append(1) or whole(*about))
    messages = [b"Content-Length: 999999\n" + mail(number, ANN, f"text {number}") for number in range(10)]
    assert len(rows_of(tmp_path / "a.mbox", mbox(*messages))) == 10
    assert len(looked) == 3


def test_forwarded_texts_are_looked_for_among_a_bounded_number_of_characters(tmp_path, monkeypatch):
    """A thread may have any number of them beside any text. Those that were not looked for count as new."""
    asked = mail(1, ANN, "The link is broken.")
    answer = mail(2, BOB, FORWARDED["Gmail"].replace("Can you help?", "Look at this."), 1)
    later = mail(3, BOB, FORWARDED["Gmail"].replace("Can you help?", "And again."), 1)
    monkeypatch.setattr(mail_reader, "_MOST_SEARCHED", len("thelinkisbroken "))
    (row,) = records(tmp_path / "a.mbox", mbox(asked, answer, later))
    assert [kind for kind, _ in row["cut"]].count("forwarded_again") == 1
    assert row["completion"] == "Look at this.\n\nAnd again.\n\nThe link is broken."
