"""Turn the published BCCD blood cells (Pascal VOC) into the COCO files of CornerNet-BCCD.yaml.

    git clone https://github.com/Shenggan/BCCD_Dataset
    git -C BCCD_Dataset checkout d272fb14cdff6e473fafeeeba32aba5f560e9e43
    python .ci/make_bccd.py BCCD_Dataset

The licence is MIT. The dataset's own lists train.txt (205 photos) and val.txt (87) are the splits.
Boxes are taken as they stand (width is xmax - xmin); the two of zero size, known errors of the
source, are left out. What is written is compared with a checksum of what the documented results
were trained on.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

CLASSES = ("RBC", "WBC", "Platelets")
SHA256 = {
    "train": "834881accec7c9d32dd4ec0b736a8d80a6a2711af44f81f0b7a36c02027c677e",
    "val": "e18fc0593b592ad4b0edae3752e79677b17d93d30a24c2771f7d5a30efaf89e9",
}


def convert(source: Path, split: str) -> dict[str, list]:
    """The COCO json of one split; ids count from 1.

    Args:
        source: the folder with Annotations, ImageSets and JPEGImages.
        split: "train" or "val".
    """
    images, annotations = [], []
    for name in sorted((source / f"ImageSets/Main/{split}.txt").read_text().split()):
        tree = ElementTree.parse(source / f"Annotations/{name}.xml")
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        image = {"id": len(images) + 1, "file_name": f"{name}.jpg"}
        images.append({**image, "width": width, "height": height})
        for obj in tree.iter("object"):
            sides = ("xmin", "ymin", "xmax", "ymax")
            x0, y0, x1, y1 = (int(obj.findtext(f"bndbox/{side}")) for side in sides)
            if x1 <= x0 or y1 <= y0:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": CLASSES.index(obj.findtext("name")) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def checksum(dataset: dict[str, list], images: Path) -> str:
    """sha256 over the photos' names, sizes and bytes, and the boxes, in the file's order."""
    digest = hashlib.sha256()
    for image in dataset["images"]:
        digest.update(f"{image['file_name']} {image['width']} {image['height']}\n".encode())
        digest.update((images / image["file_name"]).read_bytes())
    for obj in dataset["annotations"]:
        digest.update(f"{obj['image_id']} {obj['category_id']} {obj['bbox']}\n".encode())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    parser.add_argument("source", type=Path, help="the clone of BCCD_Dataset")
    parser.add_argument("--output", type=Path, default=root / "bccd", help="%(default)s")
    args = parser.parse_args(arguments)
    source = args.source / "BCCD" if (args.source / "BCCD").is_dir() else args.source
    (args.output / "annotations").mkdir(parents=True, exist_ok=True)
    (args.output / "images").mkdir(exist_ok=True)
    for split, expected in SHA256.items():
        try:
            dataset = convert(source, split)
            found = checksum(dataset, source / "JPEGImages")
            for image in dataset["images"]:
                name = image["file_name"]
                shutil.copyfile(source / "JPEGImages" / name, args.output / "images" / name)
        except (OSError, ElementTree.ParseError) as error:
            sys.exit(f"{args.source} is no clone of BCCD_Dataset: {error}")
        (args.output / f"annotations/{split}.json").write_text(json.dumps(dataset))
        counts = f"{len(dataset['images'])} photos, {len(dataset['annotations'])} boxes"
        print(f"{args.output}: {split}, {counts}")
        if found != expected:
            sys.exit(
                f"{split} is not what the documented results were trained on: sha256 {found}, "
                f"expected {expected}. Is the clone at the commit that --help names?"
            )


if __name__ == "__main__":
    main()
