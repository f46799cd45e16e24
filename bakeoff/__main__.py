"""python -m bakeoff, and the command bakeoff."""

import sys

from bakeoff.cli import main
from bakeoff.models import quantise


def run() -> None:
    """Ends the process with the exit code of the command line."""
    quantise.leave_out()
    sys.exit(main())


if __name__ == "__main__":
    run()
