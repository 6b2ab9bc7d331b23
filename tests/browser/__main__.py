"""Play the stories. Exit code 1 where one went wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from browser.stories import STORIES, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m browser", description="Web clients in headless Chromium.")
    parser.add_argument("packages", type=Path, help="node_modules, with strophe.js and converse.js")
    parser.add_argument("pictures", type=Path, help="a folder for screenshots")
    parser.add_argument("--stories", nargs="+", choices=STORIES, default=["strophe", "converse", "unnoticed"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of silence (default: %(default)s)")
    given = parser.parse_args()
    failed = False
    for story in given.stories:
        print(f"== {story}", flush=True)
        pictures = given.pictures / story
        pictures.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="browser-") as folder:
            judged = trio.run(play, story, given.packages, Path(folder), pictures, given.minutes)
        wrong = [text for text, is_so in judged.items() if is_so]
        print("FAILED: " + "; ".join(wrong) if wrong else "the same page, the same chat: it went on", flush=True)
        failed |= bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
