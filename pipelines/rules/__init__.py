"""Rules: each judges a document by numbers measured on it and gives a reason.

`RULES` is the whole list, in the order rules object by default. A new rule is a class like those here and one line.
"""

from pipelines.rules.bad_words import BadWords
from pipelines.rules.c4 import C4
from pipelines.rules.fineweb import FineWeb
from pipelines.rules.gopher_quality import GopherQuality
from pipelines.rules.gopher_repetition import GopherRepetition
from pipelines.rules.quality_classifier import QualityClassifier
from pipelines.rules.rule import Check, Dialect, Rule
from pipelines.rules.url_blocklist import UrlBlocklist

# Packs need no settings, so a config may just name them; the others are on when their settings are given.
PACKS: dict[str, type] = {rule.name: rule for rule in (GopherQuality, GopherRepetition, C4, FineWeb)}
RULES: dict[str, type] = {UrlBlocklist.name: UrlBlocklist} | PACKS | {
    rule.name: rule for rule in (BadWords, QualityClassifier)
}  # fmt: skip

__all__ = ["PACKS", "RULES", "Check", "Dialect", "Rule"]
