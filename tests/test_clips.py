"""One label a clip: how frames are put together, and the command line over real videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from manyeyes.cli import app
from manyeyes.clips import pool_clips, worth
from manyeyes.errors import InvalidRequest, PrimitiveFailed
from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler
from manyeyes.recipe import Recipe
from manyeyes.sinks import read_labels
from manyeyes.types import ABSTAIN, Label, Votes

CLASSES = ("dress", "hat", "shoes")
NAN = float("nan")


def recipe(**fields: Any) -> Recipe:
    lfs = [{"name": name, "kind": "keyword", "any": "x", "vote": "hat"} for name in ("a", "b")]
    told = {"unfamiliar_below": 0, "label_model": "majority", **fields}
    return Recipe.parse({"name": "r", "classes": list(CLASSES), "lfs": lfs, **told})


def pooled(
    votes: Sequence[Sequence[tuple[int, float] | None]],
    clips: Sequence[str | None],
    *,
    errors: Sequence[int] = (),
    correlation: float = 0.5,
    **fields: Any,
) -> tuple[list[Label], Any]:
    """Label frames by hand-made votes, one (class, score) an LF, then clips."""
    labeler = Labeler(recipe(**fields))
    n = len(votes)
    classes, scores = np.full((n, 2), ABSTAIN, dtype=np.int8), np.full((n, 2), np.nan, dtype=np.float32)
    for i, row in enumerate(votes):
        for j, vote in enumerate(row):
            if vote is not None:
                classes[i, j], scores[i, j] = vote
    collected = Collected(
        votes=Votes(classes, scores, CLASSES, ("a", "b"), shared=((), ())),
        errors={row: PrimitiveFailed("broken") for row in errors},
        ids=tuple(f"{clip}#t={i}" for i, clip in enumerate(clips)),
    )
    labeler.fit_collected(collected)
    labels = labeler.fuse(collected)
    return pool_clips(labeler, collected, labels, clips=clips, correlation=correlation), labels


HAT, DRESS = (1, 0.9), (0, 0.7)


def log_odds(label: Label) -> float:
    ranked = sorted(label.probs.values())
    return math.log(ranked[-1] / ranked[-2])


def test_frames_are_worth_less_than_their_number() -> None:
    assert [worth(n, 1.0) for n in (1, 5, 500)] == [1, 1, 1]
    assert [worth(n, 0.0) for n in (1, 5, 500)] == [1, 5, 500]
    assert [worth(n) for n in (1, 2, 3)] == pytest.approx([1, 4 / 3, 1.5])


def test_one_frame_is_its_own_clip() -> None:
    (clip,), frames = pooled([[HAT, None]], ["c"])
    assert clip.id == "c" and clip.label == "hat"
    assert clip.probs == pytest.approx(frames[0].probs)
    assert clip.reasons[0].moved == pytest.approx(frames[0].reasons[0].moved)
    assert clip.reasons[0].at == "c#t=0" and clip.reasons[1].at is None


def test_frames_that_agree_make_surer_up_to_a_bound() -> None:
    (one,), _ = pooled([[HAT, None]], ["c"])
    (ten,), _ = pooled([[HAT, None]] * 10, ["c"] * 10)
    (many,), _ = pooled([[HAT, None]] * 1000, ["c"] * 1000)
    assert log_odds(one) < log_odds(ten) < log_odds(many) < 2 * log_odds(one)
    assert log_odds(ten) == pytest.approx(worth(10) * log_odds(one), rel=1e-4)
    (alike,), _ = pooled([[HAT, None]] * 10, ["c"] * 10, correlation=1)
    assert alike.probs == pytest.approx(one.probs)


def test_frames_that_say_nothing_outvote_nobody() -> None:
    said, silent = [[HAT, None]] * 2, [[None, None]] * 50
    (clip,), _ = pooled([*said, *silent], ["c"] * 52)
    (alone,), _ = pooled(said, ["c"] * 2)
    assert clip.probs == pytest.approx(alone.probs)


def test_reasons_add_up_and_name_the_strongest_frame() -> None:
    votes = [[(1, 0.6), DRESS], [(1, 0.95), None], [(1, 0.8), (0, 0.9)], [None, (1, 0.5)]]
    (clip,), _ = pooled(votes, ["c"] * 4)
    assert clip.label == "hat"
    assert clip.prior is not None
    total = clip.prior + sum(reason.moved for reason in clip.reasons)
    assert total == pytest.approx(math.log(clip.probs["hat"] / clip.probs[str(clip.runner_up)]), abs=1e-4)
    a, b = clip.reasons
    assert (a.at, a.vote, a.score) == ("c#t=1", "hat", pytest.approx(0.95))
    assert (b.at, b.vote, b.score) == ("c#t=2", "dress", pytest.approx(0.9)) and b.moved < 0


def test_clips_stand_where_they_began_among_other_items() -> None:
    clips = ["c", None, "d", "c", "d", None]
    labels, frames = pooled([[HAT, None], [DRESS, None]] * 3, clips)
    assert [label.id for label in labels] == ["c", "None#t=1", "d", "None#t=5"]
    assert labels[1].to_dict() == frames[1].to_dict()


def test_nothing_said_is_no_label_or_the_default() -> None:
    silent = [[None, None]] * 3
    (clip,), _ = pooled(silent, ["c"] * 3)
    assert (clip.status, clip.confidence) == ("abstained", pytest.approx(1 / 3))
    (clip,), _ = pooled(silent, ["c"] * 3, default_class="shoes")
    assert (clip.status, clip.label, clip.by_default) == ("labeled", "shoes", True)


def test_a_clip_that_is_not_sure_enough_has_no_label() -> None:
    votes = [[(1, 0.7), None]] * 5
    (clip,), frames = pooled(votes, ["c"] * 5)
    one, together = frames[0].confidence, clip.confidence
    (clip,), frames = pooled(votes, ["c"] * 5, abstain_below=(one + together) / 2)
    assert [label.status for label in frames] == ["abstained"] * 5
    assert clip.label == "hat"  # together they are sure enough
    (clip,), _ = pooled(votes, ["c"] * 5, abstain_below=(1 + together) / 2)
    assert clip.status == "abstained"


def test_hesitant_frames_do_not_count() -> None:
    votes = [[(0, 0.34), (0, 0.34)]] * 9 + [[(1, 0.8), (1, 0.8)]]
    (clip,), _ = pooled(votes, ["c"] * 10, unfamiliar_below=0.45)
    (alone,), _ = pooled(votes[-1:], ["c"], unfamiliar_below=0.45)
    assert clip.probs == pytest.approx(alone.probs)


def test_frames_with_errors() -> None:
    (clip,), _ = pooled([[HAT, None]] * 3, ["c"] * 3, errors=[1])
    (without,), _ = pooled([[HAT, None]] * 2, ["c"] * 2)
    assert clip.probs == pytest.approx(without.probs)
    (clip,), _ = pooled([[HAT, None]] * 2, ["c"] * 2, errors=[0, 1])
    assert (clip.status, str(clip.error)) == ("error", "broken")


@pytest.mark.parametrize("correlation", [-0.1, 1.1, NAN])
def test_a_correlation_out_of_range(correlation: float) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        pooled([[HAT, None]], ["c"], correlation=correlation)


def test_clips_need_a_fitted_labeler() -> None:
    _, labels = pooled([[HAT, None]], ["c"])
    with pytest.raises(InvalidRequest, match="not fitted"):
        pool_clips(Labeler(recipe()), Collected(labels.votes, {}, labels.ids), labels, clips=["c"])


VOTE = st.none() | st.tuples(st.integers(0, 2), st.floats(0.4, 0.99))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(VOTE, VOTE), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([None, {"dress": 0.7, "hat": 0.2, "shoes": 0.1}]),
)
def test_whatever_frames_say_reasons_add_up(
    votes: list[Any], correlation: float, balance: dict[str, float] | None
) -> None:
    fields = {} if balance is None else {"class_balance": balance}
    (clip,), _ = pooled(votes, ["c"] * len(votes), correlation=correlation, **fields)
    assert sum(clip.probs.values()) == pytest.approx(1, abs=1e-5)
    assert clip.prior is not None
    top = max(clip.probs, key=lambda name: clip.probs[name])
    odds = math.log(clip.probs[top] / clip.probs[str(clip.runner_up)])
    assert clip.prior + sum(reason.moved for reason in clip.reasons) == pytest.approx(odds, abs=2e-3)
    assert Label.from_dict(clip.to_dict()) == clip


# The command line, over videos that are red for a second and blue for the next.

RECIPE = """
name: colours
classes: [red, blue, green]
primitives: {toy: colors}
unfamiliar_below: 0
lfs:
  - {name: looks, kind: prompt, using: toy, threshold: 0.4, prompts: {red: red, blue: blue, green: green}}
  - {name: late, kind: metadata, when: "time_s > 5", vote: blue}
