"""Questions and answers of a help desk."""

WORDS = (
    "river",
    "stone",
    "cloud",
    "lamp",
    "garden",
    "engine",
    "paper",
    "window",
    "harbour",
    "violin",
    "carpet",
    "mirror",
)


def question(number: int) -> str:
    return f"How do I mend the {WORDS[number % 12]} of house number {number}?"


def answer(number: int) -> str:
    words = " ".join(WORDS[(number * 7 + at * (1 + number % 5)) % 12] for at in range(12))
    return f"Take number {number}, then {words}."
