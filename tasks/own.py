"""Tasks of the user's own: those of SeqIO's registry, and folders of JSON lines."""

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import seqio

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.rundir import journal
from cd_jax.tasks import texts
from cd_jax.tasks.source import Read, is_ours
from cd_jax.types import Example

SPLITS = ("train", "validation", "test")
_FIELDS = ("prompt", "answer", "explanation")
_LINE = '{"prompt": …, "answer": …, "explanation": …}'
# What a task of SeqIO's may call what explains an example.
_EXPLANATIONS = ("explanation", "update")

Readers = dict[str, tuple[Read, tuple[str, ...]]]


def in_seqio() -> tuple[Readers, dict[str, list[str]]]:
    """The tasks and mixtures that the user's modules have registered with SeqIO.

    Returns:
      Readers and splits by task; the tasks by mixture. Its rates count for nothing: all examples of its tasks are used.
    """
    tasks, mixtures = (_theirs(registry) for registry in (seqio.TaskRegistry, seqio.MixtureRegistry))
    read: Readers = {name: (functools.partial(_read_task, task), tuple(task.splits)) for name, task in tasks.items()}
    return read, {name: [task.name for task in mixture.tasks] for name, mixture in mixtures.items()}


def _theirs(registry: type[seqio.DatasetProviderRegistry]) -> dict[str, Any]:
    """What is in a registry and not of a catalogue, by name."""
    providers = {name: registry.get(name) for name in sorted(registry.names())}
    return {name: provider for name, provider in providers.items() if not is_ours(provider)}


@functools.lru_cache(maxsize=16)
def _read_task(task: seqio.Task, split: str) -> Sequence[Example]:
    """Every example of a split, as texts.

    Raises:
      RequestError: the task cannot be read, has no such split, or lacks inputs or targets.
    """
    if split not in task.splits:
        raise RequestError(
            f"{task.name} has no split {split!r}, but {', '.join(task.splits)}; give its `splits` one of this name, "
            "such as {'validation': 'train[90%:]'}"
        )
    try:
        rows = list(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())
    except Exception as error:  # The user's own code, and all that it calls.
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"{task.name}: SeqIO cannot read its split {split!r} ({said}); mend the task") from error
    return [_example_of_row(task, split, number, row) for number, row in enumerate(rows)]


def _example_of_row(task: seqio.Task, split: str, number: int, row: dict[str, Any]) -> Example:
    for feature in ("inputs", "targets"):
        if feature not in row:
            raise RequestError(f"{task.name}: its examples have no {feature!r}; let its preprocessors make it")
    [prompt], [target] = (_texts(task, row, feature) for feature in ("inputs", "targets"))
    # As of our tasks, `explanation answer: y`; or the answer alone.
    marked = formats.has_answer(target)
    said = [text for feature in _EXPLANATIONS if feature in row for text in _texts(task, row, feature)]
    if marked and not said:
        said = [formats.parse_update(target)]
    return _example(task.name, split, number, prompt, formats.parse_answer(target) if marked else target, said)


def _texts(task: seqio.Task, row: dict[str, Any], feature: str) -> list[str]:
    """A feature as it was before it became tokens, where SeqIO has kept that; else decoded. One text, or several."""
    value = row.get(f"{feature}_pretokenized", row[feature])
    if isinstance(value, bytes):
        return [value.decode("utf-8", "replace")]
    if value.dtype == object:
        return [text.decode("utf-8", "replace") for text in value]
    return [task.output_features[feature].vocabulary.decode(value.tolist())]


def _example(task: str, split: str, number: int, prompt: str, answer: str, explanations: Iterable[str]) -> Example:
    said = (" ".join(text.split()) for text in explanations)
    kept = tuple(dict.fromkeys(text for text in said if text))
    return Example(f"{task}/{split}/{number}", task, prompt, "", answer, explanations=kept)


def in_json_lines(folders: dict[str, str], ours: Iterable[str]) -> Readers:
    """Tasks from folders with `train.jsonl`, `validation.jsonl` and `test.jsonl`, of lines `{"prompt", "answer"}` that
    may have an `"explanation"`, a text or a list of them.

    Args:
      folders: by the name of the task.
      ours: names that are taken.

    Raises:
      RequestError: a name is taken or is none, or a folder lacks a file.
    """
    taken, read = set(ours), {}
    for name, folder in folders.items():
        if name in taken or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise RequestError(
                f"--task_jsonl={name}={folder}: the name is taken, or is none; take another, e.g. my_task"
            )
        for split in SPLITS:
            if not _file(folder, split).is_file():
                raise RequestError(f"{_file(folder, split)}: no such file; write one example a line into it, {_LINE}")
        read[name] = (functools.partial(_read_lines, name, folder), SPLITS)
    return read


def _file(folder: str, split: str) -> pathlib.Path:
    return pathlib.Path(folder) / f"{split}.jsonl"


def _read_lines(task: str, folder: str, split: str) -> Sequence[Example]:
    """Every example of a split.

    Raises:
      RequestError: there is no such split, or a line is malformed.
    """
    if split not in SPLITS:
        raise RequestError(f"{task} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    rows = journal.read(_file(folder, split), dict, _parse, "an example", f"write it as {_LINE}")
    return [_example(task, split, number, *row) for number, row in enumerate(rows)]


def examples_of(records: Iterable[Mapping[str, Any]], task: str) -> list[Example]:
    """Examples that are given as values, each of the form of a line of `in_json_lines`.

    Raises:
      RequestError: one of them is malformed.
    """
    found = []
    for number, record in enumerate(records):
        try:
            prompt, answer, said = _parse(dict(record))
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(f"example {number} of {task!r}: {error}; write it as {_LINE}") from error
        # Known by what it says: the same one may come again.
        digest = int.from_bytes(hashlib.sha256(f"{prompt} {answer}".encode()).digest()[:4], "big")
        found.append(_example(task, "told", digest, prompt, answer, said))
    return found


def _parse(record: dict[str, Any]) -> tuple[str, str, list[str]]:
    unknown = sorted(record.keys() - set(_FIELDS))
    if unknown:
        raise ValueError(f"has {texts.shown(unknown[0])}, which is none of {', '.join(_FIELDS)}")
    explanation = record.get("explanation", [])
    said = [explanation] if isinstance(explanation, str) else explanation
    if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
        raise TypeError("its explanation is neither text nor a list of texts")
    for field in ("prompt", "answer"):
        if not isinstance(record[field], str) or not record[field].strip():
            raise TypeError(f"its {field} is no text")
    for field, text in (
        ("prompt", record["prompt"]),
        ("answer", record["answer"]),
        *(("explanation", t) for t in said),
    ):
        if odd := texts.odd_in_text(text):
            raise ValueError(f"its {field} has the character {odd}, which no text has")
    return record["prompt"].strip(), record["answer"].strip(), said
