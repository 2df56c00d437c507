"""What the operator decides about where images are decoded."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ByteSize, Field


class DecodeSettings(BaseModel):
    """Where images of callers are decoded, and what one may cost.

    decode: in processes of their own, which a hostile file may kill without harm; or in threads of the service.
    decode_processes: how many; 0 for one a core, at most eight.
    decode_memory: the address space of each, which is what an image, its copies and the decoder may use together.
    decode_timeout_s: seconds of computing that an image may take; on the clock twice as many.
    """

    decode: Literal["process", "thread"] = "process"
    decode_processes: int = Field(default=0, ge=0, le=64)
    decode_memory: ByteSize = Field(default=ByteSize(2**30), ge=256 * 2**20)
    decode_timeout_s: float = Field(default=5.0, gt=0, le=600)
