"""The report of an ablation as a document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {
    "err2d_px": "2D px", "pckh06": "PCKh.6", "mpjpe_root": "root MPJPE mm", "pa_mpjpe": "PA mm",
    "joint_pa_mpjpe": "scene PA mm", "depth_abs_err": "depth err m", "pcrd02": "PCRD.2", "age_f1": "age F1",
    "gender_f1": "gender F1", "height_err": "height err m",
}  # fmt: skip
LOWER_IS_BETTER = ("err2d_px", "mpjpe_root", "pa_mpjpe", "joint_pa_mpjpe", "depth_abs_err", "height_err")
PUBLISHED = (
    ("Relative Human, Multi-HMR", {"mPCKh": (65.4, 78.8), "PCRD 0.2": (59.8, 66.1)}),
    ("Relative Human, Multi-HMR", {"age F1": (23.3, 48.6), "gender F1": (34.8, 81.1)}),
    ("Relative Human, CameraHMR", {"mPCKh": (64.7, 81.1), "PCRD 0.2": (59.6, 67.2)}),
    ("Panoptic children, Multi-HMR", {"root MPJPE mm": (102.2, 92.5), "joint PA-MPJPE mm": (263.8, 223.1)}),
    ("Panoptic children, CameraHMR", {"root MPJPE mm": (149.5, 119.9), "joint PA-MPJPE mm": (658.9, 348.0)}),
)  # fmt: skip
"""Anny-Fit (arXiv 2605.04728): Init and +O+S+D."""
_READING = "## Reading"


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a document, up to the heading `## Reading`."""
    lines = ["# Ablation", "", f"Written by `{report['command']}` with `{report['config']}`.", ""]
    lines += ["Columns: `annyfit_jax/metrics/scene_scores.py`. Brackets: 95 % interval over scenes, "]
    lines[-1] += (
        f"{report['rounds']} draws. Ref: the released objective by a PyTorch program, as stored with the public sets."
    )
    for title, scene_set in report["sets"].items():
        pooled = scene_set["pooled"]["Init"]
        lines += ["", f"## {title}", ""]
        lines += [
            f"{pooled['scenes']} scenes, {pooled['people']} people, {pooled['pairs']} pairs; seeds {scene_set['seeds']}.",
            "",
        ]
        lines += _rows(["row", *COLUMNS.values()], _table(scene_set))
        lines += [
            "",
            *_rows(["claim", "from", "to", "metric", "change", "95 %", "shows"], _claims(scene_set["pattern"])),
        ]
    lines += ["", "## The paper", ""]
    lines += [
        "Published for Init and everything on (arXiv 2605.04728); of its rows in between no figures are at hand.",
        "",
    ]
    cells = [[name, metric, f"{a:g}", f"{b:g}"] for name, row in PUBLISHED for metric, (a, b) in row.items()]
    lines += _rows(["set, start", "metric", "Init", "+O+S+D"], cells)
    return "\n".join(lines) + "\n"


def _table(scene_set: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, values in scene_set["pooled"].items():
        bounds = scene_set["intervals"][name]
        cells = [f"{number(values[key])} [{number(bounds[key][0])}, {number(bounds[key][1])}]" for key in COLUMNS]
        yield [name, *cells]
        if scene_set["reference"] and name in scene_set["reference"]:
            yield [f"{name} (ref)", *(number(scene_set["reference"][name].get(key, math.nan)) for key in COLUMNS)]


def _claims(pattern: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for claim in pattern:
        low, high = claim["interval"]
        yield [
            claim["claim"], claim["without"], claim["with"], COLUMNS[claim["metric"]], signed(claim["change"]),
            f"[{signed(low)}, {signed(high)}]", verdict(claim["metric"], low, high),
        ]  # fmt: skip


def verdict(metric: str, low: float, high: float) -> str:
    """`yes` where the whole interval of the change is an improvement, `no` where it is none, else `open`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    better, worse = (high < 0, low > 0) if metric in LOWER_IS_BETTER else (low > 0, high < 0)
    return "yes" if better else "no" if worse else "open"


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None or not math.isfinite(value):
        return "n.a."
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def signed(value: float) -> str:
    """`number` with its sign."""
    return ("+" if value > 0 else "") + number(value)


def _rows(header: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells)]


def kept_reading(path: Path) -> str:
    """What stands in the file from `## Reading` on; empty where there is no such file or heading."""
    text = path.read_text() if path.is_file() else ""
    position = text.find(f"\n{_READING}")
    return text[position:] if position >= 0 else ""
