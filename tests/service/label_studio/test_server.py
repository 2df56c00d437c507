"""Label Studio's own server connects to the service, and gets predictions from it, over real sockets."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.service.settings import ServiceSettings
from tests.service.label_studio.conftest import LabelStudio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

KEY = "a-key-for-label-studio-alone"
IMAGES = """
<View>
  <Image name="img" value="$image"/>
  <Choices name="colour" toName="img" choice="single">
    <Choice value="Red"/><Choice value="g" alias="green"/><Choice value="Blue"/><Choice value="none of them"/>
  </Choices>
</View>
"""
TEXTS = """
<View>
  <Text name="words" value="$text"/>
  <Choices name="colour" toName="words"><Choice value="red"/><Choice value="green"/><Choice value="blue"/></Choices>
</View>
"""
BOXES = """
<View>
  <Image name="img" value="$image"/>
  <RectangleLabels name="things" toName="img"><Label value="Person"/><Label value="Bus" alias="bus"/></RectangleLabels>
</View>
"""
VALIDATE = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
told = json.load(sys.stdin)
interface = LabelInterface(told["config"])
print(json.dumps([interface.validate_prediction(one, return_errors=True) for one in told["predictions"]]))
"""


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory, recipes_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    paint = (recipes_dir / "paint.yaml").read_text()
    (folder / "paint.yaml").write_text(paint + "abstain_below: 0.5\n")
    (folder / "things.yaml").write_text(
        "name: things\nclasses: [street, room]\n"
        "lfs:\n  - {name: bus, kind: detect, when: count(bus) >= 1, vote: street}\n"
        "  - {name: none, kind: detect, when: count(bus) == 0, vote: room}\n"
    )
    return folder


