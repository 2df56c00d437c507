"""The backend as Label Studio calls it, without Label Studio: configs, tasks, files that it holds, refusals."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manyeyes.errors import InvalidRequest
from manyeyes.service.intake.label_config import choices_for, read_label_config
from manyeyes.service.schemas.label_studio import BackendPredictions
from manyeyes.service.settings import ServiceSettings

CHOICES = '<Choice value="red"/><Choice value="green"/><Choice value="blue"/>'
TEXTS = f'<View><Text name="t" value="$text"/><Choices name="c" toName="t">{CHOICES}</Choices></View>'
IMAGES = f'<View><Image name="i" value="$image"/><Choices name="c" toName="i">{CHOICES}</Choices></View>'
BOTH = (
    '<View><Image name="i" value="$photo"/><Text name="t" value="$title"/>'
    f'<Choices name="c" toName="i">{CHOICES}</Choices></View>'
)
TOKEN = "0123456789abcdef"
PERSONAL = "head.claims.signature"


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


class Files(BaseHTTPRequestHandler):
    """A Label Studio that holds some files, and notes who asks for them."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        if self.headers["Authorization"] not in (f"Token {TOKEN}", "Bearer short-lived"):
            self._answer(401)
        elif self.path.startswith("/data/upload/"):
            self._answer(200, png("blue"))
        elif self.path.startswith("/tasks/"):
            self._answer(303, location="http://10.0.0.1/secret.png")
        elif self.path == "/data/large":
            self._answer(200, b"\0" * 200_000)
        else:
            self._answer(404)

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, told.get("refresh")))
        self._answer(200, json.dumps({"access": "short-lived"}).encode())

    def _answer(self, status: int, body: bytes = b"", location: str | None = None) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def held() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Return the address of a server with files, and what it was asked for."""
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (Files,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(
    recipes_dir: Path,
    serving: Callable[[ServiceSettings], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Callable[..., httpx.Response]]]:
    """Return what starts a service with some settings, and returns what posts to it."""
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "home"))
    running: list[Any] = []

    def start(**options: Any) -> Callable[..., httpx.Response]:
        settings = ServiceSettings(
            **{"recipes_dir": recipes_dir, "store_url": "none", "max_image_bytes": 100_000, **options}
        )
        running.append(serving(settings))
        url = running[-1].__enter__()

        def post(path: str, told: Any = None, **more: Any) -> httpx.Response:
            if told is None:
                return httpx.get(url + path, trust_env=False, timeout=30, **more)
            return httpx.post(url + path, json=told, trust_env=False, timeout=30, **more)

        return post

    yield start
    for one in running:
        one.__exit__(None, None, None)


def predict(
    post: Callable[..., httpx.Response], config: str, *data: Any, at: str = "/label-studio/paint"
) -> Any:
    tasks = [{"id": n, "data": one} for n, one in enumerate(data)]
    answer = post(f"{at}/predict", {"tasks": tasks, "label_config": config, "project": "1.2", "params": {}})
    assert answer.status_code == 200, answer.text
    BackendPredictions.model_validate(answer.json())
    return answer.json()["results"]


def chosen(results: Any) -> list[Any]:
    return [
        one["error"]["code"]
        if "error" in one
        else [value for region in one["result"] for value in region["value"]["choices"]]
        for one in results
    ]


def test_tasks_get_one_prediction_each(ask: Callable[..., Any]) -> None:
    post = ask()
    results = predict(post, TEXTS, {"text": "crimson"}, {"text": "navy"}, {"text": "a wall"}, {"text": 7}, {})
    assert chosen(results)[:2] == [["red"], ["blue"]]
    assert chosen(results)[3:] == ["invalid_item", "empty_item"]
    assert results[0]["result"][0]["from_name"] == "c"
    assert results[0]["result"][0]["to_name"] == "t"
    assert predict(post, TEXTS) == []


def test_image_text_and_metadata_of_a_task_are_read(ask: Callable[..., Any]) -> None:
    inside = f"data:image/png;base64,{base64.b64encode(png('blue')).decode()}"
    post = ask()
    assert chosen(predict(post, BOTH, {"photo": inside, "title": None, "other": {"a": 1}})) == [["blue"]]
    shelf = predict(post, BOTH, {"photo": None, "title": "a wall", "shelf": "R"})
    assert chosen(shelf) == [["red"]]


def test_a_fitted_label_model_is_named(ask: Callable[..., Any], recipes_dir: Path, url: str) -> None:
    # The module's `url` has fitted it.
    post = ask()
    version = post("/label-studio/fitted/setup", {"schema": TEXTS}).json()["model_version"]
    recipe, _, label_model = version.partition("/")
    assert recipe.startswith("fitted@")
    assert ":" in label_model
    answer = post(
        "/label-studio/fitted/predict", {"tasks": [{"data": {"text": "lime"}}], "label_config": TEXTS}
    ).json()
    assert answer["model_version"] == answer["results"][0]["model_version"] == version
    assert post("/label-studio/fitted/versions").json() == {"versions": [version]}
    assert answer["versions"]["label_model"] == label_model


def test_a_recipe_of_the_store_is_a_backend_and_so_is_each_version(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    post = ask(store_url=f"sqlite:///{tmp_path}/store.db")
    recipe = {
        "name": "kept",
        "classes": ["red", "green", "blue"],
        "lfs": [{"name": "says", "kind": "keyword", "any": ["crimson"], "vote": "red"}],
    }
    first = post("/v1/recipes", {"recipe": recipe, "activate": True}).json()["version"]
    assert chosen(predict(post, TEXTS, {"text": "crimson"}, at="/label-studio/kept")) == [["red"]]
    recipe["lfs"][0]["vote"] = "blue"  # type: ignore[index]
    second = post("/v1/recipes", {"recipe": recipe, "activate": True}).json()["version"]
    versions = {
        version: post(f"/label-studio/kept@{version}/setup", {"schema": TEXTS}).json()["model_version"]
        for version in (first, second)
    }
    assert all(version in told for version, told in versions.items())
    pinned = predict(post, TEXTS, {"text": "crimson"}, at=f"/label-studio/kept@{first}")
    assert chosen(pinned) == [["red"]]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("<View", "not well-formed"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View/>', "document type"),
        ("<View/>", "neither an image nor a text"),
        ('<View><Text name="t" value="$text"/></View>', "no Choices"),
        (TEXTS.replace('"green"', '"greem"'), "did you mean 'greem'"),
        (TEXTS.replace('toName="t"', 'toName="other"'), "no Choices"),
        (TEXTS.replace("<Choices ", '<Choices perRegion="true" '), "no Choices"),
        ("", "no labeling config"),
        (None, "no labeling config"),
    ],
)
def test_a_config_that_does_not_fit_is_told_at_setup(ask: Callable[..., Any], config: Any, told: str) -> None:
    answer = ask()("/label-studio/paint/setup", {"schema": config})
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_the_address_of_the_service_serves_one_recipe_where_the_operator_says_so(
    ask: Callable[..., Any],
) -> None:
    post = ask(label_studio_recipe="paint")
    assert post("/health").json() == {"status": "UP", "model_class": "manyeyes", "recipe": "paint"}
    assert chosen(predict(post, TEXTS, {"text": "lime"}, at="")) == [["green"]]
    assert post("/setup", {"schema": TEXTS, "extra_params": {"recipe": "paint"}}).status_code == 200
    other = post("/setup", {"schema": TEXTS, "extra_params": {"recipe": "fitted"}})
    assert (other.status_code, "/label-studio/fitted" in other.json()["detail"]) == (422, True)
    assert post("/webhook", {"action": "PROJECT_UPDATED"}).status_code == 204


def test_there_is_nothing_at_the_root_otherwise(ask: Callable[..., Any]) -> None:
    post = ask()
    assert post("/health").status_code == 404
    assert post("/label-studio/nothing/health").json()["code"] == "recipe_not_found"
    assert post("/label-studio/a:b/health").status_code == 422


def test_a_key_comes_as_the_password(ask: Callable[..., Any]) -> None:
    post = ask(api_keys="a-key-that-is-long-enough")
    assert post("/label-studio/paint/health").status_code == 401
    assert post("/label-studio/paint/health", auth=("ls", "wrong-key-of-nobody")).status_code == 401
    assert post("/label-studio/paint/health", auth=("ls", "a-key-that-is-long-enough")).status_code == 200


@pytest.mark.parametrize(("key", "sent"), [(TOKEN, f"Token {TOKEN}"), (PERSONAL, "Bearer short-lived")])
def test_files_of_label_studio_are_fetched_with_the_operators_token(
    ask: Callable[..., Any], held: tuple[str, list[tuple[str, str | None]]], key: str, sent: str
) -> None:
    url, asked = held
    post = ask(label_studio_url=url, label_studio_key=key)
    results = predict(
        post,
        IMAGES,
        {"image": "/data/upload/1/a.png"},
        {"image": "/data/upload/1/b.png?x=1"},
        {"image": "/data/nothing"},
        {"image": "/tasks/7/resolve/?fileuri=czM6"},
        {"image": "/data/large"},
    )
    assert chosen(results) == [["blue"], ["blue"], "source_not_found", "address_refused", "image_too_large"]
    got = [(path, told) for path, told in asked if path != "/api/token/refresh/"]
    assert {told for _, told in got} == {sent}
    assert {path for path, _ in got} >= {"/data/upload/1/a.png", "/data/upload/1/b.png?x=1"}
    refreshed = [told for path, told in asked if path == "/api/token/refresh/"]
    assert refreshed == ([PERSONAL] * len(refreshed) if key == PERSONAL else [])


def test_a_wrong_token_is_the_operators_to_mend(
    ask: Callable[..., Any], held: tuple[str, list[tuple[str, str | None]]]
) -> None:
    post = ask(label_studio_url=held[0], label_studio_key="another")
    results = predict(post, IMAGES, {"image": "/data/upload/1/a.png"})
    assert chosen(results) == ["fetch_failed"]
    assert "MANYEYES_LABEL_STUDIO_KEY" in results[0]["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "//10.0.0.1/a.png",
            "/\\10.0.0.1/a.png",
            "/data/../api/users",
            "/data/%2e%2e/api",
            "/api/users",
            "/data/a b",
            "/data/a\r\nX: y",
        ),
        *("/./a", "/data/é.png"),
    ],
)
def test_a_path_leads_nowhere_else(
    ask: Callable[..., Any], held: tuple[str, list[tuple[str, str | None]]], path: str
) -> None:
    url, asked = held
    assert chosen(predict(ask(label_studio_url=url, label_studio_key=TOKEN), IMAGES, {"image": path})) == [
        "address_refused"
    ]
    assert asked == []


def test_without_an_address_of_label_studio_its_files_are_errors(ask: Callable[..., Any]) -> None:
    results = predict(ask(), IMAGES, {"image": "/data/upload/1/a.png"}, {"image": "http://127.0.0.1/a.png"})
    assert chosen(results) == ["invalid_item", "address_refused"]
    assert "MANYEYES_LABEL_STUDIO_URL" in results[0]["error"]["message"]


def test_too_many_tasks_are_refused(ask: Callable[..., Any]) -> None:
    post = ask(max_items=2)
    tasks = [{"data": {"text": "red"}}] * 3
    answer = post("/label-studio/paint/predict", {"tasks": tasks, "label_config": TEXTS})
    assert answer.status_code == 413


def test_values_and_aliases_name_classes() -> None:
    config = read_label_config(
        '<View><Text name="t" value="$text"/><Choices name="c" toName="t">'
        '<Choice value="Red one" alias="red"/><Choice value="BLUE"/></Choices></View>'
    )
    control, told = choices_for(config, ["red", "blue"])
    assert (control.name, told) == ("c", {"red": "red", "blue": "BLUE"})


def test_the_first_choices_that_fit_are_used() -> None:
    config = read_label_config(
        '<View><Image name="i" value="$image"/>'
        '<Choices name="quality" toName="i"><Choice value="good"/><Choice value="bad"/></Choices>'
        '<Choices name="colour" toName="i"><Choice value="red"/><Choice value="blue"/></Choices></View>'
    )
    assert choices_for(config, ["red", "blue"])[0].name == "colour"


def test_entities_are_never_expanded() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "yyyyyyyyyy">' + "".join(
        f'<!ENTITY x{n} "{"&x" + (str(n - 1) if n else "") + ";" * 1}">' for n in range(9)
    )
    with pytest.raises(InvalidRequest, match="document type"):
        read_label_config(f"{bomb}]><View>&x8;</View>")


@given(st.text(max_size=200))
def test_whatever_a_config_is_it_is_read_or_refused(text: str) -> None:
    for told in (text, f"<View>{text}</View>", TEXTS.replace("red", text)):
        try:
            read_label_config(told)
        except InvalidRequest:
            continue


def test_a_deep_config_is_read() -> None:
    depth = 50_000
    with pytest.raises(InvalidRequest, match="neither an image"):
        read_label_config("<View>" * depth + "</View>" * depth)
