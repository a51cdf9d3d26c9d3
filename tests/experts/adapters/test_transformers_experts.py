"""The adapters of models through `transformers`, each with a tiny random model of its own architecture.

The real classes, the real processors, the real way back to the pixels of the photo. Needs the extra [experts]; runs where the
mark `parity` is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import require_shared

from experts.adapters.torch_common import Batches, Meter, TorchExpert, checksum, choose_device, normalised
from experts.interfaces import ExpertError, People, Photo

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

PERSON_DOG = {"id2label": {0: "person", 1: "dog"}, "label2id": {"person": 0, "dog": 1}}


def photo(width: int, height: int, name: str = "p", seed: int = 0) -> Photo:
    return Photo(name, f"{name}.jpg", np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def saved(folder: Path, *parts: Any) -> str:
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


# ------------------------------------------------------------------------------------------------ tiny models


def tiny_detr(kind: str) -> Any:
    common = {
        "encoder_hidden_dim": 16, "encoder_in_channels": [8, 8, 8], "encoder_ffn_dim": 16, "encoder_attention_heads": 2,
        "d_model": 16, "num_queries": 6, "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16,
        "decoder_attention_heads": 2, "decoder_layers": 2, "num_denoising": 0, "anchor_image_size": None, **PERSON_DOG,
    }  # fmt: skip
    stages = {"out_features": ["stage2", "stage3", "stage4"]}
    if kind == "rtdetr":
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", **stages
        )
        return transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(backbone_config=backbone, **common))
    backbone = transformers.HGNetV2Config(
        embedding_size=8, stem_channels=[3, 8, 8], hidden_sizes=[8] * 4, depths=[1] * 4, stage_in_channels=[8] * 4,
        stage_mid_channels=[8] * 4, stage_out_channels=[8] * 4, stage_num_blocks=[1] * 4,
        stage_downsample=[False, True, True, True], stage_light_block=[False] * 4, stage_kernel_size=[3] * 4,
        stage_numb_of_layers=[1] * 4, **stages,
    )  # fmt: skip
    return transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **common))


def tiny_sam2() -> Any:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1] * 4,
        window_positional_embedding_background_size=[4, 4], window_size_per_stage=[4] * 4, global_attention_blocks=[3],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=128)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=32, num_attention_heads=2, mlp_dim=16, iou_head_hidden_dim=16
    )
    return transformers.Sam2Model(
        transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )


def tiny_vitpose(keypoints: int, num_experts: int) -> Any:
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[256, 192], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_experts=num_experts, part_features=4 if num_experts > 1 else 0, mlp_ratio=2, out_features=["stage1"],
    )  # fmt: skip
    return transformers.VitPoseForPoseEstimation(
        transformers.VitPoseConfig(backbone_config=backbone, num_labels=keypoints, use_simple_decoder=True)
    )


def tiny_depth_anything(kind: str = "metric") -> Any:
    backbone = transformers.Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8] * 4,
            fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
        )
    )  # fmt: skip


def tiny_depth_pro() -> Any:
    vit = {
        "model_type": "dinov2", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "patch_size": 4,
        "image_size": 16, "mlp_ratio": 2,
    }  # fmt: skip
    return transformers.DepthProForDepthEstimation(
        transformers.DepthProConfig(
            fusion_hidden_size=8, patch_size=16, intermediate_hook_ids=[0, 0], intermediate_feature_dims=[8, 8],
            scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.25], scaled_images_feature_dims=[8, 8],
            use_fov_model=True, num_fov_head_layers=1, image_model_config=dict(vit), patch_model_config=dict(vit),
            fov_model_config=dict(vit),
        )
    )  # fmt: skip


def byte_tokenizer() -> Any:
    """Every byte a token, with the special tokens of Qwen-VL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=special
    )


