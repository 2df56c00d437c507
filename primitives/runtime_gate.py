"""Whether a faster way to run a tower may be used: held to torch in float32, on photographs that are made here.

A machine in production has no photographs to spare, so they are generated: leaves of all sizes, colours and textures
that hide each other, which have the statistics of photographs (edges at every scale, spectra that fall like 1/f).
Source: Lee, Mumford, Huang, Occlusion models for natural images, 2001. ``python -m benchmarks.primitives`` reports the
same figures on real photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.runtimes import Runner, run_packs
from manyeyes.primitives.towers import Pixels, Tower

N_PHOTOS: Final = 32
LEAST_COSINE: Final = 0.99
LEAST_AGREEMENT: Final = 0.995
_N_LEAVES: Final = 160


@dataclass(frozen=True)
class Verdict:
    """What the gate found. refused: why a runtime may not be used; None if it may.

    cosine: of the worst photograph. agreement: of all pairs of prompts on all photographs, the share in which the same
    one of the two is nearer, which is the answer to a question with two classes.
    """

    cosine: float
    agreement: float
    refused: str | None


def made_photos(size: tuple[int, int], n_photos: int = N_PHOTOS, *, seed: int = 0) -> list[Pixels]:
    """Return photographs of leaves that hide each other: uint8, shape (height, width, 3) each.

    size: (height, width) in pixels. The same seed makes the same ones.
    """
    rng = np.random.default_rng(seed)
    return [_leaves(size, rng) for _ in range(n_photos)]


def _leaves(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    height, width = size
    grain = _grain(size, rng)
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = rng.uniform(0, 255, 3)
    palette = rng.uniform(0, 255, (8, 3))
    for i in range(_N_LEAVES):
        # Radii whose cubes are spread evenly in their inverse: as many details at each scale as nature has.
        radius = min(size) / 2 * (1 + i / 6) ** -0.8
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        angle, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        top, left = max(0, int(cy - radius)), max(0, int(cx - radius))
        part = np.s_[top : int(cy + radius) + 1, left : int(cx + radius) + 1]
        y = np.arange(height, dtype=np.float32)[part[0], None] - cy
        x = np.arange(width, dtype=np.float32)[None, part[1]] - cx
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        inside = (u / radius) ** 2 + (v / (radius * flat)) ** 2 < 1
        shade = 1 + 0.3 * u[inside, None] / radius + rng.uniform(0, 0.5) * grain[part][inside, None]
        image[part][inside] = (palette[rng.integers(len(palette))] + rng.normal(0, 20, 3)) * shade
    return np.clip(image, 0, 255).astype(np.uint8)


def _grain(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a texture whose amplitudes fall like 1/f: float32, shape `size`, with deviation 1."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=size)) / frequency, s=size)
    return np.asarray(noise / (noise.std() or 1), dtype=np.float32)


def directions(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors at length 1. Raises ValueError if one has no direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or not lengths.all():
        raise ValueError("a vector is zero, infinite or NaN")
    return np.asarray(vectors / lengths, dtype=np.float32)


def judge(
    tower: Tower,
    reference: npt.NDArray[np.float32],
    runner: Runner,
    photos: Sequence[Pixels],
    *,
    run: Callable[[Any], Any],
) -> Verdict:
    """Hold a runner to the reference's vectors of some photographs: float32, shape (n_photos, dim).

    run: given packs, returns what the runner makes of each.
    """
    try:
        vectors = run_packs(run, runner, photos)
        backwards = run_packs(run, runner, photos[::-1])[::-1]
        alone = np.concatenate([run_packs(run, runner, [photo]) for photo in photos[:4]])
        said = directions(vectors)
    except Exception as error:  # its library's own errors, or none of its answers can be used
        return Verdict(0.0, 0.0, f"it fails: {type(error).__name__}: {error}"[:300])
    if vectors.shape != reference.shape:
        return Verdict(0.0, 0.0, f"it answers with shape {vectors.shape}, not {reference.shape}")
    wanted = directions(reference)
    cosine = float((said * wanted).sum(axis=1).min())
    agreement = agreement_of(said, wanted, tower.prompts())
    refused = None
    if not np.array_equal(vectors, backwards) or not np.array_equal(vectors[:4], alone):
        refused = "an image's bits depend on which others are computed with it"
    elif cosine < LEAST_COSINE:
        refused = f"cosine {cosine:.4f} to torch in float32; at least {LEAST_COSINE} is wanted"
    elif agreement < LEAST_AGREEMENT:
        refused = f"{agreement:.4f} of the answers are those of torch in float32; at least {LEAST_AGREEMENT} are wanted"
    return Verdict(cosine, agreement, refused)


def agreement_of(
    said: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], prompts: npt.NDArray[np.float32]
) -> float:
    """Return the share of (photograph, pair of prompts) for which both name the same prompt as the nearer one.

    said, wanted: float32, shape (n_photos, dim). prompts: float32, shape (n_prompts, dim).
    """
    first, second = np.triu_indices(len(prompts), k=1)
    differences = prompts[first] - prompts[second]
    return float(((said @ differences.T > 0) == (wanted @ differences.T > 0)).mean())
