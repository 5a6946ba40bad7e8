"""Every kind of picture file is scaled by a stated law or refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from cifar_core.data.picture import DepthError, Reading, decode_picture, is_picture, read_picture, suffixes

RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def read(path, **reading) -> np.ndarray:
    """Return the pixels (H, W, 3) of a picture of 8x8."""
    return decode_picture(path, 8, Reading(**reading)).transpose(1, 2, 0).astype(int)


def tiff(path, values: np.ndarray, bits: int, *, white_is_zero=False, sample_format=1, raw: bytes = b""):
    """Write a grey TIFF by hand, for kinds that Pillow reads but does not write."""
    data = raw or values.tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def colour_tiff(values: np.ndarray) -> bytes:
    """Return a TIFF of 16-bit RGB of 8x8."""
    data = values.astype("<u2").tobytes()
    shorts = struct.pack("<3H", 16, 16, 16)
    at = 8 + len(data)
    tags = {256: 8, 257: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: 8, 279: len(data), 284: 1}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, at)
    table = b"".join(entry for _, entry in sorted(entries.items()))
    head = struct.pack("<2sHI", b"II", 42, at + len(shorts))
    return head + data + shorts + struct.pack("<H", len(entries)) + table + bytes(4)


def png(path, bits: int, colour: int, rows: np.ndarray, hidden: bytes = b""):
    """Write a PNG of 8x8 by hand with any depth and colour type, and a transparent colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", hidden) if hidden else b"",
        chunk(b"IDAT", zlib.compress(lines)),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b""))
    return path


def test_suffixes_are_those_that_the_installed_pillow_decodes():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".gif", ".tiff", ".tga"} <= set(
        suffixes()
    )
    assert not {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".txt"} & {
        *suffixes()
    }
    assert is_picture("A.JFIF")
    assert not is_picture("png")


@pytest.mark.parametrize(
    "suffix", ["jfif", "jpe", "avif", "jp2", "tga", "j2k", "dib", "ico", "qoi", "pcx", "JPG"]
)
def test_what_browsers_and_old_programs_save_is_read(tmp_path, suffix):
    if f".{suffix.lower()}" not in suffixes():
        pytest.skip("this Pillow cannot")
    path = tmp_path / f"a.{suffix}"
    name = Image.registered_extensions()[path.suffix.lower()]
    if name not in Image.SAVE:
        pytest.skip("this Pillow reads it, but cannot write it")
    Image.new("RGB", (16, 16), (200, 100, 50)).save(path, format=name)
    assert np.abs(read(path) - (200, 100, 50)).max() <= 4


def test_the_content_counts_not_the_suffix(tmp_path):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (read(tmp_path / "a.jpg") == (200, 100, 50)).all()


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (12, 200, 99)])
@pytest.mark.parametrize(
    "kind", ["RGBA", "LA", "P", "PA", "L key", "RGB key", "I;16 key", "16-bit LA", "gif"]
)
def test_transparent_pixels_take_the_background_and_opaque_ones_stay(tmp_path, kind, background):
    """The left half is drawn in grey 90, the right half is transparent black."""
    path = tmp_path / "a.png"
    grey, alpha = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    grey[:, :4], alpha[:, :4] = 90, 255
    if kind in ("RGBA", "LA"):
        bands = [
            Image.fromarray(band) for band in [grey] * (len(kind) - 1 if kind == "RGBA" else 1) + [alpha]
        ]
        Image.merge(kind, bands).save(path)
    elif kind in ("P", "gif"):
        path = path.with_suffix(".gif" if kind == "gif" else ".png")
        picture = Image.fromarray((grey > 0).astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 90, 90, 90])
        picture.save(path, transparency=0)
    elif kind == "PA":
        path = path.with_suffix(".tif")
        picture = Image.fromarray(grey).convert("P").convert("PA")
        picture.putalpha(Image.fromarray(alpha))
        picture.save(path)
    elif kind == "I;16 key":
        png(path, 16, 0, (grey.astype(">u2") * 257), hidden=struct.pack(">H", 0))
    elif kind == "16-bit LA":
        png(path, 16, 4, (np.stack([grey, alpha], axis=2).astype(">u2") * 257).reshape(8, 16))
    elif kind == "L key":
        Image.fromarray(grey).save(path, transparency=0)
    else:
        Image.fromarray(grey).convert("RGB").save(path, transparency=(0, 0, 0))
    pixels = read(path, background=background)
    assert (pixels[:, :4] == 90).all()
    assert (pixels[:, 4:] == background).all()


def test_half_transparent_pixels_are_mixed(tmp_path):
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + np.array((10, 20, 250)) * (1 - share)
    assert np.abs(read(tmp_path / "a.png", background=(10, 20, 250)) - expected).max() <= 0.5 + 1e-9


def test_an_opaque_alpha_channel_changes_no_bit(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", background=(1, 2, 3)) == rgba[..., :3]).all()


def test_a_transparent_edge_leaves_no_fringe_when_shrunk(tmp_path):
    rgba = np.zeros((64, 64, 4), np.uint8)  # transparent black around white
    rgba[16:48, 16:48] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "pgm"])
