# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures that the tests and docs/ use; at its end, KINDS of them.

A digit is a grey picture, light on dark, as MNIST's are. What is random comes
from a numpy.random.RandomState, so that a seed repeats it. No font is needed.
"""
import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

INKS = (30, 30, 35), (35, 60, 150), (95, 95, 100)  # Black, blue, a pencil's
PALE = (212, 211, 206)  # As a hard pencil's, out of focus
LINES = ((165, 190, 225), (185, 185, 185))  # Blueish and grey, as in school
# Strokes of a pen in a box of 2 wide and 3 high, from the top left.
STROKES = {
    0: [[(1, 0), (.3, .5), (0, 1.5), (.3, 2.6), (1, 3), (1.7, 2.6), (2, 1.5),
         (1.7, .5), (1, 0)]],
    1: [[(.5, .7), (1.2, 0), (1.2, 3)]],
    2: [[(.1, .7), (.5, .1), (1.2, 0), (1.8, .5), (1.7, 1.2), (.9, 2.1),
         (0, 3), (2, 3)]],
    3: [[(.1, .3), (.9, 0), (1.7, .4), (1.6, 1.1), (.8, 1.4), (1.7, 1.7),
         (1.9, 2.4), (1.1, 3), (.1, 2.7)]],
    4: [[(.9, 0), (0, 1.9), (2, 1.9)], [(1.5, .9), (1.4, 3)]],
    5: [[(1.8, 0), (.4, 0), (.3, 1.3), (1.1, 1.1), (1.8, 1.6), (1.8, 2.4),
         (1.1, 3), (.1, 2.8)]],
    6: [[(1.6, 0), (.6, .9), (.1, 2.1), (.5, 2.9), (1.2, 3), (1.7, 2.4),
         (1.4, 1.7), (.7, 1.7), (.2, 2.3)]],
    7: [[(.1, 0), (1.9, 0), (1.2, 1.4), (.8, 3)]],
    8: [[(1, 1.4), (.3, .9), (.4, .2), (1, 0), (1.6, .2), (1.6, .9), (1, 1.4),
         (.2, 2.1), (.3, 2.8), (1, 3), (1.7, 2.8), (1.8, 2.1), (1, 1.4)]],
    9: [[(1.7, .9), (1.1, 1.4), (.4, 1.2), (.2, .6), (.7, 0), (1.4, .1),
         (1.7, .9), (1.6, 2), (1.3, 3)]],
}


def to_image(digit):
  """Makes a picture of a row of load_mnist's images, float32 [784]."""
  return Image.fromarray(np.uint8(np.rint(digit.reshape(28, 28) * 255)))


def write_digit(label, rng, rounds=0):
  """Writes a digit with a pen; returns a grey picture, light on dark.

  The more rounds of cutting corners, the rounder are its strokes.
  """
  thick = int(rng.uniform(0.05, 0.14) * 240)
  slant, width = rng.uniform(-0.1, 0.3), rng.uniform(0.75, 1.15)
  picture = Image.new("L", (400, 400))  # A box of 240, and room to slant it
  draw = ImageDraw.Draw(picture)
  for stroke in STROKES[label]:
    way = np.array(stroke) + rng.normal(0, 0.04, (len(stroke), 2))
    for _ in range(rounds):  # A fifth of each line, at its corners
      fifth = (way[1:] - way[:-1]) / 5
      cut = np.stack([way[:-1] + fifth, way[1:] - fifth], axis=1)
      way = np.concatenate([way[:1], cut.reshape(-1, 2), way[-1:]])
    points = [(200 + 80 * (width * (x - 1) - slant * (y - 1.5)),
               200 + 80 * (y - 1.5)) for x, y in way]
    draw.line(points, fill=255, width=thick, joint="curve")
    for x, y in points:  # A pen's ends are round, and so are its corners.
      draw.ellipse([x - thick / 2, y - thick / 2, x + thick / 2,
                    y + thick / 2], fill=255)
  return picture


