"""python -m lab.compatibility"""

import sys

from lab.compatibility.table import main

if __name__ == "__main__":
    sys.exit(main())