def tiny_qwen(kind: str, tokenizer: Any) -> Any:
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"),
        )
    }  # fmt: skip
    text = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    if kind == "qwen2":
        vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        config = transformers.Qwen2VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision, **ids)
        return transformers.Qwen2VLForConditionalGeneration(config)
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 14,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
    }  # fmt: skip
    text |= {"head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}}
    return transformers.Qwen3VLForConditionalGeneration(
        transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_scores_are_those_of_each_answer_on_its_own(kind, tmp_path, monkeypatch):
    from experts.adapters.qwen_vl import QwenVl
    from experts.attributes import AGE, UNKNOWN

    tokenizer = byte_tokenizer()
    images = transformers.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=84 * 84)
    checkpoint = saved(tmp_path, tiny_qwen(kind, tokenizer), tokenizer, images)
    expert = QwenVl(checkpoint=checkpoint, dtype="float32", prompts=("person", "head"), max_side=80)
    expert.load()
    shown = photo(120, 90)
    (said,) = expert.words([shown], [People(np.array([[10.0, 10, 60, 80], [50, 5, 110, 85]]), ["0", "1"])])
    assert said.probabilities["age"].shape == (2, 6)
    assert said.probabilities["gender"].shape == (2, 3)
    for values in said.probabilities.values():
        assert ((values >= 0) & (values.sum(1, keepdims=True) <= 1 + 1e-9)).all()

    # Each answer alone: no batch, no padding, token by token.
    picture, text, begin = shown.pixels[:56, :56], "Who is it?", '{"age": "'
    scores = expert.scores(picture, text, begin, AGE)
    shape = images(images=[picture], return_tensors="pt")
    pads = "<|image_pad|>" * (int(shape["image_grid_thw"].prod()) // 4)
    head = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n{begin}"
    prefix = len(tokenizer(head)["input_ids"])
    totals = []
    for name in (*AGE.classes, UNKNOWN):
        ids = torch.tensor([tokenizer(f'{head}{name}"')["input_ids"]])
        image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        with torch.inference_mode():
            logits = expert._model(
                input_ids=ids, mm_token_type_ids=(ids == image_id).int(), pixel_values=shape["pixel_values"],
                image_grid_thw=shape["image_grid_thw"],
            ).logits.double()  # fmt: skip
        totals.append(sum(logits[0, t - 1].log_softmax(-1)[ids[0, t]].item() for t in range(prefix, ids.shape[1])))
    wanted = np.exp(np.array(totals) - np.max(totals))
    np.testing.assert_allclose(scores, wanted / wanted.sum(), rtol=2e-3, atol=1e-6)
    assert scores.max() - scores.min() > 1e-3  # the comparison says something

    class Cache:
        def batch_repeat_interleave(self, times):
            assert times in (len(AGE.classes) + 1, 4)  # age; gender and weight have three classes

    shown_pictures = []

    def forward(input_ids, pixel_values=None, **_):
        """Sure of every next token of an answer that says child, indifferent otherwise."""
        logits = torch.zeros((*input_ids.shape, 300))
        (c,) = tokenizer("c")["input_ids"]
        if pixel_values is not None:  # all that the answers share: the first letter comes next
            shown_pictures.append(pixel_values.shape)
            logits[:, -1, c] = 50.0
        for row, ids in enumerate(input_ids):
            if tokenizer.decode(ids).startswith("child"):
                logits[row, torch.arange(len(ids) - 1), ids[1:]] = 50.0
        return type("Output", (), {"logits": logits, "past_key_values": Cache()})()

    monkeypatch.setattr(expert._model, "forward", forward)
    planted = expert.scores(picture, text, begin, AGE)
    assert planted.argmax() == AGE.classes.index("child")
    assert planted.max() > 0.99
    assert len(shown_pictures) == 1  # not once per answer
    expert.ask = ("age", "gender", "weight")
    (said,) = expert.words([shown], [People(np.array([[10.0, 10, 60, 80]]), ["0"])])
    assert said.words["age"] == ["child"]
    assert set(said.anchors) == {"age", "gender", "weight"}


def test_a_lora_is_a_name_and_its_licence_must_be_stated(tmp_path):
    peft = pytest.importorskip("peft")
    from experts.adapters.qwen_vl import QwenVl
    from experts.attributes import AGE

    tokenizer = byte_tokenizer()
    images = transformers.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=84 * 84)
    base = tiny_qwen("qwen2", tokenizer)
    checkpoint = saved(tmp_path / "base", base, tokenizer, images)
    tuned = peft.get_peft_model(
        base, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    )
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    tuned.save_pretrained(tmp_path / "lora")
    options = {"checkpoint": checkpoint, "dtype": "float32", "max_side": 80}
    plain, adapted = QwenVl(**options), QwenVl(**options, adapter=str(tmp_path / "lora"))
    scores = []
    for expert in (plain, adapted):
        expert.load()
        scores.append(expert.scores(photo(56, 56).pixels, "Who is it?", '{"age": "', AGE))
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    assert adapted.card.checkpoint == f"{checkpoint} + {tmp_path / 'lora'}"
    assert not QwenVl(adapter="somebody/lora").card.commercial
    assert QwenVl(adapter="somebody/lora", licence="apache-2.0").card.commercial


# ------------------------------------------------------------------------------------------------ loading, memory


def test_a_checkpoint_that_is_not_there_names_the_command_that_gets_it(tmp_path):
    from experts.adapters.detectors import RtDetr

    with pytest.raises(ExpertError, match=r"hf download .*nowhere --revision main"):
        RtDetr(checkpoint=str(tmp_path / "nowhere")).load()
    with pytest.raises(ExpertError, match="dtype: expected float32"):
        RtDetr(dtype="float8").load()


def test_the_card_knows_the_licence_only_of_known_checkpoints():
    from experts.adapters.detectors import RtDetr

    assert RtDetr().card.commercial
    assert not RtDetr(checkpoint="somebody/else").card.commercial
    assert RtDetr(checkpoint="somebody/else", licence="mit").card.commercial
    assert isinstance(RtDetr(), TorchExpert)


@pytest.mark.parametrize(
    ("module", "kind", "stated", "found"),
    [
        # `image_processor_type` as it stands in preprocessor_config.json of the hub's checkpoints.
        ("rtdetr", "AutoImageProcessor", "RTDetrImageProcessor", "RTDetrImageProcessorPil"),
        ("vitpose", "AutoImageProcessor", "VitPoseImageProcessor", "VitPoseImageProcessorPil"),
        ("depth_anything", "AutoImageProcessor", "DPTImageProcessor", "DPTImageProcessorPil"),
        ("qwen_vl", "AutoImageProcessor", "Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil"),
        ("qwen_vl", "AutoImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
        ("grounding_dino", "AutoImageProcessor", "GroundingDinoImageProcessor", "GroundingDinoImageProcessorPil"),
    ],
)
def test_processors_load_without_torchvision_by_the_names_of_the_hub(module, kind, stated, found, tmp_path):
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": stated}))
    expert = TorchExpert(checkpoint=str(tmp_path))
    expert.NAME = module
    assert type(expert.pretrained(kind)).__name__ == found


def test_a_folder_is_known_by_the_checksum_of_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = checksum(tmp_path)
    assert first == checksum(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert checksum(tmp_path) != first
    assert first.startswith("sha256:")


@pytest.mark.parametrize(
    ("wanted", "process", "gpus", "device"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 0, 1, "cuda:0"),
        ("auto", 5, 4, "cuda:1"),
        ("cuda:2", 5, 4, "cuda:2"),
        ("cpu", 1, 8, "cpu"),
    ],
)
def test_processes_of_one_machine_take_different_gpus(wanted, process, gpus, device):
    assert choose_device(wanted, process, gpus) == device


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_and_gives_full_precision(dtype, tmp_path):
    """Of every adapter: the types of inputs and weights fit, and answers are near those of float32."""
    from experts.adapters import depth, detectors, sam2, vitpose

    shown, crowd = photo(120, 90), People(np.array([[10.0, 10, 60, 80], [50, 5, 110, 85]]), ["0", "1"])
    detr = saved(
        tmp_path / "d", tiny_detr("rtdetr"), transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64})
    )
    pose = saved(tmp_path / "k", tiny_vitpose(17, 6), transformers.VitPoseImageProcessorPil())
    plain = saved(
        tmp_path / "z", tiny_depth_anything(), transformers.DPTImageProcessorPil(size={"height": 42, "width": 42})
    )
    answers = []
    for kind in ("float32", dtype):
        detector = detectors.RtDetr(checkpoint=detr, threshold=0.0, dtype=kind)
        segmenter = sam2.Sam2(checkpoint=saved(tmp_path / "s", tiny_sam2()), dtype=kind)
        points, metric = vitpose.VitPose(checkpoint=pose, dtype=kind), depth.DepthAnything(checkpoint=plain, dtype=kind)
        pro = depth.DepthPro(checkpoint=saved(tmp_path / "p", tiny_depth_pro()), dtype=kind)
        torch.manual_seed(0)
        for expert in (detector, segmenter, points, metric, pro):
            expert.load()
        assert detector.detect([shown])[0].boxes.dtype == np.float64
        assert segmenter.segment([shown], [crowd])[0].shape == (2, 90, 120)
        assert points.keypoints([shown], [crowd])[0].shape == (2, 17, 3)
        estimate = pro.depth([shown])[0]
        assert estimate.depth.dtype == np.float32
        assert estimate.intrinsics is not None
        answers.append(metric.depth([shown])[0].depth)
    assert answers[1].dtype == np.float32
    np.testing.assert_allclose(answers[1], answers[0], rtol=0.1)


