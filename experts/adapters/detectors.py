"""People as boxes: RT-DETR, D-FINE (classes of COCO) and Grounding DINO (whatever a phrase names)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts.adapters.torch_common import TorchExpert
from experts.interfaces import Detections, ExpertError, Photo


@dataclass
class RtDetr(TorchExpert):
    """Any `AutoModelForObjectDetection` with a class named person."""

    checkpoint: str = "PekingU/rtdetr_r50vd_coco_o365"
    threshold: float = 0.5
    """Scores below are no detections."""

    NAME = "rtdetr"

    def _load_model(self) -> Any:
        self._processor = self.pretrained("AutoImageProcessor")
        model = self.model("AutoModelForObjectDetection")
        self._person = [
            k for k, name in model.config.id2label.items() if str(name).strip().lower() in ("person", "people")
        ]
        if not self._person:
            raise ExpertError(f"{self.NAME}: {self.checkpoint} has no class named person")
        return model

    def detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """Boxes in pixels and scores of the people of each photo."""
        return self.in_batches(photos, self._detect)

    def _detect(self, photos: Sequence[Photo]) -> list[Detections]:
        inputs = self.tensors(self._processor(images=[p.pixels for p in photos], return_tensors="pt"))
        outputs = _full_precision(self._model(**inputs))
        detections = self._processor.post_process_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(p.size[1], p.size[0]) for p in photos]
        )
        result = []
        for one in detections:
            people = np.isin(one["labels"].cpu().numpy(), self._person)
            result.append(_detections(one, people))
        return result


@dataclass
class DFine(RtDetr):
    """D-FINE: the same interface as RT-DETR."""

    checkpoint: str = "ustc-community/dfine-xlarge-obj2coco"

    NAME = "dfine"


@dataclass
class GroundingDino(TorchExpert):
    """Grounding DINO, asked for a phrase."""

    checkpoint: str = "IDEA-Research/grounding-dino-base"
    phrase: str = "a person."
    """What to look for: lower case, ending in a dot, as the model was trained."""
    threshold: float = 0.3
    text_threshold: float = 0.25

    NAME = "grounding_dino"

    def _load_model(self) -> Any:
        self._processor = self.pretrained("AutoProcessor")
        return self.model("AutoModelForZeroShotObjectDetection")

    def detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """Boxes in pixels and scores of what the phrase names, in each photo."""
        return self.in_batches(photos, self._detect)

    def _detect(self, photos: Sequence[Photo]) -> list[Detections]:
        text = [self.phrase] * len(photos)
        inputs = self.tensors(self._processor(images=[p.pixels for p in photos], text=text, return_tensors="pt"))
        outputs = _full_precision(self._model(**inputs))
        detections = self._processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.threshold,
            text_threshold=self.text_threshold,
            target_sizes=[(p.size[1], p.size[0]) for p in photos],
        )
        return [_detections(one, np.ones(len(one["scores"]), bool)) for one in detections]


def _full_precision(outputs: Any) -> Any:
    """Boxes are scaled to pixels afterwards, which half precision cannot tell apart."""
    outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
    return outputs


def _detections(output: Any, kept: np.ndarray) -> Detections:
    boxes = output["boxes"].float().cpu().numpy().astype(np.float64).reshape(-1, 4)
    return Detections(boxes[kept], output["scores"].float().cpu().numpy().astype(np.float64)[kept])
