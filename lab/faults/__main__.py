"""python -m lab.faults"""

import sys

from lab.faults.torture import main

if __name__ == "__main__":
    sys.exit(main())
