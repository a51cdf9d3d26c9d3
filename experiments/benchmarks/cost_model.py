"""What a step of the fit must cost: operations and bytes per person, the floor they set on a machine, and the distance to it.

    python -m experiments.benchmarks.cost_model --people=128 --cores=1

Counts come from the sizes of the contracted body that the fit really uses (1 multiply-add = 2 operations), XLA's own account
of the compiled program stands beside them, and the machine's peaks are measured in the same process. Prints Markdown.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

CORNERS = 360
"""Products of anchor weights of the six phenotypes."""
STEPS = (20, 80)
"""Two lengths of the timed stage: their difference is steps and nothing else."""


class Sizes(NamedTuple):
    """Sizes of a contracted body and its objective."""

    rank: int
    """Rows of the phenotype basis."""
    bones: int
    """Bones that move a point, and their ancestors."""
    vertices: int
    """Points that are one vertex each: dense and mesh points."""
    pairs: int
    """(point, bone) pairs of the keypoint regressors."""
    stored: int
    """Skinning weights of the one-vertex points as stored, in blocks with zeros."""
    links: int
    """The non-zero ones of them."""
    projected: int
    """Points with a reprojection residual."""
    mesh: int
    """Points of the mesh regulariser."""
    variables: int
    """Free numbers per person."""


class Part(NamedTuple):
    """Operations of one part of a step, per person."""

    name: str
    forward: float
    backward: float
    zeros: float = 0.0
    """Of those, forward and backward, multiplications by zeros of a table stored dense."""


class Machine(NamedTuple):
    """Peaks: float32 operations per second, bytes per second."""

    name: str
    flops: float
    bandwidth: float


def sizes_of(body: Any, groups: Sequence[str] = ("transl", "root_rotvec", "shape", "pose")) -> Sizes:
    """Sizes of an `annyfit_jax.fit.fit_body.FitBody`; `groups` are the free ones."""
    import numpy as np

    c = body.points.contraction
    keypoints, dense, mesh = body.layout.counts
    widths = {
        "transl": 3,
        "root_rotvec": 3,
        "shape": len(body.layout.shape_labels),
        "pose": 3 * len(body.layout.free_bones),
    }
    return Sizes(
        rank=int(c.vertex.basis.shape[0]),
        bones=len(c.layout.tree.order),
        vertices=int(c.vertex.basis.shape[-1]),
        pairs=len(c.layout.pair_bone),
        stored=int(np.asarray(c.skin.table).size),
        links=int((np.asarray(c.skin.table) != 0).sum()),
        projected=keypoints + dense,
        mesh=mesh,
        variables=sum(widths[name] for name in groups),
    )


def parts(s: Sizes) -> list[Part]:
    """Operations per person of a step in which everything moves.

    Backward: once the forward for a product with a constant, twice for a product of two variables. Small constants (rotation
    from a vector: 60 operations, a bone's rest orientation: 80, a 3x4 composition: 66) are counted by hand.
    """
    linear = 2.0 * s.rank
    skin, skin_zeros = 24.0 * s.stored, 48.0 * (s.stored - s.links)
    return [
        Part("phenotypes to coefficients", 8.0 * CORNERS + linear * CORNERS, 8.0 * CORNERS + linear * CORNERS),
        Part("rest bones", linear * 6 * s.bones, linear * 6 * s.bones),
        Part("rest points", linear * 3 * (s.vertices + s.pairs), linear * 3 * (s.vertices + s.pairs)),
        Part("rotations, orientations, chain", (60 + 80 + 4 * 66) * s.bones, 2 * (60 + 80 + 4 * 66) * s.bones),
        Part("transforms of one-vertex points", skin, skin, skin_zeros),
        Part(
            "points", 24.0 * (s.vertices + s.pairs) + 21 * s.projected, 48.0 * (s.vertices + s.pairs) + 42 * s.projected
        ),
        Part("residuals", 30.0 * s.projected + 9 * s.mesh, 40.0 * s.projected + 6 * s.mesh),
        Part("Adam", 12.0 * s.variables, 0.0),
    ]


def step_flops(s: Sizes, *, ideal: bool = False) -> float:
    """Operations per person-step; `ideal` leaves out multiplications by stored zeros."""
    return sum(p.forward + p.backward - (p.zeros if ideal else 0.0) for p in parts(s))


def step_bytes(s: Sizes, people: int) -> float:
    """Bytes per person-step that must move if only operands and results of the matrix products leave the caches.

    Constants (basis, skinning table) are read forward and backward, once per step for all people. Each intermediate is
    written once and read once forward, and the same for its gradient. Variables, their gradients and Adam's two moments are
    read and written.
    """
    constants = 4.0 * (s.rank * (CORNERS + 6 * s.bones + 3 * (s.vertices + s.pairs)) + s.stored)
    floats = s.rank + (6 + 12 + 12) * s.bones + (3 + 12 + 3) * s.vertices + (3 + 3) * s.pairs
    return 2.0 * constants / people + 4.0 * (4.0 * floats + 6.0 * s.variables)


def floor_us(flops: float, size: float, machine: Machine) -> float:
    """Microseconds that operations and bytes take at least: the slower of the two at the machine's peaks."""
    return 1e6 * max(flops / machine.flops, size / machine.bandwidth)


# ------------------------------------------------------------------------------------------------ measurements


def best_time(call: Callable[[], Any], repeats: int = 7) -> float:
    """Smallest CPU seconds of a call (wall seconds where JAX runs on an accelerator)."""
    import jax

    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(call())
        times.append(clock() - start)
    return max(min(times), 1e-9)


def measure_machine(size: int = 1024, megabytes: int = 256) -> Machine:
    """Float32 peak from a square matrix product, bandwidth from scaling an array larger than the caches."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.full((size, size), 0.5, jnp.float32)
    array = jnp.ones(megabytes * (1 << 18), jnp.float32)
    passes = 8  # in place: what is timed is memory traffic, not the allocation of new pages
    product = jax.jit(lambda a: a @ a)
    scale = jax.jit(lambda x: jax.lax.fori_loop(0, passes, lambda _, y: 1.5 * y, x))
    flops = 2.0 * size**3 / best_time(lambda: product(matrix))
    bandwidth = 2.0 * passes * array.nbytes / best_time(lambda: scale(array))
    return Machine(f"this machine, measured ({jax.default_backend()})", flops, bandwidth)


def measure_step(people: int) -> tuple[Sizes, float, dict[str, float]]:
    """Sizes, microseconds per person-step of the last stage, and XLA's account of a step (`flops`, `bytes accessed`)."""
    import jax
    import jax.numpy as jnp

    from annyfit_jax.fit import adam
    from annyfit_jax.fit import config as configs
    from annyfit_jax.fit import problem as problems
    from annyfit_jax.fit.fit_body import anny_body
    from body_models import anny
    from experiments.benchmarks import benchmark_scenes

    config = configs.load_config(Path(__file__).parents[1] / "configs" / "annyfit.py")
    model = anny.load()
    body = anny_body(model, config)
    scene_list = benchmark_scenes.scenes_of(
        benchmark_scenes.synthesise(model, [4] * max(1, people // 4)), range(max(1, people // 4))
    )
    starts = [scene.start for scene in scene_list if scene.start is not None]
    problem, start = jax.tree.map(jnp.asarray, problems.assemble(scene_list, starts, config))

    def compiled(steps: int) -> Any:
        stage = dataclasses.replace(config.stages[-1], steps=steps)
        only = dataclasses.replace(config, stages=(stage,))
        return adam.fit_batch.lower(only, body, problem, start).compile()

    few, many, none = compiled(STEPS[0]), compiled(STEPS[1]), compiled(0)  # without steps, no loop is compiled
    seconds = best_time(lambda: many(body, problem, start)) - best_time(lambda: few(body, problem, start))
    count = start.transl.shape[-1]
    # XLA counts the body of a loop once, whatever its length; so a program less one without the loop is a step.
    account = {
        name: (few.cost_analysis()[name] - none.cost_analysis()[name]) / count for name in ("flops", "bytes accessed")
    }
    return sizes_of(body, tuple(config.stages[-1].lr)), 1e6 * seconds / (STEPS[1] - STEPS[0]) / count, account


# ------------------------------------------------------------------------------------------------ report


def report(
    s: Sizes, people: int, machines: Sequence[Machine], measured_us: float | None, xla: dict[str, float]
) -> tuple[str, dict[str, Any]]:
    """Markdown tables and the same numbers; the measurement belongs to the first machine."""
    from experiments.benchmarks.benchmark_report import table

    total, ideal, size = step_flops(s), step_flops(s, ideal=True), step_bytes(s, people)
    rows = [[p.name, p.forward / 1e6, p.backward / 1e6, p.zeros / 1e6] for p in parts(s)]
    rows.append(["sum", *(sum(row[k] for row in rows) for k in (1, 2, 3))])
    lines = [
        f"Per person-step with everything free, {people} people: "
        + ", ".join(f"{k} {v}" for k, v in s._asdict().items()),
        table(["MFLOP", "forward", "backward", "of these, times a stored zero"], rows),
    ]
    numbers: dict[str, Any] = {"sizes": s._asdict(), "flops": total, "ideal_flops": ideal, "bytes": size, "xla": xla}
    floors = []
    for machine in machines:
        floor, least = floor_us(total, size, machine), floor_us(ideal, size, machine)
        here = measured_us if machine is machines[0] else None
        floors.append([
            machine.name, machine.flops / 1e9, machine.bandwidth / 1e9, 1e6 * total / machine.flops,
            1e6 * size / machine.bandwidth, floor, least, here, here / floor if here else None,
        ])  # fmt: skip
        numbers.setdefault("floor_us", {})[machine.name] = floor
    numbers["measured_us"] = measured_us
    lines += [
        f"{total / 1e6:.2f} MFLOP ({ideal / 1e6:.2f} without stored zeros) and {size / 1e3:.0f} kB in the model; XLA's account "
        f"of the compiled step: {xla.get('flops', float('nan')) / 1e6:.2f} MFLOP, "
        f"{xla.get('bytes accessed', float('nan')) / 1e3:.0f} kB accessed.",
        table(
            [
                "machine", "GFLOP/s", "GB/s", "operations, us", "bytes, us", "floor, us", "floor without zeros, us",
                "measured, us", "measured / floor",
            ],
            floors,
        ),
    ]  # fmt: skip
    return "\n\n".join(lines), numbers


def main(people: int, cores: int, accelerator: Machine, json_path: str | None) -> None:
    """Measure, print, write."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-cores:]))
    machine = measure_machine()
    sizes, measured, xla = measure_step(people)
    text, numbers = report(sizes, people, [machine, accelerator], measured, xla)
    print(text)
    if json_path:
        Path(json_path).write_text(json.dumps(numbers, indent=1) + "\n")


def _run(_: list[str]) -> None:
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    accelerator = Machine(values["accelerator"], values["tflops"] * 1e12, values["tbytes"] * 1e12)
    main(values["people"], values["cores"], accelerator, values["json"])


def define_flags() -> None:
    """Flags of this program."""
    flags.DEFINE_integer("people", 128, "People in the flat list.")
    flags.DEFINE_integer("cores", 1, "Cores to use (Linux); 0: all.")
    flags.DEFINE_string("accelerator", "NVIDIA H200, data sheet", "Name of an accelerator to state the floor for.")
    flags.DEFINE_float("tflops", 67.0, "Its float32 peak, TFLOP/s.")
    flags.DEFINE_float("tbytes", 4.8, "Its memory bandwidth, TB/s.")
    flags.DEFINE_string("json", None, "Also write the numbers here.")


if __name__ == "__main__":
    define_flags()
    app.run(_run)
