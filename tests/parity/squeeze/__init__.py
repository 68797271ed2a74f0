"""CornerNet-Squeeze of the authors' CornerNet-Lite. A module per file, as in :mod:`..official`."""

from . import blocks, decode, losses, network, postprocess, targets

# File -> what compares it, from the quick ones to the slow ones.
RUNNERS = {
    "blocks.npz": blocks.run,
    "targets.npz": targets.run,
    "losses.npz": losses.run,
    "decode.npz": decode.run,
    "postprocess.npz": postprocess.run,
    "network_*.npz": network.run,
}
