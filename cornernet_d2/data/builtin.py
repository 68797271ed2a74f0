"""Names of the datasets that the shipped configs train on.

Their files are found as Detectron2 finds its own: under ``$DETECTRON2_DATASETS``, by default
``./datasets``. Registering reads nothing; a missing file is reported when the name is used.

    shapes_{train,val}  shapes/annotations/{train,val}.json, shapes/images   (.ci/make_shapes.py)
    bccd_{train,val}    bccd/annotations/{train,val}.json, bccd/images       (.ci/make_bccd.py)
    chess_{train,val}   chess/annotations/{train,val}.json, chess/images     (docs: chess pieces)
"""

import os

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

# by folder, in the order of the category ids
CLASSES = {
    "shapes": ("ellipse", "rectangle", "triangle", "cross"),
    "bccd": ("RBC", "WBC", "Platelets"),
    "chess": tuple(
        f"{color}-{piece}"
        for color in ("black", "white")
        for piece in ("bishop", "king", "knight", "pawn", "queen", "rook")
    ),
}


def _register_all() -> None:
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for folder, classes in CLASSES.items():
        for split in ("train", "val"):
            name = f"{folder}_{split}"
            if name not in DatasetCatalog:  # a user's own set of that name stays
                annotations = os.path.join(root, folder, "annotations", f"{split}.json")
                images = os.path.join(root, folder, "images")
                metadata = {"thing_classes": list(classes)}
                register_coco_instances(name, metadata, annotations, images)


_register_all()
