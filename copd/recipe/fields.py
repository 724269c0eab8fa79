"""The base class and the types of all sections of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A section of a recipe. Unknown keys are refused, and values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        """Refuse truth values outside of switches.

        YAML reads yes, no, on and off as truth values, and Python would count them as 1 and 0.
        """
        switches = {name for name, field in cls.model_fields.items() if field.annotation is bool}
        for key, value in data.items() if isinstance(data, dict) else ():
            held = any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value]))
            if held and key not in switches:
                raise ValueError(f".{key}: holds yes, no, on, off, true or false; quote it if it is meant as a word")
        return data
