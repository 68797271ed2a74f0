"""What is in a dataset, what is wrong with it, and what no training on it can beat."""

from .advice import Advice, advise
from .ceiling import Ceiling, Rules, ceiling
from .contents import Contents
from .look_alikes import LookAlikes, look_alikes
from .page import dataset_page
from .report import DatasetReport, describe

__all__ = [
    "Advice",
    "Ceiling",
    "Contents",
    "DatasetReport",
    "LookAlikes",
    "Rules",
    "advise",
    "ceiling",
    "dataset_page",
    "describe",
    "look_alikes",
]
