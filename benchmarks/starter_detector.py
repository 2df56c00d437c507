"""Score the committed starter detector on scenes and photographs it was not trained on.

    python benchmarks/starter_detector.py [--quick] [--json] [--data ../shared/data]

Collages are rebuilt from the held-out photographs by seed; the real photographs are the 64 of COCO128's val2017 that
training leaves out. Needs the `detect` extra.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

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

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "models" / "starter" / "detector.pt"
PERSON = CLASSES.index("person")
# From this score on a person counts in `presence`; ultralytics' own default.
PRESENT = 0.25


def measure(
    detect: Detect, sources_path: Path, *, n_scenes: int
) -> dict[str, float | dict[str, tuple[float, int]]]:
    """Return every figure by name; per-class tables are dicts of (average precision, boxes)."""
    sources = load_sources(sources_path, "held_out")
    kinds: dict[str, list[Scene] | list[LabeledPhoto]] = {
        "collages": held_out_collages(sources, n_scenes=n_scenes, size=IMGSZ),
        "solos": held_out_solos(sources, n_scenes=n_scenes // 2, size=IMGSZ),
        "photos": list(sources.scenes),
    }
    figures: dict[str, float | dict[str, tuple[float, int]]] = {}
    for kind, truth in kinds.items():
        started = time.perf_counter()
        found = detect([scene.image for scene in truth])
        figures[f"{kind} ms per image"] = 1000 * (time.perf_counter() - started) / len(truth)
        precisions = average_precisions(truth, found)
        figures[f"{kind} mAP50"] = mean_average_precision(precisions)
        figures[f"{kind} per class"] = {CLASSES[i]: pair for i, pair in precisions.items()}
        if kind == "photos":
            figures["photos person AP50"] = precisions[PERSON][0]
            says = presence(truth, found, class_id=PERSON, score=PRESENT)
            for name, value in zip(("precision", "recall", "accuracy"), says, strict=True):
                figures[f"photos person present {name}"] = value
            there = sum(bool((photo.classes == PERSON).any()) for photo in truth) / len(truth)
            figures["photos person present majority"] = max(there, 1 - there)
    return figures


def main(argv: list[str] | None = None) -> int:
    """Print the figures, or with `--json` the bars."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 collages instead of 600")
    parser.add_argument("--json", action="store_true", help="one line a bar")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    if not args.data.is_dir():
        parser.error(f"no data at {args.data}; name the folder of zip files with --data")
    with tempfile.TemporaryDirectory() as work:
        quiet_ultralytics(Path(work))
        detect = detector(args.checkpoint, imgsz=IMGSZ, threads=args.threads)
        figures = measure(detect, args.data, n_scenes=100 if args.quick else 600)
    majority = figures["photos person present majority"]
    bars = (
        ("held-out collages", "collages mAP50", 0.5, "none", "mAP50"),
        ("held-out real photographs", "photos mAP50", None, "none", "mAP50"),
        ("person in real photographs", "photos person AP50", None, "none", "AP50"),
        (
            "count(person) >= 1 on real photographs",
            "photos person present accuracy",
            majority,
            "majority",
            "accuracy",
        ),
    )
    if args.json:
        for bar, name, goal, peer, unit in bars:
            figure = figures[name]
            met = None if goal is None else figure >= goal  # type: ignore[operator]
            line = {"bar": bar, "figure": figure, "goal": goal, "met": met, "peer": peer, "unit": unit}
            print(json.dumps(line))
        return 0
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name:34s} {value:.3f}")
    tables = [figures[f"{kind} per class"] for kind in ("collages", "solos", "photos")]
    print(f"\n{'class':12s} {'collages':>14s} {'solos':>14s} {'photos':>14s}   (AP50, boxes)")
    for cls in CLASSES:
        cells = [table.get(cls) for table in tables if isinstance(table, dict)]
        print(f"{cls:12s} " + " ".join(f"{c[0]:8.3f} {c[1]:5d}" if c else " " * 14 for c in cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
