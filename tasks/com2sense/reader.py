"""Reads the original Com2Sense files (Singh et al. 2021, arXiv 2106.00969).

What the release does, and what is made of it here:

- The labels of test.json were never released: `test` is dev.json, and test.json is the split `unlabelled`.
- A domain is spelt `time` in train.json, `temporal` in dev.json and either way in test.json; likewise the scenario
  `comparison` or `comparative`. The spelling of train.json is used for all.
- One statement of dev.json has the scenario `physical`, and the two of a pair differ in domain, scenario or numeracy
  now and then (1 pair of dev.json, 2 of test.json). They stay as they are.
- 22 ids of pair_id_dev.json have no row in dev.json. They are passed over. Each statement has its complement there.
- Two statements of train.json stand there with either label, and three are in train.json and in test.json. They stay.
"""

import os
import re
from typing import Any

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.tasks import texts
from cd_jax.types import Example

QUESTION = "Does this make sense?"
UNLABELLED = "unlabelled"
# What a label of the release is as an answer.
ANSWERS = {"True": "yes", "False": "no"}

_FILES = {"train": "train", "validation": "train", "test": "dev", UNLABELLED: "test"}
_FACETS = ("domain", "scenario", "numeracy")
_KEYS = ("id", "sent", "label", *_FACETS)
# After lower-casing; `flase` stands in dev.json.
_SPELLINGS = {"temporal": "time", "comparative": "comparison", "flase": "false"}
_MEND = "give --com2sense_dir the folder with train.json, dev.json, test.json and pair_id_*.json"
_RESTORE = "restore the original file"
_ID = re.compile(r"[^\s/]+")

Row = dict[str, str]


def _load(path: epath.Path, kind: type) -> Any:
    """The content of a JSON file whose top level is of `kind`, and not empty."""
    content = files.read_json(path, _RESTORE, kind, _MEND)
    if not content:
        raise RequestError(f"{path}: empty; {_RESTORE}")
    return content


def _text(row: Row, key: str, where: str) -> str:
    """The value of a key, with single spaces: many statements end in blanks or have two between sentences."""
    if not isinstance(row[key], str) or not row[key].strip():
        raise RequestError(f"{where}: '{key}' is {texts.shown(row[key])}; make it a string that is not empty")
    if odd := texts.odd_in_sentence(row[key]):
        raise RequestError(f"{where}: '{key}' has the character {odd}, which no text has; remove it or {_RESTORE}")
    return " ".join(row[key].split())


def _row(row: Any, where: str, labelled: bool) -> Row:
    """What matters here of one statement, checked; `answer` is empty where there are no labels."""
    if not isinstance(row, dict):
        raise RequestError(f"{where}: not an object; {_RESTORE}")
    if unknown := sorted(row.keys() - set(_KEYS)):
        raise RequestError(
            f"{where}: key {texts.shown(unknown[0])} is none of {', '.join(_KEYS)}; remove it or {_RESTORE}"
        )
    needed = ("id", "sent", "label") if labelled else ("id", "sent")
    for key in needed:
        if key not in row:
            raise RequestError(f"{where}: key '{key}' is missing; add it or {_RESTORE}")
    found = {key: _text(row, key, where) for key in (*needed, *_FACETS) if key in row}
    if labelled and row["label"] not in ANSWERS:
        raise RequestError(f"{where}: label {texts.shown(row['label'])}; make it 'True' or 'False'")
    # Ids of examples are made of it, and those of a submission again of them.
    if not _ID.fullmatch(found["id"]):
        raise RequestError(f"{where}: id {texts.shown(found['id'])} has a blank or a slash; {_RESTORE}")
    facets = {key: found.get(key, "").lower() for key in _FACETS}
    facets = {key: _SPELLINGS.get(spelt, spelt) for key, spelt in facets.items()}
    if facets["numeracy"] not in ("true", "false", ""):
        raise RequestError(f"{where}: numeracy {texts.shown(row['numeracy'])}; make it 'True' or 'False'")
    return {
        "id": found["id"],
        "sent": found["sent"],
        "answer": ANSWERS[row["label"]] if labelled else "",
        **facets,
    }


