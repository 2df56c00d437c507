"""The recipe: what to label and how, in YAML or JSON; the unit that people edit, review, share and govern.

>>> recipe = Recipe.parse('''
... name: garments
... classes: [dress, hat]
... lfs:
...   - {name: looks_like, kind: prompt, prompts: {dress: a photo of a dress, hat: a photo of a hat}}
...   - {name: title, kind: keyword, any: [hat, cap], vote: hat}
... ''')
>>> Recipe.parse(recipe.to_yaml()) == recipe
True
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from manyeyes.documents import MAX_BYTES, Document, Problem, check_size, read_document, write_yaml
from manyeyes.errors import InvalidRecipe, RecipeNotFound, UntrustedRecipe, nearest
from manyeyes.lfs.base import LFSpec, Number
from manyeyes.lfs.build import build_lf
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.primitives.naming import families
from manyeyes.recipe_errors import from_pydantic, invalid_recipe, problem_at
from manyeyes.recipe_label_model import (
    AbstainBelow,
    ClassBalance,
    LabelModelField,
    LabelModelSpec,
    TargetPrecision,
)
from manyeyes.recipe_parts import (
    DEFAULT_PRIMITIVES,
    check_name,
    default_primitive,
    document_of,
    parse_lf,
    parse_primitive,
    spell_out,
    with_needs,
)
from manyeyes.recipe_schema import recipe_schema
from manyeyes.trust import refusals

FORMAT: Final = 1
"""Which canonical form this is; it changes whenever an equal document would mean something else."""
MAX_LFS: Final = 1_000
MAX_CLASSES: Final = 1_000
MAX_PROMPTS: Final = 20_000
MAX_SETS: Final = 1_000

# What no sensible photo of a class looks like, so that an item can look like none of the classes.
_BACKGROUND: Final = (
    "a photo of an empty room",
    "a blank wall",
    "a blurry background",
    "an abstract texture",
)
_PrimitiveName = Annotated[str, AfterValidator(check_name)]
_REPEATED: Final = "another LF is called {!r} too; every LF needs a name of its own"


class Recipe(BaseModel):
    """Classes, primitives, labeling functions and a label model.

    Make one with ``Recipe.parse`` or ``Recipe.load``, whose errors name lines. Two recipes are equal exactly where
    their canonical forms are, and then have the same ``version``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]*$", max_length=64)]
    description: Annotated[str, Field(max_length=10_000)] = ""
    classes: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
        Field(min_length=2, max_length=MAX_CLASSES),
    ]
    abstain_below: AbstainBelow = 0.0
    unfamiliar_below: Number = Field(default=0.45, ge=0.0, le=1.0)
    default_class: str | None = None
    class_balance: ClassBalance | None = None
    primitives: Annotated[
        dict[_PrimitiveName, SerializeAsAny[Annotated[PrimitiveSpec, PlainValidator(parse_primitive)]]],
        BeforeValidator(spell_out),
    ] = Field(default_factory=dict)
    lfs: Annotated[
        tuple[SerializeAsAny[Annotated[LFSpec, PlainValidator(parse_lf)]], ...],
        Field(min_length=1, max_length=MAX_LFS),
    ]
    label_model: LabelModelField = LabelModelSpec()

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name, times in Counter(value).items():
            if times > 1:
                raise problem_at(
                    (len(value) - 1 - value[::-1].index(name),), f"class {name!r} stands here twice", name
                )
        return value

    @field_validator("default_class")
    @classmethod
    def _known_class(cls, value: str | None, info: ValidationInfo) -> str | None:
        classes = info.data.get("classes")
        if value is not None and classes is not None and value not in classes:
            raise InvalidRecipe(
                f"unknown class {value!r}; classes: {', '.join(classes)}{nearest(value, classes)}"
            )
        return value

    @field_validator("class_balance")
    @classmethod
    def _whole_balance(cls, value: ClassBalance | None, info: ValidationInfo) -> ClassBalance | None:
        classes = info.data.get("classes")
        if value is None or isinstance(value, str) or classes is None:
            return value
        for name in value:
            if name not in classes:
                raise problem_at(
                    (name,),
                    f"unknown class {name!r}; classes: {', '.join(classes)}{nearest(name, classes)}",
                    name,
                )
        absent = [name for name in classes if name not in value]
        if absent:
            raise InvalidRecipe(
                f"class_balance says nothing of {', '.join(absent)}; give every class a share"
            )
        if abs(sum(value.values()) - 1.0) > 1e-6:
            raise InvalidRecipe(f"class_balance must sum to 1, got {sum(value.values()):g}")
        return {name: value[name] for name in classes}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for i, name in _repeated_names([lf.name for lf in self.lfs]):
            raise problem_at(("lfs", i, "name"), _REPEATED.format(name), name)
        n_prompts = sum(lf.n_prompts for lf in self.lfs)
        if n_prompts > MAX_PROMPTS:
            raise InvalidRecipe(
                f"all LFs together may have {MAX_PROMPTS} prompts, templates filled in, got {n_prompts}"
            )
        lfs = [build_lf(lf, self.classes) for lf in self.lfs]
        n_sets = len({members for lf in lfs for members in lf.sets})
        if n_sets > MAX_SETS:
            raise InvalidRecipe(
                f"all LFs together may vote for {MAX_SETS} different sets of classes, got {n_sets}"
            )
        features = {feature for lf in lfs for feature in lf.reads} | {self.label_model.embeddings or ""}
        read = with_needs(
            [*self.primitives, *(n for f in features - {""} for n in families(f))], self.primitives
        )
        complete = {
            name: default_primitive(name) for name in DEFAULT_PRIMITIVES if name in read
        } | self.primitives
        for name, spec in complete.items():
            for need in spec.needs:
                if need not in complete:
                    told = f"{name!r} reads {need!r}, which is not declared{nearest(need, complete)}"
                    raise problem_at(("primitives", name), f"{told}; declare it under primitives", need)
        # Pydantic's frozen models have no other way to fill in a field that depends on others.
        object.__setattr__(self, "primitives", dict(sorted(complete.items())))
        return self

    @classmethod
    def parse(
        cls,
        document: str | bytes | Mapping[str, Any],
        *,
        source: str = "recipe",
        folder: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Return the recipe that a YAML or JSON text, or a mapping, describes.

        source: what the recipe is called in errors, such as its path. folder: where the paths of examples begin, which
        are read then; None, as for every recipe from outside, opens no file.
        Raises InvalidRecipe, telling every problem with its line and path; InvalidExpression where all of them are
        about ``when:``.
        """
        try:
            read = read_document(document) if isinstance(document, (str, bytes)) else Document(document)
            if not isinstance(read.value, Mapping):
                raise InvalidRecipe(
                    f"a recipe is a mapping with name, classes and lfs, got {read.value!r:.60}"
                )
            check_size(read.value)
        except InvalidRecipe as error:
            raise InvalidRecipe(
                f"{source}, {error}" if str(error).startswith("line") else f"{source}: {error}"
            ) from None
        return cls._validated(read, source=source, folder=folder)

    @classmethod
    def _validated(cls, read: Document, *, source: str, folder: str | os.PathLike[str] | None) -> Self:
        problems, only_expressions = list(read.problems), not read.problems
        try:
            recipe = cls.model_validate(read.value, context={"folder": folder})
        except ValidationError as error:
            found, about_expressions = from_pydantic(error, read, cls)
            told = {problem.path for problem in found}
            # Pydantic checks a recipe as a whole only once its parts are right; the author wants to hear all at once.
            repeated = [p for p in _repeated_lfs(read) if p.path not in told]
            only_expressions &= about_expressions and not repeated
            problems += found + repeated
        if problems:
            raise invalid_recipe(problems, source=source, expressions_only=only_expressions)
        return recipe

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the recipe in a file. Raises RecipeNotFound if there is no such file, InvalidRecipe as ``parse``."""
        file = Path(path)
        try:
            with file.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise RecipeNotFound(f"there is no recipe at {os.fspath(path)!r}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InvalidRecipe(f"{os.fspath(path)!r} cannot be read as a recipe: {reason}") from None
        return cls.parse(content, source=os.fspath(path), folder=file.parent)

    @classmethod
    def warm_start(cls, classes: Sequence[str], *, name: str = "warm-start") -> Self:
        """Return a recipe from class names alone: one prompt LF on images and one on texts, ready to be edited."""
        return cls.parse(
            {
                "name": name,
                "description": "Made from class names alone; edit the prompts and add labeling functions.",
                "classes": list(classes),
                "lfs": [
                    {
                        "name": "looks_like",
                        "kind": "prompt",
                        "on": "image",
                        "threshold": 0.0,
                        "against": _BACKGROUND,
                    },
                    {
                        "name": "reads_like",
                        "kind": "prompt",
                        "on": "text",
                        "threshold": 0.0,
                        "against": "something else",
                    },
                ],
            },
            source="classes",
        )

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return a JSON schema for editors, with one branch for each kind of LF that is installed."""
        return recipe_schema(cls)

    def document(self) -> dict[str, Any]:
        """Return the recipe as plain values: normalised, defaults left out; ``parse`` gives back an equal recipe."""
        told = self.model_dump(mode="json", exclude={"primitives", "lfs"}, exclude_defaults=True)
        told["primitives"] = {
            name: document_of(spec, "kind", "model") for name, spec in self.primitives.items()
        }
        told["lfs"] = [document_of(spec, "name", "kind") for spec in self.lfs]
        ordered = {field: told[field] for field in type(self).model_fields if field in told}
        return {field: value for field, value in ordered.items() if field != "primitives" or value}

    def to_yaml(self) -> str:
        """Return the recipe as YAML; ``Recipe.parse`` gives back an equal one."""
        return write_yaml(self.document())

    def to_json(self) -> str:
        """Return the recipe as JSON; ``Recipe.parse`` gives back an equal one."""
        return json.dumps(self.document(), ensure_ascii=False, indent=2)

    def canonical(self) -> str:
        """Return the one text that stands for this recipe and every other way to write it."""
        return json.dumps(
            {"format": FORMAT, **self.document()}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )

    @cached_property
    def version(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical form."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with some fields replaced; see pydantic."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("version", None)  # pydantic would copy what is kept, too
        return copied

    @property
    def abstain_below_text(self) -> str:
        """``abstain_below`` as one would write it."""
        below = self.abstain_below
        return f"{{precision: {below.precision:g}}}" if isinstance(below, TargetPrecision) else f"{below:g}"

    def check_untrusted(self, allowed_models: Collection[str] = ()) -> None:
        """Raise UntrustedRecipe if a recipe from outside asks for more than the operator allows.

        allowed_models: models that such a recipe may name beside the defaults, each as "model" or "kind:model".
        No LF may run code that the recipe names, nothing in a primitive may be a path, unless it is listed so, and no
        hyperparameter of the label model may be so large that fitting takes long.
        """
        refused = refusals(
            self.lfs, self.primitives, label_model=self.label_model, allowed_models=allowed_models
        )
        if refused:
            raise UntrustedRecipe(
                f"recipe {self.name!r} cannot be run for somebody outside: {'; '.join(refused)}"
            )


def _repeated_names(lf_names: Sequence[object]) -> list[tuple[int, str]]:
    """Return index and name of every LF whose name an earlier one has."""
    return [(i, name) for i, name in enumerate(lf_names) if isinstance(name, str) and name in lf_names[:i]]


def _repeated_lfs(read: Document) -> list[Problem]:
    lfs = read.value.get("lfs")
    lfs = lfs[:MAX_LFS] if isinstance(lfs, (list, tuple)) else []
    lf_names = [lf.get("name") if isinstance(lf, Mapping) else None for lf in lfs]
    paths = [(("lfs", i, "name"), name) for i, name in _repeated_names(lf_names)]
    return [Problem(path, _REPEATED.format(name), read.line(path)) for path, name in paths]
