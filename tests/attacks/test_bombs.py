"""Small things that become large: images, archives, documents. None is unpacked, and what is beside it is labeled."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable

import pytest
import zstandard
from PIL import Image

from tests.attacks.conftest import Victim, picture

IMAGE_ERRORS = {"image_too_large", "undecodable_image", "unsupported_format"}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, bits: int = 8, colour: int = 2, data: bytes = b"", more: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + more
        + png_chunk(b"IDAT", zlib.compress(data, 1 if len(data) > 2**28 else 9)) + png_chunk(b"IEND", b"")
    )  # fmt: skip


def png_of_100_megapixels() -> bytes:
    """12 kB that are a sound image of 10,000 × 10,000 pixels: 400 MB as Pillow keeps it."""
    return png(10_000, 10_000, bits=1, colour=0, data=bytes(1251 * 10_000))


def png_that_claims_everything() -> bytes:
    return png(2**31 - 1, 2**31 - 1, data=bytes(1000))


def png_with_more_data_than_it_says() -> bytes:
    """A small image whose data goes on for 300 MB."""
    return png(8, 8, data=bytes(300 * 2**20))


def png_with_a_text_of_300_megabytes() -> bytes:
    text = b"a\x00\x00" + zlib.compress(bytes(300 * 2**20), 1)
    return png(8, 8, data=bytes(25 * 8), more=png_chunk(b"zTXt", text))


def png_with_a_profile_of_300_megabytes() -> bytes:
    profile = b"a\x00\x00" + zlib.compress(bytes(300 * 2**20), 1)
    return png(8, 8, data=bytes(25 * 8), more=png_chunk(b"iCCP", profile))


def png_with_a_hundred_thousand_chunks() -> bytes:
    return png(8, 8, data=bytes(25 * 8), more=png_chunk(b"tEXt", b"a\x00b") * 100_000)


def gif_of_frames() -> bytes:
    """Two thousand frames of 3,400 × 3,400 pixels: 12 MB each as one byte a pixel."""
    frame = io.BytesIO()
    Image.new("P", (3400, 3400)).save(frame, "GIF")
    data = frame.getvalue()
    start = data.index(b"\x2c\x00\x00\x00\x00")  # the first image descriptor
    return data[:start] + data[start:-1] * 2_000 + b";"


def gif_that_claims_everything() -> bytes:
    return b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\x00\x00" + bytes(6) + b"\x2c" + bytes(4) + \
        struct.pack("<HH", 65535, 65535) + b"\x00\x02\x02\x4c\x01\x00;"  # fmt: skip


def tiff(tags: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return (
        b"II*\x00"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", 0)
        + tail
    )


def tiff_that_claims_everything() -> bytes:
    return tiff([(256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
                 (273, 4, 1, 8), (278, 4, 1, 2**31 - 1), (279, 4, 1, 10)])  # fmt: skip


def tiff_of_100_megapixels() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, "TIFF", compression="group4")
    return stream.getvalue()


def tiff_of_deflate() -> bytes:
    """A small image with one strip that inflates to 300 MB."""
    data = zlib.compress(bytes(300 * 2**20), 1)
    n_tags = 8
    at = 8 + 2 + 12 * n_tags + 4
    return tiff([(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, at),
                 (278, 3, 1, 8), (279, 4, 1, len(data))], data)  # fmt: skip


def tiff_whose_directory_is_its_own_successor() -> bytes:
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (278, 3, 1, 8), (279, 4, 1, 64)]  # fmt: skip
    data = tiff(tags)
    return data[:-4] + struct.pack("<I", 8) + bytes(64)


def tiff_with_a_tag_of_gigabytes() -> bytes:
    return tiff([(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (270, 2, 2**32 - 1, 8),
                 (273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)])  # fmt: skip


def webp_of_100_megapixels() -> bytes:
    """A hundred bytes that say 16,383 × 16,383 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "WEBP", lossless=True)
    data = bytearray(stream.getvalue())
    at = data.index(b"VP8L") + 9
    bits = (16382) | (16382 << 14)
    data[at : at + 4] = struct.pack("<I", bits | (struct.unpack("<I", data[at : at + 4])[0] & 0xF0000000))
    return bytes(data)


def webp_of_frames() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (2000, 2000), (n, n, n)) for n in range(12)]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def jpeg_of_4_gigapixels() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65535, 65535)
    return bytes(data)


def jpeg_of_scans() -> bytes:
    """A progressive image of 16 megapixels with thousands of scans, each of which is decoded all over again."""
    stream = io.BytesIO()
    Image.new("L", (4000, 3900), 77).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 2_000 + b"\xff\xd9"


