"""Convert CornerNet checkpoints between code bases, without loss.

    cornernet convert CornerNet_500000.pkl cornernet.pth
    cornernet convert model_final.pth model.pkl --to princeton
    cornernet convert SRC pets.pth --classes dog,cat,bird

Reads princeton-vl/CornerNet, both of CornerNet-Lite, MMDetection 2.x and 3.x, CentripetalNet,
CenterNet and our own files, running no code that a file may hold. The result notes the input that
the weights expect.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from cornernet_d2 import add_cornernet_config
from cornernet_d2.checkpoint import (
    CONVENTIONS,
    FORMATS,
    Checkpoint,
    CheckpointError,
    build_config,
    build_contents,
    infer_architecture,
    load_torch_file,
    parse,
    save_torch_file,
)
from cornernet_d2.checkpoint.class_heads import select_classes
from cornernet_d2.checkpoint.config import dump_config
from cornernet_d2.checkpoint.conventions import FORMAT_PRESET, differences, to_config
from cornernet_d2.checkpoint.files import file_sha256
from cornernet_d2.checkpoint.formats import non_finite, weights_sha256


def convert(
    source: str,
    destination: str,
    *,
    source_format: str = "auto",
    target_format: str = "d2",
    preset: str | None = None,
    classes: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
    allow_new_classes: bool = False,
    drop_left_over: bool = False,
    overwrite: bool = False,
) -> list[tuple[str, Any]]:
    """Convert one file; on any error nothing is written.

    Args:
        source, destination: paths.
        source_format: one of :data:`FORMATS`, or "auto".
        target_format: one of :data:`FORMATS`.
        preset: the input convention to note instead of what the source says.
        classes: names of the classes wanted; default: those of the source.
        source_classes: names of the source's classes; default: the file's own, or COCO's for 80.
        allow_new_classes: see :func:`.class_heads.select_classes`.
        drop_left_over: go on although the source has weights that CornerNet does not have.
        overwrite: replace a destination that is there.

    Returns:
        the report, as (title, value).

    Raises:
        CheckpointError: the source cannot be used.
        FileExistsError: the destination exists and ``overwrite`` is off.
    """
    _check_destination(destination, target_format, overwrite)
    checkpoint = parse(load_torch_file(source), source, source_format)
    _check_weights(checkpoint, source, drop_left_over)
    if preset is not None:
        checkpoint.convention = CONVENTIONS[preset]
    if checkpoint.convention is None:
        raise CheckpointError(
            f"{source} does not note which input its weights expect; say so with --preset, one of "
            f"{', '.join(CONVENTIONS)}"
        )
    names = source_classes or checkpoint.classes or _coco_names(checkpoint)
    checkpoint.classes = tuple(names) if names else None
    report = _describe(checkpoint)
    if classes is not None:
        checkpoint, lines = _with_classes(checkpoint, classes, allow_new_classes)
        report += lines
    checkpoint.config = dump_config(build_config(checkpoint, source))
    digest = weights_sha256(checkpoint.weights)
    save_torch_file(
        build_contents(checkpoint, target_format),
        destination,
        overwrite=overwrite,
        legacy=target_format
        in ("princeton", "lite", "squeeze", "centernet"),  # their torch reads no other format
    )
    report += [
        ("weights sha256", digest),
        ("written", f"{destination} ({target_format}, {os.path.getsize(destination)} bytes)"),
        ("file sha256", file_sha256(destination)),
    ]
    return report + _warnings(checkpoint, target_format)


def _check_destination(path: str, target_format: str, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or add --overwrite")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder} to write to")
    if target_format == "d2" and not path.endswith(".pth"):
        raise CheckpointError(f"{path} must end in .pth: Detectron2 tells formats by the ending")


def _check_weights(checkpoint: Checkpoint, source: str, drop_left_over: bool) -> None:
    if checkpoint.left_over and not drop_left_over:
        raise CheckpointError(
            f"{source} has {len(checkpoint.left_over)} weights that CornerNet does not have "
            f"({_sample(checkpoint.left_over)}): another network? If CornerNet's part is what you "
            "want, add --drop-left-over"
        )
    expected = expected_shapes(infer_architecture(checkpoint.weights))
    missing = [key for key in expected if key not in checkpoint.weights]
    extra = [key for key in checkpoint.weights if key not in expected]
    clashes = [
        f"{key} {tuple(value.shape)}, not {expected[key]}"
        for key, value in checkpoint.weights.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    faults = [("not in the file", missing), ("too much", extra), ("of wrong shape", clashes)]
    lines = [f"{len(keys)} weights {what}: {_sample(keys)}" for what, keys in faults if keys]
    if lines:
        raise CheckpointError(f"{source} is no complete CornerNet. " + "; ".join(lines))
    broken = non_finite(checkpoint.weights)
    if broken:
        raise CheckpointError(
            f"{source} holds NaN or infinity in {len(broken)} weights ({_sample(broken)}); "
            "take a checkpoint from before training diverged"
        )


def expected_shapes(architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all weights of the network that config keys and values describe.

    The network is built without memory for its weights.
    """
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "CornerNet"
    cfg.MODEL.DEVICE = "meta"
    cfg.merge_from_list([item for pair in architecture.items() for item in pair])
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def _with_classes(
    checkpoint: Checkpoint, classes: Sequence[str], allow_new: bool
) -> tuple[Checkpoint, list[tuple[str, Any]]]:
    if checkpoint.classes is None:
        raise CheckpointError("the source's class names are not known; give --source-classes")
    weights, added = select_classes(
        checkpoint.weights, checkpoint.classes, classes, allow_new=allow_new
    )
    lines = [("classes kept", f"{len(classes) - len(added)} of {len(checkpoint.classes)}")]
    if added:
        lines.append(("classes initialised", ", ".join(added)))
    return dataclasses.replace(checkpoint, weights=weights, classes=tuple(classes)), lines


