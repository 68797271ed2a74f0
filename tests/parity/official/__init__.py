"""The authors' code. A module per file; ``run(folder, file)`` yields :class:`..check.Check`."""

from . import (
    augment,
    corner_pool,
    decode,
    losses,
    network,
    postprocess,
    softnms,
    targets,
    training,
)

# File -> what compares it, from the quick ones to the slow ones.
RUNNERS = {
    "corner_pool.npz": corner_pool.run,
    "targets.npz": targets.run,
    "augment.npz": augment.run,
    "losses.npz": losses.run,
    "decode.npz": decode.run,
    "softnms.npz": softnms.run,
    "postprocess.npz": postprocess.run,
    "training.npz": training.run,
    "network_*.npz": network.run,
}
