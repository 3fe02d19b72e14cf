"""gin's macros: what a value means that names one."""

from typing import Any

import gin


def macro_of(value: Any) -> str | None:
    """The macro's name, where the value is one: `%NAME`."""
    if isinstance(value, gin.config.ConfigurableReference) and value.config_key[1] == "gin.macro":
        return value.config_key[0]
    return None


def last_macro(value: Any, name: str = "") -> tuple[str, Any]:
    """The macro that holds the value in the end, `TRAIN_STEPS` of `DECAY_STEPS = %TRAIN_STEPS`, and the value; else
    `name` and the value as it is."""
    while (macro := macro_of(value)) is not None:
        name, value = macro, gin.query_parameter(f"{macro}/macro.value")
    return name, value


def bound_to(configurable: str) -> str:
    """What is bound to the parameters of a configurable, as a user binds it: `WARMUP_STEPS=100, TRAIN_STEPS=5`."""
    selector = gin.config._REGISTRY.get_match(configurable).selector
    bound = gin.config._CONFIG.get(("", selector), {})
    found = (last_macro(value, f"{configurable}.{name}") for name, value in bound.items())
    return ", ".join(f"{name}={value!r}" for name, value in found)


def resolved(value: Any) -> Any:
    """A bound value with all macros in it replaced by theirs; other references as text."""
    _, value = last_macro(value)
    if isinstance(value, dict):
        return {key: resolved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(resolved, value))
    return str(value) if isinstance(value, gin.config.ConfigurableReference) else value
