"""Small models of the experts' architectures with random weights, saved as a hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts.interfaces import Photo

transformers = pytest.importorskip("transformers")

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
