"""The report: one file, nothing fetched, nothing that an item says is run, and honest about what it leaves out."""

from __future__ import annotations

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from manyeyes.errors import InvalidRequest, by_code
from manyeyes.report import Run, render, spread, thumbnail, told_sum, write_report
from manyeyes.settings import Limits
from manyeyes.types import Item, Label, Reason, Versions

CLASSES = ("cat", "dog <b>")
RUN = Run(
    title="pets",
    description="Cats & dogs",
    classes=CLASSES,
    versions=Versions("0123456789abcdef", {"clip": "starter:12"}, "majority:ab"),
    lf_heads=("function", "votes for", "coverage"),
    lfs=[("looks_like", "cat", "50.0%")],
    notes=["Passed over: 2 hidden."],
)


def labeled(name: str, confidence: float = 0.8) -> Label:
    return Label(
        id=name,
        status="labeled",
        label="cat",
        confidence=confidence,
        probs={"cat": confidence, CLASSES[1]: 1 - confidence},
        runner_up=CLASSES[1],
        prior=0.25,
        reasons=(
            Reason("light", "cat", 0.61, 0.5),
            Reason("silent", None, None, 0.0),
            Reason("heavy", CLASSES[1], None, -2.0),
        ),
    )


def error(name: str, message: str = "the file ends early") -> Label:
    return Label(id=name, status="error", error=by_code()["undecodable_image"](message))  # type: ignore[arg-type]


def picture(width: int = 640, height: int = 480, mode: str = "RGB") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


class Page(HTMLParser):
    """Everything that a page would fetch or run, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(" ".join(data.split()))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_labels_reasons_errors_and_versions_are_on_the_page() -> None:
    items = {"a": Item("a", text="A cat.")}
    page = Page(render([labeled("a"), error("b")], run=RUN, items=items))
    text = " | ".join(page.text)
    for words in (
        "pets",
        "Cats & dogs",
        "A cat.",
        "80%",
        "20%",
        "undecodable_image | the file ends early",
        "0123456789abcdef",
        "majority:ab",
        "starter:12",
        "Passed over: 2 hidden.",
        "Why: 2 of 3 functions voted",
        "looks_like | cat | 50.0%",
    ):
        assert words in text
    assert text.index("heavy") < text.index("light") < text.index("abstained: silent")


def test_nothing_is_fetched_and_nothing_from_an_item_is_run() -> None:
    hostile = "</blockquote><script>alert(1)</script><img src=https://example.org/x onerror=alert(1)>"
    labels = [labeled(f"a{hostile}"), error(f"b{hostile}", hostile)]
    items = {labels[0].id: Item(labels[0].id, text=hostile, image=picture())}
    run = Run(title=hostile, description=hostile, classes=CLASSES, versions=RUN.versions, notes=[hostile])
    page = Page(render(labels, run=run, items=items))
    assert page.count("script") == 1
    assert page.count("img") == 1
    assert page.count("link") == page.count("iframe") == 0
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(
                "data:image/jpeg;base64,"
            ) or not attributes.get(name)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_large_run_shows_a_sample_and_says_so() -> None:
    labels = [labeled(f"{i:04}") for i in range(1200)]
    page = Page(render(labels, run=RUN, items={}, max_items=500))
    assert page.count("article") == 500
    assert "showing 500 of 1,200 items" in page.text
    assert "1,200" in page.text
    shown = list(spread(1200, 500))
    assert shown[0] == 0
    assert max(b - a for a, b in itertools.pairwise(shown)) == 3


def test_a_page_of_five_hundred_pictures_can_be_sent_by_mail(tmp_path: Path) -> None:
    from PIL import Image

    noise = io.BytesIO()
    Image.effect_noise((640, 480), 40).convert("RGB").save(noise, "JPEG")
    uri = thumbnail(Item("a", image=noise.getvalue()), limits=Limits())
    assert uri is not None
    assert len(uri) * 500 < 25 * 2**20


def test_pictures_are_small_upright_jpegs() -> None:
    from PIL import Image

    uri = thumbnail(Item("a", image=picture(1000, 200)), limits=Limits())
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "JPEG"
        assert (max(image.size), image.mode) == (384, "RGB")
    assert thumbnail(Item("a", text="no picture"), limits=Limits()) is None
    assert thumbnail(Item("a", image=b"damaged"), limits=Limits()) is None


def test_the_page_can_be_used_without_a_mouse_and_without_sight() -> None:
    page = Page(render([labeled("a")], run=RUN, items={"a": Item("a", image=picture())}))
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    controls = page.count("select") + page.count("input")
    assert controls == 4
    assert page.count("label") == controls
    assert all(attributes.get("scope") == "col" for tag, attributes in page.tags if tag == "th")
    assert next(tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)) == "h1"


def test_the_sum_is_that_of_the_reasons() -> None:
    assert told_sum(labeled("a")) == (
        "prior +0.25 and moved -1.50 make -1.25 nats of log-odds for cat against dog <b>"
    )
    assert told_sum(error("a")) == ""


def test_an_empty_run_is_a_page_too() -> None:
    assert "showing 0 of 0 items" in Page(render([], run=RUN, items={})).text


def test_it_is_written_whole_under_an_allowed_name(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", [labeled("a")], run=RUN, items={})
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(InvalidRequest, match=r"allowed: \.html, \.htm"):
        write_report(tmp_path / "r.pdf", [labeled("a")], run=RUN, items={})
