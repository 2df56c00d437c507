"""The small vocabulary that every room shares: Item, Votes, Label, Labels and ABSTAIN.

Nothing here imports a model, a web framework or an image library, so that ``import manyeyes`` stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes, ItemError, by_code

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

ABSTAIN = -1
"""The vote of a labeling function that has nothing to say. Other conventions are converted in adapters only."""

MetadataValue: TypeAlias = str | int | float | bool | None
ImageSource: TypeAlias = "bytes | str | os.PathLike[str] | PILImage | npt.NDArray[np.uint8]"
Status: TypeAlias = Literal["labeled", "abstained", "error"]

VoteArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]
FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Item:
    """One data point: an image, a text, or both, with metadata.

    id: what names the item in every result; unique within a call.
    image: the bytes of an image file, a path to one, a PIL image, or None; for the SDK also an address (``https://…``,
        ``s3://…``), which the service fetches, or an array of pixels (uint8, height × width, with 1 to 4 channels).
    text: a text, or None.
    metadata: flat mapping of names to str, int, float, bool or None.
    """

    id: str
    image: ImageSource | None = None
    text: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def vote_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the narrowest signed integer dtype that holds ABSTAIN and every class index: int8 up to 127 classes."""
    return np.dtype(np.int8) if n_classes <= np.iinfo(np.int8).max else np.dtype(np.int16)


def no_scores(shape: tuple[int, ...]) -> FloatArray:
    """Return the scores of hard votes: float32 NaN everywhere, read-only, in the memory of one number."""
    return np.broadcast_to(np.float32(np.nan), shape)


@dataclass(frozen=True, eq=False)
class Votes:
    """The label matrix L: what each labeling function says of each item.

    classes: int8 (int16 above 127 classes), shape (n_items, n_lfs); ABSTAIN or a class index.
    scores: float32, shape (n_items, n_lfs); the probability that the vote is right where the LF can say, NaN where
        it cannot (a hard vote) and wherever it abstains.
    class_names, lf_names: one name a class and one a column.
    shared: for each LF, the primitives that it reads; LFs that read the same one are not independent.
    sets: votes for more than one class (partial labels): the value ``n_classes + i`` says "one of ``sets[i]``", class
        indices in ascending order; "not this class" is the set of all others.
    Raises InvalidVotes if shapes differ, a vote is neither ABSTAIN nor a class nor a set, or a score is outside [0, 1].
    """

    classes: VoteArray
    scores: FloatArray
    class_names: tuple[str, ...]
    lf_names: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...] = ()
    sets: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.classes.ndim != 2 or self.classes.shape != self.scores.shape:
            raise InvalidVotes(
                f"votes and scores must both have shape (n_items, n_lfs), got {self.classes.shape} and"
                f" {self.scores.shape}"
            )
        if self.classes.shape[1] != len(self.lf_names):
            raise InvalidVotes(f"{self.classes.shape[1]} columns of votes, but {len(self.lf_names)} LF names")
        if not np.issubdtype(self.classes.dtype, np.signedinteger):
            raise InvalidVotes(
                f"votes must be signed integers, got {self.classes.dtype}; ABSTAIN is {ABSTAIN}"
            )
        if self.classes.size:
            low, high = int(self.classes.min()), int(self.classes.max())
            if low < ABSTAIN or high >= self.n_values:
                raise InvalidVotes(
                    f"a vote is {ABSTAIN} (abstain) or a class index below {self.n_classes}"
                    + (f", or one of {len(self.sets)} sets of classes above that" if self.sets else "")
                    + f", got {low if low < ABSTAIN else high}"
                )
            if not self.is_hard:
                # fmin and fmax pass over NaN, and need no scratch array as large as the votes.
                least, most = np.fmin.reduce(self.scores, axis=None), np.fmax.reduce(self.scores, axis=None)
                if least < 0 or most > 1:
                    raise InvalidVotes("a score is a probability in [0, 1], or NaN for a hard vote")
        for members in self.sets:
            whole = 0 < len(members) < self.n_classes and members[0] >= 0 and members[-1] < self.n_classes
            if not whole or list(members) != sorted(set(members)):
                raise InvalidVotes(
                    f"a set of classes holds some of the {self.n_classes} class indices in ascending order, not all of"
                    f" them, got {list(members)}"
                )

    @classmethod
    def hard(cls, classes: npt.ArrayLike, n_classes: int | None = None) -> Votes:
        """Make a label matrix from hard votes alone, with names made up; for tests and for votes from elsewhere."""
        array = np.asarray(classes)
        if not np.issubdtype(array.dtype, np.signedinteger):
            array = array.astype(np.int64)
        k = n_classes if n_classes is not None else int(array.max(initial=0)) + 1
        # A vote out of range must reach the check below as it is, not wrapped around by a narrow dtype.
        fits = not array.size or (array.min() >= ABSTAIN and array.max() < k)
        return cls(
            classes=array.astype(vote_dtype(k), copy=False) if fits else array,
            scores=no_scores(array.shape),
            class_names=tuple(f"class_{c}" for c in range(k)),
            lf_names=tuple(f"lf_{j}" for j in range(array.shape[-1])),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Votes]) -> Votes:
        """Join the votes of the same LFs on several groups of items; there must be at least one."""
        classes = np.concatenate([part.classes for part in parts])
        hard = all(part.is_hard for part in parts)
        scores = no_scores(classes.shape) if hard else np.concatenate([part.scores for part in parts])
        return replace(parts[0], classes=classes, scores=scores)

    def rows(self, which: slice | npt.NDArray[Any]) -> Votes:
        """Return the votes on some items: a slice (no copy), a boolean mask or indices."""
        scores = no_scores(self.classes[which].shape) if self.is_hard else self.scores[which]
        return replace(self, classes=self.classes[which], scores=scores)

    def columns(self, which: Sequence[int]) -> Votes:
        """Return the votes of some LFs, in the order given."""
        kept = list(which)
        return replace(
            self,
            classes=self.classes[:, kept],
            scores=no_scores((self.n_items, len(kept))) if self.is_hard else self.scores[:, kept],
            lf_names=tuple(self.lf_names[j] for j in kept),
            shared=tuple(self.shared[j] for j in kept) if self.shared else (),
        )

    @property
    def is_hard(self) -> bool:
        """Whether the scores are one NaN that stands for all (``no_scores``), so that nobody needs to look at them."""
        return self.scores.strides == (0, 0)

    @property
    def n_items(self) -> int:
        return int(self.classes.shape[0])

    @property
    def n_lfs(self) -> int:
        return int(self.classes.shape[1])

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def n_values(self) -> int:
        """How many different votes there are beside ABSTAIN: classes and sets of classes."""
        return len(self.class_names) + len(self.sets)

    @cached_property
    def value_names(self) -> tuple[str, ...]:
        """A name for every vote: a class name; ``not c``, ``a or b`` or ``neither a nor b`` for a set of classes.

        >>> votes = Votes(np.array([[3]]), no_scores((1, 1)), ("dress", "hat", "bag"), ("lf",), sets=((1, 2), (0, 2)))
        >>> votes.value_names
        ('dress', 'hat', 'bag', 'not dress', 'not hat')
        """
        return (*self.class_names, *(set_name(self.class_names, members) for members in self.sets))


