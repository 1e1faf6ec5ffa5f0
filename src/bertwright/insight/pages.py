"""A page from a template: one html file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bertwright.files import atomic_write_text
from bertwright.insight.formats import FILTERS

__all__ = ["render_page"]


def render_page(template: str, context: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        template: its name in `templates/`.
        context: what the template asks for; a name that is missing is an error.
        path: where it goes.

    Raises:
        DiskFullError: there is no room for it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    path = Path(path)
    atomic_write_text(path, environment.get_template(template).render(context))
    return path
