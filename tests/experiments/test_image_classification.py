"""ImageNet's layout: files are read as they are wanted, and the command trains, times, compiles."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import image_classification
from experiments.data.image_crops import SCALE, centre_box, random_box, read_square
from experiments.data.image_folders import find_images
from experiments.data.image_reader import ImageReader, Wanted
from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.models.resnet import ResNet
from experiments.studies.image_options import Images, network

SMOKE = ["--preset", "smoke", "--devices", "1"]


@pytest.fixture
def folder(tmp_path):
    """Write eight images, one colour per class and one shade per image."""
    for part, count in (("train", 3), ("val", 1)):
        for label, colour in enumerate(([200, 0, 0], [0, 0, 200])):
            for i in range(count):
                pixels = np.zeros((30 + i, 40, 3), np.uint8) + np.array(colour, np.uint8) + i
                path = tmp_path / "photos" / part / f"class {label}" / f"{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=95)
    return tmp_path / "photos"


def test_a_folder_is_listed_by_class(folder):
    (folder / "train" / "class 0" / "notes.txt").write_text("not an image")
    (folder / "train" / "empty").mkdir()
    found = find_images(folder)
    assert found.name.name == "<photos>"
    assert found.classes == ("class 0", "class 1")
    assert found.training.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path[-6:] for path in found.training.paths[:3]] == ["0.JPEG", "1.JPEG", "2.JPEG"]
    assert found.validation.labels.tolist() == [0, 1]
    before = found.name
    (folder / "train" / "class 1" / "2.JPEG").unlink()
    assert find_images(folder).name != before


def test_folders_of_another_layout_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"train: expected a folder of classes, .* No such file"):
        find_images(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match=r"train: expected images as CLASS/NAME.jpg, found none"):
        find_images(tmp_path)
    (folder / "val" / "class 1").rename(folder / "val" / "other")
    with pytest.raises(InputError, match=r"val: expected the 2 classes of train/, found 'other'"):
        find_images(folder)


def test_crops_lie_inside_and_have_the_proportions_that_they_name():
    draw = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, draw) for _ in range(300)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2].max() <= 400
    assert boxes[:, 3].max() <= 300
    assert 0.99 * SCALE[0] <= (widths * heights / 120_000).min() < 0.2
    assert 0.8 < (widths * heights / 120_000).max() <= SCALE[1]
    assert 0.74 < (widths / heights).min() < 0.8
    assert 1.25 < (widths / heights).max() < 1.35
    # None of a strip's crops has such proportions: the largest in the middle.
    assert random_box(1000, 10, draw) == pytest.approx((493 + 1 / 3, 0, 506 + 2 / 3, 10))
    assert centre_box(400, 200) == pytest.approx((112.5, 12.5, 287.5, 187.5))


def test_a_square_shows_its_box(tmp_path):
    """Columns brighten from left to right: where a crop begins is what it shows."""
    ramp = np.repeat(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], 256, axis=0)
    path = tmp_path / "ramp.png"
    Image.fromarray(np.repeat(ramp, 3, axis=2)).save(path)
    middle = read_square(str(path), 224, None).astype(int)
    np.testing.assert_allclose(middle[100, [0, 223], 0], [16, 239], atol=1)
    one, again, other = (read_square(str(path), 32, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    both = [read_square(str(path), 8, np.random.default_rng(s))[0, :, 0] for s in range(40)]
    rising = [int(row[-1]) > int(row[0]) for row in both]
    assert 10 < sum(rising) < 30  # the others are mirrored


def test_a_reduced_jpeg_shows_the_same_box(tmp_path):
    """The decoder leaves out seven of eight pixels of this one."""
    ramp = np.repeat(np.linspace(0, 255, 2048).astype(np.uint8)[None, :, None], 2048, axis=0)
    path = tmp_path / "large.jpg"
    Image.fromarray(np.repeat(ramp, 3, axis=2)).save(path, quality=95)
    middle = read_square(str(path), 224, None).astype(int)
    np.testing.assert_allclose(middle[100, [0, 223], 0], [16, 239], atol=2)


def test_batches_do_not_depend_on_the_workers(folder):
    files = find_images(folder).training
    seeds = [[(0, step, row) for row in range(4)] for step in range(6)]
    wanted = [Wanted((np.arange(4) + step) % 6, seeds[step]) for step in range(6)]
    found = []
    for workers in (0, 2):
        with ImageReader(files, side=16, workers=workers) as reader:
            found.append(list(reader.batches(wanted)))
    assert [batch["labels"].tolist() for batch in found[0][:2]] == [[0, 0, 0, 1], [0, 0, 1, 1]]
    colours = found[0][0]["images"].mean(axis=(1, 2)).argmax(axis=1)
    assert colours.tolist() == [0, 0, 0, 2]
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image_is_named(folder, workers):
    files = find_images(folder).training
    with open(files.paths[4], "wb") as broken:
        broken.write(b"\xff\xd8\xff nothing")
    with (
        ImageReader(files, side=16, workers=workers) as reader,
        pytest.raises(InputError, match=r"class 1/1.JPEG: expected an image, found"),
    ):
        list(reader.batches([Wanted(np.arange(6), None)]))


def test_resnet_50_has_the_size_that_is_known():
    model = network(Images(), classes=1000).model
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    sizes = {
        jax.tree_util.keystr(path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    kernels = sum(size for name, size in sizes.items() if "kernel" in name)
    assert kernels == 25_502_912  # as in the original network: 53 convolutions and the head
    assert sum("kernel" in name for name in sizes) == 54
    logits = jax.eval_shape(model.apply, shapes, np.zeros((2, 224, 224, 3), np.float32))
    assert logits.shape == (2, 1000)


def test_top_1_and_top_5_count_places(folder):
    """A network whose logits are the classes' numbers in falling order."""
    options = Images(model="resnet8", side=16, batch_size=2)
    classifier = network(options, classes=8)
    files = find_images(folder).validation
    labels = np.array([0, 5], np.int32)
    params = classifier.init_params(jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, params)
    params["params"]["head"]["bias"] = -jnp.arange(8.0)
    mesh = make_mesh(jax.devices()[:1])
    files = type(files)(files.paths, labels)
    with ImageReader(files, side=16, workers=0) as reader, jax.set_mesh(mesh):
        found = classifier.scorer(reader, labels, batch_size=4, mesh=mesh)(params)
    entropy = np.log(np.exp(-np.arange(8.0)).sum()) + labels
    assert found == {"loss": pytest.approx(entropy.mean()), "top_1": 0.5, "top_5": 0.5}


