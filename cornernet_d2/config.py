"""Config keys of CornerNet, added to Detectron2's yacs defaults."""

from collections.abc import Sequence

from detectron2.config import CfgNode as CN


def add_cornernet_config(cfg: CN) -> None:
    """Add CornerNet's keys to ``cfg`` in place; calling it again changes nothing.

    Sources: [P] Law & Deng, "CornerNet: Detecting Objects as Paired Keypoints" (ECCV 2018),
    [R] the authors' release (its ``config/CornerNet.json`` and code), [D2] Detectron2's habit.
    """
    if "HOURGLASS" in cfg.MODEL:
        return
    _add_hourglass(cfg)
    _add_timm(cfg)
    _add_head(cfg)
    _add_embedding(cfg)
    _add_centripetal(cfg)
    _add_center(cfg)
    _add_test(cfg)
    _add_input(cfg)
    _add_solver(cfg)


def override(cfg: CN, opts: Sequence[object]) -> None:
    """Sets keys from a list of alternating keys and values.

    Raises:
        ValueError: there is no such key, a value is of another type, or one is missing.
    """
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError) as error:  # yacs raises them for users' errors
        raise ValueError(str(error.args[0] if error.args else error)) from error


def _add_hourglass(cfg: CN) -> None:
    cfg.MODEL.HOURGLASS = CN()
    # Number of hourglasses in a row; each one feeds a head of its own (intermediate supervision).
    cfg.MODEL.HOURGLASS.STACKS = 2  # [P] sec. 3.5
    # Number of times an hourglass halves its map: the input must be a multiple of 4 * 2**DEPTH.
    cfg.MODEL.HOURGLASS.DEPTH = 5  # [P] sec. 3.5
    # Channels and residual blocks at each level, outermost first: DEPTH + 1 entries.
    cfg.MODEL.HOURGLASS.WIDTHS = [256, 256, 384, 384, 384, 512]  # [P] sec. 3.5
    cfg.MODEL.HOURGLASS.BLOCKS = [2, 2, 2, 2, 2, 4]  # [P] sec. 3.5
    # Channels after the 7x7 stride-2 convolution; a stride-2 residual block leads to WIDTHS[0].
    cfg.MODEL.HOURGLASS.STEM_WIDTH = 128  # [P] sec. 3.5
    # Channels of each stack's output feature map.
    cfg.MODEL.HOURGLASS.OUT_CHANNELS = 256  # [R]
    # Any name that detectron2.layers.get_norm knows: "BN", "SyncBN", "FrozenBN", "GN", ...
    cfg.MODEL.HOURGLASS.NORM = "BN"
    # Recompute activations in the backward pass: "none", per "stack", or per residual "block".
    cfg.MODEL.HOURGLASS.RECOMPUTE = "none"


def _add_timm(cfg: CN) -> None:
    """Of MODEL.BACKBONE.NAME "build_timm_fpn_backbone" (modeling/backbones/timm_fpn.py)."""
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet50"  # any model of timm that has features_only
    # What its weights start from: "" for none, "hub" for those that timm downloads, or a file. Read
    # only where MODEL.WEIGHTS is empty. INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must be
    # those of the weights.
    cfg.MODEL.TIMM.PRETRAINED = "hub"
    cfg.MODEL.TIMM.OUT_CHANNELS = 128  # of the path back to stride 4, and of its output
    cfg.MODEL.TIMM.NORM = "BN"  # of that path
    # Levels (strides 4, 8, 16, 32), with what is before them, that stay as they are.
    cfg.MODEL.TIMM.FREEZE_AT = 0