label_model: majority
"""


@pytest.fixture
def clips(tmp_path: Path, working_directory: Path) -> Path:
    av = pytest.importorskip("av")
    folder = tmp_path / "clips"
    folder.mkdir()

    def write(name: str, colour: Callable[[int], tuple[int, int, int]], n: int = 20) -> Path:
        with av.open(str(folder / name), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(n):
                pixels = np.full((48, 64, 3), colour(i), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return folder / name

    red, blue = (220, 10, 10), (10, 10, 220)
    write("blue.mp4", lambda i: blue)
    write("mostly.mp4", lambda i: red if i % 30 < 20 else blue, n=60)
    cut = write("cut.mp4", lambda i: (red, blue)[i % 2], n=400)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (working_directory / "r.yaml").write_text(RECIPE)
    return folder


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["label", *arguments])


def test_frames_on_the_command_line(clips: Path) -> None:
    told = run(str(clips), "-r", "r.yaml", "-o", "l.jsonl", "--video-every", "0.5", "--report", "r.html")
    assert told.exit_code == 0, told.output
    rows = {label.id: label for label in read_labels("l.jsonl")}
    assert [name for name in rows if name.startswith("mostly")] == [
        f"mostly.mp4#t={t:g}" for t in np.arange(0, 6, 0.5)
    ]
    assert rows["blue.mp4#t=1"].label == "blue" and rows["mostly.mp4#t=0"].label == "red"
    assert rows["cut.mp4"].error is not None and rows["cut.mp4"].error.code == "undecodable_video"
    assert [label.status for label in rows.values()].count("error") == 1
    assert Path("r.html").read_text().count("data:image/jpeg") == len(rows) - 1


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_clips_on_the_command_line(clips: Path, suffix: str) -> None:
    out = f"l{suffix}"
    told = run(
        str(clips), "-r", "r.yaml", "-o", out, "--video-every", "0.5", "--per-clip", "--report", "r.html"
    )
    assert told.exit_code == 0, told.output
    rows = list(read_labels(out))
    assert [(label.id, label.status, label.label) for label in rows] == [
        ("blue.mp4", "labeled", "blue"),
        ("cut.mp4", "error", None),
        ("mostly.mp4", "labeled", "red"),
    ]
    looks, late = rows[2].reasons
    assert looks.at is not None and looks.at.startswith("mostly.mp4#t=") and looks.vote == "red"
    assert late.at is not None and float(late.at.partition("=")[2]) > 5 and late.moved < 0
    page = Path("r.html").read_text()
    assert page.count("data:image/jpeg") == 2 and f"strongest at {looks.at}" in page
    explained = CliRunner().invoke(app, ["explain", "mostly.mp4", "--labels", out])
    assert f"looks: strongest at {looks.at}" in explained.output


def test_a_second_run_runs_no_model(clips: Path) -> None:
    from manyeyes.sources import read_items
    from manyeyes.videos import Sampling

    for passes in (True, False):
        labeler = Labeler(Recipe.load("r.yaml"), chunk_size=4)
        reads = read_items([clips / "blue.mp4"], videos=Sampling(every_s=0.5))
        assert len(labeler.label(reads)) == 4  # type: ignore[arg-type]
        assert (labeler.counter.total > 0) == passes


def test_gold_may_name_clips(clips: Path) -> None:
    Path("gold.csv").write_text("id,label\nblue.mp4,blue\nmostly.mp4,red\ncut.mp4,green\n")
    told = run(
        *(
            str(clips),
            "-r",
            "r.yaml",
            "-o",
            "l.jsonl",
            "--video-every",
            "1",
            "--per-clip",
            "--gold",
            "gold.csv",
        )
    )
    assert told.exit_code == 0, told.output
    assert "right" in told.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--per-clip"], "say which are taken"),
        (["--video-every", "1", "--video-frames", "3"], "one of them, got 2"),
        (["--video-every", "0"], "seconds, got 0"),
    ],
)
def test_what_cannot_be_asked_of_videos(clips: Path, options: list[str], told: str) -> None:
    result = run(str(clips), "-r", "r.yaml", *options)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
