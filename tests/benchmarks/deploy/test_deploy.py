"""Predicting and exporting use the very model that was evaluated."""

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.deploy import predict
from benchmarks.deploy.onnx_file import Agreement, FullResolution, compare_logits, export_onnx
from benchmarks.deploy.predict import export_command, find_checkpoint, predict_command, segment
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.files import read_json
from querying.dataset.shards import read_images, read_truth
from tests.small import small_run
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.predictor import Predictor, load_network
from training.network.checkpoint import load_model, save_model
from training.network.decoder import upsample_shift_matrix
from training.network.deeplab import build_model, normalise
from training.network.difficulty_branch import DifficultyBranch
from training.settings.training import ModelSettings


@pytest.fixture(scope="module")
def photos(toy_data, tmp_path_factory):
    """The test split as PNG files in two folders."""
    root = tmp_path_factory.mktemp("photos")
    for shard in toy_data.shards("test"):
        for image_id, image_HWC in read_images(toy_data.root, shard):
            folder = root / ("even" if int(image_id[-1]) % 2 == 0 else "odd")
            folder.mkdir(exist_ok=True)
            Image.fromarray(image_HWC).save(folder / f"{image_id}.png")
    return root


@pytest.fixture(scope="module")
def lively(finished, tmp_path_factory):
    """The run with class heads that, unlike those of two steps of training, tell pixels apart."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("lively") / "run")
    for checkpoint in run.glob("cycle-*/checkpoint"):
        state, meta = load_model(checkpoint)
        weight = state["class_head.out.weight"]
        state["class_head.out.weight"] = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        save_model(checkpoint, state, meta)
    return run


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    upsample_shift_matrix.cache_clear()  # as in a process that has predicted nothing yet
    return file, export_onnx(find_checkpoint(finished, None), file)


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def test_predicted_masks_give_the_confusion_matrix_of_the_evaluation(lively, photos, toy_data, tmp_path, capsys):
    predict_command(lively, photos, tmp_path, None)
    counts = np.zeros((6, 6), int)
    for shard in toy_data.shards("test"):
        for image_id, truth_HW in read_truth(toy_data.root, shard):
            with Image.open(tmp_path / f"{image_id}.png") as mask:
                assert mask.mode == "P"
                assert mask.getpalette()[: 3 * 6] == [part for colour in toy_data.palette for part in colour]
            known = truth_HW != 255
            np.add.at(counts, (truth_HW[known], pixels(tmp_path / f"{image_id}.png")[known]), 1)
            assert pixels(tmp_path / f"{image_id}_overlay.png").shape == (48, 64, 3)
    evaluator = ShardEvaluator(lambda: Predictor(lively / "cycle-002/checkpoint", "cpu"), 6, 4, 1)
    shards = toy_data.shards("test")
    expected = sum(np.array(evaluator.evaluate_shard(EvaluationTask(toy_data.root, shard))) for shard in shards)
    assert (expected.sum(0) > 0).sum() > 1, "predictions differ, or nothing is tested"
    np.testing.assert_array_equal(counts, expected)
    shown = capsys.readouterr().out
    assert "6 masks" in shown
    assert all(name in shown for name in toy_data.classes)


def test_an_image_of_another_size_is_seen_at_the_training_size_and_gets_a_mask_of_its_own(lively, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (13, 21, 3), np.uint8)
    image = Image.fromarray(noise).resize((150, 91))
    image.save(tmp_path / "big.png")
    predict_command(lively, tmp_path / "big.png", tmp_path / "out", 0)
    seen = torch.from_numpy(np.array(image.resize((64, 48), Image.Resampling.BILINEAR))).permute(2, 0, 1)[None]
    logits = Predictor(lively / "cycle-000/checkpoint", "cpu")(seen)
    expected = F.interpolate(logits, (91, 150), mode="bilinear", align_corners=False).argmax(1)[0]
    assert len(expected.unique()) > 1
    np.testing.assert_array_equal(pixels(tmp_path / "out/big.png"), expected.numpy())
    assert pixels(tmp_path / "out/big_overlay.png").shape == (91, 150, 3)


def test_the_model_of_the_cycle_that_is_asked_for_is_used(finished, photos, tmp_path, capsys):
    assert find_checkpoint(finished, None) == finished / "cycle-002/checkpoint"
    assert find_checkpoint(finished, 1) == finished / "cycle-001/checkpoint"
    with pytest.raises(UserError, match=r"no model of cycle 7; there are 0, 1, 2"):
        predict_command(finished, photos, tmp_path / "out", 7)
    with pytest.raises(UserError, match="not a run folder"):
        predict_command(tmp_path, photos, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_images_that_can_not_be_predicted_are_named_and_nothing_is_written(finished, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"images: no image in this folder \(.png, .bmp"):
        predict_command(finished, folder, out, None)
    with pytest.raises(UserError, match="gone: no such file"):
        predict_command(finished, tmp_path / "gone", out, None)
    for name in ("one.png", "a/one.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    with pytest.raises(UserError, match=r"one.png and .*one.jpg would both be written to one.png"):
        predict_command(finished, folder, out, None)
    (folder / "a/one.jpg").rename(folder / "a/one_overlay.jpg")
    with pytest.raises(UserError, match=r"would both be written to one_overlay.png"):
        predict_command(finished, folder, out, None)
    (folder / "a/one_overlay.jpg").unlink()
    assert not out.exists()
    (folder / "one.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1 of 1 images were left out: .*one.png: "):
        predict_command(finished, folder, out, None)
    (folder / "one.png").rename(folder / "._one.png")
    with pytest.raises(UserError, match=r"no image in this folder .*1 file \(hidden, or made by the system\): .*_one"):
        predict_command(finished, folder, out, None)


def test_junk_beside_images_is_left_out_and_a_damaged_one_costs_no_other(finished, photos, tmp_path, capsys):
    """As a zip from macOS, a linked folder and a broken download leave it."""
    folder, out = tmp_path / "images", tmp_path / "out"
    for name in ("even", "__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "linked").symlink_to(photos / "odd")
    image = Image.new("RGB", (64, 48), (9, 99, 200))
    for name in ("a.png", "even/b.JFIF", "even/c.bmp", "d.png", "z.png", "__MACOSX/x.png", ".ipynb_checkpoints/y.png"):
        image.save(folder / name, {".jfif": "jpeg"}.get((folder / name).suffix.lower()))
    for name in ("._a.png", "._z.png", "even/._b.jfif", "notes.txt", "photo.heic"):
        (folder / name).write_bytes(b"Mac OS X")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:-40])
    (folder / "e.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"2 of 9 images were left out: .*d.png: .* \(and 1 more, named above\)"):
        predict_command(finished, folder, out, None)
    stems = {"a", "b", "c", "z", "test_00001", "test_00003", "test_00005"}
    assert {path.name for path in out.iterdir()} == {f"{s}{kind}.png" for s in stems for kind in ("", "_overlay")}
    shown = capsys.readouterr().out
    assert re.search(r"left out: 5 files \(hidden, or made by the system\): ", shown)
    assert re.search(r"left out: 1 file \(an image in a format that is not read\): \S*photo.heic", shown)
    assert re.search(r"left out: \S*e.png: ", shown)
    assert "7 masks" in shown


def test_names_as_long_as_a_file_system_takes_are_written(finished, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name in ("n" * 245 + ".png", "n" * 244 + "m.png", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 125 + ".jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / name)
    predict_command(finished, tmp_path / "images", tmp_path / "out", None)
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(names) == 6
    assert "n" * 245 + ".png" in names
    assert sum(name.endswith("_overlay.png") for name in names) == 3


def test_images_of_16_bits_are_read_as_ingest_reads_them(finished, tmp_path, capsys):
    deep = (np.arange(48 * 64).reshape(48, 64) % 1024).astype(np.uint16)  # 10 bits
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"1 of 1 images were left out: .*deep.png: "):
        predict_command(finished, tmp_path / "deep.png", tmp_path / "out", None)
    predict_command(finished, tmp_path / "deep.png", tmp_path / "out", None, bits=10)
    assert pixels(tmp_path / "out/deep.png").shape == (48, 64)


def test_a_legend_and_a_map_of_confidence_on_request(lively, photos, tmp_path, capsys):
    predict_command(lively, photos / "even", tmp_path, None, legend=True, confidence=True)
    label, confidence = pixels(tmp_path / "test_00000.png"), pixels(tmp_path / "test_00000_confidence.png")
    overlay = pixels(tmp_path / "test_00000_overlay.png")
    seen = torch.from_numpy(pixels(photos / "even/test_00000.png")).permute(2, 0, 1)[None]
    logits = F.interpolate(Predictor(lively / "cycle-002/checkpoint", "cpu")(seen), (48, 64), mode="bilinear")
    expected = 255 * logits.softmax(1).gather(1, torch.from_numpy(label)[None, None].long())[0, 0].numpy()
    assert np.abs(confidence - expected).max() <= 0.5 + 1e-3
    assert overlay.shape[0] > 48 + 10, "a strip below the picture"
    strip = overlay[48:].reshape(-1, 3).tolist()
    palette = read_json(lively / "cycle-002/checkpoint/meta.json")["palette"]
    assert all((colour in strip) == bool((label == place).any()) for place, colour in enumerate(palette))
    predict_command(lively, photos / "even", tmp_path, None)
    assert f"{tmp_path}: 6 files of before are replaced" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["images", "images/masks", "images/../images"])
def test_a_prediction_never_lands_among_its_images(finished, tmp_path, out):
    (tmp_path / "images").mkdir()
    source = tmp_path / "images/one.png"
    Image.new("RGB", (8, 8)).save(source)
    before = source.read_bytes()
    with pytest.raises(UserError, match="lies in the folder of the images"):
        predict_command(finished, tmp_path / "images", tmp_path / out, None)
    with pytest.raises(UserError, match=r"would overwrite .*one.png"):
        predict_command(finished, source, tmp_path / "images", None)
    assert source.read_bytes() == before


def test_a_network_that_says_nothing_is_an_error_that_names_the_image(finished, photos, tmp_path):
    broken = shutil.copytree(finished, tmp_path / "run")
    state, meta = load_model(broken / "cycle-002/checkpoint")
    state["class_head.out.bias"][0] = float("nan")
    save_model(broken / "cycle-002/checkpoint", state, meta)
    with pytest.raises(FloatingPointError, match=r"test_00000.png: the network's output is not finite"):
        predict_command(broken, photos / "even", tmp_path / "out", None)


def test_a_damaged_checkpoint_is_named(finished, photos, tmp_path):
    broken = shutil.copytree(finished, tmp_path / "run")
    (broken / "cycle-002/checkpoint/meta.json").write_text("{")
    with pytest.raises(DamagedError, match=r"meta.json: not what was written"):
        predict_command(broken, photos, tmp_path / "out", None)


def test_the_exported_model_gives_the_logits_of_the_run_for_any_batch(finished, exported, toy_data):
    """Reference: the fused network that evaluation uses, its logits brought to the size of the image."""
    file, agreement = exported
    assert agreement.relative < 1e-5
    assert agreement.clear_same == agreement.clear > 0
    image_NHWC = np.stack([image for _, image in read_images(toy_data.root, toy_data.shards("test")[0])])
    image_NCHW = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2)
    logits = Predictor(find_checkpoint(finished, None), "cpu")(image_NCHW, 1.0)
    expected = F.interpolate(logits, (48, 64), mode="bilinear", align_corners=False).numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3, 5):
        (found,) = session.run(None, {"image": normalise(image_NCHW[:count]).contiguous().numpy()})
        assert found.shape == (count, 6, 48, 64)
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@pytest.mark.parametrize("size", [(96, 128), (33, 50), (32, 130)])
def test_the_exported_model_takes_images_of_any_size(finished, exported, size):
    image_NCHW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, *size), np.uint8))
    logits = Predictor(find_checkpoint(finished, None), "cpu")(image_NCHW, 1.0)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).numpy()
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": normalise(image_NCHW).contiguous().numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_logits_are_compared_by_their_own_spread_and_by_their_classes(scale):
    expected = np.random.default_rng(0).normal(size=(2, 5, 8, 9)).astype(np.float32) * np.float32(scale)
    rounded = expected * np.float32(1 + 3e-7)
    assert compare_logits(expected, rounded).is_rounding
    assert compare_logits(expected, expected) == Agreement(0.0, 144, 144, 142, 142)
    wrong = compare_logits(expected, np.roll(expected, 1, axis=1))
    assert not wrong.is_rounding
    assert wrong.same < 20
    assert not compare_logits(expected, expected + np.float32(0.01 * scale)).is_rounding
    assert not compare_logits(expected, expected * np.float32(np.nan)).is_rounding


def test_a_few_large_logits_do_not_hide_that_all_others_are_wrong():
    expected = np.random.default_rng(0).normal(size=(1, 5, 20, 20)).astype(np.float32)
    expected[0, :, 0, 0] = [1e6, 0, 0, 0, 0]
    found = np.roll(expected, 1, axis=1)
    found[0, :, 0, 0] = expected[0, :, 0, 0]
    agreement = compare_logits(expected, found)
    assert agreement.relative < 1e-4
    assert not agreement.is_rounding
    assert (agreement.clear, agreement.clear_same) == (1, 1)


@pytest.mark.slow  # another export
def test_a_model_of_large_logits_is_kept(finished, exported, tmp_path, monkeypatch):
    """Its logits differ by rounding of some 1e-3, which an absolute bound took for a fault."""
    state, meta = load_model(find_checkpoint(finished, None))
    for name in ("class_head.out.weight", "class_head.out.bias"):
        state[name] = state[name] * 1e4
    save_model(tmp_path, state, meta)
    agreement = export_onnx(tmp_path, tmp_path / "large.onnx")
    assert agreement.relative < 1e-5
    assert "of the logits' spread, the same class in 100 % of" in str(agreement)


def test_the_exported_decoder_is_the_split_one_also_where_its_matrices_were_not_yet_made(finished, exported):
    file, agreement = exported
    assert agreement.is_rounding
    state, _ = load_model(find_checkpoint(finished, None))
    whole = tuple(state["class_head.conv.weight"].shape)
    graph = onnx.load(file).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    kernels = [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert len(kernels) > 50
    assert whole not in kernels


@pytest.mark.slow  # an export takes a quarter of a minute
def test_a_model_without_decoder_is_exported_too_and_a_difficulty_branch_is_no_part_of_it(finished, tmp_path):
    _, meta = load_model(find_checkpoint(finished, None))
    meta["model"]["decoder"] = "none"
    torch.manual_seed(0)
    model = build_model(ModelSettings.model_validate(meta["model"]), 6, embedding=False)
    model.difficulty = DifficultyBranch(6)
    save_model(tmp_path, model.state_dict(), meta)
    assert Predictor(tmp_path, "cpu").difficulty is not None
    assert export_onnx(tmp_path, tmp_path / "model.onnx").is_rounding
    assert not [w.name for w in onnx.load(tmp_path / "model.onnx").graph.initializer if "difficulty" in w.name]


def test_the_exported_file_says_what_its_input_and_output_mean(exported, toy_data):
    file, _ = exported
    assert list(file.parent.iterdir()) == [file], "one file, no external data, nothing temporary"
    model = onnx.load(file)
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["classes"] == list(toy_data.classes)
    assert facts["palette"] == [list(colour) for colour in toy_data.palette]
    pixel = np.array([[[[12]], [[200]], [[77]]]], np.uint8)
    by_hand = (pixel[0, :, 0, 0] / 255 - facts["mean"]) / facts["std"]
    np.testing.assert_allclose(normalise(torch.from_numpy(pixel)).flatten(), by_hand, rtol=1e-5)
    (image,), (logits,) = model.graph.input, model.graph.output
    shapes = [[d.dim_value or "any" for d in one.type.tensor_type.shape.dim] for one in (image, logits)]
    assert (image.name, logits.name) == ("image", "logits")
    assert shapes == [["any", 3, "any", "any"], ["any", 6, "any", "any"]]
    assert facts["trained_on"] == [48, 64]


def test_a_model_that_onnx_runtime_computes_otherwise_is_not_published(finished, exported, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"the last good one")
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: shutil.copy(exported[0], args[2]))
    with pytest.raises(
        InfrastructureError, match=r"model.onnx: not written: .* of the logits' spread, the same class in"
    ):
        export_onnx(find_checkpoint(finished, 0), file)  # the stand-in exports the model of cycle 2
    assert file.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [file]


def test_the_export_says_what_came_out(finished, exported, tmp_path, monkeypatch, capsys):
    agreement = Agreement(3e-6, 1000, 999, 990, 990)
    monkeypatch.setattr(predict, "export_onnx", lambda checkpoint, file: shutil.copy(exported[0], file) and agreement)
    export_command(finished, tmp_path / "m.onnx", None)
    what, against = capsys.readouterr().out.splitlines()
    assert "m.onnx" in what
    assert "opset" in what
    assert against == (
        "against PyTorch: largest difference 3.0e-06 of the logits' spread, the same class in 99.9 % of 1,000 pixels;"
        " of the 990 with a margin above rounding 100 %"
    )


def test_a_folder_is_not_a_file_to_export_to(finished, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        export_command(finished, tmp_path, None)


def test_a_file_is_not_a_folder_to_write_to(finished, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        export_command(finished, tmp_path / "file/x.onnx", None)
    with pytest.raises(UserError, match="file is not a folder"):
        predict_command(finished, photos, tmp_path / "file/x", None)


@pytest.mark.parametrize("way", ["--out", "to export", pytest.param("ONNX", marks=pytest.mark.slow)])
def test_a_network_whose_corners_are_aligned_is_used_as_it_was_trained(toy_data, tmp_path_factory, way):
    """Reference: its logits brought to full size with the corners on each other, which differ from the other way's."""
    root = tmp_path_factory.mktemp("aligned")
    small_run(toy_data.root, root / "run", "cycles=0", "train.epochs=1", "model.align_corners=true")
    checkpoint = root / "run/cycle-000/checkpoint"
    image_NHWC = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    image_NCHW = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2)
    logits = Predictor(checkpoint, "cpu")(image_NCHW, 1.0)
    expected, other = (
        F.interpolate(logits, (48, 64), mode="bilinear", align_corners=aligned).numpy() for aligned in (True, False)
    )
    spread = np.ptp(expected)
    assert np.abs(expected - other).max() > 1e-2 * spread, "or nothing is tested"
    if way == "--out":
        Image.fromarray(image_NHWC[0]).save(root / "a.png")
        label_HW, _ = segment(Predictor(checkpoint, "cpu"), image_NHWC[0], (48, 64), root / "a.png")
        np.testing.assert_array_equal(label_HW, expected[0].argmax(0))
        return
    if way == "to export":
        with torch.inference_mode():
            found = FullResolution(load_network(checkpoint)).eval()(normalise(image_NCHW)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4 * spread)
        return
    agreement = export_onnx(checkpoint, root / "model.onnx")
    assert agreement.relative < 1e-5
    session = onnxruntime.InferenceSession(root / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": normalise(image_NCHW).contiguous().numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4 * spread)


def test_a_photograph_is_predicted_upright_and_how_that_fits_the_training_is_said(lively, tmp_path, capsys):
    from tests.benchmarks.datasets.test_images import exif

    noise_HWC = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for name, turned in (("upright", 1), ("turned", 3)):
        Image.fromarray(np.rot90(noise_HWC, 2 * (turned == 3))).save(
            tmp_path / f"{name}.png", exif=b"Exif\0\0" + exif(turned)
        )
    predict_command(lively, tmp_path, tmp_path.with_name("out"), None)
    out = tmp_path.with_name("out")
    np.testing.assert_array_equal(pixels(out / "turned.png"), pixels(out / "upright.png"))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"turned upright as EXIF says, and so are their masks: 1 image: {tmp_path}/turned.png; a model" in shown
    assert "ingested with --exif ignore has seen such images as they are stored" in shown
