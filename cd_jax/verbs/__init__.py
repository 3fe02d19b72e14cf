"""The verbs of the command line, one file each: what a verb is, and where they are found.

The help must not wait for JAX: at its top, a verb's module imports the standard library and what is as light.
"""

import argparse
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from etils import epath

from cd_jax.config import library
from cd_jax.errors import RequestError

if TYPE_CHECKING:
    from cd_jax.config.configuration import Configuration

Args = argparse.Namespace


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb: what `cd_jax NAME` does. Its module binds it to `VERB`, and its name is the module's.

    Attributes:
      help: its line in `cd_jax --help`.
      place: in the order of `cd_jax --help`.
      run: does it, with the flags and with the configuration that was applied.
      gin_file: of ours, e.g. `runs/train.gin`, whose macros its help shows; empty: gin is not for it.
      needs_model_dir: whether --model_dir must be given.
      several: whether several processes can do it together.
      add_flags: adds those that are its own.
      gin_files: what it reads before the files that the user gives; None: `gin_file`. Raises RequestError.
      statements: of gin, what its own flags stand for; gets the user's statements, too, to refuse those that are not
        for it with a RequestError.
      prepare: what must be done before anything imports JAX.
    """

    help: str
    place: int
    run: Callable[[Args, "Configuration"], None]
    gin_file: str = ""
    needs_model_dir: bool = True
    several: bool = False
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    gin_files: Callable[[Args], list[str]] | None = None
    statements: Callable[[Args, Sequence[str]], list[str]] = lambda args, given: []
    prepare: Callable[[], None] = lambda: None

    def files(self, args: Args) -> list[str]:
        """The paths of the gin files that it reads before the user's. Raises RequestError where one is missing."""
        if self.gin_files:
            return self.gin_files(args)
        return [library.packaged(self.gin_file)] if self.gin_file else []


def find() -> dict[str, Verb]:
    """The verbs by name, in their order: of all modules here."""
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    # `import` is a keyword of Python, and the name of a verb.
    found = {name.rstrip("_"): importlib.import_module(f"{__name__}.{name}").VERB for name in modules}
    return dict(sorted(found.items(), key=lambda item: item[1].place))


# What several verbs share.


def with_own_config(gin_file: str) -> Callable[[Args], list[str]]:
    """`Verb.gin_files` of a verb that reads a run: a file of ours, then the run's own config.gin.

    The run's comes second: what it binds counts, and a run of `train` lacks what evaluation needs.
    """

    def gin_files(args: Args) -> list[str]:
        own = epath.Path(args.model_dir or "") / "config.gin"
        if own.is_file():
            return [library.packaged(gin_file), str(own)]
        if not args.gin_file:
            raise RequestError(f"{own}: no such file; train a run with this --model_dir first, or give its --gin_file")
        return [library.packaged(gin_file)]

    return gin_files


def add_strict_lengths(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `strict_lengths` reads."""
    parser.add_argument(
        "--strict_lengths", action="store_true", help="refuse prompts, updates and memories that do not fit whole"
    )


def strict_lengths(args: Args, given: Sequence[str] = ()) -> list[str]:
    """The gin statement that --strict_lengths stands for."""
    return ["SelfLearningProcess.strict_lengths = True"] if args.strict_lengths else []
