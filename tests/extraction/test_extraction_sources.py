"""Which images a source has, in which order, and by which keys."""

import io
import os
import shutil
import tarfile
from urllib.parse import unquote

import pytest
from extraction_outputs import IMAGES, PROCESSOR
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from bit_backbone.extraction import find_images
from bit_backbone.extraction.decoding import Decoder
from bit_backbone.extraction.keys import free_key, key_of, path_of
from bit_backbone.extraction.listing import Shards

PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
    min_size=1,
    max_size=3,
).map("/".join)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.jpg", "a/b%2Ejpg"),
        ("a/b.png", "a/b%2Epng"),
        ("v1.0/b", "v1%2E0/b"),
        ("100%.jpg", "100%25%2Ejpg"),
        ("__made__/b.jpg", "%5F_made__/b%2Ejpg"),
        ("größe 1.jpg", "größe 1%2Ejpg"),
        ("line\nbreak.jpg", "line%0Abreak%2Ejpg"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf%E9%2Ejpg"),
    ],
)
def test_keys(path, key):
    assert key_of(path) == key
    assert path_of(key) == path


@given(PATHS)
def test_every_path_has_its_own_key_and_webdataset_reads_it_whole(path):
    key = key_of(path)
    assert path_of(key) == unquote(key) == path
    assert base_plus_ext(f"{key}.stage1.npy") == (key, "stage1.npy")


def test_a_taken_key_is_counted_up():
    assert free_key("a", set()) == "a"
    assert free_key("a", {"a", "a~2"}) == "a~3"


def paths(listing):
    return [ref.path for ref in listing]


def test_a_folder_is_searched_to_the_bottom_and_ordered_by_name(photos, tmp_path):
    (tmp_path / "linked").symlink_to(photos)
    (tmp_path / "linked again").symlink_to(photos)
    (tmp_path / "notes.txt").write_text("no image")
    listing = find_images(tmp_path)
    found = paths(listing)
    assert sorted(found) == sorted(str(tmp_path / "linked" / path) for path in IMAGES.values())
    assert found == paths(find_images(tmp_path))
    assert len(listing.ignored) == 1
    assert listing[0].key == "linked/z%2Ewebp"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*", ["a/one.jpg", "a/one.png"]),
        ("**/one.*", ["a/one.jpg", "a/one.png", "b/one.jpg"]),
        ("{a,b}/one.jpg", ["a/one.jpg", "b/one.jpg"]),
        ("?/one.png", ["a/one.png"]),
    ],
)
def test_a_pattern(pattern, expected, photos, monkeypatch):
    listing = find_images(photos / pattern)
    assert paths(listing) == [str(photos / name) for name in expected]
    monkeypatch.chdir(photos)
    assert [os.path.normpath(path) for path in paths(find_images(pattern))] == expected
    assert paths(find_images(pattern)) == paths(find_images(f"./{pattern}"))


@pytest.mark.parametrize("below", ["maps", "a/deeper/maps"])
@pytest.mark.parametrize("pattern", ["", "**", "**/*", "{*,*/*,*/*/*,*/*/*/*}"])
def test_what_an_extraction_writes_is_no_source(pattern, below, photos, tmp_path):
    source = tmp_path / "src"
    shutil.copytree(photos, source)
    (source / "notes.txt").touch()
    listing = find_images(source / pattern)
    (source / below / "vectors").mkdir(parents=True)
    for name in ("shard-000000.tar", "thumbnail.jpg", "vectors/0.jpg", "vectors/000000.parquet"):
        (source / below / name).touch()
    with pytest.raises(ValueError, match=r"images and 1 \.tar files"):
        find_images(source / pattern)
    (source / below / "extraction.json").touch()
    again = find_images(source / pattern)
    assert paths(again) == paths(listing)
    assert str(again.ignored) == str(listing.ignored)


def test_a_list_file_keeps_its_order_and_starts_at_its_own_folder(photos, tmp_path):
    (photos / "list.txt").write_text(f"z.webp\n\n./a/../a/one.jpg\n{photos}/b/one.jpg\n")
    listing = find_images(photos / "list.txt")
    expected = [str(photos / name) for name in ("z.webp", "a/one.jpg", "b/one.jpg")]
    assert paths(listing) == expected
    assert [ref.key for ref in listing][:2] == ["z%2Ewebp", "a/one%2Ejpg"]
    (photos / "list.txt").unlink()


