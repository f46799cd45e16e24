"""python -m lab.calibration"""

from lab.calibration.simulation import main

if __name__ == "__main__":
    main()
