"""Score how well a CLIP alone tells where things are: a heat map for each prompt, no detector.

    python -m benchmarks.grounding [--quick] [--json] [--data ../shared/data] [--model starter]

The pointing game (Zhang et al. 2016, "Top-down neural attention by excitation backprop"): the largest object of each
photograph of COCO128 is asked for by name, "a photo of a dog", and the hottest point should lie on it. Photographers
put large objects in the middle, so that the centre of the image is a strong baseline.

The head of the starter CLIP was trained on captions of 224 of the 256 photographs, and what there was to choose in
`clip.map` and `lfs/heat.py` was chosen on those: resolution, pooling, background, sharpness, share. The other 32 are
told by themselves. So is a question on photographs of another kind that neither saw: two garments of the validation
file side by side, one of which is asked for; guessing is right in half of the pairs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from benchmarks.bars import Bar, arguments, at_least, show, told
from manyeyes.lfs.grounding import ground
from manyeyes.lfs.heat import BACKGROUND, finer, heat_maps, hot_boxes, peaks
from manyeyes.lfs.where import photo_of, scale_of
from manyeyes.primitives.clip import ClipSpec
from manyeyes.primitives.extractor import Extractor
from manyeyes.types import Item

# The starter's head never saw every eighth photograph; see models/starter/CLIP_CARD.md.
_KEPT_OUT_EVERY = 8
_WELL_ABOVE = 0.1
_CENTRE_BOX = (0.1, 0.1, 0.9, 0.9)  # the best of several margins, so that the baseline is not made weak

Corners = npt.NDArray[np.float64]
Named = tuple[str, Corners]


@dataclass(frozen=True)
class Photo:
    """One photograph and its labeled boxes: names, and corners as fractions; not empty."""

    number: int
    image: Image.Image
    boxes: Sequence[Named]

    @property
    def largest(self) -> Named:
        return max(self.boxes, key=lambda box: float((box[1][2:] - box[1][:2]).prod()))

    def alike(self) -> list[Corners]:
        """The boxes of everything that is called as the largest object is."""
        return [corners for name, corners in self.boxes if name == self.largest[0]]


def load_photos(archive: Path) -> list[Photo]:
    """Return COCO128's photographs with at least one box, in the order in which the starter's training counts them."""
    photos = []
    with ZipFile(archive) as source:
        names = yaml.safe_load(source.read("classes.yaml"))["names"]
        members = set(source.namelist())
        files = sorted(name for name in members if name.startswith("images/") and name.endswith(".jpg"))
        for number, file in enumerate(files):
            labels = file.replace("images/", "labels/").replace(".jpg", ".txt")
            lines = source.read(labels).decode().splitlines() if labels in members else []
            boxes = []
            for line in lines:
                index, x, y, width, height = (float(value) for value in line.split()[:5])
                corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                boxes.append((str(names[int(index)]), corners))
            if boxes:
                photos.append(Photo(number, Image.open(io.BytesIO(source.read(file))).convert("RGB"), boxes))
    return photos


def on(point: Sequence[float] | Corners, boxes: Sequence[Corners]) -> bool:
    """Tell whether a point lies on one of some boxes."""
    return any(bool((box[:2] <= point).all() and (point <= box[2:]).all()) for box in boxes)


def overlap(a: Sequence[float] | Corners, b: Corners) -> float:
    """Return the intersection over union of two boxes."""
    a = np.asarray(a)
    shared = float(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


def presence_auroc(heat: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """Return how often the hottest point of a photograph with an object is hotter than that of one without it."""
    order = heat.argsort(kind="stable")
    ranks = np.empty(len(heat))
    ranks[order] = np.arange(1, len(heat) + 1)
    n = int(truth.sum())
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def measure(photos: Sequence[Photo], model: str) -> list[Bar]:
    """Return the bars."""
    extractor = Extractor.for_specs({"clip": ClipSpec(kind="clip", model=model)}, cache=None)
    block = extractor.extract([Item(str(p.number), image=p.image) for p in photos], ["clip.map"])["clip.map"]
    names = sorted({name for photo in photos for name, _ in photo.boxes})
    prompts = extractor.encode("clip", [photo_of(name) for name in names])
    background = extractor.encode("clip", BACKGROUND)
    scale = scale_of(extractor.info("clip.map"))
    heat = {
        name: finer(heat_maps(block["map"], prompts[i : i + 1], background, scale=scale))
        for i, name in enumerate(names)
    }
    asked = [heat[photo.largest[0]][i] for i, photo in enumerate(photos)]
    points = peaks(np.stack(asked))
    assert np.allclose(points[0], _by_the_function(photos[0], extractor)), "two ways to one heat map differ"
    boxes = [hot_boxes(one[None], least=0.0).corners[0] for one in asked]
    centre = np.array([0.5, 0.5])

    def share(test: Callable[[int, Photo], bool], which: str) -> float:
        kept = [which == "all" or photo.number % _KEPT_OUT_EVERY == 0 for photo in photos]
        return float(np.mean([test(i, photo) for i, photo in enumerate(photos) if kept[i]]))

    bars = []
    for which in ("all", "kept out"):
        n = sum(which == "all" or photo.number % _KEPT_OUT_EVERY == 0 for photo in photos)
        if not n:
            continue
        told_of = f"{n} photographs" if which == "all" else f"the {n} kept out of training and choosing"
        by_centre = share(lambda _, photo: on(centre, [photo.largest[1]]), which)
        figure = share(lambda i, photo: on(points[i], [photo.largest[1]]), which)
        bars += [
            told(f"centre point on the largest object, {told_of}", by_centre),
            at_least(
                f"hottest point on the largest object, {told_of}",
                figure,
                by_centre + _WELL_ABOVE,
                peer="the centre point, and 0.1 more",
            ),
            told(
                f"centre point on any object of the name, {told_of}",
                share(lambda _, photo: on(centre, photo.alike()), which),
            ),
            told(
                f"hottest point on any object of the name, {told_of}",
                share(lambda i, photo: on(points[i], photo.alike()), which),
            ),
            told(
                f"box around the hottest region, IoU with the largest at least 0.5, {told_of}",
                share(lambda i, photo: overlap(boxes[i], photo.largest[1]) >= 0.5, which),
            ),
            told(
                f"a box that leaves out a tenth on each side, the same, {told_of}",
                share(lambda _, photo: overlap(_CENTRE_BOX, photo.largest[1]) >= 0.5, which),
            ),
        ]
    hottest = np.concatenate([heat[name].max(axis=(1, 2)) for name in names])
    truth = np.concatenate([[any(n == name for n, _ in p.boxes) for p in photos] for name in names])
    bars.append(
        told(f"is it there? AUROC of the hottest point, {len(names)} names", presence_auroc(hottest, truth))
    )
    return bars


def _by_the_function(photo: Photo, extractor: Extractor) -> tuple[float, float]:
    [found] = ground([photo.image], photo.largest[0], extractor=extractor)
    return found.x, found.y


def pairs(archive: Path, n_pairs: int) -> list[tuple[Image.Image, tuple[str, str]]]:
    """Return pairs of garments of different classes, side by side on a square of 448 pixels, with the names of both."""
    rng = np.random.default_rng(0)
    made: list[tuple[Image.Image, tuple[str, str]]] = []
    with ZipFile(archive) as source:
        files = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        while len(made) < n_pairs:
            chosen = [files[i] for i in rng.choice(len(files), size=2, replace=False)]
            left, right = (file.partition("/")[0] for file in chosen)
            if left == right:
                continue
            canvas = Image.new("RGB", (448, 448), (127, 127, 127))
            for file, x in zip(chosen, (0, 224), strict=True):
                photo = Image.open(io.BytesIO(source.read(file))).convert("RGB")
                photo.thumbnail((224, 448))
                canvas.paste(photo, (x + (224 - photo.width) // 2, (448 - photo.height) // 2))
            made.append((canvas, (left, right)))
    return made


def measure_pairs(made: Sequence[tuple[Image.Image, tuple[str, str]]], model: str) -> list[Bar]:
    """Return how often the hottest point is on the half with the garment that is asked for."""
    extractor = Extractor.for_specs({"clip": ClipSpec(kind="clip", model=model)}, cache=None)
    right = []
    for name in sorted({name for _, names in made for name in names}):
        asked = [(image, names) for image, names in made if name in names]
        found = ground([image for image, _ in asked], name, extractor=extractor)
        right += [(one.x < 0.5) == (names[0] == name) for one, (_, names) in zip(found, asked, strict=True)]
    return [
        at_least(
            f"the right one of two garments, {len(made)} pairs, each asked for both",
            float(np.mean(right)),
            0.5 + _WELL_ABOVE,
            peer="guessing, and 0.1 more",
        )
    ]


def main() -> int:
    """Print the bars."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="starter", help="a CLIP, as in kind: clip")
    options = parser.parse_args()
    archive = options.data / "coco128.zip"
    if not archive.is_file():
        parser.error(f"there is no {archive}; name the folder of zip files with --data")
    photos = load_photos(archive)
    if options.quick:  # all that were kept out, and as many others
        photos = [photo for photo in photos if photo.number % _KEPT_OUT_EVERY < 2]
    bars = measure(photos, options.model)
    garments = options.data / "clothing_validation.zip"
    if garments.is_file():
        bars += measure_pairs(pairs(garments, 30 if options.quick else 150), options.model)
    return show("Where a CLIP sees what", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
