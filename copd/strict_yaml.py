"""Safe YAML, stricter than the library: no key twice, no anchors, no tags, and named errors only."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from copd.errors import RecipeError


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; raises RecipeError naming `source` for anything but plain data."""
    if "&" in text and any(isinstance(token, yaml.AnchorToken) for token in _scan(text, source)):
        raise RecipeError(f"{source}: anchors and aliases are not accepted in a recipe; write the values out")
    try:
        return _StrictLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{source}: lists or mappings are nested too deeply") from None


def _scan(text: str, source: str) -> list[Any]:
    try:
        return list(yaml.scan(text, Loader=_StrictLoader))
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
