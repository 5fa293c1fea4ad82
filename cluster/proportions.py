"""Intervals of fractions."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95% interval of a fraction (Wilson score interval)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.959964, count / total
    middle = share + z * z / (2 * total)
    around = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    below = 1 + z * z / total
    return max(0.0, (middle - around) / below), min(1.0, (middle + around) / below)
