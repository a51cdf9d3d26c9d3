"""Assignment of people to queries in the loss of AiOS: on the device as it is trained, beside scipy through a callback.

    python -m experiments.benchmarks.benchmark_matching

Costs are those of random boxes. Prints a Markdown table: milliseconds for the images of one batch and one decoder layer, the
median of some calls after the first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags
from jaxtyping import Bool, Float, Int

FLAGS = flags.FLAGS
SIZES = ((900, 10, 4), (900, 40, 4), (100, 10, 32), (100, 40, 32))
"""Queries, people, images."""


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_integer("calls", 20, "Timed calls.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the costs.")


def main(_: list[str]) -> None:
    import jax

    print(
        f"| queries | people | images | on {jax.devices()[0].device_kind}, ms | scipy by callback, ms | scipy alone, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for queries, people, images in SIZES:
        times = timings(queries, people, images, FLAGS.calls, FLAGS.seed)
        print(f"| {queries} | {people} | {images} | {' | '.join(f'{1e3 * t:.2f}' for t in times)} |")


def timings(queries: int, people: int, images: int, calls: int, seed: int) -> tuple[float, float, float]:
    """Seconds on the device, by a callback, and of scipy alone. Raises AssertionError where the assignments differ."""
    import jax
    import jax.numpy as jnp

    from annyfit_jax.regressors.aios.hungarian_matching import assign

    rng = np.random.default_rng(seed)
    ours, theirs = rng.uniform(size=(2, images, queries, 4)).astype(np.float32)
    cost = np.abs(theirs[:, :people, None] - ours[:, None]).sum(-1)
    there = np.ones((images, people), bool)
    shape = jax.ShapeDtypeStruct((images, people), np.int32)
    on_device = jax.jit(jax.vmap(assign))
    by_callback = jax.jit(lambda c, t: jax.pure_callback(by_scipy, shape, c, t))
    arrays = jnp.asarray(cost), jnp.asarray(there)
    np.testing.assert_array_equal(on_device(*arrays), by_scipy(cost, there))

    def timed(call: Callable[[], object]) -> float:
        jax.block_until_ready(call())
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return (
        timed(lambda: on_device(*arrays)), timed(lambda: by_callback(*arrays)), timed(lambda: by_scipy(cost, there))
    )  # fmt: skip


def by_scipy(
    cost: Float[np.ndarray, "image person query"], there: Bool[np.ndarray, "image person"]
) -> Int[np.ndarray, "image person"]:
    """The query of each person, -1 for people who are not there."""
    from scipy.optimize import linear_sum_assignment

    assignment = np.full(there.shape, -1, np.int32)
    for k, (image, present) in enumerate(zip(np.asarray(cost), np.asarray(there))):
        rows = np.flatnonzero(present)
        people, queries = linear_sum_assignment(image[rows])
        assignment[k, rows[people]] = queries
    return assignment


if __name__ == "__main__":
    define_flags()
    app.run(main)
