"""Two arms compared: the differences of their figures, paired over the seeds that both have."""

import dataclasses
import math
import statistics
from collections.abc import Mapping

from scipy import special

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and the interval that holds the true one with a confidence of 95 %.

    Attributes:
      seeds: how many pairs there are, at least two.
      mean: of the differences.
      low: where the interval begins.
      high: where it ends.
    """

    seeds: int
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired(figures: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """How much higher an arm's figures are than those of another arm, by Student's t for paired samples.

    What makes a seed easy or hard for both arms drops out. The differences are taken to be normal.

    Args:
      figures: of the arm, by seed.
      reference: of the other arm, by seed.

    Returns:
      None where they have fewer than two seeds in common: one alone says nothing of the spread.
    """
    found = [figures[seed] - reference[seed] for seed in sorted(figures.keys() & reference.keys())]
    if len(found) < 2:
        return None
    mean = statistics.fmean(found)
    quantile = float(special.stdtrit(len(found) - 1, (1 + _CONFIDENCE) / 2))
    margin = quantile * statistics.stdev(found) / math.sqrt(len(found))
    return Difference(len(found), mean, mean - margin, mean + margin)
