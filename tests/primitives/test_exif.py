"""EXIF is read where it makes sense, and never stops an image from being decoded."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from manyeyes.primitives.exif import orientation, read_exif
from manyeyes.primitives.images import decode_image

# As in a running program: pytest drops the filter that the module sets when it is imported.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")


def jpeg_with(exif: Image.Exif | bytes) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def camera() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker\0junk", " Model X ", 1
    exif[0x0132] = "2021:02:03 04:05:06"
    details = exif.get_ifd(0x8769)
    details[0x9003] = "2020:01:02 03:04:05"
    details[0x920A], details[0x829A], details[0x8827] = IFDRational(50, 1), IFDRational(1, 250), 400
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "S", (IFDRational(33), IFDRational(30), IFDRational(36))
    gps[3], gps[4] = "E", (IFDRational(151), IFDRational(0), IFDRational(0))
    return exif


def test_what_a_camera_writes() -> None:
    exif = decode_image(jpeg_with(camera())).exif
    assert exif == {
        "camera_make": "Maker",
        "camera_model": "Model X",
        "taken_at": "2020-01-02T03:04:05",
        "orientation": 1,
        "latitude": pytest.approx(-33.51),
        "longitude": 151.0,
        "focal_length": 50.0,
        "exposure": pytest.approx(0.004),
        "iso": 400,
    }


def test_no_exif_is_nothing() -> None:
    plain = Image.new("RGB", (2, 2))
    assert read_exif(plain) == {}
    assert orientation(plain) == 1


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    decoded = decode_image(jpeg_with(exif))
    assert decoded.pixels.size == (8, 4)
    assert "orientation" not in decoded.exif


def test_numbers_that_are_none_are_left_out() -> None:
    exif = camera()
    exif.get_ifd(0x8769)[0x829A] = IFDRational(1, 0)
    exif.get_ifd(0x8825)[2] = (IFDRational(95), IFDRational(0), IFDRational(0))
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    del exif[0x0132]
    found = decode_image(jpeg_with(exif)).exif
    assert {"exposure", "latitude", "taken_at"}.isdisjoint(found)
    assert found["iso"] == 400


def test_a_long_text_is_cut() -> None:
    exif = Image.Exif()
    exif[0x010F] = "m" * 5000
    assert decode_image(jpeg_with(exif)).exif["camera_make"] == "m" * 64


def test_huge_exif_is_tolerated() -> None:
    exif = Image.Exif()
    exif[0x927C] = b"\x5a" * 65_000
    assert decode_image(jpeg_with(exif)).pixels.size == (8, 4)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_hostile_exif_never_stops_the_pixels(garbage: bytes, header: bytes) -> None:
    segment = b"Exif\0\0" + header + garbage
    whole = jpeg_with(b"")
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    assert decode_image(data).pixels.size in ((8, 4), (4, 8))


def test_a_loop_of_directories_ends() -> None:
    # One entry that says: the details are in the directory that this entry is in.
    directory = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    segment = b"Exif\0\0" + b"II*\0\x08\0\0\0" + directory
    whole = jpeg_with(b"")
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    assert decode_image(data).exif == {}
