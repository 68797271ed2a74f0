"""MMDetection. A module per file; ``run(folder, file)`` yields :class:`..check.Check`."""

from . import (
    decode,
    losses,
    network,
    photometric,
    softnms,
    targets,
    test_pipeline,
    train_pipeline,
    train_step,
)

# File -> what compares it, from the quick ones to the slow ones.
RUNNERS = {
    "targets.npz": targets.run,
    "losses.npz": losses.run,
    "decode.npz": decode.run,
    "softnms.npz": softnms.run,
    "test_pipeline.npz": test_pipeline.run,
    "train_pipeline.npz": train_pipeline.run,
    "photometric.npz": photometric.run,
    "train_step.npz": train_step.run,
    "network.npz": network.run,
}
