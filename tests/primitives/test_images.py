"""Every kind of image file becomes upright 8-bit RGB; every kind of broken one becomes an error of its own."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from manyeyes.errors import (
    EmptyItem,
    ImageTooLarge,
    InvalidItem,
    ItemError,
    UndecodableImage,
    UnreadableItem,
    UnsupportedFormat,
)
from manyeyes.primitives.images import FORMATS, decode_image, digest_pil
from manyeyes.settings import Limits

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}, "GIF": {}}

# As in a running program: pytest drops the filter that the module sets when it is imported.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 90, height: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data).pixels)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_keep_their_name_and_size(kind: str) -> None:
    decoded = decode_image(save(Image.fromarray(noise()), kind))
    assert (decoded.format, decoded.width, decoded.height) == (kind, 90, 60)
    assert (decoded.pixels.mode, decoded.pixels.size) == ("RGB", (90, 60))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_lossless_formats_give_back_the_pixels(
    kind: tuple[str, dict], width: int, height: int, seed: int
) -> None:
    values = noise(width, height, seed=seed)
    assert np.array_equal(pixels_of(save(Image.fromarray(values), kind[0], **kind[1])), values)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("1", "TIFF"), ("1", "BMP"), ("L", "PNG"), ("L", "JPEG"), ("L", "GIF"), ("P", "PNG"), ("P", "GIF"),
     ("P", "BMP"), ("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("CMYK", "JPEG"),
     ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("YCbCr", "TIFF"), ("I;16", "PNG"), ("I;16", "TIFF"), ("F", "TIFF"),
     ("I", "TIFF")],
)  # fmt: skip
def test_modes_look_like_the_original(mode: str, kind: str) -> None:
    """Big plain areas survive every conversion: left half dark, right half light."""
    values = np.full((64, 64), 30, dtype=np.uint8)
    values[:, 32:] = 220
    grey = Image.fromarray(values)
    if mode in ("I;16", "I"):
        image = Image.fromarray(values.astype(np.uint16) * 257)
        image = image if mode == "I;16" else Image.fromarray(values.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray((values / 255).astype(np.float32))
    elif mode == "1":
        image = grey.point(lambda v: 255 * (v > 100)).convert("1")
    elif mode == "P":
        image = grey.convert("RGB").quantize(8)
    else:
        image = grey.convert("RGB").convert(mode)
    decoded = np.asarray(decode_image(save(image, kind)).pixels).astype(int)
    dark, light = (0, 255) if mode == "1" else (30, 220)
    assert abs(decoded[8:-8, 4:24] - dark).max() <= 4
    assert abs(decoded[8:-8, 40:-4] - light).max() <= 4


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    grey = pixels_of(save(Image.fromarray(values), "PNG"))[..., 0]
    assert np.array_equal(grey.ravel(), np.arange(256))


def test_floats_that_are_no_numbers_are_black() -> None:
    values = np.array([[0.0, 0.5, 1.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    grey = np.asarray(decode_image(Image.fromarray(values)).pixels)[0, :, 0].tolist()
    # With an infinity about, values are taken for 8 bits deep.
    assert grey == [0, 0, 1, 0, 255, 0]
    assert np.asarray(decode_image(Image.fromarray(values[:, :4])).pixels)[0, :, 0].tolist() == [
        0,
        128,
        255,
        0,
    ]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_flattened_on_white(kind: str) -> None:
    values = np.zeros((20, 20, 4), dtype=np.uint8)
    values[:, 10:] = (200, 0, 0, 255)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    flat = pixels_of(save(Image.fromarray(values), kind, **options))
    assert (flat[:, :10] == 255).all()
    assert (flat[:, 10:] == (200, 0, 0)).all()


def test_half_transparent_is_half_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(pixels_of(save(half, "PNG"))[0, 0, 0]) - 127) <= 1


def test_transparent_palette_entries_are_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (4, 0, 8, 8))
    flat = pixels_of(save(image, "PNG", transparency=0))
    assert (flat[:, :4] == 255).all()
    assert (flat[:, 4:] == (200, 100, 50)).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels_of(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_orientation_is_applied_once(kind: str, turned: int) -> None:
    values = np.zeros((40, 60, 3), dtype=np.uint8)
    values[:20, :30] = (250, 0, 0)
    values[:20, 30:] = (0, 250, 0)
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = turned
    options: dict[str, object] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = save(image, kind, exif=exif, **options)
    tagged = image.copy()
    tagged.getexif()[0x0112] = turned
    wanted = ImageOps.exif_transpose(tagged)
    decoded = decode_image(data)
    assert decoded.pixels.size == wanted.size == (decoded.width, decoded.height)
    assert abs(np.asarray(decoded.pixels).astype(int) - np.asarray(wanted)).mean() < 3
    # Pillow's own TIFF reader turns the pixels and drops the tag; everywhere the tag is reported as stored.
    assert decoded.exif["orientation"] == turned


def test_a_pil_image_with_an_orientation_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(save(Image.fromarray(noise()), "JPEG", exif=exif))
    with Image.open(tmp_path / "a.jpg") as lazy:
        assert decode_image(lazy).pixels.size == (60, 90)
    with Image.open(tmp_path / "a.jpg") as lazy:
        turned = ImageOps.exif_transpose(lazy)
        assert decode_image(turned).pixels.size == (60, 90)


def test_bytes_path_and_pil_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(save(Image.fromarray(noise()), "PNG"))
    ways = [path.read_bytes(), path, str(path), Image.open(path)]
    assert len({decode_image(way).pixels.tobytes() for way in ways}) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(
        [*((k, o) for k, o in LOSSLESS.items()), ("JPEG", {}), ("JPEG", {"progressive": True})]
    ),
    cut=st.floats(0.0, 1.0, exclude_max=True),
    tail=st.integers(1, 24) | st.none(),
)
def test_a_cut_file_is_an_error_or_loses_nothing(
    kind: tuple[str, dict], cut: float, tail: int | None
) -> None:
    data = save(Image.fromarray(noise(64, 48)), kind[0], **kind[1])
    short = data[:-tail] if tail is not None else data[: int(cut * len(data))]
    try:
        decoded = decode_image(short)
    except ItemError:
        return
    assert decoded.pixels.tobytes() == decode_image(data).pixels.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_missing_end_is_noticed(kind: str) -> None:
    data = save(Image.fromarray(noise()), kind)
    with pytest.raises(UndecodableImage):
        decode_image(data[:-2])


def test_a_thumbnails_end_does_not_count() -> None:
    thumbnail = save(Image.new("RGB", (8, 8)), "JPEG")
    whole = save(Image.fromarray(noise()), "JPEG")
    inside = b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = whole[:2] + inside + whole[2:]
    assert np.array_equal(pixels_of(data), pixels_of(whole))
    with pytest.raises(UndecodableImage):
        decode_image(data[:-2])


def test_bytes_after_the_end_do_no_harm() -> None:
    for kind in ("JPEG", "PNG"):
        data = save(Image.fromarray(noise()), kind)
        assert np.array_equal(pixels_of(data + b"\0" * 1000), pixels_of(data))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM",
                                                 b"II*\0", b"MM\0*", b"RIFF\x10\0\0\0WEBPVP8 "]))  # fmt: skip
def test_garbage_is_always_an_item_error(garbage: bytes, magic: bytes) -> None:
    with pytest.raises(ItemError):
        decode_image(magic + garbage)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted({*LOSSLESS, "JPEG"})))
def test_damage_is_an_item_error_or_a_picture(data: st.DataObject, kind: str) -> None:
    damaged = bytearray(save(Image.fromarray(noise(32, 32)), kind))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_image(bytes(damaged), Limits(max_pixels=100_000))
    except ItemError:
        return
    assert decoded.pixels.mode == "RGB"


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 9_500), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode_image(png_header(*size))


def test_limits_are_the_callers() -> None:
    image = Image.fromarray(noise(100, 100))
    for source in (save(image, "PNG"), image):
        with pytest.raises(ImageTooLarge, match="100 × 100"):
            decode_image(source, Limits(max_pixels=9_999))
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode_image(save(image, "PNG"), Limits(max_bytes=100))


def test_a_compressed_comment_bomb_is_refused() -> None:
    text = b"comment\0\0" + zlib.compress(b"a" * 80_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = save(Image.new("RGB", (4, 4)), "PNG")
    with pytest.raises(ItemError):
        decode_image(whole[:33] + chunk + whole[33:])


def test_what_is_no_image() -> None:
    for data in (
        b"hello, I am a text",
        b"%PDF-1.7 ...",
        b"<svg xmlns='...'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"P6 1 1 255\n\0\0\0",
    ):
        with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WEBP"):
            decode_image(data)
    with pytest.raises(EmptyItem):
        decode_image(b"")
    for other in (7, 1.5, None, ["a.png"], {"a": 1}, object(), bytearray(b"x")):
        with pytest.raises(InvalidItem, match="PIL image"):
            decode_image(other)  # type: ignore[arg-type]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    loop, other = tmp_path / "loop", tmp_path / "other"
    loop.symlink_to(other)
    other.symlink_to(loop)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    plain = tmp_path / "plain.png"
    plain.write_bytes(save(Image.new("RGB", (2, 2)), "PNG"))
    broken = [
        (tmp_path, "directory"), (tmp_path / "missing.png", "no such file"), (loop, "loop"), (pipe, "pipe"),
        ("/dev/zero", "device"), ("/dev/null", "device"), (tmp_path / "dangling.png", "no such file"),
        (plain / "below.png", "not a directory"), ("", "no such file"), ("a\0b.png", "null"), ("x" * 5000, "too long"),
    ]  # fmt: skip
    for path, reason in broken:
        with pytest.raises(UnreadableItem, match=reason):
            decode_image(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(UnreadableItem, match="socket"):
            decode_image(tmp_path / "s")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(EmptyItem, match="0 bytes"):
        decode_image(empty)


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    us = os.geteuid()
    if us == 0:  # root may read everything, nobody may not
        os.seteuid(65534)
    try:
        with pytest.raises(UnreadableItem, match="permission"):
            decode_image(path)
    finally:
        os.seteuid(us)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as stream:
        stream.truncate(10 * 2**30)  # sparse
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode_image(path)


def test_a_symbolic_link_to_a_file_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(save(Image.new("RGB", (2, 2), "red"), "PNG"))
    (tmp_path / "link").symlink_to(tmp_path / "a.png")
    assert decode_image(tmp_path / "link").pixels.getpixel((0, 0)) == (255, 0, 0)


def test_truncated_files_stay_refused() -> None:
    """Some libraries switch this on for the whole process; nothing here may."""
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_digests_of_pil_images() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert digest_pil(red) == digest_pil(red.copy()) != digest_pil(blue)
    assert digest_pil(Image.new("RGB", (2, 8), "red")) != digest_pil(red)
    assert digest_pil(red.convert("RGBA")) != digest_pil(red)
    first, second = Image.new("P", (4, 4)), Image.new("P", (4, 4))
    first.putpalette([1, 2, 3])
    second.putpalette([3, 2, 1])
    assert digest_pil(first) != digest_pil(second)
    turned = red.copy()
    turned.getexif()[0x0112] = 6
    assert digest_pil(turned) != digest_pil(red)
