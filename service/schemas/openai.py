"""Embeddings as OpenAI's clients ask for them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from manyeyes.service.schemas.base import Shape

EXAMPLE_OPENAI: Final[dict[str, Any]] = {"model": "toy", "input": ["a red wall", "a blue door"]}
EXAMPLE_OPENAI_ANSWER: Final[dict[str, Any]] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0, 0.0]}],
    "model": "toy",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
    "versions": {"primitives": {"toy.text": "toy/colors/text 1"}},
}


class OpenAIOptions(BaseModel):
    """Everything beside the input. What OpenAI knows besides is taken and not used."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field(min_length=1, max_length=500, description="A model's `id` from `GET /v1/models`.")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(
        default=None, ge=1, description="Refused unless it is what the model gives: vectors are never cut."
    )
    modality: Literal["text", "image"] = Field(
        default="text",
        description="`image`: the inputs are images: data URLs, or URLs that may be fetched. Not OpenAI's.",
    )
    user: str | None = None


_Text = Annotated[str, Field(min_length=1)]


class OpenAICall(OpenAIOptions):
    """Texts to embed, or images."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_OPENAI]})

    input: _Text | Annotated[list[_Text], Field(min_length=1)] = Field(
        description="One text, or several; token ids are refused."
    )


class OpenAIEmbedding(Shape):
    """One embedding, of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(Shape):
    """Words, and 1 for each image: nothing here counts tokens, and nobody pays for them."""

    prompt_tokens: int
    total_tokens: int


class OpenAIVersions(Shape):
    """What made them: each feature with the version of its primitive."""

    primitives: dict[str, str]


class OpenAIAnswer(Shape):
    """One embedding for each input, in order. OpenAI's shape has no place for the error of one input alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_OPENAI_ANSWER]})

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage
    versions: OpenAIVersions
