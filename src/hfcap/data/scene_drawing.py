"""Drawing of scenes with PIL: anti-aliased shapes that vary in place, size, angle and colour.

All lengths are fractions of the picture's side, x to the right and y down, until the moment of drawing.
"""

import math
from random import Random

from PIL import Image, ImageDraw

from hfcap.data.scene_facts import Group, Scene

SUPERSAMPLING = 4

COLOR_VALUES = {
    "red": (218, 32, 38),
    "orange": (248, 134, 20),
    "yellow": (244, 208, 28),
    "green": (38, 154, 66),
    "blue": (36, 92, 220),
    "purple": (136, 54, 182),
    "pink": (246, 130, 186),
    "black": (22, 22, 24),
}
# Top and bottom of the picture; equal ones are a plain background.
BACKGROUND_VALUES = {
    "white": ((252, 252, 252), (252, 252, 252)),
    "light grey": ((206, 208, 210), (206, 208, 210)),
    "cream": ((250, 236, 202), (250, 236, 202)),
    "dark grey": ((60, 62, 66), (60, 62, 66)),
    "gradient": ((252, 252, 252), (136, 138, 142)),
}
# A colour is mixed with up to so much black or white. One exact value per name would let a captioner learn each pair
# of colour and shape by itself, and fail on the pairs that training never shows.
SHADE, TINT = 0.15, 0.25
COLOR_JITTER = 8
# Diameter by number of shapes: a group has to fit into half a picture, and large must stay larger than small.
DIAMETERS = {"small": (0.2, 0.19, 0.175, 0.175), "large": (0.36, 0.3, 0.222, 0.222)}
GAP = 0.03
MARGIN = 0.01
# The part of the picture a group may use, (x0, y0, x1, y1).
REGIONS = {
    "left": (MARGIN, 0.13, 0.49, 0.87),
    "right": (0.51, 0.13, 1 - MARGIN, 0.87),
    "top": (0.13, MARGIN, 0.87, 0.49),
    "bottom": (0.13, 0.51, 0.87, 1 - MARGIN),
    "centre": (0.15, 0.15, 0.85, 0.85),
}
# Offsets in units of (diameter + gap), one tuple of (x, y) a shape.
_ROW = {2: ((-0.5, 0), (0.5, 0)), 3: ((-1, 0), (0, 0), (1, 0))}
_COLUMN = {count: tuple((y, x) for x, y in offsets) for count, offsets in _ROW.items()}
_BLOCK = {
    1: ((0, 0),),
    3: ((-0.5, -0.5), (0.5, -0.5), (0, 0.5)),
    4: ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}


def draw_scene(scene: Scene, rng: Random, image_size: int) -> Image.Image:
    """Return the scene as an RGB picture of `image_size` x `image_size` pixels.

    The facts are kept whatever `rng` gives: it moves a group inside its region and varies sizes by 5 %, angles by
    7 degrees, and colours by some black or white and 8 of 255 in each channel.
    """
    side = image_size * SUPERSAMPLING
    canvas = _background(scene.background, rng, side)
    draw = ImageDraw.Draw(canvas)
    backdrop = canvas.copy() if any(group.shape == "ring" for group in scene.groups) else canvas
    for group in scene.groups:
        color = _varied(COLOR_VALUES[group.color], rng)
        for x, y, diameter in place_shapes(group, rng):
            angle = math.radians(rng.uniform(-7, 7))
            center, radius = (x * side, y * side), diameter * side / 2
            _draw_shape(draw, group.shape, center, radius, angle, color)
            if group.shape == "ring":
                hole = backdrop.getpixel((round(center[0]), round(center[1])))
                _draw_circle(draw, center, radius * 0.52, hole)
    return canvas.reduce(SUPERSAMPLING)


def place_shapes(group: Group, rng: Random) -> list[tuple[float, float, float]]:
    """Return (x, y, diameter) of each shape of a group, all inside the group's region."""
    diameter = DIAMETERS[group.size][group.count - 1] * rng.uniform(0.95, 1.0)
    pitch = diameter + GAP
    x0, y0, x1, y1 = REGIONS[group.position]
    fitting = [
        table[group.count]
        for table in (_ROW, _COLUMN, _BLOCK)
        if group.count in table
        and _extent(table[group.count], 0, pitch) <= x1 - x0 - diameter
        and _extent(table[group.count], 1, pitch) <= y1 - y0 - diameter
    ]
    offsets = rng.choice(fitting)
    half_width = (_extent(offsets, 0, pitch) + diameter) / 2
    half_height = (_extent(offsets, 1, pitch) + diameter) / 2
    center_x = _jittered_center(x0 + half_width, x1 - half_width, rng)
    center_y = _jittered_center(y0 + half_height, y1 - half_height, rng)
    return [(center_x + dx * pitch, center_y + dy * pitch, diameter) for dx, dy in offsets]


def _extent(offsets: tuple[tuple[float, float], ...], axis: int, pitch: float) -> float:
    values = [offset[axis] for offset in offsets]
    return (max(values) - min(values)) * pitch


def _jittered_center(lowest: float, highest: float, rng: Random) -> float:
    # At most 0.07 off the middle of the region, so that "left" never looks like "top left".
    middle, reach = (lowest + highest) / 2, min((highest - lowest) / 2, 0.07)
    return middle + rng.uniform(-reach, reach)


def _varied(color: tuple[int, int, int], rng: Random) -> tuple[int, int, int]:
    """Return another color of the same name."""
    amount = rng.uniform(-SHADE, TINT)
    end = 255 if amount > 0 else 0
    mixed = [round(value + abs(amount) * (end - value)) for value in color]
    return tuple(min(255, max(0, value + rng.randint(-COLOR_JITTER, COLOR_JITTER))) for value in mixed)


def _background(kind: str, rng: Random, side: int) -> Image.Image:
    top, bottom = BACKGROUND_VALUES[kind]
    shift = rng.randint(-4, 3)
    top, bottom = (tuple(value + shift for value in color) for color in (top, bottom))
    if top == bottom:
        return Image.new("RGB", (side, side), top)
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.composite(Image.new("RGB", (side, side), bottom), Image.new("RGB", (side, side), top), ramp)


def _draw_circle(
    draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: tuple[int, ...]
) -> None:
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    center: tuple[float, float],
    radius: float,
    angle: float,
    color: tuple[int, int, int],
) -> None:
    if shape in ("circle", "ring"):
        _draw_circle(draw, center, radius, color)
        return
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [
        (center[0] + radius * (x * cos - y * sin), center[1] + radius * (x * sin + y * cos))
        for x, y in OUTLINES[shape]
    ]
    draw.polygon(corners, fill=color)


def _star_outline() -> list[tuple[float, float]]:
    corners = []
    for step in range(10):
        radius = 1.08 if step % 2 == 0 else 0.45
        angle = math.pi * step / 5 - math.pi / 2
        corners.append((radius * math.cos(angle), radius * math.sin(angle) + 0.08))
    return corners


def _heart_outline() -> list[tuple[float, float]]:
    # The usual parametric heart curve, scaled into the unit circle.
    corners = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((x / 16.5, -(y + 2.5) / 15.5))
    return corners


# Corners in units of the radius, y down.
OUTLINES = {
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star_outline(),
    "heart": _heart_outline(),
}
