"""The engine of a Ray cluster: actors that make a worker once, units as their tasks, one driver that commits.

The actors of a stage are asked for up front: those that the cluster has no room for yet wait, and make an autoscaler act.
Stages that work at the same time share the room, and a stage that is over leaves its share to the others. A unit whose actor is
lost goes to another one. Where the driver dies, Ray ends its actors, and the same command goes on with what
is not committed. Nothing of the cluster is trusted with results: they are in the store before a task ends."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from absl import logging
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from annyfit_jax.engine.stages import Engine, EngineError, Stage
from annyfit_jax.engine.stopping import Interrupted

IN_FLIGHT = 2
"""Units that an actor holds at a time: the next one is read while the last one is worked on."""
ATTEMPTS = 4
"""How often an actor may be lost while it is at work on a unit, before the unit is given up."""
_POLL_S = 0.5
_LOOK = 256
"""Waiting units that are looked at for one that an actor can be given."""
_AHEAD = 2
"""Units that a stage hands on and that are not used up yet, for each worker of the stages after it."""
_LOOK_EVERY_S = 5.0
"""Between two looks at whether the cluster has room for a worker of each stage."""
_CONNECT_S = 10.0
_ACCELERATORS = ("GPU", "TPU")
_PASSED_ON = (
    "JAX_PLATFORMS",
    "JAX_COMPILATION_CACHE_DIR",
    "XLA_FLAGS",
    "ANNYFIT_CACHE",
    "AWS_ENDPOINT_URL",
    "TF_CPP_MIN_LOG_LEVEL",
)


class Member:
    """What an actor is: a worker in a thread of its own, fed with the tasks that the driver sends."""

    def __init__(self, make: Any) -> None:
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: dict[int, Future[Any]] = {}
        self._failed: BaseException | None = None
        try:
            self._worker = make(threading.Event())
        except Exception as error:  # told by `ready`: of an actor that cannot be made Ray keeps only the text
            self._failed = error
            return
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def ready(self) -> bool:
        """Answered once the worker is made. Raises what that raised."""
        if self._failed is not None:
            raise self._failed
        return True

    def do(self, unit: int, task: Any, *given: Any) -> Any:
        """The result of a unit; `given` is added to the task. Raises what the worker raised."""
        if self._failed is not None:
            raise self._failed
        self._results[unit] = future = Future()
        self._tasks.put((*task, *given) if given else task)
        return future.result()

    def hand_on(self, unit: int, task: Any) -> tuple[None, Any]:
        """As `do`, with two objects in the store: one to wait for, and the result, which the driver never fetches."""
        return None, self.do(unit, task)

    def close(self) -> None:
        """Gives memory and devices back."""
        self._worker.close()

    def _work(self) -> None:
        try:
            for unit, result in self._worker.stream(iter(self._tasks.get, None)):
                self._results.pop(unit).set_result(result)
        except BaseException as error:
            self._failed = error
            for future in self._results.values():
                future.set_exception(error)


@dataclass
class _Actor:
    """An actor as the driver sees it."""

    handle: Any
    ready: Any
    """Reference that resolves once it works; None afterwards."""
    units: dict[int, None] = field(default_factory=dict)
    """In the order in which it was given them."""
    alone: bool = False
    """Its unit is under suspicion."""
    blamed: bool = False
    """It is lost, and the unit that it was at work on is known."""


@dataclass
class _Run:
    """A stage under way."""

    stage: Stage
    waiting: deque[int]
    """Units that are not given to an actor."""
    actors: list[_Actor] = field(default_factory=list)
    wanted: int = 0
    done: set[int] = field(default_factory=set)
    """Units that later stages may have, with those that needed nothing."""
    attempts: dict[int, int] = field(default_factory=dict)
    kept: dict[int, Any] = field(default_factory=dict)
    """Unit -> reference to what it hands on."""
    missing: str = ""
    """What no machine has that a worker needs."""
    begun: bool = False
    over: bool = False
    count: int = 0


def run_on_ray(stages: Sequence[Stage], engine: Engine, stop: threading.Event) -> int:
    """`stages.run` on a cluster; the stages work at the same time, each on the units that the ones before it have done."""
    own, fixed = not ray.is_initialized(), False
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        fixed = _connect(engine.address or os.environ.get("RAY_ADDRESS", ""))
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray takes them to end what it started
                signal.signal(number, handler)
    try:
        driver = _Driver(stages, engine, stop, fixed)
        try:
            return driver.run()
        finally:
            driver.close()
    finally:
        if own:
            ray.shutdown()


def _connect(address: str) -> bool:
    """Joins a cluster; without an address the one that runs on this machine, else (or for `local`) one is started here, on
    the loopback. Returns whether it was started here. Raises ConnectionError where nothing answers."""
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": _environment()},
    }
    if address != "local":
        _check_answers(address)
        try:
            ray.init(address=address or "auto", **options)
            return False
        except ConnectionError as error:
            if address:
                raise ConnectionError(f"--address={address}: cannot reach a Ray cluster: {error}") from error
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, **options)
    return True


def _check_answers(address: str) -> None:
    """Raises ConnectionError where nobody listens at HOST:PORT; Ray itself tries for five minutes, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"--address={address}: cannot reach a Ray cluster: {error.strerror or error}") from error


