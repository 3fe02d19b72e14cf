"""The solver against Hugging Face's T5 in four configurations: parameters, logits, gradients, greedy and beams."""

import dataclasses

import hugging_face
import jax
import numpy as np
import optax
import pytest

from cd_jax.nets.network import T5
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver

KINDS = list(hugging_face.CONFIGS)


def solver(kind: str, **changes) -> Solver:
    config = hugging_face.our_config(kind, **changes)
    return Solver(
        config, hugging_face.VOCAB, optax.constant_schedule(0.01), partitioner=Partitioner(devices=jax.devices()[:1])
    )


def random_rows(rows: int, length: int, seed: int, padded: bool = True) -> np.ndarray:
    """Tokens `[rows, length]` without an end of sequence; padded with 0 from any length on."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, hugging_face.VOCAB, (rows, length)).astype(np.int32)
    lengths = rng.integers(1, length + 1, (rows, 1)) if padded else length
    return np.where(np.arange(length) < lengths, tokens, 0).astype(np.int32)


def theirs_of(kind: str, inputs: np.ndarray, **given):
    """Their model on torch tensors, with the mask of the inputs."""
    import torch

    tensors = {"input_ids": torch.tensor(inputs).long(), "attention_mask": torch.tensor(inputs != 0).long()}
    return tensors | {name: torch.tensor(value).long() for name, value in given.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_hugging_faces_t5(kind):
    params = hugging_face.parameters(kind)
    ours = solver(kind).init(0).params
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, ours)


def test_initial_parameters_spread_as_hugging_faces():
    # Hugging Face draws the logits' kernel with standard deviation 1, T5X by fan-in: ours is T5X's.
    theirs = jax.tree_util.tree_leaves_with_path(hugging_face.parameters("t5_1_1", lively=False))
    ours = dict(jax.tree_util.tree_leaves_with_path(solver("t5_1_1").init(0).params))
    kernels = [(path, leaf) for path, leaf in theirs if path[-1].key == "kernel" and path[-2].key != "logits_dense"]
    assert len(kernels) == 7 + 11
    for path, leaf in kernels:
        assert np.std(ours[path]) == pytest.approx(np.std(leaf), rel=0.1), path


@pytest.mark.parametrize(("kind", "scan"), [*((kind, True) for kind in KINDS), (KINDS[0], False)])
def test_logits_equal_hugging_faces(kind, scan):
    # Longer than the furthest bucket of the relative positions, 20 here.
    model, params = hugging_face.model(kind), hugging_face.parameters(kind)
    inputs, targets = random_rows(5, 40, 1), random_rows(5, 33, 3, padded=False)
    theirs = model(**theirs_of(kind, inputs, decoder_input_ids=targets)).logits.detach().numpy()
    network = T5(hugging_face.our_config(kind, scan_layers=scan))
    ours = jax.jit(network.apply)({"params": params}, inputs[:, None], targets)
    assert np.abs(theirs).mean() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "remat"), [*((kind, "none") for kind in KINDS), *((KINDS[0], x) for x in ("minimal", "full"))]
)
def test_gradients_of_the_loss_equal_hugging_faces(kind, remat):
    model, params = hugging_face.model(kind), hugging_face.parameters(kind)
    inputs, targets = random_rows(4, 24, 5), random_rows(4, 9, 6)
    labels = np.where(targets == 0, -100, targets)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    model.zero_grad()
    model(**theirs_of(kind, inputs, labels=labels, decoder_input_ids=shifted)).loss.backward()
    found = {name: weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None}
    theirs = hugging_face.from_weights(found, kind)
    one = solver(kind, remat_policy=remat, logits_chunk=4)
    batch = {
        "encoder_input_tokens": inputs[:, None], "decoder_input_tokens": shifted,
        "decoder_target_tokens": targets, "decoder_loss_weights": (targets != 0).astype(np.float32),
    }  # fmt: skip
    given = jax.tree.map(np.asarray, params), batch, np.float32(batch["decoder_loss_weights"].sum())
    ours, (scalars, _) = jax.jit(jax.grad(one._loss, has_aux=True), static_argnums=4)(
        *given, jax.random.key(0), None, None
    )
    assert scalars["loss"] == pytest.approx(_loss(model, kind, inputs, labels, shifted), rel=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(theirs):
        mine = dict(jax.tree_util.tree_leaves_with_path(ours))[path]
        assert np.linalg.norm(mine - leaf) <= 1e-4 * np.linalg.norm(leaf), path


def _loss(model, kind, inputs, labels, shifted) -> float:
    return model(**theirs_of(kind, inputs, labels=labels, decoder_input_ids=shifted)).loss.item()


def _generated(model, kind, inputs, length, **given):
    found = model.generate(
        **theirs_of(kind, inputs), max_new_tokens=length, do_sample=False, return_dict_in_generate=True,
        output_scores=True, **given,
    )  # fmt: skip
    tokens = found.sequences.numpy()[:, 1:]
    # Beams are filled up with the end of sequence, since the padding's id is 0, which passes for none.
    tokens = np.where((np.cumsum(tokens == 1, 1) - (tokens == 1)) > 0, 0, tokens)
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))), found


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_equals_hugging_faces(kind):
    model, params = hugging_face.model(kind), hugging_face.parameters(kind)
    inputs = random_rows(24, 30, 4)
    theirs, _ = _generated(model, kind, inputs, 25, num_beams=1)
    ours = solver(kind).generate(params, inputs[:, None], 25)
    assert len(np.unique(theirs)) > 10
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "length_penalty"), [*((kind, 1.0) for kind in KINDS), *((KINDS[0], x) for x in (0.0, 2.0, -0.5))]
)
def test_beam_search_equals_hugging_faces(kind, length_penalty):
    model, params = hugging_face.model(kind), hugging_face.parameters(kind)
    inputs = random_rows(12, 20, 7)
    given = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": length_penalty, "early_stopping": False}
    theirs, found = _generated(model, kind, inputs, 12, **given)
    method = Decoding(num_beams=4, length_penalty=length_penalty)
    ours, scores = solver(kind).generate_all(params, inputs[:, None], 12, method)
    np.testing.assert_allclose(scores.reshape(-1), found.sequences_scores.numpy(), atol=1e-4)
    np.testing.assert_array_equal(ours.reshape(48, 12), theirs)


def test_bfloat16_stays_near_hugging_faces_float32():
    model, params = hugging_face.model("t5_1_1"), hugging_face.parameters("t5_1_1")
    inputs, targets = random_rows(5, 40, 1), random_rows(5, 33, 3, padded=False)
    theirs = model(**theirs_of("t5_1_1", inputs, decoder_input_ids=targets)).logits.detach().numpy()
    network = T5(dataclasses.replace(hugging_face.our_config("t5_1_1"), dtype="bfloat16"))
    ours = np.asarray(jax.jit(network.apply)({"params": params}, inputs[:, None], targets))
    assert ours.dtype == np.float32
    assert 0 < np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
