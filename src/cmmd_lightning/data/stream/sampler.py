"""The training stream: endless, indexed by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DistributedSampler


class StreamSampler(DistributedSampler):
    """An endless stream of (position, index) pairs: which training step, and which example of its global batch.

    ``DataLoader(dataset, batch_size=B, sampler=...)`` gives, as its first batch, that of position ``start()``, and
    then one position after the other. Process r of R takes the indices r * B to r * B + B - 1, so that R processes
    together see what one with R * B sees. There is no state to save: ``start`` is asked whenever iteration begins.

    It is a ``DistributedSampler`` so that Lightning leaves it in place; nothing else of that class is used.

    Args:
        batch_size: B, examples per process and step.
        num_replicas: R, the number of processes.
        rank: r, this process.
        start: Gives the first position: the trainer's progress.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from itertools import islice
        >>> list(islice(StreamSampler(2, num_replicas=2, rank=1, start=lambda: 5), 4))
        [(5, 2), (5, 3), (6, 2), (6, 3)]
    """

    def __init__(
        self, batch_size: int, *, num_replicas: int = 1, rank: int = 0, start: Callable[[], int] | None = None
    ) -> None:
        if batch_size < 1 or not 0 <= rank < num_replicas:
            raise ValueError(
                f"StreamSampler: expected batch_size >= 1 and 0 <= rank < num_replicas, "
                f"got {batch_size}, {rank} and {num_replicas}"
            )
        self.batch_size, self.num_replicas, self.rank, self.start = batch_size, num_replicas, rank, start
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        """Gives (position, index) pairs without end."""
        position = 0 if self.start is None else self.start()
        while True:
            for index in range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size):
                yield position, index
            position += 1

    def __len__(self) -> int:
        raise TypeError("the training stream is endless and has no length")