def _environment() -> dict[str, str]:
    """What workers must share with the driver: where modules are, where objects and compiled programs are."""
    import jax

    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if folder := getattr(jax.config, "jax_compilation_cache_dir", None):
        kept.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys([os.getcwd(), *filter(None, sys.path)]))}


class _Driver:
    def __init__(self, stages: Sequence[Stage], engine: Engine, stop: threading.Event, fixed: bool = False) -> None:
        """`fixed`: no machine will be added to the cluster. Raises ValueError for resources of a stage that is none."""
        self._engine, self._stop, self._fixed = engine, stop, fixed
        self._looked = -math.inf
        names = [stage.name for stage in stages]
        if unknown := sorted(engine.of_stage.keys() - set(names)):
            near = difflib.get_close_matches(unknown[0], names, 1)
            said = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"--resources: there is no stage {unknown[0]}; {said}")
        # Cores relieve accelerators. Where there are cores alone, what hands on would take those of the stages after it.
        there = ray.cluster_resources()
        relieves = any(there.get(name) for name in _ACCELERATORS)
        self._runs = {
            stage.name: _Run(stage, deque(stage.units))
            for stage in stages
            if relieves or not stage.hands_on or stage.name in engine.of_stage
        }
        self._tasks: dict[Any, tuple[_Run, _Actor, int]] = {}
        self._lost: dict[int, str] = {}
        self._resources: dict[str, dict[str, float]] = {}

    def run(self) -> int:
        state = "stopped"
        try:
            while not all(run.over for run in self._runs.values()):
                if self._stop.is_set():
                    raise Interrupted
                for run in self._runs.values():
                    self._advance(run)
                self._look_for_room()
                self._collect()
            state = "finished"
        except Interrupted:
            state = "interrupted"
            raise
        finally:
            for run in self._runs.values():
                if run.begun and not run.over:
                    run.stage.end(state)
        if self._lost:
            units = ", ".join(f"{unit} ({why})" for unit, why in sorted(self._lost.items())[:5])
            raise EngineError(f"{len(self._lost)} units were given up after {ATTEMPTS} attempts: {units}")
        return sum(run.count for run in self._runs.values())

    def close(self) -> None:
        for run in self._runs.values():
            for actor in run.actors:
                ray.kill(actor.handle)

    def _look_for_room(self) -> None:
        """Says what stages wait for where no machine has room for their workers. Raises ValueError where none will be added."""
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        for run in self._runs.values():
            each = self._whole(run.stage)
            missing = "" if run.over or _room(each) else _spell(each)
            if missing and (self._fixed or not _may_grow()):
                has = {name: max((node["Resources"].get(name, 0.0) for node in _alive()), default=0.0) for name in each}
                raise ValueError(
                    f"--resources: a worker of {run.stage.name} takes {missing}, but the most that a machine has is "
                    f"{_spell(has)}, and none will be added to the cluster"
                )
            if missing != run.missing:
                run.missing = missing
                if missing:
                    logging.warning(
                        "%s: a worker takes %s, which no machine has: waiting for more machines",
                        run.stage.name,
                        missing,
                    )
                run.stage.waits(missing)

    # ---------------------------------------------------------------------------------------- giving work

    def _advance(self, run: _Run) -> None:
        """Gives a stage's units to its actors, and ends a stage that has none left."""
        if run.over:
            return
        self._welcome(run)
        self._let_go(run)
        before = [self._runs[name] for name in run.stage.after if name in self._runs]
        # Only the first ones are looked at: stages work in the same order, and a job has tens of thousands of units.
        position = 0
        while position < min(len(run.waiting), _LOOK):
            unit = run.waiting[position]
            if any(unit not in other.done and not other.over for other in before):
                position += 1
                continue
            if unit not in run.attempts and not run.stage.needed(unit):
                del run.waiting[position]
                run.done.add(unit)
                continue
            if not run.begun:
                run.begun = True
                self._hire(run)
                run.stage.begin(
                    sum(map(run.stage.needed, run.stage.units)) if not before else len(run.waiting), run.wanted
                )
            if run.stage.hands_on and self._is_far_ahead(run):
                break
            suspect = run.attempts.get(unit, 0) > 0
            actor = self._free(run, suspect)
            if actor is None and not suspect:
                break
            if actor is None:
                position += 1
                continue
            actor.alone = suspect
            del run.waiting[position]
            run.attempts.setdefault(unit, 0)
            actor.units[unit] = None
            if run.stage.hands_on:
                done, run.kept[unit] = actor.handle.hand_on.options(num_returns=2).remote(unit, run.stage.task(unit))
            else:
                source = self._runs.get(run.stage.given)
                given = [source.kept[unit]] if source and unit in source.kept else []
                done = actor.handle.do.remote(unit, run.stage.task(unit), *given)
            self._tasks[done] = (run, actor, unit)
        if not run.waiting and not any(actor.units for actor in run.actors):
            for actor in run.actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor.handle)
            run.actors = []
            run.over = True
            if run.begun:
                run.stage.waits("")
                run.stage.end("finished")
            for other in self._runs.values():
                if other.begun and not other.over:
                    self._hire(other)

    def _users(self, run: _Run) -> list[_Run]:
        """The stages that are given what a stage hands on, and are not over."""
        return [other for other in self._runs.values() if other.stage.given == run.stage.name and not other.over]

    def _let_go(self, run: _Run) -> None:
        """Forgets what was handed on and is used up."""
        if run.kept:
            users = self._users(run)
            for unit in [unit for unit in run.kept if unit in run.done and all(unit in user.done for user in users)]:
                del run.kept[unit]

    def _is_far_ahead(self, run: _Run) -> bool:
        """Whether more would be handed on than the stages after it are soon to use: memory is what it costs."""
        workers = max((user.wanted for user in self._users(run)), default=0)
        return len(run.kept) >= _AHEAD * max(workers, 1) + 1

    def _hire(self, run: _Run) -> None:
        """Asks for the actors of a stage: its share of the room, and no more than it has units."""
        stages = sum(not other.over for other in self._runs.values())
        share = self._engine.workers or max(_room(self._whole(run.stage)) // stages, 1)
        wanted = max(min(share, len(run.waiting) + sum(bool(actor.units) for actor in run.actors)), 1)
        if wanted > run.wanted:
            run.wanted = wanted
            logging.info("%s: %d workers with %s each", run.stage.name, wanted, self._each(run.stage))
        while len(run.actors) < run.wanted:
            self._add(run)

    def _add(self, run: _Run) -> None:
        each = dict(self._each(run.stage))
        # Named after the stage, as which the dashboard shows it.
        remote = ray.remote(type(run.stage.name, (Member,), {})).options(
            num_cpus=each.pop("CPU", 0), num_gpus=each.pop("GPU", 0), resources=each, max_concurrency=IN_FLIGHT + 1,
            max_restarts=0, scheduling_strategy="SPREAD",
        )  # fmt: skip
        handle = remote.remote(run.stage.make)
        run.actors.append(_Actor(handle, handle.ready.remote()))

    def _whole(self, stage: Stage) -> dict[str, float]:
        """What a worker of a stage takes where it has no other stage beside it."""
        there = ray.cluster_resources()
        named = next((name for name in _ACCELERATORS if there.get(name)), None)
        return {"CPU": 1.0, **(self._chosen(stage) or ({named: 1.0} if named and stage.accelerator else {}))}

    def _chosen(self, stage: Stage) -> dict[str, float]:
        """What the user says that a worker of a stage takes."""
        return self._engine.of_stage.get(stage.name) or (self._engine.resources if stage.accelerator else {})

    def _each(self, stage: Stage) -> dict[str, float]:
        """What a worker of a stage takes.

        Where there are more stages than half the room, so that all can work although some nodes are lost, that is a part of a
        core or of a GPU; of a TPU only whole chips can be taken.
        """
        if stage.name not in self._resources:
            each, stages = self._whole(stage), len(self._runs)
            for name in {"CPU", "GPU"} & each.keys() - self._chosen(stage).keys():
                parts = (k for k in range(1, 2 * stages + 1) if stages == 1 or _room({name: 1 / k}) >= 2 * stages)
                each[name] = 1.0 / next(parts, 2 * stages)
            self._resources[stage.name] = each
        return self._resources[stage.name]

    def _welcome(self, run: _Run) -> None:
        """Notes the actors that work now. Raises what a worker raised when it was made."""
        for actor in list(run.actors):
            if actor.ready is None or not ray.wait([actor.ready], timeout=0)[0]:
                continue
            try:
                ray.get(actor.ready)
                actor.ready = None
            except RayActorError:
                self._replace(run, actor)
            except RayTaskError as error:
                raise _unwrapped(error) from None

    def _free(self, run: _Run, suspect: bool) -> _Actor | None:
        """The working actor with the fewest units, None where all are full or none is there yet.

        A unit under suspicion, which has lost an actor before, is alone with its next one, so that no other is blamed for it.
        """
        working = [
            actor
            for actor in run.actors
            if actor.ready is None and len(actor.units) < (1 if suspect or (actor.alone and actor.units) else IN_FLIGHT)
        ]
        return min(working, key=lambda actor: len(actor.units), default=None)

    # ---------------------------------------------------------------------------------------- taking results

    def _collect(self) -> None:
        waited = [*self._tasks, *(a.ready for run in self._runs.values() for a in run.actors if a.ready is not None)]
        if not waited:
            return
        for reference in ray.wait(waited, num_returns=1, timeout=_POLL_S)[0]:
            if reference not in self._tasks:
                continue
            run, actor, unit = self._tasks.pop(reference)
            try:
                result = ray.get(reference)
            except (
                RayActorError,
                ObjectLostError,
                WorkerCrashedError,
            ) as error:
                run.kept.pop(unit, None)
                source = self._runs.get(run.stage.given)
                if isinstance(error, ObjectLostError) and source and source.kept.pop(unit, None):
                    del actor.units[unit]  # what it was given went with a node: now the worker makes it itself
                    run.waiting.appendleft(unit)
                    continue
                if not actor.blamed:
                    actor.blamed = True
                    run.attempts[next(iter(actor.units))] += 1
                del actor.units[unit]
                self._again(run, unit, type(error).__name__)
                self._replace(run, actor)
            except RayTaskError as error:
                raise _unwrapped(error) from None
            else:
                del actor.units[unit]
                if not run.stage.hands_on:
                    run.stage.commit(unit, result)
                run.done.add(unit)
                run.count += 1

    def _again(self, run: _Run, unit: int, why: str) -> None:
        if run.attempts[unit] < ATTEMPTS:
            logging.warning("%s: unit %d lost its worker (%s): another one gets it", run.stage.name, unit, why)
            # A unit whose turn comes late would hold what it is given, and the stage that hands on would wait for it.
            (run.waiting.appendleft if run.stage.given else run.waiting.append)(unit)
        elif run.stage.hands_on:
            run.done.add(unit)
        else:
            logging.error("%s: unit %d is given up", run.stage.name, unit)
            self._lost[unit] = why
            run.done.add(unit)

    def _replace(self, run: _Run, actor: _Actor) -> None:
        """A new actor in the place of one that is lost; its other units come back one by one, as their tasks fail."""
        if actor in run.actors:
            run.actors.remove(actor)
            self._add(run)


def _room(each: dict[str, float]) -> int:
    """How many workers that take this much the whole cluster has room for, were there no others."""
    return sum(
        min((int((node["Resources"].get(name, 0) + 1e-6) // amount) for name, amount in each.items()), default=1)
        for node in _alive()
    )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _spell(each: Mapping[str, float]) -> str:
    return ",".join(f"{name}={amount:g}" for name, amount in each.items())


def _may_grow() -> bool:
    """Whether an autoscaler may add machines: not where Ray's status names each machine by itself, as it does without one."""
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(Exception):  # internal to Ray: where it tells nothing, we wait
        kinds = json.loads(_internal_kv_get(b"__autoscaling_status"))["autoscaler_report"]["active_nodes"]
        return not all(re.fullmatch("node_[0-9a-f]{40,}", kind) for kind in kinds)
    return True


def _unwrapped(error: BaseException) -> BaseException:
    """What the worker raised, of its own kind, so that programs answer it as without Ray."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return cause if isinstance(cause, Exception) else error
