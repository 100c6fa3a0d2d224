"""Tool calls in a form in which equal calls are equal text, whoever wrote their arguments, as text or as an object.

`sql/functions/` computes the same in DuckDB, whose JSON sets how numbers and escapes are written.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SORTED = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_STRING = re.compile(r'"(\\.|[^"\\])*"', re.DOTALL)
# A number that neither 64 bits nor a double may hold.
_LARGE = re.compile(r"-[0-9]{19}|[0-9]{20}|[eE][-+]?[0-9]{3}")
_ESCAPE = re.compile(r"\\(\\|u00[01][0-9a-f])")


def canonical_calls(tool_calls: str | None) -> str:
    """A message's tool calls (their JSON) as a list of names and arguments; "" where there are none.

    Arguments written as text are read where they are a JSON object or array, else they stay text; null and missing ones
    are {}. Keys are sorted, and there are no spaces. Arguments with a number too large to compare stay as they are
    written. A server's call ids do not count. A call without `function` is read as the function itself.
    """
    calls = None if tool_calls is None else _read(tool_calls)
    if not isinstance(calls, list) or not calls:
        return ""
    return f"[{','.join(map(_call, calls))}]"


def _call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        function = {}
    arguments = function.get("arguments")
    written = _written(arguments)
    if arguments is None:
        written = "{}"
    elif isinstance(arguments, (dict, list)):
        written = written if _is_large(written) else _written(arguments, True)
    elif isinstance(arguments, str) and not _is_large(arguments):
        read = _read(arguments)
        if isinstance(read, (dict, list)):
            written = _written(read, True)
    return f'{{"arguments":{written},"name":{_written(function.get("name"))}}}'


def _is_large(text: str) -> bool:
    """Whether a number of this JSON is too large to compare."""
    return bool(_LARGE.search(text) and _LARGE.search(_STRING.sub('""', text)))


def _read(text: str) -> Any:
    """The value of a JSON text as JSON's own grammar has it; None where it is none, or holds half a surrogate pair."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if "\\u" in text:
            _ENCODE(value).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _written(value: Any, sort: bool = False) -> str:
    """`value` as DuckDB writes it."""
    text = (_SORTED if sort else _ENCODE)(value)
    if "e" in text or "." in text:  # it may hold a float
        text = _numbers(value, sort)
    return _ESCAPE.sub(_upper, text) if "\\" in text else text


def _upper(escape: re.Match[str]) -> str:
    return "\\" + (escape[1] if escape[1] == "\\" else "u" + escape[1][1:].upper())


def _numbers(value: Any, sort: bool) -> str:
    if isinstance(value, dict):
        keys = sorted(value) if sort else value
        return f"{{{','.join(f'{_ENCODE(key)}:{_numbers(value[key], sort)}' for key in keys)}}}"
    if isinstance(value, list):
        return f"[{','.join(_numbers(each, sort) for each in value)}]"
    return number(value) if isinstance(value, float) else _ENCODE(value)


def number(value: float) -> str:
    """A finite double as DuckDB's JSON writes it: without an exponent from 1e-6 up to 1e21."""
    sign, digits, point = _digits(value)
    if not digits:
        return f"{sign}0.0"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point].ljust(point, '0')}.{digits[point:] or '0'}"
    more = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{more}e{point - 1}"


def _digits(value: float) -> tuple[str, str, int]:
    """Sign, shortest digits without zeros at either end, and where the point stands: before their first, plus this."""
    mantissa, _, exponent = repr(value).partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = int(exponent or 0) + len(whole) - (len(whole + fraction) - len(digits))
    return sign, digits.rstrip("0"), point
