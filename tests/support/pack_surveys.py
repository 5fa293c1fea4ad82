"""The survey of a small corpus."""

from raymill.training.config_parts import Split
from raymill.training.pack.split import Survey, find_classes, survey_here


def classes_of(corpora):
    return find_classes(corpora, [survey_here(frozen, Split(), classes=True) for frozen in corpora])


def survey(keyed):
    """The survey of (hash of the group, stratum) of documents."""
    found = Survey()
    for key, stratum in keyed:
        found.count(key, stratum)
    return found
