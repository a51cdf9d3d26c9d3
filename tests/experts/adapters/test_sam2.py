"""SAM 2 on a small random model."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import photo, saved, tiny_sam2

from experts.adapters.torch_common import normalised
from experts.interfaces import People, Photo

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


# ------------------------------------------------------------------------------------------------ masks


def test_sam2_masks_come_back_in_the_size_of_the_photo(tmp_path, monkeypatch):
    from experts.adapters.sam2 import Sam2

    expert = Sam2(checkpoint=saved(tmp_path, tiny_sam2()), boxes_at_once=2)
    expert.load()
    pixels = np.full((90, 200, 3), 20, np.uint8)
    pixels[30:60, 50:150] = 250
    shown = Photo("p", "p.jpg", pixels)
    boxes = np.array([[40.0, 10, 100, 80], [100, 10, 190, 80], [0, 0, 20, 20]])
    people = [People(boxes, ["0", "1", "2"]), People(np.zeros((0, 4)))]
    random, nobody = expert.segment([shown, photo(64, 50)], people)
    assert (random.shape, random.dtype, nobody.shape) == ((3, 90, 200), bool, (0, 50, 64))

    # A planted network that answers with the bright pixels inside each box, read from its own inputs at a quarter of the size.
    monkeypatch.setattr(expert._model, "get_image_embeddings", lambda pixel_values: pixel_values)

    def forward(image_embeddings, input_boxes, multimask_output):
        assert not multimask_output
        bright = torch.nn.functional.avg_pool2d(image_embeddings.mean(1, keepdim=True), 4)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(32) * 4 + 2, torch.arange(32) * 4 + 2, indexing="ij")
        masks = []
        for x0, y0, x1, y1 in input_boxes[0]:
            inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
            masks.append(torch.where(inside & (bright > 0), 5.0, -5.0))
        return type("Output", (), {"pred_masks": torch.stack(masks)[None, :, None]})()

    monkeypatch.setattr(expert._model, "forward", forward)
    masks, _ = expert.segment([shown, photo(64, 50)], people)
    wanted = np.zeros((3, 90, 200), bool)
    wanted[0, 30:60, 50:100] = wanted[1, 30:60, 100:150] = True
    overlap = (masks & wanted).sum((1, 2)) / np.maximum((masks | wanted).sum((1, 2)), 1)
    assert overlap[0] > 0.8
    assert overlap[1] > 0.8
    assert not masks[2].any()


def test_stretched_input_is_the_photo_normalised():
    shown = np.zeros((40, 20, 3), np.uint8)
    shown[:, 10:] = 255
    tensor = normalised([shown, shown[::2]], (8, 4), (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))
    assert tensor.shape == (2, 3, 4, 8)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [-1.0, -0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 3, 7], [1.0, 1.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(tensor[0], tensor[1], atol=1e-6)
