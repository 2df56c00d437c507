"""Regular expressions that cannot be made to hang: RE2, whose matching time is linear in the text."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from manyeyes.errors import InvalidRecipe, MissingDependency

MAX_LENGTH: Final = 500
_MAX_MEMORY: Final = 1 << 20


@lru_cache(maxsize=4_096)
def compile_pattern(pattern: str, *, ignore_case: bool = False, max_length: int = MAX_LENGTH) -> Any:
    """Return a compiled pattern with a ``search`` method. max_length: of the pattern, in characters.

    Raises InvalidRecipe if the pattern is too long, or is not one that RE2 can match in linear time; MissingDependency
    without google-re2.
    """
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependency(
            "patterns need google-re2, which is not installed; run: pip install 'manyeyes[serve]'"
        ) from None
    if len(pattern) > max_length:
        raise InvalidRecipe(f"a pattern has at most {max_length} characters, got {len(pattern)}; use several")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        told = error.args[0] if error.args else error
        reason = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
        raise InvalidRecipe(
            f"pattern {pattern[:80]!r} cannot be used: {reason}; the syntax is RE2's, which has no look-around and no"
            " back-references, and whose \\w, \\d and \\b mean ASCII (\\pL is any letter)"
        ) from None
