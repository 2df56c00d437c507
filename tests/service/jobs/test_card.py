"""The data card: the same dataset gives the same bytes, it says what is unknown, and its own readers read it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import yaml

from manyeyes.service.jobs.datasets.card import card_files
from manyeyes.service.jobs.datasets.charts import bars, histogram
from manyeyes.service.jobs.datasets.published import (
    N_BINS,
    AllLFs,
    File,
    GoldCounts,
    LabelsFile,
    LFCounts,
    Published,
    without_secrets,
)
from manyeyes.service.jobs.shapes import Counts
from manyeyes.types import Versions

PUBLISHED = Published(
    job="0123456789abcdef0123",
    generation=0,
    manifest="feedfacefeedfacefeed",
    source={"uri": "s3://photos/2026", "kind": "objects"},
    recipe={
        "name": "paint",
        "description": "Which colour | is *it*?",
        "classes": ["red", "blue|violet"],
        "abstain_below": 0.6,
        "default_class": "red",
        "lfs": [{"name": "says", "kind": "keyword"}, {"name": "looks", "kind": "prompt"}],
    },
    versions=Versions("abcdabcdabcdabcd", {"toy": "toy/colors/image 1"}, "dawid_skene:1234"),
    given_label_model=False,
    label_model_files=(File("_manyeyes/jobs/x/label_model/0/label_model.json", 12, "ab" * 32),),
    software={"manyeyes": "0.1.0", "numpy": "2.0.0"},
    counts=Counts(1000, 700, 200, 100, {"undecodable_image": 90, "fetch_failed": 10}),
    by_class={"red": 600, "blue|violet": 100},
    by_default=50,
    confidence={
        "labeled": tuple([0] * (N_BINS - 1) + [700]),
        "abstained": tuple([0] * 10 + [200] + [0] * (N_BINS - 11)),
    },
    lfs=(
        LFCounts("says", "keyword", 500, 400, 20, {"red": 500}, 90, 100),
        LFCounts("looks", "prompt", 0, 0, 0),
    ),
    all_lfs=AllLFs(900, 500, 400, 20),
    gold=None,
    files=(LabelsFile("labels/part-00000000.parquet", 999, "cd" * 32, 0, 1000),),
)


def page_of(published: Published) -> str:
    return card_files(published)["README.md"].decode()


def test_what_was_published_is_read_back_as_it_was() -> None:
    data = PUBLISHED.to_bytes()
    assert Published.from_bytes(data, where="it") == PUBLISHED
    assert PUBLISHED.to_bytes() == data


def test_any_byte_that_is_changed_is_found() -> None:
    data = PUBLISHED.to_bytes()
    for place in range(0, len(data), 37):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ValueError, match=r"^it (is damaged|has format)"):
            Published.from_bytes(changed, where="it")
    with pytest.raises(ValueError, match="is damaged"):
        Published.from_bytes(data + b"\n", where="it")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b'{"format": 1}', b"\xff", b'{"format": 1, "digest": 2}']
)
def test_what_is_no_commit_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is damaged"):
        Published.from_bytes(data, where="it")


def test_a_later_format_says_so() -> None:
    with pytest.raises(ValueError, match="install a newer one"):
        Published.from_bytes(b'{"format": 2}', where="it")


def test_addresses_lose_what_opens_them() -> None:
    assert without_secrets("s3://key:secret@bucket/a?sig=1#x") == "s3://bucket/a"
    assert without_secrets("shards-{000..099}.tar") == "shards-{000..099}.tar"


def test_the_same_dataset_has_the_same_card() -> None:
    files = card_files(PUBLISHED)
    assert files == card_files(Published.from_bytes(PUBLISHED.to_bytes(), where="it"))
    assert list(files) == ["card/classes.svg", "card/confidence.svg", "card/functions.svg", "README.md"]


def test_the_card_tells_the_figures() -> None:
    page = page_of(PUBLISHED)
    assert "| labeled | 700 | 70.0% |" in page
    assert "| abstained: no label | 200 | 20.0% |" in page
    assert "| blue\\|violet | 100 | 10.0% |" in page
    assert "| says | keyword | red | 55.6% | 44.4% | 2.2% |" in page
    assert "| looks | prompt | – | 0% | 0% | 0% |" in page
    assert "| `undecodable_image` | damaged or truncated image data | 90 |" in page
    assert "50 of them got the default class `red`" in page
    assert "Which colour \\| is \\*it\\*?" in page
    assert "`0123456789abcdef0123`" in page
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
        assert picture in card_files(PUBLISHED)


def test_without_known_labels_no_accuracy_is_claimed() -> None:
    page = page_of(PUBLISHED)
    assert "**Not measured.**" in page
    assert "right on known labels" not in page


def test_with_known_labels_it_says_what_was_measured_and_on_what() -> None:
    page = page_of(replace(PUBLISHED, gold=GoldCounts("ef" * 32, 100, 80, 72)))
    assert "Of 100 rows whose label is known, 80 got a label, and 72 of these the right one: 90.0%" in page
    assert "from 81.5% to 94.8%" in page
    assert "The label model saw these labels" in page
    assert "| 90.0% of 100 |" in page
    given = page_of(replace(PUBLISHED, gold=GoldCounts("ef" * 32, 100, 80, 72), given_label_model=True))
    assert "The label model saw these labels" not in given


def test_the_front_matter_is_yaml_that_names_the_labels() -> None:
    told = yaml.safe_load(page_of(PUBLISHED).split("---\n")[1])
    assert told["size_categories"] == ["1K<n<10K"]
    assert told["configs"] == [{"config_name": "default", "data_files": "labels/*.parquet"}]


def test_the_recipe_on_the_card_cannot_end_its_fence() -> None:
    recipe = dict(PUBLISHED.recipe) | {"description": "```\n# not a heading\n````"}
    page = page_of(replace(PUBLISHED, recipe=recipe))
    fenced = re.search(r"^(`{5,})yaml\n(.*?)\n\1$", page, flags=re.M | re.S)
    assert fenced is not None
    assert yaml.safe_load(fenced[2])["description"] == recipe["description"]


def test_an_empty_dataset_has_a_card() -> None:
    empty = replace(
        PUBLISHED,
        counts=Counts(),
        by_class={},
        by_default=0,
        confidence={"labeled": (0,) * N_BINS, "abstained": (0,) * N_BINS},
        all_lfs=AllLFs(),
        lfs=(LFCounts("says", "keyword", 0, 0, 0),),
        files=(),
    )
    page = page_of(empty)
    assert "| labeled | 0 | – |" in page
    assert "There is none" in page


def test_many_classes_are_added_up() -> None:
    names = [f"class {i:03d}" for i in range(1000)]
    page = page_of(
        replace(
            PUBLISHED, recipe=dict(PUBLISHED.recipe) | {"classes": names}, by_class=dict.fromkeys(names, 1)
        )
    )
    assert "| (971 others) | 971 |" in page


@pytest.mark.parametrize(
    "picture",
    [
        bars("Labels", [("a <b> & 'c' \x00\ud800", (3,)), ("none", (0,))], total=3),
        bars("LFs", [("x" * 300, (3, 4))], total=10, series=("one", "two")),
        bars("None", [], total=0),
        histogram("Sure", [[0] * 20, [1] * 20], series=("labeled", "abstained")),
        histogram("Sure", [[0] * 20, [0] * 20], series=("labeled", "abstained")),
    ],
)
def test_pictures_are_whole_and_told_in_words(picture: str) -> None:
    root = ET.fromstring(picture.encode())
    inside = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert inside[:3] == ["svg", "title", "desc"]
    assert not {"script", "image", "a", "style"} & set(inside)
