"""The adapters of models through `transformers`, each with a tiny random model of its own architecture.

The real classes, the real processors, the real way back to the pixels of the photo. Needs the extra [experts]; runs where the
mark `parity` is asked for.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest
from helpers import REPO, require_shared
from tiny_models import byte_tokenizer, saved, tiny_depth_anything, tiny_detr, tiny_qwen, tiny_sam2, tiny_vitpose

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


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
        experts="large",
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