def run(out, *arguments):
    image_classification.main([*SMOKE, "--out", str(out), *arguments])
    summary = json.loads((out / "summary.json").read_text())
    return summary["metrics"] | summary["baselines"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param("sgd", marks=pytest.mark.long), "shampoo"])
def test_the_command_trains_and_resumes(recipe, tmp_path, capsys):
    figures = run(tmp_path / "run", "--recipe", recipe, "--workers", "0")
    assert 0 <= figures[f"{recipe}/last/top_1"] <= figures[f"{recipe}/last/top_5"] <= 1
    assert np.isfinite(figures[f"{recipe}/average/loss"])
    again = ["--resume", str(tmp_path / "run")]
    image_classification.main(again)
    assert "run folder" in capsys.readouterr().out


@pytest.mark.long
def test_sharded_parameters_learn_what_whole_ones_do(tmp_path):
    arguments = ["--epochs", "1", "--workers", "0", "--data"]
    whole = run(tmp_path / "whole", *arguments, str(drawn(tmp_path)))
    sharded = run(
        tmp_path / "sharded", *arguments, str(drawn(tmp_path)), "--devices", "2", "--layout", "fsdp"
    )
    key = "shampoo/last/loss"
    assert sharded[key] == pytest.approx(whole[key], rel=1e-4)


def drawn(tmp_path):
    folder = tmp_path / "drawn"
    if not folder.exists():
        draw = np.random.default_rng(0)
        for part in ("train", "val"):
            for i in range(32):
                path = folder / part / f"{i % 4}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.long
def test_costs_are_read_off_compiled_programs(tmp_path):
    whole = run(tmp_path / "whole", "--cost", "--devices", "2")
    parts = run(tmp_path / "parts", "--cost", "--devices", "2", "--layout", "fsdp")
    assert whole["1/collectives"] == 0
    assert whole["2/collectives"] >= 2  # of the gradient, and of the directions
    assert whole["2/operations"] < 0.7 * whole["1/operations"]
    assert parts["2/parameter bytes"] < 0.7 * whole["2/parameter bytes"]


def test_the_reader_is_timed(tmp_path):
    figures = run(tmp_path / "run", "--read", "--workers", "1")
    assert figures["workers 0/images_per_second"] > 0
    assert figures["workers 1/images_per_second"] > 0


def test_bad_options_are_named(folder, tmp_path, capsys):
    with pytest.raises(InputError, match=r"--average: expected a number in \[0, 1\), found 1"):
        Images(average=1.0)
    for arguments, line in (
        ([], "--data: expected a folder with train/CLASS/*.jpg and val/CLASS/*.jpg"),
        (["--data", str(folder)], "--batch-size: expected a batch of 256, found 6 images"),
    ):
        with pytest.raises(SystemExit):
            image_classification.main([*arguments, "--out", str(tmp_path / "none")])
        assert line in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_network_of_small_images_keeps_its_shape():
    model = ResNet(10, width=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 24, 24, 3), np.float32))
    assert "block_2_0" in shapes["params"]
