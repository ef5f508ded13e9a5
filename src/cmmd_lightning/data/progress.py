"""How far preparing has come: a bar on terminals, now and then a line in logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_LINE, _LATER_LINES = 10.0, 300.0  # seconds after which the expected time is told, and told again


class HashingBar:
    """A bar for the reading of content hashes; a context manager.

    Args:
        total: Files.
        shown: Whether to show it.
    """

    def __init__(self, total: int, shown: bool) -> None:
        self._bar = _bar(shown, TimeRemainingColumn())
        self._task = self._bar.add_task("reading", total=total, detail=f"content hashes of {total} files")

    def __enter__(self) -> Self:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        self._bar.stop()

    def count(self, results: Iterable[T]) -> Iterator[T]:
        """Passes results on and counts them."""
        for result in results:
            self._bar.advance(self._task)
            yield result


class MediaBar:
    """A bar of files and hours of media with the time left; a context manager.

    After the first seconds the expected time is logged, and again every few minutes where there is no terminal.

    Args:
        num_files: Files to do.
        seconds: Seconds of media expected in them.
        shown: Whether to show the bar.
    """

    def __init__(self, num_files: int, seconds: float, shown: bool) -> None:
        self.num_files, self.seconds = num_files, seconds
        self._bar = _bar(shown, TimeRemainingColumn(elapsed_when_finished=True))
        self._task = self._bar.add_task("preparing", total=max(seconds, 1e-3), detail="")
        self._terminal = shown and self._bar.console.is_terminal
        self._began = time.monotonic()
        self._next_line = self._began + _FIRST_LINE

    def __enter__(self) -> Self:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        self._bar.stop()

    def show(self, settled: int, seconds: float, failed: int) -> None:
        """Shows how far it has come.

        Args:
            settled: Files done or failed.
            seconds: Seconds of media done.
            failed: Files that failed.
        """
        done = settled == self.num_files
        total = seconds if done else max(self.seconds, seconds)
        hours = f"{seconds / 3600:.2f}/{total / 3600:.2f} h of media"
        detail = f"{settled}/{self.num_files} files, {hours}, {failed} failed"
        self._bar.update(self._task, completed=seconds, total=max(total, 1e-3), detail=detail)
        now = time.monotonic()
        if now >= self._next_line and seconds > 0 and not done:
            speed = seconds / (now - self._began)
            left = (total - seconds) / speed
            logger.info("%s; %.3g s of media per second, about %s left", detail, speed, duration_text(left))
            self._next_line = float("inf") if self._terminal else now + _LATER_LINES


def duration_text(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration_text(42), duration_text(600), duration_text(7200)
        ('42 s', '10 min', '2.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bar(shown: bool, left: ProgressColumn) -> Progress:
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), left]
    return Progress(*columns, disable=not shown)
