"""Hugging Face's folders: against models that transformers writes and loads, bit for bit, and damaged ones."""

import dataclasses
import json
import math
import pathlib
import shutil

import hugging_face
import jax
import ml_dtypes
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from cd_jax.errors import RequestError
from cd_jax.nets import layers
from cd_jax.nets.config import T5Config
from cd_jax.nets.network import T5
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.weights import huggingface, names

KINDS = list(hugging_face.CONFIGS)
BLOCK = "encoder.block.0.layer"
# Rows for all pieces of the embedded vocabulary, heads for a mesh of 1x8.
OURS = T5Config(
    vocab_size=2688, emb_dim=32, num_heads=8, head_dim=4, mlp_dim=48, num_encoder_layers=2, num_decoder_layers=3
)
CONFIGS = {
    "t5_1_1": OURS,
    "t5_1_0": dataclasses.replace(OURS, mlp_activations=("relu",), logits_via_embedding=True),
}


def abstract_params(config: T5Config, data: int = 1, model: int = 1):
    partitioner = Partitioner(data, model, devices=jax.devices()[: data * model])
    solver = Solver(config, 0, optax.constant_schedule(0.01), partitioner=partitioner)
    return solver.abstract_state().params


def random_params(config: T5Config) -> dict:
    """Our tree with random numbers, on one device."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract_params(config))


def assert_equal_trees(found, expected) -> None:
    leaves, others = jax.tree_util.tree_leaves_with_path(found), jax.tree_util.tree_leaves_with_path(expected)
    assert [path for path, _ in leaves] == [path for path, _ in others]
    for (path, leaf), (_, other) in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other), err_msg=jax.tree_util.keystr(path))


def written(folder: pathlib.Path, kind: str = "t5_1_1") -> tuple[pathlib.Path, dict]:
    """A folder that we wrote, and the parameters in it."""
    params = random_params(CONFIGS[kind])
    huggingface.write(folder, params, CONFIGS[kind], vocabularies.EMBEDDED, 16)
    return folder, params


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[pathlib.Path, dict]]:
    """For each of CONFIGS, a folder that we wrote; tests copy it."""
    return {kind: written(tmp_path_factory.mktemp(kind), kind) for kind in CONFIGS}


@pytest.fixture
def copied(folders, tmp_path) -> pathlib.Path:
    """A T5 1.1 to be damaged."""
    return pathlib.Path(shutil.copytree(folders["t5_1_1"][0], tmp_path / "copy"))


def change_tensors(folder: pathlib.Path, **changes: np.ndarray | None) -> None:
    """Replaces or adds tensors, `__` for a dot; None takes one away."""
    file = folder / huggingface.WEIGHTS
    tensors = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file, metadata={"format": "pt"})


def change_config(folder: pathlib.Path, **changes) -> None:
    file = folder / huggingface.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Against transformers


@pytest.fixture(params=KINDS)
def theirs(request, tmp_path):
    """A random model that transformers wrote: its kind, the model, the folder."""
    model = hugging_face.model(request.param)
    model.save_pretrained(tmp_path / "hf")
    return request.param, model, tmp_path / "hf"


def random_rows(rows: int, length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, hugging_face.VOCAB, (rows, length)).astype(np.int32)


def test_a_model_of_transformers_comes_in_whole(theirs):
    import torch

    kind, model, folder = theirs
    config = T5Config(**huggingface.read_config(folder))
    assert config == hugging_face.our_config(kind)
    params = huggingface.read(folder, abstract_params(config, 2, 4))
    assert_equal_trees(params, hugging_face.parameters(kind))
    inputs, targets = random_rows(5, 40, 1), random_rows(5, 33, 3)
    logits = model(input_ids=torch.tensor(inputs).long(), decoder_input_ids=torch.tensor(targets).long()).logits
    ours = jax.jit(T5(config).apply)({"params": jax.tree.map(np.asarray, params)}, inputs[:, None], targets)
    assert logits.abs().mean() > 0.5
    np.testing.assert_allclose(ours, logits.detach().numpy(), atol=1e-4, rtol=1e-4)


def test_transformers_generates_what_we_do_from_what_we_write(theirs, tmp_path):
    import torch
    import transformers

    _, model, folder = theirs
    config = T5Config(**huggingface.read_config(folder))
    solver = Solver(config, 0, optax.constant_schedule(0.01))
    params = huggingface.read(folder, solver.abstract_state().params)
    huggingface.write(tmp_path / "ours", params, config, vocabularies.EMBEDDED, 12)
    inputs = random_rows(16, 20, 4)
    ours = solver.generate(params, inputs[:, None], 12)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    # How long is in generation_config.json.
    tokens = loaded.generate(input_ids=torch.tensor(inputs).long()).numpy()[:, 1:]
    np.testing.assert_array_equal(np.pad(tokens, ((0, 0), (0, 12 - tokens.shape[1]))), ours)
    original = model.generate(input_ids=torch.tensor(inputs).long(), max_new_tokens=12).numpy()[:, 1:]
    np.testing.assert_array_equal(tokens, original)
    assert len(np.unique(ours)) > 8
    before, after = load_file(folder / huggingface.WEIGHTS), load_file(tmp_path / "ours" / huggingface.WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_widened(dtype, tmp_path):
    model = hugging_face.model("t5_1_1")
    import torch

    model = type(model)(model.config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "half")
    params = huggingface.read(tmp_path / "half", abstract_params(hugging_face.our_config("t5_1_1")))
    expected = model.encoder.block[1].layer[1].DenseReluDense.wi_0.weight.float().detach().numpy().T
    found = np.asarray(params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1], expected)


# Bit for bit, without PyTorch


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("mesh", [(1, 8), (4, 2)], ids=str)
def test_our_parameters_come_back_on_any_mesh(folders, kind, mesh):
    folder, params = folders[kind]
    fields = huggingface.read_config(folder)
    assert T5Config(**fields) == CONFIGS[kind]
    read = huggingface.read(folder, abstract_params(CONFIGS[kind], *mesh))
    assert_equal_trees(read, params)
    kernel = read["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 48 // mesh[1], 32)


def test_a_device_reads_its_slices_alone(folders, monkeypatch):
    folder, _ = folders["t5_1_1"]
    reads: list[tuple[str, int]] = []
    plain = huggingface.Stored.__getitem__

    def recorded(self, index):
        found = plain(self, index)
        reads.append((self._name, found.size))
        return found

    monkeypatch.setattr(huggingface.Stored, "__getitem__", recorded)
    huggingface.read(folder, abstract_params(OURS, 1, 8))
    sizes = {name: math.prod(tensor.shape) for name, tensor in load_file(folder / huggingface.WEIGHTS).items()}
    assert {name for name, _ in reads} == sizes.keys()
    for name, size in reads:
        if "embed" in name or "Dense" in name or name.endswith((".q.weight", ".o.weight", "shared.weight")):
            assert size == sizes[name] // 8, name
    # Each element once, though every norm lies on all eight.
    assert sum(size for _, size in reads) == sum(sizes.values())


def test_large_models_are_divided_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_MAX_FILE_BYTES", 400_000)
    folder, params = written(tmp_path / "parts")
    files = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / huggingface.INDEX).read_text())
    assert len(files) > 2
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 400_000 for file in files)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert_equal_trees(huggingface.read(folder, abstract_params(OURS, 4, 2)), params)
    files[1].unlink()
    with pytest.raises(RequestError, match=rf"{files[1].name}: no such file"):
        huggingface.read(folder, abstract_params(OURS))
    shutil.copyfile(files[0], files[1])
    with pytest.raises(RequestError, match=rf"{files[1].name}: lacks the tensor"):
        huggingface.read(folder, abstract_params(OURS))


# How shared tensors are stored

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@pytest.mark.parametrize("stored", [EMBEDDINGS, EMBEDDINGS[1:], EMBEDDINGS[2:]], ids=len)
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_embedding_may_stand_under_any_of_its_names(folders, kind, stored, tmp_path):
    source, params = folders[kind]
    folder = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    embedding = params["token_embedder"]["embedding"]
    changes = {name: embedding if name in stored else None for name in EMBEDDINGS}
    change_tensors(folder, **changes)
    assert_equal_trees(huggingface.read(folder, abstract_params(CONFIGS[kind])), params)
    change_tensors(folder, **{stored[-1]: embedding + (np.arange(32) == 5).astype(np.float32)})
    if len(stored) > 1:
        with pytest.raises(RequestError, match=rf"{stored[0]} and {stored[-1]} differ"):
            huggingface.read(folder, abstract_params(CONFIGS[kind]))


def test_a_tied_head_may_stand_there_or_alone_and_not_differ(folders, tmp_path):
    source, params = folders["t5_1_0"]
    folder = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    embedding = params["token_embedder"]["embedding"]
    change_tensors(folder, lm_head__weight=embedding)
    assert_equal_trees(huggingface.read(folder, abstract_params(CONFIGS["t5_1_0"])), params)
    change_tensors(folder, shared__weight=None)
    assert_equal_trees(huggingface.read(folder, abstract_params(CONFIGS["t5_1_0"])), params)
    change_tensors(folder, shared__weight=embedding[::-1].copy())
    with pytest.raises(RequestError, match=r"lm_head\.weight is not shared\.weight, but config\.json says .* tied"):
        huggingface.read(folder, abstract_params(CONFIGS["t5_1_0"]))


def test_an_unscaled_head_that_is_lacking_is_the_embedding(copied, folders):
    # transformers 5 ties every T5, and stores the embedding alone.
    change_tensors(copied, lm_head__weight=None)
    params = huggingface.read(copied, abstract_params(OURS))
    embedding = folders["t5_1_1"][1]["token_embedder"]["embedding"]
    np.testing.assert_array_equal(np.asarray(params["decoder"]["logits_dense"]["kernel"]), embedding.T)


@pytest.mark.parametrize(
    ("given", "tied"),
    [
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True}, True),
        ({}, True),
        # transformers 5 writes the first whatever was asked for.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
    ],
)
def test_scaling_as_either_generation_of_transformers_writes_it(copied, given, tied):
    file = copied / huggingface.CONFIG
    both = ("tie_word_embeddings", "scale_decoder_outputs")
    plain = {name: value for name, value in json.loads(file.read_text()).items() if name not in both}
    file.write_text(json.dumps(plain | given))
    assert huggingface.read_config(copied)["logits_via_embedding"] == tied


def test_what_t5_1_0s_files_hold_in_excess_is_left_out(copied, folders):
    bias = np.zeros((32, 8), np.float32)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    change_tensors(copied, **{name: bias})
    assert_equal_trees(huggingface.read(copied, abstract_params(OURS)), folders["t5_1_1"][1])


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{BLOCK}.0.SelfAttention.k.weight": None}, r"lacks the tensor encoder.* \[32, 32\]"),
        ({f"{BLOCK}.7.SelfAttention.k.weight": np.ones((3, 4), np.float32)}, r"holds a tensor .*layer\.7.* \[3, 4\]"),
        (
            {f"{BLOCK}.1.DenseReluDense.wo.weight": np.ones((48, 32), np.float32)},
            r"the tensor encoder.*\.wo\.weight is \[48, 32\], but the network's is \[32, 48\]",
        ),
        ({"shared.weight": None, "lm_head.weight": None}, r"lacks the tensor lm_head\.weight \[2688, 32\]"),
        ({"encoder.final_layer_norm.weight": np.ones(32, np.int8)}, r"final_layer_norm\.weight is I8"),
        ({"encoder.final_layer_norm.weight": np.zeros((), np.float32)}, r"is \[\], but the network's is \[32\]"),
    ],
    ids=["missing", "extra", "mis-shaped", "no embedding", "integers", "scalar"],
)
def test_a_wrong_tensor_is_named(copied, changes, message):
    change_tensors(copied, **changes)
    with pytest.raises(RequestError, match=message) as raised:
        huggingface.read(copied, abstract_params(OURS))
    assert str(copied) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 64}, r"the tensor decoder\..*norm\.weight is \[32\], but the network's is \[64\]"),
        ({"vocab_size": 4000}, r"lm_head\.weight is \[2688, 32\], but the network's is \[4000, 32\]"),
        ({"num_layers": 1}, r"holds a tensor encoder\.block\.1\..* that the network does not have"),
        ({"num_decoder_layers": 4}, r"lacks the tensor decoder\.block\.3\."),
        ({"num_heads": 4, "d_kv": 8}, r"relative_attention_bias\.weight is \[32, 8\], but the network's is \[32, 4\]"),
        ({"feed_forward_proj": "relu"}, r"lacks the tensor .*DenseReluDense\.wi\.weight"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_of_another_size_is_refused_by_tensor(copied, changes, message):
    change_config(copied, **({"dense_act_fn": "relu"} if "feed_forward_proj" in changes else {}), **changes)
    with pytest.raises(RequestError, match=message):
        huggingface.read(copied, abstract_params(T5Config(**huggingface.read_config(copied))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "model_type='bart'"),
        ({"feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu'; only relu, gated-gelu, gated-silu"),
        ({"feed_forward_proj": ["relu"]}, "feed_forward_proj="),
        # transformers would take the second, and says nothing.
        ({"dense_act_fn": "relu"}, "dense_act_fn='relu' contradicts feed_forward_proj='gated-gelu'"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn='gelu' contradicts"),
        ({"is_gated_act": False}, "is_gated_act=False contradicts"),
        ({"feed_forward_proj": "gated-silu", "dense_act_fn": "gelu_new"}, "'gelu_new' contradicts .*'gated-silu'"),
        ({"dropout_rate": 7}, r"dropout_rate=7 is not in 0\.\.1"),
        ({"dropout_rate": 1}, "dropout_rate=1 is not"),
        ({"dropout_rate": -0.1}, "dropout_rate=-0.1 is not"),
        ({"dropout_rate": True}, "dropout_rate=True is not"),
        ({"num_heads": 0}, "num_heads='0' is not a whole number"),
        ({"num_heads": 2.5}, "num_heads='2.5' is not a whole number"),
        ({"d_kv": -64}, "d_kv='-64' is not"),
        ({"num_decoder_layers": 0}, "num_decoder_layers='0' is not"),
        ({"num_layers": 10**9}, "num_layers='1000000000' is not a whole number in 1..1024"),
        ({"vocab_size": 10**400}, "vocab_size='1000.*' is not"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets=2 do not reach"),
        ({"relative_attention_max_distance": 16}, "relative_attention_max_distance=16"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no' is neither"),
        ({"scale_decoder_outputs": 1}, "scale_decoder_outputs=1 is neither"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon=1e-05; the solver has 1e-06"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id=2; the solver has 0"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id=\[1, 2\]"),
        ({"num_layers": "six"}, "num_layers='six' is not a whole number"),
        ({"d_ff": 0}, "d_ff='0' is not"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_the_solver_cannot_be_is_refused(copied, changes, message):
    change_config(copied, **changes)
    with pytest.raises(RequestError, match=message):
        huggingface.read_config(copied)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", [f"{BLOCK}.1.DenseReluDense.wo.weight", "decoder.final_layer_norm.weight"])
def test_a_tensor_that_is_not_finite_is_refused_by_name(copied, folders, name, dtype, broken):
    tensor = load_file(copied / huggingface.WEIGHTS)[name].astype(dtype)
    tensor.flat[-1] = broken
    change_tensors(copied, **{name: tensor})
    with pytest.raises(RequestError, match=rf"model\.safetensors: the tensor {name} holds NaN or infinity"):
        huggingface.read(copied, abstract_params(OURS))


def test_the_index_names_files_of_the_folder_alone(copied):
    (copied / huggingface.WEIGHTS).rename(copied / "model-00001-of-00001.safetensors")
    names_ = load_file(copied / "model-00001-of-00001.safetensors")
    for file in ("../copy/model-00001-of-00001.safetensors", "/etc/passwd", "", 7, ["a"], None, "a\0.safetensors"):
        (copied / huggingface.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names_, file)}))
        with pytest.raises(RequestError, match=r"index\.json: lacks weight_map"):
            huggingface.read(copied, abstract_params(OURS))


def test_ul2s_activation_comes_in_and_goes_out(copied, tmp_path):
    change_config(copied, feed_forward_proj="gated-silu", dense_act_fn="silu", is_gated_act=True)
    config = T5Config(**huggingface.read_config(copied))
    assert config == dataclasses.replace(OURS, mlp_activations=("silu", "linear"))
    params = huggingface.read(copied, abstract_params(config))
    huggingface.write(tmp_path / "out", params, config, vocabularies.EMBEDDED, 16)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["feed_forward_proj"] == "gated-silu"
    # Against the formula of transformers' T5DenseGatedActDense, wo(silu(wi_0(x)) * wi_1(x)).
    x = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    mlp = {name: np.asarray(value["kernel"][0]) for name, value in params["encoder"]["layers"]["mlp"].items()}
    gate = x @ mlp["wi_0"]
    expected = (gate / (1 + np.exp(-gate)) * (x @ mlp["wi_1"])) @ mlp["wo"]
    layer = layers.MlpBlock(dataclasses.replace(config, dropout_rate=0.0))
    found = layer.apply({"params": {name: {"kernel": kernel} for name, kernel in mlp.items()}}, x[None])
    np.testing.assert_allclose(found[0], expected, rtol=2e-4, atol=1e-3)


def test_files_that_are_missing_or_cut_off(copied):
    file = copied / huggingface.WEIGHTS
    whole = file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(RequestError, match=r"model\.safetensors: is damaged or cut off"):
            huggingface.read(copied, abstract_params(OURS))
    file.unlink()
    with pytest.raises(RequestError, match=r"model\.safetensors: no such file; copy it"):
        huggingface.read(copied, abstract_params(OURS))
    (copied / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(RequestError, match=r"as safetensors, not as pytorch_model\.bin"):
        huggingface.read(copied, abstract_params(OURS))
    for text in ("", "[]", '{"model_type": "t5"'):
        (copied / huggingface.CONFIG).write_text(text)
        with pytest.raises(RequestError, match=r"config\.json: not"):
            huggingface.read_config(copied)


def header(file: pathlib.Path, change) -> None:
    """Writes a safetensors file anew, with what `change` makes of its header."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    described = json.loads(content[8 : 8 + size])
    change(described)
    said = json.dumps(described).encode()
    file.write_bytes(len(said).to_bytes(8, "little") + said + content[8 + size :])


