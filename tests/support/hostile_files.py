"""Files that want to run code, and files that are damaged."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st

fuzz = settings(max_examples=40, deadline=None)


class Bomb:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Some bytes replaced, the end cut off."""
    out = bytearray(data)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: len(out) - cut % len(out)])


damage = (st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6), st.integers(0, 200))
