"""Parts of a page that a command writes: what lies between two marks, the rest being left as it is."""

from __future__ import annotations

import re
from pathlib import Path


def put_section(page: Path, command: str, text: str) -> None:
    """Put text between the marks ``<!-- written by `command` -->`` and ``<!-- end -->`` of a page."""
    begin = f"<!-- written by `{command}` -->"
    before = page.read_text(encoding="utf-8")
    after, found = re.subn(
        f"{re.escape(begin)}.*?<!-- end -->",
        lambda _: f"{begin}\n{text.strip()}\n<!-- end -->",
        before,
        flags=re.DOTALL,
    )
    if found != 1:
        raise ValueError(f"{page} has {found} sections that begin with {begin}, and needs one")
    page.write_text(after, encoding="utf-8")