def test_a_list_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n")
    assert [ref.key for ref in find_images(tmp_path / "list.txt")] == ["a%2Ejpg", "b%2Ejpg"]


def write_shard(path, *members):
    with tarfile.open(path, "w") as shard:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


def test_shards_keep_their_keys_and_count_up_repeated_ones(photos, tmp_path):
    jpeg = (photos / "a/one.jpg").read_bytes()
    write_shard(tmp_path / "t-0.tar", ("a/x.jpg", jpeg), ("a/x.json", b"{}"), ("y.jpg", jpeg))
    write_shard(tmp_path / "t-1.tar", ("y.jpg", jpeg), ("y.right.jpg", jpeg), ("y.cls", b"1"))
    listing = find_images(tmp_path / "t-{0..1}.tar")
    assert [ref.key for ref in listing] == ["a/x", "y", "y~2", "y~3"]
    assert len(listing.ignored) == 2
    assert listing[3].path == str(tmp_path / "t-1.tar" / "y.right.jpg")
    (tmp_path / "notes.txt").touch()
    for source, ignored in ((tmp_path, 3), (tmp_path / "*.tar", 2), (tmp_path / "*", 3)):
        assert find_images(source).fingerprint() == listing.fingerprint()
        assert len(find_images(source).ignored) == ignored
    for ref in listing:
        with open(ref.file, "rb") as file:
            file.seek(ref.offset)
            assert file.read(ref.size) == jpeg


@pytest.mark.parametrize(
    ("damage", "members"),
    [
        (lambda data: data[:1000], 1),  # inside the first image
        (lambda data: data[:1536], 1),  # between two
        (lambda data: data[:1700], 1),  # inside the second header
        (lambda data: data[:3072], 2),  # before the end mark
        (lambda data: data[:1536] + b"\xff" + data[1537:], 1),
        (lambda data: b"\x1f\x8b" + data[2:], 0),
        (lambda data: b"", 0),
    ],
)
def test_a_damaged_shard_is_an_image_that_fails(damage, members, photos, tmp_path):
    jpeg = (photos / "a/one.jpg").read_bytes()
    whole = write_shard(tmp_path / "0.tar", ("x.jpg", jpeg), ("y.jpg", jpeg))
    bad = tmp_path / "1.tar"
    bad.write_bytes(damage(whole.read_bytes()))
    listing = Shards([whole, bad])
    problems = [ref for ref in listing if ref.problem]
    assert [ref.path for ref in problems] == [str(bad)]
    assert len(listing) == 2 + members + 1
    assert "this shard is no uncompressed tar file, or damaged" in problems[0].problem


def no_images(folder):
    (folder / "readme.md").touch()
    return folder


def both_kinds(folder):
    (folder / "x.jpg").touch()
    write_shard(folder / "x.tar", ("x.jpg", b""))
    return folder


def twice(folder):
    (folder / "list.txt").write_text("a.jpg\nb.jpg\n./a.jpg\n")
    return folder / "list.txt"


def binary(folder):
    (folder / "list.bin").write_bytes(b"a\0b")
    return folder / "list.bin"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_images, "needs at least one image .* among 1 files"),
        (both_kinds, "holds 1 images and 1 .tar files; use a glob for one of them"),
        (lambda folder: both_kinds(folder) / "*", r"/\* holds 1 images and 1 .tar files"),
        (twice, r"'./a.jpg' is on lines 1 and 3"),
        (binary, "one path per line; line 1 is binary"),
        (lambda folder: folder / "gone", "there is no '.*gone'"),
        (lambda folder: folder / "*.jpg", "needs at least one image"),
        (lambda folder: folder / "t-{0..1}.tar", "there is no '.*t-0.tar'"),
    ],
)
def test_what_is_no_source(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_images(make(tmp_path))


def test_a_shard_that_shrinks_after_it_was_listed_is_an_image_that_fails(photos, tmp_path):
    jpeg = (photos / "a/one.jpg").read_bytes()
    listing = Shards([write_shard(tmp_path / "0.tar", ("x.jpg", jpeg))])
    (ref,) = listing
    os.truncate(ref.file, ref.offset + len(jpeg) - 10)
    read = Decoder(PROCESSOR, listing.root)(ref)
    assert read.reason == "the shard ends 10 bytes before the image does"
    assert not read.fatal
