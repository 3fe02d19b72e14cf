"""Gin files: where they are found, what they may do, and how they become the configuration.

A gin file that the user names is code: it may import modules, and register what is in them. A run's own `config.gin` is
data, which may come from anybody: what this program writes there needs neither, and neither is done.
"""

import contextlib
import difflib
import os
import pathlib
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from cd_jax.errors import RequestError
from cd_jax.rundir import files

# Configurables that the config.gin of older runs binds.
_GONE = ["fill_memory"]
_MACRO = re.compile(r"^([A-Za-z_]\w*) = (.*)$", re.MULTILINE)
_INCLUDE = re.compile(r"""^include ['"](.+)['"]""", re.MULTILINE)
# The two ways in which gin says that a macro has no value.
_UNBOUND = re.compile(r"(?:^|\s)'?([A-Z_][A-Z_0-9]*)/(?:gin\.)?macro(?:\.value set to `%gin\.REQUIRED`|' in config)")

_search_paths: list[str] = []


# Where they are


def add_search_paths(paths: Sequence[str]) -> None:
    """Folders in which gin files are looked up before those that come with cd_jax (T5X's `--gin_search_paths`)."""
    _search_paths[:] = [path for given in paths for path in given.split(",") if path]


def folders() -> list[pathlib.Path]:
    """Where gin files are looked up: the working folder, the search paths, the checkout's gin/, the package's own."""
    package = pathlib.Path(__file__).parent
    return [pathlib.Path(), *map(pathlib.Path, _search_paths), package.parent / "gin", package / "gin_files"]


def find(name: str) -> str:
    """The path of a gin file. Raises RequestError where there is none of this name."""
    for folder in folders():
        if (folder / name).is_file():
            return str(folder / name)
    raise RequestError(f"{name}: no such gin file; `ls gin/*/` shows those that come with cd_jax")


def described(name: str) -> str:
    """What a user should know of a gin file: its header, and its macros with their values, those of includes too."""
    header = [line[1:].rstrip() for line in _lines_of_header(find(name))]
    macros = "\n".join(f"  --gin.{macro}={value}" for macro, value in _macros(name).items())
    return "\n".join([*header, "", "macros of gin, and what they are bound to:", macros])


def _lines_of_header(path: str) -> Iterator[str]:
    for line in files.read_text(path, "choose another").splitlines():
        if not line.startswith("#"):
            return
        yield line


def _macros(name: str) -> dict[str, str]:
    text = files.read_text(find(name), "choose another")
    found: dict[str, str] = {}
    for included in _INCLUDE.findall(text):
        found |= _macros(included)
    return found | dict(_MACRO.findall(text))


# What they may do


def _statements(path: str) -> Iterator[Any]:
    """Of a file, parsed as gin does, with nothing of it done."""
    from gin import config_parser

    class Nothing(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_configurable_name, evaluate):
            return scoped_configurable_name

        def macro(self, name):
            return name

    with _naming(path):
        yield from config_parser.ConfigParser(files.read_text(path, "give another --gin_file"), Nothing())


def _check(path: str, trusted: bool, chain: tuple[str, ...] = ()) -> None:
    """Refuses files that include themselves, and imports in those that are data."""
    from gin import config_parser

    if path in chain:
        raise RequestError(f"{path}: includes itself ({' > '.join((*chain, path))}); take one of the includes out")
    for statement in _statements(path):
        if isinstance(statement, config_parser.ImportStatement) and not trusted:
            raise RequestError(
                f"{path}:{statement.location.line_num}: a run's configuration imports {statement.module}, which would "
                "run code of whoever wrote it; delete the line, or give --trust_gin if you trust them"
            )
        if isinstance(statement, config_parser.IncludeStatement):
            _check(find(statement.filename), trusted, (*chain, path))


def is_data(path: str) -> bool:
    """Whether a file lies in a run's folder: there it is not the user's word."""
    return any((folder / "checkpoints").is_dir() for folder in pathlib.Path(path).resolve().parents)


# The configuration


def configure(paths: Sequence[str], statements: Sequence[str], trust: bool = False) -> None:
    """Reads gin files and statements, and finishes the configuration.

    Args:
      paths: of files, each adding to those before it.
      statements: such as `SEED = 3`, after all files.
      trust: also files that lie in a run's folder may import modules.

    Raises:
      RequestError: gin cannot read them, nothing reads a binding, a macro is bound nowhere, a value is of the wrong
        kind or out of range, or a run's file imports something.
    """
    import gin

    from cd_jax import bindings

    for path in paths:
        _check(path, trust or not is_data(path))
    for folder in folders():
        gin.add_config_file_search_path(str(folder))
    # Plain files alone, with or without a byte order mark: gin's second reader takes `runs/` for a Python package, and
    # fails where the working folder has a folder of that name, as it does where runs are kept.
    gin.config._FILE_READERS[:] = [(_open, os.path.isfile)]
    for path in paths:
        with _naming(path):
            # Where configurables are registered dynamically, gin can skip none.
            gin.parse_config_file(path, skip_unknown=_GONE if is_data(path) else False)
    config = gin.config_str(max_line_length=10**6)
    for name in dict(_MACRO.findall(config)):
        _check_macro(name, name, config)
    for statement in statements:
        name = statement.partition("=")[0].strip()
        _check_macro(name, f"--gin.{name}", config)
        with _naming(f"--gin.{statement.replace(' = ', '=', 1)}"):
            gin.parse_config(statement)
    _check_bound(gin.config_str(max_line_length=10**6))
    with _naming("gin"):
        gin.finalize()
    bindings.check_values()


def _open(path: str):
    return open(path, encoding="utf-8-sig")


def _check_macro(name: str, shown: str, config: str) -> None:
    """gin takes a macro that nothing reads without a word; a misspelt one would be lost."""
    known = set(re.findall(r"%([A-Za-z_]\w*)", config))
    if "." in name or name in known:
        return
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"those that are read: {', '.join(sorted(known))}"
    raise RequestError(f"{shown}: nothing reads this macro; {hint}")


def _check_bound(config: str) -> None:
    """A macro that reads another one which is bound nowhere would be blamed in its place."""
    bound = dict(_MACRO.findall(config))
    for reader, value in bound.items():
        for name in re.findall(r"%([A-Za-z_]\w*)(?![\w.])", value):
            if name not in bound:
                raise RequestError(f"{name}, which {reader} reads, is not bound; give --gin.{name}=VALUE")


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turns what gin raises, which is of many kinds and several lines, into an error that begins with its place."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        text = str(error)
        if unbound := _UNBOUND.search(text):
            raise RequestError(f"{unbound[1]} is not bound; give --gin.{unbound[1]}=VALUE") from error
        # The place in the statement of a flag says nothing that the flag itself does not say.
        text = re.split(r"\n\s*(?:In bindings string|Failed to parse token)", text)[0]
        if "malformed node" in text or isinstance(error, SyntaxError | tokenize.TokenError):
            text = "not a value of Python; brackets must close, and text is quoted twice: --gin.NAME=\"'text'\""
            lineno = getattr(error, "lineno", None)
            text += f" (line {lineno})" if lineno and not what.startswith("--gin.") else ""
        raise RequestError(f"{what}: {text}") from error
