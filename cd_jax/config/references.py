"""Checks of what is bound by reference, `@NAME` or `@NAME()`: gin looks at neither before it is used."""

import collections.abc
import inspect
import types
import typing
from typing import Any

import gin

from cd_jax.config.macros import last_macro, macro_of
from cd_jax.errors import RequestError

_LISTS = (list, collections.abc.Sequence)


def check(shown: str, value: Any, wanted: Any, name: str | None = None) -> None:
    """Compares a reference, or what stands in place of one, with the annotation of its parameter.

    A parameter of `Callable[[], …]` wants what makes something later, `@NAME`; one of a class or a protocol wants the
    thing itself, `@NAME()`, or a function, and it must have the protocol's methods.

    Args:
      shown: the parameter, as a user would write it.
      value: bound to it.
      wanted: its annotation; None where it has none.
      name: that the value is bound by, where that is a macro.

    Raises:
      RequestError: it does not go together.
    """
    if macro_of(value) is not None:
        name, value = last_macro(value)
    alternatives = typing.get_args(wanted) if _is_union(wanted) else (wanted,)
    for kind in alternatives:
        if typing.get_origin(kind) in _LISTS and isinstance(value, list | tuple):
            for item in value:
                check(shown, item, typing.get_args(kind)[0], name)
            return
        if typing.get_origin(kind) in _LISTS and isinstance(value, gin.config.ConfigurableReference):
            raise RequestError(
                f"--gin.{name or shown}={_written(value)}: {shown} wants a list; bind [{_written(value)}]"
            )
    made = [typing.get_args(kind)[1] for kind in alternatives if _is_maker(kind)]
    things = [kind for kind in alternatives if _is_thing(kind)]
    if not (made or things) or len(made) + len(things) + (types.NoneType in alternatives) < len(alternatives):
        return  # Something else may be bound, too.
    if value is None and types.NoneType in alternatives:
        return
    if problem := _problem(value, made, things):
        raise RequestError(f"--gin.{name or shown}={_written(value)}: {shown} wants {problem}; bind it so")


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _is_maker(kind: Any) -> bool:
    return typing.get_origin(kind) is collections.abc.Callable and typing.get_args(kind)[0] == []


def _is_thing(kind: Any) -> bool:
    """A class of ours, or a protocol; not a plain type of Python's."""
    return isinstance(kind, type) and kind is not types.NoneType and kind.__module__.startswith("cd_jax.")


def _problem(value: Any, made: list[Any], things: list[Any]) -> str:
    """What is wanted instead; empty where the value is as good."""
    if not isinstance(value, gin.config.ConfigurableReference):
        return "a reference such as @NAME" + ("" if made else "()")
    target = value.configurable.wrapped
    if made:
        if value.evaluate:
            return f"{_written(value)[:-2]}, without parentheses"
    elif inspect.isclass(target) and not value.evaluate:
        return f"{_written(value)}(), with parentheses"
    if not inspect.isclass(target):
        return ""
    lacking = [_lacking(target, kind) for kind in made or things]
    return "" if "" in lacking else f"something with {lacking[0]}"


def _lacking(target: type, kind: Any) -> str:
    """The first method of a protocol that a class lacks; of a class, its name where the target is no such thing."""
    if not _is_thing(kind):
        return ""
    if not getattr(kind, "_is_protocol", False):
        return "" if issubclass(target, kind) else kind.__name__
    methods = [name for name, one in vars(kind).items() if inspect.isfunction(one) and not name.startswith("_")]
    if "__call__" in vars(kind):
        methods.append("__call__")
    # Not hasattr: every class can be called.
    return next((f"`{name}`" for name in methods if not any(name in vars(base) for base in target.__mro__)), "")


def _written(value: Any) -> str:
    if not isinstance(value, gin.config.ConfigurableReference):
        return repr(value)
    return f"@{value.selector}{'()' if value.evaluate else ''}"
