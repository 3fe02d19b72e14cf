"""The format of the bAbI files: lines of "ID text", and "ID question<tab>answer<tab>supporting ids"."""

import re
from collections.abc import Iterable, Iterator

from cd_jax.errors import RequestError
from cd_jax.tasks import texts
from cd_jax.tasks.babi.story import Question, Story

# At most nine digits: an id of more is a damaged file, and int() refuses the very long ones.
_LINE = re.compile(r"([0-9]{1,9}) +(\S.*)")
_ID = re.compile(r"[0-9]{1,9}")
_RESTORE = "restore the original file"


def _malformed(source: str, number: int, wrong: str, mend: str) -> RequestError:
    return RequestError(f"{source}:{number}: {wrong}; {mend}")


def shown(text: str) -> str:
    """The text for an error message: on one line, and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def parse(lines: Iterable[bytes], source: str) -> Iterator[Story]:
    """Parses a file line by line; a story is yielded as soon as the next one begins.

    An id of 1 starts a story. What the releases do is taken: blanks before a tab, several supporting ids in any order,
    ids of questions within the count. So are blanks at the end of a line, CRLF, a byte order mark, and blank lines at
    the end of the file. Each story ends with a question, as all of the releases do: one that does not is cut.

    Args:
      lines: of one file, with or without their ends, e.g. the file itself, opened to read bytes.
      source: the name of the file, for error messages.

    Raises:
      RequestError: a line is malformed, or there is none; the message names source, line and mend.
    """
    story: list[str | Question] = []
    number = 0
    for number, line in _numbered(lines, source):
        line_id, text = _split(line, source, number)
        if line_id == 1 and story:
            yield _ended(story, source, number - 1)
            story = []
        elif line_id != len(story) + 1:
            expected = f"{len(story) + 1}, or 1 for a new story" if story else "1"
            raise _malformed(source, number, f"id {line_id} out of order", f"expected {expected}; {_RESTORE}")
        # No statement of bAbI has a question mark: one without a tab is a question that lost its answer.
        is_question = "\t" in text or "?" in text
        story.append(_question(text, story, source, number) if is_question else text)
    if not story:
        raise RequestError(f"{source}: is empty; {_RESTORE}")
    yield _ended(story, source, number)


def _ended(story: list[str | Question], source: str, number: int) -> Story:
    """The story whose last line has that number."""
    if isinstance(story[-1], str):
        raise _malformed(source, number, "the story ends here without a question", _RESTORE)
    return Story(tuple(story))


def write(stories: Iterable[Story]) -> Iterator[str]:
    """The lines of a file, with their ends, which `parse` reads back as the same stories."""
    for story in stories:
        for line_id, line in enumerate(story.lines, 1):
            if isinstance(line, str):
                yield f"{line_id} {line}\n"
            else:
                # The blank before the tab is the releases' own.
                yield f"{line_id} {line.text} \t{line.answer}\t{' '.join(map(str, line.support))}\n"


def _numbered(lines: Iterable[bytes], source: str) -> Iterator[tuple[int, str]]:
    """The lines as text with their numbers, counted from 1. Blank lines may only stand at the end."""
    blank = 0
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            wrong = f"byte {error.start + 1} of the line is not UTF-8"
            raise _malformed(source, number, wrong, _RESTORE) from error
        if odd := texts.odd_in_sentence(line):
            raise _malformed(source, number, f"the character {odd}, which no text has", f"remove it or {_RESTORE}")
        if not line.strip():
            blank = blank or number
        elif blank:
            raise _malformed(source, blank, "blank line inside the file", f"remove it or {_RESTORE}")
        else:
            yield number, line.strip()


def _split(line: str, source: str, number: int) -> tuple[int, str]:
    match = _LINE.fullmatch(line)
    if not match:
        raise _malformed(source, number, f"no id and text in {shown(line)}", 'write "ID text", with a numeric id')
    return int(match[1]), match[2]


def _question(text: str, story: list[str | Question], source: str, number: int) -> Question:
    """Parses "question<tab>answer<tab>supporting ids"."""
    fields = [field.strip() for field in text.split("\t")]
    if len(fields) > 3:
        mend = "write question, answer and supporting ids, separated by tabs"
        raise _malformed(source, number, f"{len(fields)} fields", mend)
    question, answer, ids = fields + [""] * (3 - len(fields))
    if not answer:
        missing = "no tab" if len(fields) == 1 else "nothing"
        raise _malformed(
            source,
            number,
            f"{missing} after the question {shown(question)}",
            "add a tab, the answer, a tab and the ids",
        )
    return Question(question, answer, _support(ids, story, source, number))


def _support(ids: str, story: list[str | Question], source: str, number: int) -> tuple[int, ...]:
    mend = "name earlier statements of the story by their ids, separated by blanks"
    if not ids:
        raise _malformed(source, number, "question without supporting ids", mend)
    for name in ids.split():
        if wrong := _wrong_support(name, story):
            raise _malformed(source, number, f"supporting id {shown(name)} {wrong}", mend)
    return tuple(map(int, ids.split()))


def _wrong_support(name: str, story: list[str | Question]) -> str:
    """What is wrong with a supporting id of the question after these lines; empty where nothing is."""
    if not _ID.fullmatch(name) or int(name) == 0:
        return "is not the number of a line"
    if int(name) > len(story):
        return "is of this line or a later one"
    return "is of a question" if not isinstance(story[int(name) - 1], str) else ""
