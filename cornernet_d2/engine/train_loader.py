"""The endless stream of training batches, a pure function of a seed and a position.

Every example is drawn with random generators of its own, seeded by the run's seed and by the
example's position in the stream. What a step sees therefore depends neither on the number of
worker processes nor on how often the run was interrupted: resuming means skipping the positions
that were consumed.
"""

import itertools
import random
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils import data as torchdata

from ..data.validation import validate_dataset

Example = Dict[str, Any]


def entropy_words(*entropy: int) -> List[int]:
    """Three 32-bit seeds that depend on all of ``entropy``; similar ones give unrelated seeds."""
    return [int(word) for word in np.random.SeedSequence(entropy).generate_state(3)]


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the CPU generators of random, numpy and torch by ``entropy``; restore them on exit."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = entropy_words(*entropy)
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2])
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


class SeededDataset(torchdata.Dataset):
    """Maps (index, position) to ``mapper(dataset[index])``, seeded by the position."""

    def __init__(self, dataset: Sequence[Example], mapper: Callable, seed: int) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Tuple[int, int]) -> Example:
        index, position = key
        source = self.dataset[index]
        with seeded(self.seed, position):
            example = self.mapper(source)
        if example is None:
            raise ValueError(
                f"The dataset mapper returned None for {source.get('file_name', index)!r}. Leave "
                "images out when the data set is registered: a mapper that drops some makes the "
                "order of the others unknown, and a run could not be resumed exactly."
            )
        return example


class StreamSampler(torchdata.Sampler):
    """Endless batches of (index, position) of this process, after skipping ``start`` of them.

    Args:
        sampler: an endless Detectron2 sampler, which yields the indices of this process.
        batch_size: examples per batch of this process.
        start: batches to skip.
        groups: a group per index; a batch holds one group only. None: all may go together.
    """

    def __init__(
        self,
        sampler: torchdata.Sampler,
        batch_size: int,
        start: int = 0,
        groups: Optional[Sequence[int]] = None,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.start = start
        self.groups = groups

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[List[Tuple[int, int]]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        pending: Dict[int, List[Tuple[int, int]]] = {}
        for k, index in enumerate(self.sampler):
            group = 0 if self.groups is None else self.groups[index]
            batch = pending.setdefault(group, [])
            batch.append((index, k * world_size + rank))
            if len(batch) == self.batch_size:
                del pending[group]
                yield batch


class TrainLoader:
    """Iterates over list[dict] batches of this process; its state is a seed and a position.

    Args:
        dataset: dataset dicts in Detectron2's format.
        mapper: turns a dataset dict into what the model takes.
        build_sampler: seed -> endless Detectron2 sampler of this process's indices.
        batch_size: examples per batch of this process.
        num_workers: worker processes.
        seed: of the order and of the augmentation; the same on every process.
        groups: see :class:`StreamSampler`.

    Attributes:
        examples_seen (int): examples that all processes together have been given so far.
    """

    def __init__(
        self,
        dataset: List[Example],
        mapper: Callable[[Example], Example],
        build_sampler: Callable[[int], torchdata.Sampler],
        *,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        groups: Optional[Sequence[int]] = None,
    ) -> None:
        self.dataset = DatasetFromList(dataset, copy=False)
        self.mapper = mapper
        self.build_sampler = build_sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.groups = groups
        self.examples_seen = 0

    def __iter__(self) -> Iterator[List[Example]]:
        # A generator: nothing is read before the first batch is asked for, so that a checkpoint
        # can still move the starting point.
        per_batch = self.batch_size * comm.get_world_size()
        sampler = StreamSampler(
            self.build_sampler(self.seed),
            self.batch_size,
            start=self.examples_seen // per_batch,
            groups=self.groups,
        )
        for batch in torchdata.DataLoader(
            SeededDataset(self.dataset, self.mapper, self.seed),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else starting the workers draws from the model's
        ):
            self.examples_seen += per_batch
            yield batch

    def state_dict(self) -> Dict[str, int]:
        return {"seed": self.seed, "examples_seen": self.examples_seen}

    def load_state_dict(self, state: Dict[str, int]) -> None:
        self.seed = state["seed"]
        self.examples_seen = state["examples_seen"]


def build_train_loader(cfg: CfgNode, mapper: Callable[[Example], Example]) -> TrainLoader:
    """The loader of DATASETS.TRAIN as Detectron2's keys describe it.

    Raises:
        ValueError: SOLVER.IMS_PER_BATCH cannot be split, DATALOADER.SAMPLER_TRAIN is unknown, or
            the data has faults.
    """
    parts = comm.get_world_size() * cfg.SOLVER.GRADIENT_ACCUMULATION
    if cfg.SOLVER.IMS_PER_BATCH < parts or cfg.SOLVER.IMS_PER_BATCH % parts:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which cannot be split evenly "
            f"over {comm.get_world_size()} processes with SOLVER.GRADIENT_ACCUMULATION "
            f"{cfg.SOLVER.GRADIENT_ACCUMULATION}. Make it a multiple of {parts}."
        )
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    if comm.is_main_process():
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
        names = ", ".join(cfg.DATASETS.TRAIN)
        validate_dataset(dataset, cfg.MODEL.CORNERNET.NUM_CLASSES, classes, names)
    groups = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = [int(d["width"] > d["height"]) for d in dataset]
    return TrainLoader(
        dataset,
        mapper,
        _sampler_builder(cfg, dataset),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // parts,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        groups=groups,
    )


def _sampler_builder(cfg: CfgNode, dataset: List[Example]) -> Callable[[int], torchdata.Sampler]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(len(dataset), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return lambda seed: RandomSubsetTrainingSampler(
            len(dataset), ratio, seed_shuffle=seed, seed_subset=seed
        )
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; choose TrainingSampler, "
        "RepeatFactorTrainingSampler or RandomSubsetTrainingSampler."
    )


def _as_list(batch: List[Example]) -> List[Example]:
    return batch
