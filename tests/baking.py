"""What tests of whole runs share: the smoke preset made smaller, and what an adapter holds."""

import hashlib

SMALL = ["task.train=4", "task.validation=2", "task.test=3", "task.max_target_tokens=8", "machine.threads=1"]


def adapter(store, run):
    """sha256 of a run's trained tensors."""
    [file] = (store.folder(run.fingerprint) / "adapter").glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()
