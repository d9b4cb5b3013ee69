import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from benchmarks.datasets.files.images import check_image, look, map_ids, read_mask, read_rgb, resize_image, resize_mask
from querying.base.errors import UserError

IDS_HW = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
PALETTE = [(10, 0, 0), (0, 20, 0), (0, 0, 30), (40, 40, 0)]


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG made by hand; `extra` chunks (type + data) stand before the pixels."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = (header, *extra, b"IDAT" + zlib.compress(rows), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts))


def packed(ids_HW: np.ndarray, depth: int) -> bytes:
    bits = ("".join(f"{value:0{depth}b}" for value in row).ljust(16, "0") for row in ids_HW)
    count = -(-depth * ids_HW.shape[1] // 8)
    return b"".join(b"\0" + int(row, 2).to_bytes(2, "big")[:count] for row in bits)


def exif(orientation: int) -> bytes:
    return struct.pack(">2sHIHHHIHxxI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "grey2", "grey4", "palette2", "palette4", "RGB"])
def test_a_mask_in_any_accepted_encoding_gives_the_ids_that_were_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mask.png"
    if kind == "P":
        image = Image.fromarray(IDS_HW, "L").convert("P")
        image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0, 0, 0, 200])
        image.putdata(IDS_HW.ravel().tolist())
        image.save(path)
    elif kind in ("L", "I;16"):
        Image.fromarray(IDS_HW.astype(np.uint16 if kind == "I;16" else np.uint8)).save(path)
    elif kind == "RGB":
        Image.fromarray(np.array(PALETTE, np.uint8)[IDS_HW]).save(path)
    else:
        depth = int(kind[-1])
        colours = (b"PLTE" + bytes(range(12)),) if kind.startswith("palette") else ()
        path.write_bytes(png(3, 2, depth, 3 if colours else 0, packed(IDS_HW, depth), *colours))
    mask_HW = read_mask(path, PALETTE if kind == "RGB" else None)
    assert mask_HW.dtype == np.uint8
    np.testing.assert_array_equal(mask_HW, IDS_HW)


def test_a_one_bit_mask_gives_0_and_1(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(IDS_HW > 1).save(path)
    np.testing.assert_array_equal(read_mask(path), IDS_HW > 1)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("RGB", "colour mask"), ("RGBA", "alpha"), ("LA", "alpha"), ("jpeg", "must be PNG"), ("high", "label 300")],
)
def test_a_mask_whose_ids_are_not_certain_is_refused_by_name(tmp_path: Path, mode: str, message: str) -> None:
    path = tmp_path / "strange mask.png"
    if mode == "high":
        Image.fromarray(np.full((2, 2), 300, np.uint16)).save(path)
    elif mode == "jpeg":
        Image.fromarray(IDS_HW).save(path, "jpeg")
    else:
        Image.fromarray(IDS_HW).convert(mode).save(path)
    with pytest.raises(UserError, match=rf"strange mask\.png: .*{message}"):
        read_mask(path)


def test_a_colour_of_no_class_is_an_error_with_its_pixels_or_ignored_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([*PALETTE, (1, 2, 3)], np.uint8)[[[0, 4, 4]]]).save(path)
    with pytest.raises(UserError, match=r"mask\.png: colour \(1, 2, 3\) \(2 pixels\)"):
        read_mask(path, PALETTE)
    assert read_mask(path, PALETTE, "ignore").tolist() == [[0, 255, 255]]


def test_unknown_ids_are_an_error_with_their_pixels_or_void_and_never_a_class() -> None:
    mask_HW = np.array([[0, 7, 7], [9, 1, 255]], np.uint8)
    mapping = {0: 3, 1: 0, 255: 255}
    with pytest.raises(UserError, match=r"m\.png: .*7 \(2 pixels\), 9 \(1 pixels\)"):
        map_ids(mask_HW, mapping, Path("m.png"))
    assert map_ids(mask_HW, mapping, Path("m.png"), "ignore").tolist() == [[3, 255, 255], [255, 0, 255]]