def _add_head(cfg: CN) -> None:
    cfg.MODEL.CORNERNET = CN()
    cfg.MODEL.CORNERNET.NUM_CLASSES = 80
    # Backbone features that get a head each; the last one is used at inference. All must have
    # the same stride. Empty: every output of the backbone, in its own order.
    cfg.MODEL.CORNERNET.IN_FEATURES = []
    cfg.MODEL.CORNERNET.HEAD_WIDTH = 256  # channels of the convolutions before the outputs [R]
    cfg.MODEL.CORNERNET.HEAD_KERNEL = 3  # their kernels' side [R]; CornerNet-Squeeze: 1
    cfg.MODEL.CORNERNET.POOL_WIDTH = 128  # channels of the two corner-pooled branches [P] fig. 7
    cfg.MODEL.CORNERNET.NORM = "BN"
    # How an image is placed on the canvas that the network sees (sizes in pixels, d = the
    # backbone's size divisibility, 128 for Hourglass-104):
    #   "bottom_right": next multiple of d, image at the top left, zero after normalising [D2]
    #   "center_black": size | (d - 1), image centred, black before normalising           [R]
    #   "center_mean":  size | (d - 1), image centred, zero after normalising         (mmdet)
    cfg.MODEL.CORNERNET.PADDING = "bottom_right"
    # What puts corners together, a name in PAIRING_REGISTRY: "embedding" [P], "centripetal"
    # (modeling/pairing), or one of your own.
    cfg.MODEL.CORNERNET.PAIRING = "embedding"
    # channels_last memory format for weights and activations; None (null in yaml): where the
    # machine is faster with it (hardware.py), which the log says.
    cfg.MODEL.CORNERNET.CHANNELS_LAST = False

    cfg.MODEL.CORNERNET.TARGETS = CN()
    # A corner moved by the radius still gives a box of at least this IoU. [P] sec. 3.2; [R]: 0.3
    cfg.MODEL.CORNERNET.TARGETS.MIN_OVERLAP = 0.7
    # "exact", or "eccv18": the roots of the first release, larger than what MIN_OVERLAP asks for.
    cfg.MODEL.CORNERNET.TARGETS.RADIUS_FORMULA = "exact"
    # A radius in map pixels for every object, instead of the formula; negative: use the formula.
    cfg.MODEL.CORNERNET.TARGETS.FIXED_RADIUS = -1
    # False: only the corner's own cell is set, all others are plain negatives.
    cfg.MODEL.CORNERNET.TARGETS.GAUSSIAN = True
    # Where boxes end at most: "canvas", at (height, width), or "last_pixel", 1 pixel before [R].
    cfg.MODEL.CORNERNET.TARGETS.CLIP = "canvas"
    _add_loss(cfg)


def _add_loss(cfg: CN) -> None:
    cfg.MODEL.CORNERNET.LOSS = CN()
    # What the losses are divided by, a name in CRITERION_REGISTRY: "default" (global counts,
    # independent of how a batch is split; modeling/criterion.py), "official", "mmdet" or
    # "centripetalnet" (these code bases, in compat/), or one of your own.
    cfg.MODEL.CORNERNET.LOSS.CONVENTION = "default"
    cfg.MODEL.CORNERNET.LOSS.ALPHA = 2.0  # [P] eq. 1
    cfg.MODEL.CORNERNET.LOSS.BETA = 4.0  # [P] eq. 1
    cfg.MODEL.CORNERNET.LOSS.PULL_WEIGHT = 0.1  # [P] sec. 3.5
    cfg.MODEL.CORNERNET.LOSS.PUSH_WEIGHT = 0.1  # [P] sec. 3.5
    cfg.MODEL.CORNERNET.LOSS.PUSH_MARGIN = 1.0  # Delta of [P] eq. 5
    cfg.MODEL.CORNERNET.LOSS.OFFSET_WEIGHT = 1.0  # [P] sec. 3.5
    # Pull and push of the default convention are the mean over all images of a step times this:
    # the authors sum over the images of a GPU, of which they had 5 [R].
    cfg.MODEL.CORNERNET.LOSS.EMBEDDING_IMAGES = 5.0


