"""Damaged data sets and records: one clean line, or what was there, or what may well have been meant.

A few mutants of each format are read always, ten thousand of each where `slow` tests are asked for.
"""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable

import mutants
import pytest
import test_babi_format
from test_com2sense_reader import mutual, row
from test_com2sense_reader import write as write_com2sense

from cd_jax.errors import RequestError
from cd_jax.rundir import updates as store
from cd_jax.rundir.attempts import read as read_attempts
from cd_jax.tasks.babi import archive, format
from cd_jax.tasks.babi.story import Question, Story
from cd_jax.tasks.com2sense import reader
from cd_jax.tasks.own import in_json_lines
from cd_jax.types import Example, Update

FEW, MANY = 100, 10_000
# What may stand in no text of a data set.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
DAMAGE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffd\ud800-\udfff]")
SAID = "John went to the “café”. ☃"


@dataclasses.dataclass
class Format:
    """A file to be damaged.

    Attributes:
      make: writes it, and what belongs to it, into a folder, and returns it.
      read: reads it, given its path.
      check: asserts that what was read is whole, given what was there before.
    """

    make: Callable[[pathlib.Path], pathlib.Path]
    read: Callable[[pathlib.Path], list]
    check: Callable[[list, list], None]


# bAbI


def babi(folder: pathlib.Path) -> pathlib.Path:
    file = folder / "qa1_train.txt"
    file.write_text("".join(format.write(test_babi_format.STORIES * 6)))
    return file


def read_babi(file: pathlib.Path) -> list[Story]:
    return [
        story for split in ("train", "validation") for story in archive.read_stories(file.parent, 1, split)
    ]  # fmt: skip


def check_babi(found: list[Story], before: list[Story]) -> None:
    for story in found:
        assert isinstance(story.lines[-1], Question)
        for line in story.lines:
            assert not any(DAMAGE.search(text) or text != text.strip() or not text for text in texts_of(line))
        for question, said in story.asked():
            assert question.support and all(i in said for i in question.support)
            assert "\t" not in question.text + question.answer
        assert not any("?" in line or "\t" in line for line in story.statements())
    # Written again it is read as the same: nothing of the line was lost on the way.
    assert list(format.parse((line.encode() for line in format.write(found)), "x")) == found


def texts_of(line: str | Question) -> tuple[str, ...]:
    return (line,) if isinstance(line, str) else (line.text, line.answer)


# Com2Sense


