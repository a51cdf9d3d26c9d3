"""Photos from strangers: which files are read, and what comes out of each kind.

| file | what is read |
|---|---|
| JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF, MPO | decided by the content, not by the name; others are refused |
| HEIC | where the package `pillow-heif` is installed |
| more than MAX_PIXELS | refused from the header, before anything is decoded |
| truncated or damaged | refused: half a person is no person |
| EXIF orientation | applied: pixels are in display orientation, as in all our coordinates |
| grey, palette, CMYK, YCCK, 1 bit | converted to RGB |
| 16 bits a channel | the high byte (65535 -> 255) |
| floating point or 32-bit integers | refused: their range means nothing to a photo expert |
| alpha | over white |
| animated, several pages | the first frame |

`read_photo` raises SceneError that names the file. `opened_picture` below it is the only place of this project that hands
a file to a picture decoder: photos, label images, depth maps and photos inside records all go through it. It tries the
decoders that it is told to and no others (Pillow would start Ghostscript for a PostScript file with the name of a JPEG), and
opens nothing but regular files, so that a named pipe or a device does not keep a program waiting.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from jaxtyping import UInt8

from annyfit_jax.inputs.validate import MAX_IMAGE_SIDE
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.encoded_pictures import PHOTO_QUALITY, encoded
from annyfit_jax.records.files import open_regular
from annyfit_jax.store.locations import is_remote, place

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "HEIF")
"""Decoders that are tried (JPEG's also reads MPO); the others of Pillow are old, rare and a larger surface."""
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
"""What `list_photos` looks for, in either case."""
HEIC_SUFFIXES = (".heic", ".heif")
"""Looked for as well where `pillow-heif` is installed."""
NOT_READ = (
    *HEIC_SUFFIXES,
    ".jxl",
    ".jp2",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".rw2",
    ".raf",
    ".psd",
)
"""Photos of kinds that are not read: `list_photos` says how many it leaves out."""
MAX_PIXELS = 80_000_000
"""A larger photo is refused: decoded it would take more than 240 MB, and compressed it may be a few kB."""
_ORIENTATION = 0x0112
_FOCAL_35MM = 0xA405
_EXIF_IFD = 0x8769
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


Encoded = str | Path | bytes
"""A picture's file, on a disk or in a bucket (`s3://`, as text), or the content of one."""


def read_photo(
    source: Encoded, max_pixels: int = MAX_PIXELS, *, where: str = "", upright: bool = True
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo as RGB. Raises SceneError on anything that is not a sound photo.

    Args:
      source: a file, or its content.
      where: what messages call it; default the file.
      upright: in display orientation; otherwise as it is stored, whatever its EXIF data say.
    """
    with opened_picture(source, max_pixels=max_pixels, where=where) as photo:
        return _pixels(photo, where or _named(source), upright)


def photo_size(source: Encoded, max_pixels: int = MAX_PIXELS, *, where: str = "") -> tuple[int, int]:
    """(width, height) in display orientation, from the header. Raises SceneError."""
    with opened_picture(source, max_pixels=max_pixels, where=where) as photo:
        turned = photo.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (photo.height, photo.width) if turned else (photo.width, photo.height)


def focal_35mm(path: Encoded) -> float | None:
    """The 35 mm equivalent focal length that the camera wrote into the EXIF data, millimetres; None where it wrote none."""
    try:
        with opened_picture(path) as photo:
            exif = photo.getexif()
            value = exif.get_ifd(_EXIF_IFD).get(_FOCAL_35MM, exif.get(_FOCAL_35MM))
            focal = float(value)  # pyright: ignore[reportArgumentType]
    except SceneError:  # no EXIF data, broken EXIF data, not a number
        return None
    return focal if 1.0 <= focal <= 5000.0 else None


def jpeg_bytes(path: str | Path) -> bytes:
    """The photo as JPEG: an upright RGB or grey JPEG file as it is, others encoded anew. Raises SceneError."""

    pixels = read_photo(path)  # also proves that a file taken as it is is whole
    with opened_picture(path) as photo:
        plain = photo.format == "JPEG" and photo.mode in ("RGB", "L")
        if plain and photo.getexif().get(_ORIENTATION, 1) == 1:
            return place(str(path)).read_bytes()
    return encoded(pixels, quality=PHOTO_QUALITY)


def photo_paths(location: str | Path) -> tuple[Path, list[Path]]:
    """The photos that a folder, a file or a pattern such as `photos/*.jpg` names, and the folder that their names count from.

    Raises SceneError where there is none.
    """
    place = Path(location)
    if place.is_dir():
        return place, list_photos(place)
    if place.is_file():
        return place.parent, [place]
    if not _is_pattern(location):
        raise SceneError(f"{location}: no such file or folder")
    root = Path(*(part for part in takewhile(lambda part: not _is_pattern(part), place.parts)))
    paths = sorted(Path(name) for name in glob.glob(str(location), recursive=True))
    paths = [path for path in paths if path.is_file() and path.name.lower().endswith(_suffixes())]
    if not paths:
        raise SceneError(f"{location}: no photo; looked for {', '.join(_suffixes())}")
    return root, paths


def bucket_photos(location: str) -> tuple[str, dict[str, str]]:
    """The photos in a bucket: the folder that their names count from, and path below it -> fingerprint, sorted.

    As of a folder: by suffix, without hidden ones; or one photo. Raises SceneError where there is none.
    """
    folder = place(location)
    listed = {name: stamp for name, (_, stamp) in folder.tree().items()}
    if not listed and (stamp := folder.stamp()):
        location, listed = str(folder).removesuffix(f"/{folder.name}"), {folder.name: stamp}
    photos = {
        name: stamp
        for name, stamp in listed.items()
        if name.lower().endswith(_suffixes()) and not any(part[0] == "." for part in PurePath(name).parts)
    }
    if not photos:
        raise SceneError(f"{location}: no photo; looked for {', '.join(_suffixes())}")
    return location.rstrip("/"), photos


def names_photos(location: str | Path) -> bool:
    """Whether a location is photos by its look: a photo file, a pattern that is no file, or a folder that holds a photo."""
    place = Path(location)
    if place.is_dir():
        try:
            return bool(list_photos(place))
        except SceneError:
            return False
    return place.name.lower().endswith((*_suffixes(), *HEIC_SUFFIXES)) or (_is_pattern(location) and not place.exists())


def _is_pattern(text: str | Path) -> bool:
    return any(sign in str(text) for sign in "*?[")


@functools.cache
def _suffixes() -> tuple[str, ...]:
    return (*SUFFIXES, *HEIC_SUFFIXES) if _with_heic() else SUFFIXES


@functools.cache
def _with_heic() -> bool:
    """Whether HEIC files can be read; makes the decoder known to Pillow."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def list_photos(folder: str | Path) -> list[Path]:
    """Photo files below a folder, by suffix, sorted by their path; hidden files and folders are left out.

    Photos of kinds that are not read (HEIC, raw files) are counted in a warning.

    Raises SceneError where there is no such folder, or no photo in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SceneError(f"{folder}: no such folder of photos")
    photos, others = [], Counter()
    for where, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        photos += [Path(where) / name for name in visible if name.lower().endswith(_suffixes())]
        left = [name for name in visible if not name.lower().endswith(_suffixes())]
        others.update(PurePath(name).suffix.lower() for name in left if name.lower().endswith(NOT_READ))
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not photos:
        hint = f"; {left_out} files are not read, convert them to JPEG or PNG" if others else ""
        raise SceneError(f"{folder}: no photo; looked for {', '.join(_suffixes())}{hint}")
    if others:
        logging.warning("%s: %s files are not read; convert them to JPEG or PNG", folder, left_out)
    return sorted(photos, key=lambda path: path.relative_to(root).as_posix())


def scene_names(relative: Sequence[str | Path]) -> list[str]:
    """A scene name per photo, from its path below the folder: unique, and safe as a file name.

    Letters of any script stay (composed, NFC); everything else but `.` and `-` becomes `_`. Names that would be equal, also
    where a file system ignores case, get their position appended.
    """
    names: list[str] = []
    taken: set[str] = set()
    for position, path in enumerate(relative):
        pure = PurePath(path)
        stem = unicodedata.normalize("NFC", (pure.with_suffix("") if pure.name else pure).as_posix())
        base = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:120] or f"photo_{position}"
        name = base if base.casefold() not in taken else f"{base}_{position}"
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        names.append(name)
    return names


@contextlib.contextmanager
def opened_picture(
    source: Encoded, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS, where: str = ""
) -> Iterator[Any]:
    """A `PIL.Image.Image`, its size checked from the header, open for the length of the block.

    Whatever the block raises while it decodes comes out as a SceneError that names the picture.

    Args:
      formats: the decoders that are tried, by Pillow's names.
      where: what messages call the picture; default the file.
    """
    from PIL import Image, UnidentifiedImageError

    where = where or _named(source)
    Image.init()  # otherwise Pillow knows only the commonest formats, and stumbles over the names of the others
    _with_heic()
    try:
        with (
            _stream(source) as stream,
            Image.open(stream, formats=[name for name in formats if name in Image.OPEN]) as photo,
        ):
            width, height = photo.size
            if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE) or width * height > max_pixels:
                raise SceneError(f"{where}: {width} x {height} pixels, expected at most {max_pixels} pixels")
            yield photo
    except SceneError:
        raise
    except FileNotFoundError:
        raise SceneError(f"{where}: no such file") from None
    except UnidentifiedImageError:
        raise SceneError(f"{where}: cannot be read as an image: not one of {', '.join(formats)}, or damaged") from None
    except Exception as error:  # image decoders fail in many ways
        raise SceneError(f"{where}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _stream(source: Encoded) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(place(source).fetched() if isinstance(source, str) and is_remote(source) else source)


def _named(source: Encoded) -> str:
    return "picture" if isinstance(source, bytes) else str(source)


def _pixels(photo: Any, where: str, upright: bool) -> UInt8[np.ndarray, "H W 3"]:
    from PIL import Image, ImageOps

    photo.seek(0)
    photo.load()
    turned = ImageOps.exif_transpose(photo) if upright else photo
    if photo.mode in _WIDE_MODES:
        grey = (np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if photo.mode in ("I", "F"):
        raise SceneError(f"{where}: expected a photo, got an image of {photo.mode} values (32 bits a pixel)")
    if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    return np.array(turned.convert("RGB"))
