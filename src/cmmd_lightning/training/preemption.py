"""Signals that end a job, obeyed between steps and by all processes at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer

_ASK_EVERY = 10  # steps between the questions that several processes ask each other


def agreed(trainer: Trainer, wish: bool) -> bool:
    """Whether any process wishes it; all get the same answer. To be asked by all of them at the same place."""
    return wish if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(wish, all=False)


def may_ask(trainer: Trainer) -> bool:
    """Whether this is a step for questions between processes: each waits for the others, so not at every step."""
    return trainer.world_size == 1 or trainer.global_step % _ASK_EVERY == 0


def leave_signals_to_trainer(worker: int = 0) -> None:
    """Puts a loader's worker into a process group of its own, so that what is sent to the trainer's does not end it.

    ``timeout``, a terminal's Ctrl-C and clusters signal whole groups; a worker that is ended fails the step that waits
    for it. It ends when the trainer does.

    Args:
        worker: Its number, as a loader's ``worker_init_fn`` is given it.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class DeferredSignals:
    """Holds back Lightning's answers to signals until all processes are between two batches.

    Lightning (2.6.6) answers a SLURM requeue signal at once, wherever the process is: inside of an optimiser step, or
    with each process at another step; the checkpoint is then not what a resumed run needs, or the processes wait for
    each other for ever. SIGTERM is answered well by one process; among several, its broadcast may meet another of
    their operations, and the question whether it came makes all of them wait for the device at every step: not asked
    any more.

    Args:
        trainer: A trainer whose fit has begun: its handlers are in place.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._received: set[int] = set()
        self._answers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = []
        if trainer.world_size > 1:
            wanted = [signal.SIGTERM]
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        cluster = trainer._accelerator_connector.cluster_environment
        if isinstance(cluster, SLURMEnvironment) and cluster.auto_requeue and cluster.requeue_signal is not None:
            wanted.append(cluster.requeue_signal)
        for number in wanted:
            answer = signal.getsignal(number)
            if callable(answer):
                self._answers[number] = answer
                signal.signal(number, lambda signum, _: self._received.add(signum))

    def obey(self, trainer: Trainer) -> None:
        """Answers what any process has received; to be called by all of them at the same place."""
        for number, answer in self._answers.items():
            if agreed(trainer, number in self._received):
                self._received.discard(number)
                answer(number, None)
