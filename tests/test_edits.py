"""The script after edits that tutorials and their readers make.

Each edited copy trains, resumes, exports and classifies.
"""
import pytest

from conftest import SCRIPT, result_of, run_script

RATE = '(params or {}).get("learning_rate", 0.001)'
LOSS = "sparse_softmax_cross_entropy(labels=labels, logits=logits)"
EDITS = {
    "params": [(RATE, 'params["learning_rate"]')],
    "no params": [(", params=None):", "):"), (RATE, "0.001"),
                  ('config=config,\n        params={"learning_rate": '
                   "args.learning_rate})", "config=config)"),
                  ('config=make_config(args),\n      params={"learning_rate": '
                   "args.learning_rate})", "config=make_config(args))")],
    "another key": [('"x"', '"image"')],
    "28x28": [('tf.reshape(features["x"], [-1, 28, 28, 1])',
               'tf.expand_dims(features["x"], -1)'),
              ('"x": train_data', '"x": train_data.reshape(-1, 28, 28)'),
              ('"x": eval_data', '"x": eval_data.reshape(-1, 28, 28)')],
    "Adam": [("tf.train.GradientDescentOptimizer", "tf.train.AdamOptimizer")],
    "another layer": [("units=1024", "units=512")],
    # It begins at 230 for batches of 100.
    "summed loss": [(LOSS, "sparse_softmax_cross_entropy(labels=labels, logits="
                     "logits, reduction=tf.losses.Reduction.SUM)")],
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edit(flags, picture, tmp_path, name):
  with open(SCRIPT) as f:
    text = f.read()
  for old, new in EDITS[name]:
    assert old in text, old
    text = text.replace(old, new)
  script = str(tmp_path / "edited.py")
  with open(script, "w") as f:
    f.write(text)
  flags = dict(flags, batch_size=100, learning_rate=0.0001)
  assert result_of(run_script(dict(flags, train_steps=3),
                              script=script))[2] == 3
  result = run_script(dict(flags, train_steps=5, export_dir=tmp_path / "e"),
                      script=script)
  assert result_of(result)[2] == 5 and "Exported to" in result.stderr
  result = run_script({"model_dir": flags["model_dir"], "predict": picture},
                      script=script)
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith(picture + "\t")
