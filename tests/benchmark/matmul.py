# SPDX-License-Identifier: Apache-2.0
"""Measures the fastest product of two large matrices in TensorFlow 2.

This is the machine's limit: a step is at best as fast as its matrix products.
With bfloat16, it is the same operation as the one that --bfloat16 puts into the
graph.

  python tests/benchmark/matmul.py float32 bfloat16
"""
import argparse
import time

import tensorflow.compat.v1 as tf

SIZES = 1024, 2048, 4096
SECONDS = 0.5  # For each size


def measure(size, dtype):
  """Returns the GFLOP/s of the fastest product of size x size matrices."""
  best = 0
  with tf.Graph().as_default(), tf.Session() as session:
    matrix = tf.Variable(tf.cast(tf.random.uniform([size, size]), dtype))
    product = tf.matmul(matrix, matrix).op
    session.run(matrix.initializer)
    session.run(product)  # The first takes longer.
    end = time.time() + SECONDS
    while time.time() < end:
      start = time.time()
      session.run(product)
      best = max(best, 2 * size**3 / 1e9 / (time.time() - start))
  return best


def main():
  """Prints a line for each dtype: its name and its GFLOP/s."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("dtypes", nargs="+", metavar="DTYPE",
                      choices=["float32", "bfloat16"])
  tf.disable_v2_behavior()
  for dtype in parser.parse_args().dtypes:
    print(dtype, max(measure(size, dtype) for size in SIZES), flush=True)


if __name__ == "__main__":
  main()
