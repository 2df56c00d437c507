"""Do LFs on recognised text find words that are 20 pixels high?

python -m benchmarks.ocr [--json] [--quick] [--data DIR]

Words are drawn into images: many fonts of five families, upright and slanted, as written, capitalised and in capitals,
in colours, on plain colours, gradients, noise and photographs; the font size is 20 pixels, so that a small "x" is about
10 pixels high. On photographs half the words stand on a plate, as captions do, the others on the picture itself, in
whichever of two colours stands out from what is behind. Every word of the vocabulary is a keyword LF with ``on: ocr``;
a word is found if its LF votes on the image, and a vote for a word that is not there is a false one.
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.bars import arguments, at_least, at_most, show, told
from manyeyes import Item, Labeler, Recipe
from manyeyes.labeler import extractor_for

Pixels: TypeAlias = npt.NDArray[np.uint8]

SIZE = 20
WIDTH, HEIGHT = 360, 270
WORDS_AN_IMAGE = 4
BACKGROUNDS = ("plain", "gradient", "noise", "caption", "photo")
_WORDS = """
sale discount invoice receipt total amount address delivery fragile glass warning danger exit entrance ticket
platform menu coffee sugar organic butter chocolate vanilla orange lemon garden flower winter summer spring
autumn jacket trousers sweater cotton leather wool silk model number serial battery voltage charger camera
printer keyboard monitor engine bicycle helmet bridge river mountain island harbour museum library theatre
concert festival monday tuesday thursday friday january february december morning evening tonight tomorrow
welcome closed open hospital pharmacy vitamin tablet dosage children adult student teacher lesson history
science physics chemistry music guitar violin piano football tennis hockey stadium record winner champion price
refund payment account
"""
VOCABULARY = tuple(_WORDS.split())
_FONTS = (
    "DejaVuSans*.ttf",
    "DejaVuSerif*.ttf",
    "LiberationSans*.ttf",
    "LiberationSerif*.ttf",
    "LiberationMono*.ttf",
)
_TOO_THIN = ("Display", "Math", "ExtraLight")


@dataclass
class Found:
    """Words drawn, found and falsely found, by kind of background and family of font."""

    drawn: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: int = 0
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """One image and the words in it: word → name of its font."""

    image: Image.Image
    background: str
    words: dict[str, str]


def font_files() -> list[Path]:
    """Return the fonts of this machine that are used: Debian's DejaVu and Liberation, else those of matplotlib."""
    import matplotlib as mpl

    folders = [Path("/usr/share/fonts/truetype"), Path(mpl.get_data_path()) / "fonts/ttf"]
    for folder in folders:
        found = sorted(
            file
            for pattern in _FONTS
            for file in folder.rglob(pattern)
            if not any(word in file.name for word in _TOO_THIN)
        )
        if found:
            return found
    raise SystemExit("no fonts: apt-get install fonts-dejavu fonts-liberation, or pip install matplotlib")


