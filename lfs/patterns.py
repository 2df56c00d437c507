"""Regular expressions that cannot be made to hang; see :mod:`manyeyes.primitives.patterns`."""

from __future__ import annotations

from manyeyes.primitives.patterns import MAX_LENGTH, compile_pattern

__all__ = ["MAX_LENGTH", "compile_pattern"]
