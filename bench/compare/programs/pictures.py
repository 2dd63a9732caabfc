"""The report's pictures, as SVG without scripts: ``python -m … pictures compare.json DIRECTORY TITLES``.

Runs in the peers' environment, which has the library; what is drawn was computed before.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pygal
from pygal.style import Style

_SCRIPTS = re.compile(r"<script.*?</script>|<!--.*?-->", re.DOTALL)
STYLE = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    colors=("#2f6f9f",),
    value_font_size=12,
    label_font_size=12,
    title_font_size=16,
)


def main() -> None:
    """One bar chart a drawing given on standard input; prints nothing."""
    directory = Path(sys.argv[1])
    for drawing in json.load(sys.stdin):
        chart = pygal.HorizontalBar(
            style=STYLE,
            js=(),
            show_legend=False,
            print_values=True,
            print_values_position="top",
            title=drawing["title"],
            x_title=drawing["unit"],
            height=90 + 34 * len(drawing["bars"]),
            width=900,
            margin_right=60,
            value_formatter=lambda number, form=drawing["form"]: form.format(number),
            truncate_label=-1,
        )
        # Drawn from below: the first comes on top.
        bars = list(reversed(drawing["bars"]))
        chart.x_labels = [name for name, _ in bars]
        own = {"color": "#b8442b"}
        chart.add("", [{"value": v, **(own if name == "Holdfast" else {})} for name, v in bars])
        text = chart.render(disable_xml_declaration=True, is_unicode=True)
        (directory / drawing["file"]).write_text(_SCRIPTS.sub("", text), "utf-8")


if __name__ == "__main__":
    main()
