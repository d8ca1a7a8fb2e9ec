"""Makes pictures of digits as cameras take them, from MNIST's or UCI's images.

All take a numpy.random.RandomState, and repeat themselves with its seed. None
needs a font. Coverage is float [height, width] in [0, 1]: 1 is full of ink.
"""
import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

INKS = {"blue": (35, 60, 150), "black": (30, 30, 35), "pencil": (95, 95, 100)}
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


def write_digit(label, rng, rounds=0):
  """Writes a digit with a pen; returns a grey picture, light on dark.

  The more rounds of cutting corners, the rounder are its strokes.
  """
  side = 400  # Of the digit's box 240, and room to slant it
  thick = int(rng.uniform(0.05, 0.14) * 240)
  slant, width = rng.uniform(-0.1, 0.3), rng.uniform(0.75, 1.15)
  picture = Image.new("L", (side, side))
  draw = ImageDraw.Draw(picture)
  for stroke in STROKES[label]:
    way = np.array(stroke) + rng.normal(0, 0.04, (len(stroke), 2))
    for _ in range(rounds):  # A fifth of each line, at its corners
      fifth = (way[1:] - way[:-1]) / 5
      cut = np.stack([way[:-1] + fifth, way[1:] - fifth], axis=1)
      way = np.concatenate([way[:1], cut.reshape(-1, 2), way[-1:]])
    points = []
    for x, y in way:
      points.append((200 + 80 * (width * (x - 1) - slant * (y - 1.5)),
                     200 + 80 * (y - 1.5)))
    draw.line(points, fill=255, width=thick, joint="curve")
    for x, y in points:  # A pen's ends are round, and so are its corners.
      draw.ellipse([x - thick / 2, y - thick / 2, x + thick / 2,
                    y + thick / 2], fill=255)
  return picture


def put_on_page(image, rng):
  """Puts a light digit anywhere on a larger page; returns its coverage."""
  size = rng.randint(60, 400)
  left, right, top, bottom = rng.randint(0, size // 2 + 20, 4)
  page = Image.new("L", (left + size + right, top + size + bottom))
  page.paste(image.resize((size, size), Image.BICUBIC), (left, top))
  return np.asarray(page) / 255


def put_on_sheet(image):
  """Puts a light digit, dark, on a square grey sheet of 280 pixels."""
  sheet = Image.new("L", (280, 280), 255)
  sheet.paste(ImageOps.invert(image).resize((200, 200), Image.BICUBIC),
              (40, 40))
  return sheet


def blur(coverage, share):
  """Blurs the ink, as out of focus, over a share of the page's longer side."""
  image = Image.fromarray(np.uint8(np.rint(coverage * 255)))
  return np.asarray(image.filter(ImageFilter.GaussianBlur(
      max(image.size) * share))) / 255


def clear(image, value, jpeg=False):
  """Makes transparent what is exactly this grey, by JPEG first or as it is."""
  if jpeg:
    content = io.BytesIO()
    image.save(content, "JPEG")
    image = Image.open(content)
  alpha = np.uint8(np.asarray(image) != value) * 255
  return Image.merge("LA", [image, Image.fromarray(alpha)])


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


def lay_on_desk(picture, share, desk, degrees=0):
  """Photographs a square grey sheet that is a share as wide as the picture."""
  size = int(round(picture.width / share))
  corner = (size - picture.width) // 2
  sheet = Image.new("L", (size, size), 255)
  sheet.paste(picture, (corner, corner))
  mask = Image.new("L", (size, size))
  mask.paste(255, (corner, corner, corner + picture.width,
                   corner + picture.width))
  photo = Image.new("L", (size, size), desk)
  photo.paste(sheet.rotate(degrees, Image.BICUBIC, fillcolor=255),
              (0, 0), mask.rotate(degrees, Image.BICUBIC))
  return photo


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


def photograph(coverage, rng, light="even", lines="", ink=None, chalk=False):
  """Returns the picture, RGB, that a camera takes of a page with ink.

  Args:
    coverage: float [height, width] in [0, 1], the ink's.
    rng: numpy.random.RandomState.
    light: "even", "ramp", "lamp" or "sharp", of a shadow.
    lines: "", "ruled" or "squared" paper; "dark": squared, nearly as the ink.
    ink: a name in INKS or "pale"; None for any of INKS.
    chalk: whether it is white on a dark page.
  """
  color = np.array(PALE if ink == "pale" else
                   INKS[ink or sorted(INKS)[rng.randint(len(INKS))]])
  paper = np.array([245, 244, 238])
  if chalk:
    color, paper = np.array([235, 235, 230]), np.array([40, 52, 45])
  picture = np.ones(coverage.shape + (3,)) * paper
  if lines:
    amount = rule(coverage.shape, rng, lines != "ruled")[:, :, np.newaxis]
    line = paper + 0.6 * (color - paper) if lines == "dark" else (
        np.array(LINES[rng.randint(2)]))
    picture += amount * (line - paper)
  picture += coverage[:, :, np.newaxis] * (color - picture)
  picture *= shade(coverage.shape, rng, light)[:, :, np.newaxis]
  # A camera smooths what is out of focus.
  picture += rng.normal(0, 1 if ink == "pale" else 4, coverage.shape + (1,))
  return Image.fromarray(np.uint8(picture.clip(0, 255)))
