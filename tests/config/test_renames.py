"""Bindings by the names that they had before: of an old run's config.gin, of the user's files and flags."""

import pathlib

import gin
import pytest

from cd_jax.config import library, resumption, statements
from cd_jax.config.configuration import Configuration
from cd_jax.errors import RequestError
from cd_jax.solver.partitioning import Partitioner

# As `cd_jax train --gin_file=sharding/fsdp_model.gin --gin.MESH_MODEL=4` wrote it when the mesh was bound to Solver.
OLD = pathlib.Path(__file__).parent / "config_before_partitioner.gin"
FSDP_MODEL = [("batch", "data"), ("vocab", "model"), ("mlp", "model"), ("heads", "model"), ("joined_kv", "model")]


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    gin.clear_config()


def configure(*files, statements=()):
    Configuration([library.packaged("runs/train.gin"), *map(str, files)], statements).apply()


def test_an_old_runs_config_means_what_it_meant(tmp_path):
    text = OLD.read_text()
    assert "Solver.mesh_model = %MESH_MODEL" in text and "Partitioner" not in text
    (tmp_path / "config.gin").write_text(text)
    configure(tmp_path / "config.gin")
    found = Partitioner()
    assert (found.mesh_data, found.mesh_model) == (-1, 4)
    assert list(found.logical_axis_rules[:5]) == FSDP_MODEL


def test_a_run_goes_on_under_the_new_names(tmp_path):
    configure(OLD)
    now, written = resumption.bindings(), gin.config_str()
    assert not [name for name in now if "mesh" in name or "rules" in name]
    assert "Solver.mesh" not in written and "Partitioner.mesh_model" in written
    # What an experiment compares with its record: nothing has changed.
    assert statements.bindings(OLD.read_text()) == statements.bindings(written)


@pytest.mark.parametrize(
    "text",
    [
        "Solver.mesh_data = 2",
        "solver.Solver.mesh_data = 2",
        "cd_jax.solver.solver.Solver.mesh_data = 2",
        "Solver:\n  mesh_data = 2\n  z_loss = 0.0\n",
        "from __gin__ import dynamic_registration\nfrom cd_jax.solver import solver\nsolver.Solver.mesh_data = 2\n",
        "N = 2\nSolver.mesh_data = %N\n",
    ],
)
def test_ones_own_files_are_read_however_they_name_it(text, tmp_path):
    (tmp_path / "inner.gin").write_text(text)
    (tmp_path / "mine.gin").write_text(f"include '{tmp_path}/inner.gin'\n")
    configure(tmp_path / "mine.gin", statements=["AGENT = 'baseline'", "SOURCE = 'babi_qa1'"])
    assert Partitioner().mesh_data == 2


def test_a_flag_wins_by_either_name():
    configure(OLD, statements=["Partitioner.mesh_data = 2", "Solver.mesh_data = 4", "a/Solver.mesh_model = 2"])
    assert Partitioner().mesh_data == 4
    assert gin.query_parameter("a/Partitioner.mesh_model") == 2
    configure(OLD, statements=["Solver.mesh_data = 4", "Partitioner.mesh_data = 2"])
    assert Partitioner().mesh_data == 2


@pytest.mark.parametrize("name", ["Solver.mesh_dat", "Solver.devices", "Partitioner.devices"])
def test_what_was_never_to_be_bound_is_refused(name):
    with pytest.raises(RequestError, match=f"--gin.{name}=1: .*{name.partition('.')[2]}"):
        configure(OLD, statements=[f"{name} = 1"])


def test_a_value_out_of_range_is_told_by_the_name_of_today():
    with pytest.raises(RequestError, match="Partitioner.mesh_model wants a whole number of at least 1"):
        configure(OLD, statements=["Solver.mesh_model = 0"])
