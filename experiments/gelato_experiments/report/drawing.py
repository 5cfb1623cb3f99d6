"""A study's figure as part of a page."""

import re
import xml.etree.ElementTree as ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline(svg: str, prefix: str, label: str) -> str:
    """An SVG as it may stand in a page beside others: names of its own, no addresses.

    Args:
        svg: the file's text.
        prefix: in front of every name inside.
        label: what it shows, for who cannot see it.

    Raises:
        ParseError: it is no XML.
    """
    root = ElementTree.fromstring(svg)
    size = {name: root.attrib.pop(name, "") for name in ("width", "height")}
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        node.attrib = {
            name.removeprefix("{http://www.w3.org/1999/xlink}"): _renamed(name, value, prefix)
            for name, value in node.attrib.items()
            if not name.startswith("{") or name == _HREF
        }
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": label, "style": f"width: {size['width'] or '100%'}"}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(name: str, value: str, prefix: str) -> str:
    """An attribute whose own name or reference gets the prefix."""
    if name == "id":
        return f"{prefix}-{value}"
    if name in (_HREF, "href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
