"""A card beside every export: what was fitted, how many, with what, under which licences, and how to tell it from another."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import annyfit_jax
from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.store.locations import Location, place

CARD = "data_card.json"
_LICENCES = "licences of the cues: "
"""How the note of a scene begins that names the licences of the experts (`experts.assemble.licence_note`)."""
_COUNTED = ("scenes", "people", "licences")


@dataclass
class Counts:
    """What is counted of outcomes; those of parts add up."""

    scenes: collections.Counter[str] = field(default_factory=collections.Counter)
    people: collections.Counter[str] = field(default_factory=collections.Counter)
    licences: collections.Counter[str] = field(default_factory=collections.Counter)
    configs: dict[str, Any] = field(default_factory=dict)
    body: set[str] = field(default_factory=set)

    def passing(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Passes outcomes on and counts them."""
        for outcome in outcomes:
            fit = outcome.fit
            self.scenes[outcome.status] += 1
            self.people.update(str(status) for status in fit.status)
            notes = [str(note) for note in fit.scene_notes]
            self.licences.update(note.removeprefix(_LICENCES) for note in notes if note.startswith(_LICENCES))
            if outcome.fitted:
                self.configs.setdefault(fit.config_hash, json.loads(fit.config_json or "{}"))
                self.body.add(fit.asset_version)
            yield outcome

    def to_json(self) -> dict[str, Any]:
        """As `add_json` takes it."""
        counted = {name: dict(sorted(getattr(self, name).items())) for name in _COUNTED}
        return {**counted, "configs": self.configs, "body": sorted(self.body)}

    def add_json(self, content: dict[str, Any]) -> None:
        """Adds the counts of a part."""
        for name in _COUNTED:
            getattr(self, name).update(content[name])
        self.configs |= content["configs"]
        self.body |= set(content["body"])


def data_card(source: FitSource, counts: Counts, file_format: str, files: int) -> dict[str, Any]:
    """What is known of exported fits, JSON.

    Args:
      counts: of the scenes that were exported.
      files: how many there are.
    """
    return {
        "fits": place(source.location).name,
        "format": file_format,
        "files": files,
        "digest": source.fingerprint,
        "scenes_not_done": source.unfinished,
        **counts.to_json(),
        "version": annyfit_jax.__version__,
    }


def write_card(card: Location, source: FitSource, counts: Counts, file_format: str, files: int) -> None:
    """Writes the card of an export. Raises JobWriteError."""
    card.put_json(data_card(source, counts, file_format, files))
