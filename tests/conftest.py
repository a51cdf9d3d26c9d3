"""Test set-up: JAX on four CPU devices with a compilation cache on disk, and the `parity` mark."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported anywhere
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: threads cost more than they bring on small products

import jax
import jax.numpy as jnp
import pytest
import typechecking
from absl import flags
from hypothesis import HealthCheck, settings

from annyfit_jax.fit import fitter
from body_models import anny

_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "jax"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

flags.FLAGS.mark_as_parsed()

assert typechecking.PACKAGES  # types are checked in modules that are imported after `typechecking`

# A machine that is slow or busy is not a failure. Our tests mean a fixture to be made once per test, not per example.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("patient")

# The devices share two cores: each would solve a list of its own, most of them empty. `test_data_parallel` names its devices.
fitter.default_devices = lambda: jax.local_devices()[:1]


# ------------------------------------------------------------------------------------------------ the parity mark


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity", action="store_true", help="run the live comparisons with torch peers as well")
    parser.addoption(
        "--compile-quickly", action="store_true", help="compile every program of every test as cheaply as can be"
    )


_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
_READ_FLAGS = "from jaxlib import _jax; _jax.CompileOptions().executable_build_options.debug_options"


def pytest_configure(config: pytest.Config) -> None:
    """With --compile-quickly no file is compiled as users compile: see `_programs_of_a_file`."""
    if not config.getoption("--compile-quickly"):
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if not hasattr(config, "workerinput"):  # workers have the environment of the process that starts them
        flags_of_xla = {**os.environ, "XLA_FLAGS": f"{_EMITTERS} {os.environ.get('XLA_FLAGS', '')}"}
        # XLA ends a process that gives it a flag it does not know.
        known = subprocess.run([sys.executable, "-c", _READ_FLAGS], env=flags_of_xla, capture_output=True, check=False)
        if known.returncode == 0:
            os.environ["XLA_FLAGS"] = flags_of_xla["XLA_FLAGS"]
    with contextlib.suppress(ImportError):
        from jax._src.core import stage_p

        # `jnp.asarray` compiles a program for every shape of a host array; here it only moves the array.
        stage_p.def_impl(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x))


def _wants_parity(config: pytest.Config) -> bool:
    return config.getoption("--parity") or "parity" in (config.getoption("-m") or "")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Parity modules import torch: leave them alone unless asked for."""
    if collection_path.name.startswith("test_parity_") and not _wants_parity(config):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left with one of them at the end."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if _wants_parity(config):
        return
    parity = [item for item in items if "parity" in item.keywords]
    if parity:
        config.hook.pytest_deselected(items=parity)
        items[:] = [item for item in items if "parity" not in item.keywords]


# ------------------------------------------------------------------------------------------------ precision, models


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 enabled for this test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[jnp.dtype]:
    """The test runs once per floating type, with float64 enabled where it is asked for."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture(scope="session")
def load_anny() -> Callable[..., anny.AnnyModel]:
    """`load_anny(dtype="float32", extended=False)`: each body loaded once; `extended` has 11 phenotypes and local changes."""
    models: dict[tuple[str, bool], anny.AnnyModel] = {}

    def load(dtype: Any = "float32", extended: bool = False) -> anny.AnnyModel:
        key = (jnp.dtype(dtype).name, extended)
        if key not in models:
            with jax.enable_x64(key[0] == "float64"):
                models[key] = anny.load("all" if extended else "default", local_changes=extended, dtype=key[0])
        return models[key]

    return load


# ------------------------------------------------------------------------------------------------ compiled programs


@pytest.fixture(autouse=True, scope="module")
def _programs_of_a_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiled programs of one file are of no use to the next; kept, they add up to gigabytes per worker.

    Programs of a file with the mark `unoptimised` are compiled without the compiler's costly passes, in the processes that it
    starts as well. They are the same programs, their machine code is slower: right for a file that compiles for a minute and
    then computes for a second. With ANNYFIT_OPTIMISED_TESTS in the environment the mark says nothing.

    With --compile-quickly the programs of all files are compiled like that, and without XLA's own emitters of fused loops for
    the CPU, which take two thirds of what is left. `make test` asks for it; `make test-all` compiles as users do.
    """
    quickly = request.config.getoption("--compile-quickly")
    marked = request.node.get_closest_marker("unoptimised") is not None and "ANNYFIT_OPTIMISED_TESTS" not in os.environ
    if marked and not quickly:
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    if marked and not quickly:
        del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
        jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
