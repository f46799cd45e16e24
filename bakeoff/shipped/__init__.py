"""What ships with Bakeoff: `bench/` and `methods/`, beside this file in a wheel, on the first level in a checkout."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "bench").is_dir() else _HERE.parents[1]
"""The folder that holds `bench/` and `methods/` as they ship. Nothing is ever written into an installed one."""
CHECKOUT = ROOT != _HERE
"""Whether this is a clone of Bakeoff's repository, or an editable installation of one."""
__path__ = [str(ROOT)]  # `bakeoff.shipped.bench.test_training` is one module name for both
