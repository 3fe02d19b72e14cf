"""Random models of Hugging Face's T5, and our parameters made from theirs, by hand."""

import dataclasses
import functools

import numpy as np
import pytest

from cd_jax.nets.config import T5Config

VOCAB = 128
TINY = T5Config(
    vocab_size=VOCAB, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=48, num_encoder_layers=2, num_decoder_layers=2,
    dropout_rate=0.0, relative_attention_max_distance=20,
)  # fmt: skip
# T5 1.1, which Flan and LM-adapted models are too; T5 1.0; and what stands between them.
CONFIGS = {
    "t5_1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "t5_1_0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "relu_untied": {"feed_forward_proj": "relu", "tie_word_embeddings": False},
    "gated_tied": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True},
    "ul2": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
}


def our_config(kind: str, **changes) -> T5Config:
    """The same shape, as our configuration."""
    activations = {"relu": ("relu",), "gated-gelu": ("gelu", "linear"), "gated-silu": ("silu", "linear")}
    given = {
        "mlp_activations": activations[CONFIGS[kind]["feed_forward_proj"]],
        "logits_via_embedding": CONFIGS[kind]["tie_word_embeddings"],
    }
    return dataclasses.replace(TINY, **(given | changes))


@functools.cache
def model(kind: str, lively: bool = True):
    """A model with random weights.

    `lively`: norms are not all 1, positions and attention weigh more: a generation is not one word over and over.
    """
    why = "Hugging Face's T5 is lacking: pip install cd_jax[interop]"
    torch = pytest.importorskip("torch", reason=why)
    transformers = pytest.importorskip("transformers", reason=why)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=TINY.emb_dim, d_kv=TINY.head_dim, d_ff=TINY.mlp_dim, num_heads=TINY.num_heads,
        num_layers=TINY.num_encoder_layers, num_decoder_layers=TINY.num_decoder_layers, dropout_rate=0.0,
        relative_attention_max_distance=20, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **CONFIGS[kind],
    )  # fmt: skip
    made = transformers.T5ForConditionalGeneration(config).eval()
    tied = CONFIGS[kind]["tie_word_embeddings"]
    if not tied:
        # transformers 5 ties the head of every new T5; of what it loads, it does not where the weights differ.
        made.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, TINY.emb_dim))
    with torch.no_grad():
        for name, weight in made.named_parameters() if lively else ():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                weight.normal_(0.0, 1.0)
            elif name.endswith("Attention.o.weight"):
                weight.mul_(10.0)
            elif name == "shared.weight" and tied:
                weight.mul_(3.0)
    return made


def parameters(kind: str, lively: bool = True) -> dict:
    """Our parameters, made from the model's own."""
    return from_weights({k: v.detach().numpy() for k, v in model(kind, lively).named_parameters()}, kind)


def from_weights(weights: dict[str, np.ndarray], kind: str) -> dict:
    """Our tree from tensors under Hugging Face's names (weights, or their gradients)."""
    gated = CONFIGS[kind]["feed_forward_proj"].startswith("gated-")

    def stack(name: str, layers: int, parts: dict[str, tuple[str, bool]]) -> dict:
        tree: dict = {}
        for ours, (theirs, kernel) in parts.items():
            found = [weights[f"{name}.block.{i}.layer.{theirs}.weight"] for i in range(layers)]
            # PyTorch keeps kernels as [out, in]; Flax as [in, out].
            at = tree
            *path, last = ours.split("/")
            for key in path:
                at = at.setdefault(key, {})
            at[last] = {"kernel" if kernel else "scale": np.stack([x.T if kernel else x for x in found])}
        return tree

    def attention(ours: str, theirs: str) -> dict[str, tuple[str, bool]]:
        names = {"query": "q", "key": "k", "value": "v", "out": "o"}
        return {f"{ours}/{name}": (f"{theirs}.{letter}", True) for name, letter in names.items()}

    def mlp(layer: int) -> dict[str, tuple[str, bool]]:
        names = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
        return {f"mlp/{name}": (f"{layer}.DenseReluDense.{name}", True) for name in names}

    encoder = {
        "pre_attention_layer_norm": ("0.layer_norm", False), "pre_mlp_layer_norm": ("1.layer_norm", False),
        **attention("attention", "0.SelfAttention"), **mlp(1),
    }  # fmt: skip
    decoder = {
        "pre_self_attention_layer_norm": ("0.layer_norm", False),
        "pre_cross_attention_layer_norm": ("1.layer_norm", False), "pre_mlp_layer_norm": ("2.layer_norm", False),
        **attention("self_attention", "0.SelfAttention"), **attention("encoder_decoder_attention", "1.EncDecAttention"),
        **mlp(2),
    }  # fmt: skip
    params: dict = {"token_embedder": {"embedding": weights["shared.weight"]}}
    for name, layers, parts in (
        ("encoder", TINY.num_encoder_layers, encoder), ("decoder", TINY.num_decoder_layers, decoder),
    ):  # fmt: skip
        bias = weights[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        params[name] = {
            "relpos_bias": {"rel_embedding": bias.T},
            "layers": stack(name, layers, parts),
            f"{name}_norm": {"scale": weights[f"{name}.final_layer_norm.weight"]},
        }
    if not CONFIGS[kind]["tie_word_embeddings"]:
        params["decoder"]["logits_dense"] = {"kernel": weights["lm_head.weight"].T}
    return params
