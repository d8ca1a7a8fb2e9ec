# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.7"
# dependencies = ["numpy", "pillow", "scikit-learn", "scipy"]
# ///
"""Writes real handwriting as files in MNIST's format, without a download.

Source: the UCI digits that scikit-learn ships (sklearn.datasets.load_digits),
1,797 images of 8x8 in 17 greys. Each is enlarged bilinearly to 20x20, the box
that MNIST's digits fill, and put into 28x28 with its centre of mass in the
middle, as MNIST's are. The last 360, by other writers, become the test set. The
first of each of its digits is written as a picture as well, 0.png to 9.png.
"""
import argparse
import gzip
import importlib.util
import os
import pathlib
import struct
import sys

try:
  import numpy as np
  from PIL import Image
  from scipy import ndimage
  from sklearn import datasets
except ModuleNotFoundError as e:
  if __name__ != "__main__":
    raise
  # Environments that uv makes have no pip.
  install = (f'"{sys.executable}" -m pip install' if importlib.util.find_spec(
      "pip") else f'uv pip install --python "{sys.executable}"')
  sys.exit(f"handwritten_digits.py: error: {e}. Run: {install} -r "
           f'"{pathlib.Path(__file__).with_name("requirements.txt")}"')

TEST_SIZE = 360


def load_digits():
  """Returns (images, labels): uint8 [1797, 28, 28] and uint8 [1797]."""
  digits = datasets.load_digits()
  images = np.zeros((len(digits.images), 28, 28), np.uint8)
  for image, small in zip(images, digits.images):
    large = ndimage.zoom(small, 20 / 8, order=1)
    top, left = (int(round(14 - center))
                 for center in ndimage.center_of_mass(large))
    image[top:top + 20, left:left + 20] = np.rint(large * (255 / 16))
  return images, digits.target.astype(np.uint8)


def write_idx(path, items):
  """Writes a uint8 array as a gzipped IDX file."""
  # Neither name nor time in it: the same data give the same file.
  with open(path, "wb") as f, gzip.GzipFile(
      filename="", mode="wb", fileobj=f, mtime=0) as g:
    g.write(struct.pack(f">I{items.ndim}I", 0x800 + items.ndim, *items.shape))
    g.write(items.tobytes())


def write_split(directory, name, images, labels):
  """Writes the two files of "train" or "t10k" into directory."""
  write_idx(os.path.join(directory, f"{name}-images-idx3-ubyte.gz"), images)
  write_idx(os.path.join(directory, f"{name}-labels-idx1-ubyte.gz"), labels)


def write_digits(directory, images, labels):
  """Writes the four files into directory, which is made if it isn't there."""
  os.makedirs(directory, exist_ok=True)
  write_split(directory, "train", images[:-TEST_SIZE], labels[:-TEST_SIZE])
  write_split(directory, "t10k", images[-TEST_SIZE:], labels[-TEST_SIZE:])


def write_pictures(directory, images, labels):
  """Writes a test image of each digit as a PNG of 280x280, dark on white."""
  images, labels = images[-TEST_SIZE:], labels[-TEST_SIZE:]
  for digit in range(10):
    image = images[np.argmax(labels == digit)]
    picture = Image.fromarray(255 - image).resize((280, 280))
    picture.save(os.path.join(directory, f"{digit}.png"))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("directory", metavar="DIR", help="where to write")
  directory = parser.parse_args().directory
  digits = load_digits()
  write_digits(directory, *digits)
  write_pictures(directory, *digits)
  for name, count in ("train", len(digits[1]) - TEST_SIZE), ("t10k", TEST_SIZE):
    print(f"{directory}/{name}-images-idx3-ubyte.gz and {name}-labels-idx1-"
          f"ubyte.gz: {count} images, and their labels")
  print(f"{directory}/0.png to 9.png: a test image of each digit")
