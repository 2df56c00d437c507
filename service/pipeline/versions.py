"""What makes the labels of a recipe, told without labeling anything: for answers that name versions, and for setups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from manyeyes.service.pipeline.engine import make_labeler
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Versions

UNFITTED: Final = "unfitted"
"""In the place of a label model's version, where each call fits one on its own items."""
_KEPT: Final = 256

_known: OrderedDict[object, Versions] = OrderedDict()
_lock: Final = threading.Lock()


def versions_of(served: ServedRecipe, settings: ServiceSettings) -> Versions:
    """Return the versions behind a recipe's labels; loads no model, but reads files: call it on a worker thread.

    Raises InvalidRecipe if an LF cannot be built, ModelNotFound if a checkpoint is not at hand.
    """
    with _lock:
        if served.key in _known:
            _known.move_to_end(served.key)
            return _known[served.key]
    labeler = make_labeler(served, settings)
    model = labeler.label_model
    found = Versions(
        recipe=served.recipe.version,
        primitives=labeler.extractor.versions(labeler.needs),
        label_model=UNFITTED if model is None else model.version,
    )
    with _lock:
        _known[served.key] = found
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return found
