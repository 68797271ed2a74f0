"""What decides whether two corners belong together: one object a kind, chosen by config.

A kind is a file: the outputs that it needs, its losses and its rule for the decoding. A user's own
registers in PAIRING_REGISTRY like these.
"""

from .base import (
    PAIRING_REGISTRY,
    Corners,
    Match,
    Pairing,
    build_pairing,
    recognise_pairing,
)
from .centripetal import CentralRegion, CentripetalPairing, LogSize
from .embedding import EmbeddingPairing

__all__ = [
    "PAIRING_REGISTRY",
    "CentralRegion",
    "CentripetalPairing",
    "Corners",
    "EmbeddingPairing",
    "LogSize",
    "Match",
    "Pairing",
    "build_pairing",
    "recognise_pairing",
]
