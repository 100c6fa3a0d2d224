"""SVG from Vega made fit to stand inside an HTML page: no script, no outside reference, no name that clashes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from trajkit.errors import TrajkitError

_ELEMENTS = {"svg", "g", "path", "line", "rect", "circle", "text", "tspan", "defs", "clipPath"}
_ATTRIBUTES = {
    *("id", "d", "x", "y", "x1", "x2", "y1", "y2", "dx", "dy", "r", "cx", "cy", "width", "height", "viewBox"),
    *("transform", "clip-path", "fill", "fill-opacity", "opacity", "display"),
    *("stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-miterlimit"),
    *("text-anchor", "font-family", "font-size", "font-weight", "font-style"),
}


def inline(svg: str, name: str, label: str) -> str:
    """`svg` with the size of whatever holds it, `label` as its text for screen readers, and ids that begin with `name`.

    Of its elements and attributes only those that draw are kept. Raises TrajkitError for a reference to the outside.
    """
    root = _kept(ElementTree.fromstring(svg), name)
    drawing = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": root.attrib["viewBox"]}
    root.attrib = drawing | {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, "unicode")


def _kept(element: ElementTree.Element, name: str) -> ElementTree.Element:
    kept = ElementTree.Element(_local(element.tag))
    for key, value in element.attrib.items():
        if key not in _ATTRIBUTES or (key == "font-family" and value == "sans-serif"):
            continue
        if key == "id":
            value = f"{name}-{value}"
        elif found := re.fullmatch(r"url\(#([\w-]+)\)", value):
            value = f"url(#{name}-{found[1]})"
        elif "url(" in value:
            raise TrajkitError(f"the chart {name}: its drawing refers to {value}, which lies outside of it.")
        kept.set(key, value)
    kept.text = element.text
    for child in element:
        if _local(child.tag) in _ELEMENTS and child.get("display") != "none":
            kept.append(_kept(child, name))
    return kept


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
