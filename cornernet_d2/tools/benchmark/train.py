"""One training step in every precision, memory layout and checkpointing level.

Each combination runs in a process of its own, through the trainer that real runs use: forward,
losses, backward and optimiser step on random images with COCO's average number of objects. Peak
memory is what the step adds to weights, gradients and optimiser state; on a CPU it is read from
the kernel's account of the process (Linux), on a GPU from PyTorch's allocator.
"""

import argparse
import itertools
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ... import model_zoo
from ...engine import CornerNetTrainer
from ...engine.precision import precision
from ...engine.train_loop import GuardedTrainer
from .meters import CudaMeter, LinuxMeter

OBJECTS = 7  # per image, COCO's average (Lin et al., "Microsoft COCO", sec. 5)
BASELINE = "fp32"
COMBINATIONS = (
    BASELINE,
    "fp32+channels_last",
    "fp32+stack",
    "fp32+block",
    "bf16",
    "bf16+channels_last",
    "bf16+channels_last+stack",
    "bf16+channels_last+block",
)
SWITCHES = {
    "fp32": [],
    "bf16": ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16"],
    "fp16": ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16"],
    "channels_last": ["MODEL.CORNERNET.CHANNELS_LAST", True],
    "stack": ["MODEL.HOURGLASS.RECOMPUTE", "stack"],
    "block": ["MODEL.HOURGLASS.RECOMPUTE", "block"],
    "compile": ["SOLVER.COMPILE", True],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", default="CornerNet-HG104", help="a shipped config's name")
    parser.add_argument("--batch-size", type=int, default=2, help="images per step")
    parser.add_argument("--size", type=int, default=511, help="side of the images, pixels")
    parser.add_argument("--steps", type=int, default=2, help="timed steps, after one to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument(
        "--combinations",
        nargs="+",
        default=COMBINATIONS,
        help=f"switches joined by +, out of {', '.join(SWITCHES)}; ratios are to {BASELINE}",
    )
    parser.add_argument("--cost", action="store_true", help="print FLOPs and bytes, time nothing")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a combination did not run."""
    config = model_zoo.get_config(args.config_file)
    unknown = set("+".join(args.combinations).split("+")) - SWITCHES.keys()
    if unknown:
        raise ValueError(f"unknown {sorted(unknown)}; choose from {list(SWITCHES)}")
    if args.cost:
        _print_cost(config, args.size)
        return 0
    print(
        f"{args.config_file}, {args.batch_size} x {args.size} px, {args.device}, "
        f"median of {args.steps} steps"
    )
    print(f"{'':<28}{'s/step':>8}{'images/s':>10}{'speed':>8}{'activations':>13}{'memory':>9}")
    baseline, ok = None, True
    for name in args.combinations:
        result = _in_own_process(config, name, args)
        if result is None:
            print(f"{name:<28}  did not run: out of memory?", flush=True)
            ok = False
            continue
        if name == BASELINE:
            baseline = result
        seconds, gigabytes = result
        row = f"{name:<28}{seconds:8.2f}{args.batch_size / seconds:10.3f}"
        memory = f"{gigabytes:10.2f} GB"
        speed = share = ""
        if baseline is not None:
            speed, share = f"{baseline[0] / seconds:.2f}x", f"{gigabytes / baseline[1]:.2f}x"
        print(f"{row}{speed:>8}{memory:>13}{share:>9}", flush=True)
    return 0 if ok else 1


def _in_own_process(
    config: CfgNode, name: str, args: argparse.Namespace
) -> tuple[float, float] | None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, config, name, args).result()
        except BrokenProcessPool:
            return None


def _measure(config: CfgNode, name: str, args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a step, and the gigabytes that it adds at its peak."""
    if args.threads:
        torch.set_num_threads(args.threads)
    config.defrost()
    config.MODEL.DEVICE = args.device
    for switch in name.split("+"):
        config.merge_from_list(SWITCHES[switch])
    model = CornerNetTrainer.build_model(config).train()
    if config.SOLVER.COMPILE:
        model.compile_parts()
    optimizer = CornerNetTrainer.build_optimizer(config, model)
    batch = noise_batch(args.batch_size, args.size, config.MODEL.CORNERNET.NUM_CLASSES)
    step = GuardedTrainer(model, itertools.repeat(batch), optimizer, precision=precision(config))
    for p in model.parameters():  # what a run holds all the time, before the peak is watched
        p.grad = torch.zeros_like(p)
    optimizer.step()
    meter = CudaMeter() if args.device.startswith("cuda") else LinuxMeter()
    times = []
    with EventStorage():
        for _ in range(args.steps + 1):
            meter.synchronize()
            start = time.perf_counter()
            step.run_step()
            meter.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), meter.added() / 1e9


def noise_batch(count: int, size: int, classes: int) -> list[dict[str, Any]]:
    """Images of noise (3, size, size) with boxes, as Detectron2's mapper gives them, on the CPU."""
    rng = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(count):
        corners = torch.rand(OBJECTS, 2, generator=rng) * size * 0.6
        extents = (0.05 + 0.35 * torch.rand(OBJECTS, 2, generator=rng)) * size
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + extents], dim=1))
        instances.gt_classes = torch.randint(classes, (OBJECTS,), generator=rng)
        image = torch.randint(256, (3, size, size), generator=rng, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": size, "width": size})
    return batch


def _print_cost(config: CfgNode, size: int) -> None:
    """FLOPs and bytes of a step, counted without running it; see docs/training.md."""
    config.defrost()
    config.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = CornerNetTrainer.build_model(config).train()
    moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += sum(x.numel() for x in (*inputs, output))

    for module in model.modules():
        if not any(module.children()):
            module.register_forward_hook(count)
    side = -(-size // model.backbone.size_divisibility) * model.backbone.size_divisibility
    with FlopCounterMode(display=False) as counter:
        model.corner_maps(torch.empty(1, 3, side, side, device="meta"))
    flops = 3 * counter.get_total_flops()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"canvas {side} x {side}: {parameters / 1e6:.1f} M parameters")
    print(f"one image: {flops / 1e12:.2f} TFLOP forward and backward, multiply and add as two")
    print(f"one image: {3 * 2 * moved / 1e9:.1f} GB in bfloat16 through the modules, both ways")
    print(f"gradients to all-reduce: {4 * parameters / 1e6:.0f} MB a step in float32")
    print(f"weights, gradients, Adam: {16 * parameters / 1e9:.2f} GB a process")
