"""ViTPose on a small random model."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import photo, saved, tiny_vitpose

from experts.interfaces import ExpertError, People, Photo

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


# ------------------------------------------------------------------------------------------------ keypoints


@pytest.mark.parametrize(("count", "num_experts"), [(17, 1), (17, 6), (133, 6)])
def test_vitpose_peaks_come_back_to_where_they_are_in_the_photo(count, num_experts, tmp_path, monkeypatch):
    from experts.adapters.vitpose import VitPose

    expert = VitPose(
        checkpoint=saved(tmp_path, tiny_vitpose(count, num_experts), transformers.VitPoseImageProcessorPil())
    )
    expert.load()
    dots = [(120, 60), (30, 150)]
    photos, people = [], []
    for i, (x, y) in enumerate(dots):
        pixels = np.zeros((220, 260, 3), np.uint8)
        pixels[y - 3 : y + 4, x - 3 : x + 4] = 255
        photos.append(Photo(str(i), f"{i}.jpg", pixels))
        people.append(People(np.array([[x - 40.0, y - 50, x + 20, y + 60], [x - 25.0, y - 30, x + 60, y + 30]])))
    people.append(People(np.zeros((0, 4))))
    photos.append(photo(50, 50))
    random = expert.keypoints(photos, people)
    assert [points.shape for points in random] == [(2, count, 3), (2, count, 3), (0, count, 3)]
    assert np.isfinite(random[0]).all()

    def forward(pixel_values, dataset_index=None):
        assert (dataset_index is None) == (num_experts == 1)
        if dataset_index is not None:
            assert set(dataset_index.tolist()) == {5 if count == 133 else 0}
        # A heat map whose peak is where the dot is in the crop that the network was given.
        bright = (pixel_values.mean(1) - pixel_values.mean(1).amin((1, 2), keepdim=True)).double()
        weight = (bright > 0.5 * bright.amax((1, 2), keepdim=True)).double()
        total = weight.sum((1, 2))
        rows = (weight.sum(2) * torch.arange(256)).sum(1) / total * 63 / 255
        columns = (weight.sum(1) * torch.arange(192)).sum(1) / total * 47 / 191
        r, c = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
        squared = (r - rows[:, None, None]) ** 2 + (c - columns[:, None, None]) ** 2
        maps = 0.9 * torch.exp(-squared / (2 * 2.0**2))
        return type("Output", (), {"heatmaps": maps[:, None].repeat(1, count, 1, 1).float()})()

    monkeypatch.setattr(expert._model, "forward", forward)
    for points, (x, y) in zip(expert.keypoints(photos, people)[:2], dots, strict=True):
        np.testing.assert_allclose(points[..., 0], x, atol=1.0)
        np.testing.assert_allclose(points[..., 1], y, atol=1.0)
        assert ((points[..., 2] > 0.8) & (points[..., 2] <= 1.0)).all()


def test_vitpose_with_another_skeleton_is_refused(tmp_path):
    from experts.adapters.vitpose import VitPose

    with pytest.raises(ExpertError, match="has 21 keypoints"):
        VitPose(checkpoint=saved(tmp_path, tiny_vitpose(21, 1), transformers.VitPoseImageProcessorPil())).load()
