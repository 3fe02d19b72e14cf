"""gin's macros: what a value means that names one."""

from typing import Any

import gin


def macro_of(value: Any) -> str | None:
    """The macro's name, where the value is one: `%NAME`."""
    if isinstance(value, gin.config.ConfigurableReference) and value.config_key[1] == "gin.macro":
        return value.config_key[0]
    return None


def resolved(value: Any) -> Any:
    """A bound value with all macros in it replaced by theirs; other references as text."""
    while (macro := macro_of(value)) is not None:
        value = gin.query_parameter(f"{macro}/macro.value")
    if isinstance(value, dict):
        return {key: resolved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(resolved, value))
    return str(value) if isinstance(value, gin.config.ConfigurableReference) else value
