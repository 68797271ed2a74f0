"""Many threads ask, one thread answers: batches of what waits, and a bound on how much may wait.

Knows nothing of images, networks or HTTP.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple


class Full(Exception):
    """As many requests as may wait are waiting."""


class Closed(Exception):
    """No more requests are taken."""


class _Waiting(NamedTuple):
    item: Any
    key: Hashable
    future: Future


class Batcher:
    """One thread that runs what others submit, in batches of equal keys, oldest first.

    A request takes a place before anything of it is read, so that what is on its way is bounded
    too, and the thread knows whether it is worth a moment to wait for more.

    Args:
        run: items of one key -> as many results, in their order. Called by the one thread alone.
        key: what items that run together have in common.
        batch_size: most items of one call.
        max_wait: seconds that a batch which is not full waits for requests on their way.
        capacity: most places.

    Raises:
        ValueError: ``batch_size`` or ``capacity`` below 1.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        key: Callable[[Any], Hashable] = lambda item: None,
        *,
        batch_size: int = 8,
        max_wait: float = 0.002,
        capacity: int = 64,
    ) -> None:
        if min(batch_size, capacity) < 1:
            raise ValueError(f"batch size {batch_size} and queue {capacity} must be at least 1")
        self._run, self._key = run, key
        self.batch_size, self.max_wait, self.capacity = batch_size, max_wait, capacity
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._places = self._coming = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def places(self) -> int:
        """Places that are taken."""
        return self._places

    @property
    def alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._thread.is_alive() and not self._closed

    def place(self) -> "Place":
        """Takes a place, to be used in a ``with`` block that gives it back.

        Raises:
            Full: there is none.
            Closed: after :meth:`close`.
        """
        with self._changed:
            if self._closed:
                raise Closed("the service is shutting down")
            if self._places >= self.capacity:
                raise Full(f"{self.capacity} requests are waiting")
            self._places += 1
            self._coming += 1
        return Place(self)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, answer what has a place; returns whether that was done in ``timeout``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while batch := self._take():
            self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """The oldest item and those that go with it; none when closed and done."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed and not self._coming)
                if not self._queue:
                    return []
                key, until = self._queue[0].key, time.monotonic() + self.max_wait
                while self._coming and sum(x.key == key for x in self._queue) < self.batch_size:
                    if (left := until - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
                batch = self._matching(key)
                if batch:
                    return batch

    def _matching(self, key: Hashable) -> list[_Waiting]:
        """Takes the first items of a key out of the queue; what was given up is dropped."""
        batch, rest = [], deque()
        for waiting in self._queue:
            if waiting.key != key or len(batch) == self.batch_size:
                rest.append(waiting)
            elif waiting.future.set_running_or_notify_cancel():
                batch.append(waiting)
        self._queue = rest
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            results = self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for waiting in batch:  # so that one cannot fail the others
                self._answer([waiting])
            return
        for waiting, result in zip(batch, results):
            waiting.future.set_result(result)


class Place:
    """One of :class:`Batcher`'s places; leaving the ``with`` block gives it back."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher, self._submitted = batcher, False

    def submit(self, item: Any) -> Future:
        """Queue an item, once; cancelling the future takes it out unless it is running."""
        if self._submitted:
            raise RuntimeError("a place is for one item")
        batcher, waiting = self._batcher, _Waiting(item, self._batcher._key(item), Future())
        with batcher._changed:
            self._submitted = True
            batcher._coming -= 1
            batcher._queue.append(waiting)
            batcher._changed.notify_all()
        return waiting.future

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        batcher = self._batcher
        with batcher._changed:
            batcher._places -= 1
            if not self._submitted:  # else the thread knows all there is to know
                batcher._coming -= 1
                batcher._changed.notify_all()
