"""The corpus of one language, Afrikaans: no other is kept, and a rule has its stop words, which Raymill does not have.

python afrikaans.py [INPUTS [OUTPUT]]
"""

import re
import sys

import raymill

# Frequent words of running text that Dutch, the nearest language, does not have or spells in another way.
STOP_WORDS = {"en", "hulle", "hy", "nie", "sy", "toe", "vir", "wat"}
WORD = re.compile(r"\w+")


def running_text(text: str, *, min_stop_words: int = 2) -> bool:
    """Keep a text with at least `min_stop_words` different stop words."""
    return len(STOP_WORDS.intersection(WORD.findall(text.lower()))) >= min_stop_words


def main(inputs: str = "texts.jsonl", output: str = "runs/afrikaans") -> None:
    run = raymill.curate(
        inputs=[{"path": inputs, "id": "id"}],
        output=output,
        language={"keep": ["af"], "min_score": 0.5},
        rules={
            "packs": ["gopher_quality", "gopher_repetition", "c4"],
            "gopher_quality": {"min_words": 30},
            "c4": {"min_sentences": 3},
            "custom": [running_text],
        },
    )
    print(run)
    for row in run.removed.sample(5):
        print(row["id"], row["reason"])


if __name__ == "__main__":
    main(*sys.argv[1:])
