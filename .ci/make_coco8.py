"""Make the eight COCO photos that `cornernet overfit` is documented on.

    wget http://images.cocodataset.org/annotations/annotations_trainval2017.zip
    unzip -j annotations_trainval2017.zip annotations/instances_train2017.json
    python .ci/make_coco8.py instances_train2017.json
    cornernet overfit --data datasets/coco8/train.json

The first eight photos of train2017, by id, whose licence lets them be passed on for any use (CC BY,
CC BY-SA, no known restrictions). They are downloaded one by one, or copied from --images, a folder
train2017. What is written is compared with a checksum of what the documented result was trained on.
"""

import argparse
import json
import os
import sys
import urllib.request
from pathlib import Path

from make_bccd import checksum

IDS = (30, 71, 72, 73, 86, 89, 92, 127)
URL = "http://images.cocodataset.org/train2017/"
SHA256 = "e3a4962b8c5a1c77d3225139c49bedcfe26f2a446c8bd637dd6eab63b8d35126"


def select(coco: dict[str, list]) -> dict[str, list]:
    """The part of COCO's json that is about IDS: boxes, classes from 1 to 80 in COCO's order."""
    wanted = {row["id"]: row for row in coco["images"] if row["id"] in IDS}
    if missing := set(IDS) - set(wanted):
        raise ValueError(f"images {sorted(missing)} are not in it")
    keys = ("id", "file_name", "width", "height", "license", "flickr_url")
    images = [{key: wanted[i][key] for key in keys if key in wanted[i]} for i in IDS]
    numbers = {row["id"]: k for k, row in enumerate(coco["categories"], 1)}
    annotations = [
        {key: obj[key] for key in ("image_id", "bbox", "area", "iscrowd")}
        | {"id": obj["id"], "category_id": numbers[obj["category_id"]]}
        for obj in sorted(coco["annotations"], key=lambda obj: obj["id"])
        if obj["image_id"] in wanted
    ]
    categories = [{"id": k, "name": row["name"]} for k, row in enumerate(coco["categories"], 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def fetch(name: str, source: Path | None, target: Path) -> None:
    """Copy or download one photo.

    Raises:
        OSError: it is not there, or there is no network.
    """
    if source is not None:
        target.write_bytes((source / name).read_bytes())
    elif not target.is_file():
        with urllib.request.urlopen(URL + name, timeout=60) as response:
            target.write_bytes(response.read())


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    parser.add_argument("annotations", type=Path, help="instances_train2017.json")
    parser.add_argument("--images", type=Path, help="folder train2017 [download the eight]")
    parser.add_argument("--output", type=Path, default=root / "coco8", help="%(default)s")
    args = parser.parse_args(arguments)
    try:
        dataset = select(json.loads(args.annotations.read_bytes()))
        folder = args.output / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for image in dataset["images"]:
            fetch(image["file_name"], args.images, folder / image["file_name"])
        (args.output / "train.json").write_text(json.dumps(dataset))
        found = checksum(dataset, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{args.annotations} and the photos of train2017: {error!r}")
    print(f"{args.output}: {len(dataset['images'])} photos, {len(dataset['annotations'])} boxes")
    if found != SHA256:
        sys.exit(
            f"this is not what the documented result was trained on: sha256 {found}, "
            f"expected {SHA256}"
        )


if __name__ == "__main__":
    main()
