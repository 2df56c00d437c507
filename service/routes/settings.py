"""What the operator decides of single routes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest.split("/")[0] or "@" in rest.split("/")[0]:
        raise ValueError(
            "write the address as http://host:port or https://host, without a name or password in it"
        )
    return url.rstrip("/")


class RouteSettings(BaseModel):
    """store_labels: whether labels are kept where a call does not say so, and there is a store.

    max_fit_items: on how many items of stored batches a label model is fitted, at most.

    indexes_dir: a folder of folders that ``manyeyes search --index`` wrote; callers may search these by name.

    label_studio_recipe: the stored recipe of the Label Studio backend whose address names none.
    label_studio_url: where Label Studio is, for images that it holds itself (``/data/…``). label_studio_key: its access
        token, sent to that address alone.
    """

    store_labels: bool = True
    max_fit_items: int = Field(default=200_000, ge=1)
    indexes_dir: Path | None = None
    label_studio_recipe: str | None = Field(default=None, min_length=1, max_length=200)
    label_studio_url: Annotated[str, AfterValidator(_origin)] | None = None
    label_studio_key: str | None = Field(default=None, repr=False)
