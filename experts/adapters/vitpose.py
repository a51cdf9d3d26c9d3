"""Body keypoints with ViTPose and ViTPose+ (top-down: a crop per person)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from experts.adapters.torch_common import TorchExpert
from experts.interfaces import ExpertError, People, Photo

_COCO, _WHOLE_BODY = 0, 5
"""Index of the data set whose expert layers ViTPose+ is to use."""


@dataclass
class VitPose(TorchExpert):
    """17 keypoints, or 133 where the checkpoint has them."""

    checkpoint: str = "usyd-community/vitpose-plus-huge"

    NAME = "vitpose"

    def _load_model(self) -> Any:
        self._processor = self.pretrained("AutoImageProcessor")
        model = self.model("VitPoseForPoseEstimation")
        self._count = int(model.config.num_labels)
        if self._count not in (17, 133):
            raise ExpertError(f"{self.NAME}: {self.checkpoint} has {self._count} keypoints, expected 17 or 133 of COCO")
        self._mixture = int(getattr(model.config.backbone_config, "num_experts", 1)) > 1
        return model

    def keypoints(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n k 3"]]:
        """(n, 17 or 133, 3) per photo: pixels and confidence per box."""
        crops = [(photo, box) for photo, crowd in zip(photos, people, strict=True) for box in crowd.boxes]
        points = np.array(self.in_batches(crops, self._points)).reshape(-1, self._count, 3)
        return np.split(points, np.cumsum([len(crowd) for crowd in people])[:-1])

    def _points(self, crops: Sequence[tuple[Photo, np.ndarray]]) -> list[np.ndarray]:
        import torch

        # x, y, width, height; one entry per crop, each with its own photo.
        boxes = [[[box[0], box[1], box[2] - box[0], box[3] - box[1]]] for _, box in crops]
        boxes = [[[float(v) for v in box] for box in one] for one in boxes]
        inputs = self.tensors(self._processor(images=[p.pixels for p, _ in crops], boxes=boxes, return_tensors="pt"))
        if self._mixture:
            index = _WHOLE_BODY if self._count == 133 else _COCO
            inputs["dataset_index"] = torch.full((len(crops),), index, device=self._device)
        outputs = self._model(**inputs)
        outputs.heatmaps = outputs.heatmaps.float()
        result = []
        for (one,) in self._processor.post_process_pose_estimation(outputs, boxes=boxes):
            xy, scores = np.asarray(one["keypoints"], np.float64), np.asarray(one["scores"], np.float64).reshape(-1, 1)
            result.append(np.concatenate([xy, np.clip(scores, 0.0, 1.0)], axis=1))
        return result
