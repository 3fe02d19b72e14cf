"""Reads the original Com2Sense files (Singh et al. 2021, arXiv 2106.00969)."""

import json
import os
from typing import Any

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.types import Example

QUESTION = "Does this make sense?"

_ANSWERS = {"True": "yes", "False": "no"}
# The labels of test.json were never released: dev is what can be tested on, and validation comes out of train.
_FILES = {"train": "train", "validation": "train", "test": "dev"}
_KEYS = ("id", "sent", "label")
_MEND = "give --com2sense_dir the folder with train.json, dev.json and pair_id_*.json"
_RESTORE = "restore the original file"


def _load(path: epath.Path, kind: type) -> Any:
    """The content of a JSON file whose top level is of `kind`."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file; {_MEND}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); {_MEND}") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}:{error.lineno}: invalid JSON ({error.msg}); {_RESTORE}") from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path}:{number}: not UTF-8; {_RESTORE}") from error
    if not isinstance(content, kind):
        wanted = {list: "a list of statements", dict: "an object of pairs of ids"}[kind]
        raise RequestError(f"{path}: not {wanted}; {_RESTORE}")
    return content


def _row(row: Any, where: str) -> dict[str, str]:
    """The keys of one statement that matter here, checked and with single spaces."""
    if not isinstance(row, dict):
        raise RequestError(f"{where}: not an object; {_RESTORE}")
    for key in _KEYS:
        if key not in row:
            raise RequestError(f"{where}: key '{key}' is missing; add it or {_RESTORE}")
        if not isinstance(row[key], str) or not row[key].strip():
            raise RequestError(f"{where}: '{key}' is {row[key]!r}; make it a string that is not empty")
    if row["label"] not in _ANSWERS:
        raise RequestError(f"{where}: label {row['label']!r}; make it 'True' or 'False'")
    # Many statements end in blanks or have two between sentences.
    return {key: " ".join(row[key].split()) for key in _KEYS}


def _rows(path: epath.Path) -> dict[str, dict[str, str]]:
    """The statements by their ids, in the order of the file."""
    rows = {}
    for number, raw in enumerate(_load(path, list), 1):
        row = _row(raw, f"{path}: statement {number}")
        if row["id"] in rows:
            raise RequestError(f"{path}: statement {number}: id '{row['id']}' stands there twice; remove one")
        rows[row["id"]] = row
    return rows


def _partners(path: epath.Path, rows: dict[str, dict[str, str]]) -> dict[str, str]:
    """Each statement's complement, for those statements whose complement has a row (some of dev lack theirs)."""
    partners = _load(path, dict)
    for one, other in partners.items():
        back = partners.get(other) if isinstance(other, str) else None
        if back != one or one == other:
            raise RequestError(
                f"{path}: {one!r} is paired with {other!r}, which is paired with {back!r}; make the two name each other"
            )
        if one in rows and other in rows and rows[one]["label"] == rows[other]["label"]:
            raise RequestError(
                f"{path}: {one!r} and {other!r} have the same label; of two complements one is True, one is False"
            )
    return {one: other for one, other in partners.items() if one in rows and other in rows}


def _groups(rows: dict[str, dict[str, str]], partners: dict[str, str]) -> list[tuple[str, ...]]:
    """Ids in pairs, in the order in which each pair's first member appears; unpaired ids stay in place, alone."""
    groups, seen = [], set()
    for one in rows:
        if one not in seen:
            group = (one, partners[one]) if one in partners else (one,)
            groups.append(group)
            seen.update(group)
    return groups


def _hold_out(groups: list[tuple[str, ...]], split: str, path: epath.Path) -> list[tuple[str, ...]]:
    """The last tenth of the pairs (at least one) for validation; for train the rest, and what has no pair."""
    pairs = [group for group in groups if len(group) == 2]
    if len(pairs) < 2:
        raise RequestError(f"{path}: {len(pairs)} pairs cannot be split into train and validation; {_RESTORE}")
    held_out = set(pairs[-max(1, len(pairs) // 10) :])
    return [group for group in groups if (group in held_out) == (split == "validation")]


def read(com2sense_dir: str | os.PathLike, split: str, task: str) -> list[Example]:
    """Reads one split, the two statements of a pair next to each other.

    `test` is dev.json, since test.json has no labels; `validation` is the last tenth of train.json's pairs.

    Args:
      com2sense_dir: the folder with `train.json`, `dev.json` and `pair_id_*.json`.
      split: `train`, `validation` or `test`.
      task: the name of the SeqIO task.

    Returns:
      The examples. `contrast` and `pair_id` are empty where the complement has no row.

    Raises:
      RequestError: a file is missing or malformed.
    """
    if split not in _FILES:
        raise RequestError(f"Com2Sense has no split {split!r}; choose one of {', '.join(_FILES)}")
    folder, name = epath.Path(com2sense_dir), _FILES[split]
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; {_MEND}")
    path = folder / f"{name}.json"
    rows = _rows(path)
    partners = _partners(folder / f"pair_id_{name}.json", rows)
    groups = _groups(rows, partners)
    if split != "test":
        groups = _hold_out(groups, split, path)
    return [_example(rows, partners, one, split, task) for group in groups for one in group]


def _example(rows: dict[str, dict[str, str]], partners: dict[str, str], one: str, split: str, task: str) -> Example:
    row, other = rows[one], partners.get(one)
    return Example(
        example_id=f"{task}/{split}/{one}",
        task=task,
        context=row["sent"],
        question=QUESTION,
        answer=_ANSWERS[row["label"]],
        contrast=rows[other]["sent"] if other else "",
        pair_id=min(one, other) if other else "",
    )
