"""Zooms on hands, faces and feet."""

from __future__ import annotations

import numpy as np
from fitted_people import make_fit

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.report.part_pictures import part_sheet


def test_zooms_show_the_parts_that_were_fitted() -> None:
    meshes, photo = BodyMeshes(), np.zeros((480, 640, 3), np.uint8)
    photo[..., 2] = 200
    seen = np.full((3, len(PARTS)), np.nan, np.float32)
    assert part_sheet(make_fit(parts_seen=seen), photo, meshes) is None
    seen[0] = 0.0
    assert part_sheet(make_fit(parts_seen=seen), photo, meshes) is None
    seen[0, [0, 2]], seen[1, 4], seen[2, 1] = 1.0, 1.0, 1.0  # nobody is fitted in the last row
    sheet = part_sheet(make_fit(parts_seen=seen), photo, meshes)
    assert sheet is not None and sheet.shape == (440, 3 * 220, 3)
    for k in range(3):
        above, below = sheet[20:220, 220 * k : 220 * k + 220], sheet[220:, 220 * k : 220 * k + 220]
        assert (above == photo[0, 0]).all()  # the photo, which is blue everywhere
        drawn = (below != photo[0, 0]).any(-1)
        assert 0.1 < drawn.mean() < 0.95
        assert drawn[60:160, 60:160].any()  # the part is in the middle
