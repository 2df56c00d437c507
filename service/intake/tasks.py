"""Label Studio's tasks as items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import anyio

from manyeyes.errors import InvalidItem, ItemError, RequestTooLarge
from manyeyes.service.fetching.label_studio import LabelStudioFiles
from manyeyes.service.fetching.web import Hold
from manyeyes.service.intake.items import Read, json_item
from manyeyes.service.intake.label_config import LabelConfig
from manyeyes.types import Item

_AT_ONCE: Final = 4


def read_tasks(
    tasks: Any, config: LabelConfig, *, max_items: int
) -> tuple[list[tuple[str, Read]], dict[int, str]]:
    """Return tasks as rows, and the paths of the images that Label Studio holds itself, by row.

    Image and text are those that the config shows; every other plain value of a task is metadata. An image is a URL, an
    object in a bucket, a data URL, or a path; the first two are fetched later, as those of any call.
    Raises RequestTooLarge if they are too many.
    """
    if len(tasks) > max_items:
        raise RequestTooLarge(
            f"the call holds {len(tasks):,} tasks; this service takes {max_items:,} at once. Let Label Studio send"
            " fewer (ML_BATCH_SIZE there), or raise MANYEYES_MAX_ITEMS"
        )
    rows: list[tuple[str, Read]] = []
    paths: dict[int, str] = {}
    for n, task in enumerate(tasks):
        read, path = _read_task(task, config)
        rows.append((str(n), replace(read, id=str(n)) if isinstance(read, Item) else read))
        if path is not None:
            paths[n] = path
    return rows, paths


def _read_task(task: Any, config: LabelConfig) -> tuple[Read, str | None]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        return InvalidItem("a task is an object with `data`"), None
    image, text = (
        data.get(field) if (field := config.fields[half]) is not None else None for half in ("image", "text")
    )
    shown = set(config.fields.values())
    row: dict[str, Any] = {
        "text": text,
        "metadata": {
            key: value
            for key, value in data.items()
            if key not in shown and (value is None or isinstance(value, (str, int, float, bool)))
        },
    }
    if image is None or image == "":
        return json_item(row), None
    if not isinstance(image, str):
        return InvalidItem(f"the image of a task is a string, got {type(image).__name__}"), None
    name = image.partition("?")[0].rpartition("/")[2]
    if name and not image.startswith("data:"):
        row["metadata"].setdefault("filename", name[:1024])
    if image.startswith("/"):
        return json_item(row), image
    scheme = image.partition("://")[0].lower()
    where = "url" if scheme in ("http", "https") else "object" if "://" in image[:10] else "image"
    return json_item({**row, where: image}), None


async def fetch_held(
    rows: Sequence[tuple[str, Read]], paths: dict[int, str], files: LabelStudioFiles | None, *, hold: Hold
) -> list[tuple[str, Read]]:
    """Return rows with the images that Label Studio holds itself, or with what is wrong with each.

    files: None where the operator has not said where Label Studio is. A file that lies elsewhere becomes the address to
    fetch it from.
    """
    done = list(rows)
    waiting = iter(sorted(paths))

    async def work() -> None:
        for n in waiting:
            name, read = done[n]
            if not isinstance(read, Item):
                continue
            try:
                done[n] = (name, await _with_image(read, paths[n], files, hold))
            except ItemError as error:
                done[n] = (name, error)

    async with anyio.create_task_group() as tasks:
        for _ in range(min(_AT_ONCE, len(paths))):
            tasks.start_soon(work)
    return done


async def _with_image(read: Item, path: str, files: LabelStudioFiles | None, hold: Hold) -> Read:
    if files is None:
        raise InvalidItem(
            "this image is a path in Label Studio, and the operator has not said where that is; set"
            " MANYEYES_LABEL_STUDIO_URL and MANYEYES_LABEL_STUDIO_KEY, or import tasks with URLs"
        )
    got = await files.get(path, hold=hold)
    if isinstance(got, bytes):
        return replace(read, image=got)
    elsewhere = json_item({"url": got})
    return replace(read, image=elsewhere.image) if isinstance(elsewhere, Item) else elsewhere
