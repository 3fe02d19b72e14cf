"""BLEURT, tuned on ratings of one's own (arXiv 2004.04696, section 4)."""

import dataclasses
import functools
import math
import os
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cd_jax.config.ranges import NonNegativeFloat, PositiveInt, Seed
from cd_jax.errors import RequestError, RunError
from cd_jax.nets.bert import BertRegressor
from cd_jax.rundir import journal
from cd_jax.verifier import batches
from cd_jax.weights import bleurt

_LINE = 'give lines such as {"reference": "a text", "candidate": "another", "rating": 0.7}'


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a file of ratings; `score` is the original's name of the rating."""

    reference: str
    candidate: str
    rating: float | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Rating:
    """What somebody thinks of a candidate.

    Attributes:
      reference: what is expected.
      candidate: what was said.
      rating: what the network is to give.
    """

    reference: str
    candidate: str
    rating: float


def _rating(line: _Line) -> Rating:
    given = line.score if line.rating is None else line.rating
    if given is None:
        raise KeyError("rating")
    return Rating(line.reference, line.candidate, float(given))


def read_ratings(path: str | os.PathLike) -> list[Rating]:
    """The ratings of a file of JSON lines: `reference`, `candidate`, and `rating` or, as in the original, `score`.

    Args:
      path: of the file.

    Raises:
      RequestError: the file cannot be read, is empty, or a line is malformed; names the line.
    """
    found = journal.read(path, _Line, _rating, "a rating", _LINE, absent="name a file of ratings")
    if not found:
        raise RequestError(f"{path}: holds no rating; {_LINE}")
    return found


@gin.configurable
def fit_bleurt(
    ratings: str,
    checkpoint: str,
    output: str,
    steps: PositiveInt = 500,
    batch_size: PositiveInt = 16,
    learning_rate: NonNegativeFloat = 1e-5,
    seed: Seed = 0,
) -> list[float]:
    """Tunes a checkpoint by the squared error of its score, with the original's optimiser.

    Args:
      ratings: a file of `read_ratings`; ratings are best of the range that the checkpoint's scores have.
      checkpoint: a folder that `Bleurt` takes.
      output: the folder that is written, which `Bleurt.checkpoint` then names.
      steps: updates of the parameters.
      batch_size: pairs in each.
      learning_rate: the highest.
      seed: of the order and of dropout.

    Returns:
      The loss of every step.

    Raises:
      RequestError: the ratings or the checkpoint are missing or damaged, or `output` is there already.
      RunError: the loss is no number, or the disk is full.
    """
    found, described = read_ratings(ratings), bleurt.describe(checkpoint)
    if os.path.lexists(output):
        raise RequestError(f"{output}: is there already; name a new folder")
    tokens = [batches.pair(described.tokenizer, one.reference, one.candidate, described.max_length) for one in found]
    wanted = np.array([one.rating for one in found], np.float32)
    length = batches.padded_length(max(len(one.ids) for one in tokens), described.max_length)
    # As many devices as the batch can be cut for.
    replicated, by_rows = batches.shardings(math.gcd(batch_size, jax.local_device_count()))
    network = BertRegressor(described.config)
    params = bleurt.read(described, batches.abstract_params(network, replicated))
    optimizer = _optimizer(learning_rate, steps)
    # What comes out lies as what goes in, so that one program serves all steps.
    state, losses = jax.device_put(optimizer.init(params), replicated), []
    step = jax.jit(functools.partial(_step, network, optimizer), donate_argnums=(0, 1), out_shardings=replicated)
    draw = np.random.default_rng(seed)
    for number in range(steps):
        rows = draw.choice(len(found), batch_size, replace=len(found) < batch_size)
        batch = batches.padded([tokens[row] for row in rows], batch_size, length)
        given = jax.device_put((*batch, wanted[rows]), by_rows)
        params, state, loss = step(params, state, jax.random.fold_in(jax.random.key(seed), number), given)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise RunError(f"fit_bleurt: the loss of step {number + 1} is {losses[-1]}; give a lower learning_rate")
    bleurt.write(output, described, params)
    return losses


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """The original's: Adam with decay of matrices, gradients of norm 1 at most, a rate that rises, then falls."""
    up = -(-steps // 10)
    slopes = [optax.linear_schedule(0.0, learning_rate, up), optax.linear_schedule(learning_rate, 0.0, steps - up)]
    decayed = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    adam = optax.adamw(optax.join_schedules(slopes, [up]), eps=1e-6, weight_decay=0.01, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def _step(
    network: BertRegressor, optimizer: optax.GradientTransformation, params: Any, state: Any, key: Any, given: Any
):
    *tokens, wanted = given

    def loss_of(params: Any) -> jax.Array:
        scores: Any = network.apply({"params": params}, *tokens, rngs={"dropout": key})
        return jnp.mean((scores - wanted) ** 2)

    loss, gradient = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss
