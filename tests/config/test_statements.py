"""Statements of gin, read and not executed."""

import gin

from cd_jax.config import statements

TEXT = """
# A comment with = in it.
import never.imported
AGENT = 'a = b'
a/AGENT = %b.C
train.seed = 3  # another
T5Config:
    emb_dim = 4
    mlp_activations = ('gelu',
                       'linear')
x/y.index = [@Index, {'k': @scope/Index(), 'text': '@Index'}]
"""


def test_values_are_those_of_gins_parser():
    found = statements.bindings(TEXT)
    assert found == {
        "AGENT": "a = b",
        "a/AGENT": "%b.C",
        "train.seed": 3,
        "T5Config.emb_dim": 4,
        "T5Config.mlp_activations": ("gelu", "linear"),
        "x/y.index": ["@Index", {"k": "@scope/Index()", "text": "@Index"}],
    }
    assert repr(found["x/y.index"]) == "[@Index, {'k': @scope/Index(), 'text': '@Index'}]"
    assert isinstance(found["a/AGENT"], statements.Reference) and found["a/AGENT"].macro() == "b.C"
    assert not isinstance(found["AGENT"], statements.Reference)


def test_what_gin_writes_is_read():
    gin.clear_config()
    try:
        gin.parse_config("A = {'a': 1}\nB = %A\nC = " + repr(["long"] * 40))
        assert statements.bindings(gin.config_str()) == {"A": {"a": 1}, "B": "%A", "C": ["long"] * 40}
    finally:
        gin.clear_config()
