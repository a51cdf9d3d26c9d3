"""All scenes and people of a report as columns, written as files with a fixed number of scenes each.

A file is a script `Report.chunk(index, {...})` with the columns of consecutive scenes:

    {"name": [..], "status": [..], "reason": {"17": ".."}, "people": [..], "aside": {"17": [[id, reason], ..]},
     "id": [..], "person_status": [..], "notes": {"40": ".."}, "columns": {"depth_m": [..], ..}}

`people` counts the people of each scene; `id`, `person_status` and `columns` have an entry per person, one scene after the
other. Statuses are indices into `Table.statuses`; rare texts are keyed by position in the file. Unknown numbers are null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from annyfit_jax.jobs.fit_source import Outcome
from annyfit_jax.report.report_columns import ALL, Columns

SCENES_PER_FILE = 1000


@dataclass
class Table:
    """Grows scene by scene; holds numbers of everybody, a few dozen bytes each."""

    name: list[str] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    reason: dict[int, str] = field(default_factory=dict)
    people: list[int] = field(default_factory=list)
    aside: dict[int, list[list[str]]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    person_status: list[int] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    blocks: list[Columns] = field(default_factory=list)
    """Columns of each scene's people."""
    statuses: list[str] = field(default_factory=lambda: ["ok"])

    def __len__(self) -> int:
        return len(self.name)

    def add(self, outcome: Outcome, columns: Columns) -> None:
        """The next scene; `columns` have an entry per person of the fit."""
        fit, scene, person = outcome.fit, len(self.name), len(self.ids)
        self.name.append(fit.name)
        self.status.append(self._code(outcome.status))
        if outcome.reason:
            self.reason[scene] = outcome.reason
        self.people.append(len(fit))
        if len(fit.set_aside):
            self.aside[scene] = [[str(text) for text in row] for row in fit.set_aside]
        self.ids += [str(name) for name in fit.person_ids]
        self.person_status += [self._code(str(status)) for status in fit.status]
        self.notes |= {person + i: str(note) for i, note in enumerate(fit.notes) if note}
        self.blocks.append(columns)

    def _code(self, status: str) -> int:
        if status not in self.statuses:
            self.statuses.append(status)
        return self.statuses.index(status)

    @property
    def first_person(self) -> np.ndarray:
        """(scenes + 1,) position of each scene's first person."""
        return np.concatenate([[0], np.cumsum(self.people, dtype=np.int64)])

    def columns(self) -> Columns:
        """Every column that somebody has a number in, over all people, in the order of `report_columns.ALL`."""
        known = [
            column.key
            for column in ALL
            if any(np.isfinite(b[column.key]).any() for b in self.blocks if column.key in b)
        ]
        return {key: self._joined(key) for key in known}

    def _joined(self, key: str) -> np.ndarray:
        parts = [block.get(key, np.full(n, np.nan)) for block, n in zip(self.blocks, self.people, strict=True)]
        return np.concatenate([np.zeros(0), *parts])

    def files(self, columns: Columns, scenes_per_file: int = SCENES_PER_FILE) -> Iterator[tuple[int, str]]:
        """(index, content) of each file."""
        digits = {column.key: column.digits + 1 for column in ALL}
        first = self.first_person
        for index, start in enumerate(range(0, len(self), scenes_per_file)):
            stop = min(start + scenes_per_file, len(self))
            people = slice(int(first[start]), int(first[stop]))
            content = {
                "name": self.name[start:stop],
                "status": self.status[start:stop],
                "reason": _part(self.reason, start, stop),
                "people": self.people[start:stop],
                "aside": _part(self.aside, start, stop),
                "id": self.ids[people],
                "person_status": self.person_status[people],
                "notes": _part(self.notes, people.start, people.stop),
                "columns": {key: numbers(values[people], digits[key]) for key, values in columns.items()},
            }
            yield index, f"Report.chunk({index},{to_json(content)});\n"


def numbers(values: np.ndarray, digits: int) -> list[float | None]:
    """Rounded; None for NaN and infinities."""
    return [round(x, digits) if ok else None for x, ok in zip(values.tolist(), np.isfinite(values).tolist())]


def to_json(content: object) -> str:
    """Compact JSON that may stand in a script: ASCII, and no tag can be closed by it."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def _part(entries: dict, start: int, stop: int) -> dict[str, object]:
    return {str(key - start): value for key, value in entries.items() if start <= key < stop}
