"""A YAML file held against a JSON Schema: plain values, and the line of each.

Keys that come twice, which YAML would let pass silently, are refused.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from models.errors import TinysplitError

MAX_CHARACTERS = 1 << 20
_MAX_VALUES = 100_000  # Aliases of aliases grow without bound.

Place = tuple[str | int, ...]
_LONGEST = 4 * MAX_CHARACTERS  # Bytes of UTF-8.


class DocumentError(TinysplitError):
    """Not YAML, or not what the schema describes; says the line."""


def text_of(path: Path) -> str:
    """What a text file holds, for `Document`.

    Raises:
        DocumentError: it cannot be read, is too long, or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
    if len(data) > _LONGEST:
        raise DocumentError(f"longer than {MAX_CHARACTERS:,} characters")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError("is not UTF-8 text") from error


class Document:
    """`content` is plain data with the schema's defaults filled in, top level and below.

    A mapping, unless the schema is of an array.
    """

    def __init__(self, text: str, schema: dict[str, Any]) -> None:
        """Raises DocumentError: no YAML, an unknown key (with the nearest known), a wrong value."""
        if len(text) > MAX_CHARACTERS:
            raise DocumentError(f"longer than {MAX_CHARACTERS:,} characters")
        self._lines: dict[Place, int] = {}
        self._count = 0
        self._schema = schema
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            loader = yaml.SafeLoader("")
            content = None if root is None else self._plain(root, (), loader)
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f"line {mark.line + 1}: " if mark is not None else ""
            why = getattr(error, "problem", None) or " ".join(str(error).split())
            raise DocumentError(f"{line}no YAML: {why[:160]}") from error
        except RecursionError as error:
            raise DocumentError("nested too deeply") from error
        if schema.get("type") == "array":
            if not isinstance(content, list):
                raise DocumentError("is not a list")
        elif not isinstance(content, dict):
            raise DocumentError("is not a mapping of names to values")
        self._check(content)
        self.content: Any = self._filled(content, schema)

    def error(self, place: Sequence[str | int], message: str) -> DocumentError:
        """An error about the value at `place`, or the nearest above that stands in the file."""
        known = tuple(place)
        while known and known not in self._lines:
            known = known[:-1]
        line = f"line {self._lines[known]}: " if known in self._lines else ""
        shown = "/".join(str(part) for part in place)
        return DocumentError(f"{line}{shown}: {message}" if shown else f"{line}{message}")

    def _plain(self, node: yaml.Node, place: Place, loader: yaml.SafeLoader) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise DocumentError(f"more than {_MAX_VALUES:,} values")
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, i), loader) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            try:
                value = loader.construct_object(node)
            except (AttributeError, LookupError) as error:  # PyYAML's own, of `!!int ""` and such.
                raise self.error(place, f"is no {node.tag.rpartition(':')[2]}") from error
            if isinstance(value, float) and not math.isfinite(value):
                raise self.error(place, "is not finite")
            if isinstance(value, str) and any("\ud800" <= one <= "\udfff" for one in value):
                raise self.error(place, "has half of a surrogate pair, which is no character")
            return value
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or any("\ud800" <= one <= "\udfff" for one in key):
                raise self.error(place, "has a key that is no name")
            below = (*place, key)
            self._lines[below] = key_node.start_mark.line + 1
            if key in found:
                raise self.error(below, "is given twice")
            found[key] = self._plain(value_node, below, loader)
        return found

    def _check(self, content: Any) -> None:
        validator = jsonschema.Draft202012Validator(self._schema)
        errors = sorted(validator.iter_errors(content), key=lambda e: len(e.absolute_path))
        if errors:
            raise self._explained(errors[0])

    def _explained(self, error: jsonschema.ValidationError) -> DocumentError:
        given: Any = error.instance
        wanted: Any = error.validator_value
        schema: Any = error.schema
        place = tuple(error.absolute_path)
        if error.validator == "oneOf" and error.context:
            # Which alternative was meant: one for values of this kind.
            one_of = [self._resolved(one) for one in wanted]
            meant = [e for e in error.context if _fits(given, one_of[int(e.schema_path[0])])]
            if meant:
                return self._explained(meant[0])
            kinds = " or ".join(dict.fromkeys(_wanted(one) for one in one_of))
            return self.error(place, f"must be {kinds}, not {_shown(given)}")
        if error.validator == "additionalProperties":
            known = list(schema["properties"])
            patterns = schema.get("patternProperties", {})
            unknown = next(
                str(key)
                for key in given
                if key not in known and not any(re.search(one, key) for one in patterns)
            )
            close = difflib.get_close_matches(unknown, known, n=1, cutoff=0)
            return self.error(
                (*place, unknown), f"unknown key {unknown!r}; the nearest known is {close[0]!r}"
            )
        if error.validator == "required":
            missing = next(key for key in wanted if key not in given)
            known = schema.get("properties", {}).get(missing, {})
            what = f": {_wanted(self._resolved(known))}" if known else ""
            return self.error(place, f"`{missing}` is missing{what}")
        if error.validator == "enum":
            known = [str(value) for value in wanted]
            return self.error(place, f"{str(given)!r} is not known; {nearest(str(given), known)}")
        if error.validator == "uniqueItems":
            twice = next(one for number, one in enumerate(given) if one in given[:number])
            return self.error(place, f"names {_shown(twice)} twice")
        if error.validator in _BOUNDS:
            return self.error(place, f"must be {_wanted(schema)}, not {_shown(given)}")
        return self.error(place, error.message[:160])

    def _filled(self, given: Any, schema: dict[str, Any]) -> Any:
        """`given` with the defaults of its schema, and of the schemas of what it holds."""
        schema = self._resolved(schema)
        if schema.get("oneOf"):
            fitting = [one for one in schema["oneOf"] if _fits(given, self._resolved(one))]
            return self._filled(given, fitting[0]) if fitting else given
        if isinstance(given, list) and "items" in schema:
            return [self._filled(item, schema["items"]) for item in given]
        if not isinstance(given, dict):
            return given
        properties = schema.get("properties", {})
        found = {}
        for name, one in properties.items():
            known = self._resolved(one)
            if name in given or "default" in known:
                found[name] = self._filled(given.get(name, known.get("default")), known)
        others = schema.get("additionalProperties")
        for name, value in given.items():
            if name not in found:
                found[name] = self._filled(value, others) if isinstance(others, dict) else value
        return found

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").removeprefix("#/$defs/")
        return {**self._schema["$defs"][name], **schema, "$ref": ""} if name else schema


