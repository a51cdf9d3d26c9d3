"""Scenes of an input and their photos by name, for readers that follow another order."""

from __future__ import annotations

from collections.abc import Callable

from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.people.scene import Scene
from annyfit_jax.store.locations import place


def scenes_by_name(source: SceneSource) -> Callable[[str], Scene | None]:
    """Loads a scene by its name; None where the input has none of that name. The function raises SceneError."""
    position = {name: i for i, name in enumerate(source.names)}
    return lambda name: source.load(position[name]) if name in position else None


def photos_by_name(source: SceneSource) -> Callable[[str], bytes]:
    """The encoded photo of a scene by its name, packed or in a file; empty where there is none. Raises SceneError."""
    position = {name: i for i, name in enumerate(source.names)}

    def photo(name: str) -> bytes:
        if name not in position:
            return b""
        if packed := source.photo(position[name]):
            return packed
        path = source.load(position[name]).image_path
        return place(path).read_bytes() if path and place(path).is_file() else b""

    return photo
