"""Words by their definition, slowly."""

from raymill.pipelines.text.characters import UNSPACED, tables


def split_slowly(text: str) -> list[str]:
    """The words of the paper dialect by its definition."""
    flags, _ = tables()
    words, run = [], ""
    for character in text + " ":
        if run and (character.isspace() or flags[ord(character)] & UNSPACED):
            words.append(run)
            run = ""
        if flags[ord(character)] & UNSPACED:
            words.append(character)
        elif not character.isspace():
            run += character
    return words