class FakeMeter(Meter):
    """A device with room for `room` items of equal size."""

    def __init__(self, room: int) -> None:
        self.room, self.items = room, 0

    def stop(self) -> tuple[int, int]:
        return self.items * 100, (self.room - self.items) * 100


@pytest.mark.parametrize("room", [1, 5, 1000])
def test_batches_grow_to_the_memory_and_no_further(room):
    meter = FakeMeter(room)
    batches = Batches("cpu", meter)
    sizes = []

    def work(items):
        meter.items = len(items)
        if len(items) > room:
            raise torch.OutOfMemoryError("no")
        sizes.append(len(items))
        return [2 * item for item in items]

    assert batches.map(list(range(200)), work) == [2 * i for i in range(200)]
    assert sizes[0] == 1
    assert max(sizes) == {1: 1, 5: 4, 1000: 64}[room]


def test_batches_halve_where_memory_runs_out_all_the_same():
    batches = Batches("cpu")
    batches.size, sizes = 16, []

    def work(items):
        if len(items) > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        sizes.append(len(items))
        return items

    assert batches.map(list(range(20)), work) == list(range(20))
    assert set(sizes) == {2}
    with pytest.raises(RuntimeError, match="RESOURCE"):
        batches.map([1], lambda items: work([1] * 9))


