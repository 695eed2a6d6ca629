"""Drawn objects: ten outlines with random proportions, filled, shaded and put on a picture.

An outline is a list of polygons in a plane that reaches from -1 to 1, y downwards. Each is filled
with tone 1 (the object's colour), tone 2 (its second colour) or tone 0 (a hole).
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
Outline = list[tuple[Floats, int]]

SUPERSAMPLING = 3

# Hearts tend to be red and ladders to be wooden. Without such a tendency 120 pictures a class are
# too few: a ResNet-10 at 64 pixels told the outlines apart no better than 15 % (chance: 10 %).
USUAL_HUES = {
    "heart": 0.98,
    "ladder": 0.08,
    "star": 0.15,
    "arrow": 0.25,
    "spiral": 0.36,
    "cross": 0.46,
    "gear": 0.56,
    "ring": 0.65,
    "crescent": 0.75,
    "ball": 0.86,
}
USUAL_SHARE = 0.75


def draw_object(image: Image.Image, shape: str, rng: np.random.Generator) -> None:
    """Draw one object of SHAPES with a random pose, colour and surface onto `image`, in place."""
    # At least 19 pixels of an input of 64; squeezing makes some smaller. Portraits are narrow.
    diameter = min(image.height * rng.uniform(0.3, 0.7), image.width * 0.8)
    side = int(np.ceil(diameter * 1.1))
    outline = _posed(SHAPES[shape](rng), rng)
    alpha, second = fill(outline, side, diameter / side)
    # Up to about a third of the object may lie outside the frame.
    margin = 0.2 * side
    left = int(rng.uniform(-margin, max(image.width - side + margin, 1)))
    top = int(rng.uniform(-margin, max(image.height - side + margin, 1)))
    behind = image.crop((left, top, left + side, top + side))
    _cast_shadow(behind, alpha, rng)
    surface = _make_surface(behind, second, USUAL_HUES[shape], rng)
    image.paste(Image.composite(surface, behind, alpha), (left, top))


def _posed(outline: Outline, rng: np.random.Generator) -> Outline:
    """Rotate and squeeze an outline, as seen from a little aside."""
    angle = rng.normal(0, 0.35)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    axis = rng.uniform(0, np.pi)
    view = np.array([np.cos(axis), np.sin(axis)])
    squeeze = np.eye(2) - (1 - rng.uniform(0.65, 1)) * np.outer(view, view)
    matrix = squeeze @ turn
    return [(points @ matrix.T, tone) for points, tone in outline]


def fill(outline: Outline, side: int, scale: float) -> tuple[Image.Image, Image.Image]:
    """Fill an outline antialiased: the opacity, and the share of the second colour.

    Both are 8-bit grey pictures, `side` pixels wide and high, of which the plane from -1 to 1 takes
    the part `scale`. Later polygons lie over earlier ones.
    """
    big = side * SUPERSAMPLING
    masks = [Image.new("L", (big, big)), Image.new("L", (big, big))]
    pens = [ImageDraw.Draw(mask) for mask in masks]
    for points, tone in outline:
        corners = [(float(x), float(y)) for x, y in (points * scale + 1) * (big / 2)]
        pens[0].polygon(corners, fill=255 if tone else 0)
        pens[1].polygon(corners, fill=255 if tone == 2 else 0)
    alpha, second = (mask.reduce(SUPERSAMPLING) for mask in masks)
    return alpha, second


def _cast_shadow(behind: Image.Image, alpha: Image.Image, rng: np.random.Generator) -> None:
    """Darken the picture next to the object, in place."""
    reach = max(1, behind.width // 25)
    dx, dy = (int(value) for value in rng.integers(-reach, reach + 1, 2))
    shadow = ImageChops.offset(alpha.filter(ImageFilter.BoxBlur(reach)), dx, dy)
    strength = rng.uniform(0.0, 0.6)
    behind.paste((0, 0, 0), mask=shadow.point([int(value * strength) for value in range(256)]))


def _make_surface(
    behind: Image.Image, second: Image.Image, hue: float, rng: np.random.Generator
) -> Image.Image:
    """Make the object's colours: two tones, stripes at times, and light from one side."""
    around = np.asarray(behind.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0]
    colours = [_random_colour(hue, rng) for _ in range(3)]
    # The one farthest from the background's mean, so that an object is hard to see at times but
    # never invisible.
    first = max(colours, key=lambda colour: float(np.abs(colour - around).sum()))
    other = _random_colour(rng.random(), rng) * 0.6 + (255 - first) * 0.4
    side = behind.width
    ramp = np.linspace(-1, 1, side)
    direction = rng.uniform(0, 2 * np.pi)
    across = np.cos(direction) * ramp[None, :] + np.sin(direction) * ramp[:, None]
    share = np.asarray(second, dtype=np.float64) / 255
    if rng.random() < 0.3:
        waves = np.sin(across * rng.uniform(8, 22)) > 0.3
        share = np.maximum(share, waves * rng.uniform(0.2, 0.6))
    light = 1 + rng.uniform(0.05, 0.45) * across
    colour = (first + share[..., None] * (other - first)) * light[..., None]
    return Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))