def set_name(class_names: Sequence[str], members: Sequence[int]) -> str:
    """Return how a vote for one of several classes reads: by the classes that it leaves out, where these are fewer.

    >>> set_name(("dress", "hat", "bag", "shoes", "belt"), (0, 1))
    'dress or hat'
    >>> set_name(("dress", "hat", "bag", "shoes", "belt"), (0, 1, 2))
    'neither shoes nor belt'
    """
    among = set(members)
    absent = [name for c, name in enumerate(class_names) if c not in among]
    if len(absent) >= len(members):
        return " or ".join(class_names[c] for c in members)
    return f"not {absent[0]}" if len(absent) == 1 else f"neither {' nor '.join(absent)}"


@dataclass(frozen=True, slots=True)
class Lent:
    """What a labeling function said of similar items, as far as that counts for this one too.

    neighbors: how many items. nearest: the cosine of the nearest one. votes: what they lent, as a share of a vote.
    """

    neighbors: int
    nearest: float
    votes: float

    def __str__(self) -> str:
        items = "1 neighbour" if self.neighbors == 1 else f"{self.neighbors} neighbours"
        return f"{items}, nearest cosine {self.nearest:.2f}, lent {self.votes:.1f} of a vote"


@dataclass(frozen=True, slots=True)
class Reason:
    """What one labeling function said of one item, and how far that moved the label.

    vote: a class name, ``not dress`` or ``dress or skirt`` for a vote that names several, None where the LF abstained.
    score: how sure the LF was of its vote, in [0, 1], or None for a hard vote.
    moved: the change in the log-odds of the label against its runner-up, in nats.
    lent: the votes on other items that this LF's part comes from; None where none were lent.
    at: of a clip, the frame whose vote this is, the one that moved the LF's part most; None of an item by itself.
    """

    lf: str
    vote: str | None
    score: float | None
    moved: float
    lent: Lent | None = None
    at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        row: dict[str, Any] = {"lf": self.lf, "vote": self.vote, "score": self.score, "moved": self.moved}
        if self.lent is not None:
            row["lent"] = {
                "neighbors": self.lent.neighbors,
                "nearest": self.lent.nearest,
                "votes": self.lent.votes,
            }
        if self.at is not None:
            row["at"] = self.at
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Reason:
        """Rebuild a reason from ``to_dict``."""
        told = row.get("lent")
        lent = None if told is None else Lent(told["neighbors"], told["nearest"], told["votes"])
        return cls(row["lf"], row["vote"], row["score"], row["moved"], lent, row.get("at"))


