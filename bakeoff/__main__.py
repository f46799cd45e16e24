"""python -m bakeoff, and the command bakeoff."""

import sys

from bakeoff.cli import main


def run() -> None:
    """Ends the process with the exit code of the command line."""
    sys.exit(main())


if __name__ == "__main__":
    run()
