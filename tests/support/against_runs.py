"""Runs that are compared with earlier ones."""

PLAIN = {"language": None, "rules": None, "personal_data": None}


def changed(text: str) -> str:
    """The text with one word changed: a near-duplicate."""
    return text.replace(text.split()[7], "entirely", 1)
