"""What the vision-language experts share: the options that say what is asked and how answers become anchors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from experts.attributes import ALL_ATTRIBUTES, Attribute, decide, instructions
from experts.crops import SUBJECTS, VARIANTS
from experts.interfaces import ExpertError, Words


@dataclass
class Questions:
    """Options of every vision-language expert."""

    ask: tuple[str, ...] = ("age", "gender")
    """Names of the attributes that are asked for."""
    attributes: tuple[Attribute, ...] = ALL_ATTRIBUTES
    """The attributes there are, and the anchor of each answer."""
    prompts: tuple[str, ...] = ("head",)
    """Prompt variants (`experts.crops`). Several: their probabilities are averaged."""
    reduce: str = "best"
    """`best`: the anchor of the likeliest class; `expected`: the mean anchor under the probabilities."""
    minimum: float = 0.0
    """A best class that is less likely is `unknown`."""
    max_side: int = 768
    """Longer side of the picture that is shown, pixels."""
    together: bool = field(default=True)
    """One question about all attributes, else one question for each."""

    @property
    def asked(self) -> tuple[Attribute, ...]:
        """The attributes that are asked for, in the order of `ask`."""
        named = {attribute.name: attribute for attribute in self.attributes}
        return tuple(named[name] for name in self.ask)

    def check(self) -> None:
        """Raises ExpertError on options that cannot be."""
        names = [attribute.name for attribute in self.attributes]
        strange = [name for name in self.ask if name not in names]
        if strange or not self.ask or len({*self.ask}) < len(self.ask):
            raise ExpertError(
                f"words.ask: expected some of {', '.join(names)}, each once, got {', '.join(map(str, self.ask)) or 'none'}"
            )
        wrong = [name for name in self.prompts if name not in VARIANTS]
        if wrong or not self.prompts:
            raise ExpertError(
                f"words.prompts: expected some of {', '.join(VARIANTS)}, got {', '.join(wrong) or 'none'}"
            )
        if self.reduce not in ("best", "expected"):
            raise ExpertError(f"words.reduce: expected best or expected, got {self.reduce}")

    def groups(self) -> list[tuple[Attribute, ...]]:
        """The attributes of each question."""
        return [self.asked] if self.together else [(attribute,) for attribute in self.asked]

    def text(self, variant: str, attributes: tuple[Attribute, ...]) -> str:
        """What goes with the picture of a variant."""
        return instructions(attributes, SUBJECTS[variant])

    def summary(self, probabilities: dict[str, Float[np.ndarray, "n c"]], answers: list[str]) -> Words:
        """Anchors and words from probabilities."""
        anchors, words = {}, {}
        for attribute in self.asked:
            anchors[attribute.name], words[attribute.name] = decide(
                probabilities[attribute.name], attribute, reduce=self.reduce, minimum=self.minimum
            )
        return Words(anchors, words, probabilities, answers)
