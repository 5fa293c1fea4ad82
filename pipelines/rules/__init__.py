"""Rules: each measures signals of a document and compares them with bounds.

`RULES` lists all of them, in the default order of their checks. A new rule is a class like these and an entry there.
"""

from raymill.pipelines.rules.bad_words import BadWords
from raymill.pipelines.rules.c4 import C4
from raymill.pipelines.rules.decontamination import Decontamination
from raymill.pipelines.rules.early_language import EarlyLanguage
from raymill.pipelines.rules.fineweb import FineWeb
from raymill.pipelines.rules.gopher import GopherQuality, GopherRepetition
from raymill.pipelines.rules.judge_score import JudgeScore
from raymill.pipelines.rules.line_edits import LineEdits
from raymill.pipelines.rules.opt_out import OptOut
from raymill.pipelines.rules.quality_classifier import QualityClassifier
from raymill.pipelines.rules.quality_percentile import QualityPercentile
from raymill.pipelines.rules.repeated_pages import RepeatedPages
from raymill.pipelines.rules.rule import Check, Dialect, Rule
from raymill.pipelines.rules.url_blocklist import UrlBlocklist
from raymill.pipelines.rules.url_words import UrlWords

# Packs have defaults for all settings, so a config may just name them. The other rules run if their settings are given.
PACKS: dict[str, type] = {rule.name: rule for rule in (GopherQuality, GopherRepetition, C4, FineWeb)}
RULES: dict[str, type] = (
    {rule.name: rule for rule in (Decontamination, UrlBlocklist, UrlWords, RepeatedPages, EarlyLanguage, OptOut)}
    | PACKS
    | {rule.name: rule for rule in (LineEdits, BadWords, QualityClassifier, JudgeScore, QualityPercentile)}
)

__all__ = ["PACKS", "RULES", "Check", "Dialect", "Rule"]
