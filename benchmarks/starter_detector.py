"""Score the committed starter detector on scenes and photographs it was not trained on.

    python -m benchmarks.starter_detector [--quick] [--json] [--data ../shared/data]

Collages are rebuilt from the held-out photographs by seed; the real photographs are the 64 of COCO128's val2017 that
training leaves out. Needs the `detect` extra.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bars import arguments, at_least, show, told
from manyeyes.models.starter.detector_network import IMGSZ, detector, quiet_ultralytics
from manyeyes.models.starter.detector_scores import (
    Detect,
    average_precisions,
    held_out_collages,
    held_out_solos,
    mean_average_precision,
    presence,
)
from manyeyes.models.starter.scene_sources import CLASSES, LabeledPhoto, load_sources
from manyeyes.models.starter.scenes import Scene

CHECKPOINT = Path(__file__).resolve().parents[1] / "models" / "starter" / "detector.pt"
PERSON = CLASSES.index("person")
# From this score on a person counts in `presence`; ultralytics' own default.
PRESENT = 0.25


def measure(
    detect: Detect, data: Path, *, n_scenes: int
) -> tuple[dict[str, float], dict[str, dict[str, tuple[float, int]]]]:
    """Return the figures by name, and for each kind of scene every class's (average precision, boxes)."""
    sources = load_sources(data, "held_out")
    kinds: dict[str, Sequence[Scene | LabeledPhoto]] = {
        "collages": held_out_collages(sources, n_scenes=n_scenes, size=IMGSZ),
        "solos": held_out_solos(sources, n_scenes=n_scenes // 2, size=IMGSZ),
        "photos": list(sources.scenes),
    }
    every = {kind: detect([scene.image for scene in truth]) for kind, truth in kinds.items()}
    together = average_precisions(
        [*kinds["collages"], *kinds["solos"]], [*every["collages"], *every["solos"]]
    )
    figures: dict[str, float] = {"collages and solos: mAP50": mean_average_precision(together)}
    tables: dict[str, dict[str, tuple[float, int]]] = {}
    for kind, truth in kinds.items():
        found = every[kind]
        precisions = average_precisions(truth, found)
        figures[f"{kind}: mAP50"] = mean_average_precision(precisions)
        tables[kind] = {CLASSES[i]: pair for i, pair in precisions.items()}
        if kind == "photos":
            figures["photos: person AP50"] = precisions[PERSON][0]
            says = presence(truth, found, class_id=PERSON, score=PRESENT)
            for name, value in zip(("precision", "recall", "accuracy"), says, strict=True):
                figures[f"photos: is a person there, {name}"] = value
            there = sum(bool((photo.classes == PERSON).any()) for photo in truth) / len(truth)
            figures["photos: always saying there is a person"] = max(there, 1 - there)
    return figures, tables


def main() -> int:
    """Print the bars, and without `--json` the table of classes."""
    parser = arguments(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"no data at {options.data}; name the folder of zip files with --data")
    with tempfile.TemporaryDirectory() as work:
        quiet_ultralytics(Path(work))
        detect = detector(options.checkpoint, imgsz=IMGSZ, threads=options.threads)
        figures, tables = measure(detect, options.data, n_scenes=100 if options.quick else 600)
    always = figures.pop("photos: always saying there is a person")
    bars = [
        at_least("collages and solos: mAP50", figures.pop("collages and solos: mAP50"), 0.5),
        at_least("collages: mAP50", figures.pop("collages: mAP50"), 0.5),
        at_least(
            "photos: is a person there, accuracy",
            figures.pop("photos: is a person there, accuracy"),
            always,
            peer="always saying yes, or always no",
        ),
        *(told(name, value) for name, value in figures.items()),
    ]
    code = show("The starter detector on what it never saw", bars, as_json=options.json)
    if not options.json:
        print(f"{'AP50 (boxes)':12s} " + " ".join(f"{kind:>14s}" for kind in tables))
        for name in CLASSES:
            cells = [table.get(name) for table in tables.values()]
            print(f"{name:12s} " + " ".join(f"{c[0]:8.3f} {c[1]:5d}" if c else " " * 14 for c in cells))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
