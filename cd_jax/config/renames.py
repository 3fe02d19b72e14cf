"""Bindings that have another name today: files of older runs, and users' own, are read as if they had today's."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gin

# By the full names of configurables, of which a file may give the end alone.
_RENAMED = {
    ("cd_jax.solver.solver.Solver", name): ("cd_jax.solver.partitioning.Partitioner", name)
    for name in ("mesh_data", "mesh_model", "logical_axis_rules")
}


def today(selector: str, parameter: str) -> tuple[str, str] | None:
    """Configurable, with its module, and parameter that are meant; None where they have their name still."""
    for (module_and_name, before), found in _RENAMED.items():
        if parameter == before and f".{module_and_name}".endswith(f".{selector}"):
            return found
    return None


@contextlib.contextmanager
def known_to_gin() -> Iterator[None]:
    """Lets gin bind what an older name means, whatever the file that has it imports."""
    bind = gin.config.bind_parameter

    def bind_today(key: tuple[str, str, str], value: Any) -> None:
        scope, selector, parameter = key
        if found := today(selector, parameter):
            key = gin.config.ParsedBindingKey(scope, selector, *found)
        bind(key, value)

    gin.config.bind_parameter = bind_today
    try:
        yield
    finally:
        gin.config.bind_parameter = bind
