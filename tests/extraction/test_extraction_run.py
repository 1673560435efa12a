"""Whole extractions: results, formats, failures, settings."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from damaged_images import bomb, corrupt_chunk, empty, sixteen_bits, truncated, web_page
from extraction_outputs import (
    IMAGES,
    PROCESSOR,
    SHORT_SIDE,
    failures_in,
    maps_in,
    pooled,
    vectors_in,
    write_many,
)
from live_filters import LiveFilters, filter_bytes
from networks import relative_difference, tiny
from photographs import photograph
from safetensors.numpy import load
from torch.nn import functional

from bit_backbone import BitBackbone
from bit_backbone.cli import main
from bit_backbone.extraction import (
    ExtractionError,
    LocalEngine,
    OutputSettings,
    Summary,
    extract,
    find_images,
)
from bit_backbone.extraction.decoding import Decoder
from bit_backbone.extraction.features import FeatureExtractor
from bit_backbone.extraction.pooling import POOLINGS
from bit_backbone.extraction.run import native_size
from bit_backbone.network.std_conv import StdConv2d

KEYS = {path.replace(".", "%2E"): path for path in IMAGES.values()}


def alone(backbone, path, processor=PROCESSOR):
    """The features of one image, by the backbone and the processor themselves."""
    with torch.no_grad():
        outputs = backbone(processor(path, return_tensors="pt")["pixel_values"])
    return {name: output[0] for name, output in outputs.items()}


def assert_equal_features(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, array in found.items():
        assert relative_difference(torch.tensor(np.asarray(array)), expected[name]) < tolerance


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("shard_size", [4, 100])
def test_maps_equal_those_of_each_image_alone(batch_size, shard_size, photos, tmp_path, backbone):
    output = OutputSettings(shard_size=shard_size)
    summary = extract(
        photos, tmp_path, backbone, processor=PROCESSOR, output=output, batch_size=batch_size
    )
    assert summary == Summary(written=len(IMAGES), failed=0)
    found = maps_in(tmp_path)
    assert set(found) == set(KEYS)
    for key, maps in found.items():
        expected = alone(backbone, photos / KEYS[key])
        assert_equal_features(maps, expected)
        assert min(maps["stage1"].shape[1:]) == SHORT_SIDE // 4


def test_a_padded_batch_would_not_be_equal(photos, backbone):
    # What grouping by exact size is for: the test above must be able to fail.
    pixels = PROCESSOR(photos / "a/one.jpg", return_tensors="pt")["pixel_values"]
    padded = functional.pad(pixels, (0, 16))
    with torch.no_grad():
        maps = backbone(pixels)["stage3"], backbone(padded)["stage3"]
    width = maps[0].shape[-1] - 1
    assert relative_difference(maps[1][..., :width], maps[0][..., :width]) > 1e-2


def test_webdataset_pyarrow_and_numpy_read_the_output(photos, tmp_path, backbone):
    output = OutputSettings(shard_size=4, dtype="fp16")
    extract(photos, tmp_path, backbone, processor=PROCESSOR, output=output)
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    data = webdataset.WebDataset(shards, shardshuffle=False).decode()
    samples = {sample["__key__"]: sample for sample in data}
    index = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert {row["key"] for row in index} == set(samples) == set(KEYS)
    for row in index:
        sample = samples[row["key"]]
        assert sample["__url__"] == str(tmp_path / row["shard"])
        assert row["path"] == str(photos / KEYS[row["key"]])
        for stage in ("stage1", "stage3"):
            assert sample[f"{stage}.npy"].dtype == np.float16
            assert list(sample[f"{stage}.npy"].shape) == row[f"{stage}_shape"]
    tall = next(row for row in index if row["key"] == "b/two%2Ev2%2Epng")
    assert [tall[n] for n in ("height", "width", "input_height", "input_width")] == [96, 64, 72, 48]


ALONE = """
import json, sys
for name in ("bit_backbone", "torchvision", "transformers"):
    sys.modules[name] = None  # importing it raises ImportError
from pathlib import Path
import numpy, pyarrow.parquet, webdataset
maps, vectors = map(Path, sys.argv[1:])
sums = {}
shards = sorted(map(str, maps.glob("*.tar")))
for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
    for stage in ("stage1", "stage3"):
        sums[sample["__key__"], stage] = float(numpy.sum(sample[f"{stage}.npy"], dtype=float))
