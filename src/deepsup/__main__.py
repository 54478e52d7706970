"""`python -m deepsup` and the `deepsup` command; says kindly what to install when the command line's packages are missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from deepsup.cli.commands import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("deepsup"):
            raise
        print(f'the deepsup command needs the package {error.name!r}: pip install "deepsup[cli]"', file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    if (
        not sys.flags.safe_path
    ):  # `-m` has put the current folder first: a jinja2.py in it would be taken for the package
        sys.path.pop(0)
    main()
