"""An `Example` as a record of TensorFlow Datasets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from cd_jax.types import Example

# Of all prepared data. To be raised with whatever changes it: a field of `Example`, a reader, a world.
VERSION = "1.0.0"

# The one field that is not a text.
_LIST = "supporting_facts"
# What the data that is prepared never has.
_LEFT_OUT = "explanations"


def features() -> tfds.features.FeaturesDict:
    """The fields of an `Example`, all texts; `supporting_facts` is a sequence of them."""
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            field.name: tfds.features.Sequence(text) if field.name == _LIST else text
            for field in dataclasses.fields(Example)
            if field.name != _LEFT_OUT
        }
    )


def to_record(example: Example) -> dict[str, Any]:
    """The example as a builder yields it."""
    fields = {name: value for name, value in vars(example).items() if name != _LEFT_OUT}
    return fields | {_LIST: list(example.supporting_facts)}


def from_record(record: Mapping[str, Any]) -> Example:
    """The example that `to_record` made a record of.

    Args:
      record: as `tfds.as_numpy` gives it: texts are bytes in UTF-8.
    """
    facts = tuple(fact.decode() for fact in record[_LIST])
    return Example(**{name: facts if name == _LIST else text.decode() for name, text in record.items()})
