"""Prompts as files, which a researcher edits without touching Python."""

import dataclasses
import hashlib
import os
import pathlib
import re
import string

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.rundir import files
from cd_jax.types import Example

FOLDER = pathlib.Path(__file__).parent / "prompts"
FIELDS = ("context", "question", "answer", "attempt", "attempted_answer", "contrast")
# What is there to contrast the answer with where the solver was not asked, or the data has no complement.
_NOTHING = "nothing"
_ODD_ROLE = re.compile(r"^\[(?!(?:system|user|assistant)\][ \t]*$)[A-Za-z]+\][ \t]*$", re.MULTILINE)
_ROLE = re.compile(r"^\[(system|user|assistant)\][ \t]*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """The "why" prompt of a teacher (arXiv 2212.11353, section 2): a `string.Template` with the fields `FIELDS`.

    A file with headings `[system]`, `[user]` and `[assistant]`, each alone in its line, is a chat, of which earlier
    turns may be worked examples; one without is a single message, or the text that a completions endpoint continues.

    Attributes:
      path: of the file.
      turns: (role, text) of each; the role is empty where the file has no headings.
      hash: of the file's text: 16 hexadecimal digits.
    """

    path: pathlib.Path
    turns: tuple[tuple[str, str], ...]
    hash: str

    def filled(self, example: Example, attempt: str | None, is_chat: bool) -> tuple[tuple[str, str], ...]:
        """The messages about an example.

        Args:
          example: x and y.
          attempt: y-hat, what the solver generated; None where it was not asked.
          is_chat: whether a single message has the role of a user.

        Raises:
          RequestError: it is a chat, and none is wanted.
        """
        if not is_chat and self.turns[0][0]:
            raise RequestError(
                f"{self.path}: is a chat, and completions continue a text: bind TeacherClient.chat = True"
            )
        said = " ".join((attempt or "").split())
        values = {
            "context": example.context,
            "question": example.question,
            "answer": example.answer,
            "attempt": said or _NOTHING,
            "attempted_answer": formats.parse_answer(said) or _NOTHING,
            "contrast": example.contrast or _NOTHING,
        }
        default = "user" if is_chat else ""
        return tuple((role or default, string.Template(text).substitute(values)) for role, text in self.turns)


def read(name: str | os.PathLike[str]) -> PromptTemplate:
    """A template of a file, or of one of ours by its name, e.g. `why_babi`.

    Raises:
      RequestError: it is missing, unreadable, or names a field that there is not.
    """
    packaged = FOLDER / f"{name}.txt"
    path = packaged if packaged.parent == FOLDER and packaged.is_file() else pathlib.Path(name)
    known = ", ".join(sorted(one.stem for one in FOLDER.glob("*.txt")))
    text = files.read_text(path, f"mend OpenAITeacher.prompt_file; ours are {known}").replace("\r\n", "\n")
    odd = _ODD_ROLE.search(text)
    if odd and (_ROLE.search(text) or _ROLE.match(odd[0].lower())):
        raise RequestError(f"{path}: {odd[0].strip()!r} is no heading; they are [system], [user] and [assistant]")
    before, *sections = _ROLE.split(text)
    if sections and before.strip():
        raise RequestError(f"{path}: has text before [{sections[0]}]; put it under [system] or [user]")
    roles = sections[::2] or [""]
    texts = [section.strip() for section in sections[1::2]] or [text]
    for one in texts:
        _check(path, string.Template(one))
    if not any(f"${name}" in text or f"${{{name}}}" in text for name in ("context", "question")):
        raise RequestError(f"{path}: names neither $context nor $question: every example would be asked the same")
    if roles[-1] not in ("", "user"):
        raise RequestError(f"{path}: ends with [{roles[-1]}]; the last turn is the [user]'s, who asks")
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return PromptTemplate(path, tuple(zip(roles, texts, strict=True)), digest)


def _check(path: pathlib.Path, template: string.Template) -> None:
    if not template.is_valid():
        raise RequestError(f"{path}: the prompt has a `$` that starts no field; write `$$` for a dollar sign")
    for field in template.get_identifiers():
        if field not in FIELDS:
            known = ", ".join(f"${name}" for name in FIELDS)
            raise RequestError(f"{path}: the prompt names an unknown field ${field}; the fields are {known}")
