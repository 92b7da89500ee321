"""A page as a tree of elements, so that a test can say where a text must stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "hr", "img", "input", "link", "meta"}


@dataclass(eq=False, repr=False)
class Element:
    """An element, its attributes, and what stands in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, spaces as a browser folds them."""
        return " ".join("".join(self._texts()).split())

    @property
    def elements(self) -> list[Element]:
        """The children that are elements."""
        return [child for child in self.children if isinstance(child, Element)]

    def __repr__(self) -> str:
        return f"<{self.tag}: {self.text[:60]}>"

    def __getitem__(self, attribute: str) -> str:
        return self.attributes[attribute]

    def get(self, attribute: str) -> str | None:
        return self.attributes.get(attribute)

    def all(self, tag: str = "", /, **attributes: str) -> list[Element]:
        """The elements inside, in order. Attributes are written as in Python (``data_budget``,
        ``class_``); a class is one of several."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [each for each in self._inside() if each._is(tag, wanted)]

    def one(self, tag: str = "", /, **attributes: str) -> Element:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements <{tag}> {attributes} in <{self.tag}>"
        return found[0]

    def _is(self, tag: str, attributes: dict[str, str]) -> bool:
        return tag in ("", self.tag) and all(
            value in (self.get(name) or "").split() if name == "class" else self.get(name) == value
            for name, value in attributes.items()
        )

    def _inside(self) -> Iterator[Element]:
        for child in self.elements:
            yield child
            yield from child._inside()

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._texts()


def parse(text: str) -> Element:
    """The whole document. Every tag must be closed, in its order."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    (document,) = builder.open
    return document


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)
