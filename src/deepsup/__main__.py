"""`python -m deepsup` and the `deepsup` command; says kindly what to install when the command line's packages are missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    try:
        from deepsup.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("deepsup"):
            raise
        print(f'the deepsup command needs the package {error.name!r}: pip install "deepsup[cli]"', file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    # Put first by `-m`: a jinja2.py in the current folder would be taken for the package.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        sys.path.pop(0)
    main()