def com2sense(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        facets = {"scenario": "causal", "numeracy": "False"}
        rows = [row(n, str(n % 2 == 0), sent=f"{SAID} {n}", **facets) for n in range(12)]
        couples = [(f"id{n:02d}", f"id{n + 1:02d}") for n in range(0, 12, 2)]
        write_com2sense(folder, rows, mutual(*couples), "train")
        return folder / name

    return make


def read_com2sense(file: pathlib.Path) -> list[Example]:
    return [one for split in ("train", "validation") for one in reader.read(file.parent, split, "t")]


def check_com2sense(found: list[Example], before: list[Example]) -> None:
    # No statement is lost, told twice or of another name.
    assert sorted(one.example_id.rpartition("/")[2] for one in found) == [f"id{n:02d}" for n in range(12)]
    by_pair = collections.defaultdict(list)
    for one in found:
        assert one.answer in ("yes", "no") and one.context and one.question == reader.QUESTION
        assert one.numeracy in ("true", "false", "")
        assert not any(DAMAGE.search(text) for text in dataclasses.astuple(one) if isinstance(text, str))
        by_pair[one.pair_id].append(one)
    for first, second in by_pair.values():
        assert {first.answer, second.answer} == {"yes", "no"}
        assert (first.contrast, second.contrast) == (second.context, first.context)


def check_pairs(found: list[Example], before: list[Example]) -> None:
    """Of pairs nothing can be meant but what was there."""
    assert found == before


# Lines of JSON


def own(folder: pathlib.Path) -> pathlib.Path:
    lines = [
        {"prompt": f"{SAID} {n}", "answer": f"the {n}th", "explanation": [SAID, f"so {n}"] if n % 2 else f"so {n}"}
        for n in range(6)
    ]
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "train.jsonl"


def read_own(file: pathlib.Path) -> list[Example]:
    read, _ = in_json_lines({"mine": str(file.parent)}, ())["mine"]
    return list(read("train"))


def check_own(found: list[Example], before: list[Example]) -> None:
    for number, one in enumerate(found):
        assert one.example_id == f"mine/train/{number}" and not one.question
        assert one.prompt.strip() and one.answer.strip()
        assert not any(CONTROL.search(text) for text in (one.prompt, one.answer, *one.explanations))
        assert all(text == " ".join(text.split()) != "" for text in one.explanations)
        assert len(set(one.explanations)) == len(one.explanations)


def updates(folder: pathlib.Path) -> pathlib.Path:
    told = [
        Update(f"t/train/{n // 2}", "t", f"{SAID} {n}", "oracle", "why?", n % 2, 7, 0.5 if n % 3 else None)
        for n in range(8)
    ]
    store.append(folder / "updates.jsonl", told)
    return folder / "updates.jsonl"


def check_updates(found: list[Update], before: list[Update]) -> None:
    assert len({(one.example_id, one.sample) for one in found}) == len(found)
    for one in found:
        assert all(
            isinstance(getattr(one, name), str) for name in ("example_id", "task", "teacher", "prompt", "reason")
        )
        assert one.update.strip() and type(one.sample) is type(one.seed) is int and one.sample >= 0
        assert one.score is None or 0 <= one.score <= 1


def attempts(folder: pathlib.Path) -> pathlib.Path:
    lines = [{"example_id": f"t/train/{n}", "generation": f"{SAID} answer: {n}", "score": 0.5} for n in range(6)]
    (folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "said.jsonl"


def check_attempts(found: list[tuple[str, str]], before: list[tuple[str, str]]) -> None:
    assert all(isinstance(text, str) for one in found for text in one)


FORMATS = {
    "bAbI": Format(babi, read_babi, check_babi),
    "train.json": Format(com2sense("train.json"), read_com2sense, check_com2sense),
    "pair_id_train.json": Format(com2sense("pair_id_train.json"), read_com2sense, check_pairs),
    "a task of one's own": Format(own, read_own, check_own),
    "updates.jsonl": Format(updates, store.read, check_updates),
    "attempts": Format(
        attempts, lambda file: [(said.example_id, said.generation) for said in read_attempts(str(file))], check_attempts
    ),
}


def fuzz(form: Format, folder: pathlib.Path, count: int, seed: int) -> dict[str, int]:
    """Reads so many mutants; how many of each outcome there were. Raises what a reader should not."""
    file = form.make(folder)
    before = form.read(file)
    form.check(before, before)
    counts = {"refused": 0, "read the same": 0, "read another": 0}
    for mutant in mutants.of(file.read_bytes(), count, seed):
        file.write_bytes(mutant)
        try:
            found = form.read(file)
        except RequestError as error:
            message = str(error)
            assert re.match(rf"{re.escape(str(folder))}/\S+?: ", message), message
            assert len(message.splitlines()) == 1 and "; " in message
            assert len(message) < len(str(folder)) + 400
            counts["refused"] += 1
            continue
        form.check(found, before)
        counts["read the same" if found == before else "read another"] += 1
    return counts


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_data_are_refused_in_one_line_or_read(name, tmp_path):
    assert fuzz(FORMATS[name], tmp_path, FEW, 0)["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_damaged_data_files(name, tmp_path):
    counts = fuzz(FORMATS[name], tmp_path, MANY, 1)
    print(f"\n{name}: {counts}")
    assert counts["refused"] > MANY // 20