TURNED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_its_checked_size_is_the_upright_one(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.png"
    rgb_HWC = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(rgb_HWC).save(path, exif=b"Exif\0\0" + exif(orientation))
    np.testing.assert_array_equal(read_rgb(path), TURNED[orientation](rgb_HWC))
    assert check_image(path) == read_rgb(path).shape[:2]
    if orientation > 1:
        Image.fromarray(IDS_HW).save(path, exif=b"Exif\0\0" + exif(orientation))
        with pytest.raises(UserError, match=r"photo\.png.*EXIF orientation"):
            read_mask(path)


def test_grey_alpha_palette_16_bit_and_cmyk_images_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    grey_HW = np.array([[0, 100, 200]], np.uint8)
    expected = np.repeat(grey_HW[..., None], 3, axis=2)
    transparent = Image.fromarray(grey_HW).convert("P")
    transparent.info["transparency"] = b"\x00\x80"
    sixteen = Image.fromarray(grey_HW.astype(np.uint16) * 256 + 77)
    for image in (Image.fromarray(grey_HW), Image.fromarray(grey_HW).convert("RGBA"), transparent, sixteen):
        image.save(path)
        np.testing.assert_array_equal(read_rgb(path), expected)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, "jpeg", quality=100)
    assert np.abs(read_rgb(path).astype(int) - (255, 0, 0)).max() < 8


def test_a_bomb_in_any_format_is_refused_from_its_header(tmp_path: Path) -> None:
    tags = ((256, 60000), (257, 60000), (258, 8), (259, 5), (262, 1), (273, 200), (277, 1), (278, 60000), (279, 50))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6) + bytes(99)
    for data in (tiff, bmp, b"P6\n60000 60000\n255\n" + bytes(99)):
        (tmp_path / "bomb").write_bytes(data)
        for read in (check_image, read_rgb, read_mask):
            with pytest.raises(UserError, match=r"bomb: 60000 x 60000 pixels are more than 64 megapixels"):
                read(tmp_path / "bomb")


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for side in (8193, 12000, 20000, 60000):
        path.write_bytes(png(side, side, 8, 2, b"\0" * 99))
        for read in (check_image, read_rgb, read_mask):
            with pytest.raises(UserError, match=r"bomb\.png: \d+ x \d+ pixels are more than 64 megapixels"):
                read(path)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(good, "png")
    gif = io.BytesIO()
    Image.new("L", (4, 4)).save(gif, "gif")
    broken = bytearray(good.getvalue())
    broken[len(broken) // 2] ^= 1
    cases = {b"": "empty", b"<html></html>": "neither", gif.getvalue(): "neither", bytes(broken): "damaged"}
    for data, message in cases.items():
        path = tmp_path / "bad.png"
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"bad\.png: .*{message}"):
            check_image(path)
    with pytest.raises(UserError, match=r"none\.png: does not exist"):
        read_rgb(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_an_image_cut_anywhere_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(whole, kind)
    path = tmp_path / "cut.img"
    for length in np.linspace(1, len(whole.getvalue()) - 24, 100, dtype=int):  # from there on all pixels may be there
        path.write_bytes(whole.getvalue()[:length])
        with pytest.raises(UserError, match=r"cut\.img: "):
            read_rgb(path)
        if kind == "png":
            with pytest.raises(UserError, match=r"cut\.img: "):
                check_image(path)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]))
def test_random_bytes_are_a_user_error_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, data, head) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "noise.png"
    path.write_bytes(head + data)
    for read in (check_image, read_rgb, read_mask):
        with pytest.raises(UserError, match=r"noise\.png"):
            read(path)


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(1, 30)] * 4))
def test_a_resized_mask_takes_the_label_under_each_new_pixels_centre(sizes: tuple[int, int, int, int]) -> None:
    height, width, new_height, new_width = sizes
    mask_HW = np.random.default_rng(height * width).integers(0, 256, (height, width), dtype=np.uint8)
    small_HW = resize_mask(mask_HW, (new_height, new_width))
    for row in range(new_height):
        for column in range(new_width):
            y, x = (row + 0.5) * height / new_height, (column + 0.5) * width / new_width
            near = mask_HW[
                int(y - 1e-9) : int(y + 1e-9) + 1, int(x - 1e-9) : int(x + 1e-9) + 1
            ]  # a tie may go both ways
            assert small_HW[row, column] in near


def triangle(old: int, new: int) -> np.ndarray:
    """(new, old) weights of a triangle filter as wide as the coarser of both grids."""
    ratio = old / new
    centre_N = (np.arange(new)[:, None] + 0.5) * ratio
    weight = np.clip(1 - np.abs(np.arange(old) + 0.5 - centre_N) / max(ratio, 1), 0, None)
    return weight / weight.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(10, 12), (7, 9), (33, 50), (20, 12)])
def test_a_resized_image_is_the_separable_triangle_filter(size: tuple[int, int]) -> None:
    image_HWC = np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    expected = np.einsum("ih,hwc,jw->ijc", triangle(20, size[0]), image_HWC.astype(float), triangle(24, size[1]))
    assert np.abs(resize_image(image_HWC, size) - expected).max() < 1.1  # rounded once per axis


