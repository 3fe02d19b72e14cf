"""Metrics of a run: `metrics.jsonl` and TensorBoard events, through clu's writers."""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from clu import metric_writers

from cd_jax.errors import RunError


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
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # A line cut by a kill.
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


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
