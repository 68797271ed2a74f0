"""CenterNet's triplets by their authors. A module per file, as in :mod:`..official`."""

from . import decode, losses, network, pooling, postprocess, targets

# File -> what compares it, from the quick ones to the slow ones.
RUNNERS = {
    "targets.npz": targets.run,
    "pooling.npz": pooling.run,
    "losses.npz": losses.run,
    "decode.npz": decode.run,
    "postprocess.npz": postprocess.run,
    "network_*.npz": network.run,
}
