"""What the processes of test_worker.py do; importable, since a process gets its job by name."""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from bakeoff.core.errors import Diverged, UsageError


def answer(value, tell):
    """What it was given, and the process in which it was."""
    return {"value": value, "pid": os.getpid()}


def loaded(package, tell):
    """Which modules of a package are in memory, those that are hidden left out."""
    return [name for name, module in sys.modules.items() if name.partition(".")[0] == package and module is not None]


def forked_from_cuda(tell):
    """Whether CUDA was started in the process from which this one was forked: then it can't be used here."""
    import torch

    return torch.cuda._is_in_bad_fork()


def quantised(folder, how, where, tell):
    """What is loaded of what quantises before it is asked for, beside which layers a LoRA then stands, and whether it
    leaves the base's logits as they are."""
    import torch

    from bakeoff.config.schema import ModelSettings
    from bakeoff.methods.registry import known_methods
    from bakeoff.models import loading

    before = [name for package in ("bitsandbytes", "torchao") for name in loaded(package, tell)]
    settings = ModelSettings(name=folder, quantisation=how)
    source = loading.locate(settings)
    model, tokenizer = loading.load(settings, source, loading.prepare(source, None), "sdpa", where=where)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        plain = model(ids).logits
        model = known_methods()["lora"].kind().attach(model, tokenizer)
        same = torch.equal(plain, model.eval()(ids).logits)  # a LoRA adds nothing before it is trained
    layers = {type(module.base_layer).__name__ for module in model.modules() if hasattr(module, "base_layer")}
    return {"before": before, "layers": sorted(layers), "same": same}


def stay(tell):
    """Its number, and a thread that keeps it from ending."""
    threading.Thread(target=time.sleep, args=(60,)).start()
    return os.getpid()


def count(tell):
    """A hundred pieces of news."""
    for number in range(100):
        tell({"phase": "training", "step": number})
    return "done"


def shout(tell):
    """Prints in every way that a process has."""
    print("printed é")
    os.system("echo from a child")
    os.write(2, b"raw \xff bytes\n")


def raise_after(phase, error, tell):
    """Says its phase, then raises the error of that name."""
    tell({"phase": phase})
    raise {"value": ValueError("no\nsecond line"), "usage": UsageError("mend it"), "silent": ValueError(),
           "diverged": Diverged("step 3"), "memory": MemoryError(), "exit": SystemExit(3)}[error]  # fmt: skip


def kill_itself(number, tell):
    """Ends by a signal, as the system's own hunter of memory would end it."""
    tell({"phase": "training"})
    os.kill(os.getpid(), number)
    time.sleep(60)


def kill_itself_mid_message(tell):
    """Ends with half of a message written."""
    [connection] = (cell.cell_contents for cell in tell.__closure__)
    tell({"phase": "evaluation"})
    os.write(connection.fileno(), b"\x00\x00\x10\x00half of a mess")
    os.kill(os.getpid(), signal.SIGKILL)


def exit_at_once(code, tell):
    """Ends without a word of why."""
    tell({"phase": "validation"})
    os._exit(code)


def abort_for_memory(tell):
    """Ends as C++ does where memory is short."""
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def starve(hungry, tell):
    """Asks for more than the address space that it may have."""
    import torch

    tell({"phase": "training"})
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    return len(bytearray(2**30)) if hungry == "python" else torch.zeros(2**30).sum()


def unspeakable(tell):
    """Returns what no other process can be told."""
    return lambda: None


def unspeakable_news(tell):
    """Tells what no other process can be told."""
    tell({"phase": lambda: None})


def linger(deaf, tell):
    """Stays for a minute; if `deaf`, it doesn't hear that it should end."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell({"phase": "training", "pid": os.getpid()})
    time.sleep(60)


def hang(tell):
    """Computes nothing for ten minutes."""
    tell({"phase": "training"})
    a_place_where_nothing_ends()


def a_place_where_nothing_ends():
    """What a trace of `hang` names."""
    time.sleep(600)


def fill_the_disk(path, tell):
    """Writes more than a file may hold, as on a full disk."""
    tell({"phase": "checks"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    Path(path).write_bytes(bytes(8192))


def orphan(path, log):
    """Asks for a job, in a process that will be killed; leaves the pid of the job's process in `path`."""
    from bakeoff.session import worker

    worker.start_server(offline=True)
    worker.call(linger, True, log=Path(log), emit=lambda news: Path(path).write_text(str(news["pid"])))


def where(tell):
    """Where a job's process stands, whether it may ask the hub, and what cuBLAS is told."""
    names = {"offline": "HF_HUB_OFFLINE", "cublas": "CUBLAS_WORKSPACE_CONFIG"}
    return {"folder": os.getcwd(), **{key: os.environ.get(name) for key, name in names.items()}}


def checked(spec, folder, cache, small, forgetful, tell):
    """A run whose model stays in memory up to `small` bytes; what its checks found, and how many texts were asked for.

    `forgetful`: saved tensors are not loaded.
    """
    from bakeoff.runs import pipeline, verify
    from bakeoff.runs.records import RunSpec
    from bakeoff.runs.resources import Clock

    asked, plain = [], pipeline.summarise
    verify.SMALL = small
    pipeline.summarise = lambda *given, **more: asked.append(len(given[3])) or plain(*given, **more)
    if forgetful:
        pipeline.adapters.load = lambda model, folder: None
    result, _ = pipeline.run(RunSpec(**spec), folder, cache, tell, Clock())
    return result.evidence, asked
