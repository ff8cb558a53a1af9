"""Picture files as the pixels that an image tokenizer reads: any mode PIL knows, on white, a centred square."""

import io

import numpy as np
from PIL import Image, ImageOps

# A decoded picture takes at most 4 bytes a pixel, so this bounds the memory of a hostile file to 400 MB.
MAX_PIXELS = 100_000_000
# What is opened. PIL knows more, of which one runs another program (EPS) and most have hardly been used for years.
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")


def read_picture(data: bytes, resolution: int) -> np.ndarray:
    """An encoded picture (PNG, JPEG, …) → uint8 [resolution, resolution, 3], RGB over a white background.

    The centred square of the shorter side is cut out and resized; a picture that has the size already keeps its exact
    pixels; of an animation the first picture counts. ValueError when the bytes are no picture of KINDS, are cut short,
    or would decode to more than MAX_PIXELS pixels.
    """
    image = decode_picture(data)
    width, height = image.size
    if (width, height) != (resolution, resolution):
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        # Cut before resizing: a very long picture, resized first, could need any amount of memory.
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)


def decode_picture(data: bytes) -> Image.Image:
    """An encoded picture (PNG, JPEG, …) → RGB over a white background, upright, in its own size; errors as above."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=KINDS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"picture too large: {error}") from error
    except Exception as error:  # PIL's readers raise struct.error, TypeError, RuntimeError and more on damaged files
        raise ValueError(f"{len(data)} bytes beginning with {data[:8]!r} are no picture that can be read") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"picture too large: {width} x {height} pixels, the most is {MAX_PIXELS:,}; make it smaller")
    try:
        return on_white(ImageOps.exif_transpose(image))
    except Exception as error:  # as above
        raise ValueError(f"a {image.format or 'picture'} of {width} x {height} pixels is damaged: {error}") from error


def on_white(image: Image.Image) -> Image.Image:
    """Any mode (palette, grey, 16 bits, CMYK, with or without transparency) → RGB over white."""
    if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip them at 255 instead of scaling
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] → the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