@dataclass(frozen=True, slots=True)
class Label:
    """The label of one item with its reasons: the row that the SDK, HTTP, the CLI and the sinks all show.

    ``prior + sum(reason.moved) == log(probs[top] / probs[runner_up])`` up to rounding, where top is the most probable
    class. It is also ``label``, unless the item abstained or, without any vote, got the recipe's ``default_class``.
    confidence: the probability of the label; without one, that of the most probable class.
    """

    id: str
    status: Status
    label: str | None = None
    confidence: float | None = None
    probs: Mapping[str, float] = field(default_factory=dict)
    runner_up: str | None = None
    prior: float | None = None
    reasons: tuple[Reason, ...] = ()
    error: ItemError | None = None

    @property
    def by_default(self) -> bool:
        """Whether nothing was said of the item, and its label is the recipe's ``default_class``."""
        said = any(reason.vote is not None or reason.moved for reason in self.reasons)
        return self.status == "labeled" and not said

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; ``from_dict`` gives back an equal label."""
        row: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.error is not None:
            row["error"] = {"code": self.error.code, "message": str(self.error)}
            return row
        row |= {
            "label": self.label,
            "confidence": self.confidence,
            "probs": dict(self.probs),
            "runner_up": self.runner_up,
            "prior": self.prior,
            "reasons": [reason.to_dict() for reason in self.reasons],
        }
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Label:
        """Rebuild a label from ``to_dict``; the error becomes the class that its code names."""
        if row["status"] == "error":
            kind = by_code().get(row["error"]["code"], ItemError)
            kind = kind if issubclass(kind, ItemError) else ItemError
            return cls(id=row["id"], status="error", error=kind(row["error"]["message"]))
        return cls(
            id=row["id"],
            status=row["status"],
            label=row["label"],
            confidence=row["confidence"],
            probs=dict(row["probs"]),
            runner_up=row["runner_up"],
            prior=row["prior"],
            reasons=tuple(map(Reason.from_dict, row["reasons"])),
        )


@dataclass(frozen=True)
class Versions:
    """What made a label: enough to make it again.

    label_model: its version; with the confidence below which labels were withheld, where that was found on gold.
    """

    recipe: str
    primitives: Mapping[str, str] = field(default_factory=dict)
    label_model: str = ""


@dataclass(frozen=True, eq=False)
class LentVotes:
    """``Lent`` of many items, as arrays of shape (n_items, n_lfs). neighbors: int32. nearest, votes: float32."""

    neighbors: npt.NDArray[np.int32]
    nearest: FloatArray
    votes: FloatArray


@dataclass(frozen=True, eq=False)
class Labels(Sequence[Label]):
    """Probabilistic labels for many items, as arrays; indexing gives one :class:`Label` with its reasons.

    ids: one a row. votes: the label matrix behind them.
    probs: float32, shape (n_items, n_classes); rows sum to 1, and are NaN for an item with an error.
    label: int16, shape (n_items,); a class index, or ABSTAIN below the recipe's ``abstain_below``, where no LF voted
        and the recipe has no ``default_class``, and for an error.
    runner_up: int16, shape (n_items,); the second most probable class.
    prior: float32, shape (n_items,); log-odds of top against runner-up before any vote.
    moved: float32, shape (n_items, n_lfs); what each LF added to these log-odds.
    errors: row → what is wrong with that item.
    lent: what similar items lent; None where the label model looks at no other items.
    """

    ids: tuple[str, ...]
    votes: Votes
    probs: FloatArray
    label: npt.NDArray[np.int16]
    runner_up: npt.NDArray[np.int16]
    prior: FloatArray
    moved: FloatArray
    errors: Mapping[int, ItemError]
    versions: Versions
    lent: LentVotes | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Label]:
        return (self._row(i) for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)} labels")
        return self._row(position % len(self))

    def _row(self, i: int) -> Label:
        if i in self.errors:
            return Label(id=self.ids[i], status="error", error=self.errors[i])
        names, said = self.votes.class_names, self.votes.value_names
        probs = self.probs[i].tolist()
        top = int(np.argmax(self.probs[i]))
        chosen = int(self.label[i])
        reasons = tuple(
            Reason(
                lf=lf,
                vote=None if vote == ABSTAIN else said[vote],
                score=None if np.isnan(score) else float(score),
                moved=float(moved),
                lent=None if self.lent is None else self._lent(i, j),
            )
            for j, (lf, vote, score, moved) in enumerate(
                zip(
                    self.votes.lf_names,
                    self.votes.classes[i].tolist(),
                    self.votes.scores[i],
                    self.moved[i],
                    strict=True,
                )
            )
        )
        return Label(
            id=self.ids[i],
            status="abstained" if chosen == ABSTAIN else "labeled",
            label=None if chosen == ABSTAIN else names[chosen],
            confidence=probs[top if chosen == ABSTAIN else chosen],
            probs=dict(zip(names, probs, strict=True)),
            runner_up=names[int(self.runner_up[i])],
            prior=float(self.prior[i]),
            reasons=reasons,
        )

    def _lent(self, i: int, j: int) -> Lent | None:
        assert self.lent is not None
        votes = float(self.lent.votes[i, j])
        if not votes:
            return None
        return Lent(int(self.lent.neighbors[i, j]), float(self.lent.nearest[i, j]), votes)
