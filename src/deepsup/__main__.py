"""`python -m deepsup` and the `deepsup` command; says kindly what to install when the command line's packages are missing."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if (
        interrupts
    ):  # until there is somebody to answer it Ctrl-C ends the process, without a traceback of half an import
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from deepsup.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("deepsup"):
            raise
        print(f'the deepsup command needs the package {error.name!r}: pip install "deepsup[cli]"', file=sys.stderr)
        sys.exit(1)
    if interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    # Put first by `-m`: a jinja2.py in the current folder would be taken for the package.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        sys.path.pop(0)
    main()
