import pickle
from itertools import islice

import pytest
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cmmd_lightning.data import StreamSampler, example_generator, example_rng, example_seed


class Echo(Dataset[tuple[int, int]]):
    """Gives back what it is asked for."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
        return item


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_follow_the_position_that_start_gives_at_every_beginning(num_workers: int) -> None:
    progress = [0]
    sampler = StreamSampler(3, start=lambda: progress[0])
    loader = DataLoader(Echo(), batch_size=3, sampler=sampler, num_workers=num_workers)
    first = [[positions.tolist(), indices.tolist()] for positions, indices in islice(loader, 3)]
    assert first == [[[position] * 3, [0, 1, 2]] for position in (0, 1, 2)]
    progress[0] = 1000
    again = [[positions.tolist(), indices.tolist()] for positions, indices in islice(loader, 2)]
    assert again == [[[position] * 3, [0, 1, 2]] for position in (1000, 1001)]


def test_two_ranks_together_are_one_with_the_same_global_batch() -> None:
    one = list(islice(StreamSampler(8), 8 * 5))
    ranks = [list(islice(StreamSampler(4, num_replicas=2, rank=rank), 4 * 5)) for rank in (0, 1)]
    joined = [pair for step in range(5) for rank in ranks for pair in rank[4 * step : 4 * step + 4]]
    assert joined == one


def test_lightning_takes_it_for_distributed_and_endless() -> None:
    sampler = StreamSampler(2)
    assert isinstance(sampler, DistributedSampler)
    sampler.set_epoch(3)
    assert next(iter(sampler)) == (0, 0)
    with pytest.raises(TypeError, match="endless"):
        len(sampler)
    loader = DataLoader(Echo(), batch_size=2, sampler=sampler)
    with pytest.raises(TypeError, match="endless"):
        len(loader)
    assert sized_len(loader) is None
    pickle.dumps(sampler)


@pytest.mark.parametrize("settings", [(0, 1, 0), (1, 2, 2), (1, 1, -1)])
def test_ranks_are_checked(settings: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= rank < num_replicas"):
        StreamSampler(settings[0], num_replicas=settings[1], rank=settings[2])


def test_randomness_is_the_same_forever_and_different_for_every_use() -> None:
    assert example_seed(0, 0, 0, "clip") == 1266131804556228500
    uses = [
        (seed, position, index, purpose)
        for seed in (0, 1)
        for position in (-1, 0, 1, 10, 11)
        for index in (0, 1, 10)
        for purpose in ("clip", "noise")
    ]
    assert len({example_seed(*use) for use in uses}) == len(uses)
    first, second = (example_generator(3, 5, 7, "noise").initial_seed() for _ in range(2))
    assert first == second == example_seed(3, 5, 7, "noise")
    assert example_rng(3, 5, 7, "clip").random() == example_rng(3, 5, 7, "clip").random()
    numbers = [example_rng(0, position, 0, "clip").random() for position in range(2000)]
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.02)
