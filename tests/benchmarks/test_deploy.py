"""Predicting and exporting use the very model that was evaluated."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import deploy
from benchmarks.deploy import export_command, export_onnx, find_checkpoint, predict_command
from querying.errors import DamagedError, InfrastructureError, UserError
from querying.shards import read_images, read_truth
from training.checkpoint import load_model, save_model
from training.decoder import upsample_shift_matrix
from training.difficulty import DifficultyBranch
from training.evaluation import EvaluationTask, ShardEvaluator
from training.model import build_model, normalise
from training.predictor import Predictor
from training.settings import ModelSettings


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
    with pytest.raises(UserError, match=r"images: no .jpg or .jpeg or .png file"):
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
    with pytest.raises(UserError, match=r"one.png: neither a PNG nor a JPEG"):
        predict_command(finished, folder, out, None)


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
    file, difference = exported
    assert difference <= 1e-4
    image_NHWC = np.stack([image for _, image in read_images(toy_data.root, toy_data.shards("test")[0])])
    image_NCHW = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2)
    logits = Predictor(find_checkpoint(finished, None), "cpu")(image_NCHW, 1.0)
    expected = F.interpolate(logits, (48, 64), mode="bilinear", align_corners=False).numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3, 5):
        (found,) = session.run(None, {"image": normalise(image_NCHW[:count]).contiguous().numpy()})
        assert found.shape == (count, 6, 48, 64)
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


def test_the_exported_decoder_is_the_split_one_also_where_its_matrices_were_not_yet_made(finished, tmp_path):
    upsample_shift_matrix.cache_clear()
    checkpoint = find_checkpoint(finished, None)
    assert export_onnx(checkpoint, tmp_path / "model.onnx") <= 1e-4
    state, _ = load_model(checkpoint)
    whole = tuple(state["class_head.conv.weight"].shape)
    graph = onnx.load(tmp_path / "model.onnx").graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    kernels = [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert len(kernels) > 50
    assert whole not in kernels


def test_a_model_without_decoder_is_exported_too_and_a_difficulty_branch_is_no_part_of_it(finished, tmp_path):
    _, meta = load_model(find_checkpoint(finished, None))
    meta["model"]["decoder"] = "none"
    torch.manual_seed(0)
    model = build_model(ModelSettings.model_validate(meta["model"]), 6, embedding=False)
    model.difficulty = DifficultyBranch(6)
    save_model(tmp_path, model.state_dict(), meta)
    assert Predictor(tmp_path, "cpu").difficulty is not None
    assert export_onnx(tmp_path, tmp_path / "model.onnx") <= 1e-4
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
    assert shapes == [["any", 3, 48, 64], ["any", 6, 48, 64]]


def test_a_model_that_onnx_runtime_computes_otherwise_is_not_published(finished, exported, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"the last good one")
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: shutil.copy(exported[0], args[2]))
    with pytest.raises(InfrastructureError, match=r"model.onnx: ONNX Runtime's logits differ"):
        export_onnx(find_checkpoint(finished, 0), file)  # the stand-in exports the model of cycle 2
    assert file.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [file]


def test_the_export_says_in_one_line_what_came_out(finished, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "export_onnx", lambda checkpoint, file: shutil.copy(exported[0], file) and 3e-6)
    export_command(finished, tmp_path / "m.onnx", None)
    (line,) = capsys.readouterr().out.splitlines()
    assert "m.onnx" in line
    assert "3.0e-06" in line
    assert "opset" in line


def test_a_folder_is_not_a_file_to_export_to(finished, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        export_command(finished, tmp_path, None)


def test_a_file_is_not_a_folder_to_write_to(finished, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        export_command(finished, tmp_path / "file/x.onnx", None)
    with pytest.raises(UserError, match="file is not a folder"):
        predict_command(finished, photos, tmp_path / "file/x", None)
