"""The endless stream of training batches, a pure function of a seed and a position.

Every example is drawn with random generators of its own, seeded by the run's seed and by the
example's position in the stream. What a step sees therefore depends neither on the number of
processes and workers nor on how often the run was interrupted: resuming means skipping the steps
that were taken.
"""

import itertools
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
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

from ..data.coco import check_files
from ..data.reading import image_size
from ..data.validation import validate_dataset

Example = dict[str, Any]
Key = tuple[int, int]  # index in the dataset, position in the stream


def entropy_words(*entropy: int) -> list[int]:
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

    def __getitem__(self, key: Key) -> Example:
        index, position = key
        source = self.dataset[index]
        with seeded(self.seed, position):
            example = self.mapper(source)
        if example is None:
            raise ValueError(
                f"The dataset mapper returned None for {source.get('file_name', index)!r}. Leave "
                "images out when the dataset is registered: a mapper that drops some makes the "
                "order of the others unknown, and a run could not be resumed exactly."
            )
        return example


class StreamSampler(torchdata.Sampler):
    """Endless batches of (index, position) for one of ``parts`` processes.

    The stream of indices is cut into the batches of all processes together, and each of those
    into parts that differ by one example at most, so that any batch size fits any number of
    processes, and all numbers of processes see the same batches.

    Args:
        indices: the endless stream of indices, the same in every process.
        batch_size: examples per step, of all processes.
        parts: (process, accumulated batch) pairs that share a step: processes * accumulation.
        start: steps to skip.
        groups: a group per index; the examples of a step are of one group. None: of any.
    """

    def __init__(
        self,
        indices: Iterable[int],
        batch_size: int,
        parts: int,
        start: int = 0,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.parts = parts
        self.start = start
        self.groups = groups

    def __iter__(self) -> Iterator[list[Key]]:
        bounds = [k * self.batch_size // self.parts for k in range(self.parts + 1)]
        mine = range(comm.get_rank(), self.parts, comm.get_world_size())
        for step in itertools.islice(self._steps(), self.start, None):
            for part in mine:
                yield step[bounds[part] : bounds[part + 1]]

    def _steps(self) -> Iterator[list[Key]]:
        pending: dict[int, list[Key]] = {}
        for position, index in enumerate(self.indices):
            group = 0 if self.groups is None else self.groups[index]
            step = pending.setdefault(group, [])
            step.append((index, position))
            if len(step) == self.batch_size:
                del pending[group]
                yield step


class TrainLoader:
    """Iterates over list[dict] batches of this process; its state is a seed and a position.

    Args:
        dataset: dataset dicts in Detectron2's format.
        mapper: turns a dataset dict into what the model takes.
        build_indices: seed -> endless stream of indices, the same in every process.
        batch_size: examples per step, of all processes.
        accumulation: batches of this process per step.
        num_workers: worker processes.
        pin_memory: have the tensors in memory that a GPU copies from without waiting.
        seed: of the order and of the augmentation; the same on every process.
        groups: see :class:`StreamSampler`.

    Attributes:
        steps_seen (int): steps that all batches have been handed out for.
    """

    def __init__(
        self,
        dataset: list[Example],
        mapper: Callable[[Example], Example],
        build_indices: Callable[[int], Iterable[int]],
        *,
        batch_size: int,
        accumulation: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.dataset = DatasetFromList(dataset, copy=False)
        self.mapper = mapper
        self.build_indices = build_indices
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.groups = groups
        self.steps_seen = 0

    def __iter__(self) -> Iterator[list[Example]]:
        # A generator: nothing is read before the first batch is asked for, so that a checkpoint
        # can still move the starting point.
        sampler = StreamSampler(
            self.build_indices(self.seed),
            self.batch_size,
            comm.get_world_size() * self.accumulation,
            start=self.steps_seen,
            groups=self.groups,
        )
        loader = torchdata.DataLoader(
            self._examples,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else starting the workers draws from the model's
        )
        for number, batch in enumerate(loader, start=1):
            if number % self.accumulation == 0:
                self.steps_seen += 1
            yield batch

    def first_batch(self) -> list[Example]:
        """The beginning of the dataset as the model gets it: a batch, but not more than two."""
        count = self.batch_size // (comm.get_world_size() * self.accumulation)
        return [self._examples[k % len(self.dataset), k] for k in range(min(2, count))]

    @property
    def _examples(self) -> SeededDataset:
        return SeededDataset(self.dataset, self.mapper, self.seed)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "steps_seen": self.steps_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed = state["seed"]
        self.steps_seen = state["steps_seen"]


def build_train_loader(cfg: CfgNode, mapper: Callable[[Example], Example]) -> TrainLoader:
    """The loader of DATASETS.TRAIN as Detectron2's keys describe it.

    Raises:
        ValueError: SOLVER.IMS_PER_BATCH is too small, DATALOADER.SAMPLER_TRAIN is unknown, or the
            data has faults.
    """
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH < comm.get_world_size() * solver.GRADIENT_ACCUMULATION:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}: too few for {comm.get_world_size()} "
            f"processes with SOLVER.GRADIENT_ACCUMULATION {solver.GRADIENT_ACCUMULATION}."
        )
    if comm.is_main_process():
        check_files(cfg.DATASETS.TRAIN)
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    if comm.is_main_process():
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
        names = ", ".join(cfg.DATASETS.TRAIN)
        validate_dataset(dataset, cfg.MODEL.CORNERNET.NUM_CLASSES, classes, names)
    groups = None
    # A crop has one shape, whatever the image's.
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING and not cfg.INPUT.CORNERNET.CROP.ENABLED:
        sizes = (image_size(d) for d in dataset)
        groups = [int(width > height) for height, width in sizes]
    return TrainLoader(
        dataset,
        mapper,
        _indices_builder(cfg, dataset),
        batch_size=solver.IMS_PER_BATCH,
        accumulation=solver.GRADIENT_ACCUMULATION,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        groups=groups,
    )


def _indices_builder(cfg: CfgNode, dataset: list[Example]) -> Callable[[int], Iterable[int]]:
    """The stream that Detectron2's sampler of that name has before it is shared among processes.

    It must not keep the dataset: every process has that once already, in the loader, packed.
    """
    name, size = cfg.DATALOADER.SAMPLER_TRAIN, len(dataset)
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(size, seed=seed)._infinite_indices()
    if name == "RepeatFactorTrainingSampler":
        # A key, and an argument, of Detectron2's main branch.
        sqrt = {"sqrt": cfg.DATALOADER.REPEAT_SQRT} if "REPEAT_SQRT" in cfg.DATALOADER else {}
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, **sqrt
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)._infinite_indices()
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return lambda seed: RandomSubsetTrainingSampler(
            size, ratio, seed_shuffle=seed, seed_subset=seed
        )._infinite_indices()
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; choose TrainingSampler, "
        "RepeatFactorTrainingSampler or RandomSubsetTrainingSampler."
    )


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the main one decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)  # as torch does for itself: the workers share the cores already


def _as_list(batch: list[Example]) -> list[Example]:
    return batch
