"""Dates and times in the forms that tables and exports have."""

import pytest

from raymill.pipelines.prepare.records.times import in_iso, microseconds

FORMS = {
    "2026-11-02": "2026-11-02", "2026-11-02T10:00:00+01:00": "2026-11-02T10:00:00+01:00", "20261102": "20261102",
    "2026-11-02 10:00": "2026-11-02 10:00", "2026/11/02": "2026-11-02", "2026.11.2 9:05": "2026-11-02T09:05:00",
    "2 Nov 2026": "2026-11-02", "November 2, 2026": "2026-11-02", "Nov 2nd 2026 at 3:04 PM": "2026-11-02T15:04:00",
    "2. November 2026": "2026-11-02", "02.11.2026 10:30 Uhr": "2026-11-02T10:30:00",
    "2 de noviembre de 2026": "2026-11-02",
    "lundi 2 novembre 2026": "2026-11-02", "Mon, 2 Nov 2026 10:00:00 +0100": "2026-11-02T10:00:00+01:00",
    "Mon Nov  2 10:00:00 2026": "2026-11-02T10:00:00", "02-Nov-2026": "2026-11-02",
    "25/12/2026": "2026-12-25", "12/25/2026": "2026-12-25", "03/03/2026 12:00 AM": "2026-03-03T00:00:00",
    "1793613600": "2026-11-02T10:00:00+00:00", "1793613600.5": "2026-11-02T10:00:00.500000+00:00",
    "1793613600000": "2026-11-02T10:00:00+00:00", "1793613600000000000": "2026-11-02T10:00:00+00:00",
    "2026-11-02 10:00:00 UTC": "2026-11-02T10:00:00+00:00",
}  # fmt: skip
NONE = (
    None,
    "",
    "yesterday",
    "03/04/2026",
    "31.02.2026",
    "13/13/2026",
    "12345",
    "2026",
    "1 of 2",
    "0:61",
    "1e9",
    "12.5.",
)


@pytest.mark.parametrize("text", FORMS)
def test_a_written_time_is_read(text):
    assert in_iso(text) == FORMS[text]
    assert microseconds(FORMS[text]) is not None


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_time_or_may_be_two_is_none(text):
    assert in_iso(text) is None


def test_the_order_of_numbers_equals_the_one_of_the_setting():
    assert (in_iso("03/04/2026", True), in_iso("03/04/2026", False)) == ("2026-04-03", "2026-03-04")
    assert in_iso("25/12/2026", False) == "2026-12-25"
