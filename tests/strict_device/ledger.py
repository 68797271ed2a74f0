"""Where host and device meet: synchronisations and copies, each with the lines at fault."""

import collections
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LEDGER = (__file__, str(Path(__file__).with_name("device.py")))
# Folders whose frames tell where something happened, from most to least telling.
TELLING = (f"{ROOT}/cornernet_d2/", "/detectron2/", "/fvcore/", "/torch/optim/", "/torch/amp/")


class Event(NamedTuple):
    """Something that the host did with the device."""

    what: str  # the operator, and how
    waits: bool
    copies: bool
    place: str


class Ledger:
    """Counts events by operator and place.

    A blocking copy is a copy and a synchronisation: ``cudaMemcpyAsync`` followed by a wait for the
    stream, in either direction.
    """

    def __init__(self) -> None:
        self.events: collections.Counter[Event] = collections.Counter()

    def wait(self, operator: str) -> None:
        self.events[Event(operator, True, False, stack_summary())] += 1

    def copy(self, operator: str, to: str, blocking: bool) -> None:
        what = f"{operator} to the {to}, {'blocking' if blocking else 'non_blocking'}"
        self.events[Event(what, blocking, True, stack_summary())] += 1

    def clear(self) -> None:
        self.events.clear()

    @property
    def syncs(self) -> int:
        return sum(number for event, number in self.events.items() if event.waits)

    @property
    def copies(self) -> int:
        return sum(number for event, number in self.events.items() if event.copies)

    def report(self) -> str:
        """Two lines per place: how often and what; the calls that led there, innermost first."""
        lines = [f"{self.syncs} synchronisations, {self.copies} copies"]
        for event, number in sorted(self.events.items(), key=lambda item: item[0].place):
            kind = "/".join(["sync"] * event.waits + ["copy"] * event.copies)
            lines.append(f"{number:4} x {kind:9} {event.what}\n       {event.place}")
        return "\n".join(lines)

    def check(self, what: str, *, syncs: int, copies: int | None = None) -> None:
        """Raises AssertionError that says where each event happened, if there are too many."""
        if self.syncs > syncs or (copies is not None and self.copies > copies):
            budget = f"{syncs} synchronisations" + (f", {copies} copies" if copies else "")
            raise AssertionError(f"{what} has a budget of {budget}; found {self.report()}")


def stack_summary(depth: int = 4) -> str:
    """The innermost calls of the package; of a library where the package has none."""
    frame, frames = sys._getframe(1), []
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    for folder in TELLING:
        found = [f for f in frames if folder in f[0]]
        if found:
            return " < ".join(
                f"{name[name.rindex(folder) + len(folder) :]}:{line} {function}"
                for name, line, function in found[:depth]
            )
    return next(
        f"{name}:{line} {function}"
        for name, line, function in frames
        if "/torch/" not in name and not name.startswith(LEDGER)
    )