def bmp_that_claims_everything() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def bmp_of_runs() -> bytes:
    """8-bit run lengths: two bytes are 255 pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, 10_000, 10_000, 1, 8, 1, 0, 0, 0, 256, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 0, 0, 0, 54 + 1024)
        + header
        + bytes(1024)
        + b"\xff\x00" * 400_000
        + b"\x00\x01"
    )


BOMBS: list[Callable[[], bytes]] = [
    png_of_100_megapixels, png_that_claims_everything, png_with_more_data_than_it_says,
    png_with_a_text_of_300_megabytes, png_with_a_profile_of_300_megabytes, png_with_a_hundred_thousand_chunks,
    gif_of_frames, gif_that_claims_everything, tiff_that_claims_everything, tiff_of_100_megapixels, tiff_of_deflate,
    tiff_whose_directory_is_its_own_successor, tiff_with_a_tag_of_gigabytes, webp_of_100_megapixels, webp_of_frames,
    jpeg_of_4_gigapixels, jpeg_of_scans, bmp_that_claims_everything, bmp_of_runs,
]  # fmt: skip
HARMLESS = {
    # What matters of these is small, and the rest is not unpacked.
    "png_with_more_data_than_it_says", "png_with_a_text_of_300_megabytes", "png_with_a_profile_of_300_megabytes",
    "png_with_a_hundred_thousand_chunks", "gif_of_frames", "tiff_of_deflate", "webp_of_frames",
    "tiff_whose_directory_is_its_own_successor", "tiff_with_a_tag_of_gigabytes",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_images(victim: Victim, bomb: Callable[[], bytes]) -> None:
    data = base64.b64encode(bomb()).decode()
    with victim.costs_little():
        first, code, last = victim.codes({"image": picture()}, {"image": data}, {"image": picture("blue")})
    assert (first, last) == (None, None)
    assert code in IMAGE_ERRORS or (code is None and bomb.__name__ in HARMLESS), code


def test_many_images_at_once(victim: Victim) -> None:
    bombs = [base64.b64encode(bomb()).decode() for bomb in (png_of_100_megapixels, webp_of_100_megapixels)]
    with victim.costs_little():
        codes = victim.codes(*[{"image": bombs[n % 2], "metadata": {"n": n}} for n in range(500)])
    assert set(codes) <= IMAGE_ERRORS


def compressed_call(encoding: str, size: int) -> bytes:
    """A call that is sound JSON, with a text of so many spaces."""
    call = b'{"recipe": "says", "items": [{"text": "' + b" " * size + b'"}]}'
    return gzip.compress(call, 9) if encoding == "gzip" else zstandard.ZstdCompressor(level=19).compress(call)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bodies(victim: Victim, encoding: str) -> None:
    bomb = compressed_call(encoding, 200 * 2**20)
    assert len(bomb) < 2**20
    with victim.costs_little():
        refused = victim.post(
            content=bomb, headers={"Content-Encoding": encoding, "Content-Type": "application/json"}
        )
        assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")


def test_a_zstd_body_of_runs(victim: Victim) -> None:
    # Each block of four bytes is 128 KiB of the same byte: 32,768 to one.
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + struct.pack("<I", (2**17 << 3) | 2)[:3] + b" "
    blocks = struct.pack("<I", (2**17 << 3) | 2)[:3] + b" "
    bomb = frame + blocks * 20_000
    with victim.costs_little():
        refused = victim.post(
            content=bomb, headers={"Content-Encoding": "zstd", "Content-Type": "application/json"}
        )
        assert refused.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 5_000_000,
        b'{"items":' * 1_000_000,
        b'{"recipe": "says", "items": [' + b'{"a":' * 500_000,
        b'{"recipe": ' + b"[" * 500_000 + b"]" * 500_000 + b', "items": [{"text": "a"}]}',
        b'{"recipe": "says", "items": [{"text": "a", "metadata": {"n": ' + b"9" * 2_000_000 + b"}}]}",
        b'{"recipe": "says", "items": [{"text": "a", "metadata": {"n": 1e' + b"9" * 2_000_000 + b"}}]}",
        b'{"recipe": "says", "items": [{"text": "' + b"\\ud800" * 2_000_000 + b'"}]}',
        b'{"recipe": "says", "items": [{' + b",".join(b'"k%d": 1' % n for n in range(200_000)) + b"}]}",
        b'{"recipe": "says", "items": [' + b",".join(b"0" for n in range(2_000_000)) + b"]}",
    ],
    ids=["lists", "objects", "items", "recipe", "integer", "exponent", "surrogates", "keys", "rows"],
)
def test_json(victim: Victim, body: bytes) -> None:
    with victim.costs_little():
        answer = victim.post(content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 413, 422), answer.text[:200]
        if answer.status_code == 200:
            assert answer.json()["labels"][0].get("label") is None


def yaml_laughs() -> str:
    """Ten lines, each of which names the one before ten times: 10^9 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, "name: a", "classes: *a9"])


@pytest.mark.parametrize(
    "recipe",
    [
        yaml_laughs(),
        "[" * 30_000,
        "{a: " * 10_000,
        "? " * 30_000,
        "- " * 30_000,
        "a: &a [*a]",
        "!!map " * 5000 + "{}",
        json.dumps({"name": "a", "classes": ["x"] * 15_000}),
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: keyword, on: text, any: [" + "a, " * 15_000 + "], vote: a}]",
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: metadata, when: '" + "(" * 5000 + "', vote: a}]",
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: metadata, when: '" + "not " * 5000 + "x', vote: a}]",
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: metadata, when: '9**9**9**9 > 1', vote: a}]",
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: keyword, on: text, pattern: '((a*)*)*$', vote: a}]",
        "name: a\nclasses: [a, b]\nlfs: [{name: a, kind: keyword, on: text, patterns: ['(a{1000}){1000}'], vote: a}]",
    ],
    ids=["laughs", "lists", "maps", "keys", "items", "itself", "tags", "classes", "words", "brackets", "nots", "powers",
         "stars", "counts"],
)  # fmt: skip
def test_recipes(victim: Victim, recipe: str) -> None:
    text = "a" * 50_000 + "b"
    with victim.costs_little():
        answer = victim.post(json={"recipe": recipe, "items": [{"text": text}]})
        assert answer.status_code in (200, 403, 404, 413, 422), answer.text[:300]
