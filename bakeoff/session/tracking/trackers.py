"""The trackers, each as the same few calls. accelerate has trackers, too: they need torch in this process, which runs
must not share with it, and know one run at a time.

What a tracker writes without a server stands in a folder beside the reports. None of them sends anything on its own:
their telemetry is switched off, and a server is one that the environment names.
"""

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

PROJECT = "bakeoff"
"""The name of the project or experiment, where the environment names none."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a missing server is known in seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Of the environment, where it says nothing else."""


def settle() -> None:
    """Applies QUIET, before a tracker is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


class MLflow:
    """MLflow at MLFLOW_TRACKING_URI, or in an SQLite file that `mlflow ui` opens. A run of ours is a run of its own."""

    def __init__(self, group: str, place: Path) -> None:
        settle()
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        self.group = group
        self.runs: dict[str, str] = {}
        address, artifacts = os.environ.get("MLFLOW_TRACKING_URI", ""), None
        if not address:
            place = place.resolve() / "mlflow"
            place.mkdir(parents=True, exist_ok=True)
            address, artifacts = f"sqlite:///{(place / 'mlflow.db').as_posix()}", (place / "artifacts").as_uri()
        with (
            FileLock(place / "opening.lock") if artifacts else contextlib.nullcontext()
        ):  # one process makes its tables
            self.client = MlflowClient(tracking_uri=address)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self.client.get_experiment_by_name(name)
            self.experiment = known.experiment_id if known else self.client.create_experiment(name, artifacts)

    def begin(self, run: str, config: dict[str, str]) -> None:
        """Starts a run."""
        from mlflow.entities import Param

        made = self.client.create_run(self.experiment, run_name=run, tags={"bakeoff.session": self.group})
        self.runs[run] = made.info.run_id
        self.client.log_batch(
            made.info.run_id, params=[Param(permitted(key), value[:500]) for key, value in config.items()]
        )

    def log(self, run: str, step: int, figures: dict[str, float]) -> None:
        """Adds figures to a run."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(
            self.runs[run], metrics=[Metric(permitted(key), value, now, step) for key, value in figures.items()]
        )

    def end(self, run: str, figures: dict[str, float], failed: bool) -> None:
        """Ends a run."""
        if figures:
            self.log(run, 0, figures)
        self.client.set_terminated(self.runs.pop(run), "FAILED" if failed else "FINISHED")

    def report(self, figures: dict[str, float], config: dict[str, str], folder: Path) -> None:
        """A run with the figures of all methods, and the report as artifacts."""
        self.begin("report", config)
        self.client.log_artifacts(self.runs["report"], str(folder), "report")
        self.end("report", figures, failed=False)

    def close(self) -> None:
        """Ends what was not finished."""
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")
        self.runs = {}


