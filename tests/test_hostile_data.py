"""Data as it comes: either trained on rightly, or refused with file, image id and fix."""

import io
import json
import logging
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cornernet_d2.data import CornerNetDatasetMapper
from cornernet_d2.data.annotations import boxes_xyxy
from cornernet_d2.data.augmentation import RandomScaleCrop
from cornernet_d2.data.colors import ColorJitter
from cornernet_d2.data.reading import image_size, read_file, read_image
from cornernet_d2.data.validation import (
    annotation_problems,
    dataset_problems,
    validate_dataset,
)
from cornernet_d2.targets import CornerTargetGenerator

CLASSES = 3
SIZE = 63


def make_mapper(augmentations=None):
    if augmentations is None:
        augmentations = [RandomScaleCrop((SIZE, SIZE), [0.6, 1.0, 1.3], 16), ColorJitter(),
                         T.RandomFlip()]  # fmt: skip
    return CornerNetDatasetMapper(
        True,
        augmentations=augmentations,
        target_generator=CornerTargetGenerator(CLASSES),
        size_divisibility=64,
        padding="center_black",
    )


def smooth(height=48, width=64, channels=3):
    coarse = np.random.RandomState(0).randint(30, 220, (4, 4, channels), np.uint8)
    return cv2.resize(coarse, (width, height)).reshape(height, width, channels)


def record(path, **rest):
    return {"file_name": str(path), "image_id": 42, "annotations": [], **rest}


def annotation(bbox, category=0, mode=BoxMode.XYXY_ABS, **rest):
    return {"bbox": bbox, "bbox_mode": mode, "category_id": category, **rest}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "photo.jpg"
    Image.fromarray(smooth()).save(path, quality=95)
    return path


# ---- boxes, sizes, classes, crowd, ignored -----------------------------------------------------

coordinate = st.one_of(st.integers(-20, 90), st.floats(-20, 90, width=32))
objects = st.lists(
    st.builds(
        lambda x, y, w, h, category, crowd, ignore, as_xywh: annotation(
            [x, y, w, h] if as_xywh else [x, y, x + w, y + h],
            category,
            BoxMode.XYWH_ABS if as_xywh else BoxMode.XYXY_ABS,
            iscrowd=crowd,
            ignore=ignore,
        ),
        coordinate,
        coordinate,
        st.floats(0, 80, width=32),
        st.floats(0, 80, width=32),
        st.integers(0, CLASSES - 1),
        st.integers(0, 1),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


@settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(objects, st.integers(0, 2**31 - 1))
def test_any_valid_annotations_train(photo, annotations, seed):
    np.random.seed(seed)
    output = make_mapper()(record(photo, annotations=annotations))
    targets, instances = output["corner_targets"], output["instances"]
    boxes = instances.gt_boxes.tensor
    assert output["image"].shape == (3, SIZE, SIZE) and output["image"].isfinite().all()
    assert boxes.isfinite().all() and (boxes >= 0).all() and (boxes <= SIZE).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
    plain = sum(not (obj["iscrowd"] or obj["ignore"]) for obj in annotations)
    assert len(targets) <= len(instances) <= plain
    assert len(output.get("ignored", [])) <= len(annotations) - plain
    h, w = targets.map_size
    assert ((targets.cells >= 0) & (targets.cells < h * w)).all()
    assert ((targets.offsets >= 0) & (targets.offsets <= 1)).all()
    y, x = targets.cells // w, targets.cells % w
    assert (y[:, 1] >= y[:, 0]).all() and (x[:, 1] >= x[:, 0]).all()
    heat, ignore = targets.dense_heatmaps(), targets.ignore_mask()
    assert heat.isfinite().all() and heat.max() <= 1
    for corner in range(2):
        positive = heat[corner, targets.classes, y[:, corner], x[:, corner]]
        assert (positive == 1).all()
        if ignore is not None:
            assert not ignore[corner, targets.classes, y[:, corner], x[:, corner]].any()


BROKEN = [
    ([float("nan"), 0, 9, 9], 0, "is not finite"),
    ([0, 0, float("inf"), 9], 0, "is not finite"),
    ([30, 0, 9, 9], 0, "reversed corners"),
    ([0, 9, 9, 2], 1, "reversed corners"),
    ([0, 0, 9, 9], CLASSES, "outside \\[0, 3\\)"),
    ([0, 0, 9, 9], -1, "outside \\[0, 3\\)"),
    ([0, 0, 9, 9], "cat", "outside \\[0, 3\\)"),
    ([0, 0, 9, 9], None, "outside \\[0, 3\\)"),
    ([0, 0, 9], 0, "no box of 4 numbers"),
    (None, 0, "no box of 4 numbers"),
    (["a", 0, 9, 9], 0, "no box of 4 numbers"),
]


@pytest.mark.parametrize("bbox, category, message", BROKEN)
def test_broken_annotations_are_named_before_and_while_loading(photo, bbox, category, message):
    good = annotation([1, 1, 20, 20])
    bad = record(photo, annotations=[good, annotation(bbox, category)])
    pattern = rf"photo.jpg \(image id 42\), annotation 1: .*{message}"
    with pytest.raises(ValueError, match=pattern):
        make_mapper()(bad)
    with pytest.raises(ValueError, match=pattern) as error:
        validate_dataset([record(photo, image_id=41), bad], CLASSES, name="set")
    assert "set cannot be trained on" in str(error.value)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4), max_size=6),
    st.integers(-2, 5),
)
def test_no_box_is_silently_wrong(boxes, category):
    annotations = [annotation(list(box), category) for box in boxes]
    problems = annotation_problems(record("x.jpg", annotations=annotations), CLASSES)
    for i, box in enumerate(boxes):
        about = [p for p in problems if f"annotation {i}:" in str(p)]
        x0, y0, x1, y1 = box
        good = np.isfinite(box).all() and x1 >= x0 and y1 >= y0 and 0 <= category < CLASSES
        assert good != any(p.fatal for p in about)


