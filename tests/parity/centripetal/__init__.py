"""CentripetalNet, MMDetection's and its authors'. A module per file, as in :mod:`..official`."""

from . import decode, losses, network, small_head, targets

# File -> what compares it, from the quick ones to the slow ones.
RUNNERS = {
    "targets.npz": targets.run,
    "decode.npz": decode.run,
    "losses.npz": losses.run,
    "small_head.npz": small_head.run,
    "network_*.npz": network.run,
}
