"""`make sanitize`: what it asks of GCC, and what it says where GCC has no sanitizers."""

import shlex
import shutil

import pytest

from bakeoff.engine.cpu.compiler import NoCompiler
from lab import sanitize


def test_kernels_are_compiled_with_both_sanitizers():
    try:
        found = sanitize.environment()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    assert "-fsanitize=address,undefined" in shlex.split(found["CC"])
    assert "libasan" in found["LD_PRELOAD"] and "libubsan" in found["LD_PRELOAD"]


@pytest.mark.skipif(not shutil.which("sh"), reason="no shell")
def test_without_sanitizers_one_line_says_so_and_nothing_fails(tmp_path, monkeypatch, capsys):
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho libasan.so\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(sanitize.compiler.sys, "platform", "linux")
    assert sanitize.main() == 0
    said = capsys.readouterr().out
    assert said == f"make sanitize is left out: {compiler} has no sanitizers: it finds no libasan.so\n"
