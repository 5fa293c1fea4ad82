"""The verdict on a data set: whether it is fit for training, and the three reasons that say most."""

from dataclasses import dataclass

from cluster.formats import count, plural, share
from pipelines.prepare.assess.score import Assessment, failed
from pipelines.prepare.assess.section import bound_text, gate_value
from pipelines.prepare.report.schema import PrepareReport

_REASONS = 3
_FIRST_SENTENCE = ". "


@dataclass(frozen=True)
class Verdict:
    """fit: whether nothing speaks against training. words: the verdict. reasons: at most three sentences."""

    fit: bool
    words: str
    reasons: list[str]


def verdict_of(report: PrepareReport, assessment: Assessment | None) -> Verdict:
    """Not fit: an empty split that has a share, a failed gate, or questions of validation or test in train.

    The first warnings name the empty splits. Other warnings are reasons to look, not against training.
    """
    shares, against = report["config"]["split"], []
    is_lacking = any(shares[name] and not records for name, records in report["splits"].items())
    if assessment is not None:
        leaks = assessment["findings"]["leaks"]
        leaked = leaks["validation"] + leaks["test"]
        if leaked:
            against.append(
                f"{count(leaked)} of {plural(leaks['compared'], 'record')} for validation and testing have a question "
                "that is in train, so scores on them are too high."
            )
        against += [
            f"`{gate['name']}` is {gate_value(gate)}; wanted {bound_text(gate)}." for gate in failed(assessment)
        ]
    warnings = [f"{one.partition(_FIRST_SENTENCE)[0].rstrip('.')}." for one in report["warnings"]]
    good = []
    if assessment is not None:
        passed = [gate for gate in assessment["gates"] if gate["state"] == "passed"]
        names = ", ".join(f"`{gate['name']}`" for gate in passed)
        if passed:
            good.append(f"{plural(len(passed), 'gate')} passed: {names}.")
        if assessment["findings"]["leaks"]["compared"] and not leaked:
            good.append("No question of validation or test is in train.")
    totals = report["totals"]
    if totals["written"]:
        kept = totals["written"] - totals["repeated"]
        good.append(f"{share(kept, totals['records'])} of {plural(totals['records'], 'record')} were kept.")
    words = f"Fit for training, with {plural(len(warnings), 'warning')}" if warnings else "Fit for training"
    is_fit = not against and not is_lacking
    return Verdict(is_fit, words if is_fit else "Not fit for training yet", [*against, *warnings, *good][:_REASONS])
