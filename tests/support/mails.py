"""E-mail messages, and an mbox file of them."""

from email.message import EmailMessage

ANN, BOB = "Ann Lee <ann@example.org>", "Bob <BOB@example.org>"


def mail(number: int, sender: str, text: str, *answers: int, day: int = 0, html: str = "", **more) -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = sender, "Grüße " * 3 + str(number)
    message["Message-ID"] = f"<m{number}@example.org>"
    message["Date"] = f"Mon, {day or number:02} Nov 2026 10:00:00 +0100"
    if answers:
        message["In-Reply-To"] = f"<m{answers[-1]}@example.org>"
        message["References"] = " ".join(f"<m{one}@example.org>" for one in answers)
    for name, value in more.items():
        message[name] = value
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    return message.as_bytes()


def mbox(*messages: bytes) -> bytes:
    written = b""
    for message in messages:
        lines = [b">" * line.lstrip(b">").startswith(b"From ") + line for line in message.split(b"\n")]
        written += b"From ann@example.org Mon Nov  2 10:00:00 2026\n" + b"\n".join(lines).rstrip() + b"\n\n"
    return written
