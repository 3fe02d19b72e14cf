"""What a trained agent was told after training: its memory is no longer what training left, which is kept beside it."""

import hashlib

from etils import epath

from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.rundir import files, results

_TRAINED = "trained"


def was_changed(directory: files.Path) -> bool:
    """Whether something was remembered or forgotten since training."""
    return (epath.Path(directory) / _TRAINED / results.ENTRIES).exists()


def keep_trained(directory: files.Path) -> None:
    """Keeps the entries of training, before they are changed for the first time."""
    entries = epath.Path(directory) / results.ENTRIES
    if not was_changed(directory):
        files.write_bytes(epath.Path(directory) / _TRAINED / results.ENTRIES, entries.read_bytes())


def fingerprint(memory: EpisodicMemory | None) -> str:
    """The same for memories with the same entries, in whichever rows."""
    contents = sorted(repr(entry.content) for entry in memory.entries if entry) if memory else []
    return hashlib.sha256("".join(contents).encode("utf-8", "backslashreplace")).hexdigest()[:16]
