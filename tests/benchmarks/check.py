"""``cornernet check`` on annotations as many as COCO's: CPU seconds, wall clock, memory.

The json is made here: images of COCO's sizes, objects of its number and spread of sizes, with a
polygon each. No image is read. The check runs in a process of its own with one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLASSES = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=118_287, help="[COCO train2017's]")
    parser.add_argument("--objects", type=int, default=860_001, help="[COCO train2017's]")


def run(args: argparse.Namespace) -> int:
    """Print what the check took; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.json"
        write_annotations(path, args.images, args.objects)
        size = path.stat().st_size
        command = [sys.executable, "-m", "cornernet_d2", "check", "--data", str(path)]
        command += ["--images", folder, "--no-images", "--html", str(Path(folder) / "a.html")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, check=False)
        wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{args.images} images, {args.objects} objects, {size / 1e6:.0f} MB of json")
    print(
        f"{used.ru_utime + used.ru_stime:.1f} s of CPU, {wall:.1f} s on the clock, "
        f"{used.ru_maxrss / 1e6:.2f} GB at most"
    )
    return done.returncode


def write_annotations(path: Path, images: int, objects: int) -> None:
    """A COCO json of that many images and objects; an object has a box and a triangle in it."""
    rng = np.random.default_rng(0)
    sizes = np.array([(640, 480), (480, 640), (640, 427), (500, 375)])[rng.integers(0, 4, images)]
    owners = np.sort(rng.integers(0, images, objects))
    share = np.exp(rng.normal(-1.8, 0.9, (objects, 2))).clip(0.01, 1)
    extents = (share * sizes[owners]).clip(4, None).round(2)
    starts = (rng.random((objects, 2)) * (sizes[owners] - extents).clip(0)).round(2)
    classes = (CLASSES * rng.random(objects) ** 2).astype(int) + 1
    crowd = rng.random(objects) < 0.01
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": int(w), "height": int(h)}
            for i, (w, h) in enumerate(sizes)
        ],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(owner),
                "category_id": int(category),
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(is_crowd),
                "segmentation": [[x, y, x + w, y, x, y + h]],
            }
            for i, (owner, category, (x, y), (w, h), is_crowd) in enumerate(
                zip(owners, classes, starts.tolist(), extents.tolist(), crowd)
            )
        ],
    }
    path.write_text(json.dumps(content))
