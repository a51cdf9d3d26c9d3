"""Stages of work on units, their workers, and which engine does them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol


class Worker(Protocol):
    """What does a stage's units in one process."""

    def stream(self, tasks: Iterator[Any], /) -> Iterator[tuple[int, Any]]:
        """(unit, result) of every task, in the order of the tasks; the next tasks may be taken before a result is given."""
        ...

    def close(self) -> None:
        """Gives memory and devices back."""
        ...


@dataclass
class EachUnit:
    """A worker that is a function of a task."""

    function: Callable[[Any], tuple[int, Any]]
    end: Callable[[], None] = lambda: None

    def stream(self, tasks: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """As `Worker.stream`."""
        return map(self.function, tasks)

    def close(self) -> None:
        """As `Worker.close`."""
        self.end()


@dataclass(frozen=True)
class Stage:
    """One kind of work. All but `make` and the tasks stay with the driver."""

    name: str
    make: Callable[[threading.Event], Worker]
    """Makes a worker, in the process where it works; must be picklable for other engines than this process. The event asks it
    to raise Interrupted."""
    units: Sequence[int]
    needed: Callable[[int], bool] = lambda unit: True
    """Whether a unit is still to be done; asked when its turn comes."""
    task: Callable[[int], Any] = lambda unit: unit
    """What a worker is given for a unit; picklable."""
    commit: Callable[[int, Any], None] = lambda unit, result: None
    """Told the result of every unit that was done."""
    after: tuple[str, ...] = ()
    """Stages that must have done a unit before."""
    accelerator: bool = True
    """Whether it wants one where there are any."""
    hands_on: bool = False
    """Whether its results are for the stages after it and nothing else: they stay in memory until those have done the unit, and
    `commit` is not told. Such a stage relieves workers of what they can do themselves, so an engine may leave it out."""
    given: str = ""
    """Stage of that kind whose result is added to the end of a task, where the engine has it."""
    begin: Callable[[int, int], None] = lambda units, workers: None
    """Told how many units are to be done, and by how many workers, before the first; not called where there are none."""
    end: Callable[[str], None] = lambda state: None
    """Told `finished`, `interrupted` or `stopped`, where `begin` was."""
    waits: Callable[[str], None] = lambda what: None
    """Told what no machine has that a worker needs, so that the stage waits for more machines; empty where that is over."""


@dataclass(frozen=True)
class Engine:
    """Which engine, and what a worker is given of it."""

    kind: str = "process"
    """`process` or `ray`."""
    address: str = ""
    """Of a Ray cluster; empty: the one that this machine belongs to (RAY_ADDRESS), else one that is started here."""
    workers: int = 0
    """Workers of a stage; 0: as many as the cluster has room for."""
    resources: dict[str, float] = field(default_factory=dict)
    """Of one worker, e.g. {"CPU": 4, "GPU": 1}; empty: one accelerator where there are any, else one core."""
    of_stage: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same of the workers of a stage by its name, in place of `resources`."""

    @property
    def in_process(self) -> bool:
        """Whether the work is done in this process."""
        return self.kind == "process"

    def of(self, stages: Iterable[str]) -> Engine:
        """The same for some stages alone, where others of the same work come in another call."""
        return replace(self, of_stage={name: each for name, each in self.of_stage.items() if name in set(stages)})


class EngineError(RuntimeError):
    """Units could not be done although they were tried again."""
