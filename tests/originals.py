"""Where the original data sets are, and marks for the tests that need them."""

import os
import pathlib

import pytest

_DATA = pathlib.Path(os.environ.get("CD_JAX_DATA") or pathlib.Path(__file__).parents[2] / "shared" / "data")

BABI_DIR = _DATA / "babi" / "tasks_1-20_v1-2"
COM2SENSE_DIR = _DATA / "com2sense"


def _needs(path: pathlib.Path, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not path.exists(), reason=f"{what} is not there: {path} is lacking; set CD_JAX_DATA to the folder that holds it"
    )


needs_babi = _needs(BABI_DIR / "en-valid", "the original bAbI data")
needs_com2sense = _needs(COM2SENSE_DIR / "train.json", "the original Com2Sense data")
BLEURT_DIR = _DATA / "bleurt" / "test_checkpoint"
needs_bleurt = _needs(BLEURT_DIR / "saved_model.pb", "BLEURT's official graph")
