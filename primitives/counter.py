"""How much work models did: forward passes and what went through them."""

from __future__ import annotations

import threading
from collections import Counter


class PassCounter:
    """Counts forward passes by feature name; a fully cached run adds none. Safe to share between threads.

    passes, items: over items, and how many of them. prompt_passes, prompt_items: over the wording of prompts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.passes: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        self.prompt_passes: Counter[str] = Counter()
        self.prompt_items: Counter[str] = Counter()

    def add(self, feature: str, n_inputs: int, *, prompts: bool = False) -> None:
        """Count one forward pass."""
        with self._lock:
            (self.prompt_passes if prompts else self.passes)[feature] += 1
            (self.prompt_items if prompts else self.items)[feature] += n_inputs

    @property
    def total(self) -> int:
        """Forward passes over items, of all primitives together."""
        return self.passes.total()

    def __repr__(self) -> str:
        return f"PassCounter(passes={dict(self.passes)}, prompt_passes={dict(self.prompt_passes)})"
