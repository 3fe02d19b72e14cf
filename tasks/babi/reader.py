"""Reads the original bAbI files (Weston et al. 2015, arXiv 1502.05698), in whichever layout they are found."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from etils import epath

from cd_jax.errors import RequestError
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

# In the order of preference: a split of the authors comes before ours, and 1,000 questions are what the paper used.
_FOLDERS = ("en-valid", "en", "en-valid-10k", "en-10k")
_SUFFIXES = {"train": "train", "validation": "valid", "test": "test"}
_MEND = f"give --babi_dir the folder of the original archive ({ARCHIVE}) or its en or en-valid folder"

# At most nine digits: an id of more is a damaged file, and int() refuses the very long ones.
_LINE = re.compile(r"([0-9]{1,9})[ \t]+(\S.*)")
_ID = re.compile(r"[0-9]{1,9}")


class _Question(NamedTuple):
    """A question of a story; `story` counts the stories of the file from 1."""

    story: int
    context: str
    question: str
    answer: str
    supporting_facts: tuple[str, ...]


def _malformed(source: str, number: int, wrong: str, mend: str) -> RequestError:
    return RequestError(f"{source}:{number}: {wrong}; {mend}")


def _shown(text: str) -> str:
    """The text for an error message: on one line, and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _numbered(lines: Iterable[str], source: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without byte order mark and line ends. Blank lines may only stand at the end."""
    blank = 0
    for number, line in enumerate(lines, 1):
        line = (line.removeprefix("\ufeff") if number == 1 else line).strip()
        if not line:
            blank = blank or number
        elif blank:
            raise _malformed(source, blank, "blank line inside the file", "remove it or restore the original file")
        else:
            yield number, line


def _supporting_facts(ids: str, statements: dict[int, str], source: str, number: int) -> tuple[str, ...]:
    """The sentences that a question names, in the order of the story (the files of task 8 and others shuffle them)."""
    mend = "name earlier statements of the story by their ids, separated by spaces"
    named = ids.split()
    if not named:
        raise _malformed(source, number, "question without supporting ids", mend)
    for name in named:
        if not _ID.fullmatch(name):
            raise _malformed(source, number, f"supporting id {_shown(name)} is not a number", mend)
        if int(name) not in statements:
            raise _malformed(source, number, f"supporting id {name} is not an earlier statement of the story", mend)
    return tuple(statements[i] for i in sorted({int(name) for name in named}))


def _question(text: str, statements: dict[int, str], story: int, source: str, number: int) -> _Question:
    """Parses "question<tab>answer<tab>supporting ids"."""
    fields = [field.strip() for field in text.split("\t")]
    if len(fields) > 3:
        raise _malformed(
            source, number, f"{len(fields)} fields", "write question, answer and supporting ids, separated by tabs"
        )
    question, answer, ids = fields + [""] * (3 - len(fields))
    if not answer:
        raise _malformed(source, number, f"question without answer: {_shown(question)}", "add a tab and the answer")
    facts = _supporting_facts(ids, statements, source, number)
    return _Question(story, " ".join(statements.values()), question, answer, facts)


def _questions(lines: Iterable[str], source: str) -> Iterator[_Question]:
    """The questions of a file, in its order."""
    story, previous, statements = 0, 0, {}
    for number, line in _numbered(lines, source):
        match = _LINE.fullmatch(line)
        if not match:
            raise _malformed(source, number, f"no id and text in {_shown(line)}", 'write "ID text", with a numeric id')
        current, text = int(match[1]), match[2]
        if current == 1:
            story, statements = story + 1, {}
        elif current != previous + 1 or not story:
            expected = f"{previous + 1}, or 1 for a new story" if story else "1"
            raise _malformed(source, number, f"id {current} out of order", f"expected {expected}")
        previous = current
        # No statement of bAbI has a question mark: one without a tab is a question that lost its answer.
        if "\t" in text or "?" in text:
            yield _question(text, statements, story, source, number)
        else:
            statements[current] = text


def _examples(questions: Iterable[_Question], task: str, split: str) -> Iterator[Example]:
    for index, q in enumerate(questions):
        story_id = f"{task}/{split}/story{q.story}"
        yield Example(
            f"{task}/{split}/{index}", task, q.context, q.question, q.answer, q.supporting_facts, story_id=story_id
        )


def parse_story_lines(lines: Iterable[str], source: str, task: str, split: str) -> Iterator[Example]:
    """Parses lines in the format of bAbI: "ID text" or "ID question<tab>answer<tab>supporting ids".

    An id of 1 starts a new story. Trailing blanks, CRLF, a byte order mark and blank lines at the end do no harm.

    Args:
      lines: the lines of one file, with or without their ends.
      source: the name of the file, for error messages.
      task: the name of the SeqIO task.
      split: the split, for the example ids.

    Yields:
      An example for each question. Its context has the statements so far, without the questions.

    Raises:
      RequestError: a line is malformed; the message names source, line and mend.
    """
    return _examples(_questions(lines, source), task, split)


def _folder(babi_dir: str | os.PathLike) -> epath.Path:
    """The folder that has the files themselves, under the archive's root or its parent."""
    root = epath.Path(babi_dir)
    if not root.is_dir():
        raise RequestError(f"{root}: no such folder; {_MEND}")
    for base in (root, root / ARCHIVE):
        for name in _FOLDERS:
            if (base / name).is_dir():
                return base / name
    return root


def _candidates(folder: epath.Path, task_number: int, suffix: str) -> list[epath.Path]:
    names = (f"qa{task_number}_{suffix}.txt", f"qa{task_number}_{TASK_NAMES[task_number]}_{suffix}.txt")
    return [folder / name for name in names]


def find_file(babi_dir: str | os.PathLike, task_number: int, split: str) -> list[epath.Path]:
    """The file on which a split rests, as a list of one path.

    Args:
      babi_dir: the root of the archive, its parent, or a folder of the `en` or the `en-valid` kind. Of the folders in
        the archive, `en-valid` comes first.
      task_number: 1 to 20.
      split: `train`, `validation` or `test`.

    Returns:
      The path. For validation it is that of the train file where the folder has no validation files at all.

    Raises:
      RequestError: the folder or the file is missing, or there is no such task or split.
    """
    if task_number not in TASK_NAMES:
        raise RequestError(f"bAbI has no task {task_number}; choose one of 1 to {len(TASK_NAMES)}")
    if split not in _SUFFIXES:
        raise RequestError(f"bAbI has no split {_shown(split)}; choose one of {', '.join(_SUFFIXES)}")
    folder = _folder(babi_dir)
    held_out = split == "validation" and not _has_validation_files(folder)
    candidates = _candidates(folder, task_number, _SUFFIXES["train" if held_out else split])
    found = [path for path in candidates if path.exists()]
    if not found:
        raise RequestError(f"{folder}: neither {' nor '.join(path.name for path in candidates)} is there; {_MEND}")
    return found[:1]


def _has_validation_files(folder: epath.Path) -> bool:
    # Any task's: where one file of the authors' split is lost, another split must not silently take its place.
    return any(True for _ in folder.glob("qa*_valid.txt"))


# Keyed by the text itself, not by the path, so that a file that changes is never served stale.
@functools.lru_cache(maxsize=64)
def _parse(text: str, source: str) -> tuple[_Question, ...]:
    return tuple(_questions(text.split("\n"), source))


def _load(path: epath.Path) -> tuple[_Question, ...]:
    try:
        data = path.read_bytes()
        questions = _parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise _malformed(str(path), number, "not UTF-8", "restore the original file") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); {_MEND}") from error
    if not questions:
        raise RequestError(f"{path}: holds no questions; restore the original file")
    return questions


def _hold_out(questions: tuple[_Question, ...], split: str, path: epath.Path) -> list[_Question]:
    """The last tenth of the stories for validation, the rest for train; `en-valid` has as many, drawn at random."""
    stories = sorted({q.story for q in questions})
    if len(stories) < 2:
        raise RequestError(f"{path}: one story cannot be split into train and validation; add stories or a valid file")
    first = stories[-max(1, len(stories) // 10)]
    return [q for q in questions if (q.story >= first) == (split == "validation")]


def read(babi_dir: str | os.PathLike, task_number: int, split: str, task: str) -> list[Example]:
    """Reads one split of one task.

    Where the folder has no validation files, validation is the last tenth of the train file's stories (whole stories,
    at least one) and train the rest.

    Args:
      babi_dir: see `find_file`.
      task_number: 1 to 20.
      split: `train`, `validation` or `test`.
      task: the name of the SeqIO task.

    Returns:
      The examples, in the order of the file.

    Raises:
      RequestError: the file is missing or malformed.
    """
    [path] = find_file(babi_dir, task_number, split)
    questions = _load(path)
    if split != "test" and not _has_validation_files(path.parent):
        questions = _hold_out(questions, split, path)
    return list(_examples(questions, task, split))