def _coco_names(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """COCO's names for a file of 80 classes that says nothing else, as every published one is."""
    if infer_architecture(checkpoint.weights)["MODEL.CORNERNET.NUM_CLASSES"] != 80:
        return None
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    return tuple(category["name"] for category in COCO_CATEGORIES if category["isthing"])


def _describe(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    weights = checkpoint.weights
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(value.numel() for key, value in weights.items() if not key.endswith(buffers))
    filled = len(weights) - checkpoint.matched
    return [
        ("format", checkpoint.source),
        ("keys matched", checkpoint.matched),
        ("num_batches_tracked filled in", filled),
        ("keys left over", f"{len(checkpoint.left_over)} {_sample(checkpoint.left_over)}"),
        ("not weights, not converted", ", ".join(checkpoint.unread) or "nothing"),
        ("shape clashes", 0),
        ("parameters", f"{parameters:,}"),
        *infer_architecture(weights).items(),
        *to_config(checkpoint.convention).items(),
        ("preset", checkpoint.convention.preset or "none"),
    ]


def _warnings(checkpoint: Checkpoint, target_format: str) -> list[tuple[str, Any]]:
    """What the target's own code will do differently from what the weights expect."""
    native = CONVENTIONS.get(FORMAT_PRESET.get(target_format, ""))
    wrong = differences(checkpoint.convention, native) if native is not None else []
    if not wrong:
        return []
    return [("warning", f"{target_format}'s code must be set to {', '.join(wrong)}")]


def _sample(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _names(text: str) -> list[str]:
    """ "a,b,c", or a file with one name a line."""
    if os.path.isfile(text):
        with open(text) as f:
            names = [line.strip() for line in f]
    else:
        names = [name.strip() for name in text.split(",")]
    return [name for name in names if name]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")
    parser.add_argument("--from", dest="source_format", choices=("auto", *FORMATS), default="auto")
    parser.add_argument("--to", dest="target_format", choices=FORMATS, default="d2")
    parser.add_argument("--preset", choices=CONVENTIONS, help="input that the weights expect")
    parser.add_argument(
        "--classes", type=_names, help="classes wanted, in order: a,b,c or a file of names"
    )
    parser.add_argument("--source-classes", type=_names, help="the source's classes, likewise")
    parser.add_argument("--allow-new-classes", action="store_true")
    parser.add_argument("--drop-left-over", action="store_true")
    parser.add_argument("--overwrite", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was done."""
    settings = {key: value for key, value in vars(args).items() if key != "debug"}
    start = time.perf_counter()
    report = convert(settings.pop("source"), settings.pop("destination"), **settings)
    report.append(("time", f"{time.perf_counter() - start:.1f} s"))
    for title, value in report:
        print(f"{title:<34} {value}")
    return 0
