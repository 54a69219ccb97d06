"""Histograms as lines of text: numbers in, lines out."""

import math
from collections import Counter
from collections.abc import Sequence

_NUM_BARS, _BAR_WIDTH = 8, 40


def bars(title: str, values: Sequence[float]) -> list[str]:
    """A histogram as lines of text; the last bar holds everything above the 99th percentile."""
    if not values:
        return []
    ordered = sorted(values)
    least, top = ordered[0], ordered[int(0.99 * (len(ordered) - 1))]
    is_whole = all(isinstance(value, int) for value in values)
    width = max((top - least) / _NUM_BARS, 0.01)
    width = float(math.ceil(width)) if is_whole else width
    num_bars = max(1, math.ceil((top - least) / width))
    counts = Counter(min(int((value - least) / width), num_bars) for value in ordered)
    digits = 0 if is_whole else 2 if width < 0.5 else 1
    lines = [f"{title}: {least:.4g} to {ordered[-1]:.4g}, half of them up to {ordered[len(ordered) // 2]:.4g}"]
    for i in range(num_bars + 1):
        low, high = least + i * width, least + (i + 1) * width - is_whole
        label = f"{low:.{digits}f}" if low == high else f"{low:.{digits}f}-{high:.{digits}f}"
        label = label if i < num_bars else f"from {low:.{digits}f}"
        bar = "#" * (max(1, round(_BAR_WIDTH * counts[i] / max(counts.values()))) if counts[i] else 0)
        if counts[i] or i < num_bars:
            lines.append(f"  {label:>12} {counts[i]:>9,} {bar}")
    return lines