def _add_embedding(cfg: CN) -> None:
    """Ours, but for the defaults; weights and margin are in LOSS, the threshold in TEST."""
    cfg.MODEL.CORNERNET.EMBEDDING = CN()
    # Numbers of a corner [P]: 1. Distances are sums of absolute differences: with 4 numbers
    # TEST.EMBEDDING_THRESHOLD 1.0 finds more than 0.5.
    cfg.MODEL.CORNERNET.EMBEDDING.DIM = 1
    # Two more channels in front of the embedding: where on the map a cell is.
    cfg.MODEL.CORNERNET.EMBEDDING.POSITION = False
    # Of the convolution in front of it, whose kernel then reaches so much farther.
    cfg.MODEL.CORNERNET.EMBEDDING.DILATION = 1


def _add_centripetal(cfg: CN) -> None:
    """Sources: [C] Dong et al., "CentripetalNet" (CVPR 2020)."""
    cfg.MODEL.CORNERNET.CENTRIPETAL = CN()
    # Weight of the smooth L1 loss of the shifts. [C] eq. 8
    cfg.MODEL.CORNERNET.CENTRIPETAL.WEIGHT = 1.0
    # What the shifts start from: the mean of log(side / 2) over the objects, sides in map pixels of
    # what the network sees. Default: COCO at its own resolution, 4 pixels a cell.
    cfg.MODEL.CORNERNET.CENTRIPETAL.LOG_SIZE = 1.75
    # Also predict the vector from the corner's cell to the centre (map pixels), along which a
    # deformable convolution gathers the features of the shift; needs torchvision. [C] sec. 3.3
    cfg.MODEL.CORNERNET.CENTRIPETAL.GUIDED = False
    cfg.MODEL.CORNERNET.CENTRIPETAL.GUIDING_WEIGHT = 0.05  # of its smooth L1 loss [C] eq. 8
    # Which pairs are accepted: "log_size": half the box is as large as both corners say; or
    # "central_region": both corners' centres lie in the middle of the box [C] sec. 3.2.
    cfg.MODEL.CORNERNET.CENTRIPETAL.RULE = "log_size"
    # "log_size": the largest difference of the logarithms, over both axes and both corners.
    cfg.MODEL.CORNERNET.CENTRIPETAL.TOLERANCE = 0.6
    # "central_region":
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION = CN()
    # Part of the box's width and height, of boxes up to LARGE_AREA and above. [C] sec. 4.1
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION.MU_SMALL = 1 / 2.4
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION.MU_LARGE = 1 / 2.1
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION.LARGE_AREA = 3500.0  # canvas pixels^2 [C] sec. 4.1
    # The box that the two centres span has at most this part of the region's area (mmdet: 0.5).
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION.MAX_SPAN = float("inf")
    # Multiply scores by exp of minus that part. [C] sec. 3.2; neither published code does
    cfg.MODEL.CORNERNET.CENTRIPETAL.REGION.WEIGHTED = True


def _add_center(cfg: CN) -> None:
    """Sources: [D] Duan et al., "CenterNet: Keypoint Triplets" (ICCV 2019) and its release."""
    # Corners look into the object from each place of its edge. [D] sec. 3.3
    cfg.MODEL.CORNERNET.CASCADE_POOLING = False
    cfg.MODEL.CORNERNET.CENTER = CN()
    # Predict centres, too, and keep a pair of corners only with a centre of its class in the middle
    # of its box, the best of which then has a third of the say in its score. [D] sec. 3.2
    cfg.MODEL.CORNERNET.CENTER.ENABLED = False
    # The middle is one of so many parts of the box's width and height, odd numbers: of boxes up to
    # LARGE_AREA, and above.
    cfg.MODEL.CORNERNET.CENTER.PARTS = [3, 5]
    cfg.MODEL.CORNERNET.CENTER.LARGE_AREA = 22500.0  # canvas pixels^2


