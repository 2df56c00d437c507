"""Label Studio's labeling configs, as far as predictions need them: which choices and boxes are asked for, of what.

A config is XML from outside: a document type is refused, so that no entity can be declared, and length is limited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from xml.parsers import expat

from manyeyes.errors import InvalidRequest, nearest

MAX_CHARS: Final = 1_000_000

Kind: TypeAlias = Literal["choices", "rectanglelabels"]
_CONTROLS: Final[Mapping[str, Kind]] = {"choices": "choices", "rectanglelabels": "rectanglelabels"}
_VALUES: Final = {"choice": "choices", "label": "rectanglelabels"}
_HALVES: Final[Mapping[str, Literal["image", "text"]]] = {
    "image": "image",
    "text": "text",
    "hypertext": "text",
}


@dataclass(slots=True)
class Control:
    """One thing to fill in. name, to_name: as predictions name it. values: what may be filled in → how a result has it.

    A value's alias takes its place in results; either may be the name of a class.
    """

    kind: Kind
    name: str
    to_name: str
    values: dict[str, str] = field(default_factory=dict)

    def match(self, names: Sequence[str]) -> dict[str, str]:
        """Return the names that can be filled in here, each with how a result has it; case counts only where it must.

        >>> Control("choices", "c", "i", {"Hat": "Hat", "Dress": "dr", "dr": "dr"}).match(["hat", "dr", "shoe"])
        {'hat': 'Hat', 'dr': 'dr'}
        """
        lowered: dict[str, str] = {}
        for value, told in self.values.items():
            lowered.setdefault(value.strip().lower(), told)
        found = {name: self.values.get(name, lowered.get(name.strip().lower())) for name in names}
        return {name: told for name, told in found.items() if told is not None}


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What a config asks for. controls: choices and boxes.

    fields: the field of a task's data that holds its image, and its text; None where the config shows none.
    halves: the name of each object that is shown → what it is.
    """

    controls: tuple[Control, ...]
    fields: Mapping[Literal["image", "text"], str | None]
    halves: Mapping[str, Literal["image", "text"]]

    def of(self, kind: Kind) -> list[Control]:
        """Return the controls of a kind that are about an image or a text."""
        return [one for one in self.controls if one.kind == kind and one.to_name in self.halves]


def read_label_config(text: Any) -> LabelConfig:
    """Return what a labeling config asks for. Raises InvalidRequest if it is none, or shows neither image nor text."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequest(
            "there is no labeling config; Label Studio sends it as `label_config`, or `schema`"
        )
    if len(text) > MAX_CHARS:
        raise InvalidRequest(
            f"the labeling config has {len(text):,} characters; at most {MAX_CHARS:,} are read"
        )
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(text.encode("utf-8", "surrogatepass"), True)
    except expat.ExpatError as error:
        raise InvalidRequest(f"the labeling config is not well-formed XML: {error}") from None
    if not any(reader.fields.values()):
        raise InvalidRequest(
            'the labeling config shows neither an image nor a text; write <Image name="image" value="$image"/> or'
            ' <Text name="text" value="$text"/>'
        )
    return LabelConfig(tuple(reader.controls), reader.fields, reader.halves)


def choices_for(config: LabelConfig, classes: Sequence[str]) -> tuple[Control, dict[str, str]]:
    """Return the first Choices that have one for every class, and class → how a result has it.

    Raises InvalidRequest, with what is missing, if there are none.
    """
    near: tuple[int, str] = (-1, "it has no Choices that are about an image or a text")
    for control in config.of("choices"):
        found = control.match(classes)
        missing = [name for name in classes if name not in found]
        if not missing:
            return control, found
        if len(found) > near[0]:
            hint = nearest(missing[0], control.values) if control.values else ""
            near = (
                len(found),
                f"<Choices name={control.name!r}> has no choice for {', '.join(map(repr, missing[:10]))}{hint}",
            )
    lines = "".join(f'<Choice value="{name}"/>' for name in classes[:10])
    raise InvalidRequest(
        f"the labeling config does not fit the recipe: {near[1]}. Every class needs a choice, by its value or its"
        f" alias: {lines}"
    )


class _Reader:
    def __init__(self) -> None:
        self.controls: list[Control] = []
        self.fields: dict[Literal["image", "text"], str | None] = {"image": None, "text": None}
        self.halves: dict[str, Literal["image", "text"]] = {}
        self._inside: list[Control | None] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.lower()
        control = self._inside[-1] if self._inside else None
        kind = _CONTROLS.get(tag)
        if kind is not None:
            control = None
            # A choice for each region needs regions, which only people draw.
            if attributes.get("name") and attributes.get("perRegion", "false").lower() != "true":
                to_name = attributes.get("toName", "").split(",")[0].strip()
                control = Control(kind, attributes["name"], to_name)
                self.controls.append(control)
        elif control is not None and _VALUES.get(tag) == control.kind:
            told = attributes.get("alias") or attributes.get("value")
            for name in ("value", "alias"):
                if attributes.get(name) and told:
                    control.values.setdefault(attributes[name], told)
        elif tag in _HALVES and attributes.get("name") and attributes.get("valueType", "text") != "url":
            half, value = _HALVES[tag], attributes.get("value", "")
            if value.startswith("$"):
                self.halves[attributes["name"]] = half
                self.fields[half] = self.fields[half] or value[1:]
        self._inside.append(control)

    def end(self, _: str) -> None:
        self._inside.pop()


def _refuse_doctype(*_: Any) -> None:
    raise InvalidRequest(
        "the labeling config has a document type (<!DOCTYPE …>), which is not read; leave it out"
    )
