"""What must be so before anything imports JAX: eight devices on the CPU, and no silent broadcasting of ranks."""

import json
import os

# The processes of pytest-xdist are started from one whose environment is already changed.
_KEPT = "CD_JAX_USER_ENVIRONMENT"
_USER = json.loads(os.environ.get(_KEPT) or json.dumps(dict(os.environ)))
os.environ[_KEPT] = json.dumps(_USER)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{_USER.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# What tests compile runs for moments: half the time of compiling is worth more. Programs that they start are optimised.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# How long a test takes says as much of what else runs on the machine.
hypothesis.settings.register_profile("cd_jax", deadline=None)
hypothesis.settings.load_profile("cd_jax")


@pytest.fixture(scope="module", autouse=True)
def unbound_by_others():
    """What a module's commands have bound stays in gin's global configuration, and not in the next module."""
    import gin

    gin.clear_config()


@pytest.fixture(scope="session")
def user_environment() -> dict[str, str]:
    """The environment as it was, for programs that a test starts: one device, and what a user would see on stderr."""
    return {**_USER, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def distilled(tmp_path_factory):
    """A folder with vocabulary and updates of the smallest run."""
    import runs

    folder = tmp_path_factory.mktemp("distilled")
    assert runs.here(runs.arguments("distill", folder, SOURCE=f"'{runs.SOURCE}'")) == 0
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, distilled, user_environment):
    """The smallest run, trained without a break in a process of its own: its folder, and what it said."""
    import runs

    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, runs.command(runs.train_arguments(folder, distilled), user_environment)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model's folder of Hugging Face's kind."""
    import test_huggingface

    return test_huggingface.written(tmp_path_factory.mktemp("source") / "hf")[0]


@pytest.fixture(scope="module")
def imported(tmp_path_factory, source):
    """The model_dir that `cd_jax import` makes of it."""
    import runs

    folder = tmp_path_factory.mktemp("imported") / "model"
    bindings = {name.replace(".", "__"): value for name, value in runs.LENGTHS.items()}
    assert runs.here(runs.arguments("import", folder, str(source), **bindings)) == 0
    return folder
