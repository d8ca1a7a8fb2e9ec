"""The real thing with few steps, in half a minute: train, resume, classify."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import (
    copy_of, parse_predictions, predict, result_of, run_process, step_of)


@pytest.fixture(scope="session")
def first_run(digits_dir, make_once):
  """(model_dir, Result) of a process that trained for 100 steps."""
  return make_once("first_run", lambda directory: (directory, run_process({
      "data_dir": digits_dir, "model_dir": directory, "train_steps": 100,
      "batch_size": 50, "learning_rate": 0.15})))


def test_train_and_evaluate(first_run):
  accuracy, loss, step = result_of(first_run[1])
  assert accuracy > 0.5 and loss < 2 and step == 100
  assert step_of(first_run[0]) == 100


def test_resume_and_export(first_run, digits_dir, tmp_path):
  """The SavedModel gives what the resumed network gives."""
  model_dir = copy_of(first_run[0], tmp_path / "model")
  result = run_process({
      "data_dir": digits_dir, "model_dir": model_dir, "train_steps": 110,
      "batch_size": 50, "export_dir": tmp_path / "export"})
  assert result_of(result)[2] == 110
  assert "At step 100 of 110: training" in result.stderr
  exported, = (tmp_path / "export").iterdir()
  _, (images, _) = cnn_mnist.load_mnist(digits_dir)
  with tf.Graph().as_default(), tf.Session() as session:
    signature = tf.saved_model.load(
        session, ["serve"], str(exported)).signature_def["serving_default"]
    assert signature.inputs["x"].name == "x:0"
    served = session.run(signature.outputs["probabilities"].name,
                         {signature.inputs["x"].name:
                          images.reshape(-1, 28, 28)})
  np.testing.assert_allclose(
      served, predict(model_dir, images)["probabilities"], atol=1e-5)


def test_predict(first_run, picture):
  result = run_process({"model_dir": first_run[0]}, "--predict", picture)
  assert result.returncode == 0, result.stderr
  digit, = predict(
      first_run[0], cnn_mnist.read_picture(picture)[None])["classes"]
  assert parse_predictions(result.stdout) == [(str(picture), digit)]
