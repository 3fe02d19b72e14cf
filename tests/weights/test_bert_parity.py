"""BERT and RemBERT against transformers', with random weights that PyTorch saves and ours reads."""

import json
import types

import numpy as np
import pytest

from cd_jax.nets.bert import Bert, BertRegressor
from cd_jax.verifier import batches
from cd_jax.weights import bert

SIZES = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "vocab_size": 120,
    "hidden_size": 32,
}


@pytest.fixture(scope="module")
def peers():
    """PyTorch and transformers."""
    why = "transformers is lacking: pip install cd_jax[interop]"
    return types.SimpleNamespace(
        torch=pytest.importorskip("torch", reason=why), transformers=pytest.importorskip("transformers", reason=why)
    )


def lively(peers, model):
    """Weights of which every one is felt."""
    peers.torch.manual_seed(0)
    with peers.torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm.weight" in name:
                weight.uniform_(0.5, 1.5)
            elif weight.ndim == 2 and "embeddings" not in name:
                weight.normal_(0.0, 1.2 / weight.shape[1] ** 0.5)
            else:
                weight.normal_(0.0, 0.3)
    return model.eval()


def made(peers, kind: str, **changes):
    transformers = peers.transformers
    if kind == "rembert":
        config = transformers.RemBertConfig(**SIZES, input_embedding_size=12, max_position_embeddings=64, **changes)
        return config, transformers.RemBertModel, transformers.RemBertForSequenceClassification
    config = transformers.BertConfig(**SIZES, max_position_embeddings=64, **changes)
    return config, transformers.BertModel, transformers.BertForSequenceClassification


def inputs():
    """Padded to the longest, as everybody does; ids, mask and segments `[6, 40]`."""
    rng = np.random.default_rng(0)
    tokens = [batches.Tokens(rng.integers(0, 120, size).tolist(), size // 2) for size in (40, 3, 17, 1, 39, 24)]
    return batches.padded(tokens, 6, 40)


def theirs(peers, model):
    ids, mask, segments = (peers.torch.tensor(array, dtype=peers.torch.int64) for array in inputs())
    with peers.torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, token_type_ids=segments)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("kind", ["bert", "rembert"])
def test_states_are_theirs(peers, tmp_path, kind, activation):
    config, encoder, _ = made(peers, kind, hidden_act=activation)
    model = lively(peers, encoder(config))
    model.save_pretrained(tmp_path)
    ours = bert.read_config(tmp_path / "config.json", gelu="gelu")
    network = Bert(ours)
    params = bert.read_safetensors(tmp_path, {"bert": batches.abstract_params(network, None)})["bert"]
    states, pooled = network.apply({"params": params}, *inputs())
    expected, real = theirs(peers, model), inputs()[1].astype(bool)
    assert expected.last_hidden_state.std() > 0.5
    found = {
        "states": np.abs(np.asarray(states) - expected.last_hidden_state.numpy())[real].max(),
        "pooled": np.abs(np.asarray(pooled) - expected.pooler_output.numpy()).max(),
    }
    print(f"\n{kind} {activation}: {found}")
    assert max(found.values()) <= 1e-5


@pytest.mark.parametrize("kind", ["bert", "rembert"])
def test_regressions_are_theirs(peers, tmp_path, kind):
    config, _, regressor = made(peers, kind, hidden_act="gelu_new", num_labels=1)
    model = lively(peers, regressor(config))
    model.save_pretrained(tmp_path)
    network = BertRegressor(bert.read_config(tmp_path / "config.json", gelu="gelu_tanh"))
    params = bert.read_safetensors(tmp_path, batches.abstract_params(network, None))
    expected = theirs(peers, model).logits.numpy()[:, 0]
    found = np.abs(np.asarray(network.apply({"params": params}, *inputs())) - expected).max()
    print(f"\n{kind}: {found}")
    assert expected.std() > 0.1 and found <= 1e-5


def test_they_read_what_we_write(peers, tmp_path):
    config, _, regressor = made(peers, "rembert", hidden_act="gelu_new", num_labels=1)
    model = lively(peers, regressor(config))
    model.save_pretrained(tmp_path)
    network = BertRegressor(bert.read_config(tmp_path / "config.json", gelu="gelu_tanh"))
    bert.write_safetensors(tmp_path, bert.read_safetensors(tmp_path, batches.abstract_params(network, None)))
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["model_type"] == "rembert"
    (tmp_path / "model.safetensors").rename(tmp_path / "ours.safetensors")
    from safetensors.numpy import load_file

    renamed = {
        name.replace("bert.", "rembert.", 1): value for name, value in load_file(tmp_path / "ours.safetensors").items()
    }
    again = regressor(config).eval()
    again.load_state_dict({name: peers.torch.tensor(value) for name, value in renamed.items()})
    assert peers.torch.equal(theirs(peers, again).logits, theirs(peers, model).logits)
