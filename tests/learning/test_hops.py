"""How far it is from the loop over batches to the loss: few hops matter more than short functions."""

import pathlib
import traceback

import pytest
import runs

import cd_jax
from cd_jax.losses import cross_entropy

OURS = pathlib.Path(cd_jax.__file__).parent


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    assert runs.here(runs.arguments("distill", folder, SOURCE=f"'{runs.SOURCE}'")) == 0
    return folder


@pytest.mark.parametrize("agent", [pytest.param("baseline", marks=pytest.mark.slow), "cd_memory"])
def test_seven_frames_in_three_files(tmp_path, monkeypatch, distilled, agent):
    stacks, chosen = [], cross_entropy._chosen

    def spied(*args):
        stacks.append(
            [frame for frame in traceback.extract_stack() if pathlib.Path(frame.filename).is_relative_to(OURS)]
        )
        return chosen(*args)

    monkeypatch.setattr(cross_entropy, "_chosen", spied)
    assert runs.here(runs.train_arguments(tmp_path, distilled, AGENT=f"'{agent}'", BATCH_SIZE=8, TRAIN_STEPS=4)) == 0
    for stack in stacks:
        names = [frame.name for frame in stack]
        # From the loop over batches to the expression in which the loss is written.
        hops = stack[names.index("_loop") :]
        assert len(hops) <= 7, [f"{frame.filename}:{frame.name}" for frame in hops]
        assert len({frame.filename for frame in hops}) <= 3
    assert stacks