# Keywords of JSON Schema that `_wanted` puts into words.
_BOUNDS = (
    "type", "const", "pattern", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties",
)  # fmt: skip
_KINDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "array": "a list",
    "boolean": "true or false", "object": "a mapping of names to values", "null": "nothing",
}  # fmt: skip


def _wanted(schema: dict[str, Any]) -> str:
    """What a schema takes, in words. `x-words` says it of a pattern."""
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(str(value) for value in schema['enum'][:12])}"
    if "x-words" in schema:
        return str(schema["x-words"])
    if schema.get("oneOf") or "type" not in schema:
        return "something else"
    types = schema["type"]
    kinds = [_KINDS[one] for one in ([types] if isinstance(types, str) else types)]
    said = " or ".join(kinds)
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None:
        said += f" from {low:,}" + (" on" if high is None else "")
    elif above is not None:
        said += f" above {above:,}"
    if high is not None:
        said += f" {'up ' if low is None and above is None else ''}to {high:,}"
    for least, most, of in (
        ("minLength", "maxLength", "characters"), ("minItems", "maxItems", "entries"),
        ("minProperties", "maxProperties", "entries"),
    ):  # fmt: skip
        if most in schema:
            said += f" of {schema.get(least, 0):,} to {schema[most]:,} {of}"
        elif least in schema:
            said += " that is not empty"
    return said


def _shown(value: Any) -> str:
    """A value, short."""
    if isinstance(value, dict | list):
        kind = _KINDS["object" if isinstance(value, dict) else "array"]
        return f"an empty {kind.split()[1]}" if not value else f"{kind} ({len(value)} entries)"
    plain = {True: "true", False: "false", None: "nothing"}
    said = plain[value] if value is None or isinstance(value, bool) else repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether the schema is for values of this kind at all; one without a type is for text."""
    kinds = {"object": dict, "array": list}
    return isinstance(value, kinds.get(schema.get("type", ""), str))


def nearest(given: str, known: Sequence[str]) -> str:
    """`nearest of the known` and all of them, as the end of an error message."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"the nearest is {close[0]!r} of {shown}" if close else "none is known"
