"""Checks of gin's bindings that gin itself leaves to the code that reads them: the kinds of the values."""

import inspect
import re
import types
import typing
from typing import Any

import gin

from cd_jax.errors import RequestError

_BINDING = re.compile(r"^([\w./]+)\.(\w+) = ", re.MULTILINE)
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    bool: "True or False",
    list: "a list",
    dict: "a dictionary",
    type(None): "None",
}


def check_values() -> None:
    """Compares every bound value with the annotation of its parameter, where that is one of Python's plain types.

    Raises:
      RequestError: a value is of another kind, as in `BATCH_SIZE = '64'`.
    """
    for configurable, parameter in _BINDING.findall(gin.config_str(max_line_length=10**6)):
        name, value = _value(f"{configurable}.{parameter}")
        kinds = _kinds(configurable, parameter)
        if kinds and not _has_references(value) and not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise RequestError(f"--gin.{name}={value!r}: {configurable}.{parameter} wants {wanted}; bind it so")


def _value(name: str) -> tuple[str, Any]:
    """What is bound, through macros; and the name under which a user would bind it."""
    value = gin.query_parameter(name)
    while str(value).startswith("%") and _has_references(value):
        name = str(value)[1:]
        value = gin.query_parameter(f"{name}/macro.value")
    return name, value


def _has_references(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_references(item) for item in value)
    if isinstance(value, dict):
        return any(_has_references(item) for item in value.values())
    return isinstance(value, gin.config.ConfigurableReference)


def _kinds(configurable: str, parameter: str) -> list[type]:
    """The plain types that the parameter's annotation allows; empty where it says something else."""
    annotated = inspect.signature(gin.get_configurable(configurable)).parameters.get(parameter)
    annotation = annotated.annotation if annotated else None
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = [typing.get_origin(a) or a for a in (typing.get_args(annotation) if union else (annotation,))]
    return kinds if all(kind in _KINDS for kind in kinds) and annotation is not None else []


def _is(value: Any, kind: type) -> bool:
    # To isinstance, True is a whole number; and a whole number is a number, a tuple as good as a list.
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {float: (int, float), list: (list, tuple)}.get(kind, kind))
