"""python -m lab.growth"""

import sys

from lab.growth.measure import main

if __name__ == "__main__":
    sys.exit(main())
