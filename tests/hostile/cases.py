"""The command lines that are tried; names of files are those of files.py."""

from typing import NamedTuple

from tiny_run import TINY_NETWORK

from .files import JSON_CHANGES

SHORT = ("SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1, "TEST.EVAL_PERIOD", 0)
SHORT += ("MODEL.CORNERNET.TEST.FLIP", False, "SOLVER.CHECKPOINT_PERIOD", 2)
NETWORK = (*map(str, (*TINY_NETWORK[:-2], *SHORT)),)  # the classes are those of the data
TRAIN = "train --data cards"
RESUME = "train --config-file output/cards/config.yaml --resume"
MODEL = "output/cards/model_final.pth"


class Case(NamedTuple):
    """A command line with what was done to the world around it.

    Attributes:
        line: after ``cornernet``.
        what: in a few words; empty: the line says it.
        passes: exit status 0 is right, with the note or the result that is printed.
        around: a key of WORLDS in __main__.py.
    """

    line: str
    what: str = ""
    passes: bool = False
    around: str = ""


def _section(prefix: str, names: str, passes: str = "") -> list[Case]:
    """A command line for each of the names; those in ``passes`` are used, or only noted."""
    good = passes.split()
    return [Case(prefix.format(name), passes=name in good) for name in names.split() + good]


# What `check` notes and training copes with.
NOTED = "image_twice bbox_outside bbox_twice ids_from_0 no_area area_text"
REFUSED = " ".join(name for name in JSON_CHANGES if name not in NOTED.split())
RAW = "empty cut binary utf16 deep long_number page"

SECTIONS: dict[str, list[Case]] = {
    "COCO json": [
        *_section("check --data json/{}.json", f"{REFUSED} {RAW}", NOTED),
        Case("check --data nowhere.json"),
        Case("check --data cards --val json/cut.json"),
    ],
    "Other layouts": [
        *_section(
            "check --data {}", "empty_folder yolo_label voc_cut voc_bomb voc_text_box a_file"
        ),
        *_section("check --data yolo_{}.yaml", "broken list code no_names nowhere"),
    ],
    "Images": [
        *_section(
            f"predict {MODEL} pictures/{{}} --output drawn --confidence-threshold 0 --overwrite",
            "empty.jpg text.jpg cut.jpg cut.png damaged.png bomb.png folder.jpg loop.jpg gone.jpg",
            "thin.png tall.png dot.png animation.gif cmyk.jpg grey16.png alpha.png",
        ),
        Case(f"predict {MODEL} --output drawn2 -- -dash.jpg", "a name with a dash", passes=True),
        Case(f"predict {MODEL} pictures --output drawn3", "all of these in one folder"),
        Case(f"predict {MODEL} empty_folder --output drawn4"),
        Case(f"predict {MODEL} broken.mp4 --output out.mp4"),
    ],
    "Arguments of predict": [
        *(
            Case(f"predict {MODEL} pictures/good.jpg --output drawn5 {rest}")
            for rest in (
                "--confidence-threshold 7",
                "--confidence-threshold nan",
                "--batch-size 0",
                "--tile 1",
                "--classes queen",
                "--device tpu",
                "--json empty_folder",
                "--json a_file/x.json",
                "--json /dev/full --overwrite",
                "--crops a_file",
                "TEST.DETECTIONS_PER_IMAGE many",
            )
        ),
        Case(f"predict {MODEL} pictures/good.jpg --output pictures", "over its own input"),
        Case(f"predict {MODEL} pictures/good.jpg --output folder.d/x.txt"),
        Case(f"predict {MODEL} pictures/good.jpg --output a_file/x.png"),
        Case(f"predict {MODEL} pictures/good.jpg --output drawn6", "full disk", around="full"),
        Case(f"predict {MODEL} --output drawn7"),
        Case("predict --output drawn7"),
    ],
    "Weights": [
        *_section(
            "eval weights/{}",
            "gone.pth empty.pth text.pth cut.pth noise.safetensors pickle.pkl folder.pth code.pth "
            "list.pth nothing.pth other.pth no_head.pth nan.pth broken_config.pth broken_notes.pth",
        ),
        Case("predict weights/code.pth pictures/good.jpg --output drawn8"),
        Case("predict weights/nan.pth pictures/good.jpg --output drawn8"),
        Case("export weights/code.pth --format onnx --output x.onnx"),
        Case("analyze weights/other.pth --config-file output/cards/config.yaml"),
        Case("convert weights/pickle.pkl out.pth"),
        Case("convert weights/other.pth out.pth"),
        Case("convert weights/own.pth weights/own.pth --overwrite", "onto itself", passes=True),
        Case(f"{TRAIN} MODEL.WEIGHTS weights/other.pth OUTPUT_DIR output/w"),
        Case(f"{TRAIN} MODEL.WEIGHTS weights/pickle.pkl OUTPUT_DIR output/w"),
        Case("train --config-file CornerNet-Small --num-gpus 0 DATASETS.TRAIN ('x',)"),
    ],
    "Resume": [
        Case(f"{RESUME} MODEL.CORNERNET.HEAD_WIDTH 12"),
        Case(f"{RESUME} MODEL.CORNERNET.NUM_CLASSES 5"),
        Case(f"{RESUME} MODEL.HOURGLASS.STACKS 2"),
        Case(f"{RESUME} SOLVER.OPTIMIZER SGD"),
        Case(f"{RESUME} SOLVER.BASE_LR 1.0 SOLVER.MAX_ITER 5", "a key without effect", passes=True),
        Case(RESUME, "all checkpoints cut short", around="cut"),
        Case(RESUME, "a second run in the same folder", around="locked"),
    ],
    "Training": [
        Case("train"),
        Case(f"{TRAIN} OUTPUT_DIR output/c", "Ctrl-C after the first steps", around="interrupt"),
        Case(f"{TRAIN} OUTPUT_DIR output/d", "full disk", around="full"),
        Case(f"{TRAIN} OUTPUT_DIR output/e", "too little space from the start", around="small"),
        Case(f"{TRAIN} OUTPUT_DIR a_file"),
        Case(f"{TRAIN} OUTPUT_DIR /proc/cards"),
        Case(f"{TRAIN} --num-gpus 0 OUTPUT_DIR output/f", "", passes=True),
        Case(f"{TRAIN} --num-gpus 3 OUTPUT_DIR output/g", "on the CPU: three processes", True),
        Case(f"{TRAIN} --num-gpus -1"),
        *(
            Case(f"{TRAIN} OUTPUT_DIR output/h {rest}")
            for rest in (
                "MODEL.CORNERNET.NUM_CLASSES 7",
                "SOLVER.WARMUP_ITERS 4",
                "SOLVER.IMS_PER_BATCH 0",
                "SOLVER.MAX_ITER -1",
                "SOLVER.BASE_LR fast",
                "SOLVER.OPTIMIZER LION",
                "SOLVER.AMP.ENABLED True SOLVER.AMP.PRECISION int4",
                "MODEL.DEVICE tpu",
                "MODEL.HOURGLASS.DEPTH 9",
                "MODEL.HOURGLASS.WIDTHS [8]",
                "MODEL.CORNERNET.PAIRING love",
                "MODEL.CORNERNET.PADDING none",
                "INPUT.CORNERNET.CROP.SIZE [0,0]",
                "INPUT.CORNERNET.CROP.SCALES []",
                "DATASETS.TEST ('nowhere',)",
                "LOGGERS ['comet']",
                "MODEL.TYPO 1",
            )
        ),
        Case("overfit --data json/annotations_empty.json OUTPUT_DIR output/i"),
    ],
    "Configs": [
        *_section(
            f"eval {MODEL} --config-file {{}}",
            "nowhere broken.yaml code.yaml unknown_key.yaml own_base.yaml binary.yaml empty_folder",
        ),
        Case(f"eval {MODEL} --data empty_folder"),
        Case(f"eval {MODEL} SOLVER.BASE_LR", "a key without a value"),
        Case(f"eval {MODEL} --wrong 1"),
        Case("nothing"),
    ],
}