def photos_in(data: Path, n_photos: int) -> list[Image.Image]:
    """Return photographs of everyday things, or of scikit-image where the larger data is not at hand."""
    archive = data / "imagenet_sample.zip"
    if not archive.is_file():
        from skimage import data as samples

        return [
            Image.fromarray(pixels) for pixels in (samples.astronaut(), samples.coffee(), samples.chelsea())
        ]
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        step = max(1, len(names) // n_photos)
        return [Image.open(io.BytesIO(source.read(name))).convert("RGB") for name in names[::step][:n_photos]]


def draw(
    rng: np.random.Generator, background: str, fonts: Sequence[Path], photos: Sequence[Image.Image]
) -> Drawn:
    """Return an image of 360 × 270 pixels with four words, one a quarter of its height."""
    image = _background(rng, background, photos)
    words: dict[str, str] = {}
    for i, word in enumerate(rng.choice(VOCABULARY, size=WORDS_AN_IMAGE, replace=False).tolist()):
        file = fonts[int(rng.integers(len(fonts)))]
        font = ImageFont.truetype(str(file), SIZE)
        written = (word, word.capitalize(), word.upper())[int(rng.integers(3))]
        left, top, right, bottom = (int(edge) for edge in font.getbbox(written))
        row = HEIGHT // WORDS_AN_IMAGE
        x = int(rng.integers(8, WIDTH - (right - left) - 8))
        y = row * i + int(rng.integers(6, row - (bottom - top) - 10))
        place = (x + left, y + top, x + right, y + bottom)
        if background == "caption":
            plate = tuple(rng.integers(0, 256, 3).tolist())
            ImageDraw.Draw(image).rectangle(
                (place[0] - 5, place[1] - 4, place[2] + 5, place[3] + 4), fill=plate
            )
        ImageDraw.Draw(image).text((x, y), written, fill=_colour(rng, image.crop(place)), font=font)
        words[word] = file.stem.partition("-")[0]
    return Drawn(image, background, words)


def _background(rng: np.random.Generator, kind: str, photos: Sequence[Image.Image]) -> Image.Image:
    colours = rng.integers(0, 256, (2, 3))
    if kind == "plain":
        return Image.new("RGB", (WIDTH, HEIGHT), tuple(colours[0].tolist()))
    if kind == "gradient":
        share = np.linspace(0, 1, WIDTH)[None, :, None]
        # Between two shades of one brightness or so: no ink stands out from black and from white.
        other = np.clip(colours[0] + rng.integers(-60, 61, 3), 0, 255)
        pixels = np.broadcast_to(colours[0] * (1 - share) + other * share, (HEIGHT, WIDTH, 3))
        return Image.fromarray(pixels.astype(np.uint8))
    if kind == "noise":
        pixels = np.clip(colours[0] + rng.normal(0, 18, (HEIGHT, WIDTH, 3)), 0, 255)
        return Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    photo = photos[int(rng.integers(len(photos)))]
    scale = max(WIDTH / photo.width, HEIGHT / photo.height)
    photo = photo.resize((round(photo.width * scale) + 1, round(photo.height * scale) + 1))
    return photo.crop((0, 0, WIDTH, HEIGHT))


def _colour(rng: np.random.Generator, behind: Image.Image) -> tuple[int, int, int]:
    """Return a dark ink for a bright ground and a bright one for a dark ground, not always black and white."""
    bright = float(np.asarray(behind.convert("L")).mean()) > 127
    ink = rng.integers(0, 70, 3) if bright else rng.integers(186, 256, 3)
    red, green, blue = ink.tolist()
    return red, green, blue


def recipe() -> Recipe:
    """Return one keyword LF a word."""
    lfs = [
        {"name": word, "kind": "keyword", "on": "ocr", "any": [word], "vote": "there"} for word in VOCABULARY
    ]
    return Recipe.parse({"name": "words", "classes": ["there", "other"], "lfs": lfs})


def measure(images: Sequence[Drawn]) -> tuple[Found, float]:
    """Return what the LFs found, and seconds an image."""
    labeler = Labeler(recipe(), extractor=extractor_for(recipe(), cache=None))
    labeler.votes([Item("first", image=images[0].image)])  # loads the models
    began = time.perf_counter()
    votes, errors, _ = labeler.votes([Item(str(i), image=drawn.image) for i, drawn in enumerate(images)])
    took = time.perf_counter() - began
    assert not errors, errors
    column = {name: j for j, name in enumerate(votes.lf_names)}
    found = Found()
    for i, drawn in enumerate(images):
        for word, font in drawn.words.items():
            seen = votes.classes[i, column[word]] == 0
            for group in ("all", drawn.background, font):
                found.drawn[group] += 1
                found.found[group] += int(seen)
            if not seen:
                found.missed.append(f"{word} ({drawn.background}, {font}, image {i})")
        found.false += int((votes.classes[i] == 0).sum()) - sum(
            votes.classes[i, column[word]] == 0 for word in drawn.words
        )
    return found, took / len(images)


def peer(images: Sequence[Drawn]) -> tuple[float, float]:
    """Return what RapidOCR does as it comes, all threads at one image: share of words found, seconds an image."""
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(params={"Global.log_level": "critical"})
    pixels = [np.asarray(drawn.image)[:, :, ::-1] for drawn in images]
    engine(pixels[0])
    began = time.perf_counter()
    texts = [" ".join(engine(image).txts or ()).casefold() for image in pixels]
    took = time.perf_counter() - began
    found = [word in text for drawn, text in zip(images, texts, strict=True) for word in drawn.words]
    return sum(found) / len(found), took / len(images)


def main() -> int:
    """Draw, read, compare."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=None, help="how many; 250, or 25 with --quick")
    parser.add_argument("--missed", action="store_true", help="list the words that were not found")
    options = parser.parse_args()
    n_images = options.images or (25 if options.quick else 250)
    rng = np.random.default_rng(20)
    fonts, photos = font_files(), photos_in(options.data, n_images)
    images = [draw(rng, BACKGROUNDS[i % len(BACKGROUNDS)], fonts, photos) for i in range(n_images)]
    found, seconds = measure(images)
    n_peer = min(n_images, 10 if options.quick else 50)
    peer_share, peer_seconds = peer(images[:n_peer])
    _, own_seconds = measure(images[:n_peer])
    shares = {group: found.found[group] / n for group, n in found.drawn.items()}
    n_words = found.drawn["all"]
    bars = [
        at_least(f"words found by keyword LFs at {SIZE} px ({n_words} words)", shares.pop("all"), 0.95),
        at_most(
            "false votes, a thousand images and LFs", 1e3 * found.false / (n_images * len(VOCABULARY)), 1.0
        ),
        *(told(f"words found: {group}", share) for group, share in sorted(shares.items())),
        told(f"images of {WIDTH} × {HEIGHT} a second", 1 / seconds, unit="img/s"),
        told(
            f"as fast as RapidOCR by itself, on {n_peer} images", peer_seconds / own_seconds, peer="RapidOCR"
        ),
        told(f"words that RapidOCR by itself finds in {n_peer} images", peer_share, peer="RapidOCR"),
    ]
    if options.missed:
        print(*found.missed, sep="\n", file=sys.stderr)
    return show("Recognised text", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
