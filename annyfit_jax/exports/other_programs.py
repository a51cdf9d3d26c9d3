"""What other programs expect of files with bodies: names of bones, influences per vertex, axes and units.

A `.glb` has metres and y up by its specification, and every importer turns that into its program's own axes and units; the
choice decides about names and influences only. `.bvh` and `.obj` say nothing of axes or units, so there the choice decides.

| `--for` | bones | influences | axes of `.bvh`, `.obj` | units |
|---|---|---|---|---|
| `blender` | `upperarm01.L`, which Blender mirrors | 12: exact | y up, z towards the viewer; the importers' defaults | metre |
| `unity` | `upperarm01_L` | 4, as its default quality has | y up, z towards the viewer; the importer mirrors x | metre |
| `unreal` | `upperarm01_L` | 8, its default limit | z up, x right, y away from the viewer | centimetre |

All axes are right-handed. Files for Blender were read back in Blender (`tests/exports/test_real_programs.py`). Unity and Unreal
were not at hand: their rows follow their manuals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

Y_UP_AXES = np.eye(3)
Z_UP_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""glTF's axes (x right, y up, z towards the viewer) to x right, y away from the viewer, z up."""


@dataclass(frozen=True)
class OtherProgram:
    """How files for a program are written."""

    influences: int
    """Per vertex, at most."""
    dots: str
    """What stands for the dot in the names of bones."""
    axes: Float[np.ndarray, "3 3"]
    """glTF's axes to those of files without axes of their own."""
    axes_text: str
    units_per_metre: float
    unit: str


_Y_UP = (Y_UP_AXES, "x right, y up, z towards the viewer")
_Z_UP = (Z_UP_AXES, "x right, y away from the viewer, z up")
PROGRAMS: Mapping[str, OtherProgram] = MappingProxyType(
    {
        "blender": OtherProgram(12, ".", *_Y_UP, 1.0, "metres"),
        "unity": OtherProgram(4, "_", *_Y_UP, 1.0, "metres"),
        "unreal": OtherProgram(8, "_", *_Z_UP, 100.0, "centimetres"),
    }
)


def bone_names(bones: tuple[str, ...], program: OtherProgram) -> tuple[str, ...]:
    """The names of bones as the program takes them."""
    return tuple(bone.replace(".", program.dots) for bone in bones)
