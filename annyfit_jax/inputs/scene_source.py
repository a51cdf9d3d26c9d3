"""What every reader offers: a lazy sequence of scenes, and the options they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, Scene, SceneError


@dataclass(frozen=True)
class InputOptions:
    """Choices of the readers. Each option names the kinds of input it concerns."""

    images: str | None = None
    """coco, keypoint files: folder of the photos; default the folder of the input."""
    images_beside: str | None = None
    """coco, keypoint files, official: where photos are looked for without `images`, if that is not the folder of the input."""
    fov_degrees: float = DEFAULT_FOV_DEGREES
    """all: field of view over the longest image side where the input has no intrinsics."""
    calibration: str | None = None
    """coco, keypoint files: calibration file of the camera or cameras (`inputs.calibration`); points are undistorted."""
    skeleton: str | None = None
    """coco, keypoint files: which points the keypoints are (a name of `point_sets.POINT_SETS`) where the input does not say."""
    image_size: tuple[int, int] | None = None
    """coco, keypoint files: (width, height) in pixels of pictures that are not there and of which the input does not say it."""
    translation: str = "pelvis"
    """official: `pelvis` places the root bone at `transl_pelvis`; `head` uses `transl` as the release does."""
    words: str | None = None
    """coco: JSON file `{person id: {"age": word or number, "gender": word or number}}`; overrides the annotations."""
    hand_labels: bool = False
    """coco: use `hand_label.age` and `hand_label.gender` where a person has no word."""
    hand_depth: bool = False
    """coco: use `hand_label.depth_id` as the depth layer where a person has none."""
    hidden_confidence: float = 1.0
    """coco: confidence of a keypoint that is labelled but hidden (v = 1)."""
    depth: str | None = None
    """coco: folder of metric depth maps `<stem>.npy`, `.npz` (metres) or 16-bit `.png` (millimetres)."""
    masks: str | None = None
    """coco: folder of label images `<stem>.png`: 0 background, k = the image's k-th annotation in file order."""
    with_masks: bool = False
    """coco, official: keep the person masks in the scene."""
    with_depth_map: bool = False
    """official: keep the depth map in the scene (coco keeps it whenever `depth` is given)."""
    vlm_folder: str | None = None
    """official: name of the `vlm_estimate_*` folder; default the dataset's, else the first one."""
    hmr_folder: str | None = None
    """official: name of the `multihmr_*` folder; default the first one."""
    dataset_folder: str | None = None
    """official: name of the `person_dataset_*` folder; default the first one."""

    def __post_init__(self):
        if self.translation not in ("pelvis", "head"):
            raise SceneError(f"option translation: expected `pelvis` or `head`, got {self.translation!r}")
        if not 0.0 < self.fov_degrees < 180.0:
            raise SceneError(f"option fov_degrees: expected degrees in (0, 180), got {self.fov_degrees}")
        if not 0.0 <= self.hidden_confidence <= 1.0:
            raise SceneError(f"option hidden_confidence: expected a number in [0, 1], got {self.hidden_confidence}")


@dataclass(frozen=True)
class SceneSource(Sequence):
    """A lazy sequence of scenes; nothing but an index is read before `load`."""

    kind: str
    """`scene_npz`, `coco`, `official`, `cues`, or a family of keypoint files such as `openpose`."""
    names: tuple[str, ...]
    """Unique scene names in reading order."""
    loader: Callable[[int], Scene] = field(repr=False)
    """Reads scene i; the result is validated by `load`."""
    location: str = ""
    """The input path, for messages."""
    notes: tuple[str, ...] = ()
    """What the reader assumed about the input as a whole."""
    stamps: Callable[[int], str] | None = field(default=None, repr=False)
    """Fingerprints of the scenes' content by index, cheap to ask for; None where the reader has none."""

    def stamp(self, index: int) -> str:
        """A cheap fingerprint of what scene `index` is read from, empty where there is none: another one, another content."""
        return self.stamps(index) if self.stamps is not None else ""

    def load(self, index: int) -> Scene:
        """Reads and checks scene `index`. Raises SceneError (file, field, expectation) on a scene to set aside."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)} in {self.location}")
        name = self.names[index]
        try:
            scene = self.loader(index % len(self))
            validate_scene(scene, self.location)
        except SceneError:
            raise
        except Exception as error:  # what no check foresaw is still this scene's alone
            raise SceneError(
                f"{self.location}: scene {name:.200}: cannot be read ({type(error).__name__}: {error!s:.500})"
            ) from error
        return scene

    def photo(self, index: int) -> bytes:
        """The encoded photo of scene `index` that the input itself holds; empty where it holds none. Raises SceneError."""
        return b""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.load(index)

    def __iter__(self) -> Iterator[Scene]:
        return (self.load(index) for index in range(len(self)))
