"""The key that a request brings, whichever way."""

from __future__ import annotations

import base64
import binascii

from starlette.datastructures import Headers


def key_of(headers: Headers) -> str | None:
    """Return the key of ``Authorization: Bearer …``, of ``Basic …`` (its password), or of ``X-Api-Key``; or None.

    Basic is what tools send that know nothing but a user and a password, such as Label Studio; the user is ignored.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if token and scheme.lower() == "bearer":
        return token
    if token and scheme.lower() == "basic":
        try:
            said = base64.b64decode(token, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        return said.partition(":")[2] or None
    return headers.get("x-api-key") or None
