"""`run`: stages done by the engine that is asked for; the engine that is this process does one stage after the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence

from annyfit_jax.engine.stages import Engine, Stage
from annyfit_jax.engine.stopping import Interrupted


def run(stages: Sequence[Stage], engine: Engine | None = None, stop: threading.Event | None = None) -> int:
    """Does all units of all stages that are needed; returns how many were done.

    Raises Interrupted where `stop` is set, EngineError, and what workers raise.
    """
    engine, stop = engine or Engine(), stop or threading.Event()
    if engine.in_process:
        return sum(_run_here(stage, stop) for stage in stages if not stage.hands_on)
    from annyfit_jax.engine.ray_engine import run_on_ray

    return run_on_ray(stages, engine, stop)


def _run_here(stage: Stage, stop: threading.Event) -> int:
    left = [unit for unit in stage.units if stage.needed(unit)]
    if not left:
        return 0
    stage.begin(len(left), 1)
    state, done = "stopped", 0
    try:
        if stop.is_set():
            raise Interrupted
        with contextlib.closing(stage.make(stop)) as worker, contextlib.ExitStack() as stack:
            results = worker.stream(stage.task(unit) for unit in left)
            if isinstance(results, Generator):  # whose threads must not outlive an error
                stack.enter_context(contextlib.closing(results))
            for unit, result in results:
                stage.commit(unit, result)
                done += 1
                if stop.is_set() and done < len(left):
                    raise Interrupted
        state = "finished"
        return done
    except Interrupted:
        state = "interrupted"
        raise
    finally:
        stage.end(state)