keys = pyarrow.parquet.read_table(maps / "index.parquet").column("key").to_pylist()
table = pyarrow.parquet.read_table(vectors / "vectors")
column = table.column("stage3").combine_chunks()
pooled = column.flatten().to_numpy().reshape(len(column), -1).sum(1, dtype=float)
print(json.dumps([[*place, total] for place, total in sums.items()]))
print(json.dumps([keys, dict(zip(table.column("key").to_pylist(), pooled.tolist()))]))
"""


def test_the_output_is_read_without_this_package(photos, tmp_path, backbone):
    for name, output in {"maps": OutputSettings(shard_size=4), "vectors": pooled()}.items():
        extract(photos, tmp_path / name, backbone, processor=PROCESSOR, output=output)
    folders = [str(tmp_path / name) for name in ("maps", "vectors")]
    command = [sys.executable, "-c", ALONE, *folders]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows, (keys, vectors) = map(json.loads, told.splitlines())
    assert sorted(keys) == sorted(vectors) == sorted(KEYS)
    assert len(rows) == 2 * len(KEYS)
    expected = {key: alone(backbone, photos / path) for key, path in KEYS.items()}
    for key, stage, total in rows:
        assert total == pytest.approx(expected[key][stage].double().sum().item(), rel=1e-4, abs=0.1)
    for key, total in vectors.items():
        mean = expected[key]["stage3"].double().mean((1, 2)).sum().item()
        assert total == pytest.approx(mean, rel=1e-4, abs=1e-2)


def test_safetensors_hold_the_same_maps(photos, tmp_path, backbone):
    for name in ("npy", "safetensors"):
        output = OutputSettings(format=name)
        extract(photos, tmp_path / name, backbone, processor=PROCESSOR, output=output)
    expected = maps_in(tmp_path / "npy")
    shards = str(tmp_path / "safetensors" / "shard-000000.tar")
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        maps = load(sample["safetensors"])
        for stage, array in expected.pop(sample["__key__"]).items():
            np.testing.assert_array_equal(maps[stage], array)
    assert not expected


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("pool", ["avg", "max", "gem"])
def test_vectors_are_the_pooled_maps(pool, dtype, photos, tmp_path, backbone):
    output = OutputSettings(pool=pool, dtype=dtype, shard_size=4)
    extract(photos, tmp_path, backbone, processor=PROCESSOR, output=output)
    found = vectors_in(tmp_path)
    assert set(found) == set(KEYS)
    for key, vectors in found.items():
        maps = alone(backbone, photos / KEYS[key])
        expected = {name: by_hand(pool, feature) for name, feature in maps.items()}
        assert_equal_features(vectors, expected, 1e-5 if dtype == "fp32" else 1e-3)
    table = pq.read_table(tmp_path / "vectors")
    stage = table.column("stage3").combine_chunks()
    assert (
        stage.flatten().to_numpy().reshape(len(IMAGES), 128).dtype
        == {
            "fp32": np.float32,
            "fp16": np.float16,
        }[dtype]
    )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_features_computed_in_fewer_bits_are_near(
    precision, photos, tmp_path, backbone, monkeypatch
):
    from bit_backbone.inference import quantization

    monkeypatch.setattr(quantization, "has_int8", lambda: True)
    output = pooled(precision=precision)
    extract(photos, tmp_path, backbone, processor=PROCESSOR, output=output)
    for key, vectors in vectors_in(tmp_path).items():
        maps = alone(backbone, photos / KEYS[key])
        expected = {name: by_hand("avg", feature) for name, feature in maps.items()}
        assert_equal_features(vectors, expected, 0.1)
        with pytest.raises(AssertionError):
            assert_equal_features(vectors, expected, 1e-5)
    assert next(backbone.parameters()).dtype == torch.float32


def test_int8_is_recorded_as_what_the_processor_computes_in(
    photos, tmp_path, backbone, monkeypatch
):
    from bit_backbone.inference import quantization

    monkeypatch.setattr(quantization, "has_int8", lambda: False)
    monkeypatch.setattr(quantization, "fast_dtype", lambda _: torch.float32)
    with pytest.warns(UserWarning, match=r"computes in torch.float32 instead"):
        extract(photos, tmp_path, backbone, processor=PROCESSOR, output=pooled(precision="int8"))
    extract(photos, tmp_path, backbone, processor=PROCESSOR, output=pooled())  # the same settings
    with pytest.raises(ValueError, match="precision was 'fp32' and is 'bf16'"):
        extract(photos, tmp_path, backbone, processor=PROCESSOR, output=pooled(precision="bf16"))


def test_int8_that_cannot_be_leaves_no_destination(photos, tmp_path, backbone):
    output = pooled(precision="int8")
    with pytest.raises(ValueError, match="not compiled: leave compile out"):
        extract(photos, tmp_path / "new", backbone, output=output, compile=True)
    assert not (tmp_path / "new").exists()


def by_hand(pool, feature):
    flat = feature.double().flatten(1).numpy()
    values = {
        "avg": lambda: flat.mean(1),
        "max": lambda: flat.max(1),
        "gem": lambda: np.cbrt((np.maximum(flat, 1e-6) ** 3).mean(1)),
    }[pool]()
    return torch.from_numpy(values).float()


def test_the_generalized_mean_lies_between_the_others():
    feature = torch.rand(2, 5, 4, 4)
    average, largest, generalized = (POOLINGS[name](feature) for name in ("avg", "max", "gem"))
    assert (average < generalized).all()
    assert (generalized < largest).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_written_or_listed(workers, tmp_path, backbone):
    source = write_many(tmp_path / "src", 6)
    kinds = {
        "bomb.png": (bomb, "exceeds limit"),
        "chunk.png": (corrupt_chunk, "broken PNG file"),
        "cut.png": (truncated, "truncated"),
        "deep.png": (sixteen_bits, None),
        "empty.jpg": (empty, "the file is empty"),
        "page.jpg": (web_page, "cannot identify image file"),
        "pipe.png": (os.mkfifo, "this is no regular file"),
        "thin.png": (lambda path: photograph("china@1x1").save(path), None),
        "really_png.jpg": (lambda path: photograph("china@30x30").save(path, "PNG"), None),
        "cmyk.jpg": (lambda path: photograph("cmyk").save(path), None),
    }
    for name, (write, _) in kinds.items():
        write(source / name)
    (source / "dangling.png").symlink_to(source / "nowhere.png")
    summary = extract(
        source, tmp_path / "out", backbone, processor=PROCESSOR,
        output=OutputSettings(shard_size=5), engine=LocalEngine(workers),
    )  # fmt: skip
    reasons = {failure["path"]: failure["reason"] for failure in failures_in(tmp_path / "out")}
    expected = {name: reason for name, (_, reason) in kinds.items() if reason}
    expected["dangling.png"] = "No such file"
    assert set(reasons) == {str(source / name) for name in expected}
    for name, reason in expected.items():
        assert reason in reasons[str(source / name)]
    assert summary == Summary(written=10, failed=7)
    good = {
        "deep%2Epng",
        "thin%2Epng",
        "really_png%2Ejpg",
        "cmyk%2Ejpg",
        *(f"{i:05d}%2Epng" for i in range(6)),
    }
    assert set(maps_in(tmp_path / "out")) == good


def test_an_image_too_small_for_the_network_fails_alone(tmp_path):
    source = write_many(tmp_path / "src", 2)
    photograph("china@5x5").save(source / "tiny.png")
    backbone = tiny(out_indices=[1], global_padding="valid").eval()
    summary = extract(source, tmp_path / "out", backbone, processor=native_size())
    assert summary == Summary(written=2, failed=1)
    (failure,) = failures_in(tmp_path / "out")
    assert "pixels high and wide" in failure["reason"]


@pytest.mark.parametrize("output", [{"dtype": "fp16"}, {"precision": "fp16"}])
def test_values_that_fp16_cannot_hold_are_failures_not_infinities(output, tmp_path, backbone):
    source = write_many(tmp_path / "src", 2)
    with torch.no_grad():
        backbone.stem.conv.weight.mul_(1e-3)
        backbone.stage3[0].downsample.conv.weight.mul_(1)
        backbone.stage3[0].conv3.register_forward_hook(lambda *args: args[-1] * 1e6)
    summary = extract(source, tmp_path / "out", backbone, output=OutputSettings(**output))
    assert summary == Summary(written=0, failed=2)
    assert failures_in(tmp_path / "out")[0]["reason"] == "stage3 has values that fp16 cannot hold"
    assert not list((tmp_path / "out").glob("*.tar"))
    assert pq.read_table(tmp_path / "out" / "index.parquet").num_rows == 0


def test_images_in_shards_have_the_same_features(photos, tmp_path, backbone):
    with webdataset.TarWriter(str(tmp_path / "in-0.tar")) as sink:
        for name in ("a/one.jpg", "b/one.jpg"):
            data = (photos / name).read_bytes()
            sink.write({"__key__": name.removesuffix(".jpg"), "jpg": data, "txt": "a caption"})
    extract(tmp_path / "in-0.tar", tmp_path / "out", backbone, processor=PROCESSOR)
    found = maps_in(tmp_path / "out")
    assert list(found) == ["a/one", "b/one"]
    for key, maps in found.items():
        assert_equal_features(maps, alone(backbone, photos / f"{key}.jpg"))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_byte(workers, photos, tmp_path, backbone):
    output = OutputSettings(shard_size=4)
    for count in (0, workers):
        out = tmp_path / str(count)
        extract(
            photos, out, backbone, processor=PROCESSOR, output=output, engine=LocalEngine(count)
        )
    shards = [(tmp_path / "0" / f"shard-{i:06d}.tar").read_bytes() for i in range(3)]
    others = [(tmp_path / str(workers) / f"shard-{i:06d}.tar").read_bytes() for i in range(3)]
    assert shards == others


def test_a_finished_extraction_is_left_as_it_is(photos, tmp_path, backbone):
    arguments = {"processor": PROCESSOR, "output": pooled(shard_size=3)}
    first = extract(photos, tmp_path, backbone, **arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("vectors/*")}
    assert extract(photos, tmp_path, backbone, **arguments) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("vectors/*")} == before


@pytest.mark.parametrize("relative", [False, True])
def test_a_command_with_its_output_in_its_source_is_repeated(
    relative, photos, tmp_path, capsys, backbone, monkeypatch
):
    shutil.copytree(photos, tmp_path / "photos")
    backbone.save_pretrained(tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    source = "photos" if relative else str(tmp_path / "photos")
    command = ["extract", source, "--output", f"{source}/maps", "--weights", "weights"]
    command += ["--short-side", str(SHORT_SIDE), "--device", "cpu", "--workers", "0"]
    command += ["--shard-size", "4", "--out-indices", "1", "3"]
    assert main(command) == 0
    first = capsys.readouterr()
    (tmp_path / "photos/maps/progress/000001.json").unlink()
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == first.out == f"{source}/maps: 10 of 10 images, 0 failed\n"
    assert first.err.startswith("10 images\n")
    assert again.err.startswith("10 images\n")


@pytest.mark.parametrize("output", [pooled(shard_size=3), OutputSettings(shard_size=3)])
def test_a_shard_that_was_taken_away_is_written_again(output, photos, tmp_path, backbone):
    arguments = {"processor": PROCESSOR, "output": output}
    first = extract(photos, tmp_path, backbone, **arguments)
    pattern = "vectors/*" if output.pool else "shard-*.tar"
    before = {path: path.read_bytes() for path in tmp_path.glob(pattern)}
    list(before)[1].unlink()
    assert extract(photos, tmp_path, backbone, **arguments) == first
    assert set(tmp_path.glob(pattern)) == set(before)


def other_weights(arguments):
    return arguments | {"backbone": tiny(out_indices=[1, 3])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"output": pooled(dtype="fp16")}, "dtype was 'fp32' and is 'fp16'"),
        (lambda a: a | {"output": pooled(precision="bf16")}, "precision was 'fp32' and is 'bf16'"),
        (lambda a: a | {"output": OutputSettings()}, "pool was 'avg' and is None"),
        (lambda a: a | {"processor": native_size()}, "processor.do_resize was True and is False"),
        (lambda a: a | {"source": a["source"] / "a"}, "images was 10 and is 2"),
        (
            lambda a: a | {"backbone": tiny(out_indices=[1])},
            r"out_indices was \[1, 3\] and is \[1\]\. Repeat",  # and not: other weights
        ),
        (other_weights, r"the weights are others\. Repeat"),
    ],
)
def test_other_settings_are_rejected_by_name(change, message, photos, tmp_path, backbone):
    arguments = {
        "source": photos, "destination": tmp_path, "backbone": backbone, "processor": PROCESSOR,
        "output": pooled(),
    }  # fmt: skip
    extract(**arguments)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"begun with other settings: .*{message}"):
        extract(**change(arguments))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "mean"}, "pool must be one of 'avg', 'max', 'gem', None, got 'mean'"),
        ({"dtype": "bf16"}, "dtype must be one of 'fp32', 'fp16', got 'bf16'"),
        (
            {"precision": "int4"},
            "precision must be one of 'fp32', 'fp16', 'bf16', 'int8', got 'int4'",
        ),
        ({"format": "pt"}, "format must be one of 'npy', 'safetensors', None, got 'pt'"),
        ({"pool": "avg", "format": "npy"}, "leave out either pool or format"),
        ({"shard_size": 0}, "at least one image, got shard_size 0"),
    ],
)
def test_wrong_output_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        OutputSettings(**settings)


def test_a_folder_with_other_files_is_rejected(photos, tmp_path, backbone):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"contains 'thesis.txt' and no extraction.json"):
        extract(photos, tmp_path, backbone)


def test_the_command(photos, tmp_path, capsys, backbone):
    backbone.save_pretrained(tmp_path / "weights")
    (tmp_path / "list.txt").write_text(f"{photos}/a/one.jpg\n{photos}/none.jpg\n")
    arguments = ["extract", str(tmp_path / "list.txt"), "--output", str(tmp_path / "out")]
    arguments += ["--weights", str(tmp_path / "weights"), "--out-indices", "1", "2", "3"]
    arguments += ["--short-side", str(SHORT_SIDE), "--device", "cpu", "--workers", "0"]
    assert main(arguments) == 3
    told = capsys.readouterr()
    assert told.out == f"{tmp_path}/out: 1 of 2 images, 1 failed (failures.jsonl)\n"
    assert "2 images" in told.err
    assert "images/s" in told.err
    (maps,) = maps_in(tmp_path / "out").values()
    loaded = BitBackbone.from_pretrained(tmp_path / "weights", out_indices=[1, 2, 3])
    assert_equal_features(maps, alone(loaded, photos / "a/one.jpg"))
    assert main([*arguments, "--dtype", "fp16"]) == 2
    assert "dtype was 'fp32' and is 'fp16'" in capsys.readouterr().err


def test_the_command_holds_the_weights_once(photos, tmp_path, monkeypatch):
    model = tiny(out_indices=[1, 3])
    model.save_pretrained(tmp_path / "weights")
    alive, once = LiveFilters(model), filter_bytes(model)
    seen, compute = [], FeatureExtractor._extract

    def watched(self, batch):
        results = compute(self, batch)
        seen.append(alive.bytes())
        return results

    monkeypatch.setattr(FeatureExtractor, "_extract", watched)
    arguments = ["extract", str(photos), "--output", str(tmp_path / "out"), "--workers", "0"]
    arguments += ["--weights", str(tmp_path / "weights"), "--out-indices", "1", "3"]
    arguments += ["--short-side", "48", "--device", "cpu", "--batch-size", "1"]
    assert main(arguments) == 0
    assert len(seen) == len(IMAGES)
    assert set(seen) == {once}


@pytest.mark.parametrize("in_place", [False, True])
def test_the_network_of_a_caller_is_changed_only_where_asked(in_place, photos, tmp_path, backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    engine = LocalEngine(in_place=in_place)
    extract(photos, tmp_path, backbone, processor=PROCESSOR, engine=engine)
    convolutions = {type(m) for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)}
    assert (convolutions == {StdConv2d}) is not in_place
    same = [tensor.equal(before[name]) for name, tensor in backbone.state_dict().items()]
    assert all(same) is not in_place


def test_a_network_that_does_not_take_rgb_is_rejected(photos, tmp_path):
    with pytest.raises(ValueError, match="must take 3 channels, got num_channels=1"):
        extract(photos, tmp_path, tiny(out_indices=[1], num_channels=1))


def test_padding_is_rejected(photos, tmp_path, backbone):
    with pytest.raises(ValueError, match=r"without padding, got a processor with do_pad=True"):
        extract(photos, tmp_path, backbone, processor=PROCESSOR.replace(do_pad=True))


def test_what_a_processor_returns_by_default_does_not_matter(photos, tmp_path, backbone):
    other = PROCESSOR.replace(return_tensors="np", data_format="channels_last")
    for folder, processor in (("plain", PROCESSOR), ("other", other)):
        extract(photos, tmp_path / folder, backbone, processor=processor)
    expected = maps_in(tmp_path / "plain")
    found = maps_in(tmp_path / "other")
    assert list(found) == list(expected)
    for key, maps in found.items():
        for name, array in maps.items():
            np.testing.assert_array_equal(array, expected[key][name])
    summary = Summary(written=len(expected), failed=0)  # nor does it keep a run from continuing
    assert extract(photos, tmp_path / "plain", backbone, processor=other) == summary


def lacking_memory(when):
    """A hook that asks the allocator for too much."""

    def hook(_, arguments):
        if when(arguments[0].shape):
            torch.empty(2**60)

    return hook


def test_a_batch_too_large_for_the_memory_is_done_image_by_image(
    photos, tmp_path, backbone, caplog
):
    expected = extract(photos, tmp_path / "whole", backbone, processor=PROCESSOR)
    backbone.register_forward_pre_hook(lacking_memory(lambda shape: shape[0] > 1))
    assert extract(photos, tmp_path / "parts", backbone, processor=PROCESSOR) == expected
    assert "4 x 48 x 72 pixels does not fit into memory: " in caplog.text
    maps = maps_in(tmp_path / "parts")
    for key, others in maps_in(tmp_path / "whole").items():
        assert_equal_features(
            maps[key], {name: torch.tensor(array) for name, array in others.items()}
        )


def test_an_image_too_large_for_the_memory_is_a_failure(tmp_path, backbone):
    source = write_many(tmp_path / "src", 4, sizes=[(24, 24)])
    photograph("china@96x96").save(source / "00000large.png")
    backbone.register_forward_pre_hook(lacking_memory(lambda shape: shape[2] > 90))
    output = OutputSettings(shard_size=2)
    arguments = {"processor": native_size(), "output": output}
    assert extract(source, tmp_path / "out", backbone, **arguments) == Summary(written=4, failed=1)
    (failure,) = failures_in(tmp_path / "out")
    assert failure["key"] == "00000large%2Epng"
    reason = "a batch of 1 x 96 x 96 pixels does not fit into memory: .*can't allocate memory"
    assert re.match(reason, failure["reason"])


def test_an_image_as_large_as_one_that_fitted_is_not_to_blame(tmp_path, backbone):
    source = write_many(tmp_path / "src", 4, sizes=[(24, 24)])
    fitted = []
    backbone.register_forward_pre_hook(lacking_memory(lambda _: len(fitted) == 2))
    backbone.register_forward_hook(lambda *_: fitted.append(1))
    arguments = {"processor": native_size(), "batch_size": 1}
    arguments["output"] = OutputSettings(shard_size=1)
    with pytest.raises(ExtractionError, match=r"stopped at .*00002.png: .* Images as large have"):
        extract(source, tmp_path / "out", backbone, **arguments)
    assert len(maps_in(tmp_path / "out")) == 2
    fitted.append(1)  # there is memory again
    assert extract(source, tmp_path / "out", backbone, **arguments) == Summary(written=4, failed=0)


@pytest.mark.parametrize(
    ("first", "fatal"), [("small.png", False), ("large.png", True), (None, False)]
)
def test_an_image_that_cannot_be_decoded_for_lack_of_memory(first, fatal, tmp_path, monkeypatch):
    for side, name in ((20, "small.png"), (30, "middle.png"), (40, "large.png")):
        photograph(f"china@{side}x{side}").save(tmp_path / name)
    listing = find_images(tmp_path)
    refs = {os.path.basename(ref.path): ref for ref in listing}
    decoder = Decoder(native_size(), listing.root)
    if first is not None:
        assert decoder(refs[first]).reason is None
    with monkeypatch.context() as patch:
        patch.setattr("bit_backbone.extraction.decoding.decode", lambda *_: bytes(2**60))
        failed = decoder(refs["middle.png"])
    assert failed.reason.startswith("the decoded image does not fit into memory: ")
    assert failed.fatal is fatal
    assert decoder(refs["middle.png"]).reason is None


def test_two_at_once_are_rejected(photos, tmp_path, backbone):
    script = (
        "import fcntl, sys; lock = open(sys.argv[1], 'wb'); fcntl.lockf(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ExtractionError, match="another extraction is writing to"):
            extract(photos, tmp_path, backbone)
        other.stdin.close()


def test_settings_are_kept_as_json(photos, tmp_path, backbone):
    extract(find_images(photos), tmp_path, backbone, processor=PROCESSOR)
    settings = json.loads((tmp_path / "extraction.json").read_text())
    assert settings["images"] == len(IMAGES)
    assert settings["processor.size"] == {"shortest_edge": SHORT_SIDE}
