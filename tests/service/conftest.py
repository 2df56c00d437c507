"""A service on a real socket, with recipes over the toy primitive."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from manyeyes import Client, Item, Labeler, Recipe
from manyeyes.service.app import create_app, listen, make_server
from manyeyes.service.settings import ServiceSettings

PAINT = """
name: paint
description: Colours, by what is seen and what is said.
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
  - {name: file, kind: keyword, on: filename, any: [blau], whole_words: false, vote: blue}
  - {name: wide, kind: metadata, when: "width > 100", vote: blue}
"""

SLOW = """
name: slow
classes: [red, blue]
lfs:
  - {name: waits, kind: python, function: "time_wasters:wait"}
"""

TIME_WASTERS = '''
"""A labeling function that takes its time, for a service that is to be busy."""
import time

def wait(item):
    time.sleep(0.3)
    return "red"
'''


@pytest.fixture(scope="session")
def recipes_dir() -> Iterator[Path]:
    """Return a folder with two sound recipes, one with a label model beside it, and a broken one."""
    folder = Path(tempfile.mkdtemp(prefix="manyeyes-recipes-"))
    (folder / "paint.yaml").write_text(PAINT)
    (folder / "fitted.yaml").write_text(PAINT.replace("name: paint", "name: fitted"))
    (folder / "slow.yml").write_text(SLOW)
    (folder / "broken.yaml").write_text("name: broken\nclasses: [only-one]\n")
    (folder / "notes.txt").write_text("no recipe")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def make_items() -> Callable[[int], list[Item]]:
    """Return a maker of photos of three colours; every second one has a text, every fourth one a shelf."""
    words = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}

    def make(n: int) -> list[Item]:
        items = []
        for i in range(n):
            colour = list(words)[i % 3]
            stream = io.BytesIO()
            Image.new("RGB", (8 + i % 120, 8), colour).save(stream, "PNG")
            items.append(
                Item(
                    f"{i:03}",
                    image=stream.getvalue(),
                    text=words[colour] if i % 2 else None,
                    metadata={"shelf": colour[0].upper()} if i % 4 == 0 else {},
                )
            )
        return items

    return make


@pytest.fixture(scope="session")
def serving() -> Callable[[ServiceSettings], object]:
    """Return a context manager that runs a service on a free port and gives its address."""

    @contextmanager
    def serve(settings: ServiceSettings) -> Iterator[str]:
        settings = settings.model_copy(update={"port": 0})
        listener = listen(settings)
        server = make_server(create_app(settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive(), "the server does not stop"

    return serve


@pytest.fixture(scope="module")
def url(
    recipes_dir: Path,
    make_items: Callable[[int], list[Item]],
    serving: Callable[[ServiceSettings], object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Return the address of a running service with small limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(tmp_path_factory.mktemp("home")))
        labeler = Labeler(Recipe.load(recipes_dir / "fitted.yaml"))
        labeler.fit(make_items(60)).save_label_model(recipes_dir / "fitted.label_model")
        code = tmp_path_factory.mktemp("code")
        (code / "time_wasters.py").write_text(TIME_WASTERS)
        patch.syspath_prepend(str(code))
        settings = ServiceSettings(
            recipes_dir=recipes_dir, max_items=400, max_body_bytes=2 * 2**20, max_image_pixels=10**6
        )
        with serving(settings) as address:  # type: ignore[attr-defined]
            yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """Return a client of the running service."""
    with Client(url, max_retries=0) as made:
        yield made
