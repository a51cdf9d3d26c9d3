"""Metric depth: Depth Anything V2, Depth Pro (with the camera), UniDepth (with the camera, through its own package)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts.adapters.torch_common import TorchExpert, import_torch, normalised
from experts.interfaces import DepthEstimate, ExpertError, Photo

_NEAREST_M, _FARTHEST_M = 1e-4, 1e4
_UNIDEPTH = "https://github.com/lpiccinelli-eth/UniDepth"


@dataclass
class DepthAnything(TorchExpert):
    """Depth Anything V2, metric: the small indoor and outdoor models are Apache-2.0, the larger ones non-commercial."""

    checkpoint: str = "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf"

    NAME = "depth_anything"

    def _load_model(self) -> Any:
        self._processor = self.pretrained("AutoImageProcessor")
        model = self.model("AutoModelForDepthEstimation")
        if getattr(model.config, "depth_estimation_type", "metric") != "metric":
            raise ExpertError(f"{self.NAME}: {self.checkpoint} estimates relative depth, expected metric depth")
        return model

    def depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        """(H, W) metres per photo."""
        return self.in_batches(photos, self._depth)

    def _depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        result = []
        # The processor keeps the aspect ratio: only photos of the same size have inputs of the same size.
        for size, same in itertools.groupby(photos, key=lambda photo: photo.size):
            pixels = [photo.pixels for photo in same]
            outputs = self._model(**self.tensors(self._processor(images=pixels, return_tensors="pt")))
            outputs.predicted_depth = outputs.predicted_depth.float()
            estimates = self._processor.post_process_depth_estimation(outputs, target_sizes=[size[::-1]] * len(pixels))
            result += [DepthEstimate(one["predicted_depth"].cpu().numpy()) for one in estimates]
        return result


@dataclass
class DepthPro(TorchExpert):
    """Apple's Depth Pro. Its licence is for research."""

    checkpoint: str = "apple/DepthPro-hf"

    NAME = "depth_pro"

    def _load_model(self) -> Any:
        model = self.model("DepthProForDepthEstimation")
        # The whole image is seen at the scales of the ratios: the input is a patch over the smallest of them.
        side = round(model.config.patch_size / min(model.config.scaled_images_ratios))
        self._size = (side, side)
        return model

    def depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        """(H, W) metres per photo, and the camera where the network estimates the field of view."""
        return self.in_batches(photos, self._depth)

    def _depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        import torch

        pixels = normalised([p.pixels for p in photos], self._size, (0.5,) * 3, (0.5,) * 3, antialias=False)
        outputs = self._model(**self.tensors({"pixel_values": pixels}))
        result = []
        for k, photo in enumerate(photos):
            width, height = photo.size
            inverse, intrinsics = outputs.predicted_depth[k].float(), None
            if outputs.field_of_view is not None:
                fov = float(outputs.field_of_view[k])  # horizontal, degrees
                focal = 0.5 * width / np.tan(np.radians(0.5 * fov))
                # The network predicts inverse depth for a camera whose focal length is the image's width.
                inverse = inverse * (width / focal)
                intrinsics = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
            inverse = torch.nn.functional.interpolate(inverse[None, None], (height, width), mode="bilinear")[0, 0]
            depth = 1.0 / inverse.clamp(1.0 / _FARTHEST_M, 1.0 / _NEAREST_M)
            result.append(DepthEstimate(depth.cpu().numpy(), intrinsics))
        return result


@dataclass
class UniDepth(TorchExpert):
    """UniDepth V2 through its authors' package, which the user installs. Non-commercial."""

    checkpoint: str = "lpiccinelli/unidepth-v2-vitl14"

    NAME = "unidepth"

    def _load_model(self) -> Any:
        import_torch(self.NAME)
        try:
            from unidepth.models import UniDepthV2  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ExpertError(
                f"{self.NAME} needs its authors' package: pip install 'unidepth @ git+{_UNIDEPTH}'"
            ) from None
        try:
            return UniDepthV2.from_pretrained(self.checkpoint, revision=self.revision)
        except OSError as error:
            raise ExpertError(
                f"{self.NAME}: {self.checkpoint} cannot be loaded ({error}): hf download {self.checkpoint}"
            ) from None

    def depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        """(H, W) metres per photo, and the camera."""
        return self.in_batches(photos, self._depth)

    def _depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        import torch

        result = []
        for photo in photos:
            rgb = torch.from_numpy(np.ascontiguousarray(photo.pixels.transpose(2, 0, 1)))
            estimate = self._model.infer(rgb.to(self._device))
            depth = estimate["depth"].float().cpu().numpy().reshape(photo.pixels.shape[:2])
            k = estimate["intrinsics"].float().cpu().numpy().reshape(3, 3).astype(np.float64)
            usable = np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0
            result.append(DepthEstimate(depth, k if usable else None))
        return result