def _random_colour(usual_hue: float, rng: np.random.Generator) -> Floats:
    """Draw a colour as three levels of 0 to 255: mostly of the usual hue, at times of any."""
    hue = (rng.normal(usual_hue, 0.04) if rng.random() < USUAL_SHARE else rng.random()) % 1
    saturation, value = rng.uniform(0.4, 1), rng.uniform(0.3, 1)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255


def _arc(radius: float, start: float = 0, end: float = 2 * np.pi, num_points: int = 48) -> Floats:
    """Make the points of a circle's arc around the origin."""
    angles = np.linspace(start, end, num_points)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def box(left: float, top: float, right: float, bottom: float) -> Floats:
    """Make a rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def star(rng: np.random.Generator) -> Outline:
    """Outline a star of five to seven points."""
    num_points = int(rng.integers(5, 8))
    angles = np.arange(2 * num_points) * np.pi / num_points - np.pi / 2
    radii = np.where(np.arange(2 * num_points) % 2, rng.uniform(0.35, 0.5), 1)
    return [(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), 1)]


def ring(rng: np.random.Generator) -> Outline:
    """Outline a flat ring."""
    return [(_arc(1), 1), (_arc(rng.uniform(0.55, 0.78)), 0)]


def cross(rng: np.random.Generator) -> Outline:
    """Outline an upright cross."""
    half = rng.uniform(0.18, 0.36)
    return [(box(-half, -1, half, 1), 1), (box(-1, -half, 1, half), 1)]


def spiral(rng: np.random.Generator) -> Outline:
    """Outline a band that winds outwards."""
    angles = np.linspace(0, rng.uniform(2.1, 2.9) * 2 * np.pi, 120)
    radii = 0.08 + 0.92 * angles / angles[-1]
    pitch = 0.92 / (angles[-1] / (2 * np.pi))
    inner = radii - rng.uniform(0.4, 0.55) * pitch
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (-1 if rng.random() < 0.5 else 1)
    edges = [ray * radii[:, None], (ray * np.maximum(inner, 0)[:, None])[::-1]]
    return [(np.concatenate(edges), 1)]


def ball(rng: np.random.Generator) -> Outline:
    """Outline a ball with a checkerboard of latitudes and longitudes."""
    num_cells = int(rng.integers(4, 7))
    edges = np.linspace(-np.pi / 2, np.pi / 2, num_cells + 1)
    outline: Outline = [(_arc(1), 1)]
    for row in range(num_cells):
        for column in range(row % 2, num_cells, 2):
            south, north = np.linspace(edges[row], edges[row + 1], 5), edges[column : column + 2]
            side = [np.stack([np.cos(south) * np.sin(x), np.sin(south)], axis=1) for x in north]
            outline.append((np.concatenate([side[0], side[1][::-1]]), 2))
    return outline


def arrow(rng: np.random.Generator) -> Outline:
    """Outline an arrow to the right or to the left."""
    half, neck = rng.uniform(0.14, 0.26), rng.uniform(-0.1, 0.3)
    flip = np.array([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    head = np.array([[neck, -0.75], [1, 0], [neck, 0.75]])
    return [(box(-1, -half, neck + 0.01, half) * flip, 1), (head * flip, 1)]


def gear(rng: np.random.Generator) -> Outline:
    """Outline a gear wheel with a hole."""
    num_teeth = int(rng.integers(7, 12))
    step = 2 * np.pi / num_teeth
    tooth = np.array([-0.30, -0.18, 0.18, 0.30]) * step
    angles = (np.arange(num_teeth)[:, None] * step + tooth).ravel()
    root = rng.uniform(0.7, 0.8)
    radii = np.tile([root, 1, 1, root], num_teeth)
    wheel = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return [(wheel, 1), (_arc(rng.uniform(0.2, 0.38)), 0)]


def crescent(rng: np.random.Generator) -> Outline:
    """Outline a crescent that is open to the right or to the left."""
    shift = rng.uniform(0.35, 0.6) * (-1 if rng.random() < 0.5 else 1)
    return [(_arc(1), 1), (_arc(0.85) + np.array([shift, 0]), 0)]


def heart(rng: np.random.Generator) -> Outline:
    """Outline a heart."""
    t = np.linspace(0, 2 * np.pi, 64)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return [(np.stack([x * rng.uniform(0.85, 1), y + 0.1], axis=1), 1)]


def ladder(rng: np.random.Generator) -> Outline:
    """Outline a ladder."""
    half, bar = rng.uniform(0.35, 0.5), rng.uniform(0.08, 0.13)
    rails = [box(-half - bar, -1, -half + bar, 1), box(half - bar, -1, half + bar, 1)]
    heights = np.linspace(-0.8, 0.8, int(rng.integers(4, 6)))
    return [(part, 1) for part in rails + [box(-half, y - bar, half, y + bar) for y in heights]]


SHAPES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "star": star,
    "ring": ring,
    "cross": cross,
    "spiral": spiral,
    "ball": ball,
    "arrow": arrow,
    "gear": gear,
    "crescent": crescent,
    "heart": heart,
    "ladder": ladder,
}
