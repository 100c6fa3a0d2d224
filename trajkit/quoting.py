"""What others said (a server, an exception), made fit to be quoted: short, and without credentials.

Every text of a server or of an exception that reaches a log, an error or a table goes through `hide`. What is secret
is told to `remember` where it enters, so nothing that quotes has to know of it.
"""

from __future__ import annotations

import base64
import re
import string
from itertools import pairwise
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote

HIDDEN = "[API key]"
GRAM = 8  # this many characters of a secret in a row are as good as the secret; a shorter one is a word such as EMPTY
_WINDOW = 4_000  # characters of a long text, at each end, that are looked at
_LONGEST = 300  # characters of a quotation

# A character in percent-encoding (also twice encoded), JSON's, Python's or HTML's escapes; or a backslash before one.
_ESCAPED = re.compile(
    r"%(?:25)*([0-9a-fA-F]{2})|\\+u00([0-9a-fA-F]{2})|\\+x([0-9a-fA-F]{2})|&#[xX]0*([0-9a-fA-F]{2});|&#0*(\d{2,3});|\\+"
)
_USERINFO = re.compile(r"^(\s*\w[\w+.-]*://)([^/?#]*)@")

_grams: set[str] = set()
_forms: set[str] = set()
_words: dict[str, re.Pattern[str]] = {}


def remember(secret: str) -> None:
    """Hide this from now on, in this process. Also nothing: an empty text."""
    if not secret:
        return
    if len(secret) < GRAM:  # it may be part of any word, and stands for "no key" more often than for one
        _words[secret] = re.compile(rf"(?<!\w){re.escape(secret)}(?!\w)")
        return
    raw = secret.encode("utf-8", "surrogatepass")
    _forms.update((secret, percent_encoded(raw, safe=""), raw.hex(), raw.hex().upper()))
    for before in range(3):  # how many bytes stand before it in base64 decides what it looks like
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = encoded[(before * 8 + 5) // 6 : len(encoded) - bool((before + len(raw)) % 3)]
        _forms.update((inner, inner.translate(str.maketrans("+/", "-_"))))
    for form in _forms:
        plain, _ = _unescaped(form)  # as it is compared; it may itself hold what looks like an escape
        _grams.update(plain[at : at + GRAM] for at in range(len(plain) - GRAM + 1))


def hide(text: str) -> str:
    """`text` with every remembered secret replaced, also in part, encoded or escaped."""
    for word in _words.values():
        text = word.sub(HIDDEN, text)
    if not _grams:
        return text
    plain, starts = _unescaped(text)
    shown, at, end = [], 0, -1
    for first in range(len(plain) - GRAM + 1):
        if plain[first : first + GRAM] in _grams:
            if starts[first] > end:  # of a run that goes on, only the end moves
                shown += [text[at : starts[first]], HIDDEN]
            at = end = starts[first + GRAM]
    return "".join([*shown, text[at:]])


def holds(text: str) -> bool:
    """Whether a remembered secret is in it as a whole, as it is or encoded. Words shorter than GRAM are none."""
    return any(form in text for form in _forms)


def short(text: str) -> str:
    """At most 300 characters of it."""
    return text if len(text) <= _LONGEST else f"{text[:200]} ... {text[-80:]}"


def quote(text: str) -> str:
    """What somebody said, for an error: without secrets, at most 300 characters."""
    return short(hide(ends(text)))


def ends(text: str) -> str:
    """The beginning and the end of a long text: what is beyond is never shown, and may be very much."""
    return text if len(text) <= 2 * _WINDOW else f"{text[:_WINDOW]} ... {text[-_WINDOW:]}"


def without_userinfo(url: str) -> str:
    """The URL as it may be shown. The password in it is remembered, and what basic authentication makes of both."""
    found = _USERINFO.match(url)
    if not found:
        return url
    name, _, password = unquote(found[2]).partition(":")
    for secret in (found[2].partition(":")[2], password, f"{name}:{password}"):
        remember(secret)
    return found[1] + url[found.end() :]


def _unescaped(text: str) -> tuple[str, list[int]]:
    """What the text says once its escapes are read, in lower case, and where each character begins; then the end."""
    if not any(mark in text for mark in "%\\&"):
        return _lower(text), list(range(len(text) + 1))
    said: list[str] = []
    starts: list[int] = []
    places = [0, *(place for found in _ESCAPED.finditer(text) for place in found.span()), len(text)]
    for number, (begin, end) in enumerate(pairwise(places)):
        if number % 2 == 0:  # between two escapes
            said.append(text[begin:end])
            starts.extend(range(begin, end))
        else:
            found = _ESCAPED.match(text, begin)
            assert found is not None
            if found.lastindex:
                digits = found[found.lastindex]
                said.append(chr(int(digits, 10 if found.lastindex == 5 else 16)))
                starts.append(begin)
    return _lower("".join(said)), [*starts, len(text)]


def _lower(text: str) -> str:
    """ASCII's letters in lower case; `str.lower` may change the length."""
    return text.translate(_TO_LOWER)


_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
