# SPDX-License-Identifier: Apache-2.0
"""Each TensorFlow continues, evaluates and serves what the other ones wrote.

TF1_PYTHON, TF2_PYTHON and TF216_PYTHON, in the environment, are interpreters
that have TensorFlow 1.15, 2 up to 2.15, and 2.16 or later.
"""
import itertools
import os

import numpy as np
import pytest

import cnn_mnist
from running import (
    copy_of, predict, result_of, run_code, run_process, step_of, weights_of)

NAMES = "TF1", "TF2", "TF216"


@pytest.fixture(scope="session")
def pythons():
  """The interpreters, by NAMES."""
  found = {}
  for name in NAMES:
    variable = f"{name}_PYTHON"
    if variable not in os.environ:
      pytest.skip(f"{variable} is not set")
    found[name] = os.environ[variable]
  return found


@pytest.fixture(scope="session")
def models(pythons, digits_dir, make_once):
  """What each wrote: model_dir, path of the SavedModel, and the result."""
  def make(directory):
    result = run_process({
        "data_dir": digits_dir, "model_dir": directory / "model",
        "train_steps": 100, "batch_size": 20, "learning_rate": 0.05,
        "export_dir": directory / "export"}, python=pythons[directory.name])
    exported, = (directory / "export").iterdir()
    return directory / "model", exported, result_of(result)

  return {name: make_once(name, make) for name in pythons}


@pytest.mark.parametrize("writer,reader", [*itertools.permutations(NAMES, 2)])
def test_evaluate_and_continue(pythons, models, digits_dir, tmp_path, writer,
                               reader):
  model_dir, _, (accuracy, loss, _) = models[writer]
  copy = copy_of(model_dir, tmp_path / "model")
  flags = {"data_dir": digits_dir, "model_dir": copy, "batch_size": 20}
  result = run_process(dict(flags, train_steps=100), python=pythons[reader])
  assert "At step 100 of 100: no training" in result.stderr
  assert result_of(result) == (accuracy, pytest.approx(loss, rel=1e-5), 100)
  assert accuracy > 0.4  # A network that knows nothing has 0.1.
  result = run_process(dict(flags, train_steps=110), python=pythons[reader])
  assert "At step 100 of 110: training" in result.stderr
  assert result_of(result)[2] == step_of(copy) == 110
  # All weights moved, and by little. The least of the initial kernels' ranges,
  # from which a training that did not continue would begin, is -0.038 to 0.038.
  before, after = weights_of(model_dir), weights_of(copy)
  assert before.keys() == after.keys()
  for name in before.keys() - {"global_step"}:
    assert 0 < np.abs(after[name] - before[name]).max() < 0.01, name


EAGERLY = """if True:
  import sys
  import numpy as np
  import tensorflow as tf
  path, images_path, out = sys.argv[1:]
  outputs = tf.saved_model.load(path).signatures["serving_default"](
      x=tf.constant(np.load(images_path)))
  assert set(outputs) == {"classes", "probabilities"}
  probabilities = outputs["probabilities"].numpy()
  assert (outputs["classes"].numpy() == probabilities.argmax(axis=1)).all()
  np.save(out, probabilities)
"""


@pytest.mark.parametrize("writer", NAMES)
@pytest.mark.parametrize("reader", NAMES[1:])
def test_serve(pythons, models, digits_dir, tmp_path, writer, reader):
  """In a program of plain TensorFlow 2, without the script."""
  model_dir, exported, _ = models[writer]
  images = cnn_mnist.load_mnist(digits_dir)[1][0].reshape(-1, 28, 28)
  np.save(tmp_path / "images.npy", images)
  out = tmp_path / "probabilities.npy"
  run_code(pythons[reader], EAGERLY, exported, tmp_path / "images.npy", out)
  served = np.load(out)
  assert served.shape == (360, 10) and np.ptp(served) > 0.5
  np.testing.assert_allclose(
      served, predict(model_dir, images)["probabilities"], rtol=0, atol=1e-5)
