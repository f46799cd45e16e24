"""`bakeoff merge`: a finished run as a model of its own."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.config import project
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `merge`."""
    found = command(
        commands,
        "merge",
        "write a finished run as a model that transformers loads by itself",
        "Merges what a run trained into the base model, checks that the result writes what the run's model writes, "
        "and saves weights (safetensors, fp32), tokenizer, generation settings and a model card.",
    )
    found.add_argument("run", metavar="RUN", help="a run's fingerprint or its first digits, or its folder")
    found.add_argument("out", metavar="OUT", help="a new folder")
    found.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    found.set_defaults(command=merge)


def merge(options: argparse.Namespace) -> str:
    """Where the model is, and what the check found."""
    import os
    import warnings

    from bakeoff.session.worker import waiting

    os.environ.update(waiting())  # read when torch is loaded

    from transformers.utils import logging

    from bakeoff.sharing import card, stored
    from bakeoff.sharing.merge import merge

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    store, out = Path(options.store or project.own(".bakeoff")), Path(options.out)
    run = stored.find("merge", options.run, store)
    try:
        found = merge(run, out, store / "models")
        (out / "README.md").write_bytes(card.render(run, merged=True).encode())
    except OSError as error:
        raise UsageError(f"merge: {out}: can't be written: {error.strerror}; name another folder") from None
    return (
        f"written: {out}\n{found.equal} of {found.checked} summaries are the attached model's (fp32); "
        f"logits differ by at most {found.difference:.1e} of the largest"
    )
