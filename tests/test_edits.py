"""The script after edits that tutorials and their readers make."""
import pytest

from conftest import edit_script, result_of, run_script

RATE = '(params or {}).get("learning_rate", 0.001)'
PARAMS = ',\n%sparams={"learning_rate": args.learning_rate})'
TRAIN_INPUT = """tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=args.batch_size,
      num_epochs=None, shuffle=args.seed is None)"""
DATASET = """lambda: tf.data.Dataset.from_tensor_slices(
      ({"x": train_data}, train_labels)).repeat(%s).batch(args.batch_size)"""
EDITS = {
    "params, Adam": [(RATE, 'params["learning_rate"]'),
                     ("GradientDescentOptimizer", "AdamOptimizer")],
    "no params": [(", params=None):", "):"), (RATE, "0.001"),
                  (PARAMS % (6 * " "), ")")],
    "another key, shape and layer": [
        ('tf.reshape(features["x"], [-1, 28, 28, 1])',
         'tf.expand_dims(features["x"], -1)'),
        ('"x": train_data', '"x": train_data.reshape(-1, 28, 28)'),
        ('"x": eval_data', '"x": eval_data.reshape(-1, 28, 28)'),
        ('"x"', '"image"'), ("units=1024", "units=512")],
    "dataset": [(TRAIN_INPUT, DATASET % "None")],
    "mirrored": [(TRAIN_INPUT, DATASET % "None"),
                 ("model_dir=args.model_dir,", "model_dir=args.model_dir, "
                  "train_distribute=tf.distribute.MirroredStrategy(),")],
    "early stopping": [
        ("[logging_hook]", "[logging_hook, tf.estimator.experimental."
         'stop_if_no_decrease_hook(mnist_classifier, "loss", 1000)]')],
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edit(flags, picture, tmp_path, name):
  script = edit_script(tmp_path, *EDITS[name])
  flags = dict(flags, batch_size=100, learning_rate=0.0001)
  assert result_of(run_script(dict(flags, train_steps=3),
                              script=script))[2] == 3
  result = run_script(dict(flags, train_steps=5, export_dir=tmp_path / "e"),
                      script=script)
  assert result_of(result)[2] == 5 and "Exported to" in result.stderr
  assert "At step 3 of 5: training" in result.stderr
  result = run_script({"model_dir": flags["model_dir"], "predict": picture},
                      script=script)
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith(picture + "\t")


@pytest.mark.parametrize("name,edits", [
    ("numpy_input_fn", [("num_epochs=None, shuffle", "num_epochs=2, shuffle")]),
    ("dataset", [(TRAIN_INPUT, DATASET % 2)]),
    ("hook", [("if self.signum:\n      run", "if True:\n      run")])])
def test_training_that_ends_early(flags, tmp_path, name, edits):
  """Where the data or a hook end it, it evaluates and exports all the same."""
  script = edit_script(tmp_path, *edits)
  result = run_script(dict(flags, batch_size=500, train_steps=100,
                           export_dir=tmp_path / "e"), script=script)
  # Twice the 1,318 images in batches of 500, of which the last is smaller
  assert result_of(result)[2] == {"hook": 1}.get(name, 6)
  assert "Exported to" in result.stderr
