"""Photographs that the starter detector's scenes are made of, read from the shared data folder.

Two disjoint pools: `train` (CIFAR-10 train, clothing train, COCO128 train2017 and every other photograph of its
val2017, four fifths of the ImageNet sample) and `held_out` (CIFAR-10 test, clothing validation, the rest of val2017,
the remaining fifth of the ImageNet sample). No photograph is in both.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (height, width, 3), RGB
Boxes = NDArray[np.float32]  # (n, 4): x0, y0, x1, y1 in pixels
Split = Literal["train", "held_out"]

GARMENTS = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")
CLASSES = (
    *("person", "car", "motorcycle", "airplane", "bus", "truck", "boat"),
    *("bird", "cat", "dog", "horse", "deer", "frog", "cup"),
    *GARMENTS,
)
# CIFAR-10 says automobile and ship where COCO says car and boat; COCO's names win, because users know them.
CIFAR_NAMES = {"automobile": "car", "ship": "boat"}

# ImageNet photographs of one of our things, by ImageNet class name; the dogs and birds are ranges of wnids.
IMAGENET_OBJECTS = {
    "car": "cab convertible beach_wagon jeep limousine minivan sports_car racer Model_T",
    "motorcycle": "moped motor_scooter",
    "airplane": "airliner warplane",
    "bus": "school_bus trolleybus minibus",
    "truck": "garbage_truck fire_engine moving_van tow_truck trailer_truck pickup",
    "boat": "speedboat schooner trimaran catamaran lifeboat yawl fireboat container_ship liner",
    "cat": "tabby tiger_cat Persian_cat Siamese_cat Egyptian_cat",
    "horse": "sorrel",
    "frog": "bullfrog tree_frog tailed_frog",
    "cup": "cup coffee_mug espresso",
    "hat": "cowboy_hat sombrero",
    "shoes": "running_shoe Loafer sandal cowboy_boot",
}
DOG_WNIDS = ("n02085620", "n02113978")
BIRD_WNIDS = (("n01514668", "n01622779"), ("n01795545", "n01860187"), ("n02002556", "n02058221"))

# ImageNet classes, by name, whose photographs in the sample hold none of our things: scenery, surfaces, food, …
BACKGROUNDS = """
alp valley volcano cliff coral_reef geyser lakeside promontory seashore castle church mosque palace
monastery stupa obelisk megalith dome barn boathouse greenhouse stone_wall worm_fence chainlink_fence
viaduct steel_arch_bridge totem_pole cliff_dwelling mobile_home yurt tile_roof planetarium water_tower
beacon breakwater dam pier maze patio library bookcase china_cabinet wardrobe chiffonier medicine_chest desk
entertainment_center home_theater four-poster quilt prayer_rug doormat window_shade window_screen
sliding_door shoji radiator space_heater stove refrigerator dishwasher microwave washer washbasin bathtub
altar vault honeycomb spider_web hay corn rapeseed daisy buckeye acorn hip mushroom agaric bolete earthstar
gyromitra stinkhorn coral_fungus hen-of-the-woods broccoli cauliflower zucchini artichoke bell_pepper
cucumber strawberry orange lemon fig pineapple banana jackfruit pomegranate pizza plate carbonara guacamole
mashed_potato wool crossword_puzzle manhole_cover menu solar_dish sundial birdhouse mailbox
brain_coral sea_anemone starfish sea_urchin snail slug isopod tarantula ladybug monarch jellyfish bannister
tray plate_rack pot typewriter_keyboard computer_keyboard space_bar switch loudspeaker wall_clock
digital_clock analog_clock
"""


@dataclass
class Photo:
    """One photograph of one thing that fills it, kept as JPEG bytes.

    cut: whether the outline of the thing is looked for (garments, ImageNet); CIFAR photos are too small for that.
    """

    data: bytes
    class_id: int
    cut: bool
    outline: NDArray[np.uint8] | None = field(default=None, repr=False)

    def image(self) -> Image:
        """Return the decoded photograph, uint8 RGB."""
        return decode(self.data)

    def mask(self) -> NDArray[np.uint8]:
        """Return the thing's outline, uint8 (96, 96), 0 or 255; all 255 where none was found. Kept after the first."""
        if self.outline is None:
            self.outline = find_outline(self.image()) if self.cut else np.full((96, 96), 255, np.uint8)
        return self.outline


