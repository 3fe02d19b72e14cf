"""The gin files that come with cd_jax: where they are, and what they say of themselves. Imported in no time."""

import pathlib
from collections.abc import Iterator, Sequence

from etils import epath

from cd_jax.errors import RequestError


def folders() -> list[pathlib.Path]:
    """Where they are: in a checkout, in an installed package."""
    package = pathlib.Path(__file__).parents[1]
    return [package.parent / "gin", package / "gin_files"]


def packaged(name: str) -> str:
    """The path of a gin file that comes with cd_jax, such as `runs/train.gin`.

    Raises:
      RequestError: there is none of this name.
    """
    return _find(name, [epath.Path(folder) for folder in folders()])


def find(name: str, search_paths: Sequence[str] = ()) -> str:
    """The path of a gin file of the user's: in the working folder, in `search_paths`, or one that comes with cd_jax.

    A `gs://…` names its place itself.

    Raises:
      RequestError: it is in none of them.
    """
    return _find(name, _places(search_paths))


def agents(search_paths: Sequence[str] = ()) -> dict[str, str]:
    """The paths of the agents' gin files, `agents/NAME.gin`, by name; looked up as `find` does."""
    found: dict[str, str] = {}
    for folder in _places(search_paths):
        # Not `glob`, to which a bracket in the folder's own name is a pattern.
        there = folder / "agents"
        for path in sorted(there.iterdir() if there.is_dir() else ()):
            if path.suffix == ".gin":
                found.setdefault(path.stem, str(path))
    return dict(sorted(found.items()))


def _places(search_paths: Sequence[str]) -> list[epath.Path]:
    return [epath.Path(), *map(epath.Path, search_paths), *map(epath.Path, folders())]


def _find(name: str, places: Sequence[epath.Path]) -> str:
    if name.startswith("gs://"):
        if epath.Path(name).is_file():
            return name
        raise RequestError(f"{name}: no such gin file; `gcloud storage ls` shows what is in the bucket")
    for folder in places:
        if (folder / name).is_file():
            return str(folder / name)
    raise RequestError(f"{name}: no such gin file; `ls gin/*/` shows those that come with cd_jax")


def described(name: str) -> str:
    """The header of a gin file of ours, and its macros with their values; then those of the files that it includes."""
    parts = []
    for part in _with_included(name):
        lines = pathlib.Path(packaged(part)).read_text(encoding="utf-8").splitlines()
        body = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
        header = [f"  {line.removeprefix('#').removeprefix(' ')}".rstrip() for line in lines[:body]]
        macros = [f"    {line}".replace("%gin.REQUIRED", "(required)") for line in lines[body:] if _binds_macro(line)]
        parts.append("\n".join([f"gin/{part}", *header, *([""] if macros else []), *macros]))
    return "\n\n".join(parts)


def _binds_macro(line: str) -> bool:
    return line.partition(" = ")[0].isupper()


def _with_included(name: str) -> Iterator[str]:
    yield name
    for line in pathlib.Path(packaged(name)).read_text(encoding="utf-8").splitlines():
        if line.startswith("include "):
            yield from _with_included(line.split("'")[1])
