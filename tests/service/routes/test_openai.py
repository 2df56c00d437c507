"""``/v1/models`` and ``/v1/embeddings``, called by OpenAI's own package over a real socket."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe_parts import default_primitive
from manyeyes.service.schemas.models import ModelList
from manyeyes.service.settings import ServiceSettings

KEY = "a-key-that-is-long-enough"


@pytest.fixture(scope="module")
def url(serving: Callable[[ServiceSettings], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(tmp_path_factory.mktemp("home")))
        settings = ServiceSettings(
            api_keys=KEY, allowed_models=("ViT-B-32", "detector:yolo11n"), max_items=50, store_url="none"
        )
        with serving(settings) as address:
            yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_texts_are_embedded(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="toy", input=["red and blue", "green"])
    expected = Extractor.for_specs({"toy": default_primitive("toy")}, cache=None).encode(
        "toy", ["red and blue", "green"]
    )
    # The package asks for base64 by itself, and decodes it.
    assert np.float32([one.embedding for one in answer.data]).tobytes() == expected.tobytes()
    assert [one.index for one in answer.data] == [0, 1]
    assert (answer.model, answer.object, answer.usage.prompt_tokens) == ("toy", "list", 4)
    numbers = client.embeddings.create(model="toy", input="green", encoding_format="float", dimensions=3)
    assert numbers.data[0].embedding == [0, 1, 0]


def test_images_are_embedded_as_data_urls(client: openai.OpenAI) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(stream, "PNG")
    told = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    answer = client.embeddings.create(model="toy", input=[told], extra_body={"modality": "image"})
    assert answer.data[0].embedding == [0, 0, 1]


@pytest.mark.parametrize(
    ("call", "raised", "told"),
    [
        ({"model": "tyo", "input": "red"}, openai.NotFoundError, "did you mean 'toy'"),
        ({"model": "toy", "input": [1, 2, 3]}, openai.UnprocessableEntityError, "token ids"),
        ({"model": "toy", "input": [[1], [2]]}, openai.UnprocessableEntityError, "token ids"),
        ({"model": "toy", "input": []}, openai.UnprocessableEntityError, "at least one"),
        ({"model": "toy", "input": ["red", ""]}, openai.UnprocessableEntityError, "input 1"),
        (
            {"model": "toy", "input": "red", "dimensions": 2},
            openai.UnprocessableEntityError,
            "gives 3 numbers",
        ),
        ({"model": "toy", "input": "red", "dimensions": 0}, openai.UnprocessableEntityError, "dimensions"),
        (
            {"model": "toy", "input": "red", "encoding_format": "hex"},
            openai.UnprocessableEntityError,
            "encoding",
        ),
        ({"model": "detector", "input": "red"}, openai.UnprocessableEntityError, "no embeddings"),
        ({"model": "toy", "input": ["a"] * 51}, openai.APIStatusError, "51 inputs"),
    ],
)
def test_a_refusal_reaches_the_caller_with_its_message(
    client: openai.OpenAI, call: dict[str, Any], raised: type[openai.APIStatusError], told: str
) -> None:
    with pytest.raises(raised) as caught:
        client.embeddings.create(**call)
    assert told in str(caught.value)
    assert caught.value.body is not None
    assert told in caught.value.body["message"]  # type: ignore[index, call-overload]
    assert caught.value.code in ("not_found", "invalid_request", "request_too_large")
    assert caught.value.response.json()["type"].startswith("urn:manyeyes:error:")
    assert caught.value.request_id


def test_a_wrong_key_is_an_authentication_error(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="another-key-of-nobody", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="not one of those"),
    ):
        client.embeddings.create(model="toy", input="red")


def test_models_are_listed(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    told = ModelList.model_validate(
        {"object": "list", "data": [one.model_dump(exclude_unset=True) for one in listed]}
    )
    by_id = {one.id: one for one in told.data}
    assert list(by_id) == ["clip", "text", "detector", "toy", "clip:ViT-B-32", "detector:yolo11n"]
    clip = by_id["clip"]
    assert (clip.modalities, clip.dim, clip.available, clip.licence) == (
        ["image", "text"],
        384,
        True,
        "Apache-2.0",
    )
    assert (by_id["text"].dim, by_id["toy"].dim, by_id["detector"].dim) == (384, 3, None)
    assert "AGPL-3.0" in by_id["detector"].note
    assert (by_id["detector:yolo11n"].available, by_id["detector:yolo11n"].loaded) == (False, False)
    assert by_id["toy"].loaded
    assert by_id["toy"].versions == {"toy": "toy/colors/image 1", "toy.text": "toy/colors/text 1"}


def test_one_model_by_its_id_or_kind_and_model(client: openai.OpenAI) -> None:
    assert client.models.retrieve("clip:ViT-B-32").id == "clip:ViT-B-32"
    assert client.models.retrieve("ViT-B-32").id == "clip:ViT-B-32"
    assert client.models.retrieve("toy:colors").id == "toy"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
        client.models.retrieve("gpt-4o")


@pytest.mark.slow
def test_a_model_is_loaded_once_it_was_used(client: openai.OpenAI) -> None:
    client.embeddings.create(model="text", input="a red dress")
    found = client.models.retrieve("text").model_dump()
    assert found["loaded"]
    assert found["dim"] == 384


def test_the_same_asynchronously(url: str) -> None:
    import asyncio

    async def ask() -> list[float]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
            return (await client.embeddings.create(model="toy", input="red")).data[0].embedding

    assert asyncio.run(ask()) == [1, 0, 0]
