# SPDX-License-Identifier: Apache-2.0
"""The real thing with few steps, in half a minute: train, resume, classify."""
import pytest

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
  model_dir = copy_of(first_run[0], tmp_path / "model")
  result = run_process({
      "data_dir": digits_dir, "model_dir": model_dir, "train_steps": 110,
      "batch_size": 50, "export_dir": tmp_path / "export"})
  assert result_of(result)[2] == step_of(model_dir) == 110
  assert "At step 100 of 110: training" in result.stderr
  exported, = (tmp_path / "export").iterdir()
  assert (exported / "saved_model.pb").exists()


def test_predict(first_run, picture):
  result = run_process({"model_dir": first_run[0]}, "--predict", picture)
  assert result.returncode == 0, result.stderr
  digit, = predict(
      first_run[0], cnn_mnist.read_picture(picture)[None])["classes"]
  assert parse_predictions(result.stdout) == [(str(picture), digit)]
