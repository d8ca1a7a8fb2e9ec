# SPDX-License-Identifier: Apache-2.0
"""Draws docs/pictures.png: which pictures cnn_mnist.py --predict reads.

  python tests/draw_pictures.py --data_dir=MNIST-data --model_dir=DIR
      [--model_dir=DIR ...] [--count=100] [--all] docs/pictures.png

A column for each kind of picture: one of a pen's digit, what the network gets
of it, and how many are read when COUNT of MNIST's test images (README's: 300)
are made into such pictures: the median of the networks in DIR. With --all, it
also prints what docs/pictures.md has: the counts of all kinds, of a pen's
strokes, and of people's pictures in the variable PICTURES_DIR's directories.
It needs cnn_mnist.py's requirements, with Pillow 10.1 or later for the text.
"""
import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cnn_mnist  # noqa: E402
from cnn_mnist import tf  # noqa: E402
import drawing  # noqa: E402

CELL, GAP, LEFT, TOP = 140, 14, 150, 92  # GitHub shows half of these pixels.
# The kinds that are drawn, and seeds with which they make a good example
COLUMNS = {"plain paper": 29, "soft shadow": 29, "sharp shadow": 39,
           "ruled paper": 20, "broad strokes": 30, "chalk": 6,
           "chalk in a shadow": 29, "transparent page": 14, "in a box": 24,
           "on a desk": 24}


def read_drawn(picture, name="", **options):
  """Saves a picture, a photograph as JPEG, and reads it as --predict does."""
  name = name or ("photo.jpg" if picture.mode == "RGB" else "picture.png")
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, name)
    picture.save(path, **options)
    return cnn_mnist.read_picture(path)


def try_to(read, picture):
  """Returns what the network gets of a picture; None if it can't be read."""
  with contextlib.suppress(cnn_mnist.UserError):
    return read(picture)
  return None


def read_kind(make, examples):
  """Reads such pictures of examples, which are pairs of a digit and its label.

  Returns pairs of what the network gets and the label.
  """
  rng = np.random.RandomState(0)
  return [(try_to(read_drawn, make(digit, rng)), label)
          for digit, label in examples]


def write_examples(count):
  """Returns pairs of a digit, written with a pen, and its label."""
  rng = np.random.RandomState(0)
  return [(drawing.write_digit(i % 10, rng), i % 10) for i in range(count)]


def find_pictures():
  """Returns the labels of PICTURES_DIR's pictures, by their paths."""
  return {str(path): int(path.name[0])
          for directory in os.environ["PICTURES_DIR"].split(os.pathsep)
          for path in sorted(pathlib.Path(directory).glob("*/*"))}


def count_hits(samples, model_dir):
  """Returns how many of each sample, read_kind's pairs, are classified right.

  What can't be read is wrong.
  """
  rows = [(name, digit, label) for name, sample in samples.items()
          for digit, label in sample if digit is not None]
  found = tf.estimator.Estimator(cnn_mnist.cnn_model_fn, model_dir).predict(
      tf.estimator.inputs.numpy_input_fn(
          {"x": np.stack([digit for _, digit, _ in rows])}, shuffle=False))
  hits = dict.fromkeys(samples, 0)
  for (name, _, label), answer in zip(rows, found):
    hits[name] += int(answer["classes"] == label)
  return hits


def read_samples(examples, everything):
  """Reads what is to be counted; returns the samples by their names."""
  samples = {kind: read_kind(drawing.KINDS[kind], examples)
             for kind in (drawing.KINDS if everything else COLUMNS)}
  if everything:
    written = write_examples(len(examples))
    for kind, make in drawing.PHOTOGRAPHS.items():
      samples[f"{kind}, a pen's strokes"] = read_kind(make, written)
  if everything and "PICTURES_DIR" in os.environ:
    samples["people's pictures"] = [
        (try_to(cnn_mnist.read_picture, path), label)
        for path, label in find_pictures().items()]
  return samples


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
  parser.add_argument("--all", action="store_true")
  parser.add_argument("path", metavar="FILE")
  options = parser.parse_args()
  tf.logging.set_verbosity(tf.logging.ERROR)
  _, (images, labels) = cnn_mnist.load_mnist(options.data_dir)
  examples = list(zip(map(drawing.to_image, images[:options.count]), labels))
  samples = read_samples(examples, options.all)
  hits = [count_hits(samples, model_dir) for model_dir in options.model_dir]
  counts = {name: "{} of {}".format(
      statistics.median_low(each[name] for each in hits), len(sample))
            for name, sample in samples.items()}
  for name, count in counts.items():
    print(f"{name}: {count}")
  columns = []
  for label, (kind, seed) in enumerate(COLUMNS.items()):
    rng = np.random.RandomState(seed)
    picture = drawing.KINDS[kind](
        drawing.write_digit(label, rng, rounds=2), rng)
    title = textwrap.fill(kind, 10, break_long_words=False)
    columns.append((title, picture, read_drawn(picture), counts[kind]))
  draw(columns, options.path)


if __name__ == "__main__":
  main()
