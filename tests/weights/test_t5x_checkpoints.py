"""T5X's checkpoints: composed by hand, written and read by T5X itself where it is installed, and damaged."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from flax import traverse_util

from cd_jax.errors import RequestError
from cd_jax.nets.config import T5Config
from cd_jax.solver import optimizers
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver
from cd_jax.weights import t5x_checkpoints

T5_1_1 = T5Config(
    vocab_size=128,
    emb_dim=32,
    num_heads=8,
    head_dim=4,
    mlp_dim=48,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dropout_rate=0.0,
)
T5_1_0 = dataclasses.replace(T5_1_1, mlp_activations=("relu",), logits_via_embedding=True)
# Adafactor factors axes of at least 128.
WIDE = dataclasses.replace(T5_1_1, emb_dim=128, head_dim=20, mlp_dim=192, num_encoder_layers=1, num_decoder_layers=2)
FORMATS = pytest.mark.parametrize("orbax", [False, True], ids=["legacy", "orbax"])
NETWORKS = pytest.mark.parametrize("config", [T5_1_1, T5_1_0], ids=["t5_1_1", "t5_1_0"])
STEP = 1000


@functools.cache
def make_solver(config: T5Config = T5_1_1, data: int = 1, model: int = 1, **options) -> Solver:
    options = {"learning_rate": optax.constant_schedule(0.01), "optimizer": optimizers.adafactor} | options
    partitioner = Partitioner(data, model, devices=jax.devices()[: data * model])
    return Solver(config, 0, partitioner=partitioner, **options)


def random_like(abstract, seed: int = 0):
    """Positive numbers, none of them twice, in a tree's shapes, types and shardings; 1000 where it counts steps."""
    rng = np.random.default_rng(seed)

    def fill(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.device_put(rng.uniform(0.1, 1.0, x.shape) if floating else np.full(x.shape, STEP), x.sharding)

    return jax.tree.map(lambda x: fill(x).astype(x.dtype), abstract)


def random_params(config: T5Config = T5_1_1):
    return random_like(make_solver(config).abstract_state().params)


def flat(tree) -> dict[str, np.ndarray]:
    """By T5X's names, one tensor for each layer."""
    found = {}
    for name, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        if "/layers/" in name:
            found |= {name.replace("/layers/", f"/layers_{i}/"): x for i, x in enumerate(np.asarray(leaf))}
        else:
            found[name] = np.asarray(leaf)
    return found


def assert_same(got, expected) -> None:
    """Equal trees, bit for bit."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), *jax.device_get((got, expected)))


def read(path, config: T5Config = T5_1_1, **mesh):
    return t5x_checkpoints.read(path, make_solver(config, **mesh).abstract_state().params)


# Checkpoints composed by hand


def packed(value):
    """An array as `flax.serialization` packs it."""
    data = (value.shape, value.dtype.name, value.tobytes())
    return msgpack.ExtType(1, msgpack.packb(data))


def stored(folder: pathlib.Path, name: str, value: np.ndarray, kvstore: dict) -> dict:
    """Writes a zarr array; its spec with another address, as it is in the msgpack file."""
    metadata = {"compressor": {"id": "gzip", "level": 1}, "shape": value.shape, "chunks": value.shape}
    spec = {"driver": "zarr", "dtype": value.dtype.name, "metadata": metadata}
    file = {"driver": "file", "path": f"{folder}/{name}/"}
    ts.open(spec | {"kvstore": file}, create=True).result().write(value).result()
    return spec | {"kvstore": kvstore}


ADDRESSES = {
    "relative": lambda name: {"driver": "file", "path": f"{name}/"},
    "gfile": lambda name: {"driver": "gfile", "path": name},
    "elsewhere": lambda name: {"driver": "file", "path": f"/another/host/checkpoint_7/{name}/"},
    "bucket": lambda name: {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": f"{name}/"},
}


def compose(model_dir: pathlib.Path, tensors: dict[str, np.ndarray], address: str = "relative", step: int = STEP):
    """A legacy checkpoint as T5X writes it: norms in the msgpack file, all else in zarr arrays."""
    folder = model_dir / f"checkpoint_{step}"
    folder.mkdir(parents=True)
    target = {}
    for name, value in tensors.items():
        file = "target." + name.replace("/", ".")
        target[name] = packed(value) if value.ndim == 1 else stored(folder, file, value, ADDRESSES[address](file))
    state = {"step": packed(np.array(step, np.int32)), "param_states": {"token_embedder": {"m": packed(np.zeros(1))}}}
    contents = {"version": 3, "optimizer": {"target": traverse_util.unflatten_dict(target, sep="/"), "state": state}}
    (folder / "checkpoint").write_bytes(msgpack.packb(contents))
    return folder


@pytest.fixture
def composed(tmp_path):
    """A checkpoint composed by hand, and what it holds."""
    params = random_params()
    return compose(tmp_path / "model_dir", flat(params)), params


@pytest.mark.parametrize("address", ADDRESSES)
def test_reads_a_legacy_checkpoint_from_wherever_it_was_moved(tmp_path, address):
    params = random_params()
    compose(tmp_path / "written", flat(params), address)
    shutil.move(tmp_path / "written", tmp_path / "moved")
    assert_same(read(tmp_path / "moved" / f"checkpoint_{STEP}"), params)


def test_takes_the_newest_checkpoint_of_a_model_dir(composed):
    folder, params = composed
    newer = jax.tree.map(lambda x: x + 1, params)
    compose(folder.parent, flat(newer), step=10_000)  # Not the last by name.
    (folder.parent / "checkpoint_20000.tmp-1").mkdir()
    assert t5x_checkpoints.step(folder.parent) == 10_000
    assert t5x_checkpoints.step(folder) == STEP
    assert_same(read(folder.parent), newer)


@pytest.mark.parametrize("ocdbt", [True, False])
def test_reads_what_orbax_wrote(tmp_path, ocdbt):
    params = random_params()
    tree = {"target": traverse_util.unflatten_dict(flat(params), sep="/"), "state": {"step": np.int32(STEP)}}
    folder = tmp_path / f"checkpoint_{STEP}"
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)).save(folder / "state", tree)
    assert ocdbt == (folder / "state" / "manifest.ocdbt").exists()
    assert t5x_checkpoints.step(tmp_path) == STEP
    assert_same(read(tmp_path), params)


def test_widens_bfloat16(tmp_path):
    params = random_params()
    halved = {name: np.asarray(value.astype(jnp.bfloat16)) for name, value in flat(params).items()}
    got = read(compose(tmp_path, halved))
    assert_same(got, jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params))


@NETWORKS
def test_the_network_follows_from_the_shapes(tmp_path, config):
    folder = compose(tmp_path, flat(random_params(config)))
    fields = t5x_checkpoints.read_config(folder)
    assert T5Config(**fields, dropout_rate=0.0) == config


def test_reads_onto_a_mesh_slice_by_slice(composed, monkeypatch):
    folder, params = composed
    abstract = make_solver(data=2, model=4).abstract_state().params
    sizes = []
    fetch = t5x_checkpoints._Stored.__getitem__
    monkeypatch.setattr(
        t5x_checkpoints._Stored,
        "__getitem__",
        lambda self, i: sizes.append((self, fetch(self, i).size)) or fetch(self, i),
    )
    got = t5x_checkpoints.read(folder, abstract)
    assert_same(got, params)
    assert jax.tree.map(lambda x: x.sharding, got) == jax.tree.map(lambda x: x.sharding, abstract)
    embedding = [size for tensor, size in sizes if tensor.shape == (128, 32)]
    assert set(embedding) == {128 * 32 // 4} and len(embedding) == 4


# What we write


@FORMATS
@NETWORKS
def test_round_trip_is_bit_exact(tmp_path, config, orbax):
    state = random_like(make_solver(config, data=2, model=4).abstract_state())
    folder = t5x_checkpoints.write(tmp_path, state, config, orbax=orbax)
    assert folder == str(tmp_path / f"checkpoint_{STEP}")
    assert t5x_checkpoints.is_checkpoint(tmp_path) and t5x_checkpoints.step(tmp_path) == STEP
    assert T5Config(**t5x_checkpoints.read_config(tmp_path), dropout_rate=0.0) == config
    got = read(tmp_path, config, data=4, model=2)
    assert_same(got, state.params)


def test_two_devices_never_share_a_chunk(tmp_path):
    state = random_like(make_solver(data=2, model=4).abstract_state())
    folder = t5x_checkpoints.write(tmp_path, state, T5_1_1, orbax=False)
    embedding = json.loads(pathlib.Path(folder, "target.token_embedder.embedding", ".zarray").read_text())
    assert embedding["chunks"] == [128 // 4, 32] and embedding["compressor"]["id"] == "gzip"


def test_an_optimiser_that_is_not_adafactor_leaves_the_state_with_which_t5x_starts(tmp_path):
    solver = make_solver(WIDE, optimizer=optax.adam)
    folder = t5x_checkpoints.write(tmp_path, random_like(solver.abstract_state()), WIDE, orbax=False)
    contents = t5x_checkpoints._entries(t5x_checkpoints._find(folder))
    kernel = "state/param_states/decoder/layers_1/mlp/wo/kernel/"
    assert {k.removeprefix(kernel): v.tolist() for k, v in contents.items() if k.startswith(kernel)} == {
        "v_row": [0.0] * 128,
        "v_col": [0.0] * 192,
        "v": [0.0],
        "m": [0.0],
    }


# What is wrong


def refused(path, config: T5Config = T5_1_1) -> str:
    """The message with which a checkpoint is refused."""
    with pytest.raises(RequestError) as error:
        read(path, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_truncated_msgpack_file_is_refused(composed):
    file = composed[0] / "checkpoint"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file}: is no checkpoint of T5X, or was cut off" in refused(composed[0])


def test_truncated_orbax_metadata_are_refused(tmp_path):
    t5x_checkpoints.write(tmp_path, random_like(make_solver().abstract_state()), T5_1_1, orbax=True)
    file = tmp_path / f"checkpoint_{STEP}" / "state" / "_METADATA"
    file.write_text(file.read_text()[:-100])
    assert f"{file}: is no checkpoint of T5X, or was cut off" in refused(tmp_path)


@pytest.mark.parametrize("lost", ["", "0.0"], ids=["array", "chunk"])
def test_a_lost_array_is_refused(composed, lost):
    path = composed[0] / "target.encoder.layers_1.mlp.wo.kernel" / lost
    os.remove(path) if lost else shutil.rmtree(path)
    assert "the tensor target/encoder/layers_1/mlp/wo/kernel cannot be read (NOT_FOUND" in refused(composed[0])


def test_a_lost_database_is_refused(tmp_path):
    folder = t5x_checkpoints.write(tmp_path, random_like(make_solver().abstract_state()), T5_1_1, orbax=True)
    os.remove(f"{folder}/state/manifest.ocdbt")
    assert "cannot be read" in refused(tmp_path)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_refused(tmp_path):
    tensors = flat(random_params())
    name = "decoder/layers_2/mlp/wo/kernel"
    missing = {k: v for k, v in tensors.items() if k != name}
    assert name in refused(compose(tmp_path / "missing", missing))
    extra = tensors | {"decoder/layers_3/mlp/wo/kernel": tensors[name]}
    assert "decoder/layers_3/mlp/wo/kernel" in refused(compose(tmp_path / "extra", extra))
    misshapen = tensors | {name: tensors[name][:-1]}
    message = refused(compose(tmp_path / "misshapen", misshapen))
    assert name in message and "[47, 32]" in message and "[48, 32]" in message
    integers = tensors | {name: tensors[name].astype(np.uint16)}
    assert f"{name} is uint16" in refused(compose(tmp_path / "integers", integers))


@pytest.mark.parametrize(
    "name", ["token_embedder.embedding", "encoder.relpos_bias.rel_embedding", "encoder.layers_0.mlp.wo.kernel"]
)
@pytest.mark.parametrize(
    ("field", "size"), [("shape", [2**25, 32]), ("shape", [-1, 32]), ("chunks", [2**13, 2**12]), ("chunks", [-1, 32])]
)
def test_arrays_of_a_size_that_nobody_has_are_refused_in_one_line(composed, field, name, size):
    folder = composed[0]
    file = folder / f"target.{name}" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: size}))
    with pytest.raises(RequestError) as error:
        fields = t5x_checkpoints.read_config(folder)
        assert T5Config(**fields, dropout_rate=0.0) == T5_1_1
        read(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
    assert "copy the checkpoint again" in str(error.value)


def test_a_step_that_is_no_number_is_refused(composed):
    folder = composed[0]
    contents = msgpack.unpackb((folder / "checkpoint").read_bytes())
    spec = contents["optimizer"]["target"]["token_embedder"]["embedding"]
    for state in ({"step": spec}, {"steps": packed(np.int32(1)[()])}, {"step": packed(np.array(-1))}):
        contents["optimizer"]["state"] = state
        (folder / "checkpoint").write_bytes(msgpack.packb(contents))
        with pytest.raises(RequestError, match=r"its state/step is .*, no number of updates; copy it again, whole$"):
            t5x_checkpoints.step(folder)


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    assert not t5x_checkpoints.is_checkpoint(tmp_path / "nothing") and not t5x_checkpoints.is_checkpoint(tmp_path)
    assert f"{tmp_path}: there is no checkpoint of T5X" in refused(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-0"\n')  # TensorFlow's.
    assert "is no checkpoint of T5X" in refused(tmp_path)
    other = compose(tmp_path / "other", {"dense/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(RequestError, match=r"no checkpoint of T5X's t5x.examples.t5.network .*token_embedder"):
        t5x_checkpoints.read_config(other)


def test_our_own_checkpoints_are_not_taken_for_t5x(tmp_path):
    tree = {"params": flat(random_params()), "step": np.int32(3)}
    ocp.Checkpointer(ocp.StandardCheckpointHandler()).save(tmp_path / "3" / "state", tree)
    assert not t5x_checkpoints.is_checkpoint(tmp_path / "3")


def test_what_cannot_be_exported_is_refused(tmp_path):
    state = random_like(make_solver().abstract_state())
    with pytest.raises(RequestError, match="relative_attention_num_buckets=16"):
        t5x_checkpoints.write(tmp_path, state, dataclasses.replace(T5_1_1, relative_attention_num_buckets=16))
    t5x_checkpoints.write(tmp_path, state, T5_1_1)
    with pytest.raises(RequestError, match=f"checkpoint_{STEP}: is there already"):
        t5x_checkpoints.write(tmp_path, state, T5_1_1)


# T5X itself


class T5X:
    """T5X's network, optimiser and checkpointers."""

    def __init__(self, config: T5Config):
        pytest.importorskip("t5x.models", reason="T5X is not installed (from its repository: it is not on PyPI)")
        import seqio
        from t5x import adafactor, models, partitioning, utils
        from t5x.examples.t5 import network

        names = {field.name for field in dataclasses.fields(network.T5Config)} & vars(config).keys()
        shape = network.T5Config(**{name: getattr(config, name) for name in names})
        optimizer = adafactor.Adafactor(logical_factor_rules=adafactor.standard_logical_factor_rules())
        vocabulary = seqio.PassThroughVocabulary(config.vocab_size)
        model = models.EncoderDecoderModel(network.Transformer(shape), vocabulary, vocabulary, optimizer)
        rules = partitioning.standard_logical_axis_rules()
        self.partitioner = partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=rules)
        self._initializer = utils.TrainStateInitializer(
            optimizer_def=optimizer,
            init_fn=model.get_initial_variables,
            input_shapes={"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 8)},
            partitioner=self.partitioner,
        )

    def state(self):
        """A train state of random numbers, on T5X's mesh; its step is 1000."""
        shape = self._initializer.global_train_state_shape
        axes = self.partitioner.get_mesh_axes(shape).state_dict()

        def placed(x, axes):
            sharding = jax.sharding.NamedSharding(self.partitioner.mesh, axes or jax.sharding.PartitionSpec())
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return shape.restore_state(random_like(jax.tree.map(placed, shape.state_dict(), axes), seed=7))

    def _checkpointer(self, folder, orbax: bool):
        from t5x import checkpoints

        shape = self._initializer.global_train_state_shape
        if orbax:
            return checkpoints.OrbaxCheckpointManagerInterface(str(folder), shape, self.partitioner)
        return checkpoints.Checkpointer(shape, self.partitioner, str(folder))

    def save(self, folder: pathlib.Path, state, orbax: bool) -> None:
        """T5X writes."""
        folder.mkdir(parents=True)
        checkpointer = self._checkpointer(folder, orbax)
        checkpointer.save(state)
        if orbax:
            checkpointer.close()

    def restore(self, folder: pathlib.Path, orbax: bool):
        """T5X reads; with `orbax` as its scripts do, which take both formats."""
        return self._checkpointer(folder, orbax).restore(path=str(folder / f"checkpoint_{STEP}"))


@functools.cache
def make_t5x(config: T5Config) -> T5X:
    return T5X(config)


@pytest.fixture
def lenient_ranks():
    """T5X relies on broadcasting, which our tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


@FORMATS
@NETWORKS
def test_t5x_to_us_and_back(tmp_path, lenient_ranks, config, orbax):
    t5x = make_t5x(config)
    theirs = t5x.state()
    t5x.save(tmp_path / "theirs", theirs, orbax)
    assert t5x_checkpoints.step(tmp_path / "theirs") == STEP
    assert T5Config(**t5x_checkpoints.read_config(tmp_path / "theirs"), dropout_rate=0.0) == config

    solver = make_solver(config, data=4, model=2)
    params = t5x_checkpoints.read(tmp_path / "theirs", solver.abstract_state().params)
    assert_same(flat(params), {k: np.asarray(v) for k, v in traverse_util.flatten_dict(theirs.params, sep="/").items()})

    t5x_checkpoints.write(tmp_path / "ours", random_like(solver.abstract_state()).replace(params=params), config, orbax)
    for as_scripts_do in {True, orbax}:
        restored = t5x.restore(tmp_path / "ours", as_scripts_do)
        assert_same(restored.params, theirs.params)
        assert int(restored.step) == STEP


@FORMATS
def test_t5x_restores_the_optimiser_and_goes_on_as_we_do(tmp_path, lenient_ranks, orbax):
    t5x, solver = make_t5x(WIDE), make_solver(WIDE, data=4, model=2)
    state = random_like(solver.abstract_state())
    t5x_checkpoints.write(tmp_path, state, WIDE, orbax)
    restored = t5x.restore(tmp_path, True)

    gradients = random_like(state.params, seed=5)
    updates, _ = jax.jit(solver._optimizer.update)(gradients, state.opt_state, state.params)
    ours = flat(optax.apply_updates(state.params, updates))
    names = traverse_util.flatten_dict(restored.params, sep="/")
    gradients = traverse_util.unflatten_dict({tuple(k.split("/")): flat(gradients)[k] for k in names})
    theirs = jax.jit(lambda state: state.apply_gradient(gradients, learning_rate=0.01))(restored)
    for name, value in traverse_util.flatten_dict(theirs.params, sep="/").items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    wide = restored.param_states["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    assert wide.v_row.shape == (128,) and wide.v_col.shape == (192,) and wide.v.shape == (1,)
