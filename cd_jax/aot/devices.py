"""The devices of a pod that is not there, from the TPU's compiler library."""

import contextlib
import os
from collections.abc import Iterator

from cd_jax.aot.chips import Topology
from cd_jax.errors import RequestError

# libtpu asks the machine what pod it belongs to unless it is told, and JAX takes its backend as the default.
# Several compilations at once are no conflict, as there is no TPU that they would share.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare_environment() -> None:
    """Tells libtpu that this machine has no TPU. To be called before jax is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ[name] = value


def devices(topology: Topology) -> list:
    """What `jax.sharding.Mesh` takes; programs can be compiled for them, and not run.

    Raises:
      RequestError: libtpu is lacking, or knows no such slice.
    """
    prepare_environment()
    import jax
    from jax.experimental import topologies

    # What is compiled for a slice can be written to a cache of compilations, and not be read from there.
    jax.config.update("jax_enable_compilation_cache", False)
    options = dict(topology.chip.options)
    if topology.num_chips < 4:
        # One host has four chips or more unless one says otherwise.
        options["chips_per_host_bounds"] = (*topology.shape, 1, 1)[:3]
    try:
        import libtpu  # noqa: F401

        with _without_stderr():
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices
    except ImportError as error:
        raise RequestError("the compiler of the TPU is not installed; pip install 'cd_jax[tpu]'") from error
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"--topology={topology.name}: libtpu knows no such slice ({reason})") from error
    if len(found) != topology.num_devices:
        raise RequestError(f"--topology={topology.name}: libtpu gives {len(found)} devices, not {topology.num_devices}")
    return list(found)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """libtpu warns on the file descriptor, past Python, that the machine is no TPU, which is as it should be."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
