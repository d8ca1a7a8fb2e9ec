# SPDX-License-Identifier: Apache-2.0
"""The SavedModel that --export_dir writes, as TensorFlow Serving gets it."""
import numpy as np
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import check_error_line, predict, run_here


def test_exported_outputs(trained_copy, digits_dir, tmp_path):
  """They are the Estimator's, also if no step was left to train."""
  result = run_here({"data_dir": digits_dir, "model_dir": trained_copy,
                     "train_steps": 200, "export_dir": tmp_path / "export"})
  assert result.returncode == 0, result.stderr
  assert "At step 200 of 200: no training" in result.stderr
  exported, = (tmp_path / "export").iterdir()
  assert exported.name.isdigit()  # Serving takes the highest.
  assert f"Exported to {exported}\n" in result.stderr
  _, (images, _) = cnn_mnist.load_mnist(digits_dir)
  expected = predict(trained_copy, images[:128])
  with tf.Graph().as_default(), tf.Session() as session:
    meta = tf.saved_model.load(session, ["serve"], str(exported))
    signature = meta.signature_def["serving_default"]
    assert set(signature.inputs) == {"x"}
    x = signature.inputs["x"]
    assert (x.name, x.dtype) == ("x:0", tf.float32.as_datatype_enum)
    assert [d.size for d in x.tensor_shape.dim] == [-1, 28, 28]
    assert set(signature.outputs) == {"classes", "probabilities"}
    for count in (1, 128):  # The batch size is free.
      values = session.run(
          {name: info.name for name, info in signature.outputs.items()},
          {x.name: images[:count].reshape(-1, 28, 28)})
      assert values["classes"].shape == (count,)
      assert values["probabilities"].shape == (count, 10)
    for name, array in values.items():
      np.testing.assert_array_equal(array, expected[name])


def test_export_dir_not_writable(trained_copy, digits_dir, tmp_path):
  """The checkpoint is there: the same command with another one exports it."""
  (tmp_path / "export").write_text("")
  flags = {"data_dir": digits_dir, "model_dir": trained_copy,
           "train_steps": 200, "export_dir": tmp_path / "export"}
  result = run_here(flags)
  assert result.returncode == 1 and "accuracy" in result.stdout
  check_error_line(result.stderr, flags["export_dir"])
  assert run_here(dict(flags, export_dir=tmp_path / "e")).returncode == 0
