"""Photos from strangers: what is read, what is refused, and that every refusal is one SceneError."""

from __future__ import annotations

import ast
import io
import os
import struct
import zlib

import numpy as np
import pytest
from helpers import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import masks, photos
from annyfit_jax.inputs.photos import focal_35mm, jpeg_bytes, list_photos, photo_size, read_photo, scene_names
from annyfit_jax.people.scene import SceneError

ORIENTATION, FOCAL_35MM = 0x0112, 0xA405


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """Red left, blue right, green top edge: every orientation looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 2] = 200, 200
    pixels[: height // 4, :, 1] = 250
    return pixels


def save(path, image: Image.Image | np.ndarray, **options):
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def close(a: np.ndarray, b: np.ndarray, atol: float = 12) -> bool:
    """Nearly everywhere: JPEG rings at edges."""
    return a.shape == b.shape and np.mean(np.abs(a.astype(int) - b.astype(int)).max(-1) <= atol) > 0.7


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_every_accepted_format(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", picture(), **({"lossless": True} if suffix == "webp" else {}))
    assert close(read_photo(path), picture())
    assert photo_size(path) == (40, 24)
    renamed = path.rename(tmp_path / "b.jpeg")  # the content decides, not the name
    assert close(read_photo(renamed), picture())


@pytest.mark.parametrize("suffix", ["ppm", "ico", "tga", "pcx", "eps"])
def test_other_formats_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", picture())
    with pytest.raises(SceneError, match="cannot be read as an image"):
        read_photo(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](picture())  # fmt: skip
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_photo(path), picture())
    assert photo_size(path) == (40, 24)


def test_grey_palette_and_one_bit_become_rgb(tmp_path):
    grey = np.tile(np.arange(40, dtype=np.uint8) * 6, (24, 1))
    for mode in ("L", "P", "1"):
        image = Image.fromarray(grey).convert(mode)
        read = read_photo(save(tmp_path / f"{mode}.png", image))
        assert (read.shape, read.dtype) == ((24, 40, 3), np.uint8)
        np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(read_photo(tmp_path / "L.png")[..., 0], grey)


def test_cmyk_becomes_rgb(tmp_path):
    read = read_photo(save(tmp_path / "a.jpg", Image.fromarray(picture()).convert("CMYK"), quality=95))
    assert close(read, picture(), 25)


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    deep = np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (24, 1))
    read = read_photo(save(tmp_path / "a.png", Image.fromarray(deep)))
    np.testing.assert_array_equal(read, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2))
    big = read_photo(save(tmp_path / "a.tif", Image.fromarray(deep)))
    np.testing.assert_array_equal(big, read)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colours_keep_their_high_byte(tmp_path, colour_type, channels):
    """Pillow writes no such PNG: made by hand, opaque where it has alpha."""
    deep = np.random.default_rng(0).integers(0, 65536, (6, 8, channels)).astype(">u2")
    if channels != 3:
        deep[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunk = lambda name, data: (  # noqa: E731
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    header = struct.pack(">IIBBBBB", 8, 6, 16, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    wanted = (deep[..., :3] if channels > 2 else np.repeat(deep[..., :1], 3, axis=2)) >> 8
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), wanted)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_range_are_refused(tmp_path, kind):
    path = save(tmp_path / "a.tif", Image.fromarray(np.ones((5, 5), kind)))
    with pytest.raises(SceneError, match="32 bits a pixel"):
        read_photo(path)


def test_alpha_is_over_white(tmp_path):
    pixels = np.dstack([picture(), np.zeros((24, 40), np.uint8)])
    pixels[10:, :, 3] = 255
    pixels[9, :, 3] = 128
    for suffix in ("png", "webp"):
        read = read_photo(save(tmp_path / f"a.{suffix}", pixels, **({"lossless": True} if suffix == "webp" else {})))
        np.testing.assert_array_equal(read[:9], 255)
        np.testing.assert_array_equal(read[10:], picture()[10:])
        assert 220 < read[9, 0, 0] < 235
    image = Image.fromarray(picture()).convert("P")
    read = read_photo(save(tmp_path / "p.png", image, transparency=image.getpixel((30, 20))))
    assert read[20, 30].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert close(read_photo(tmp_path / f"a.{suffix}"), np.asarray(frames[0]), 10)


def test_phone_photos_of_several_pictures_are_read(tmp_path):
    first, second = Image.fromarray(picture()), Image.new("RGB", (40, 24))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert close(read_photo(tmp_path / "a.jpg"), picture())


def test_damaged_files_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80, 3), np.uint8)
    for suffix in ("jpg", "png", "webp", "tif", "gif"):
        whole = save(tmp_path / f"a.{suffix}", noise).read_bytes()
        for part in (0, 1, 10, len(whole) // 2, len(whole) - 40):
            (tmp_path / f"cut.{suffix}").write_bytes(whole[:part])
            with pytest.raises(SceneError, match=r"cut\."):
                read_photo(tmp_path / f"cut.{suffix}")
    with pytest.raises(SceneError, match="no such file"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(SceneError):
        read_photo(tmp_path)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that announces a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9000, 9000), (60000, 60000), (70000, 10), (2**31 - 1, 2**31 - 1), (0, 5)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_from_the_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(bomb(*size))
    for read in (read_photo, photo_size):
        with pytest.raises(SceneError, match=r"a\.png"):
            read(tmp_path / "a.png")


def test_the_limit_is_inclusive(tmp_path):
    path = save(tmp_path / "a.png", picture())
    assert read_photo(path, max_pixels=24 * 40).shape == (24, 40, 3)
    with pytest.raises(SceneError, match="40 x 24 pixels, expected at most 959"):
        read_photo(path, max_pixels=24 * 40 - 1)


_WHOLE = {
    kind: (lambda stream: (Image.fromarray(picture()).save(stream, kind), stream.getvalue())[1])(io.BytesIO())
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(_WHOLE)), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=12))
def test_flipped_bytes_give_a_photo_or_one_error(tmp_path_factory, kind, flips):
    data = bytearray(_WHOLE[kind])
    for position, value in flips:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.bin"
    path.write_bytes(bytes(data))
    try:
        read = read_photo(path)
    except SceneError:
        with pytest.raises(SceneError, match=r"flipped\.bin"):
            read_photo(path)
    else:
        assert read.dtype == np.uint8
        assert read.ndim == 3
        assert read.shape[2] == 3


# ------------------------------------------------------------------------------------------------ names and folders


def test_photos_are_found_in_subfolders_by_suffix(tmp_path):
    for name in (
        "b.JPG",
        "a b.png",
        "sub/ä.webp",
        "sub/deeper/x.tif",
        ".hidden.jpg",
        ".cache/y.jpg",
        "notes.txt",
        "x.jpg.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in list_photos(tmp_path)]
    assert found == ["a b.png", "b.JPG", "sub/deeper/x.tif", "sub/ä.webp"]
    with pytest.raises(SceneError, match="no such folder of photos"):
        list_photos(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match=r"no photo; looked for \.jpg"):
        list_photos(tmp_path / "empty")


def test_photos_of_kinds_that_are_not_read_are_counted(tmp_path, caplog):
    for name in ("a.HEIC", "b.heic", "c.dng", "notes.txt", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SceneError, match=r"no photo; .*; 1 \.dng, 2 \.heic files are not read, convert them"):
        list_photos(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "d.jpg")
    assert [path.name for path in list_photos(tmp_path)] == ["d.jpg"]
    assert "1 .dng, 2 .heic files are not read" in caplog.text


def test_names_of_photos_with_spaces_and_other_scripts(tmp_path):
    assert scene_names(["my photo (1).jpg", "Foto_ñ.png", "写真.jpg", "a/b.jpg", "a_b.png", "A_B.gif", "...jpg"]) == [
        "my_photo_1", "Foto_ñ", "写真", "a_b", "a_b_4", "A_B_5", "photo_6",
    ]  # fmt: skip
    assert scene_names(["e\u0301.jpg"]) == ["é"]
    path = save(tmp_path / "Ein Foto – 写真 №1.jpg", picture())
    assert close(read_photo(path), picture())


@given(st.lists(st.text(min_size=1, max_size=20), max_size=12))
def test_scene_names_are_different_file_names(texts):
    names = scene_names([text.replace("/", "-").replace("\0", "-") for text in texts])
    assert len({name.casefold() for name in names}) == len(texts)
    for name in names:
        assert name
        assert not set(name) & set('/\\:*?"<>|\0 ')
        assert name not in (".", "..")


# ------------------------------------------------------------------------------------------------ EXIF, JPEG


def test_focal_length_from_the_camera(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[FOCAL_35MM] = 28
    path = save(tmp_path / "a.jpg", picture(), exif=exif)
    assert focal_35mm(path) == 28.0
    assert focal_35mm(save(tmp_path / "b.jpg", picture())) is None
    exif.get_ifd(0x8769)[FOCAL_35MM] = 0
    assert focal_35mm(save(tmp_path / "c.jpg", picture(), exif=exif)) is None
    assert focal_35mm(tmp_path / "none.jpg") is None


def test_packed_photos_are_upright_rgb_jpegs(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    plain = save(tmp_path / "a.jpg", picture())
    assert jpeg_bytes(plain) == plain.read_bytes()
    turned = save(tmp_path / "b.jpg", np.ascontiguousarray(np.rot90(picture())), exif=exif, quality=95)
    for path in (
        turned,
        save(tmp_path / "c.png", picture()),
        save(tmp_path / "d.jpg", Image.fromarray(picture()).convert("CMYK")),
    ):
        packed = jpeg_bytes(path)
        with Image.open(io.BytesIO(packed)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.getexif().get(ORIENTATION, 1) == 1
            assert close(np.asarray(image), picture(), 30)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(plain.read_bytes()[:-60])
    with pytest.raises(SceneError):
        jpeg_bytes(cut)
    assert photos.MAX_PIXELS > 24_000_000


# ------------------------------------------------------------------------------------------------ one door for pictures


def test_pictures_are_opened_in_one_place():
    """Every call of a picture decoder outside `inputs/photos.py` would need its own list of formats, limits and errors."""
    calls = {}
    for package in ("annyfit_jax", "body_models", "experts", "experiments"):
        for path in (REPO / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("open", "imread", "imdecode"):
                    owner = ast.unparse(node.value)
                    if owner in ("Image", "PIL.Image", "cv2", "imageio", "plt", "skimage.io"):
                        calls.setdefault(path.relative_to(REPO).as_posix(), []).append(node.lineno)
    assert set(calls) == {"annyfit_jax/inputs/photos.py"}, calls
    assert len(calls["annyfit_jax/inputs/photos.py"]) == 1


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program `gs` that notes that it was started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\necho ran >> {folder}/ran\necho 10.0\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "ran"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_other_program_is_started_for_a_picture(tmp_path, ghostscript):
    for name in ("a.jpg", "a.png", "a.eps"):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        for read in (read_photo, photo_size, jpeg_bytes):
            with pytest.raises(SceneError, match="cannot be read as an image"):
                read(tmp_path / name)
        assert focal_35mm(tmp_path / name) is None
    with pytest.raises(SceneError, match="packed photo: cannot be read as an image"):
        read_photo(POSTSCRIPT, where="packed photo")
    for read in (masks.read_label_image, masks.read_depth_map):
        with pytest.raises(SceneError, match="cannot be read"):
            read(str(tmp_path), "a", (10, 10))
    assert not ghostscript.exists()


def test_pipes_devices_and_folders_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "device"):
        for read in (read_photo, photo_size, jpeg_bytes):
            with pytest.raises(SceneError, match=r"cannot be read as an image|not a regular file"):
                read(tmp_path / f"{name}.png")
        with pytest.raises(SceneError, match="cannot be read"):
            masks.read_label_image(str(tmp_path), name, (10, 10))
        with pytest.raises(SceneError, match="cannot be read"):
            masks.read_depth_map(str(tmp_path), name, (10, 10))
    os.mkfifo(tmp_path / "array.npy")
    with pytest.raises(SceneError, match="cannot be read as a depth map"):
        masks.read_depth_map(str(tmp_path), "array", (10, 10))


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "nul\0byte.jpg", "\ud800.jpg"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(SceneError):
        read_photo(tmp_path / name)


def test_a_photo_as_it_is_stored(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "a.jpg", picture(), exif=exif)
    assert close(read_photo(path, upright=False), picture())
    assert read_photo(path.read_bytes()).shape == (40, 24, 3)
