"""Inputs of readers that read files, from buckets: fetched to local files, and told of under the bucket's names.

Cue datasets and photos are not fetched here; they are read from buckets as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from annyfit_jax.inputs.keypoint_files import SUFFIXES
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.store.mirrors import Mirrors

_FILES = ("calibration", "words")
_FOLDERS = ("depth", "masks")
Open = Callable[[str, InputOptions], SceneSource]


def open_fetched(path: str, options: InputOptions, open_local: Open) -> SceneSource:
    """What `open_local` makes of the local copies of those locations that are in buckets.

    Raises SceneError where nothing is there, and what `open_local` raises.
    """
    mirrors = Mirrors()

    def local(location: str, what: str, suffixes: tuple[str, ...] = ()) -> str:
        try:
            return mirrors.local(location, suffixes)
        except FileNotFoundError as error:
            raise SceneError(f"{what}{error}") from None

    with mirrors.naming():
        here = local(path, "", SUFFIXES)
        given = {name: value for name in (*_FILES, *_FOLDERS) if (value := getattr(options, name)) is not None}
        given = {name: local(value, f"option {name}: ") for name, value in given.items()}
        if here != path:
            given["images_beside"] = str(mirrors[0].origin)
        source = open_local(here, replace(options, **given))
    if not mirrors:
        return source
    notes = tuple(map(mirrors.named, source.notes))
    return replace(source, location=path, notes=notes, loader=_Loader(source.loader, mirrors))


class _Loader:
    """Reads a scene when the files are there, on whatever machine."""

    def __init__(self, inner: Callable[[int], Scene], mirrors: Mirrors) -> None:
        self._inner, self._mirrors = inner, mirrors
        self._fetched = True

    def __call__(self, index: int) -> Scene:
        """Raises SceneError."""
        if not self._fetched:
            for mirror in self._mirrors:
                mirror.fetch()
            self._fetched = True
        with self._mirrors.naming():
            scene = self._inner(index)
        skipped = [(person, self._mirrors.named(reason)) for person, reason in scene.skipped]
        return replace(scene, notes=list(map(self._mirrors.named, scene.notes)), skipped=skipped)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_fetched": False}  # elsewhere they may not be there
