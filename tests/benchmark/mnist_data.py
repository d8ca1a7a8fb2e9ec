# SPDX-License-Identifier: Apache-2.0
"""Loads the tutorial's arrays of MNIST where there is no tf.contrib.

It needs NumPy only, so that PyTorch and JAX can use it without TensorFlow.
"""
import gzip
import os

import numpy as np

VALIDATION_SIZE = 5000  # The first training images, which are held out.


def load_mnist(data_dir):
  """Loads MNIST from its four .gz files (http://yann.lecun.com/exdb/mnist/).

  Returns (train_data, train_labels), (eval_data, eval_labels): data float32
  [N, 784] in [0, 1], labels int32 [N] in 0..9, of N = 55,000 and N = 10,000.
  """
  return (load_split(data_dir, "train", VALIDATION_SIZE),
          load_split(data_dir, "t10k", 0))


def load_split(data_dir, name, first):
  """Returns data and labels of "train" or "t10k", from the first one on."""
  images = read_idx(data_dir, name + "-images-idx3-ubyte.gz", 16)
  labels = read_idx(data_dir, name + "-labels-idx1-ubyte.gz", 8)
  images = images.reshape(-1, 784)[first:]
  # In one expression, so that NumPy reuses the converted array for the product.
  return (images.astype(np.float32) * np.float32(1 / 255),
          labels[first:].astype(np.int32))


def read_idx(data_dir, name, header_size):
  """Returns the bytes after the header of an IDX file: uint8 [size]."""
  with gzip.open(os.path.join(data_dir, name)) as f:
    return np.frombuffer(f.read(), np.uint8, offset=header_size)
