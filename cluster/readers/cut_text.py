"""What readers and cleaning take out of a document: pieces of text, each with its kind."""

Cut = tuple[str, str]  # (kind, a key of CUT_KINDS; text)

CUT_KINDS = {
    "quote": "an earlier mail that a mail repeats: lines with >, blocks of HTML and Outlook, and what announces them",
    "signature": "the signature of a mail",
    "disclaimer": "a paragraph of a mail that says what a reader may not do with it",
    "forwarded_header": "the header lines of a forwarded mail, whose text stays",
    "forwarded_again": "the text of a forwarded mail that its thread has already",
    "automatic_reply": "an automatic reply (Auto-Submitted, X-Autoreply, Precedence)",
    "repeated_message": "another text under a Message-ID that an earlier message of the file has",
    "attachment": "an attached text, of which the name is given",
    "cue_note": "a note or style sheet of a transcript",
    "html_hidden": "a comment, script or style sheet of HTML",
    "before_question": "what was said before the first question of a chat with `speakers`",
    "after_answer": "what was said after the last answer of a chat with `speakers`",
    "not_public": "a message of a chat that is not public",
    "skipped_speaker": "what a speaker said whose role is `skip`",
    "second_system": "a system message after the first one",
}