@pytest.fixture(scope="module")
def backend(
    label_studio: LabelStudio,
    recipes: Path,
    serving: Callable[[ServiceSettings], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(tmp_path_factory.mktemp("home")))
        settings = ServiceSettings(
            recipes_dir=recipes,
            api_keys=KEY,
            label_studio_url=label_studio.url,
            label_studio_key=label_studio.token,
            store_url="none",
        )
        with serving(settings) as url:
            yield url


def project(http: httpx.Client, config: str) -> int:
    answer = http.post("/api/projects", json={"title": "ours", "label_config": config})
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


def tasks(http: httpx.Client, number: int, given: list[dict[str, Any]]) -> None:
    answer = http.post(f"/api/projects/{number}/import", json=given)
    assert answer.status_code == 201, answer.text


def connect(http: httpx.Client, number: int, url: str, key: str = KEY) -> httpx.Response:
    return http.post(
        "/api/ml",
        json={
            "url": url,
            "project": number,
            "title": "manyeyes",
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": "manyeyes",
            "basic_auth_pass": key,
        },
    )


def predictions(http: httpx.Client, number: int) -> dict[int, list[dict[str, Any]]]:
    """Ask Label Studio to retrieve predictions; return those that it has then, by task."""
    everything = {"selectedItems": {"all": True, "excluded": []}}
    answer = http.post(f"/api/dm/actions?id=retrieve_tasks_predictions&project={number}", json=everything)
    assert answer.status_code == 200, answer.text
    time.sleep(0.2)
    found: dict[int, list[dict[str, Any]]] = {}
    for one in http.get(f"/api/predictions?project={number}").json():
        found.setdefault(one["task"], []).append(one)
    return found


def test_images_that_label_studio_holds_are_labeled(
    label_studio: LabelStudio, backend: str, recipes: Path
) -> None:
    with label_studio.http as http:
        number = project(http, IMAGES)
        for colour in ("lime", "blue"):
            uploaded = http.post(
                f"/api/projects/{number}/import", files={"file": (f"{colour}.png", png(colour), "image/png")}
            )
            assert uploaded.status_code == 201, uploaded.text
        inside = f"data:image/png;base64,{base64.b64encode(png('red')).decode()}"
        tasks(
            http,
            number,
            [
                {"image": inside, "shelf": "R"},
                {"image": "/data/upload/1/nothing-there.png"},
                {"image": "https://images.example.org/a.png"},
            ],
        )
        connected = connect(http, number, f"{backend}/label-studio/paint")
        assert connected.status_code == 201, connected.text
        version = connected.json()["model_version"]
        assert version == f"paint@{Recipe.load(recipes / 'paint.yaml').version}/unfitted"
        found = predictions(http, number)
        listed = {
            one["id"]: one["data"]["image"]
            for one in http.get(f"/api/tasks?project={number}").json()["tasks"]
        }
        again = predictions(http, number)
        versions = http.get(f"/api/ml/{connected.json()['id']}/versions").json()
    labels = Labeler(Recipe.load(recipes / "paint.yaml")).label(
        [
            Item("0", image=png("lime"), metadata={"filename": "lime.png"}),
            Item("1", image=png("blue"), metadata={"filename": "blue.png"}),
            Item("2", image=png("red"), metadata={"shelf": "R"}),
        ]
    )
    expected = {"lime.png": "green", "blue.png": "Blue", "data": "Red"}
    by_name = {label.id: label for label in labels}
    seen = 0
    for task, image in listed.items():
        name = next((name for name in expected if name in image[:60]), None)
        if name is None or "nothing-there" in image:
            assert task not in found  # an error is no prediction, and is asked for again
            continue
        (prediction,) = found[task]
        (region,) = prediction["result"]
        assert region["value"] == {"choices": [expected[name]]}
        label = by_name[str(["lime.png", "blue.png", "data"].index(name))]
        assert prediction["score"] == pytest.approx(label.confidence, abs=1e-6)
        assert prediction["model_version"] == version
        seen += 1
    assert seen == 3
    assert {task: len(told) for task, told in again.items()} == dict.fromkeys(found, 1)
    assert versions == {"versions": [version]}
    log = label_studio.log.read_text(errors="replace")
    assert "address_refused" in log  # what was wrong with a task reaches whoever runs Label Studio


def test_texts_are_labeled_and_an_abstention_is_an_empty_prediction(
    label_studio: LabelStudio, backend: str
) -> None:
    with label_studio.http as http:
        number = project(http, TEXTS)
        tasks(http, number, [{"text": "a crimson wall"}, {"text": "nothing to see"}])
        assert connect(http, number, f"{backend}/label-studio/paint").status_code == 201
        found = sorted(
            (task, told[0]["result"], told[0]["score"]) for task, told in predictions(http, number).items()
        )
    assert [len(result) for _, result, _ in found] == [1, 0]
    assert found[0][1][0]["value"] == {"choices": ["red"]}
    assert found[1][2] is not None


def test_boxes_come_in_percent(label_studio: LabelStudio, backend: str) -> None:
    photo = (files("ultralytics") / "assets" / "bus.jpg").read_bytes()
    with label_studio.http as http:
        number = project(http, BOXES)
        http.post(f"/api/projects/{number}/import", files={"file": ("bus.jpg", photo, "image/jpeg")})
        assert connect(http, number, f"{backend}/label-studio/things").status_code == 201
        ((prediction,),) = predictions(http, number).values()
    regions = prediction["result"]
    assert {label for one in regions for label in one["value"]["rectanglelabels"]} <= {"Person", "bus"}
    assert regions
    with Image.open(io.BytesIO(photo)) as opened:
        size = opened.size
    for one in regions:
        assert (one["original_width"], one["original_height"]) == size
        assert one["value"]["x"] + one["value"]["width"] <= 100.001
        assert one["value"]["y"] + one["value"]["height"] <= 100.001
    told = validated(label_studio, BOXES, [prediction])
    assert told == [[]], told


def test_a_wrong_key_and_a_project_that_does_not_fit_are_refused(
    label_studio: LabelStudio, backend: str
) -> None:
    with label_studio.http as http:
        number = project(http, IMAGES)
        refused = connect(http, number, f"{backend}/label-studio/paint", key="not-the-key-of-anybody")
        assert refused.status_code == 400
        assert "authentication parameters" in refused.text
        missing = project(http, IMAGES.replace('<Choice value="Blue"/>', ""))
        refused = connect(http, missing, f"{backend}/label-studio/paint")
        assert refused.status_code == 400
        assert "422" in refused.text
        assert connect(http, number, f"{backend}/label-studio/nothing").status_code == 400


def test_label_studios_own_validation_finds_nothing_wrong(label_studio: LabelStudio, backend: str) -> None:
    told = httpx.post(
        f"{backend}/label-studio/paint/predict",
        auth=("manyeyes", KEY),
        json={
            "tasks": [{"id": 1, "data": {"text": text}} for text in ("a navy wall", "lime", "nothing")],
            "label_config": TEXTS,
        },
        trust_env=False,
    ).json()
    assert [len(one["result"]) for one in told["results"]] == [1, 1, 0]
    assert validated(label_studio, TEXTS, told["results"]) == [[], [], []]


def validated(label_studio: LabelStudio, config: str, given: list[dict[str, Any]]) -> Any:
    """Return what Label Studio's SDK finds wrong with predictions."""
    done = subprocess.run(
        [label_studio.python, "-c", VALIDATE],
        input=json.dumps({"config": config, "predictions": given}),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)
