"""``kind: prompt``: images or texts held against sentences, in the space of an encoder that reads both.

::

    {name: looks_like, kind: prompt, threshold: 0.5,
     prompts: {dress: [a photo of a dress, a gown], hat: a photo of a hat}, against: [a photo of an empty room]}

The similarities of an item to every class and to every background prompt go through one softmax. The LF votes for the
most probable class where that probability is at least the threshold and above every background prompt's, with the
probability as its score; it abstains otherwise. So an item that looks like none of the classes can look like nothing.

``background: standard`` puts hundreds of everyday things into that softmax. The LF then also abstains where all of its
classes together are less probable than everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import Context, LabelingFunction, LFSpec, VoteColumn
from manyeyes.lfs.fields import needed_for
from manyeyes.lfs.prompt_scores import Probabilities, PromptTable, combined
from manyeyes.lfs.prompt_spec import BOTH, Modality, PromptSpec
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import ABSTAIN, FloatArray, VoteArray

_LOGIT_SCALE: Final = 20.0
"""For an encoder that names no scale of its own: cosines of sentence encoders lie far apart already."""
_BLOCK: Final = 4_096


class Evidence(NamedTuple):
    """What prompts say of items before any threshold.

    classes: float32, shape (n_classes_prompted, n_items): the probability of each class. in_class: float32, shape
    (n_items,): of being any of them; 1 where there is no background. background: float32, shape (n_items,): of the most
    probable ``against``. present: bool, shape (n_items,).
    """

    classes: FloatArray
    in_class: FloatArray
    background: FloatArray
    present: npt.NDArray[np.bool_]


class PromptLF(LabelingFunction):
    """Votes for the class whose prompts an item is nearest to; scores are softmax probabilities."""

    kind: ClassVar[str] = "prompt"
    Spec = PromptSpec
    spec: PromptSpec

    _tables: Mapping[Modality, PromptTable]  # set by `prepare`

    def __init__(self, spec: LFSpec, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.prompted = tuple(self.spec.prompts) or self.classes
        for group in self.spec.groups.values():
            self.declare(group.classes)

    @property
    def reads(self) -> tuple[str, ...]:
        features = tuple(self.spec.feature(modality) for modality in self.spec.modalities)
        return (*features, *(() if self.spec.on in ("image", BOTH) else needed_for(self.spec.on)))

    def prepare(self, context: Context) -> None:
        """Encode the prompts and find the scale of the encoder's similarities."""
        tables: dict[Modality, PromptTable] = {}
        for modality in self.spec.modalities:
            encoder = self.spec.encoder(modality).partition(".")[0]
            sentences = self.spec.sentences(self.classes, modality)
            scale = self._find_scale(context.info(encoder))
            calibration = self.spec.calibrated.get(modality)
            if calibration is not None and abs(calibration.scale - scale) > 1e-3 * scale:
                raise InvalidRecipe(
                    f"LF {self.name!r} was calibrated at scale {calibration.scale:g} of {modality} similarities, and"
                    f" {encoder!r} has {scale:g} here; calibrate it again (manyeyes recipe calibrate), or leave"
                    " calibrated out"
                )
            tables[modality] = PromptTable.of(
                sentences,
                context.encode(encoder, sentences.all()),
                mean=self.spec.pool == "mean",
                scale=scale,
                names=self.prompted,
                calibration=calibration,
            )
        self._tables = tables

    def vote(self, features: FeatureSet) -> VoteColumn:
        column = self.empty(len(features))
        for start in range(0, len(features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            seen = self._evidence(features, rows)
            value, score = self._grouped(seen.classes) if self.spec.groups else self._best(seen.classes)
            votes = seen.present & (score >= np.float32(self.spec.threshold)) & (score > seen.background)
            if self.spec.keeps_quiet:
                votes &= seen.in_class >= np.float32(0.5)
            column.classes[rows] = np.where(votes, value, ABSTAIN)
            column.scores[rows] = np.where(votes, score, np.float32(np.nan))
        return column

    def evidence(self, features: FeatureSet) -> Evidence:
        """Return what the prompts say of items before any threshold; the LF must have been prepared."""
        starts = range(0, max(len(features), 1), _BLOCK)
        parts = [self._evidence(features, slice(start, start + _BLOCK)) for start in starts]
        return Evidence(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))

    def uncalibrated(
        self, features: FeatureSet, modality: Modality
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Return what calibration is fitted on, of the items that have the modality.

        float64, shapes (n_present, n_classes_prompted) and (n_present,); see ``PromptTable.uncalibrated``.
        """
        block = features[self.spec.feature(modality)]
        return self._tables[modality].uncalibrated(block["embedding"][block.present])

    def scale(self, modality: Modality) -> float:
        """Return the scale of the similarities; the LF must have been prepared."""
        return self._tables[modality].scale

    def _evidence(self, features: FeatureSet, rows: slice) -> Evidence:
        looks = [self._look(features, rows, modality) for modality in self.spec.modalities]
        told, present = looks[0]
        if len(looks) > 1:
            told, present = _both(*looks[0], *looks[1])
        return Evidence(
            classes=told.classes.astype(np.float32),
            in_class=(1.0 - told.none).astype(np.float32),
            background=told.against.astype(np.float32).max(axis=0, initial=0.0),
            present=present,
        )

    def _look(
        self, features: FeatureSet, rows: slice, modality: Modality
    ) -> tuple[Probabilities, npt.NDArray[np.bool_]]:
        block = features[self.spec.feature(modality)]
        return self._tables[modality].probabilities(block["embedding"][rows]), block.present[rows]

    def _best(self, classes: FloatArray) -> tuple[VoteArray, FloatArray]:
        voted = np.array([self.class_index(name) for name in self.prompted])
        return voted[classes.argmax(axis=0)], classes.max(axis=0)

    def _grouped(self, classes: FloatArray) -> tuple[VoteArray, FloatArray]:
        """Return votes where the group is decided first, and is the vote where no class in it is sure enough."""
        place = {name: index for index, name in enumerate(self.prompted)}
        grouped = {name for group in self.spec.groups.values() for name in group.classes}
        together = [group.classes for group in self.spec.groups.values()]
        together += [(name,) for name in self.prompted if name not in grouped]
        sums = np.stack([classes[[place[name] for name in names]].sum(axis=0) for names in together])
        chosen = sums.argmax(axis=0)
        value = np.zeros(classes.shape[1], dtype=np.int64)
        score = np.zeros(classes.shape[1], dtype=np.float32)
        for index, names in enumerate(together):
            mine = chosen == index
            inside = classes[[place[name] for name in names]][:, mine]
            fine = np.array([self.class_index(name) for name in names])[inside.argmax(axis=0)]
            best = inside.max(axis=0)
            sure = (best >= np.float32(self.spec.threshold)) | (len(names) == 1)
            value[mine] = np.where(sure, fine, self.value_of(names))
            score[mine] = np.where(sure, best, sums[index][mine])
        return value, score

    def _find_scale(self, info: Mapping[str, Any]) -> float:
        if self.spec.temperature is not None:
            return 1.0 / self.spec.temperature
        return float(info.get("logit_scale", _LOGIT_SCALE))


def _both(
    first: Probabilities,
    has_first: npt.NDArray[np.bool_],
    second: Probabilities,
    has_second: npt.NDArray[np.bool_],
) -> tuple[Probabilities, npt.NDArray[np.bool_]]:
    """Return what two looks say together, or the one that there is, where an item lacks the other's input."""
    together = combined(first, second)
    for there, other, alone in ((has_first, has_second, first), (has_second, has_first, second)):
        only = there & ~other
        together.classes[:, only] = alone.classes[:, only]
        together.none[only] = alone.none[only]
    return together, has_first | has_second
