"""The command as a user types it, run in this process: importing torch again takes seconds."""

from __future__ import annotations

import io
import logging
import signal
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from cmmd_lightning.cli import main

# A quickstart that is small enough to be run many times; every flag is one that people use.
SMALL_MODEL = [
    *("--model.clip.num_frames", "8", "--model.init_args.clip.height", "16", "--model.init_args.clip.width=16"),
    *("--model.clip.sample_rate", "8000", "--model.clip.n_fft", "256", "--model.clip.hop_length", "100"),
    *("--model.clip.n_mels", "16", "--model.network.video_channels", "[16,16]"),
    *("--model.network.audio_channels", "[16,16]", "--model.network.head_channels", "16"),
    *("--model.network.attention_levels", "[1]", "--model.network.embedding_channels", "16"),
]
SMALL_RUN = [
    *("--data.num_workers", "0", "--data.batch_size", "2", "--trainer.accelerator", "cpu"),
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"),
]
SMALL = [*SMALL_MODEL, *SMALL_RUN, "--data.source.render_clips", "[4,2,2]"]


@dataclass
class Done:
    """What a command left in the terminal."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines in which ``cmmd`` gives up."""
        return [line for line in self.err.splitlines() if line.startswith("cmmd: error: ")]

    def lines_with(self, text: str) -> list[str]:
        """Lines on stderr that contain a text."""
        return [line for line in self.err.splitlines() if text in line]


def cmmd(*args: object, cwd: Path) -> Done:
    """Runs ``cmmd ARGS`` in a folder."""
    out, err, logger = io.StringIO(), io.StringIO(), logging.getLogger("cmmd_lightning")
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = logger.handlers[:], logger.level, logger.propagate, lightning.filters[:]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    argv = ["cmmd", *map(str, args)]
    try:
        with (
            patch.object(sys, "argv", argv),
            chdir(cwd),
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            main()
    except SystemExit as stop:
        return Done(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        logger.handlers[:], logger.level, logger.propagate, lightning.filters[:] = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError("main() is expected to end by sys.exit")