NORM = "encoder.final_layer_norm.weight"
HUGE = 10**18


@pytest.mark.parametrize(
    "given",
    [
        {"data_offsets": [-128, 0]},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [2**64 - 128, 2**64]},
        {"data_offsets": [128, 0]},
        {"data_offsets": [0, 128]},
        {"data_offsets": []},
        {"shape": [HUGE, HUGE]},
        {"shape": [HUGE]},
        {"shape": [-32]},
        {"shape": [31]},
        {"dtype": "F999"},
        {"dtype": "F64"},
    ],
    ids=str,
)
def test_headers_that_overflow_are_one_line(copied, given):
    header(copied / huggingface.WEIGHTS, lambda described: described[NORM].update(given))
    with pytest.raises(RequestError, match=r"model\.safetensors: is damaged or cut off") as raised:
        huggingface.read(copied, abstract_params(OURS))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_another_size_is_one_line(copied, size):
    file = copied / huggingface.WEIGHTS
    file.write_bytes(size.to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(RequestError, match=r"model\.safetensors: is damaged or cut off") as raised:
        huggingface.read(copied, abstract_params(OURS))
    assert "\n" not in str(raised.value)


def test_an_index_and_files_that_contradict_it_are_refused(copied):
    whole = load_file(copied / huggingface.WEIGHTS)
    (copied / huggingface.WEIGHTS).unlink()
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    of = {name: parts["decoder" in name] for name in whole}

    def refused(of: dict, *contents: set[str], text: str = "") -> str:
        for part, content in zip(parts, contents, strict=True):
            save_file({name: whole[name] for name in content}, copied / part, metadata={"format": "pt"})
        (copied / huggingface.INDEX).write_text(text or json.dumps({"weight_map": of}))
        with pytest.raises(RequestError) as raised:
            huggingface.read(copied, abstract_params(OURS))
        assert "\n" not in str(raised.value) and str(copied) in str(raised.value)
        return str(raised.value).removeprefix(f"{copied}/")

    first, second = ({name for name in of if of[name] == part} for part in parts)
    lacks = refused(of, first - {NORM}, second)
    assert lacks == f"{parts[0]}: lacks the tensor {NORM}, which {huggingface.INDEX} says is there; copy it again"
    twice = refused(of, first, second | {NORM})
    assert twice.startswith(
        f"{parts[1]}: holds the tensor {NORM}, which {huggingface.INDEX} says is in {parts[0]}; copy"
    )
    unnamed = refused({name: of[name] for name in of if name != NORM}, first, second)
    assert unnamed.startswith(
        f"{parts[0]}: holds the tensor {NORM}, which {huggingface.INDEX} says is in no file; copy"
    )
    doubled = json.dumps({"weight_map": of})[:-2] + f', "{NORM}": "{parts[1]}"}}}}'
    assert f"{NORM!r} stands twice in an object" in refused(of, first, second, text=doubled)
    nowhere = of | {NORM: "../model.safetensors"}
    assert "lacks weight_map" in refused(nowhere, first, second)
    assert "lacks the tensor encoder.extra" in refused(of | {"encoder.extra": parts[0]}, first, second)


def test_a_network_that_hugging_faces_t5_has_not_is_not_written(tmp_path):
    config = dataclasses.replace(OURS, mlp_activations=("relu", "linear"))
    with pytest.raises(RequestError, match=r"T5Config\.mlp_activations=\('relu', 'linear'\)"):
        huggingface.write(tmp_path / "out", {}, config, vocabularies.EMBEDDED, 16)
    assert not (tmp_path / "out").exists()


# names


def test_unstacked_names_are_t5xs_and_go_back():
    params = random_params(OURS)
    flat = dict(names.unstack(params))
    assert flat.keys() == names.shapes(params).keys()
    assert len(flat) == 2 + 2 * 2 + 2 * 9 + 3 * 14
    np.testing.assert_array_equal(
        flat["decoder/layers_2/encoder_decoder_attention/out/kernel"],
        params["decoder"]["layers"]["encoder_decoder_attention"]["out"]["kernel"][2],
    )
    assert_equal_trees(names.stack(flat, abstract_params(OURS, 2, 4), "here"), params)
