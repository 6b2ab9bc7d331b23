"""The site's table of contents: it is docs/README.md's, so that no page has to be listed twice. A hook of mkdocs."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

Contents = list[dict[str, Any]]
"""Titles with pages, or with more contents."""


def contents(page: str) -> Contents:
    """Return what docs/README.md lists, by its bold headings."""
    found: Contents = [{"cxfr-proxy": "README.md"}, {"All pages": "docs/README.md"}]
    for line in page.splitlines():
        if heading := re.fullmatch(r"\*\*(.+)\*\*", line):
            found.append({heading[1]: []})
        elif line.startswith("* "):
            entries = next(iter(found[-1].values()))
            for title, target in re.findall(r"\[([^\]]+)\]\(([\w./-]+\.md)\)", line):
                path = Path("docs", target)
                inside = path.parts[2:] if path.parts[1] == ".." else path.parts
                name = title if "." in title else title[0].upper() + title[1:]
                entries.append({name: str(Path(*inside))})
    found.append({"Changes": "CHANGELOG.md"})
    return found


def on_config(config: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the contents into the configuration; mkdocs calls it by this name."""
    config["nav"] = contents(Path(config["docs_dir"], "docs", "README.md").read_text("utf-8"))
    return config
