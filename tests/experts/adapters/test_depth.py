"""Depth experts on small random models."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from tiny_models import photo, saved, tiny_depth_anything, tiny_depth_pro

from experts.interfaces import ExpertError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


# ------------------------------------------------------------------------------------------------ depth


def test_depth_anything_plane_comes_back_at_full_size(tmp_path, monkeypatch):
    from experts.adapters.depth import DepthAnything

    processor = transformers.DPTImageProcessorPil(
        size={"height": 42, "width": 42}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    expert = DepthAnything(checkpoint=saved(tmp_path, tiny_depth_anything(), processor))
    expert.load()
    photos = [photo(120, 80), photo(120, 80, seed=2), photo(50, 100, seed=1)]
    random = expert.depth(photos)
    for shown, found in zip(photos, random, strict=True):
        assert found.depth.shape == shown.pixels.shape[:2]
        assert np.isfinite(found.depth).all()
        assert found.intrinsics is None
    for shown, found in zip(photos, random, strict=True):  # alone as in a batch of photos of one size
        np.testing.assert_allclose(expert.depth([shown])[0].depth, found.depth, rtol=1e-4)
    batches = []

    def forward(pixel_values):
        count, _, height, width = pixel_values.shape
        batches.append(count)
        slope = (torch.arange(width) + 0.5) / width  # 2 m at the left, 6 m at the right border
        return type("Output", (), {"predicted_depth": (2.0 + 4.0 * slope).expand(count, height, width)})()

    monkeypatch.setattr(expert._model, "forward", forward)
    assert len(expert.depth(photos)) == 3
    assert batches == [2, 1]
    for shown, found in zip(photos, expert.depth(photos), strict=True):
        width = shown.size[0]
        wanted = np.broadcast_to(2.0 + 4.0 * (np.arange(width) + 0.5) / width, found.depth.shape)
        middle = slice(width // 5, -(width // 5))
        np.testing.assert_allclose(found.depth[:, middle], wanted[:, middle], atol=0.03)


def test_relative_depth_is_refused(tmp_path):
    from experts.adapters.depth import DepthAnything

    checkpoint = saved(tmp_path, tiny_depth_anything("relative"), transformers.DPTImageProcessorPil())
    with pytest.raises(ExpertError, match="relative depth"):
        DepthAnything(checkpoint=checkpoint).load()


def test_depth_pro_gives_depth_and_the_camera(tmp_path, monkeypatch):
    from experts.adapters.depth import DepthPro

    expert = DepthPro(checkpoint=saved(tmp_path, tiny_depth_pro()))
    expert.load()
    assert expert._size == (32, 32)
    photos = [photo(120, 80), photo(50, 100, seed=1)]
    for shown, found in zip(photos, expert.depth(photos), strict=True):
        assert found.depth.shape == shown.pixels.shape[:2]
        assert (found.depth > 0).all()
    planted = type(
        "Output", (), {"predicted_depth": torch.full((2, 32, 32), 0.25), "field_of_view": torch.tensor([60.0, 90.0])}
    )()
    monkeypatch.setattr(expert._model, "forward", lambda pixel_values: planted)
    for shown, found, fov in zip(photos, expert.depth(photos), (60.0, 90.0), strict=True):
        width, height = shown.size
        focal = 0.5 * width / np.tan(np.radians(fov / 2))
        # 0.25 is the inverse depth of a camera whose focal length is the image's width: 4 m there, nearer with a wider view.
        np.testing.assert_allclose(found.depth, 4.0 * focal / width, rtol=1e-4)
        assert found.intrinsics is not None
        wanted = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
        np.testing.assert_allclose(found.intrinsics, wanted, rtol=1e-6)
    assert not expert.card.commercial


def test_unidepth_says_how_to_get_its_package():
    from experts.adapters.depth import UniDepth

    with pytest.raises(ExpertError, match=r"pip install 'unidepth @ git\+https"):
        UniDepth().load()


def test_unidepth_through_its_own_package(monkeypatch):
    """A stand-in for the package, with its interface: `from_pretrained`, `infer`; no camera for the second photo."""
    from experts.adapters import depth
    from experts.interfaces import DepthEstimate

    class UniDepthV2(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, name, revision):
            assert (name, revision) == ("lpiccinelli/unidepth-v2-vitl14", "main")
            return cls()

        def infer(self, rgb):
            assert (rgb.dtype, rgb.shape[0]) == (torch.uint8, 3)
            height, width = rgb.shape[1:]
            k = torch.tensor([[300.0, 0, width / 2], [0, 310, height / 2], [0, 0, 1]])
            return {
                "depth": 0.01 * rgb[:1].float()[None],
                "intrinsics": (k if width != 60 else torch.full((3, 3), torch.nan))[None],
            }

    models = types.ModuleType("unidepth.models")
    models.UniDepthV2 = UniDepthV2  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "unidepth", types.ModuleType("unidepth"))
    monkeypatch.setitem(sys.modules, "unidepth.models", models)
    expert = depth.UniDepth()
    expert.load()
    photos = [photo(120, 80), photo(60, 100, seed=1)]
    found: list[DepthEstimate] = expert.depth(photos)
    for shown, one in zip(photos, found, strict=True):
        np.testing.assert_allclose(one.depth, 0.01 * shown.pixels[..., 0], rtol=1e-6)
    assert found[0].intrinsics is not None
    np.testing.assert_allclose(found[0].intrinsics, [[300, 0, 60], [0, 310, 40], [0, 0, 1]])
    assert found[1].intrinsics is None
    assert not expert.card.commercial
