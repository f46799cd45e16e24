"""python -m lab.calibration"""

import sys

from lab.calibration.simulation import main

if __name__ == "__main__":
    sys.exit(main())
