# SPDX-License-Identifier: Apache-2.0
"""The benchmark still works: its data, one round, one curve and its plot."""
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
import compare
import mnist_data
from running import MINOR

# 1, 2 or 2.16, as the benchmark calls what this Python has.
VERSION = "2.16" if MINOR > (2, 15) else str(MINOR[0])
PYTHON = f"--tf{VERSION.replace('.', '')}_python={sys.executable}"


def run_benchmark(*arguments):
  """Runs it to its end; returns what it prints."""
  return subprocess.check_output(
      [sys.executable, compare.__file__, *arguments], universal_newlines=True)


@pytest.fixture(scope="session")
def curve(digits_dir, make_once):
  """Directory of a curve that was measured on the digits, and the output."""
  def make(directory):
    curve_dir = directory / "some_steps"
    return curve_dir, run_benchmark(
        PYTHON, f"--data_dir={digits_dir}", f"--measure_curve={curve_dir}",
        "--", "--train_steps=12", "--save_checkpoints_steps=2",
        "--learning_rate=0.1")

  return make_once("curve", make)


def test_rates(mnist_dir):
  output = run_benchmark(PYTHON, f"--data_dir={mnist_dir}", "--rounds=1",
                         "--steps=20")
  assert "1 rounds of 20 steps" in output
  assert f"tensorflow {tf.__version__} on Python" in output
  head, _, *rows = [line.strip("| ").split(" | ") for line in
                    output.splitlines() if line.startswith("|")]
  assert head[0] == "program" and {len(row) for row in rows} == {len(head)}
  names = ["tutorial, TensorFlow " + VERSION,
           "cnn_mnist.py, TensorFlow " + VERSION]
  if VERSION != "1" and "bfloat16" in compare.precisions():
    names.append("cnn_mnist.py --bfloat16, TensorFlow " + VERSION)
  if VERSION == "2.16":  # There, the tutorial's program has no Estimator.
    del names[0]
  assert [row[0] for row in rows] == names
  for _, rate, of_tutorial, of_limit, start, peak in rows:
    # One round: the median, the least and the most are the same.
    assert 0.1 < float(
        re.match(r"^([\d.]+) \(\1-\1\)$", rate).group(1)) < 10000
    assert bool(of_tutorial) == (VERSION == "1")
    assert bool(of_limit) == (VERSION != "1")
    assert 0.1 < float(re.match(r"^([\d.]+) s$", start).group(1)) < 300
    assert 100 < int(re.match(r"^(\d+) MB$", peak).group(1)) < 10000


def test_all_programs_get_the_same_data(mnist_dir):
  """The loader of those without tf.contrib, and cnn_mnist.py's."""
  splits = zip(mnist_data.load_mnist(mnist_dir),
               cnn_mnist.load_mnist(mnist_dir))
  for arrays, expected in splits:
    for array, other in zip(arrays, expected):
      assert array.dtype == other.dtype and np.array_equal(array, other)


def test_operations_of_a_step():
  assert compare.gflop_per_step() == pytest.approx(8.2, abs=0.1)


def test_curve_has_all_checkpoints(curve):
  directory, output = curve
  path, = (directory / "curve").iterdir()
  start, *points = tf.train.summary_iterator(str(path))
  # More than the five that the Estimator keeps, and the one of the beginning.
  assert [point.step for point in points] == list(range(0, 13, 2))
  times = [start.wall_time] + [point.wall_time for point in points]
  assert times == sorted(times) and times[-1] - times[0] < 300
  for point in points:
    value, = point.summary.value
    assert value.tag == "test_accuracy" and 0 <= value.simple_value <= 1
    seconds = point.wall_time - start.wall_time
    assert (f"Step {point.step}, after {seconds:.1f} s: "
            f"{value.simple_value:.4f}") in output


def test_last_accuracy_is_that_of_the_run(curve):
  directory, output = curve
  accuracy = float(re.search(r"(?m)^{'accuracy': ([\d.]+),",
                             (directory / "log").read_text()).group(1))
  last = float(output.split()[-1])
  assert last == pytest.approx(accuracy, abs=1e-4)


def test_plot_of_a_curve(curve, tmp_path):
  pytest.importorskip("matplotlib", reason="matplotlib is not installed: "
                      "tests/benchmark/requirements.txt")
  path = tmp_path / "curve.png"
  run_benchmark(f"--plot={path}", curve[0])
  assert path.read_bytes().startswith(b"\x89PNG")
