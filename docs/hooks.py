"""What MkDocs does besides: equations become MathML, roles of docstrings become links.

Browsers show MathML without a script.
"""

import html
import re

from latex2mathml.converter import convert

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)</code>")
_ANCHOR = re.compile(r'id="((?:strategies|clients|pfl_flower)\.[\w.]+)"')


def on_page_content(content: str, **_: object) -> str:
    """Return the page with equations as MathML, and what docstrings refer to as links."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]), display=display)

    places = {place.rpartition(".")[2]: place for place in _ANCHOR.findall(content)}

    def link(match: re.Match[str]) -> str:
        words = f"<code>{match[1]}</code>"
        place = places.get(match[1].rpartition(".")[2])
        return f'<a href="#{place}">{words}</a>' if place else words

    return _ROLE.sub(link, _EQUATION.sub(mathml, content))
