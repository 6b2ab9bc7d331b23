"""A settings file to begin with, drawn from the table: every setting with its default and the reason for it.

Every line is a comment but that of ``backends``, for which there is no default. A default that can be written stands as
it would have to be written, so a line from which the ``#`` is taken away changes nothing yet.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from cxfr_proxy.config.settings import Group, Setting

SAMPLE_NODES: Final = "/etc/cxfr-proxy/nodes.txt"
_WIDTH: Final = 100
_HEAD: Final = """\
# The settings of cxfr-proxy, with their defaults. Take away the # in front of a line to change it, and check the file
# with: cxfr-proxy check --config FILE
#
# A proxy that runs takes by itself what has changed: at once, for new connections, or with its next restart ("Reload").
# A flag of the command line wins over this file. Times are seconds, or have a unit ("500ms", "10s", "2m"); sizes are
# bytes, or have one ("8KiB", "1MiB").
"""


def render_sample(settings: Sequence[Setting]) -> str:
    """Return the file."""
    parts = [_HEAD]
    for group in Group:
        parts.append(f"# --- {group}\n")
        parts += ["\n".join([*_lines(each), ""]) for each in settings if each.row.group is group]
    return "\n".join(parts)


def _lines(each: Setting) -> Iterator[str]:
    yield from _comment(f"{each.row.help[0].upper()}{each.row.help[1:]}.")
    yield from _comment(f"Why: {each.row.reason}")
    yield f"# Reload: {each.row.reload}"
    if each.row.default is not None:
        yield from _comment(f"Default: {each.default}")
    yield f'backends = "{SAMPLE_NODES}"' if each.name == "backends" else f"#{each.name} = {_value(each)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _value(each: Setting) -> str:
    """Return the default, or where it can't be written what stands for a value in ``--help``."""
    texts = [each.row.value_type.metavar] if each.row.default is not None else each.default_texts
    values = [text if text.isdecimal() else json.dumps(text, ensure_ascii=False) for text in texts]
    return f"[{', '.join(values)}]" if each.row.repeatable else values[0]
