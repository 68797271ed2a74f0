"""The queue of the service: order, bounds, batches, failures, shutting down. Without HTTP."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from cornernet_d2.serve.batching import Batcher, Closed, Full
from cornernet_d2.serve.metrics import Metrics


class Machine:
    """Doubles numbers, when it is let to; notes the batches."""

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), []
        self.threads: set[int] = set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.threads.add(threading.get_ident())
        assert self.go.wait(10)
        return [2 * item for item in items]

    def until_busy(self) -> None:
        while not self.batches:
            time.sleep(0.001)


def test_a_thousand_requests_get_their_own_answers() -> None:
    machine = Machine()
    machine.go.set()
    batcher = Batcher(machine, lambda x: x % 3, batch_size=8, capacity=16)

    def ask(number: int) -> int:
        with batcher.place() as place:
            return place.submit(number).result(10)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(1000))) == [2 * number for number in range(1000)]
    assert sorted(sum(machine.batches, [])) == list(range(1000))  # each once
    assert max(map(len, machine.batches)) <= 8 and len(machine.batches) < 1000
    assert all(len({item % 3 for item in batch}) == 1 for batch in machine.batches)
    assert len(machine.threads) == 1 and batcher.places == batcher.waiting == 0
    assert batcher.close(10)


def test_what_waits_goes_together_oldest_first() -> None:
    machine = Machine()
    batcher = Batcher(machine, lambda x: x > 9, batch_size=3)
    places = [batcher.place() for _ in range(8)]
    places[0].submit(0)
    machine.until_busy()
    futures = [place.submit(number) for place, number in zip(places[1:], (1, 10, 2, 3, 4, 11, 5))]
    machine.go.set()
    assert [future.result(10) for future in futures] == [2, 20, 4, 6, 8, 22, 10]
    assert machine.batches == [[0], [1, 2, 3], [10, 11], [4, 5]]


def test_a_batch_waits_for_what_is_on_its_way_and_no_longer() -> None:
    machine = Machine()
    machine.go.set()
    batcher = Batcher(machine, batch_size=2, max_wait=30)
    with batcher.place() as first, batcher.place() as second:
        future = first.submit(1)
        time.sleep(0.05)
        assert not machine.batches  # the second may come
        second.submit(2)
        assert future.result(10) == 2 and machine.batches == [[1, 2]]
    with batcher.place() as alone:
        assert alone.submit(3).result(10) == 6  # 30 seconds would be too long
    with batcher.place() as one:
        with batcher.place():
            future = one.submit(4)
        assert future.result(10) == 8  # the other went away


def test_places_are_bounded_and_given_back() -> None:
    batcher = Batcher(Machine(), capacity=2)
    with batcher.place():
        with pytest.raises(RuntimeError, match="broken"):
            with batcher.place():
                with pytest.raises(Full, match="2 requests"):
                    batcher.place()
                raise RuntimeError("broken upload")
        with batcher.place() as place:
            place.submit(1)
            with pytest.raises(RuntimeError, match="one item"):
                place.submit(2)
    assert batcher.places == 0
    for wrong in ({"batch_size": 0}, {"capacity": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Batcher(Machine(), **wrong)


def test_what_was_given_up_is_not_run() -> None:
    machine = Machine()
    batcher = Batcher(machine, batch_size=1)
    places = [batcher.place() for _ in range(3)]
    futures = [places[0].submit(0)]
    machine.until_busy()
    futures += [place.submit(number) for number, place in enumerate(places[1:], 1)]
    assert futures[1].cancel() and not futures[0].cancel()
    machine.go.set()
    assert futures[2].result(10) == 4 and machine.batches == [[0], [2]]
    with pytest.raises(CancelledError):
        futures[1].result(0)


def test_one_that_fails_fails_alone() -> None:
    def run(items: list[int]) -> list[int]:
        if 13 in items:
            raise ValueError("13")
        return items if 7 not in items else []

    batcher = Batcher(run, batch_size=4, max_wait=30)
    places = [batcher.place() for _ in range(4)]
    futures = [place.submit(number) for place, number in zip(places, (1, 13, 7, 2))]
    assert futures[0].result(10) == 1 and futures[3].result(10) == 2
    with pytest.raises(ValueError, match="13"):
        futures[1].result(10)
    with pytest.raises(RuntimeError, match="0 results for 1"):
        futures[2].result(10)
    assert batcher.alive


def test_closing_answers_what_was_begun_and_takes_no_more() -> None:
    machine = Machine()
    batcher = Batcher(machine, batch_size=1)
    running, queued, coming = (batcher.place() for _ in range(3))
    futures = [running.submit(1), queued.submit(2)]
    machine.until_busy()
    assert batcher.alive and not batcher.close(0.01) and not batcher.alive
    with pytest.raises(Closed):
        batcher.place()
    machine.go.set()
    futures.append(coming.submit(3))  # its body was being read
    assert [future.result(10) for future in futures] == [2, 4, 6]
    assert batcher.close(10)


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics({"queue_images": ("Waiting.", lambda: 3)}, batch_size=6)
    metrics.count_request(200, 0.03)
    metrics.count_request(200, 99)
    metrics.count_request(503, 0)
    metrics.count_batch(5, 0.5)
    lines = metrics.text().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['cornernet_requests_total{status="200"}'] == "2"
    assert samples['cornernet_requests_total{status="503"}'] == "1"
    assert samples['cornernet_request_seconds_bucket{le="0.025"}'] == "1"
    assert samples['cornernet_request_seconds_bucket{le="0.05"}'] == "2"
    assert samples['cornernet_request_seconds_bucket{le="30"}'] == "2"
    assert samples['cornernet_request_seconds_bucket{le="+Inf"}'] == "3"
    assert samples["cornernet_request_seconds_count"] == "3"
    assert float(samples["cornernet_request_seconds_sum"]) == pytest.approx(99.03)
    assert samples['cornernet_batch_images_bucket{le="4"}'] == "0"
    assert samples['cornernet_batch_images_bucket{le="8"}'] == "1"
    assert samples["cornernet_queue_images"] == "3"
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    names = {name.split("{")[0].removesuffix("_bucket") for name in samples}
    assert {name.removesuffix("_sum").removesuffix("_count") for name in names} <= described
