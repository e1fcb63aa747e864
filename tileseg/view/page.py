"""Pages of their own: HTML with everything in it, to be sent, kept or printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tileseg.storage.store import write_atomic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22272e;background:#fff;margin:0 auto;max-width:960px;padding:24px}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:32px 0 10px;border-bottom:1px solid #d0d7de}
.sub{color:#57606a}table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:0 0 12px}
th,td{padding:3px 12px 3px 0;border-bottom:1px solid #e5e8eb;text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left}th{font-weight:600}td.text{text-align:left;overflow-wrap:anywhere}
i.key{display:inline-block;width:12px;height:12px;margin-right:6px;border:1px solid #22272e;vertical-align:-1px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f8fa;border:1px solid #d0d7de;padding:8px;font-size:13px}
figure{margin:0 0 16px;break-inside:avoid}figure img{display:block;max-width:100%;height:auto}
figcaption{font-size:13px;color:#57606a}.charts{display:flex;flex-wrap:wrap;gap:24px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:16px}.pair img{width:100%}
.warn{background:#fff8e5;border-left:4px solid #9a6700;padding:6px 12px}
svg text{font:11px system-ui,sans-serif;fill:#22272e}
@media print{body{max-width:none;padding:0;font-size:12px}h2{break-after:avoid}table,pre,svg,.pair{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def write_page(path: Path, title: str, head: str, sections: Sequence[tuple[str, str]]) -> None:
    """Write a page; ``head`` and the sections' texts are HTML, empty ones are left out."""
    body = "".join(f"<section><h2>{name}</h2>{text}</section>" for name, text in sections if text)
    write_atomic(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)} &ndash; tileseg</title><style>{_STYLE}</style>"
        f"<body>{head}{body}</html>\n",
    )


def jpeg(rgb: npt.NDArray[np.uint8]) -> str:
    """A picture (y, x, 3) as an address that holds it."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML, under heads that are text."""
    head = "".join(f"<th scope=col>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
