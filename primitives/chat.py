"""A question put to a model behind an endpoint: one answer an item, out of a list.

The LF of kind ``chat`` brings it. Its version names the question, the list and everything of the endpoint that answers
depend on, so what was answered once is never asked again; which class an answer means is the LF's own business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from manyeyes.endpoints import Endpoint, digest, endpoint
from manyeyes.errors import ItemError
from manyeyes.primitives.answers import comparable, log_probability, masses, match, without_thought
from manyeyes.primitives.base import DecodedImage, Modality, Outcome, Rows
from manyeyes.primitives.chat_budget import Budget, Tally
from manyeyes.primitives.chat_line import ChatLine, line_to
from manyeyes.primitives.chat_wire import PROMPT_VERSION, Prepared, Reply, data_url, request_body

On = Literal["image", "text", "both"]
MODALITY: Final[Mapping[str, Modality]] = {"image": "image", "text": "text", "both": "pair"}
_KEPT_BYTES: Final = 160


class ChatPrimitive:
    """Answers of a model. See :class:`manyeyes.primitives.base.Primitive`.

    endpoint: its name in the operator's file. question, answers: what is asked, and what may be answered.
    on: what is sent. max_calls, max_cost: of this primitive, beside the endpoint's own.

    A row holds ``answer`` (int16: which of the answers, −1 for none of them), ``text`` (the reply, cut to 160 bytes of
    UTF-8), ``logprob`` (float32: of the answer, NaN where it is not known) and ``masses`` (float32, one an answer: its
    probability as far as the endpoint tells, NaN where it does not).
    """

    ragged = False

    def __init__(
        self,
        name: str,
        *,
        endpoint: str,
        question: str,
        answers: Sequence[str],
        on: On,
        max_calls: int | None = None,
        max_cost: float | None = None,
    ) -> None:
        self.name = name
        self.modality: Modality = MODALITY[on]
        self.dtype = np.dtype(
            [
                ("answer", "<i2"),
                ("text", f"S{_KEPT_BYTES}"),
                ("logprob", "<f4"),
                ("masses", "<f4", (len(answers),)),
            ]
        )
        self.tally = Tally()
        self._at = endpoint
        self._found: Endpoint | None = None
        self._question = question
        self._answers = tuple(answers)
        self._comparable = tuple(map(comparable, answers))
        self._on = on
        self._max_cost = max_cost
        self._budget = Budget(f"of {name.removeprefix('lf:')}", max_calls, max_cost)

    @property
    def endpoint(self) -> Endpoint:
        """What the operator says of the endpoint. Raises InvalidRecipe, or InvalidSettings."""
        if self._found is None:
            self._found = endpoint(self._at)
        return self._found

    @property
    def version(self) -> str:
        asked = digest(self.endpoint.identity, self._question, *self._answers, self._on, PROMPT_VERSION)
        return f"chat/{self.endpoint.model}/{asked}"

    @property
    def info(self) -> Mapping[str, Any]:
        return {"answers": list(self._answers)}

    @property
    def batch_size(self) -> int:
        """Questions that are put side by side: enough that all calls at once are busy nearly all the time."""
        return max(32, 8 * self.endpoint.concurrency)

    @property
    def notes(self) -> list[str]:
        """What was asked so far, in words."""
        return self.tally.notes(
            self.name.removeprefix("lf:"), self._at, priced=self.endpoint.prices is not None
        )

    def setup(self) -> None:
        """Open the line. Raises InvalidSettings if the endpoint's key is not in the environment."""
        self._line()

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced on decoding."""
        return self.endpoint.max_side

    def prepare(self, decoded: Any) -> Prepared:
        """Return an image as a data URL, reduced to the endpoint's ``max_side``; a text as it is."""
        if isinstance(decoded, Prepared):
            return decoded
        if isinstance(decoded, str):
            return Prepared(text=decoded)
        if isinstance(decoded, DecodedImage):
            return Prepared(image=data_url(decoded.pixels, self.endpoint.max_side))
        image, text = decoded
        return Prepared(image=data_url(image.pixels, self.endpoint.max_side), text=text)

    def compute(self, batch: Sequence[Any]) -> list[Outcome]:
        """Return one row for each input; EndpointFailed or None where there is no answer."""
        bodies = [partial(self._body, self.prepare(value)) for value in batch]
        replies = self._line().ask(bodies, budgets=(self._budget,), tally=self.tally)
        return [
            reply if reply is None or isinstance(reply, ItemError) else self._row(reply) for reply in replies
        ]

    def _line(self) -> ChatLine:
        return line_to(self._at, self.endpoint)

    def _body(self, item: Prepared, logprobs: bool) -> dict[str, Any]:
        return request_body(self.endpoint, self._question, self._answers, item, logprobs=logprobs)

    def _row(self, reply: Reply) -> Rows:
        text = without_thought(reply.text)
        which = match(text, self._comparable)
        row = np.zeros(1, dtype=self.dtype)
        row["answer"] = which
        # JSON can hold halves of surrogate pairs, which are no text.
        row["text"] = text.strip().encode(errors="replace")[:_KEPT_BYTES].decode(errors="ignore").encode()
        row["logprob"] = row["masses"] = np.nan
        tokens = reply.tokens
        # Tokens that spell something else than the text say nothing of it.
        if which >= 0 and text == reply.text and "".join(token.text for token in tokens).startswith(text):
            row["logprob"] = log_probability(tokens, self._comparable[which])
            found = masses(tokens, self._comparable)
            if found is not None:
                row["masses"] = found
        return row
