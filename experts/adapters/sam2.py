"""Masks from boxes with SAM 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from experts.adapters.torch_common import TorchExpert, normalised
from experts.interfaces import People, Photo

# What the model was trained with; its own image processor exists only on top of torchvision.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Sam2(TorchExpert):
    """One mask per box. A photo's features are computed once; boxes go through the light decoder in groups."""

    checkpoint: str = "facebook/sam2.1-hiera-large"
    boxes_at_once: int = 16

    NAME = "sam2"

    def _load_model(self) -> Any:
        model = self.model("Sam2Model")
        size = model.config.vision_config.backbone_config.image_size
        self._size = (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size), int(size))
        return model

    def segment(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Bool[np.ndarray, "n H W"]]:
        """(n, H, W) per photo: a mask per box."""
        pairs = list(zip(photos, people, strict=True))
        return self.in_batches(pairs, lambda batch: [self._masks(photo, crowd) for photo, crowd in batch])

    def _masks(self, photo: Photo, people: People) -> np.ndarray:
        import torch

        width, height = photo.size
        rows, columns = self._size
        pixels = normalised([photo.pixels], (columns, rows), _MEAN, _STD)
        features = self._model.get_image_embeddings(**self.tensors({"pixel_values": pixels}))
        scale = np.array([columns / width, rows / height] * 2)
        boxes = torch.from_numpy(np.asarray(people.boxes * scale, np.float32))[None]
        masks = []
        for start in range(0, len(people), self.boxes_at_once):
            part = boxes[:, start : start + self.boxes_at_once].to(self._device)  # never in half precision: pixels
            logits = (
                self._model(image_embeddings=features, multimask_output=False, input_boxes=part).pred_masks[0].float()
            )
            full = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            masks.append((full[:, 0] > 0).cpu().numpy())
        return np.concatenate(masks) if masks else np.zeros((0, height, width), bool)
