"""Bundles of variables, written by TensorFlow; JSON files, changed."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def save(prefix: pathlib.Path, variables: Mapping[str, Any]) -> None:
    """Has TensorFlow write a bundle."""
    import tensorflow as tf

    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(variables), shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(np.asarray(value)) for value in variables.values()],
    )  # fmt: skip


def change_json(file: pathlib.Path, **changes: Any) -> None:
    """Sets some names of an object; `None` is null."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
