"""Stories made for a bAbI task, written as the original files are."""

import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.tasks.babi import archive, format
from cd_jax.tasks.babi.story import Story
from cd_jax.tasks.babi.worlds import generate, shifts
from cd_jax.tasks.catalogue import Catalogue


def write_stories(name: str | None, directory: str, num_questions: int, seed: int) -> None:
    """Writes stories made for a bAbI task in the format of the original files, one file for each split.

    Args:
      name: `babi_qa3`, `babi_qa3_names` (a named shift), or a mixture of such tasks.
      directory: gets `qa3_three-supporting-facts_train.txt` and so on.
      num_questions: of train; validation and test have a tenth as many, at least one.
      seed: of the stories.

    Raises:
      RequestError: no such task, or it is not one of bAbI's.
      RunError: a file cannot be written; what stood there is kept.
    """
    if num_questions < 1:
        raise RequestError(f"--num_questions={num_questions}: give 1 or more")
    if name is None:
        raise RequestError("--write wants a task: cd_jax tasks babi_qa3 --write=DIR")
    # The stories are made: whatever data there is, it is not read.
    for task in Catalogue().subtasks(name):
        match = re.fullmatch(r"babi_qa(\d+)(?:_(\w+))?", task)
        if match is None or (match[2] and match[2] not in shifts.SHIFTS):
            raise RequestError(
                f"{task}: only stories of bAbI can be made; choose babi_qa1 … babi_qa20 or a shift of one"
            )
        number, setting = int(match[1]), shifts.SHIFTS.get(match[2], generate.RELEASED)
        for split, suffix in (("train", "train"), ("validation", "valid"), ("test", "test")):
            size = num_questions if split == "train" else max(1, num_questions // 10)
            stories = list(_until(size, generate.split_stories(number, split, seed, setting)))
            path = pathlib.Path(directory) / f"qa{number}_{archive.TASK_NAMES[number]}_{suffix}.txt"
            files.write_text(path, "".join(format.write(stories)))
            print(f"{path}: {size} questions in {len(stories)} stories", flush=True)


def _until(size: int, stories: Iterable[Story]) -> Iterator[Story]:
    """Stories with so many questions in all; the last one may lose some of its own."""
    for story in stories:
        allowed = itertools.count(1)
        # The bound is of this story: the filter is used up before the next one is asked for.
        yield story.asking(lambda _, allowed=allowed, left=size: next(allowed) <= left)
        size -= len(story.questions())
        if size <= 0:
            return