# ------------------------------------------------------------------------------------------------ end to end


def test_photos_through_tiny_models_to_fits(tmp_path):
    from annyfit_jax.fit import config as configs
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.inputs import open_input
    from body_models import anny
    from experts import photos_to_cues

    detector, pose = tiny_detr("rtdetr"), tiny_vitpose(17, 1)
    with torch.no_grad():
        for head in (*detector.model.decoder.class_embed, detector.model.enc_score_head):
            head.bias[0] = 4.0  # everything is a person
        for module in pose.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.bias.fill_(0.9)  # confident everywhere
    tokenizer = byte_tokenizer()
    made = {
        "detector": (detector, transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64})),
        "segmenter": (tiny_sam2(),),
        "keypoints": (pose, transformers.VitPoseImageProcessorPil()),
        "depth": (tiny_depth_anything(), transformers.DPTImageProcessorPil(size={"height": 42, "width": 42})),
        "words": (
            tiny_qwen("qwen2", tokenizer), tokenizer,
            transformers.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=84 * 84),
        ),
    }  # fmt: skip
    assignments = [f"{cue}.licence=mit" for cue in made]
    assignments += [f"{cue}.checkpoint={saved(tmp_path / cue, *parts)}" for cue, parts in made.items()]
    options = photos_to_cues.PrecomputeOptions(
        str(require_shared("data/real")),
        str(tmp_path / "out"),
        assignments=[*assignments, "words.max_side=80"],
        limit=2,
    )
    state = photos_to_cues.precompute(options)
    assert state.finished
    assert (tmp_path / "out" / "failures.jsonl").read_text() == ""
    source = open_input(str(tmp_path / "out"), with_masks=True, with_depth_map=True)
    assert len(source) == 2
    scene = source.load(0)
    assert scene.masks is not None
    assert scene.depth_map is not None
    assert scene.extra["probabilities_age"].shape == (len(scene), 6)
    assert json.loads(json.dumps(scene.extra["provenance"]))["licences"] == ["mit"]
    config = configs.load_config(REPO / "experiments" / "configs" / "annyfit.py")
    last = dataclasses.replace(config.stages[-1], steps=2)
    fitter = Fitter(dataclasses.replace(config, stages=(last,)), anny.load(), jax.local_devices()[:1])
    (fit,) = fitter.collect(fitter.dispatch([fitter.prepare(scene)]))
    assert len(fit) == len(scene)
    assert any("licences of the cues: mit" in note for note in fit.scene_notes)
