"""The state of any long work from its output folder alone, while it runs and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.parts import LEDGER
from annyfit_jax.store.plan import StoreError
from annyfit_jax.store.work_progress import Line, describe_line, lines_below

_CARD = "data_card.json"
JUST_STARTED = "started; nothing is finished yet"


def work_state(output: str | Path | Location) -> dict[str, Any]:
    """`finished`, and `works`: the last line of progress of each work (`work_progress.Line`), oldest first; of one that was
    just started none.

    `output` is what the program was given, also the one file of an export. Raises StoreError where nothing is known of it.
    """
    output = place(output)
    file = not output.is_dir() and "." in output.name
    folder = output.parent if file else output
    works = lines_below(folder / LEDGER) if file else lines_below(folder, folder / LEDGER)
    finished = all(line["state"] == "finished" for line in works)
    cards = [f"{output.name.rpartition('.')[0]}.{_CARD}"] if file else [_CARD, f"_{_CARD}"]
    # The lines of an export that is one file go with its parts.
    if not works and (card := next(filter(None, ((folder / name).read_json() for name in cards)), None)):
        works = [_of_card(card)]
    elif isinstance(settings := (folder / "plan.json").read_json(), dict):
        total, done = sum(settings.get("parts", ())), _of_dataset(folder)
        works = works or ([done] if done else [])
        finished &= done is not None and done["done"] == total
    elif (folder / "cues").is_dir():  # people of photos are found first
        finished &= any(line["work"] == "predict" for line in works)
    begun = ("plan.json", "config.json", "held", LEDGER, "cues")
    if not works:
        if any((folder / name).exists() for name in begun):
            return {"finished": False, "works": []}
        raise StoreError(
            f"{output}: nothing was noted (a program that was just started reads its input first); expected the --output of "
            "annyfit fit, precompute, synthesize, pack, predict, export or train"
        )
    return {"finished": finished, "works": works}


def describe_work(state: dict[str, Any]) -> str:
    """`work_state` for people, a line for each work."""
    if not state["works"]:
        return JUST_STARTED
    return "\n".join([*map(describe_line, state["works"]), "finished" if state["finished"] else "not finished"])


def _of_card(card: dict[str, Any]) -> Line:
    """What the data card of a finished export says, as a line."""
    scenes = card["scenes"]
    failed = {status: count for status, count in scenes.items() if status != "ok"}
    return _ended(card["format"], sum(scenes.values()), failed)


def _of_dataset(folder: Location) -> Line | None:
    """What a finished dataset says of itself, as a line."""
    state = (folder / "finished.json").read_json()
    if not isinstance(state, dict):
        return None
    aside = state["set_aside"]
    return _ended("dataset", state["scenes"] + aside, {"set aside": aside} if aside else {})


def _ended(work: str, done: int, failed: dict[str, int]) -> Line:
    return {
        "work": work, "things": "scenes", "state": "finished", "time": 0.0, "seconds": 0.0, "done": done, "total": done,
        "failed": failed, "per_s": 0.0, "seconds_left": None,
    }  # fmt: skip
