"""gin files: where they are found, which of them may be code, and errors that name file and line."""

import contextlib
import dataclasses
import difflib
import importlib
import io
import os
import pathlib
import re
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import gin
from etils import epath
from gin import config_parser

from cd_jax.config import library, renames, statements
from cd_jax.config.macros import macro_of
from cd_jax.errors import RequestError

# Configurables that the config.gin of older runs binds.
_GONE = ["fill_memory"]
# What a folder has into which a program of ours has written.
_MARKS = ("checkpoints", "updates.jsonl", "results.json")
_TOO_DEEP = "brackets are nested too deep for a value; write it flatter"
# gin's note of where an error is, which it appends to the error.
_PLACE = re.compile(r'\n\s*In (?:file "(?P<file>[^"]*)", line (?P<line>\d+)|bindings string line \d+)\n.*', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """All that gin is to be told: a value, which can be applied more than once, and extended.

    A gin file that imports is a program. Those that the user names are the user's. One that lies in a folder that our
    programs have written, which may be anybody's, must not import, nor must what it includes, nor the file of an agent
    that it names.

    Attributes:
      files: paths, of `library.packaged` or `.find`; the first one is ours.
      statements: such as `BATCH_SIZE = 32`; as the command line has them.
      search_paths: folders in which included files, and those of agents, are looked up, too.
      modules: of the user's, imported first: what they register can be bound.
      trust: files in folders of runs may import.
    """

    files: Sequence[str]
    statements: Sequence[str] = ()
    search_paths: Sequence[str] = ()
    modules: Sequence[str] = ()
    trust: bool = False

    def with_statements(self, *more: str) -> "Configuration":
        """The same with more statements, which win over what is there."""
        return dataclasses.replace(self, statements=(*self.statements, *more))

    def apply(self) -> None:
        """Binds what files and statements say, in this order, and checks the values; forgets what was bound before.

        The file of the agent, `agents/<AGENT>.gin`, is read right after the first file: all others win over it.

        Raises:
          RequestError: a file or a statement cannot be read or imports where it must not, there is no such agent,
            nothing reads a macro, or a value is out of its range; one line that names the place.
        """
        # Here, and not above: it imports all that gin can bind, JAX for one, and `report` needs none of it.
        from cd_jax.config import bindings

        gin.clear_config()
        for module in self.modules:
            with _naming(f"--module_import={module}"):
                import_module(module)
        reading = _Reading([str(folder) for folder in self.search_paths], self.trust)
        files = [reading.look(file) for file in self.files]
        for statement in self.statements:
            reading.look_at(statement)
        if agent := reading.agent():
            files.insert(1, agent)
        for file in files:
            with renames.known_to_gin():
                file.read()
        for name, place in reading.bound.items():
            _check_read(name, f"{place}: {name}", reading.readers)
        for statement in self.statements:
            name = statement.partition("=")[0].strip()
            _check_read(name, f"--gin.{name}", reading.readers)
            with _naming(_flag(statement)), renames.known_to_gin():
                gin.parse_config(statement)
        _check_bound(reading.readers)
        with _naming("gin"):
            gin.finalize()
        bindings.check_values()


def _flag(statement: str) -> str:
    return f"--gin.{statement.replace(' = ', '=', 1)}"


# Reading


def _open(path: str) -> TextIO:
    """By us and by gin alike, also in a bucket: what we look for must be what gin finds."""
    content = io.BytesIO(epath.Path(path).read_bytes())
    content.name = path  # For gin's errors.
    return io.TextIOWrapper(content, encoding="utf-8-sig")


def _is_file(path: str) -> bool:
    return epath.Path(path).is_file()


@dataclasses.dataclass
class _File:
    """A gin file that was looked at.

    Attributes:
      path: where it is.
      folders: in which the files that it includes are looked up.
      imports: modules, with the places where they are imported, in it and in what it includes.
    """

    path: str
    folders: list[str]
    imports: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def read(self) -> None:
        """Lets gin read it. Raises RequestError as `Configuration.apply` does."""
        for module, place in self.imports:
            _import(module, place)
        with _gin_reads(self.folders), _naming(self.path):
            gin.parse_config_file(self.path, skip_unknown=_GONE)


class _Macro(NamedTuple):
    """The value that is bound to a macro last, and whether a file of a run says so, which is not to be trusted."""

    value: Any
    foreign: bool


@dataclasses.dataclass
class _Reading:
    """Looks at gin files and statements before any of them is executed.

    Attributes:
      search_paths: see `Configuration`.
      trust: see `Configuration`.
      bound: macros, with the places, `file:line`, where files bind them last.
      readers: macros, with the places where they are read last.
      macros: by name.
    """

    search_paths: list[str]
    trust: bool
    bound: dict[str, str] = dataclasses.field(default_factory=dict)
    readers: dict[str, str] = dataclasses.field(default_factory=dict)
    macros: dict[str, _Macro] = dataclasses.field(default_factory=dict)

    def look(self, path: str, foreign: bool = False) -> _File:
        """Looks at a file, and at those that it includes. Raises RequestError as `Configuration.apply` does."""
        ours = [str(folder) for folder in library.folders()]
        # A file of ours includes files of ours, whatever the working folder has of the same name.
        mine = any(pathlib.Path(path).is_relative_to(folder) for folder in ours)
        file = _File(path, [*ours, "", *self.search_paths] if mine else ["", *self.search_paths, *ours])
        self._look_into(path, file, foreign, around=())
        return file

    def look_at(self, statement: str) -> None:
        """The same of a statement of the user's."""
        with _naming(_flag(statement)):
            for found in statements.parsed(statement, statements.Reader()):
                self._note_macro(found, foreign=False)

    def agent(self) -> _File | None:
        """The file of the agent that the macro AGENT names in the end; None where it names none.

        Raises:
          RequestError: there is no such agent, or as `look`.
        """
        value: Any = statements.Reference("%AGENT")
        passed, foreign = set(), False
        while isinstance(value, statements.Reference):
            name = value.macro()
            if name not in self.macros or name in passed:
                return None  # Not bound, or round in a circle: told where all macros are checked.
            passed.add(name)
            value, told_by_a_run = self.macros[name]
            foreign |= told_by_a_run
        if not isinstance(value, str) or not value:
            return None
        known = library.agents(self.search_paths)
        if value not in known:
            raise RequestError(
                f"AGENT={value!r} is none of {', '.join(known)}; bind --gin.AGENT=\"'cd_memory'\", "
                "or write an agents/NAME.gin"
            )
        return self.look(known[value], foreign)

    def _look_into(self, path: str, file: _File, foreign: bool, around: tuple[str, ...]) -> None:
        """Notes macros and imports, here and in included files, and refuses what a run's file must not have."""
        foreign, around = foreign or (not self.trust and _is_of_a_run(path)), (*around, path)
        with _naming(path), _open(path) as lines:
            reader = statements.Reader()
            for statement in statements.parsed(lines, reader):
                place = f"{path}:{statement.location.line_num}"
                if foreign:
                    _refuse_code(place, statement, reader.references)
                self.readers |= dict.fromkeys(reader.macros, place)
                reader.references.clear()
                reader.macros.clear()
                if isinstance(statement, config_parser.ImportStatement):
                    file.imports.append((statement.module, place))
                elif name := self._note_macro(statement, foreign):
                    self.bound[name] = place
                elif isinstance(statement, config_parser.IncludeStatement):
                    included = _included(statement.filename, file.folders, place, around)
                    self._look_into(included, file, foreign, around)

    def _note_macro(self, statement: Any, foreign: bool) -> str:
        """The name of the macro that a statement binds; empty where it does something else."""
        if not isinstance(statement, config_parser.BindingStatement) or statement.arg_name:
            return ""
        name = statements.bound_name(statement)
        self.macros[name] = _Macro(statement.value, foreign)
        return name


def _included(name: str, folders: list[str], place: str, around: tuple[str, ...]) -> str:
    """The file that an include means. Raises RequestError where there is none, or it is being read."""
    paths = [os.path.join(folder, name) for folder in folders]
    path = next(filter(_is_file, paths), None)
    if path is None:
        raise RequestError(
            f"{place}: includes {name!r}, and there is no such file; --gin_search_paths=DIR names its folder"
        )
    if any(_is_same(path, other) for other in around):
        raise RequestError(f"{place}: includes {name!r}, which includes this file; leave one of the two out")
    return path


def _is_same(path: str, other: str) -> bool:
    return path == other if "://" in path + other else os.path.samefile(path, other)


def _is_of_a_run(file: str) -> bool:
    """Whether our programs write files of its name or into a folder around it; by its path and by where that leads."""
    if "://" in file:
        paths = {epath.Path(file)}
    else:
        paths = {epath.Path(os.path.abspath(file)), epath.Path(os.path.realpath(file))}
    return any(
        path.name == "config.gin" or any((folder / mark).exists() for folder in _around(path) for mark in _MARKS)
        for path in paths
    )


def _around(path: epath.Path) -> list[epath.Path]:
    """The folders that a file is in; of a bucket's, up to the bucket."""
    # Above it epath has the root, and something that stands for all buckets.
    return [folder for folder in path.parents if "://" not in str(path) or len(folder.parts) > 2]


def _refuse_code(place: str, statement: Any, references: Sequence[str]) -> None:
    """Raises RequestError where a statement would run code that somebody has put into a folder of a run."""
    from cd_jax import configurables

    mend = "if you trust whoever wrote it, give --trust_gin"
    if isinstance(statement, config_parser.ImportStatement):
        raise RequestError(f"{place}: `{statement.format()}` runs code, and this file is a run's; {mend}")
    verbs = {verb.__name__ for verb in configurables.VERBS}
    for reference in references:
        if re.split(r"[/.]", reference)[-1] in verbs:
            raise RequestError(f"{place}: @{reference} runs a command of cd_jax, and this file is a run's; {mend}")


def import_module(name: str) -> None:
    """Imports a module of the user's, also from the working folder, where Python does not look for commands."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.import_module(name)


def _import(module: str, place: str) -> None:
    """Here, since gin passes over modules that are not there where it skips what it does not know."""
    if not module.startswith("__gin__."):
        with _naming(place):
            import_module(module)


@contextlib.contextmanager
def _gin_reads(folders: Sequence[str]) -> Iterator[None]:
    """Lets gin look for included files in these folders, and read plain files alone.

    Its second reader imports the package that a path such as `runs/x.gin` seems to name.
    """
    kept = list(gin.config._LOCATION_PREFIXES), list(gin.config._FILE_READERS)
    gin.config._LOCATION_PREFIXES[:], gin.config._FILE_READERS[:] = folders, [(_open, _is_file)]
    try:
        yield
    finally:
        gin.config._LOCATION_PREFIXES[:], gin.config._FILE_READERS[:] = kept


# Errors


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turns what gin raises, which is of many kinds and several lines, into an error that begins with its place."""
    try:
        yield
    except RequestError:
        raise
    except (SyntaxError, tokenize.TokenError) as error:
        if "too many nested" in str(error):  # Of Python 3.12; before, it is a RecursionError.
            raise RequestError(f"{what}: {_TOO_DEEP}") from error
        raise RequestError(f"{_at(what, _line_of(error))}: {_not_a_value(what)}") from error
    except RecursionError as error:
        raise RequestError(f"{what}: {_TOO_DEEP}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{what}: not text in UTF-8 (byte {error.start}); save it so") from error
    except Exception as error:
        text = str(error)
        found = _PLACE.search(text)
        if "malformed node" in text:
            text = _not_a_value(what)
        text = text[: found.start()] if found else text
        if "No configurable matching" in text:
            text += " --module_import=MODULE brings those of your own."
        where = f"{found['file']}:{found['line']}" if found and found["file"] else what
        raise RequestError(f"{where}: {text}") from error


def _at(what: str, line: int | None) -> str:
    # The place in the statement of a flag says nothing that the flag itself does not say.
    return f"{what}:{line}" if line and not what.startswith("--") else what


def _line_of(error: Exception) -> int | None:
    """Of an error of syntax, or of tokenize's, whose second argument is the place."""
    return error.lineno if isinstance(error, SyntaxError) else error.args[1][0]


def _not_a_value(what: str) -> str:
    quoted = "text is quoted twice: --gin.NAME=\"'text'\"" if what.startswith("--") else "text is quoted"
    return f"not a value of Python; brackets must close, and {quoted}"


# Macros


def _check_read(name: str, shown: str, readers: Collection[str]) -> None:
    """gin takes a macro that nothing reads without a word; a misspelt one would be lost."""
    if "." in name or name in readers:
        return
    close = difflib.get_close_matches(name, readers, 1)
    hint = f"did you mean {close[0]}?" if close else f"those that are read: {', '.join(sorted(readers))}"
    raise RequestError(f"{shown}: nothing reads this macro; {hint}")


def _check_bound(readers: Mapping[str, str]) -> None:
    """Raises RequestError where a macro has no value: it must be given, is misspelt, or goes round in a circle."""
    config = gin.config._CONFIG
    macros = {scope: bound["value"] for (scope, selector), bound in config.items() if selector == "gin.macro"}
    for name, value in macros.items():
        if _is_required(value):
            raise RequestError(f"{name} is not bound; give --gin.{name}=VALUE")
    for reference in gin.config.iterate_references(config):
        if (name := macro_of(reference)) and name not in macros:
            close = difflib.get_close_matches(name, macros, 1)
            hint = f"did you mean %{close[0]}?" if close else f"give --gin.{name}=VALUE"
            raise RequestError(f"{readers.get(name, '--gin')}: %{name} is not bound; {hint}")
    for name in macros:
        _check_ends(name, macros)


def _check_ends(name: str, macros: dict[str, object]) -> None:
    passed = [name]
    while (following := macro_of(macros[passed[-1]])) is not None:
        if following in passed:
            raise RequestError(f"{' = %'.join([*passed, following])}: goes round in a circle; bind one to a value")
        passed.append(following)


def _is_required(value: object) -> bool:
    return isinstance(value, gin.config.ConfigurableReference) and value.config_key == ("gin.REQUIRED", "gin.constant")
