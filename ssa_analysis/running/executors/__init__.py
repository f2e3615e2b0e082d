"""Where jobs run: on this machine, on a Ray cluster, under SLURM, or where a plug-in says."""

from ssa_analysis.running.executors.base import (
    EXECUTORS,
    Event,
    Executor,
    ExecutorKind,
    ExecutorSettings,
    Job,
    Tries,
    events_of,
    make_executor,
)
from ssa_analysis.running.executors.local import InProcessExecutor, ProcessExecutor
from ssa_analysis.running.executors.on_ray import RayExecutor
from ssa_analysis.running.executors.on_slurm import SlurmExecutor

__all__ = [
    "EXECUTORS",
    "Event",
    "Executor",
    "ExecutorKind",
    "ExecutorSettings",
    "InProcessExecutor",
    "Job",
    "ProcessExecutor",
    "RayExecutor",
    "SlurmExecutor",
    "Tries",
    "events_of",
    "make_executor",
]
