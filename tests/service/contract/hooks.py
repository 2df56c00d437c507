"""What schemathesis cannot know of forms."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out forms whose `texts` or `files` are "of a wrong type": every part of a form is a text, or bytes."""
    body = case.body
    if case.media_type != "multipart/form-data" or not isinstance(body, dict):
        return True
    return all(isinstance(body.get(name, []), list) for name in ("files", "texts"))