def put_on_page(digit, rng, smallest=60):
  """Puts a digit, at any size, anywhere on a larger black page."""
  size = rng.randint(smallest, 400)
  left, right, top, bottom = rng.randint(0, size // 2 + 20, 4)
  return ImageOps.expand(digit.resize((size, size), Image.BICUBIC),
                         (left, top, right, bottom))


def put_on_sheet(digit):
  """Puts a digit, dark, on a square white sheet of 280 pixels."""
  return ImageOps.expand(
      ImageOps.invert(digit).resize((200, 200), Image.BICUBIC), 40, 255)


def enlarge(digit):
  """Leaves, as Lanczos' filter does, nearly black pixels round the strokes."""
  return digit.resize((140, 140), Image.LANCZOS)


def broaden(digit):
  """Draws the digit as large as the picture, with strokes of a fifth of it.

  They cover more of it than the page does. It is a little wider than it was.
  """
  digit = digit.crop(digit.getbbox())
  width = min(220, round(220 * 1.2 * digit.width / digit.height))
  digit = digit.resize((width, 220), Image.BICUBIC).point(
      lambda value: 255 * (value > 190))
  broad = ImageOps.expand(digit, 26).filter(ImageFilter.MaxFilter(33))
  picture = Image.new("L", (280, 280))
  picture.paste(broad, (140 - broad.width // 2, 140 - broad.height // 2))
  return picture


def cut_out(picture, grey):
  """Draws strokes of one grey, opaque where the picture is light."""
  return Image.merge("LA", [Image.new("L", picture.size, grey), picture])


def clear(picture, grey, jpeg=False):
  """Makes transparent what is exactly this grey, by JPEG first or as it is."""
  if jpeg:
    content = io.BytesIO()
    picture.save(content, "JPEG")
    picture = Image.open(content)
  alpha = np.uint8(np.asarray(picture) != grey) * 255
  return Image.merge("LA", [picture, Image.fromarray(alpha)])


def draw_frame(picture, thick, margin, sides="left top right bottom",
               degrees=0, teeth=1):
  """Draws a black frame, or some sides of one, on a square grey picture.

  Left and right begin at the bottom and are a share, teeth, of its height.
  """
  first, last = margin, picture.width - 1 - margin
  high = last - int(teeth * (last - first))
  ends = {"left": (first, high, first + thick - 1, last),
          "top": (first, first, last, first + thick - 1),
          "right": (last - thick + 1, high, last, last),
          "bottom": (first, last - thick + 1, last, last)}
  lines = Image.new("L", picture.size)
  for side in sides.split():
    ImageDraw.Draw(lines).rectangle(ends[side], fill=255)
  return ImageChops.subtract(picture, lines.rotate(degrees, Image.BICUBIC))


def lay_pen(picture):
  """Lays a pen from near the digit to a corner of a grey picture, and on."""
  picture = picture.copy()
  width, height = picture.size
  ImageDraw.Draw(picture).line(
      (width * 0.82, height * 0.82, width * 1.1, height * 1.1), 40, width // 16)
  return picture


def lay_on_desk(picture, share, desk, degrees=0):
  """Photographs a square grey sheet that is a share as wide as the picture."""
  border = (round(picture.width / share) - picture.width) // 2
  return ImageOps.expand(picture, border, desk).rotate(
      degrees, Image.BICUBIC, fillcolor=desk)


def rule(shape, rng, squared):
  """Returns the coverage of paper's lines, which are a little oblique."""
  y, x = np.indices(shape)
  angle = np.radians(rng.uniform(-3, 3))
  spacing = max(shape) * rng.uniform(0.08, 0.25)
  thick = max(1, spacing * rng.uniform(0.03, 0.08))
  coverage = np.zeros(shape)
  for u in [y * np.cos(angle) + x * np.sin(angle),
            x * np.cos(angle) - y * np.sin(angle)][:1 + squared]:
    distance = np.abs((u + rng.uniform(0, spacing)) % spacing - spacing / 2)
    coverage = np.maximum(coverage, np.clip(thick / 2 + 0.5 - distance, 0, 1))
  return coverage


def shade(shape, rng, kind):
  """Returns the light: even, a ramp, a lamp's or a shadow's edge, to a half."""
  y, x = np.indices(shape)
  angle = rng.uniform(0, 2 * np.pi)
  u = x * np.cos(angle) + y * np.sin(angle)
  u = (u - u.min()) / max(1, np.ptp(u))  # 0 to 1 across the page
  if kind == "sharp":  # Over a fiftieth of the page
    u = np.clip((u - rng.uniform(0.3, 0.7)) * 50 + 0.5, 0, 1)
  return {"even": 0.75 + 0.1 * u, "ramp": 0.9 - 0.45 * u,
          "lamp": 0.9 / (1 + u ** 2), "sharp": 0.9 - 0.45 * u}[kind]


def photograph(drawn, rng, light="even", lines="", pale=False, chalk=False):
  """Returns the picture, RGB, that a camera takes of a page with ink.

  Args:
    drawn: grey picture; where it is white, the page is full of ink.
    rng: numpy.random.RandomState.
    light: "even", "ramp", "lamp" or "sharp", of a shadow.
    lines: "", "ruled" or "squared" paper; "dark": squared, nearly as the ink.
    pale: whether the ink is pale, and out of focus; otherwise one of INKS.
    chalk: whether it is white on a dark page.
  """
  if pale:
    drawn = drawn.filter(ImageFilter.GaussianBlur(max(drawn.size) / 100))
  coverage = np.asarray(drawn) / 255
  shape = coverage.shape
  color = np.array(PALE if pale else INKS[rng.randint(len(INKS))])
  paper = np.array([245, 244, 238])
  if chalk:
    color, paper = np.array([235, 235, 230]), np.array([40, 52, 45])
  picture = np.ones((*shape, 3)) * paper
  if lines:
    amount = rule(shape, rng, lines != "ruled")[:, :, np.newaxis]
    line = paper + 0.6 * (color - paper) if lines == "dark" else (
        np.array(LINES[rng.randint(2)]))
    picture += amount * (line - paper)
  picture += coverage[:, :, np.newaxis] * (color - picture)
  picture *= shade(shape, rng, light)[:, :, np.newaxis]
  # A camera smooths what is out of focus.
  picture += rng.normal(0, 1 if pale else 4, (*shape, 1))
  return Image.fromarray(np.uint8(picture.clip(0, 255)))


# ---- The kinds ---------------------------------------------------------------

def on_page(**options):
  """Returns a maker of photographs of a page that has the digit anywhere."""
  return lambda digit, rng: photograph(put_on_page(digit, rng), rng, **options)


def on_sheet(change, *args, **options):
  """Returns a maker of sheets that a function of this file changes."""
  return lambda digit, rng: change(put_on_sheet(digit), *args, **options)


def photo_of(make):
  """Returns a maker of photographs of the sheets that another one makes."""
  return lambda digit, rng: photograph(ImageOps.invert(make(digit, rng)), rng)


# Functions that make a picture of a digit, with a RandomState
DRAWINGS = {
    "as in MNIST": lambda digit, rng: digit,
    "inverted": lambda digit, rng: ImageOps.invert(digit),
    "enlarged": lambda digit, rng: ImageOps.invert(enlarge(digit)),
    "anywhere on a page": lambda digit, rng: ImageOps.invert(
        put_on_page(digit, rng, smallest=40)),
    "broad strokes": lambda digit, rng: ImageOps.invert(broaden(digit)),
    "broad strokes, light on dark": lambda digit, rng: broaden(digit),
}
TRANSPARENT = {
    "dark, cut out": lambda digit, rng: cut_out(enlarge(digit), 20),
    "light, cut out": lambda digit, rng: cut_out(enlarge(digit), 235),
    "white, cut out": lambda digit, rng: cut_out(enlarge(digit), 255),
    "transparent page": lambda digit, rng: clear(
        ImageOps.invert(enlarge(digit)), 255),
    "transparent page of a JPEG": lambda digit, rng: clear(
        ImageOps.invert(enlarge(digit)), 255, jpeg=True),
    "transparent black page": lambda digit, rng: clear(enlarge(digit), 0),
    "transparent black page of a JPEG": lambda digit, rng: clear(
        enlarge(digit), 0, jpeg=True),
}
SHEETS = {
    "sheet": lambda digit, rng: put_on_sheet(digit),
    "box": on_sheet(draw_frame, 3, 15),
    "inner box": on_sheet(draw_frame, 4, 30),
    "oblique box": on_sheet(draw_frame, 3, 15, degrees=3),
    "thick box": on_sheet(draw_frame, 10, 0),
    "cell": on_sheet(draw_frame, 6, 0),
    "comb": on_sheet(draw_frame, 3, 15, "left right bottom"),
    "comb of short teeth": on_sheet(
        draw_frame, 3, 10, "left right bottom", teeth=0.35),
    "line below": on_sheet(draw_frame, 3, 15, "bottom"),
    "line beside": on_sheet(draw_frame, 3, 15, "left"),
    "line above": on_sheet(draw_frame, 8, 10, "top", degrees=4),
    "pen that lies there": on_sheet(lay_pen),
    "dark desk": on_sheet(lay_on_desk, 0.75, 50),
    "dark desk, turned by 6 degrees": on_sheet(lay_on_desk, 0.75, 50, 6),
    "dark desk, turned by 12 degrees": on_sheet(lay_on_desk, 0.75, 50, 12),
    "grey desk": on_sheet(lay_on_desk, 0.75, 130),
    "desk at the edge": on_sheet(lay_on_desk, 0.92, 50, 2),
}
PHOTOGRAPHS = {
    "plain paper": on_page(),
    "soft shadow": on_page(light="ramp"),
    "sharp shadow": on_page(light="sharp"),
    "ruled paper": on_page(lines="ruled"),
    "squared paper": on_page(lines="squared"),
    "squared paper in a soft shadow": on_page(light="ramp", lines="squared"),
    "paper with dark squares": on_page(lines="dark"),
    "pale strokes in a lamp's light": on_page(light="lamp", pale=True),
    "chalk": on_page(chalk=True),
    "chalk in a soft shadow": on_page(light="ramp", chalk=True),
    "chalk in a shadow": on_page(light="sharp", chalk=True),
    "in a box": photo_of(SHEETS["oblique box"]),
    "on a desk": photo_of(SHEETS["dark desk, turned by 6 degrees"]),
}
KINDS = {**DRAWINGS, **TRANSPARENT, **SHEETS, **PHOTOGRAPHS}