def test_16_bits_keep_their_grey_levels(tmp_path, kind):
    path = tmp_path / f"a.{kind.split()[-1]}"
    if kind == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())
    elif kind == "big-endian tif":
        Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(RAMP).save(path)
    assert (read(path)[..., 0] == RAMP >> 8).all()
    assert np.abs(read(path)[..., 0] - RAMP / 257).max() < 1


def test_16_bit_colour_keeps_the_same_levels_as_16_bit_grey(tmp_path):
    png(tmp_path / "a.png", 16, 2, np.repeat(RAMP[..., None], 3, axis=2).reshape(8, 24).astype(">u2"))
    assert (read(tmp_path / "a.png")[..., 1] == RAMP >> 8).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_dark_16_bit_colour_is_told_and_has_no_other_white(tmp_path, suffix):
    dark = np.repeat((RAMP >> 4)[..., None], 3, axis=2)
    path = png(tmp_path / "a.png", 16, 2, dark.reshape(8, 24).astype(">u2"))
    if suffix == "tif":
        path = tmp_path / "a.tif"
        path.write_bytes(colour_tiff(dark))
    assert read_picture(path, 8, Reading())[1] == 15 * 256 + 255
    with pytest.raises(DepthError, match="data.white=4095 has no effect on it"):
        read(path, white=4095)
    assert (read(path, white=65535) == dark >> 8).all()


def test_a_transparent_colour_of_16_bits_is_compared_in_full_bytes(tmp_path):
    colours = np.zeros((8, 8, 3), ">u2")
    colours[:, :4] = 5 * 257
    path = png(tmp_path / "a.png", 16, 2, colours.reshape(8, 24), hidden=struct.pack(">3H", 0, 0, 0))
    assert (read(path, background=(9, 9, 9))[:, ::7] == [[5] * 3, [9] * 3]).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_fill_the_range(tmp_path, bits):
    top = 2**bits - 1
    values = np.tile(np.arange(8) % (top + 1), (8, 1))
    planes = (values[..., None] >> np.arange(bits)[::-1]) & 1
    path = png(tmp_path / "a.png", bits, 0, np.packbits(planes.astype(np.uint8).reshape(8, -1), axis=1))
    assert (read(path)[..., 0] == values * 255 // top).all()


def test_12_bits_are_declared_by_the_file(tmp_path):
    values = (RAMP >> 4).astype(np.uint16)
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    path = tiff(tmp_path / "a.tif", values, 12, raw=packed.astype(np.uint8).tobytes())
    assert np.abs(read(path)[..., 0] - values / 4095 * 255).max() <= 0.5


def test_pgm_says_what_is_white(tmp_path):
    values = (RAMP >> 4).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + values.tobytes())
    assert np.abs(read(tmp_path / "a.pgm")[..., 0] - values.astype(int) / 4095 * 255).max() < 1


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned(tmp_path, bits):
    values = RAMP if bits == 16 else (RAMP >> 8).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", values, bits, white_is_zero=True)
    assert (read(path)[..., 0] == 255 - (RAMP >> 8)).all()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), 1),
        (np.linspace(0, 255, 64, dtype=np.float32), 255),
        (np.arange(64, dtype=np.int32) * 4, 255),
        (np.arange(64, dtype=np.int32) * 10**7, 2**31),
        (np.arange(64, dtype=np.uint16) * 65, 4095),
    ],
)
def test_white_is_given_where_the_file_says_none(tmp_path, values, white):
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "a.tif")
    scaled = read(tmp_path / "a.tif", white=white)[..., 0]
    assert np.abs(scaled.ravel() - values / white * 255).max() <= 0.5 + 1e-6
    if values.dtype != np.uint16:
        with pytest.raises(
            DepthError, match=r"give data.white, as 1 for values of 0 to 1 \(here they go from 0"
        ):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("values", "white"),
    [([-1, 5], 255), ([0, 256], 255), ([0, float("nan")], 1), ([0, 1.5], 1), ([0, float("inf")], 1)],
)
def test_values_beyond_black_and_white_are_refused(tmp_path, values, white):
    kind = np.float32 if isinstance(values[1], float) else np.int32
    Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "a.tif")
    with pytest.raises(DepthError, match=f"values must lie between 0 and data.white={white}, got"):
        read(tmp_path / "a.tif", white=white)


def test_signed_bytes_are_no_grey_levels(tmp_path):
    path = tiff(tmp_path / "a.tif", np.full((8, 8), -3, np.int8), 8, sample_format=2)
    with pytest.raises(DepthError, match=r"here they go from -3 to -3"):
        read(path)


def test_lab_becomes_rgb(tmp_path):
    colours = Image.new("RGB", (8, 8), (200, 100, 50))
    lab = ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as saved:
        assert saved.mode == "LAB"
    assert np.abs(read(tmp_path / "a.tif") - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_not_inverted(tmp_path, suffix):
    """Adobe writes JPEGs inverted; no ink is white in both."""
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / f"a.{suffix}")
    assert read(tmp_path / f"a.{suffix}").min() >= 253


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 100, 50), (0, 0, 255))]
    for suffix in ("gif", "png", "webp", "tif"):
        frames[0].save(
            tmp_path / f"a.{suffix}",
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if suffix == "webp" else {}),
        )
        assert np.abs(read(tmp_path / f"a.{suffix}") - (200, 100, 50)).max() <= 3
