"""Words from a vision-language model of the Qwen-VL family, in process.

The model is not asked to talk: each class is scored as the continuation of the beginning of the answer, `{"age": "`, which
gives exact class probabilities and cannot be refused or misread. A fine-tuned model is another checkpoint, a LoRA an `adapter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts.adapters.torch_common import INSTALL, TorchExpert
from experts.adapters.vlm import Questions
from experts.attributes import UNKNOWN, Attribute
from experts.checkpoint_licences import card_of
from experts.crops import person_picture
from experts.interfaces import Card, ExpertError, People, Photo, Words

_IMAGE_TOKEN = "<|image_pad|>"


@dataclass
class QwenVl(Questions, TorchExpert):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL."""

    checkpoint: str = "Qwen/Qwen3-VL-4B-Instruct"
    dtype: str = "bfloat16"
    adapter: str = ""
    """LoRA on top of the checkpoint: hub id or folder (needs the package peft)."""

    NAME = "qwen_vl"

    @property
    def card(self) -> Card:
        """A LoRA is named beside its checkpoint; its licence is unknown until it is stated."""
        if not self.adapter:
            return super().card
        return card_of(self.NAME, f"{self.checkpoint} + {self.adapter}", self.version, self.licence)

    def _load_model(self) -> Any:
        self.check()
        self._images = self.pretrained("AutoImageProcessor")
        self._tokens = self.pretrained("AutoTokenizer")
        model = self.model("AutoModelForImageTextToText")
        if self.adapter:
            try:
                from peft import PeftModel  # pyright: ignore[reportMissingImports]
            except ImportError:
                raise ExpertError(f"{self.NAME}: an adapter needs the package peft: {INSTALL} peft") from None
            model = PeftModel.from_pretrained(model, self.adapter)
        self._image_token = int(self._tokens.convert_tokens_to_ids(_IMAGE_TOKEN))
        if self._image_token in (None, self._tokens.unk_token_id):
            raise ExpertError(f"{self.NAME}: {self.checkpoint} has no token {_IMAGE_TOKEN}: not a Qwen-VL model")
        return model

    def words(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Words]:
        """Anchors and class probabilities of the people of each photo."""
        who = [(photo, crowd, i) for photo, crowd in zip(photos, people, strict=True) for i in range(len(crowd))]
        said = iter(self.in_batches(who, lambda batch: [self._person(*one) for one in batch]))
        result = []
        for crowd in people:
            mine = [next(said) for _ in range(len(crowd))]
            table = {
                a.name: np.array([m[a.name] for m in mine]).reshape(len(crowd), len(a.classes)) for a in self.asked
            }
            result.append(self.summary(table, [""] * len(crowd)))
        return result

    def _person(self, photo: Photo, people: People, person: int) -> dict[str, np.ndarray]:
        """Class probabilities per attribute, averaged over the prompt variants."""
        probabilities: dict[str, list[np.ndarray]] = {a.name: [] for a in self.asked}
        for variant in self.prompts:
            picture = person_picture(photo, people, person, variant, self.max_side)
            for attributes in self.groups():
                text, said = self.text(variant, attributes), "{"
                for attribute in attributes:
                    said += f'"{attribute.name}": "'
                    values = self.scores(picture, text, said, attribute)
                    probabilities[attribute.name].append(values[:-1])
                    # The next question is asked after this one's likeliest answer, as in a generated object.
                    said += f'{(*attribute.classes, UNKNOWN)[int(values.argmax())]}", '
        return {name: np.mean(values, axis=0) for name, values in probabilities.items()}

    def scores(self, picture: np.ndarray, text: str, said: str, attribute: Attribute) -> np.ndarray:
        """(c + 1,) probabilities of the classes and of `unknown`, given that the answer begins with `said`.

        p(class) is proportional to the product of the probabilities of the class's tokens, closing quote included.
        """
        import torch

        shown = self._images(images=[picture], return_tensors="pt")
        merged = int(shown["image_grid_thw"][0].prod()) // int(self._images.merge_size) ** 2
        prompt = (
            f"<|im_start|>user\n<|vision_start|>{_IMAGE_TOKEN * merged}<|vision_end|>{text}<|im_end|>\n"
            f"<|im_start|>assistant\n{said}"
        )
        # Prompt and continuation are joined as text: a class may share its first token with the quote before it.
        prefix = self._tokens(prompt)["input_ids"]
        whole = [self._tokens(f'{prompt}{name}"')["input_ids"] for name in (*attribute.classes, UNKNOWN)]
        common = min(_common(prefix, ids) for ids in whole)
        # What all answers share, the picture above all, goes through the network once; each answer then continues from it.
        shared = torch.tensor([prefix[:common]])
        inputs = self.tensors({"input_ids": shared, "mm_token_type_ids": (shared == self._image_token).int(), **shown})
        rest = [ids[common:] for ids in whole]
        length = max(len(ids) for ids in rest)
        padding = self._tokens.pad_token_id or 0  # to the right of everything that counts: causal attention hides it
        answers = torch.tensor([ids + [padding] * (length - len(ids)) for ids in rest], device=self._device)
        counted = torch.tensor([[k < len(ids) for k in range(length)] for ids in rest], device=self._device)
        with torch.inference_mode():
            begun = self._model(**inputs, use_cache=True, logits_to_keep=1)
            begun.past_key_values.batch_repeat_interleave(len(rest))
            logits = self._model(input_ids=answers, past_key_values=begun.past_key_values).logits
            first = begun.logits[:, -1:].expand(len(rest), -1, -1)
            chances = torch.cat([first, logits[:, :-1]], dim=1).float().log_softmax(-1)
        each = chances.gather(-1, answers[..., None])[..., 0]
        totals = torch.where(counted, each, torch.zeros_like(each)).sum(1).double()
        return totals.softmax(0).cpu().numpy()


def _common(a: list[int], b: list[int]) -> int:
    """Length of the common beginning."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
