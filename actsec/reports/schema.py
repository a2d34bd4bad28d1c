"""The published schema of report.json: JSON Schema 2020-12, derived from the records of result.py and nothing else.

``schema`` in a report names the version. A field that is added with a default keeps it; a field that goes, or means
something else, raises it, and a reader of another version refuses the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from actsec.result import SCHEMA, Result


@dataclass(frozen=True)
class _File:
    """As load.py reads it, and with the texts below fields, which take a third of a second to find."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    result: Result
    environment: dict[str, Any]


def schema() -> dict[str, Any]:
    """The schema, as JSON values. Every report.json of this version validates; NaN and infinity are no JSON."""
    found: dict[str, Any] = _terse(TypeAdapter(_File).json_schema())
    found["$defs"]["Result"]["properties"]["schema"] = {"const": SCHEMA, "type": "integer"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:actsec:report:{SCHEMA}",
        **found,
        "title": f"actsec report.json, schema {SCHEMA}",
        "description": "result is the same for the same plan; environment holds what differs from run to run.",
    }


def schema_json() -> str:
    """The schema as text: what ``actsec schema`` prints and docs/report.schema.json holds."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


def _terse(found: Any, *, names: bool = False) -> Any:
    """The same without titles that repeat a name, and without what allows everything. names: the keys name fields."""
    if isinstance(found, list):
        return [_terse(each) for each in found]
    if not isinstance(found, dict):
        return found
    if names:
        return {key: _terse(value) for key, value in found.items()}
    said = {
        key: value for key, value in found.items() if key != "title" and (key, value) != ("additionalProperties", True)
    }
    if "description" in said:
        said["description"] = " ".join(said["description"].split())
    return {key: _terse(value, names=key in ("properties", "$defs")) for key, value in said.items()}
