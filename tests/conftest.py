# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files use, and what pytest has to be told."""
import fcntl
import os
from pathlib import Path
import pickle
import signal

from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import handwritten_digits
import running

# For the graphs that the tests build themselves; the script does it too.
tf.disable_v2_behavior()

# Where these signals are ignored, as under nohup, the script would inherit
# that. It does not inherit a handler.
for number in (signal.SIGINT, signal.SIGHUP):
  if signal.getsignal(number) == signal.SIG_IGN:
    signal.signal(number, lambda signum, frame: None)


def pytest_configure(config):
  """Drops what TensorFlow said at its import: it would follow the summary."""
  config.pluginmanager.getplugin("capturemanager").read_global_capture()


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
  """Function that lets the first of the test processes make what all share.

  Its arguments are the name of a directory, and a function of this directory, a
  Path. It returns what the function returned, pickled for the other processes.
  """
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent  # The other processes' directories are there too.

  def make(name, function):
    result = root / f"{name}.pickle"
    with open(root / f"{name}.lock", "w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not result.exists():
        (root / name).mkdir()
        result.write_bytes(pickle.dumps(function(root / name)))
    return pickle.loads(result.read_bytes())

  return make


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """Directory with the handwritten digits in MNIST's four files."""
  directory = tmp_path_factory.mktemp("digits")
  handwritten_digits.write_digits(directory, *handwritten_digits.load_digits())
  return directory


@pytest.fixture(scope="session")
def mnist_dir():
  """Directory with the real MNIST, from the environment."""
  if "MNIST_DIR" not in os.environ:
    pytest.skip("MNIST_DIR is not set")
  return Path(os.environ["MNIST_DIR"])


@pytest.fixture
def flags(digits_dir, tmp_path):
  """Flags of a quick run on the digits; the model is in tmp_path/model."""
  return {"data_dir": digits_dir, "model_dir": tmp_path / "model",
          "batch_size": 10, "learning_rate": 0.05}


@pytest.fixture
def picture(tmp_path):
  """Path of a picture to classify: a vertical stroke, dark on white."""
  path = tmp_path / "stroke.png"
  image = Image.new("L", (28, 28), 255)
  image.paste(0, (12, 4, 15, 24))
  image.save(path)
  return path


@pytest.fixture(scope="session")
def trained(digits_dir, make_once):
  """(model_dir, Result) of a run on the digits, 200 steps; only to be read."""
  return make_once("trained", lambda directory: (directory, running.run_here({
      "data_dir": digits_dir, "model_dir": directory, "train_steps": 200,
      "batch_size": 50, "learning_rate": 0.15, "save_checkpoints_steps": 100})))


@pytest.fixture
def trained_copy(trained, tmp_path):
  """Another directory with that model, to be changed."""
  return running.copy_of(trained[0], tmp_path / "copy")


@pytest.fixture(scope="session")
def mnist_model(mnist_dir, make_once):
  """(model_dir, Result) of a run on the real MNIST, 600 steps."""
  return make_once("mnist_model", lambda directory: (
      directory, running.run_here({
          "data_dir": mnist_dir, "model_dir": directory, "train_steps": 600,
          "learning_rate": 0.2})))


@pytest.fixture
def start_run():
  """The function running.start; what it started is killed at the end."""
  runs = []

  def start(*arguments, **options):
    runs.append(running.start(*arguments, **options))
    return runs[-1]

  yield start
  for run in runs:
    run.kill()


@pytest.fixture
def nan_loss(monkeypatch):
  """Lets the loss become NaN after the third step.

  A high learning rate does not always lead to that: the network may die first.
  """
  cross_entropy = tf.losses.sparse_softmax_cross_entropy

  def nan_later(labels, logits):
    step = tf.cast(tf.train.get_global_step(), tf.float32)
    return cross_entropy(labels, logits) + tf.log(3.5 - step)

  monkeypatch.setattr(tf.losses, "sparse_softmax_cross_entropy", nan_later)
