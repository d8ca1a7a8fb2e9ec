"""The model directory: its permissions, its lock, and what may be in it."""
import glob
import os
import signal

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import UNPRIVILEGED, content, result_of, run_script, step_of


def test_model_dir_is_a_file(flags, tmp_path):
  path = tmp_path / "model"
  path.write_text(u"not a directory")
  result = run_script(flags)
  result.check_error("--model_dir=%s" % path)
  assert "At step" not in result.stderr
  assert path.read_text() == "not a directory"


def test_model_dir_not_writable(flags, tmp_path):
  path = tmp_path / "model"
  path.mkdir()
  path.chmod(0o555)
  result = run_script(flags, prefix=UNPRIVILEGED)
  result.check_error("--model_dir=%s" % path, "Permission denied")
  assert "At step" not in result.stderr
  assert not list(path.iterdir())


@pytest.mark.parametrize("units,extra,words", [
    (512, None, ["dense/bias", "[512]", "[1024]"]),
    (1024, "more/weights", ["more/weights", "absent here"]),
    (None, None, ["conv2d/bias", "absent"]),
])
def test_checkpoint_of_another_network(flags, tmp_path, units, extra, words):
  model_dir = tmp_path / "model"
  with tf.Graph().as_default(), tf.Session() as session:
    tf.train.create_global_step()
    net = tf.zeros([1, 28, 28, 1])
    if units:
      net = tf.layers.conv2d(net, 32, [5, 5])
      net = tf.layers.conv2d(net, 64, [5, 5])
      net = tf.layers.dense(tf.zeros([1, 3136]), units)
      net = tf.layers.dense(net, 10)
    if extra:
      tf.get_variable(extra, [3])
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(model_dir / "model.ckpt"), 5)
  before = content(model_dir)
  run_script(flags).check_error("--model_dir=%s" % model_dir, *words)
  assert content(model_dir) == before  # The hidden .lock does not count.


def test_damaged_checkpoint(flags, tmp_path):
  """As after a power cut: the earlier one is used, with a warning."""
  model_dir = tmp_path / "model"
  flags = dict(flags, save_checkpoints_steps=2)
  result_of(run_script(dict(flags, train_steps=4)))
  for path in glob.glob(str(model_dir / "model.ckpt-4.data*")):
    with open(path, "r+b") as f:
      f.truncate(1000000)
  result = run_script(dict(flags, train_steps=5))
  assert result.stderr.count("Passing over a damaged checkpoint: %s (" % (
      model_dir / "model.ckpt-4")) == 1
  assert "At step 2 of 5: training" in result.stderr
  assert result_of(result)[2] == 5
  # Those before it are still there to fall back on, and to be rotated out.
  paths = tf.train.get_checkpoint_state(
      str(model_dir)).all_model_checkpoint_paths
  assert [os.path.basename(path) for path in paths] == [
      "model.ckpt-%d" % step for step in (0, 2, 4, 5)]
  # None is whole.
  for path in glob.glob(str(model_dir / "model.ckpt-*.index")):
    open(path, "w").close()
  run_script(dict(flags, train_steps=9)).check_error(
      "--model_dir=%s" % model_dir)
  (model_dir / "checkpoint").write_text(u"")
  run_script(dict(flags, train_steps=9)).check_error(
      "--model_dir=%s" % model_dir)


def test_unreadable_checkpoint(flags, tmp_path, picture):
  """That is an error; an earlier checkpoint would give a wrong answer."""
  result_of(run_script(dict(flags, train_steps=2)))
  path = str(tmp_path / "model" / "model.ckpt-2.index")
  os.chmod(path, 0)
  for more in ({"train_steps": 3}, {"predict": picture}):
    result = run_script(dict(flags, **more), prefix=UNPRIVILEGED)
    result.check_error(path, "Permission denied")


def test_roll_back(flags, tmp_path):
  """The first line of the file "checkpoint" decides, as for TensorFlow."""
  model_dir = tmp_path / "model"
  flags = dict(flags, save_checkpoints_steps=2)
  result_of(run_script(dict(flags, train_steps=6)))
  text = (model_dir / "checkpoint").read_text()
  first, rest = text.split("\n", 1)
  assert first == 'model_checkpoint_path: "model.ckpt-6"'
  (model_dir / "checkpoint").write_text(first.replace("6", "2") + "\n" + rest)
  result = run_script(dict(flags, train_steps=5))
  assert "At step 2 of 5: training" in result.stderr
  assert result_of(result)[2] == 5
  # The line may also be alone.
  (model_dir / "checkpoint").write_text(first.replace("6", "4"))
  result = run_script(dict(flags, train_steps=4))
  assert "At step 4 of 4: no training" in result.stderr
  assert result_of(result)[2] == 4


def save_again(model_dir, **changes):
  """Saves the newest checkpoint again, with changed or further variables.

  Args:
    model_dir: its directory.
    **changes: functions from the value to the new value, by the variable's name
      with "__" for "/"; for a new variable, the value is None.
  """
  path = tf.train.latest_checkpoint(str(model_dir))
  reader = tf.train.load_checkpoint(path)
  values = {name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()}
  for name, change in changes.items():
    name = name.replace("__", "/")
    values[name] = change(values.get(name))
  with tf.Graph().as_default(), tf.Session() as session:
    variables = {name: tf.Variable(value) for name, value in values.items()}
    session.run(tf.global_variables_initializer())
    tf.train.Saver(variables).save(session, path)


@pytest.mark.parametrize("changes,words", [
    ({"dense__bias": np.float16}, ["dense/bias", "float16", "float32"]),
    ({"global_step": np.int32}, ["global_step", "int32", "int64"]),
    ({"beta1_power": lambda _: np.float32(0.9)},
     ["beta1_power", "absent here", "optimizer"]),
    ({"dense_1__bias": lambda bias: bias * np.nan},
     ["dense_1/bias", "not finite", "an earlier one"]),
    ({"conv2d__kernel": lambda kernel: kernel + np.inf},
     ["conv2d/kernel", "not finite", "an earlier one"]),
])
def test_variables_that_do_not_fit(flags, tmp_path, picture, changes, words):
  """Of another type, of Adam, or ruined: told with advice that keeps them."""
  model_dir = tmp_path / "model"
  result_of(run_script(dict(flags, train_steps=2)))
  save_again(model_dir, **changes)
  before = content(model_dir)
  for more in ({"train_steps": 2}, {"train_steps": 3}, {"predict": picture}):
    result = run_script(dict(flags, **more))
    result.check_error("--model_dir=%s" % model_dir, *words)
    assert "elete" not in result.stderr.splitlines()[-1]
  assert content(model_dir) == before


def test_two_runs_in_one_model_dir(flags, start_run, tmp_path):
  run = start_run(dict(flags, train_steps=1000000))
  run.wait_for("loss = ")
  before = sorted(os.listdir(str(tmp_path / "model")))
  run_script(flags).check_error(
      "--model_dir=%s is in use" % (tmp_path / "model"))
  assert sorted(os.listdir(str(tmp_path / "model"))) == before
  assert run.process.poll() is None
  run.process.terminate()
  assert run.wait() == 128 + signal.SIGTERM
  # The lock went with it.
  step = step_of(tmp_path / "model")
  assert result_of(run_script(dict(flags, train_steps=step + 1)))
