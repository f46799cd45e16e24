"""python -m lab.speed"""

import sys

from lab.speed.measure import main

if __name__ == "__main__":
    sys.exit(main())
