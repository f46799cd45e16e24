"""python -m lab.gpu"""

import sys

from lab.gpu.measure import main

if __name__ == "__main__":
    sys.exit(main())
