"""Qwen-VL on a small random model."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import byte_tokenizer, photo, saved, tiny_qwen

from experts.interfaces import People

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


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
