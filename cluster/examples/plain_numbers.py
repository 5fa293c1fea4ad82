"""Numbers in data, as JSON has them or as text of tables."""

import math
import re
from typing import Any

# float() also reads 1_0, digits of other scripts, inf and nan.
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?\s*")


def number_in(value: Any) -> float:
    """The number that a value is, or that a text has in ASCII digits; NaN of anything else, also of infinite ones."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_text = isinstance(value, str) and value.isascii() and _NUMBER.fullmatch(value)
    try:
        number = float(value) if is_number or is_text else math.nan
    except OverflowError:  # of an integer
        return math.nan
    return number if math.isfinite(number) else math.nan