def test_boxes_that_cannot_be_seen_are_left_out(photo, caplog):
    annotations = [
        annotation([5, 5, 5, 30]),  # no width
        annotation([70, 5, 90, 30]),  # right of the image
        annotation([5, 5, 30, 30]),
    ]
    example = record(photo, annotations=annotations, width=64, height=48)
    with caplog.at_level(logging.WARNING, "cornernet_d2"):
        validate_dataset([example], CLASSES)
    assert "annotation 0" in caplog.text and "annotation 1" in caplog.text
    assert "annotation 2" not in caplog.text
    output = make_mapper([])(example)
    assert output["instances"].gt_boxes.tensor.tolist() == [[5, 5, 30, 30]]


def test_box_modes_may_be_mixed():
    annotations = [
        annotation([1, 2, 3, 4]),
        annotation([1, 2, 3, 4], mode=BoxMode.XYWH_ABS),
        annotation((1.5, 2, 3, 4), mode=1),  # a plain int, as json gives it
    ]
    assert boxes_xyxy(annotations).tolist() == [[1, 2, 3, 4], [1, 2, 4, 6], [1.5, 2, 4.5, 6]]
    assert boxes_xyxy([]).shape == (0, 4)


# ---- whole datasets ----------------------------------------------------------------------------


def test_class_count_must_match(photo):
    good = record(photo, annotations=[annotation([1, 1, 20, 20])])
    for names in (["a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(ValueError, match=f"{len(names)} classes.*NUM_CLASSES {len(names)}"):
            validate_dataset([good], CLASSES, names)
    validate_dataset([good], CLASSES, ["a", "b", "c"])
    with pytest.raises(ValueError, match="2 classes are named 'a'"):
        validate_dataset([good], CLASSES, ["a", "b", "a"])


def problems_of(*dicts, **options):
    return [str(p) for p in dataset_problems(dicts, CLASSES, **options)]


def test_missing_files_duplicate_ids_and_absent_annotations(photo, tmp_path):
    good = record(photo, annotations=[annotation([1, 1, 20, 20])])
    unlabelled = {"file_name": str(photo), "image_id": 42}
    for bad, message in (
        (record(tmp_path / "gone.jpg"), "gone.jpg (image id 42): its id is also that of"),
        (record(tmp_path / "gone.jpg", image_id=1), "gone.jpg (image id 1): there is no such file"),
        (record(photo, image_id=1), "photo.jpg (image id 1): its file is also that of image id 42"),
        (unlabelled, "(image id 42) has no 'annotations'"),
        (record(photo, width=0, height=5), "(image id 42): width or height below 1"),
        (
            record(photo, width="64", height=48),
            "(image id 42): width or height below 1 or no number",
        ),
    ):
        texts = problems_of(good, bad)
        assert message in texts[0] and len(texts) <= 2
    # The same image twice is a way to weight it.
    validate_dataset([good, good], CLASSES)
    with pytest.raises(ValueError, match="has no 'annotations'"):
        make_mapper()(unlabelled)


def test_nothing_to_learn_is_refused(photo):
    for dicts, message in (([], "has no image"), ([record(photo)], "has no object in any image")):
        with pytest.raises(ValueError, match=message):
            validate_dataset(dicts, CLASSES)


def test_boxes_that_are_there_twice_are_named_and_trained(photo, caplog):
    objects = [annotation([1, 1, 20, 20]), annotation([1, 1, 20, 20], 1)]
    validate_dataset([record(photo, annotations=objects)], CLASSES)
    assert not caplog.text
    validate_dataset([record(photo, annotations=[*objects, objects[0]])], CLASSES)
    assert "(image id 42), annotation 2: same box and class as annotation 0" in caplog.text


def test_long_lists_are_cut_short(photo):
    bad = record(photo, annotations=[annotation([9, 0, 1, 1])] * 25)
    with pytest.raises(ValueError, match="and 15 more; .*cornernet check"):
        validate_dataset([bad], CLASSES)


def test_sizes_are_compared_with_the_files(photo, tmp_path):
    good = record(photo, annotations=[annotation([1, 1, 20, 20])], width=64, height=48)
    wrong = record(tmp_path / "other.jpg", image_id=1, width=64, height=49)
    (tmp_path / "other.jpg").write_bytes(photo.read_bytes())
    assert problems_of(good, wrong) == []
    (text,) = problems_of(good, wrong, check_sizes=True)
    assert "other.jpg (image id 1) is 64x48 pixels, but the dataset says 64x49" in text
    with pytest.raises(ValueError, match="other.jpg"):  # a sample is read before each training
        validate_dataset([good, wrong], CLASSES)


@pytest.mark.parametrize("orientation, size", [(1, (48, 64)), (3, (48, 64)), (6, (64, 48))])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_size_without_decoding(tmp_path, orientation, size, ending):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(smooth()).save(tmp_path / f"a.{ending}", exif=exif)
    example = record(tmp_path / f"a.{ending}")
    assert image_size(example) == size == read_image(example, "BGR").shape[:2]
    assert image_size({**example, "height": 1, "width": 2}) == (1, 2)


def damaged(ending: str) -> bytes:
    """A file with its beginning and end, but zeros in its middle."""
    noise = np.random.RandomState(0).randint(0, 256, (200, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, ending)
    data = bytearray(buffer.getvalue())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    return bytes(data)


def test_damage_in_the_middle_of_a_png_is_refused(tmp_path):
    (tmp_path / "hurt.png").write_bytes(damaged("PNG"))
    with pytest.raises(ValueError, match=r"cannot read .*hurt.png \(image id 42\)"):
        train_on(tmp_path / "hurt.png")


def test_damage_in_the_middle_of_a_jpeg_is_found_by_decoding_strictly(photo, tmp_path, capfd):
    path = tmp_path / "hurt.jpg"
    path.write_bytes(damaged("JPEG"))
    assert read_image(record(path), "BGR").shape == (200, 200, 3)
    with pytest.raises(ValueError, match=r"cannot read .*hurt.jpg \(image id 42\): .*Corrupt JPEG"):
        read_image(record(path), "BGR", strict=True)
    capfd.readouterr()
    objects = [annotation([1, 1, 20, 20])]
    dicts = [record(photo, image_id=i, annotations=objects) for i in range(100)]
    dicts[51] = record(path)
    found = [str(p) for p in dataset_problems(dicts, CLASSES, decoded=100) if p.fatal]
    assert len(found) == 1 and "hurt.jpg" in found[0]
    assert not [p for p in dataset_problems(dicts, CLASSES, decoded=10) if p.fatal]
    read_image(record(photo), "BGR", strict=True)
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"


# ---- images ------------------------------------------------------------------------------------


def train_on(path, **rest):
    np.random.seed(0)
    example = record(path, annotations=[annotation([0, 0, 1, 1])], **rest)
    return make_mapper()(example)["image"]


def png_with(chunk_type: bytes, payload: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "PNG")
    data = buffer.getvalue()
    crc = struct.pack(">I", zlib.crc32(chunk_type + payload))
    chunk = struct.pack(">I", len(payload)) + chunk_type + payload + crc
    return data[:33] + chunk + data[33:]  # behind the header


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    return buffer.getvalue()


DAMAGED = {
    "empty": b"",
    "text": b"<html>404</html>",
    "header_only": jpeg_bytes()[:200],
    "half": jpeg_bytes()[: len(jpeg_bytes()) // 2],
    "no_end": jpeg_bytes()[:-60],
    "half_png": png_with(b"tEXt", b"a\0b")[:300],
    "bomb": png_with(b"tEXt", b"a\0b").replace(
        struct.pack(">II", 64, 48), struct.pack(">II", 2**16, 2**16)
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("is_train", [True, False])
def test_damaged_files_are_named(tmp_path, kind, is_train):
    path = tmp_path / f"{kind}.jpg"
    path.write_bytes(DAMAGED[kind])
    mapper = make_mapper() if is_train else CornerNetDatasetMapper(False, augmentations=[])
    with pytest.raises(ValueError, match=rf"cannot read .*{kind}.jpg \(image id 42\).*Restore"):
        mapper(record(path))


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(ValueError, match=r"cannot read .*\(image id 42\)"):
            make_mapper()(record(path))


@settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.integers(0, 10**6))
def test_corrupted_bytes_never_break_out(tmp_path, position, junk, length):
    data = jpeg_bytes()
    data = data[: position % len(data)] + junk + data[position % len(data) :]
    data = data[: max(1, length % (2 * len(data)))]
    path = tmp_path / "junk.jpg"
    path.write_bytes(data)
    try:
        image = read_image(record(path), "BGR")
    except ValueError as error:
        assert "junk.jpg (image id 42)" in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_size_that_differs_from_the_dataset(photo):
    with pytest.raises(SizeMismatchError, match=r"photo.jpg \(image id 42\) is 64x48.*says 50x48"):
        train_on(photo, width=50, height=48)
    with pytest.raises(SizeMismatchError, match="EXIF"):
        train_on(photo, width=48, height=64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_rotation_is_applied(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(smooth()).save(path, exif=exif, **({"quality": 100} if ending == "jpg" else {}))
    upright = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90,
    }[orientation](smooth())  # fmt: skip
    image = read_image(record(path), "RGB")
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 3
    np.testing.assert_array_equal(read_image(record(path), "BGR"), image[..., ::-1])


def test_grey_and_palette_and_alpha_and_cmyk_images(tmp_path):
    grey = Image.fromarray(smooth(channels=1)[..., 0])
    color = Image.fromarray(smooth())
    images = {
        "grey.jpg": grey,
        "grey.png": grey,
        "palette.png": color.quantize(200),
        "alpha.png": color.convert("RGBA"),
        "cmyk.jpg": color.convert("CMYK"),
        "one_bit.png": grey.convert("1"),
        "cmyk.tif": color.convert("CMYK"),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        read = read_image(record(tmp_path / name), "RGB")
        with Image.open(tmp_path / name) as stored:
            np.testing.assert_array_equal(read, np.asarray(stored.convert("RGB")), err_msg=name)
        assert train_on(tmp_path / name).isfinite().all()


@pytest.mark.parametrize("name, channels", [("a.png", 1), ("a.png", 3), ("a.tif", 1), ("a.pgm", 1)])
def test_16_bit_images_keep_their_greys_wherever_they_are_read(tmp_path, name, channels):
    eight = smooth(channels=channels)
    path = tmp_path / name
    cv2.imwrite(str(path), eight.astype(np.uint16) * 256 + 77)
    test_mapper = CornerNetDatasetMapper(False, augmentations=[])
    for image in (
        read_image(record(path), "BGR"),
        read_file(str(path), "BGR"),  # as the demo does
        make_mapper([])(record(path))["image"].numpy().transpose(1, 2, 0),
        test_mapper(record(path))["image"].numpy().transpose(1, 2, 0),
    ):
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image, np.broadcast_to(eight, image.shape), atol=1)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_known_range_are_refused(tmp_path, kind):
    path = tmp_path / "deep.tif"
    Image.fromarray((np.random.rand(9, 9) * 999).astype(kind)).save(path)
    with pytest.raises(ValueError, match=r"deep.tif \(image id 42\).*no known range; save 8 bits"):
        train_on(path)
    with pytest.raises(ValueError, match=r"cannot read .*deep.tif: .*no known range; save 8 bits$"):
        read_file(str(path), "BGR")


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_thin_images(tmp_path, size):
    Image.new("RGB", size[::-1], (200, 100, 50)).save(tmp_path / "thin.png")
    assert train_on(tmp_path / "thin.png", height=size[0], width=size[1]).max() > 0


def test_very_large_image(tmp_path):
    Image.new("RGB", (8000, 8000), (200, 100, 50)).save(tmp_path / "large.jpg")
    np.random.seed(0)
    example = record(
        tmp_path / "large.jpg",
        annotations=[annotation([0, 0, 8000, 8000])],
        width=8000,
        height=8000,
    )
    output = make_mapper()(example)
    assert output["image"].shape == (3, SIZE, SIZE)
    assert output["instances"].gt_boxes.tensor.tolist() == [[0, 0, SIZE, SIZE]]


def test_json_round_trip_of_a_record_is_trained_on(photo):
    example = json.loads(json.dumps(record(photo, annotations=[annotation([1, 1, 30, 30], 2)])))
    output = make_mapper([])(example)
    assert torch.equal(output["instances"].gt_classes, torch.tensor([2]))
