"""The parts of scripts/demo that are Python: gather the photographs, and hold the labels against what is expected.

python examples/demo.py gather FOLDER
python examples/demo.py score LABELS GOLD
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
from pathlib import Path

from manyeyes.sinks import read_labels

# Where the photographs lie inside packages that pip installs; the packages are found and not imported.
PHOTOS = {
    "skimage": (
        "data",
        "astronaut.png camera.png chelsea.png coffee.png coins.png motorcycle_left.png motorcycle_right.png page.png"
        " rocket.jpg text.png",
    ),
    "ultralytics": ("assets", "bus.jpg zidane.jpg"),
}
GOAL = 0.8
SURE = 0.9


def gather(folder: Path) -> int:
    """Copy the photographs and the table of texts into a folder."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for package, (inside, names) in PHOTOS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            sys.stderr.write(f"demo: the package {package} is not installed; run scripts/setup demo\n")
            return 1
        for name in names.split():
            shutil.copyfile(Path(spec.submodule_search_locations[0]) / inside / name, photos / name)
    shutil.copyfile(Path(__file__).with_name("demo_texts.csv"), folder / "texts.csv")
    return 0


def score(labels: Path, gold: Path) -> int:
    """Print how many photographs and texts are right; return 0 if enough are and none is wrong and sure of it."""
    with gold.open(newline="", encoding="utf-8") as stream:
        expected = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    found = {label.id: label for label in read_labels(labels)}
    right = {item_id: item_id in found and found[item_id].label == name for item_id, name in expected.items()}
    lines = []
    for item_id, name in expected.items():
        if not right[item_id]:
            came = found.get(item_id)
            told = "missing" if came is None else f"{came.label or came.status} at {came.confidence or 0:.0%}"
            lines.append(f"  {item_id}: {told}, expected {name}")
    photos = [right[item_id] for item_id in expected if item_id.startswith("photos/")]
    texts = [right[item_id] for item_id in expected if not item_id.startswith("photos/")]
    lines.append(
        f"{sum(photos)} of {len(photos)} photographs right, {sum(texts)} of {len(texts)} texts right"
    )
    sure_and_wrong = [
        item_id
        for item_id, is_right in right.items()
        if not is_right
        and item_id in found
        and found[item_id].label
        and (found[item_id].confidence or 0) > SURE
    ]
    lines.append(f"wrong with more than {SURE:.0%} confidence: {', '.join(sure_and_wrong) or 'none'}")
    met = sum(photos) >= GOAL * len(photos) and not sure_and_wrong
    lines.append(
        f"goal, {GOAL:.0%} of the photographs right and none surely wrong: {'met' if met else 'NOT met'}"
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["help"]
    if command == "gather" and len(arguments) == 1:
        sys.exit(gather(Path(arguments[0])))
    if command == "score" and len(arguments) == 2:
        sys.exit(score(Path(arguments[0]), Path(arguments[1])))
    sys.stderr.write(f"{__doc__}\n")
    sys.exit(2)
