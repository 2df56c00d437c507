"""What all answers share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A shape that holds nothing but its fields."""

    model_config = ConfigDict(extra="forbid")


class Health(Shape):
    """The process answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An RFC 9457 problem document. code: the stable name of the error, the same as in the SDK."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:manyeyes:error:recipe_not_found",
                    "title": "No recipe of that name is stored",
                    "status": 404,
                    "detail": "no recipe 'garmets' is stored; did you mean 'garments'?",
                    "code": "recipe_not_found",
                    "request_id": "9f7a3c5e1b2d4f60",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
