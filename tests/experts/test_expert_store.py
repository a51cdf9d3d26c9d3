"""Answers of experts, stored and read back."""

from __future__ import annotations

import numpy as np

from annyfit_jax.store.locations import place
from experts import expert_store

# ------------------------------------------------------------------------------------------------ stored answers


def test_answers_are_stored_and_read_back_photo_by_photo(tmp_path):
    rng = np.random.default_rng(0)
    entries = [
        expert_store.Entry(
            "a", {"x": rng.normal(size=(2, 3)), "y/z": np.array([True, False])}, {"words": {"age": ["é", ""]}}
        ),
        expert_store.Entry("schön", error="no luck", blocked=True),
        expert_store.Entry("c"),
    ]
    path = tmp_path / "u" / "0.npz"
    expert_store.write_unit(place(path), entries)
    first = path.read_bytes()
    with expert_store.open_unit(place(path)) as unit:
        assert len(unit) == 3
        read = unit.entry(0)
        np.testing.assert_array_equal(read.arrays["x"], entries[0].arrays["x"])
        np.testing.assert_array_equal(read.arrays["y/z"], [True, False])
        assert read.texts == entries[0].texts
        assert unit.entry(1) == entries[1]
    expert_store.write_unit(place(path), entries)
    assert path.read_bytes() == first
    assert [entry.error for entry in expert_store.read_index(place(path)) or []] == ["", "no luck", ""]
    for damage in (b"", first[:50], first[:-30], b"x" + first[1:]):
        path.write_bytes(damage)
        assert expert_store.read_index(place(path)) is None
    assert expert_store.read_index(place(tmp_path / "none.npz")) is None