class TensorBoard:
    """Event files below tensorboard/GROUP/RUN, which `tensorboard --logdir` shows."""

    def __init__(self, group: str, place: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
        from tensorboard.summary import Writer
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer, self.events, self.place = Writer, EventFileWriter, place / "tensorboard" / permitted(group, "-")
        self.event, self.summary, self.tensor = event_pb2.Event, summary_pb2, tensor_pb2.TensorProto
        self.runs: dict[str, Any] = {}

    def begin(self, run: str, config: dict[str, str]) -> None:
        """Starts a run; its settings are a text."""
        self.text(run, "settings", "\n".join(f"    {key}: {value}" for key, value in config.items()))
        self.runs[run] = self.writer(str(self.folder(run)))

    def log(self, run: str, step: int, figures: dict[str, float]) -> None:
        """Adds figures to a run, and brings them to the file."""
        for key, value in figures.items():
            self.runs[run].add_scalar(key, value, step)
        self.runs[run].flush()

    def end(self, run: str, figures: dict[str, float], failed: bool) -> None:
        """Ends a run."""
        self.log(run, 0, figures)
        self.runs.pop(run).close()

    def report(self, figures: dict[str, float], config: dict[str, str], folder: Path) -> None:
        """A run with the figures of all methods, and the report as a text: TensorBoard keeps no files."""
        self.begin("report", config)
        self.text("report", "report", (folder / "report.md").read_text(encoding="utf-8"))
        self.end("report", figures, failed=False)

    def folder(self, run: str) -> Path:
        """Of a run's event files."""
        return self.place / permitted(run, "-")

    def text(self, run: str, tag: str, text: str) -> None:
        """An event with a text, which TensorBoard's own package writes with TensorFlow alone."""
        plugin = self.summary.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self.tensor(dtype="DT_STRING", string_val=[text.encode()])
        value = self.summary.Summary.Value(
            tag=f"{tag}/text_summary", tensor=tensor, metadata=self.summary.SummaryMetadata(plugin_data=plugin)
        )
        self.folder(run).mkdir(parents=True, exist_ok=True)
        file = self.events(str(self.folder(run)), filename_suffix=f".{tag}")
        file.add_event(self.event(wall_time=time.time(), step=0, summary=self.summary.Summary(value=[value])))
        file.close()

    def close(self) -> None:
        """Closes what was not finished."""
        for writer in self.runs.values():
            writer.close()
        self.runs = {}


class Wandb:
    """Weights & Biases: offline in a folder, which `wandb sync` uploads, unless WANDB_MODE or WANDB_API_KEY is set."""

    def __init__(self, group: str, place: Path) -> None:
        settle()
        import wandb

        self.wandb, self.group, self.place = wandb, group, place.resolve()
        self.place.mkdir(parents=True, exist_ok=True)
        self.online = bool(os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"))
        self.runs: dict[str, Any] = {}

    def begin(self, run: str, config: dict[str, str]) -> None:
        """Starts a run."""
        settings = self.wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=20
        )
        self.runs[run] = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), group=self.group, name=run, config=dict(config),
            dir=str(self.place), mode=None if self.online else "offline", reinit="create_new", settings=settings,
        )  # fmt: skip

    def log(self, run: str, step: int, figures: dict[str, float]) -> None:
        """Adds figures to a run."""
        self.runs[run].log(figures, step=step)

    def end(self, run: str, figures: dict[str, float], failed: bool) -> None:
        """Ends a run."""
        found = self.runs.pop(run)
        found.summary.update(figures)
        found.finish(exit_code=int(failed))

    def report(self, figures: dict[str, float], config: dict[str, str], folder: Path) -> None:
        """A run with the figures of all methods, and the report as an artifact."""
        self.begin("report", config)
        artifact = self.wandb.Artifact(permitted(f"report-{self.group}", "-"), type="report")
        artifact.add_dir(str(folder))
        self.runs["report"].log_artifact(artifact)
        self.end("report", figures, failed=False)

    def close(self) -> None:
        """Ends what was not finished."""
        for run in self.runs.values():
            run.finish(exit_code=1)
        self.runs = {}


class Trackio:
    """Trackio, in a folder that `trackio show` reads (TRACKIO_DIR); TRACKIO_SPACE_ID or a server takes it elsewhere."""

    def __init__(self, group: str, place: Path) -> None:
        settle()
        os.environ.setdefault("TRACKIO_DIR", str(place.resolve() / "trackio"))  # read when it is imported
        import trackio

        self.trackio, self.group = trackio, group
        self.runs: dict[str, Any] = {}

    def begin(self, run: str, config: dict[str, str]) -> None:
        """Starts a run."""
        self.runs[run] = self.trackio.init(
            project=PROJECT, name=f"{run}-{self.group}", group=self.group, config=dict(config), embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(self, run: str, step: int, figures: dict[str, float]) -> None:
        """Adds figures to a run."""
        self.runs[run].log(figures, step=step)

    def end(self, run: str, figures: dict[str, float], failed: bool) -> None:
        """Ends a run."""
        found = self.runs.pop(run)
        if figures:
            found.log(figures)
        found.finish()

    def report(self, figures: dict[str, float], config: dict[str, str], folder: Path) -> None:
        """A run with the figures of all methods, and the report as an artifact."""
        self.begin("report", config)
        self.runs["report"].log_artifact(str(folder), name=permitted(f"report-{self.group}", "-"), type="report")
        self.end("report", figures, failed=False)

    def close(self) -> None:
        """Ends what was not finished."""
        for run in self.runs.values():
            run.finish()
        self.runs = {}


TRACKERS: dict[str, Any] = {"mlflow": MLflow, "tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def permitted(name: str, instead: str = "_") -> str:
    """`name` with what MLflow and W&B permit in names; a slash becomes a level where `instead` is none."""
    return re.sub(r"[^\w./ -]" if instead == "_" else r"[^\w.-]", instead, name)[:250]
