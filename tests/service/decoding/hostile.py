"""What decoding processes run in tests: the real thing, with a decoder that certain bytes take over."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Any

from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.images import decode_image
from manyeyes.service.decoding import process


def decode(data: bytes, limits: Any = None, *, least_side: int | None = None) -> DecodedImage:
    told = data[:16]
    if told.startswith(b"crash"):
        ctypes.string_at(0)
    elif told.startswith(b"loop"):
        while True:
            pass
    elif told.startswith(b"sleep"):
        import time

        time.sleep(3600)
    elif told.startswith(b"memory"):
        whole = []
        while True:
            whole.append(bytearray(64 * 2**20))
    elif told.startswith(b"exit"):
        os._exit(3)
    elif told.startswith(b"open"):
        tried = {
            "file": lambda: os.open("/etc/passwd", 0),
            "socket": socket.socket,
            "program": lambda: os.pipe(),
        }
        opened = []
        for name, attempt in tried.items():
            try:
                attempt()
                opened.append(name)
            except OSError:
                pass
        told_of = decode_image(b"\x89PNG") if not data else None
        assert told_of is None
        from manyeyes.errors import UnsupportedFormat

        raise UnsupportedFormat(f"opened {opened}, environment {sorted(os.environ)}, in {os.getcwd()}")
    elif told.startswith(b"lie"):
        lies = {
            b"lie size": process.REPLY.pack(process.DONE, 2**31, 2**31, 1, 1) + b"{}",
            b"lie zero": process.REPLY.pack(process.DONE, 0, 5, 0, 5) + b"{}",
            b"lie json": process.REPLY.pack(process.FAILED, 0, 0, 0, 0) + b"\x80\x04cos\nsystem\n",
            b"lie list": process.REPLY.pack(process.DONE, 1, 1, 1, 1) + b"[]",
            b"lie exif": process.REPLY.pack(process.DONE, 1, 1, 1, 1) + b'{"exif": {"a": [1]}}',
            b"lie kind": process.REPLY.pack(process.FAILED, 0, 0, 0, 0) + b'{"code": "access_denied"}',
            b"lie less": b"\x00",
            b"lie more": b"\x00" * 2**16,
        }
        os.write(3, lies[told[:8]])
    return decode_image(data, limits, least_side=least_side)


if __name__ == "__main__":
    process.main(int(sys.argv[1]), float(sys.argv[2]), decode)
