"""Values of gin's bindings: each number has its range, and what is out of it is named before anything is written."""

import inspect
import types
import typing
from collections.abc import Sequence

import gin
import pytest
import runs
from annotated_types import Interval

from cd_jax import configurables  # noqa: F401  Registers all that gin can bind.
from cd_jax.config import bindings
from cd_jax.errors import RequestError

# Any finite number does: generations may be preferred short, scores of BLEURT's have any sign.
FREE = {"Improbable.least", "Bleurt.high", "Bleurt.low", "Decoding.length_penalty"}


def numeric_parameters():
    """Every parameter of ours, and of optax's that gin can bind, that takes a number: its name, and what is stated."""
    for selector in sorted(gin.config._REGISTRY._selector_map):
        if not selector.startswith(("cd_jax.", "optax.")):
            continue
        function = gin.get_configurable(selector)
        for parameter in inspect.signature(function).parameters:
            stated = bindings.annotation(function, parameter)
            if _numbers(stated):
                yield f"{selector.split('.')[-1]}.{parameter}", stated


def _numbers(annotation) -> list:
    """The kinds of numbers in an annotation, also within lists."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float) or (origin is typing.Annotated and arguments[0] in (int, float)):
        return [annotation]
    nested = origin in (typing.Union, types.UnionType, list, dict, Sequence)
    return [kind for part in arguments for kind in _numbers(part)] if nested else []


def test_every_number_has_a_range():
    found = dict(numeric_parameters())
    assert len(found) > 60
    without = {
        name for name, stated in found.items()
        if not all(any(isinstance(more, Interval) for more in typing.get_args(kind)) for kind in _numbers(stated))
    }  # fmt: skip
    assert without == FREE


def test_defaults_are_within_their_ranges():
    for selector in gin.config._REGISTRY._selector_map:
        function = gin.get_configurable(selector)
        for name, parameter in inspect.signature(function).parameters.items():
            stated = bindings.annotation(function, name)
            if selector.startswith("cd_jax.") and _numbers(stated) and parameter.default is not parameter.empty:
                kinds = bindings._alternatives(stated)
                assert any(bindings._is(parameter.default, kind) for kind in kinds), f"{selector}.{name}"


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("TARGET_LENGTH=0", ["sequence_length", "a whole number of at least 1"]),
        ("TARGET_LENGTH=-8", ["sequence_length"]),
        ("INPUT_LENGTH=0", ["sequence_length"]),
        ("T5Config.num_heads=0", []),
        ("T5Config.dropout_rate=2", ["a number of at least 0 and below 1"]),
        ("ANSWER_WEIGHT=-1", ["answer_weight", "above 0"]),
        ("train.eval_per_task=0", ["or None"]),
        ("train.eval_per_task=-1", []),
        ("EVAL_PER_TASK=0", ["evaluate.per_task"]),
        ("SOURCE_PER_TASK=-3", ["evaluate.source_per_task"]),
        ("LEARNING_RATE=1e999", ["optax.warmup_cosine_decay_schedule.peak_value", "=inf"]),
        ("LEARNING_RATE=-0.1", []),
        ("END_RATE=-0.1", []),
        ("DECAY_STEPS=0", []),
        ("SEEDS=[-1]", ["demo.seeds", "4294967295"]),
        ("SEEDS=[0, 4294967296]", []),
        ("distill.seed=-1", []),
        ("TRAIN_STEPS=0", ["a whole number of at least 1"]),
        ("TRAIN_STEPS=100", ["cosine_decay_schedule", "WARMUP_STEPS=100, TRAIN_STEPS=100"]),
        ("TRAIN_SECONDS=-1", ["Budget.seconds"]),
        ("PATIENCE=0", []),
        ("EVAL_PERIOD=0", ["train.eval_period"]),
        ("train.log_period=0", []),
        ("EVAL_PERIOD=30", ["train.log_period=50 does not divide EVAL_PERIOD=30"]),
        ("BATCH_SIZE=0", ["train.batch_size"]),
        ("NUM_UPDATES=0", ["distill.num_updates"]),
        ("Decoding.temperature=-0.5", []),
        ("Decoding.top_p=0", ["above 0 and at most 1"]),
        ("CONTRASTIVE_WEIGHT=-1", ["Contrast.weight"]),
        ("NUM_NEGATIVES=0", []),
        ("NUM_QUERIES=0", []),
        ("MESH_MODEL=0", ["Partitioner.mesh_model"]),
        ("MESH_DATA=0", ["-1 or a whole number of at least 1"]),
        ("SelfLearningProcess.sequence_length={'inputs': 0, 'targets': 8}", ["a whole number of at least 1"]),
        ("TeacherClient.timeout=0", []),
        ("BATCH_SIZE=True", []),
        ("AGENTS=['baseline', 3]", ["demo.agents", "text in quotes"]),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_by_demo_before_anything_is_written(binding, words, tmp_path, capfd):
    folder = tmp_path / "demo"
    assert runs.here(["demo", f"--model_dir={folder}", f"--gin.{binding}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    for word in [binding.split("=")[0], *words]:
        assert word in error
    assert not folder.exists()


def test_what_demo_refused_can_be_corrected(tmp_path, monkeypatch, capfd):
    from cd_jax.learning import distillation

    asked = []

    def stop(model_dir):
        asked.append(model_dir)
        raise RequestError("far enough")

    monkeypatch.setattr(distillation, "distill", stop)
    for period in (30, 100):
        assert runs.here(["demo", f"--model_dir={tmp_path}", f"--gin.EVAL_PERIOD={period}"]) == 2
    assert asked == [str(tmp_path)]
    assert "was begun with" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("distill.teacher=@OracleTeacher()", "distill.teacher wants @OracleTeacher, without parentheses"),
        ("distill.teacher=3", "wants a reference such as @NAME"),
        ("FILTERS=[@TooLong]", "distill.filters wants @TooLong(), with parentheses"),
        ("FILTERS=['TooLong']", "wants a reference such as @NAME()"),
        ("FILTERS=@TooLong()", "wants a list; bind [@TooLong()]"),
        ("FILTERS=[@BestOfK()]", "wants something with `reason`"),
        ("SELECTION=@BestOfK", "Agent.selection wants @BestOfK(), with parentheses"),
        ("SELECTION=@TooLong()", "wants something with `__call__`"),
        ("SELECTION=3", "wants a reference such as @NAME()"),
        ("Agent.verifier=@ChrF()", "Agent.verifier wants @ChrF, without parentheses"),
        ("Agent.update=@ChrF", "wants something with `write`"),
        ("LowScore.verifier='ChrF'", "wants a reference such as @NAME"),
    ],
)
def test_a_reference_that_is_none_is_refused_by_demo_before_anything_is_written(binding, words, tmp_path, capfd):
    folder = tmp_path / "demo"
    assert runs.here(["demo", f"--model_dir={folder}", f"--gin.{binding}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"--gin.{binding.split('=')[0]}=" in error and words in error
    assert not folder.exists()


@pytest.mark.parametrize("binding", ["SELECTION=@uniform", "SELECTION=None", "FILTERS=[]", "Agent.verifier=@TokenF1"])
def test_a_reference_that_is_one_is_taken(binding, tmp_path, capfd):
    assert runs.here(["demo", f"--model_dir={tmp_path}/x", f"--gin.{binding}", "--gin.EVAL_PERIOD=30"]) == 2
    assert "does not divide" in capfd.readouterr().err
