"""Metrics of a run: `metrics.jsonl` and TensorBoard events, through clu's writers."""

import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np
from clu import metric_writers

from cd_jax.errors import RunError
from cd_jax.rundir import files


def open_writer(model_dir: str | pathlib.Path, resume_step: int) -> metric_writers.MetricWriter:
    """Opens both; what a killed run wrote after the checkpoint from which it goes on is taken out of `metrics.jsonl`.

    TensorBoard does the same by itself when it meets steps that come again.
    """
    path = pathlib.Path(model_dir) / "metrics.jsonl"
    _keep_until(path, resume_step)
    return metric_writers.MultiWriter([JsonLinesWriter(path), metric_writers.SummaryWriter(str(model_dir))])


def _keep_until(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept, damaged = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            at = files.json_object(line)["step"]
            whole = line.endswith(b"\n") and type(at) is int
        except (ValueError, KeyError):
            at, whole = 0, False
        # The last line may be cut by a kill; any other that is no line of metrics was damaged otherwise.
        damaged += not whole and line.endswith(b"\n")
        if whole and at <= step:
            kept.append(line)
    if damaged:
        print(f"cd_jax: {path}: {damaged} damaged line(s) are left out", file=sys.stderr, flush=True)
    files.write_bytes(path, b"".join(kept))


class JsonLinesWriter(metric_writers.MetricWriter):
    """Appends `{"step": …, name: value, …}` for every call, and flushes, so that a kill loses nothing written."""

    def __init__(self, path: str | pathlib.Path):
        # Open for as long as the run: closed by `close`.
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line."""
        self._file.write(json.dumps({"step": step} | {k: float(np.asarray(v)) for k, v in scalars.items()}) + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Everything is on its way already."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _unsupported(self, *args, **kwargs) -> None:
        raise RunError("metrics.jsonl holds scalars only")

    write_summaries = write_images = write_videos = write_audios = write_texts = _unsupported
    write_histograms = write_pointcloud = write_hparams = _unsupported
