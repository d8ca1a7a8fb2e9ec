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
    copy_of, result_of, run_code, run_process, step_of, weights_of)

NAMES = "TF1", "TF2", "TF216"
directions = pytest.mark.parametrize(
    "writer,reader", list(itertools.permutations(NAMES, 2)))


@pytest.fixture(scope="session")
def pythons():
  """The interpreters, by NAMES."""
  found = {}
  for name in NAMES:
    variable = name + "_PYTHON"
    if variable not in os.environ:
      pytest.skip(variable + " is not set")
    found[name] = os.environ[variable]
    version = run_code(found[name], "import tensorflow as tf\n"
                       "print(tf.__version__)")
    major, minor = [int(part) for part in version.split(".")[:2]]
    assert NAMES[major - 1 + (minor > 15)] == name, f"{variable}: {version}"
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


@pytest.fixture(scope="module")
def images_path(digits_dir, tmp_path_factory):
  """A file with the test images, float32 [360, 28, 28]."""
  path = tmp_path_factory.mktemp("images") / "images.npy"
  np.save(path, cnn_mnist.load_mnist(digits_dir)[1][0].reshape(-1, 28, 28))
  return path


@directions
def test_evaluate(pythons, models, digits_dir, tmp_path, writer, reader):
  model_dir, _, (accuracy, loss, _) = models[writer]
  copy = copy_of(model_dir, tmp_path / "model")
  result = run_process({"data_dir": digits_dir, "model_dir": copy,
                       "train_steps": 100}, python=pythons[reader])
  assert "At step 100 of 100: no training" in result.stderr
  assert result_of(result)[0] == accuracy
  assert result_of(result)[1] == pytest.approx(loss, rel=1e-5)
  assert result_of(result)[2] == 100
  # A network that knows nothing has 0.1.
  assert accuracy > 0.4


@directions
def test_continue(pythons, models, digits_dir, tmp_path, writer, reader):
  model_dir, _, (accuracy, loss, _) = models[writer]
  copy = copy_of(model_dir, tmp_path / "model")
  # At a lower rate, since at the same one the loss may well rise once.
  result = run_process({"data_dir": digits_dir, "model_dir": copy,
                       "train_steps": 200, "batch_size": 20,
                       "learning_rate": 0.02}, python=pythons[reader])
  assert "At step 100 of 200: training" in result.stderr
  later_accuracy, later_loss, step = result_of(result)
  assert step == step_of(copy) == 200
  # It learned more, from where the other had come.
  assert later_loss < loss and later_accuracy > accuracy - 0.1
  before, after = [weights_of(directory)["conv2d/kernel"]
                   for directory in (model_dir, copy)]
  assert 0 < np.abs(after - before).max() < 0.1


PREDICT = """if True:
  import sys
  import numpy as np
  import tensorflow.compat.v1 as tf
  import cnn_mnist
  tf.disable_v2_behavior()
  model_dir, images_path, out = sys.argv[1:]
  predictions = tf.estimator.Estimator(
      cnn_mnist.cnn_model_fn, model_dir).predict(
          tf.estimator.inputs.numpy_input_fn(
              {"x": np.load(images_path)}, num_epochs=1, shuffle=False))
  np.save(out, [p["probabilities"] for p in predictions])
"""

SERVE = """if True:
  import sys
  import numpy as np
  import tensorflow.compat.v1 as tf
  path, images_path, out = sys.argv[1:]
  with tf.Graph().as_default(), tf.Session() as session:
    meta = tf.saved_model.load(session, ["serve"], path)
    signature = meta.signature_def["serving_default"]
    np.save(out, session.run(
        signature.outputs["probabilities"].name,
        {signature.inputs["x"].name: np.load(images_path)}))
"""

SERVE_EAGERLY = """if True:
  import sys
  import numpy as np
  import tensorflow as tf
  path, images_path, out = sys.argv[1:]
  model = tf.saved_model.load(path)
  outputs = model.signatures["serving_default"](
      x=tf.constant(np.load(images_path)))
  assert set(outputs) == {"classes", "probabilities"}
  probabilities = outputs["probabilities"].numpy()
  assert (outputs["classes"].numpy() == probabilities.argmax(axis=1)).all()
  np.save(out, probabilities)
"""


def probabilities_of(python, code, path, images_path, directory):
  """What one of the programs above gives for a model, float32 [360, 10]."""
  out = directory / "probabilities.npy"
  run_code(python, code, path, images_path, out)
  probabilities = np.load(out)
  assert probabilities.shape == (360, 10)
  assert np.ptp(probabilities) > 0.5  # It knows something.
  return probabilities


@pytest.fixture
def predict(pythons, models, images_path, make_once):
  """Function of who predicts with whose checkpoint; each pair does it once."""
  return lambda reader, writer: make_once(
      f"{reader} predicts with {writer}", lambda directory: probabilities_of(
          pythons[reader], PREDICT, models[writer][0], images_path, directory))


@directions
def test_saved_model(pythons, models, predict, images_path, tmp_path, writer,
                     reader):
  """In a session, where only one's program reads only the other's files."""
  served = probabilities_of(
      pythons[reader], SERVE, models[writer][1], images_path, tmp_path)
  for name in writer, reader:
    np.testing.assert_allclose(served, predict(name, writer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reader", NAMES[1:])
@pytest.mark.parametrize("writer", NAMES)
def test_saved_model_in_eager_mode(pythons, models, predict, images_path,
                                   tmp_path, writer, reader):
  """In a program of plain TensorFlow 2, without the script."""
  served = probabilities_of(
      pythons[reader], SERVE_EAGERLY, models[writer][1], images_path, tmp_path)
  np.testing.assert_allclose(served, predict(writer, writer), rtol=0, atol=1e-5)
