"""The base class and the types of all sections of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
"""How many prompts, responses, problems, steps or processes; more than a million is taken for a slip."""
CountFrom0 = Annotated[int, Field(ge=0, le=10**6)]
Amount = Annotated[int, Field(ge=1, le=10**9)]
"""How many tokens, pixels or rollouts in all."""
Positive = Annotated[float, Field(gt=0)]
VerifierName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,64}$")]


def is_code(source: str) -> bool:
    """Whether a text names code of the user's, as path/file.py:NAME."""
    path, _, name = source.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def _code_of_file(source: str) -> str:
    if not is_code(source):
        raise ValueError(f"write path/file.py:NAME, found {source[:80]!r}")
    return source


CodeOfFile = Annotated[str, AfterValidator(_code_of_file)]
"""path/file.py:NAME, a function or a class. Like every path of a recipe, it is relative to the current directory."""


def one_of_or_code(*names: str) -> AfterValidator:
    """Accepts one of these names, or code of the user's."""

    def check(value: str) -> str:
        if value not in names and not is_code(value):
            raise ValueError(f"accepted: {', '.join(map(repr, names))} or path/file.py:NAME, found {value[:80]!r}")
        return value

    return AfterValidator(check)


def schema_of(*names: str) -> WithJsonSchema:
    """The JSON schema of what `one_of_or_code` accepts."""
    return WithJsonSchema({"enum": [*names, "path/file.py:NAME"]})


def _held(annotation: Any) -> list[Any]:
    """The types without parts in a type, such as int and NoneType in int | None."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _held(part)] if parts else [annotation]


class Section(BaseModel):
    """A section of a recipe. Unknown keys are refused, and values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        """Refuse truth values in fields that are neither switches nor sections, which refuse them themselves.

        YAML reads yes, no, on and off as truth values, and Python would count them as 1 and 0.
        """
        kinds = {name: (field.annotation, *get_args(field.annotation)) for name, field in cls.model_fields.items()}
        switches = {
            name
            for name, own in kinds.items()
            if any(isinstance(kind, type) and issubclass(kind, bool | BaseModel) for kind in own)
        }
        for key, value in data.items() if isinstance(data, dict) else ():
            held = any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value]))
            if held and key in cls.model_fields and key not in switches:
                held_kinds = _held(cls.model_fields[key].annotation)
                hint = (
                    "accepted: a number"
                    if int in held_kinds or float in held_kinds
                    else "quote it if it is meant as a word"
                )
                raise ValueError(f".{key}: holds yes, no, on, off, true or false; {hint}")
        return data