def _add_test(cfg: CN) -> None:
    cfg.MODEL.CORNERNET.TEST = CN()
    # Corners kept per side, over all classes [P] sec. 4.2. More are kept, and more pairs, where
    # TEST.DETECTIONS_PER_IMAGE is larger.
    cfg.MODEL.CORNERNET.TEST.TOP_K = 100
    cfg.MODEL.CORNERNET.TEST.NMS_KERNEL = 3  # max filter on the heat maps, map pixels [P] sec. 4.2
    cfg.MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD = 0.5  # largest distance of a pair's [P] 4.2
    cfg.MODEL.CORNERNET.TEST.MAX_PAIRS = 1000  # pairs kept before soft-NMS [R]
    # What detects, a name in INFERENCE_REGISTRY: "default" (modeling/inference.py), "official",
    # "mmdet" or "centernet" (the rules of these code bases, in compat/), or one of your own.
    cfg.MODEL.CORNERNET.TEST.CONVENTION = "default"
    # Test-time augmentation; or with TEST.AUG.ENABLED Detectron2's MIN_SIZES, MAX_SIZE and FLIP.
    cfg.MODEL.CORNERNET.TEST.SCALES = [1.0]  # [R] multi-scale: .5 .75 1 1.25 1.5
    cfg.MODEL.CORNERNET.TEST.FLIP = False  # also evaluate the mirror image [P] sec. 4.2
    # Evaluate and predict with prepare_for_inference(model): batch norm folded, bfloat16 where the
    # machine has it (0.02 to 0.16 AP less, docs/deploy.md). False: as trained, in float32.
    cfg.MODEL.CORNERNET.TEST.FAST = True
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS = CN()
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.METHOD = "gaussian"  # "gaussian", "linear" or "hard"
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.SIGMA = 0.5  # [R]
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD = 0.5  # for "linear" and "hard" [R]
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.MIN_SCORE = 0.001  # [R]
    # Average the boxes that soft-NMS suppresses into the one that it keeps [R].
    cfg.MODEL.CORNERNET.TEST.MERGE = CN()
    cfg.MODEL.CORNERNET.TEST.MERGE.ENABLED = False
    cfg.MODEL.CORNERNET.TEST.MERGE.EXPONENT = 10.0


