"""Fill a template: jinja2 with the page's style, script and policy, and the filters for numbers."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from report.content_security import with_policy

TEMPLATES = Path(__file__).parent / "templates"
STYLES, SCRIPTS = ("page.css", "study_browser.css"), ("study_browser.js",)


def render(template: str, context: dict[str, Any]) -> str:
    """Return a page: a template filled with `context`, its style and script, and its policy."""
    style = Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in STYLES))
    script = Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS))
    page = environment().get_template(template).render(context | {"style": style, "script": script})
    return with_policy(page, style, script)


def environment() -> jinja2.Environment:
    """Return jinja2's environment of the templates, with their filters."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {
        "percent": percent,
        "duration": duration,
        "minute": minute,
        "size": size,
        "count": "{:,}".format,
    }
    return templates


def percent(share: float) -> str:
    """A share in [0, 1] as text: "12.34 %", or a dash where it is NaN."""
    return f"{100 * share:.2f} %" if np.isfinite(share) else "–"


def duration(seconds: float) -> str:
    """Seconds as text: "0.4 s", "3 min 20 s", "2 h 05 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(gigabytes: float) -> str:
    """GB as text: "12.3 GB", "45 MB", "0.2 MB"."""
    megabytes = 1000 * gigabytes
    if round(megabytes) >= 1000:
        return f"{gigabytes:.1f} GB"
    return f"{megabytes:.0f} MB" if round(megabytes, 1) >= 10 else f"{megabytes:.1f} MB"


def minute(time: str | None) -> str:
    """An ISO time as text, to the minute: "2026-01-02 03:04 UTC"; "" where there is none."""
    if not time:
        return ""
    return f"{time[:10]} {time[11:16]}{' UTC' if time.endswith(('+00:00', 'Z')) else ''}"
