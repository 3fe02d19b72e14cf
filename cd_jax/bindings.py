"""Checks of gin's bindings that gin itself leaves to the code that reads them: the kinds and ranges of the values."""

import inspect
import math
import re
import types
import typing
from collections.abc import Iterator
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


class _Range(typing.NamedTuple):
    """From `low` to `high`, both included unless `above` says that `low` is not."""

    low: float
    high: float = math.inf
    above: bool = False

    def holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        least = f"more than {self.low}" if self.above else f"{self.low} or more"
        return least if self.high == math.inf else f"{least}, at most {self.high}"


_COUNT, _SIZE, _POSITIVE = _Range(0), _Range(1), _Range(0, above=True)
_SEED = _Range(0, 2**32 - 1)
# Of every parameter that is a number, or holds numbers, by the last name of what gin configures; all others have only
# to be finite.
RANGES = {
    "aot": {"batch_size": _SIZE, "passages": _SIZE, "input_length": _SIZE, "target_length": _SIZE},
    "aot_sweep": {"batch_sizes": _SIZE, "passages": _SIZE, "input_length": _SIZE, "target_length": _SIZE},
    "demo": {"seeds": _SEED},
    "distill": {"num_updates": _SIZE, "seed": _Range(0), "vocabulary_size": _Range(300)},
    "evaluate": {"per_task": _SIZE, "source_per_task": _SIZE, "sample_seed": _SEED},
    "infer": {"per_task": _SIZE, "sample_seed": _SEED},
    "EpisodicMemory": {"capacity": _SIZE, "num_queries": _SIZE, "num_axes": _COUNT},
    "DeviceIndex": {"capacity": _COUNT, "recall_target": _Range(0, 1, above=True)},
    "ScannIndex": {"capacity": _COUNT, "recall_target": _Range(0, 1, above=True), "leaves": _COUNT},
    "SelfLearningProcess": {"sequence_length": _SIZE, "answer_weight": _COUNT, "eval_batch_size": _SIZE},
    "data": {"low_data_seed": _SEED},
    "show_tasks": {
        "num_examples": _COUNT, "inputs": _SIZE, "targets": _SIZE, "num_passages": _COUNT, "answer_weight": _COUNT,
    },
    "T5Config": {
        "vocab_size": _COUNT, "emb_dim": _SIZE, "num_heads": _SIZE, "head_dim": _SIZE, "mlp_dim": _SIZE,
        "num_encoder_layers": _SIZE, "num_decoder_layers": _SIZE, "dropout_rate": _Range(0, 0.99),
        "relative_attention_num_buckets": _Range(4), "relative_attention_max_distance": _Range(2),
        "logits_chunk": _COUNT,
    },
    "Decoding": {
        "temperature": _COUNT, "top_k": _COUNT, "top_p": _Range(0, 1, above=True), "num_samples": _SIZE,
        "num_beams": _SIZE,
    },
    "Solver": {"mesh_data": _Range(-1), "mesh_model": _SIZE, "num_microbatches": _SIZE, "z_loss": _COUNT},
    "Contrast": {"weight": _COUNT, "num_negatives": _SIZE, "temperature": _POSITIVE, "attempts": _COUNT},
    "Budget": {"steps": _SIZE, "seconds": _COUNT, "patience": _SIZE},
    "train": {
        "seed": _SEED, "batch_size": _SIZE, "eval_period": _SIZE, "eval_per_task": _SIZE, "log_period": _SIZE,
    },
    "OpenAITeacher": {
        "temperature": _COUNT, "max_tokens": _SIZE, "max_retries": _COUNT, "timeout": _POSITIVE,
        "max_extra_asks": _COUNT,
    },
    "ChrF": {"char_order": _SIZE, "word_order": _COUNT, "beta": _SIZE},
    "constant_schedule": {"value": _POSITIVE},
    "warmup_cosine_decay_schedule": {
        "init_value": _COUNT, "peak_value": _POSITIVE, "end_value": _COUNT, "warmup_steps": _COUNT,
        "decay_steps": _SIZE,
    },
}  # fmt: skip


def check_values() -> None:
    """Compares every bound value with the annotation of its parameter, where that is one of Python's plain types, and
    with `RANGES`.

    Raises:
      RequestError: a value is of another kind, as in `BATCH_SIZE = '64'`, or out of range.
    """
    bound = {}
    for configurable, parameter in _BINDING.findall(gin.config_str(max_line_length=10**6) + _not_literal()):
        name, value = _value(f"{configurable}.{parameter}")
        bound[f"{configurable}.{parameter}"] = name, value
        kinds = _kinds(configurable, parameter)
        if kinds and not _has_references(value) and not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise RequestError(f"--gin.{name}={value!r}: {configurable}.{parameter} wants {wanted}; bind it so")
        _check_range(name, value, configurable, parameter)
    _check_periods(*(bound.get(f"train.{name}", ("", None)) for name in ("eval_period", "log_period")))


def _not_literal() -> str:
    """Bindings that `gin.config_str` leaves out: infinity and its like, which no text of Python's means."""
    return "".join(
        f"{selector}.{name} = \n"
        for (_, selector), parameters in gin.config._CONFIG.items()
        for name, value in parameters.items()
        if isinstance(value, float) and not math.isfinite(value) and not selector.endswith("macro")
    )


def _check_range(name: str, value: Any, configurable: str, parameter: str) -> None:
    allowed = RANGES.get(configurable.rpartition(".")[2], {}).get(parameter)
    for macro, number in _numbers(name, value):
        if not math.isfinite(number) or (allowed and not allowed.holds(number)):
            raise RequestError(
                f"--gin.{macro}={number!r}: {configurable}.{parameter} wants {allowed or 'a number'}; bind it so"
            )


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """All numbers in a value, each under the name by which a user would bind it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, list | tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(*_followed(name, inner))


def _check_periods(evaluation: tuple[str, Any], log: tuple[str, Any]) -> None:
    """Every evaluation is to come with a line of metrics."""
    if type(evaluation[1]) is int and type(log[1]) is int and evaluation[1] % log[1]:
        raise RequestError(
            f"--gin.{evaluation[0]}={evaluation[1]}: is no multiple of {log[0]}={log[1]}; bind one that is, or "
            f"--gin.{log[0]}"
        )


def _value(name: str) -> tuple[str, Any]:
    """What is bound, through macros; and the name under which a user would bind it."""
    return _followed(name, gin.query_parameter(name))


def _followed(name: str, value: Any) -> tuple[str, Any]:
    while str(value).startswith("%") and isinstance(value, gin.config.ConfigurableReference):
        name = str(value)[1:]
        try:
            value = gin.query_parameter(f"{name}/macro.value")
        except ValueError:
            break  # A constant, or a macro that is bound nowhere, of which its reader tells.
    return name, value


def resolved(value: Any) -> Any:
    """A bound value with all macros in it replaced by theirs; other references as text."""
    _, value = _followed("", value)
    if isinstance(value, dict):
        return {key: resolved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(resolved, value))
    return str(value) if isinstance(value, gin.config.ConfigurableReference) else value


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
