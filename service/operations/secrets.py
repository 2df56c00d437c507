"""Takes secrets out of what is about to be written: a last net, for messages of libraries and for tracebacks.

Our own code logs none. A library's exception may quote a URL with a password, or the headers of a request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

HIDDEN: Final = "[hidden]"
_LEAST_CHARS: Final = 6
_SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:KEYS?|TOKENS?|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?|DATABASE_URL|STORE_URL|PGPASSWORD|HEADERS)$",
    re.IGNORECASE,
)
# scheme://user:password@host, also with nothing before the colon.
_IN_URL: Final = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.\-]{1,30}://)[^\s/@'\"]*:[^\s@'\"]+@")
_BEARER: Final = re.compile(
    r"\b(?P<scheme>Bearer|Basic|Token|Digest)\s+(?!\[hidden\])[A-Za-z0-9._~+/=\-]{4,}", re.IGNORECASE
)
_HEADER: Final = re.compile(
    r"(?P<name>(?:proxy-)?authorization|x-api-key|api[-_]?key|(?:set-)?cookie|password|passwd|secret(?:_access)?(?:_key)?"
    r"|access[-_]?token|x-amz-(?:signature|credential|security-token)|sig(?:nature)?)"
    r"(?P<sign>['\"]?\s*[=:]\s*(?:b?['\"])?|['\"]\s*,\s*b?['\"])"
    r"(?!\[hidden\])(?:(?:Bearer|Basic|Token|Digest)\s+)?[^\s'\",;&)}\]]{3,}",
    re.IGNORECASE,
)
_OURS: Final = re.compile(r"\bme_[A-Za-z0-9]+_[A-Za-z0-9_\-]{8,}")


class Redactor:
    """Replaces known secrets, and whatever looks like one, by ``[hidden]``.

    known: exact values, such as those of the environment.

    >>> Redactor().clean("cannot connect to postgresql://ann:s3cret@db/labels")
    'cannot connect to postgresql://[hidden]@db/labels'
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({value for value in known if len(value) >= _LEAST_CHARS}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Redactor:
        """Return a redactor that knows what the environment holds under names of secrets, lists one by one.

        Also what stands in the files that variables such as ``MANYEYES_STORE_URL_FILE`` name.
        """
        known: set[str] = set()
        for name, value in (os.environ if environ is None else environ).items():
            if name.endswith("_FILE") and _SECRET_NAME.search(name.removesuffix("_FILE")):
                with suppress(OSError, UnicodeDecodeError):
                    known |= _parts(Path(value).read_text("utf-8"))
            elif _SECRET_NAME.search(name):
                known |= _parts(value)
        return cls(known)

    def clean(self, value: Any, *, also: Iterable[str] = ()) -> Any:
        """Return a value without secrets; of mappings and sequences, every string in them.

        also: more exact values, such as what the request in hand brought in its headers.
        """
        if isinstance(value, str):
            return self._text(value, also)
        if isinstance(value, Mapping):
            return {str(name): self._member(name, one, also) for name, one in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.clean(one, also=also) for one in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return self._text(str(value), also)

    def _member(self, name: Any, value: Any, also: Iterable[str]) -> Any:
        return (
            HIDDEN
            if isinstance(value, str) and _SECRET_NAME.search(str(name))
            else self.clean(value, also=also)
        )

    def _text(self, text: str, also: Iterable[str]) -> str:
        for secret in also:
            if len(secret) >= _LEAST_CHARS:
                text = text.replace(secret, HIDDEN)
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        # Most of what is written is short words, in which none of this can be: looking for a letter is quicker.
        if "://" in text:
            text = _IN_URL.sub(rf"\g<scheme>{HIDDEN}@", text)
        if "=" in text or ":" in text or "," in text:
            text = _HEADER.sub(rf"\g<name>\g<sign>{HIDDEN}", text)
        if len(text.split(None, 1)) > 1:
            text = _BEARER.sub(rf"\g<scheme> {HIDDEN}", text)
        return _OURS.sub(HIDDEN, text) if "me_" in text else text


def _parts(value: str) -> set[str]:
    """Return what of a variable's value is secret: all of it, each of a list, what is on either side of "="."""
    found = set()
    for part in re.split(r"[,\n]", value):
        told = part.strip()
        if not told.startswith("sha256:"):
            found |= {told, told.partition("=")[2], told.rpartition("=")[0], *_passwords(told)}
    return found


def _passwords(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    return {parts.password, unquote(parts.password)} if parts.password else set()
