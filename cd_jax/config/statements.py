"""Statements of gin, read by gin's own parser and not executed."""

from collections.abc import Iterator
from typing import Any, TextIO

from gin import config_parser

from cd_jax.config import renames


class Reference(str):
    """What a value refers to, as it is written: `@NAME`, `@NAME()` or `%NAME`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def macro(self) -> str | None:
        """The name of the macro that it is; None where it is none."""
        return self[1:] if self.startswith("%") else None


class Reader(config_parser.ParserDelegate):
    """Makes a `Reference` of what a value refers to, and notes it.

    Attributes:
      references: names of configurables.
      macros: names of macros.
    """

    def __init__(self):
        self.references: list[str] = []
        self.macros: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        """`@NAME`, with brackets where it is to be called."""
        self.references.append(scoped_configurable_name)
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name: str) -> Reference:
        """`%NAME`."""
        self.macros.append(macro_name)
        return Reference(f"%{macro_name}")


def parsed(source: str | TextIO, reader: config_parser.ParserDelegate) -> Iterator[Any]:
    """The statements of a text or file, of the types of `gin.config_parser`. Raises what that raises."""
    yield from config_parser.ConfigParser(source, reader)


def bound_name(statement: config_parser.BindingStatement) -> str:
    """What it binds: a macro, or `configurable.parameter`, by the name of today; with its scope."""
    selector, parameter = statement.selector, statement.arg_name
    if renamed := renames.today(selector, parameter):
        # As much of the module as before.
        selector = ".".join(renamed[0].split(".")[-1 - selector.count(".") :])
        parameter = renamed[1]
    selector = f"{selector}.{parameter}" if parameter else selector
    return f"{statement.scope}/{selector}" if statement.scope else selector


def bindings(text: str) -> dict[str, Any]:
    """The values that the statements of a text bind, the last of each name. Raises what gin's parser raises."""
    found = (one for one in parsed(text, Reader()) if isinstance(one, config_parser.BindingStatement))
    return {bound_name(one): one.value for one in found}
