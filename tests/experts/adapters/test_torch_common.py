"""What experts of PyTorch share: loading, precision, memory."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from tiny_models import photo, saved, tiny_depth_anything, tiny_depth_pro, tiny_detr, tiny_sam2, tiny_vitpose

from experts.adapters.torch_common import Batches, Meter, TorchExpert, checksum, choose_device
from experts.interfaces import ExpertError, People

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


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
