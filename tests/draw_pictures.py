"""Draws docs/pictures.png: which pictures cnn_mnist.py --predict reads.

  python tests/draw_pictures.py --data_dir=MNIST-data --model_dir=DIR
      [--model_dir=DIR ...] [--count=100] docs/pictures.png

A column for each kind of picture: one of a pen's digit, what the network gets
of it, and how many are read when COUNT of MNIST's test images (README's: 300)
are made into such pictures: the median of the networks in DIR. It needs
cnn_mnist.py's requirements, with Pillow 10.1 or later for the text.
"""
import argparse
import contextlib
import os
import statistics
import sys
import tempfile

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]
import cnn_mnist  # noqa: E402
from cnn_mnist import tf  # noqa: E402
import make_pictures  # noqa: E402

CELL, GAP, LEFT, TOP = 140, 14, 150, 92  # GitHub shows half of these pixels.


def on_page(light="even", **options):
  """Returns a maker of photographs of a digit anywhere on a larger page."""
  return lambda image, rng: make_pictures.photograph(
      make_pictures.put_on_page(image, rng), rng, light, **options)


def on_sheet(change):
  """Returns a maker of photographs of a digit on a sheet that is changed."""
  return lambda image, rng: make_pictures.photograph(1 - np.asarray(
      change(make_pictures.put_on_sheet(image), rng)) / 255, rng)


KINDS = [  # Titles, makers, and seeds with which they make a good example
    ("plain\npaper", on_page(), 29),
    ("soft\nshadow", on_page("ramp"), 29),
    ("sharp\nshadow", on_page("sharp"), 39),
    ("ruled\npaper", on_page(lines="ruled"), 20),
    ("squared\npaper", on_page(lines="squared"), 30),
    ("chalk", on_page(chalk=True), 6),
    ("chalk in\na shadow", on_page("sharp", chalk=True), 29),
    ("transparent\npage", lambda image, rng: make_pictures.clear(
        ImageOps.invert(image.resize((280, 280), Image.LANCZOS)), 255), 14),
    ("in a box", on_sheet(lambda sheet, rng: make_pictures.draw_frame(
        sheet, rng.randint(3, 9), rng.randint(4, 20),
        degrees=rng.uniform(-3, 3))), 24),
    ("on a desk", on_sheet(lambda sheet, rng: make_pictures.lay_on_desk(
        sheet, 0.75, rng.randint(50, 131), rng.uniform(-12, 12))), 24),
]


def read(picture):
  """Returns what the network gets of a picture; raises UserError."""
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "picture")
    picture.save(path, "PNG" if picture.mode == "LA" else "JPEG")
    return cnn_mnist.read_picture(path)


def count_hits(make, images, labels, model_dirs):
  """Returns how many pictures that are made of MNIST's the networks read."""
  rng = np.random.RandomState(0)
  digits, expected, hits = [], [], []
  for image, label in zip(np.uint8(np.rint(images * 255)), labels):
    picture = make(Image.fromarray(image.reshape(28, 28)), rng)
    with contextlib.suppress(cnn_mnist.UserError):  # It counts as wrong.
      digits.append(read(picture))
      expected.append(label)
  for model_dir in model_dirs:
    found = tf.estimator.Estimator(cnn_mnist.cnn_model_fn, model_dir).predict(
        tf.estimator.inputs.numpy_input_fn({"x": np.stack(digits)},
                                           shuffle=False))
    hits.append(sum(each["classes"] == label
                    for each, label in zip(found, expected)))
  return statistics.median_low(hits)


def draw(columns, path):
  """Draws columns of a title, a picture, the network's digit, and a count."""
  below, middle = TOP + CELL + GAP, CELL // 2
  end = below + CELL + 28  # The counts' middle
  canvas = Image.new("RGB", (LEFT + len(columns) * (CELL + GAP), end + 28),
                     "white")
  pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=26)
  for y, text in ((TOP + middle, "picture"), (end, "correct"),
                  (below + middle, "what the\nnetwork\ngets")):
    pen.text((GAP, y), text, "dimgray", font, "lm")
  for i, (title, picture, digit, count) in enumerate(columns):
    x = LEFT + i * (CELL + GAP)
    pen.text((x + middle, TOP - 10), title, "black", font, "md", align="center")
    pen.text((x + middle, end), count, "black", font, "mm")
    picture = ImageOps.contain(picture, (CELL - 2, CELL - 2)).convert("RGBA")
    # Squares, as drawing programs show them, are behind a transparent page.
    down, across = np.indices((picture.height, picture.width)) // 14 % 2
    back = Image.fromarray(np.uint8(255 - 40 * (down ^ across))).convert("RGBA")
    picture = ImageOps.expand(Image.alpha_composite(back, picture).convert(
        "RGB"), 1, "darkgray")
    canvas.paste(picture, (x + middle - picture.width // 2,
                           TOP + middle - picture.height // 2))
    canvas.paste(Image.fromarray(np.uint8(digit * 255)).resize(
        (CELL, CELL), Image.NEAREST), (x, below))
  canvas.quantize().save(path, optimize=True)


def main():
  """Measures and prints how many of each kind are read, and draws them."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--model_dir", required=True, action="append")
  parser.add_argument("--count", type=int, default=100)
  parser.add_argument("path", metavar="FILE")
  options = parser.parse_args()
  tf.logging.set_verbosity(tf.logging.ERROR)
  _, (images, labels) = cnn_mnist.load_mnist(options.data_dir)
  columns = []
  for label, (title, make, seed) in enumerate(KINDS):
    count = "%d of %d" % (
        count_hits(make, images[:options.count], labels, options.model_dir),
        options.count)
    print("%s: %s" % (title.replace("\n", " "), count))
    rng = np.random.RandomState(seed)
    picture = make(make_pictures.write_digit(label, rng, rounds=2), rng)
    columns.append((title, picture, read(picture), count))
  draw(columns, options.path)


if __name__ == "__main__":
  main()
