"""Finds and reads the files of the original archive (Weston et al. 2015, arXiv 1502.05698), in whichever layout."""

import functools
import os

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.tasks.babi import story
from cd_jax.tasks.babi.format import parse, shown
from cd_jax.tasks.babi.story import Story
from cd_jax.types import Example

TASK_NAMES = {
    1: "single-supporting-fact",
    2: "two-supporting-facts",
    3: "three-supporting-facts",
    4: "two-arg-relations",
    5: "three-arg-relations",
    6: "yes-no-questions",
    7: "counting",
    8: "lists-sets",
    9: "simple-negation",
    10: "indefinite-knowledge",
    11: "basic-coreference",
    12: "conjunction",
    13: "compound-coreference",
    14: "time-reasoning",
    15: "basic-deduction",
    16: "basic-induction",
    17: "positional-reasoning",
    18: "size-reasoning",
    19: "path-finding",
    20: "agents-motivations",
}

ARCHIVE = "tasks_1-20_v1-2"

# The archive's folders. Where none is asked for, the first of the English ones that is there: a split of the authors
# comes before ours, and 1,000 questions are what the paper used.
LAYOUTS = ("en-valid", "en", "en-valid-10k", "en-10k", "hn", "hn-10k", "shuffled", "shuffled-10k")
ENGLISH = LAYOUTS[:4]
_SUFFIXES = {"train": "train", "validation": "valid", "test": "test"}
_MEND = f"give --babi_dir the folder of the original archive ({ARCHIVE}) or one of those in it, such as en or en-valid"


def find_folder(babi_dir: str | os.PathLike, layout: str | None = None) -> epath.Path:
    """The folder that has the files themselves.

    Args:
      babi_dir: the root of the archive, its parent, or the folder itself.
      layout: of `LAYOUTS`; None: the first English one that is there.

    Raises:
      RequestError: there is no such folder.
    """
    root = epath.Path(babi_dir)
    if not root.is_dir():
        raise RequestError(f"{root}: no such folder; {_MEND}")
    if layout is not None and layout not in LAYOUTS:
        raise RequestError(f"bAbI has no layout {shown(layout)}; bind BABI_LAYOUT to one of {', '.join(LAYOUTS)}")
    wanted = ENGLISH if layout is None else (layout,)
    found = [base / name for base in (root, root / ARCHIVE) for name in wanted if (base / name).is_dir()]
    if found:
        return found[0]
    if layout in (None, root.name):
        return root
    raise RequestError(f"{root}: has no folder {layout}; {_MEND}, or bind BABI_LAYOUT to one that is there")


def find_file(folder: epath.Path, task_number: int, split: str) -> epath.Path:
    """The file on which a split rests; for validation that of train where the folder has no validation files at all.

    Args:
      folder: of `find_folder`.
      task_number: 1 to 20.
      split: `train`, `validation` or `test`.

    Raises:
      RequestError: the file is missing, or there is no such task or split.
    """
    if task_number not in TASK_NAMES:
        raise RequestError(f"bAbI has no task {task_number}; choose one of 1 to {len(TASK_NAMES)}")
    if split not in _SUFFIXES:
        raise RequestError(f"bAbI has no split {shown(split)}; choose one of {', '.join(_SUFFIXES)}")
    held_out = split == "validation" and not _has_validation_files(folder)
    suffix = _SUFFIXES["train" if held_out else split]
    names = (f"qa{task_number}_{suffix}.txt", f"qa{task_number}_{TASK_NAMES[task_number]}_{suffix}.txt")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise RequestError(f"{folder}: neither {' nor '.join(names)} is there; {_MEND}")


def _has_validation_files(folder: epath.Path) -> bool:
    # Any task's: where one file of the authors' split is lost, another split must not silently take its place.
    return any(True for _ in folder.glob("qa*_valid.txt"))


# Keyed by the bytes themselves, not by the path, so that a file that changes is never served stale.
@functools.lru_cache(maxsize=64)
def _parse(data: bytes, source: str) -> tuple[Story, ...]:
    stories = tuple(parse(data.split(b"\n"), source))
    if not data.rstrip(b" ").endswith(b"\n"):
        # Of a supporting id like 12 a cut may have left 1.
        number, mend = data.count(b"\n") + 1, "end it with a newline, or restore the original file"
        raise RequestError(f"{source}:{number}: the last line has no end, so that the file may be cut; {mend}")
    return stories


def read_stories(babi_dir: str | os.PathLike, task_number: int, split: str, layout: str | None = None) -> list[Story]:
    """The stories of one split of one task, in the order of the file.

    Where the folder has no validation files, validation is the last tenth of the train file's stories (at least one)
    and train the rest.

    Args:
      babi_dir: see `find_folder`.
      task_number: 1 to 20.
      split: `train`, `validation` or `test`.
      layout: see `find_folder`.

    Raises:
      RequestError: the file is missing or malformed.
    """
    folder = find_folder(babi_dir, layout)
    path = find_file(folder, task_number, split)
    try:
        stories = _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); {_MEND}") from error
    if split == "test" or _has_validation_files(folder):
        return list(stories)
    return _hold_out(stories, split, path)


def _hold_out(stories: tuple[Story, ...], split: str, path: epath.Path) -> list[Story]:
    """The last tenth of the stories for validation, the rest for train; `en-valid` has as many, drawn at random."""
    if len(stories) < 2:
        raise RequestError(f"{path}: one story cannot be split into train and validation; add stories or a valid file")
    first = len(stories) - max(1, len(stories) // 10)
    return list(stories[first:] if split == "validation" else stories[:first])


def read(
    babi_dir: str | os.PathLike, task_number: int, split: str, task: str, layout: str | None = None
) -> list[Example]:
    """Reads one split of one task, as examples of the SeqIO task `task`; see `read_stories`.

    Raises:
      RequestError: the file is missing or malformed.
    """
    return list(story.examples(read_stories(babi_dir, task_number, split, layout), task, split))