def deep_rgb(path: Path, rgb_HWC: np.ndarray) -> None:
    """A PNG of 16 bits and three channels, which the library can not write."""
    height, width, _ = rgb_HWC.shape
    path.write_bytes(png(width, height, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb_HWC)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_photograph_is_never_black_without_a_word(tmp_path: Path, channels: int) -> None:
    """Cameras store 12 bits in 16: the high byte alone is 0 to 15 of 255."""
    path = tmp_path / "deep.png"
    values = np.array([[0, 1000, 4095]], np.uint16)

    def write(values: np.ndarray) -> None:
        if channels == 1:
            Image.fromarray(values).save(path)
        else:
            deep_rgb(path, np.repeat(values[..., None], 3, 2))

    write(values)
    for read in (read_rgb, look):
        with pytest.raises(UserError, match=r"deep\.png: 16-bit pixels, but none is above \d+ of 65535.*--bits"):
            read(path)
    if channels == 1:
        assert read_rgb(path, bits=12)[0, :, 0].tolist() == [0, 62, 255]
        with pytest.raises(UserError, match=r"deep\.png: value 4095 has more than --bits 10"):
            read_rgb(path, bits=10)
    assert read_rgb(path, bits=16)[0, :, 1].tolist() == [0, 3, 15]
    write(values * 16)
    assert read_rgb(path)[0, :, 2].tolist() == [0, 62, 255]
    assert look(path).traits == ("16 bits",)


@pytest.mark.parametrize(
    ("name", "options"),
    [("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("tiff", {"compression": "tiff_deflate"}), ("bmp", {}),
     ("ppm", {})],
)  # fmt: skip
def test_tiff_bmp_and_ppm_are_read_exactly_as_image_and_as_mask(tmp_path: Path, name: str, options: dict) -> None:  # type: ignore[type-arg]
    path = tmp_path / f"x.{name}"
    rgb_HWC = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb_HWC).save(path, **options)
    np.testing.assert_array_equal(read_rgb(path), rgb_HWC)
    assert check_image(path) == (5, 7)
    Image.fromarray(IDS_HW).save(path, **options)
    np.testing.assert_array_equal(read_mask(path), IDS_HW)


def test_what_a_format_can_hide_is_refused_by_name(tmp_path: Path) -> None:
    path, grey = tmp_path / "x", Image.fromarray(IDS_HW)
    link = tmp_path / "link.png"
    link.symlink_to("gone.png")
    with pytest.raises(UserError, match=r"link\.png: does not exist: it is a link to gone\.png"):
        read_rgb(link)
    turned = Image.Exif()
    turned[0x0112] = 6
    cases = {
        "several pages": lambda: grey.save(path, "tiff", save_all=True, append_images=[grey]),
        "jpeg compression": lambda: grey.save(path, "tiff", compression="jpeg"),
        "orientation 6": lambda: grey.save(path, "tiff", exif=turned),
        "kind F": lambda: Image.fromarray(IDS_HW.astype(np.float32)).save(path, "tiff"),
        "a GIF file": lambda: grey.save(path, "gif"),
        "a WebP file": lambda: grey.save(path, "webp"),
        "a HEIC file": lambda: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0"),
        "a plain-text PGM file": lambda: path.write_bytes(b"P2\n1 1\n255\n7\n"),
    }
    for message, write in cases.items():
        write()
        for read in (read_rgb, read_mask, check_image):
            with pytest.raises(UserError, match=rf"x: .*{message}.*convert it to PNG"):
                read(path)
    path.write_bytes(b"P5\n3 1\n10\n\x00\x05\x0a")  # the library stretches 10 to 255
    assert read_rgb(path)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(UserError, match="values are not stored as they are"):
        read_mask(path)
    grey.save(path, "tiff", tiffinfo={262: 0})  # white is zero: the library turns the values over
    with pytest.raises(UserError, match="values are not stored as they are"):
        read_mask(path)


def test_what_is_reinterpreted_is_known_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGBA", (4, 3)).save(path)
    assert look(path).traits == ("alpha",)
    Image.new("CMYK", (4, 3)).save(path, "jpeg")
    assert look(path).traits == ("CMYK",)
    Image.new("L", (4, 3)).save(path, save_all=True, append_images=[Image.new("L", (4, 3), 1)])
    assert look(path).traits == ("animated",)
    Image.new("L", (4, 3)).save(path, exif=b"Exif\0\0" + exif(6))
    assert (look(path).size, look(path).stored, look(path).orientation) == ((4, 3), (3, 4), 6)
