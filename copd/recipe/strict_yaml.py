"""Safe YAML, stricter than the library: no repeated key, no anchor, no tag, decimal numbers only, and named errors."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from copd.errors import RecipeError, first_line

INTEGER, FLOAT, TEXT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:str"
ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[^.]*:.*)")
"""Matches 012, which YAML reads as 10, and 1:30, which YAML reads as 90."""


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; raises RecipeError naming `source` for anything but plain data."""
    try:
        if "&" in text or "!" in text:
            _refuse_marks(text, source)
        return _StrictLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise RecipeError(f"{source}: not valid YAML: {_found(error)}") from None
    except RecursionError:
        raise RecipeError(f"{source}: lists or mappings are nested too deeply") from None


def _refuse_marks(text: str, source: str) -> None:
    """Raise RecipeError if a YAML text has anchors or tags. Within quotes, & and ! are neither."""
    for token in yaml.scan(text, Loader=_StrictLoader):
        if isinstance(token, yaml.AnchorToken):
            raise RecipeError(f"{source}: anchors and aliases are not accepted in a recipe; write the values out")
        if isinstance(token, yaml.TagToken):
            tag = "".join(filter(None, token.value))
            raise RecipeError(
                f"{source}: tags are not accepted in a recipe, found {tag!r} in line {token.start_mark.line + 1}; "
                "quote it if it is text"
            )


def _found(error: Exception) -> str:
    """The library's complaint in one line, with line and column if the library knows them."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return first_line(error)
    complaint = ", ".join(filter(None, (error.context, error.problem)))
    advice = "; indent with spaces, not with tabs" if "'\\t'" in complaint else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {complaint}{advice}"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, half of a surrogate pair, and numbers in base 8 or 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = self.construct_yaml_str(node)
        try:
            text.encode()
        except UnicodeEncodeError:
            said = "not valid Unicode: half of a surrogate pair; write the whole character, or \\U and eight digits"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from None
        return text

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if ODD_NUMBER.fullmatch(node.value):
            said = f"{node.value} is no decimal number; quote it if it is meant as a text"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return self.construct_yaml_int(node) if node.tag == INTEGER else self.construct_yaml_float(node)


_StrictLoader.add_constructor(TEXT, _StrictLoader.construct_text)
_StrictLoader.add_constructor(INTEGER, _StrictLoader.construct_number)
_StrictLoader.add_constructor(FLOAT, _StrictLoader.construct_number)
