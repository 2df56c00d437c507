"""What a call holds beside its items, checked by a pydantic shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from manyeyes.errors import InvalidRequest
from manyeyes.service.errors import Refusal
from manyeyes.service.intake.calls import FormOptions

S = TypeVar("S", bound=BaseModel)


def read_options(shape: type[S], told: Mapping[str, Any], *, example: Any = None) -> S:
    """Return the options of a call. Raises InvalidRequest, with every field that is wrong and a sound call."""
    try:
        if isinstance(told, FormOptions):
            return shape.model_validate(told)
        # Of JSON, true is no number and "1" neither, but a date is a text.
        return shape.model_validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            # Of a union, pydantic names the branch too; callers know the field alone.
            where = str(problem["loc"][0]) if problem["loc"] else "the call"
            lines.append(f"`{where}`: {problem['msg'].removeprefix('Value error, ')}")
        raise Refusal(InvalidRequest("; ".join(dict.fromkeys(lines))), example=example) from None
