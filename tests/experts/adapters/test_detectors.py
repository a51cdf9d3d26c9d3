"""Detectors of transformers on small random models."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import photo, saved, tiny_detr

from experts.interfaces import ExpertError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


# ------------------------------------------------------------------------------------------------ detectors


@pytest.mark.parametrize("kind", ["rtdetr", "dfine"])
def test_detector_boxes_come_back_in_pixels_of_each_photo(kind, tmp_path, monkeypatch):
    from experts.adapters import detectors

    processor = transformers.AutoImageProcessor.from_pretrained(
        saved(tmp_path, transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64}))
    )
    checkpoint = saved(tmp_path, tiny_detr(kind), processor)
    expert = {"rtdetr": detectors.RtDetr, "dfine": detectors.DFine}[kind](checkpoint=checkpoint, threshold=0.0)
    expert.load()
    photos = [photo(200, 100), photo(60, 120, seed=1)]
    found = expert.detect(photos)  # the random model, through everything
    assert len(found) == 2
    for one in found:
        assert one.boxes.shape == (len(one.scores), 4)
        assert np.isfinite(one.boxes).all()
        assert ((one.scores >= 0) & (one.scores <= 1)).all()

    logits = torch.full((2, 6, 2), -20.0)
    logits[0, 3, 0], logits[0, 1, 1], logits[1, 5, 0] = 4.0, 9.0, 2.0  # person, dog, person
    boxes = torch.full((2, 6, 4), 0.5)
    boxes[0, 3] = torch.tensor([0.25, 0.5, 0.1, 0.4])
    boxes[1, 5] = torch.tensor([0.5, 0.25, 1.0, 0.5])
    planted = type("Output", (), {"logits": logits, "pred_boxes": boxes})()
    seen = {}
    monkeypatch.setattr(expert._model, "forward", lambda **inputs: seen.update(inputs) or planted)
    expert.threshold = 0.5
    first, second = expert.detect(photos)
    assert seen["pixel_values"].shape == (2, 3, 64, 64)
    np.testing.assert_allclose(first.boxes, [[40, 30, 60, 70]], atol=1e-4)
    np.testing.assert_allclose(first.scores, [1 / (1 + np.exp(-4))], rtol=1e-5)
    np.testing.assert_allclose(second.boxes, [[0, 0, 60, 60]], atol=1e-4)
    expert.close()
    assert expert._model is None


def test_detector_without_a_person_class_is_refused(tmp_path):
    from experts.adapters.detectors import RtDetr

    model = tiny_detr("rtdetr")
    model.config.id2label = {0: "cat", 1: "dog"}
    checkpoint = saved(tmp_path, model, transformers.RTDetrImageProcessorPil())
    with pytest.raises(ExpertError, match="no class named person"):
        RtDetr(checkpoint=checkpoint).load()


def test_grounding_dino_boxes_come_back_in_pixels_although_the_batch_is_padded(tmp_path, monkeypatch):
    from experts.adapters.detectors import GroundingDino

    backbone = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=6, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=32, max_text_len=16,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    images = transformers.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    processor = transformers.GroundingDinoProcessor(images, tokenizer)
    checkpoint = saved(tmp_path, transformers.GroundingDinoForObjectDetection(config), processor)
    expert = GroundingDino(checkpoint=checkpoint, threshold=0.0, text_threshold=0.0)
    expert.load()
    photos = [photo(200, 100), photo(60, 120, seed=1)]
    random = expert.detect(photos)
    assert [one.boxes.shape[1] for one in random] == [4, 4]
    logits = torch.full((2, 6, 16), -20.0)
    logits[0, 2, 1], logits[1, 4, 2] = 3.0, 1.0
    boxes = torch.full((2, 6, 4), 0.5)
    boxes[0, 2], boxes[1, 4] = torch.tensor([0.25, 0.5, 0.1, 0.4]), torch.tensor([0.5, 0.25, 1.0, 0.5])
    monkeypatch.setattr(
        expert._model, "forward", lambda **_: type("Output", (), {"logits": logits, "pred_boxes": boxes})()
    )
    expert.threshold, expert.text_threshold = 0.3, 0.25
    first, second = expert.detect(photos)
    np.testing.assert_allclose(first.boxes, [[40, 30, 60, 70]], atol=1e-4)
    np.testing.assert_allclose(second.boxes, [[0, 0, 60, 60]], atol=1e-4)
    np.testing.assert_allclose(second.scores, [1 / (1 + np.exp(-1))], rtol=1e-5)
