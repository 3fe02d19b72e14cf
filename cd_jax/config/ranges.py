"""Annotations of numbers with the range that they may have, e.g. `batch_size: PositiveInt`."""

from typing import Annotated

from annotated_types import Interval

PositiveInt = Annotated[int, Interval(ge=1)]
NonNegativeInt = Annotated[int, Interval(ge=0)]
PositiveFloat = Annotated[float, Interval(gt=0)]
NonNegativeFloat = Annotated[float, Interval(ge=0)]
# A share of something, of which nothing is useless and all is possible; and one that must leave something.
Share = Annotated[float, Interval(gt=0, le=1)]
Rate = Annotated[float, Interval(ge=0, lt=1)]
# What JAX, NumPy and tf.data all take for a seed.
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