def _rows(path: epath.Path, labelled: bool) -> dict[str, Row]:
    """The statements by their ids, in the order of the file."""
    rows: dict[str, Row] = {}
    for number, raw in enumerate(_load(path, list), 1):
        row = _row(raw, f"{path}: statement {number}", labelled)
        if row["id"] in rows:
            raise RequestError(
                f"{path}: statement {number}: id {texts.shown(row['id'])} stands there twice; remove one"
            )
        rows[row["id"]] = row
    return rows


def _partners(path: epath.Path, rows: dict[str, Row]) -> dict[str, str]:
    """Each statement's complement, for those statements whose complement has a row."""
    partners = _load(path, dict)
    for one, other in partners.items():
        back = partners.get(other) if isinstance(other, str) else None
        if back != one or one == other:
            raise RequestError(
                f"{path}: {texts.shown(one)} is paired with {texts.shown(other)}, "
                f"which is paired with {texts.shown(back)}; make the two name each other"
            )
        if one in rows and other in rows and rows[one]["answer"] == rows[other]["answer"] != "":
            raise RequestError(
                f"{path}: {texts.shown(one)} and {texts.shown(other)} have the same label; "
                "of two complements one is True, one is False"
            )
    paired = {one: other for one, other in partners.items() if one in rows and other in rows}
    if not paired:
        raise RequestError(f"{path}: pairs no two of the {len(rows)} statements; {_RESTORE}")
    for number, one in enumerate(rows, 1):
        # In the release each statement has one; without this check, damage to an id would lose a pair silently.
        if one not in partners:
            raise RequestError(
                f"{path}: has no complement of {texts.shown(one)}, statement {number}; restore the original files"
            )
    return paired


def _groups(rows: dict[str, Row], partners: dict[str, str]) -> list[tuple[str, ...]]:
    """Ids in pairs, in the order in which each pair's first member appears; unpaired ids stay in place, alone."""
    groups: list[tuple[str, ...]] = []
    seen: set[str] = set()
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


def find_folder(com2sense_dir: str | os.PathLike) -> epath.Path:
    """The folder that has the files. Raises RequestError where there is none."""
    folder = epath.Path(com2sense_dir)
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; {_MEND}")
    return folder


def read(com2sense_dir: str | os.PathLike, split: str, task: str) -> list[Example]:
    """Reads one split, the two statements of a pair next to each other, or `unlabelled` in the order of its file.

    `test` is dev.json, since test.json has no labels; `validation` is the last tenth of train.json's pairs.

    Args:
      com2sense_dir: the folder with `train.json`, `dev.json`, `test.json` and `pair_id_*.json`; of these only the two
        of the split are read.
      split: `train`, `validation`, `test` or `unlabelled`, which is test.json.
      task: the name of the SeqIO task.

    Returns:
      The examples. `contrast` and `pair_id` are empty where the complement has no row, `answer` is in `unlabelled`;
      `domain`, `scenario` and `numeracy` are in lower case and in one spelling, and empty where a row has none.

    Raises:
      RequestError: a file is missing or malformed.
    """
    if split not in _FILES:
        raise RequestError(f"Com2Sense has no split {split!r}; choose one of {', '.join(_FILES)}")
    folder, name = find_folder(com2sense_dir), _FILES[split]
    path = folder / f"{name}.json"
    rows = _rows(path, labelled=split != UNLABELLED)
    partners = _partners(folder / f"pair_id_{name}.json", rows)
    # A submission file is in the order of test.json.
    groups = [(one,) for one in rows] if split == UNLABELLED else _groups(rows, partners)
    if name == "train":
        groups = _hold_out(groups, split, path)
    return [_example(rows, partners, one, split, task) for group in groups for one in group]


def _example(rows: dict[str, Row], partners: dict[str, str], one: str, split: str, task: str) -> Example:
    row, other = rows[one], partners.get(one)
    return Example(
        example_id=f"{task}/{split}/{one}",
        task=task,
        context=row["sent"],
        question=QUESTION,
        answer=row["answer"],
        contrast=rows[other]["sent"] if other else "",
        pair_id=min(one, other) if other else "",
        domain=row["domain"],
        scenario=row["scenario"],
        numeracy=row["numeracy"],
    )
