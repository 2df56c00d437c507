"""What the service's documentation shows as an answer, the SDK reads."""

from __future__ import annotations

import pytest

from manyeyes.client.kept import Batch, LabelModel
from manyeyes.errors import UndecodableImage
from manyeyes.service.schemas import batches, features, label_models, labels, models, search, votes
from manyeyes.testing import FakeService

TWO = [{"id": "coat", "text": "A navy coat"}, {"id": "pixel", "image": b"x"}]


def test_labels() -> None:
    fake = FakeService()
    fake.answer("POST", "/v1/label", labels.EXAMPLE_ANSWER)
    told = fake.client().label(TWO, recipe="paint")
    assert told[0].probs == {"red": 0.25, "blue": 0.75} and told[0].reasons[1].moved == 1.0986123
    assert isinstance(told[1].error, UndecodableImage)


def test_votes() -> None:
    fake = FakeService()
    fake.answer("POST", "/v1/votes", votes.EXAMPLE_VOTES)
    told = fake.client().votes(TWO, recipe="paint")
    assert [vote.vote for vote in told[0].votes] == [None, "blue"]
    assert isinstance(told[1].error, UndecodableImage)


def test_embeddings() -> None:
    fake = FakeService()
    fake.answer("POST", "/v1/embed", features.EXAMPLE_EMBEDDINGS)
    told = fake.client().embed(TWO, primitive={"kind": "toy"}, on="text")
    assert (told.dim, told.primitive, told.to_numpy().shape) == (3, "toy:colors", (2, 3))
    assert fake.calls[0].fields == {"primitive": '{"kind": "toy"}', "on": "text", "encoding": "base64"}


def test_boxes() -> None:
    fake = FakeService()
    fake.answer("POST", "/v1/detect", features.EXAMPLE_BOXES)
    told = fake.client().detect([{"id": "street", "image": b"x"}], min_score=0.4, classes=["person", "car"])
    (box,) = told[0].boxes
    assert (box.label, box.score, box.xyxy, told[0].width) == (
        "person",
        0.87,
        (64.0, 48.0, 320.0, 432.0),
        640,
    )
    assert fake.calls[0].fields["min_score"] == "0.4"


def test_matches() -> None:
    fake = FakeService()
    fake.answer("POST", "/v1/search", search.EXAMPLE_FOUND)
    told = fake.client().search(["a red dress"], index="photos", k=5)
    assert [match.id for match in told[0]] == ["photos/0042.jpg", "photos/1007.jpg"]
    assert (told.index_name, told.n_items, fake.calls[0].fields) == (
        "photos",
        20000,
        {"index": "photos", "k": "5"},
    )


def test_models() -> None:
    fake = FakeService()
    fake.answer("GET", "/v1/models", {"object": "list", "data": [models.EXAMPLE_MODEL]})
    (told,) = fake.client().models()
    assert (told.id, told.dim, told.modalities) == ("clip", 384, ("image", "text"))


@pytest.mark.parametrize("newer", [{}, {"a_member_of_next_year": 1}])
def test_what_is_kept(newer: dict[str, int]) -> None:
    fake = FakeService()
    fake.answer("GET", "/v1/batches/b", batches.EXAMPLE_BATCH | newer)
    fake.answer("GET", "/v1/explain/b-0", batches.EXAMPLE_EXPLANATION | newer)
    fake.answer("GET", "/v1/label-models/m", label_models.EXAMPLE_LABEL_MODEL | newer)
    client = fake.client()
    assert isinstance(client.batches.get("b"), Batch)
    assert client.explain("b-0").log_odds == 1.0986123
    model = client.label_models.get("m")
    assert isinstance(model, LabelModel) and model.created_at.year == 2026
