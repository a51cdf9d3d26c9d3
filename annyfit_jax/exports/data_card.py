"""A card beside every export: what was fitted, how many, with what, under which licences, and how to tell it from another."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import annyfit_jax
from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.records.files import write_json

CARD = "data_card.json"
_LICENCES = "licences of the cues: "
"""How the note of a scene begins that names the licences of the experts (`experts.assemble.licence_note`)."""


def data_card(source: FitSource, outcomes: Iterable[Outcome], file_format: str) -> dict[str, Any]:
    """What is known of exported fits, JSON.

    Args:
      outcomes: of the scenes that were exported.
    """
    scenes: collections.Counter[str] = collections.Counter()
    people: collections.Counter[str] = collections.Counter()
    licences: collections.Counter[str] = collections.Counter()
    configs: dict[str, Any] = {}
    bodies: set[str] = set()
    for outcome in outcomes:
        fit = outcome.fit
        scenes[outcome.status] += 1
        people.update(str(status) for status in fit.status)
        notes = [str(note) for note in fit.scene_notes]
        licences.update(note.removeprefix(_LICENCES) for note in notes if note.startswith(_LICENCES))
        if outcome.fitted:
            configs.setdefault(fit.config_hash, json.loads(fit.config_json or "{}"))
            bodies.add(fit.asset_version)
    return {
        "fits": Path(source.location).name,
        "format": file_format,
        "digest": source.fingerprint,
        "scenes": dict(sorted(scenes.items())),
        "scenes_not_done": source.unfinished,
        "people": dict(sorted(people.items())),
        "licences": dict(sorted(licences.items())),
        "configs": configs,
        "body": sorted(bodies),
        "version": annyfit_jax.__version__,
    }


def write_card(source: FitSource, names: Sequence[str], output: str | Path, file_format: str) -> Path:
    """Writes the card of an export into its folder, or beside its file; returns its path.

    Args:
      names: of the exported scenes; empty: all.
    """
    output = Path(output)
    folder = output if output.is_dir() else output.parent
    outcomes = map(source.outcome, names) if names else source.outcomes()
    path = folder / (CARD if output.is_dir() else f"{output.stem}.{CARD}")
    write_json(path, data_card(source, outcomes, file_format))
    return path