@dataclass(frozen=True)
class LabeledPhoto:
    """A photograph with every one of our things boxed. boxes: (n, 4) pixels; classes: int64 (n,)."""

    image: Image
    boxes: Boxes
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Sources:
    """What scenes are made of. photos: by class id, things that fill their photograph; scenes: real photographs."""

    photos: dict[int, list[Photo]]
    scenes: Sequence[LabeledPhoto]
    backgrounds: Sequence[bytes]


def decode(data: bytes) -> Image:
    """Return JPEG or PNG bytes as uint8 RGB. Raises ValueError when they are no image."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("these bytes are no image that OpenCV can decode")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def find_outline(image: Image) -> NDArray[np.uint8]:
    """Return where the thing in the middle of a photograph is: uint8 (96, 96), 0 or 255.

    GrabCut from a border of 4 %; what it finds is dropped (all 255) when it is implausibly small or large.
    """
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    mask = np.zeros((96, 96), np.uint8)
    cv2.setRNGSeed(0)  # GrabCut draws its first clusters from OpenCV's global generator
    cv2.grabCut(small, mask, (4, 4, 88, 88), np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_RECT)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(found)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    if len(sizes) == 0 or not 0.15 * 96 * 96 <= sizes.max() <= 0.8 * 96 * 96:
        return np.full((96, 96), 255, np.uint8)
    return np.where(parts == 1 + int(sizes.argmax()), 255, 0).astype(np.uint8)


def load_sources(data: Path, split: Split) -> Sources:
    """Read one split's photographs from the zip files in `data`. Raises FileNotFoundError where one is missing."""
    held_out = split == "held_out"
    photos: dict[int, list[Photo]] = {i: [] for i in range(len(CLASSES))}
    for archive, cut in (
        ("cifar10_test" if held_out else "cifar10_train", False),
        ("clothing_validation" if held_out else "clothing_train", True),
    ):
        for name, content in _members(data / f"{archive}.zip"):
            folder = name.split("/")[0]
            class_id = CLASSES.index(CIFAR_NAMES.get(folder, folder))
            photos[class_id].append(Photo(content, class_id, cut))
    names = {
        name: CLASSES.index(cls) for cls, members in IMAGENET_OBJECTS.items() for name in members.split()
    }
    backgrounds: list[bytes] = []
    wanted = set(BACKGROUNDS.split())
    for i, (name, content) in enumerate(_members(data / "imagenet_sample.zip")):
        if (i % 5 == 0) != held_out:
            continue
        wnid, stem = name.removesuffix(".jpg").split("/")
        found = names.get(stem)
        if DOG_WNIDS[0] <= wnid <= DOG_WNIDS[1]:
            found = CLASSES.index("dog")
        elif any(first <= wnid <= last for first, last in BIRD_WNIDS):
            found = CLASSES.index("bird")
        if found is not None:
            photos[found].append(Photo(content, found, True))
        elif stem in wanted:
            backgrounds.append(content)
    return Sources(photos, _coco(data / "coco128.zip", held_out=held_out), backgrounds)


def _members(archive: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        return [(name, opened.read(name)) for name in sorted(opened.namelist()) if name.endswith(".jpg")]


def _coco(archive: Path, *, held_out: bool) -> list[LabeledPhoto]:
    scenes: list[LabeledPhoto] = []
    with zipfile.ZipFile(archive) as opened:
        known: dict[int, str] = yaml.safe_load(opened.read("classes.yaml"))["names"]
        members = set(opened.namelist())
        files = sorted(name for name in members if name.endswith(".jpg"))
        val = [name for name in files if "/val2017/" in name]
        chosen = val[::2] if held_out else [name for name in files if "/train2017/" in name] + val[1::2]
        for name in chosen:
            image = decode(opened.read(name))
            height, width = image.shape[:2]
            boxes, classes = [], []
            label = name.replace("images/", "labels/").replace(".jpg", ".txt")
            # COCO ships no label file for a photograph without annotations.
            for line in opened.read(label).decode().splitlines() if label in members else ():
                index, x, y, w, h = (float(v) for v in line.split())
                if known[int(index)] in CLASSES:
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                    classes.append(CLASSES.index(known[int(index)]))
            # 448 pixels are enough for zooms into scenes of 256 and keep 200 photographs in 100 MB.
            shrink = min(1.0, 448 / max(height, width))
            if not held_out:
                image = np.asarray(
                    cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
                )
            height, width = image.shape[:2]
            scale = np.array([width, height, width, height], np.float32)
            scenes.append(
                LabeledPhoto(
                    image,
                    np.array(boxes, np.float32).reshape(-1, 4) * scale,
                    np.array(classes, np.int64).reshape(-1),
                )
            )
    return scenes