def _add_input(cfg: CN) -> None:
    # Datasets to register at the start, by name: {NAME: {FORMAT: "coco", ANNOTATIONS: file, IMAGES:
    # folder}}; all keys are explained in data/files.py.
    cfg.DATASETS.FILES = CN(new_allowed=True)
    cfg.INPUT.CORNERNET = CN()
    # Random square crop of SIZE times one of SCALES, then resized to SIZE [R].
    cfg.INPUT.CORNERNET.CROP = CN()
    cfg.INPUT.CORNERNET.CROP.ENABLED = True
    cfg.INPUT.CORNERNET.CROP.SIZE = [511, 511]  # (height, width), pixels [P] sec. 4.1
    cfg.INPUT.CORNERNET.CROP.BORDER = 128  # least distance of crop centre to image border, pixels
    cfg.INPUT.CORNERNET.CROP.SCALES = [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    # Outside the image: "black" [R], or "mean": PIXEL_MEAN, filled in once the colours are changed,
    # so that it is 0 after normalising (mmdet).
    cfg.INPUT.CORNERNET.CROP.FILL = "black"
    # Drop objects whose centre is outside the crop, and draw again a crop that would hold none
    # (mmdet); False keeps what is left of them [R].
    cfg.INPUT.CORNERNET.CROP.CENTER_INSIDE = False
    # An object of which the crop leaves less than this part of its area is neither positive nor
    # negative; 0 keeps whatever is left [R].
    cfg.INPUT.CORNERNET.CROP.MIN_VISIBLE = 0.0
    cfg.INPUT.CORNERNET.COLOR_JITTER = 0.4  # brightness, contrast, saturation: factor 1 +- this [R]
    cfg.INPUT.CORNERNET.LIGHTING = 0.1  # std of the PCA colour shift [R]
    # SSD's changes of brightness, contrast, saturation, hue and order of channels (mmdet).
    cfg.INPUT.CORNERNET.PHOTOMETRIC_DISTORTION = False
    # A mirrored x is width - 1 - x [R] rather than width - x [D2].
    cfg.INPUT.CORNERNET.PIXEL_FLIP = False
    # Boxes marked "iscrowd" or "ignore": "ignore" makes their cells neither positive nor negative,
    # "positive" trains them as objects [R], "drop" leaves their cells negative [D2].
    cfg.INPUT.CORNERNET.CROWD = "ignore"


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAM"  # "ADAM", "ADAMW" or "SGD"; [P] sec. 4.1: Adam, 2.5e-4, batch 49
    cfg.SOLVER.BETAS = [0.9, 0.999]  # of Adam and AdamW; PyTorch's defaults, as in [R]
    # The rate of the backbone, or of a feature pyramid's bottom-up network alone, is
    # SOLVER.BASE_LR times this; Mask2Former's key.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Several micro-batches per step: their sum is SOLVER.IMS_PER_BATCH and the losses are
    # normalised over all of them, so that the gradient is the one of the whole batch.
    cfg.SOLVER.GRADIENT_ACCUMULATION = 1
    # With SOLVER.AMP.ENABLED: "float16" (with a gradient scaler), "bfloat16", "float32", or "auto":
    # the one that MODEL.DEVICE has instructions for (engine/precision.py). d2go's key.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # torch.compile the backbone and the head; not with MODEL.HOURGLASS.RECOMPUTE.
    cfg.SOLVER.COMPILE = False
    # Last checkpoints to keep besides the best and the final one; 0 keeps all.
    cfg.SOLVER.CHECKPOINT_KEEP = 3
    # A key of metrics.json: model_best.pth holds the weights with the highest value of it.
    cfg.SOLVER.BEST_METRIC = "bbox/AP"
    # End the run after this many evaluations (TEST.EVAL_PERIOD) in a row in which BEST_METRIC has
    # not risen by more than MIN_DELTA, in its unit; 0: never.
    cfg.SOLVER.PATIENCE = 0
    cfg.SOLVER.MIN_DELTA = 0.0
    # Stop after this many steps in a row with a loss or a gradient that is not finite.
    cfg.SOLVER.NONFINITE_LIMIT = 10
    # Report a total loss above this many times its median of the last 100 iterations; 0: never.
    cfg.SOLVER.LOSS_SPIKE_FACTOR = 5.0

    # Iterations between computations of the losses on DATASETS.TEST, the images prepared as in a
    # test, written as validation/loss_*; 0: never.
    cfg.TEST.LOSS_PERIOD = 0
    # After a training write OUTPUT_DIR/report.html: curves, AP of each class, worst images. From
    # the last evaluation's detections, so that it takes seconds.
    cfg.TEST.REPORT = True
    # Where progress goes besides the terminal and metrics.json: "tensorboard", "wandb", "mlflow".
    cfg.LOGGERS = ["tensorboard"]

    # Exponential moving average of the weights; the key names are d2go's.
    cfg.MODEL_EMA = CN()
    cfg.MODEL_EMA.ENABLED = False
    # Per step; SOLVER.REFERENCE_WORLD_SIZE scales it, so that it averages over as many images.
    cfg.MODEL_EMA.DECAY = 0.999
    cfg.MODEL_EMA.DEVICE = ""  # where the average is kept; empty: beside the model
    # Evaluate the averaged weights, during training and with --eval-only; False: the latest ones.
    cfg.MODEL_EMA.USE_EMA_WEIGHTS_FOR_EVAL_ONLY = True
    # During training evaluate the other of the two as well, and let model_best.pth hold the better:
    # an average may lag behind in a short run. Evaluations take twice as long.
    cfg.MODEL_EMA.EVAL_BOTH = False
