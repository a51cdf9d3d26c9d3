"""This project's side of `experiments.benchmarks.benchmark`: a worker that fits scenes and runs the body model.

python -m experiments.benchmarks.benchmark_jax --serve
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from annyfit_jax.fit import config as configs
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.starts import PreparedScene
from annyfit_jax.people import dense_points
from annyfit_jax.records import settings
from body_models import anny
from experiments.benchmarks import benchmark_scenes
from experiments.benchmarks.benchmark_worker import REPO, Stopwatch, serve

CONFIG = REPO / "experiments" / "configs" / "annyfit.py"


class Worker:
    """Commands of the benchmark; see `experiments.benchmarks.benchmark_worker`."""

    def __init__(self) -> None:
        self.model: anny.AnnyModel | None = None
        self.problem: dict[str, np.ndarray] = {}
        self.fitters: dict[FitConfig, Fitter] = {}
        self.ready: dict[tuple[FitConfig, int], PreparedScene] = {}
        self.compiled: dict[tuple[str, int], tuple[Callable, tuple]] = {}

    def write_problem(
        self, output: str, regressor: str, scenes: str | None, counts: list[int], seed: int = 0
    ) -> dict[str, Any]:
        """Write the files that all sides read: scenes of a folder, else synthetic ones of the given sizes; and `rows`, the
        (17 + 138, 13718) regressor of COCO-17 and the dense points."""
        problem = benchmark_scenes.read(scenes) if scenes else benchmark_scenes.synthesise(self._model(), counts, seed)
        np.savez(output, dense_vertices=dense_points.dense_vertex_indices(), **problem)  # type: ignore[arg-type]
        np.savez(regressor, rows=np.concatenate(_regressors(self._model())))
        return {"counts": [int(n) for n in problem["counts"]], "config": settings.to_json(configs.load_config(CONFIG))}

    def setup(self, problem: str, cache: str | None = None) -> dict:
        """Read a problem file; `cache` names a folder for compiled programs (default: nothing is kept)."""
        if cache:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        else:
            jax.config.update("jax_enable_compilation_cache", False)
        with np.load(problem, allow_pickle=False) as archive:
            self.problem = {name: archive[name] for name in archive.files if name != "dense_vertices"}
        self._model()
        return {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "python": platform.python_version(),
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.local_device_count(),
        }

    def _model(self) -> anny.AnnyModel:
        if self.model is None:
            self.model = anny.load()
        return self.model

    def _fitter(self, overrides: list[str]) -> Fitter:
        config = settings.apply_overrides(configs.load_config(CONFIG), overrides)
        if config not in self.fitters:
            self.fitters[config] = Fitter(config, self._model())
        return self.fitters[config]

    # ---------------------------------------------------------------------------------------- the fit

    def fit(
        self,
        scenes: list[int],
        overrides: list[str] | None = None,
        output: str | None = None,
        regroup: tuple[int, int] | None = None,
    ) -> dict:
        """Fit the named scenes in the engine's own batches, padding included, until the last result is ready.

        Args:
          overrides: changes of the released config, e.g. `mesh=exact`.
          output: npz of the end parameters, people in the order of `scenes`.
          regroup: (people per scene, people): fit scenes of that size instead.
        Compiled programs are reused: call once before, and take the second time.
        """
        fitter = self._fitter(overrides or [])
        problem = self.problem
        if regroup:
            problem = benchmark_scenes.regrouped(problem, *regroup)
            scenes = list(range(len(problem["counts"])))
        ready = self._prepared(fitter, problem, scenes)
        with Stopwatch() as watch:
            batches = list(fitter.batches(iter(ready)))
            pending = [fitter.dispatch(batch) for batch in batches]
            jax.block_until_ready(pending)
        if output:
            fits = [fit for one in pending for fit in fitter.collect(one)]
            fields = {"transl": "transl", "root_rotvec": "root_rotvec", "shape": "shape_raw", "pose": "pose"}
            ends = {k: np.concatenate([getattr(fit, v) for fit in fits]) for k, v in fields.items()}
            np.savez(output, **ends)  # type: ignore[arg-type]
        people = sum(len(p.scene) for p in ready)
        used = {d for leaf in jax.tree.leaves(pending) if isinstance(leaf, jax.Array) for d in leaf.sharding.device_set}
        return {
            **watch.times,
            "people": people,
            "batches": len(batches),
            "lanes": sum(self._lanes(fitter, batch) for batch in batches),
            "devices_used": len(used),
        }

    def _prepared(self, fitter: Fitter, problem: dict[str, np.ndarray], scenes: list[int]) -> list[PreparedScene]:
        """The named scenes as the engine takes them. Raises ValueError where it would leave somebody out."""
        ready = []
        for k, scene in zip(scenes, benchmark_scenes.scenes_of(problem, scenes)):
            one = self.ready.get((fitter.config, k)) if problem is self.problem else None
            if one is None:
                one = fitter.prepare(scene)
                if one.skipped:
                    raise ValueError(f"{scene.name}: the engine sets people aside ({one.skipped}); use other scenes")
                if problem is self.problem:
                    self.ready[fitter.config, k] = one
            ready.append(one)
        return ready

    def _lanes(self, fitter: Fitter, batch: list[PreparedScene]) -> int:
        """People that the lists of a batch have room for, padding included."""
        lists, capacity = fitter.lists(batch)
        return len(lists) * capacity.people

    def step_memory(self, scenes: list[int]) -> dict:
        """What XLA sets aside for the compiled fit of one batch, bytes: arguments, results and temporaries."""
        from annyfit_jax.fit import fitter as fitting

        fitter = self._fitter([])
        ready = self._prepared(fitter, self.problem, scenes)
        _, problem, variables = fitter.assemble(ready)
        program = fitting.fit_lists(fitter.config, fitter.devices).lower(fitter.body, problem, variables).compile()
        analysis: Any = program.memory_analysis()
        constants = sum(leaf.nbytes for leaf in jax.tree.leaves(fitter.body))
        used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes - constants
        return {"lanes": self._lanes(fitter, ready), "bytes": int(used), "model_bytes": int(constants)}

    # ---------------------------------------------------------------------------------------- the body alone

    def body_setup(self, batch: int, whats: list[str] | None = None) -> dict:
        """Compile `forward` (full mesh), `coco`, `points` (COCO-17 and dense) and `mesh` gradients for a batch size.

        The reply has the `values` of what is timed: sums of squares of the points, mean squares of the mesh.
        """
        model = self._model()
        rows = np.arange(batch) % len(self.problem["transl"])
        fields = {name: jnp.asarray(self.problem[name][rows]) for name in benchmark_scenes.GROUPS}
        keypoints, dense = _regressors(model)
        people_last = (
            fields["shape"].T, fields["root_rotvec"].T, jnp.moveaxis(fields["pose"], (0, 1, 2), (2, 1, 0)),
            fields["transl"].T,
        )  # fmt: skip
        params = anny.Params(fields["shape"], fields["root_rotvec"], fields["pose"], fields["transl"])

        def forward(model, params):
            return anny.forward(model, params).vertices

        def points(contracted, params):
            return (anny.points_people_last(contracted, *params) ** 2).sum()

        def mesh(model, params):
            return (anny.forward(model, params).vertices ** 2).mean()

        table: dict[str, tuple[Callable, Callable[[], tuple]]] = {
            "forward": (forward, lambda: (model, params)),
            "coco": (jax.value_and_grad(points, argnums=1), lambda: (anny.contract(model, keypoints), people_last)),
            "points": (
                jax.value_and_grad(points, argnums=1),
                lambda: (anny.contract(model, np.concatenate([keypoints, dense])), people_last),
            ),
            "mesh": (jax.value_and_grad(mesh, argnums=1), lambda: (model, params)),
        }
        means: dict[str, float] = {}
        for what in whats or list(table):
            function, arguments = table[what]
            values = arguments()
            compiled = jax.jit(function).lower(*values).compile()
            self.compiled[what, batch] = compiled, values
            result = compiled(*values)
            means[what] = float((result**2).mean() if what == "forward" else result[0])
        return {"values": means}

    def body_run(self, what: str, repeats: int, batch: int) -> dict[str, Any]:
        """Seconds of one call, mean over `repeats` calls after one that does not count."""
        compiled, arguments = self.compiled[what, batch]
        jax.block_until_ready(compiled(*arguments))
        with Stopwatch() as watch:
            for _ in range(repeats):
                jax.block_until_ready(compiled(*arguments))
        return {name: value / repeats for name, value in watch.times.items()}


def _regressors(model: anny.AnnyModel) -> tuple[np.ndarray, np.ndarray]:
    """Rows of COCO-17 and of the dense points over the vertices."""
    keypoints = np.asarray(model.keypoint_regressor, np.float64)[:17]
    return keypoints, anny.vertex_regressor(model, dense_points.dense_vertex_indices())


if __name__ == "__main__":
    serve(Worker())
