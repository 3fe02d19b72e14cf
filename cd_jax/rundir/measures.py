"""What `cd_jax eval` measures beside accuracy: its form in results.json, and the verifier that a run has learnt."""

from typing import Any

import msgspec
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.rundir.journal import Count, Share

VERIFIER = "verifier"
_LEARN = "learn it with `cd_jax eval --gin.CALIBRATION=True`"


class Bin(msgspec.Struct, frozen=True):
    """Answers of about the same probability: means of that and of what was right, and their number."""

    confidence: Share
    accuracy: Share
    n: Count


class Judged(msgspec.Struct, frozen=True):
    """How well probabilities tell right answers from wrong ones.

    Attributes:
      auc: area under the ROC; None where all answers are right, or all wrong.
      brier: mean squared difference from what was right.
      ece: mean absolute difference of confidence and accuracy over the bins, weighed by their size.
      n: of answers.
      bins: those that hold an answer, in their order.
    """

    auc: Share | None
    brier: Share
    ece: Share
    n: Count
    bins: list[Bin]


class Measured(msgspec.Struct, frozen=True):
    """What is known of a set of updates; see `learning.gain.measured`."""

    gain: float
    positive: Share
    n: Count
    length: dict[str, float] = {}  # msgspec copies it.
    compression: dict[str, float] = {}
    sentences: float | None = None
    passages: float | None = None


Calibration = dict[str, Judged]
Gain = dict[str, Measured]


def calibration(value: Any) -> Calibration:
    """The field `calibration` of a score, by name of the probability. Raises ValueError where it is none."""
    return msgspec.convert(value or {}, Calibration)


def gain(value: Any) -> Gain:
    """The field `gain` of a score, by how updates were chosen. Raises ValueError where it is none."""
    return msgspec.convert(value or {}, Gain)


class Scale(msgspec.Struct, frozen=True):
    """Makes a probability of a logit: `sigmoid(slope * logit + bias)` (Platt)."""

    slope: float
    bias: float


class Head(msgspec.Struct, frozen=True):
    """A linear head: `bias + sum_i weights_i * (features_i - mean_i) / scale_i`."""

    mean: list[float]
    scale: list[float]
    weights: list[float]
    bias: float

    def __post_init__(self):
        """Raises ValueError where it is of features whose numbers differ."""
        if not len(self.mean) == len(self.scale) == len(self.weights):
            raise ValueError("`mean`, `scale` and `weights` are not of one length")


class Verifier(msgspec.Struct, frozen=True):
    """What a run has learnt to judge its answers by.

    Attributes:
      parameters: digest of the solver's, with which alone it goes; None where they have none.
      scales: of each logit, by name.
      best: name of the probability with the lowest Brier score on the validation split.
      head: None where attempts at the training examples were all right, or all wrong.
      settings: with which it was learnt.
    """

    parameters: str | None
    scales: dict[str, Scale]
    best: str
    head: Head | None
    settings: dict[str, Any] = {}  # msgspec copies it.


def _path(model_dir: files.Path, step: int) -> epath.Path:
    return epath.Path(model_dir) / VERIFIER / f"{step}.json"


def write_verifier(model_dir: files.Path, step: int, verifier: Verifier) -> None:
    """Writes `verifier/<step>.json` whole. Raises RunError where it cannot be written."""
    files.write_json(_path(model_dir, step), msgspec.to_builtins(verifier))


def has_verifier(model_dir: files.Path, step: int, parameters: str | None) -> bool:
    """Whether one is there of these parameters, undamaged."""
    try:
        read_verifier(model_dir, step, parameters)
    except RequestError:
        return False
    return True


def read_verifier(model_dir: files.Path, step: int, parameters: str | None) -> Verifier:
    """The verifier of these parameters.

    Raises:
      RequestError: there is none, it is damaged, or it is of others.
    """
    path = _path(model_dir, step)
    if not path.is_file():
        raise RequestError(f"{path}: no verifier was learnt with these parameters; {_LEARN}")
    try:
        found = msgspec.convert(files.read_json(path, _LEARN), Verifier)
    except msgspec.ValidationError as error:
        raise RequestError(f"{path}: {error}; {_LEARN} anew") from error
    if found.parameters != parameters:
        raise RequestError(f"{path}: is of other parameters than the run's best; {_LEARN} anew")
    return found
