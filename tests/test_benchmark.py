"""The benchmark still works: its data, one round, one curve and its plot."""
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT, make_once

BENCHMARK = os.path.join(ROOT, "tests", "benchmark")
sys.path.insert(0, BENCHMARK)

import cnn_mnist  # noqa: E402
import compare  # noqa: E402
import mnist_data  # noqa: E402

# 1, 2 or 2.16, as the benchmark calls what this Python has.
VERSION = tf.__version__[0]
if int(tf.__version__.split(".")[1]) > 15:
  VERSION = "2.16"
PYTHON = "--tf%s_python=%s" % (VERSION.replace(".", ""), sys.executable)


def run_benchmark(*arguments):
  """Runs it to its end; returns what it prints."""
  return subprocess.check_output(
      [sys.executable, os.path.join(BENCHMARK, "compare.py")] +
      list(arguments), universal_newlines=True)


@pytest.fixture(scope="session")
def curve(digits_dir, tmp_path_factory):
  """Directory of a curve that was measured on the digits, and the output."""
  def make(directory):
    curve_dir = str(directory / "some_steps")
    return curve_dir, run_benchmark(
        PYTHON, "--data_dir=" + digits_dir, "--measure_curve=" + curve_dir,
        "--", "--train_steps=12", "--save_checkpoints_steps=2",
        "--learning_rate=0.1")

  return make_once(tmp_path_factory, "curve", make)


def test_one_round(mnist_dir):
  output = run_benchmark(PYTHON, "--data_dir=" + mnist_dir, "--rounds=1",
                         "--steps=20")
  assert "1 rounds of 20 steps" in output
  assert "tensorflow %s on Python" % tf.__version__ in output
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
  path, = os.listdir(os.path.join(directory, "curve"))
  start, *points = tf.train.summary_iterator(
      os.path.join(directory, "curve", path))
  # More than the five that the Estimator keeps, and the one of the beginning.
  assert [point.step for point in points] == list(range(0, 13, 2))
  times = [start.wall_time] + [point.wall_time for point in points]
  assert times == sorted(times) and times[-1] - times[0] < 300
  for point in points:
    value, = point.summary.value
    assert value.tag == "test_accuracy" and 0 <= value.simple_value <= 1
    assert "Step %d, after %.1f s: %.4f" % (
        point.step, point.wall_time - start.wall_time,
        value.simple_value) in output


def test_last_accuracy_is_that_of_the_run(curve):
  directory, output = curve
  with open(os.path.join(directory, "log")) as f:
    accuracy = float(re.search(r"^{'accuracy': ([\d.]+),", f.read(),
                               re.MULTILINE).group(1))
  last = float(output.split()[-1])
  assert last == pytest.approx(accuracy, abs=1e-4)


def test_plot(curve, tmp_path):
  pytest.importorskip("matplotlib", reason="matplotlib is not installed: "
                      "tests/benchmark/requirements.txt")
  path = tmp_path / "curve.png"
  run_benchmark("--plot=%s" % path, curve[0])
  assert path.read_bytes().startswith(b"\x89PNG")
