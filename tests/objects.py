"""Objects of `gs://`, kept in a folder, for tests that need no server: see `buckets` for one."""

import pathlib

from etils.epath import backend, gpath

NAME = "gs://bucket"


class Objects(backend._OsPathBackend):
    """What epath asks a bucket with. It knows what this package may ask of one, and no more.

    Attributes:
      asked: every path.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.asked: list[str] = []

    def _there(self, path) -> str:
        assert str(path).startswith(NAME), path
        self.asked.append(str(path))
        return str(path).replace("gs://", f"{self._folder}/", 1)

    def open(self, path, mode):
        assert "a" not in mode, "objects are not added to"
        there = self._there(path)
        if "w" in mode:  # Objects need no folder.
            pathlib.Path(there).parent.mkdir(parents=True, exist_ok=True)
        return super().open(there, mode)

    def exists(self, path):
        return super().exists(self._there(path))

    def isdir(self, path):
        return super().isdir(self._there(path))

    def listdir(self, path):
        return super().listdir(self._there(path))

    def makedirs(self, path, **settings):
        super().makedirs(self._there(path), **settings)

    def remove(self, path):
        super().remove(self._there(path))

    def stat(self, path):
        return super().stat(self._there(path))


def stand_in(monkeypatch, folder: pathlib.Path) -> pathlib.Path:
    """Puts them in the place of Google's: the folder in which the bucket is."""
    (folder / "bucket").mkdir()
    found = Objects(folder)
    own = property(lambda path: found if path._uri_scheme else backend.os_backend)
    monkeypatch.setattr(gpath._GPath, "_backend", own)
    return folder / "bucket"
