"""Checks of gin's bindings that gin itself leaves to the code that reads them: the kinds and ranges of the values."""

import inspect
import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from annotated_types import Interval

from cd_jax import configurables
from cd_jax.config import references
from cd_jax.config.macros import last_macro, macro_of
from cd_jax.errors import RequestError

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    bool: "True or False",
    list: "a list",
    Sequence: "a list",
    dict: "a dictionary",
    type(None): "None",
}
# Parameters of which the second divides the first.
_MULTIPLES = (("train.eval_period", "train.log_period"),)


def check_values() -> None:
    """Compares every bound value with the annotation of its parameter, and those that must go together.

    Plain types of Python count, with the ranges of `ranges`, in lists and dictionaries, too; what an annotation leaves
    open is left to the code.

    Raises:
      RequestError: a value is of another kind, as in `BATCH_SIZE = '64'`, or out of range, as in `BATCH_SIZE = 0`.
    """
    for (_, selector), bound in gin.config._CONFIG.items():
        if selector == "gin.macro":
            continue
        function = gin.get_configurable(selector)
        for parameter, value in bound.items():
            shown = f"{_short(selector)}.{parameter}"
            references.check(shown, value, annotation(function, parameter))
            for name, whole, item, wanted in _items(shown, value, value, annotation(function, parameter)):
                if wanted is not None and not any(_is(item, kind) for kind in _alternatives(wanted)):
                    described = " or ".join(_described(kind) for kind in _alternatives(wanted))
                    raise RequestError(f"--gin.{name}={whole!r}: {shown} wants {described}; bind it so")
    _check_multiples()


def _short(selector: str) -> str:
    """As a user would write it: `train`, `optax.adamw`."""
    module, _, name = selector.rpartition(".")
    return f"optax.{name}" if module == "optax" else name


def annotation(function: Any, parameter: str) -> Any:
    """Of a parameter of a configurable; None where it has none."""
    stated = configurables.RANGES.get(inspect.unwrap(function), {})
    if parameter in stated:
        return stated[parameter]
    found = inspect.signature(function).parameters.get(parameter)
    return None if found is None or found.annotation is inspect.Parameter.empty else found.annotation


def _items(name: str, whole: Any, value: Any, wanted: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """The value, and what is in it where it is a list or a dictionary: each with what its annotation says.

    Yields:
      The name under which a user would bind it, all that is bound to this name, the value, and its annotation. What
      gin makes only when it is read, is left out.
    """
    if macro_of(value) is not None:
        name, value = last_macro(value)
        whole = value
    if isinstance(value, gin.config.ConfigurableReference):
        return
    yield name, whole, value, wanted
    for kind in _alternatives(wanted):
        if isinstance(value, dict) and typing.get_origin(kind) is dict:
            for item in value.values():
                yield from _items(name, whole, item, typing.get_args(kind)[1])
        elif isinstance(value, list | tuple) and typing.get_origin(kind) in (list, Sequence):
            for item in value:
                yield from _items(name, whole, item, typing.get_args(kind)[0])


def _alternatives(wanted: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        return typing.get_args(wanted)
    return (wanted,)


def _is(value: Any, kind: Any) -> bool:
    """Whether the value is of the kind; also where nothing is known of the kind."""
    if typing.get_origin(kind) is typing.Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(kind))
    base, interval = _parts(kind)
    if base not in _KINDS:
        return True
    # To isinstance, True is a whole number; and a whole number is a number, a tuple as good as a list.
    if isinstance(value, bool):
        return base is bool
    accepted = {float: (int, float), list: (list, tuple), Sequence: (list, tuple)}.get(base, base)
    return isinstance(value, accepted) and (base not in (int, float) or _within(value, interval))


def _parts(kind: Any) -> tuple[Any, Interval]:
    """The plain type, and its range."""
    if typing.get_origin(kind) is typing.Annotated:
        base, *more = typing.get_args(kind)
        return base, next((one for one in more if isinstance(one, Interval)), Interval())
    return typing.get_origin(kind) or kind, Interval()


def _within(value: float, interval: Any) -> bool:
    return (
        math.isfinite(value)
        and (interval.ge is None or value >= interval.ge)
        and (interval.gt is None or value > interval.gt)
        and (interval.le is None or value <= interval.le)
        and (interval.lt is None or value < interval.lt)
    )


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    base, interval = _parts(kind)
    bounds = (("of at least", interval.ge), ("above", interval.gt), ("at most", interval.le), ("below", interval.lt))
    said = " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
    return f"{_KINDS[base]}{' ' if said else ''}{said}"


def _check_multiples() -> None:
    for multiple, divisor in _MULTIPLES:
        (name, whole), (other, part) = _bound_to(multiple), _bound_to(divisor)
        if whole and part and whole % part:
            raise RequestError(
                f"{other}={part} does not divide {name}={whole}; bind --gin.{other} or --gin.{name} so that it does"
            )


def _bound_to(parameter: str) -> tuple[str, int]:
    """What is bound to a parameter of whole numbers, else its default; with the name under which to bind it."""
    configurable, _, name = parameter.partition(".")
    try:
        value = gin.query_parameter(parameter)
    except ValueError:
        return parameter, inspect.signature(gin.get_configurable(configurable)).parameters[name].default
    shown, value, *_ = next(_items(parameter, value, value, None), (parameter, 0))
    return shown, value
