# SPDX-License-Identifier: Apache-2.0
"""The model directory: resuming, its lock, damage, permissions, a full disk."""
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess

import pytest
import tensorflow.compat.v1 as tf

from running import (
    UNPRIVILEGED, copy_of, file_hashes, parse_predictions, result_of,
    run_here, run_process, skip_unless_permitted, step_of)

# ---- Resuming ----------------------------------------------------------------


@pytest.fixture(scope="session")
def saved(digits_dir, make_once):
  """A model_dir with checkpoints of the steps 0, 2 and 4."""
  def make(directory):
    result_of(run_here({
        "data_dir": digits_dir, "model_dir": directory, "batch_size": 10,
        "train_steps": 4, "save_checkpoints_steps": 2}))
    return directory

  return make_once("saved", make)


@pytest.fixture
def model_dir(saved, flags):
  """A copy of it, which the flags name."""
  return copy_of(saved, flags["model_dir"])


def test_roll_back(flags, model_dir):
  """The first line of the file "checkpoint" decides, as for TensorFlow."""
  path = model_dir / "checkpoint"
  first, rest = path.read_text().split("\n", 1)
  assert first == 'model_checkpoint_path: "model.ckpt-4"'
  path.write_text(first.replace("4", "2") + "\n" + rest)
  result = run_here(dict(flags, train_steps=3))
  assert "At step 2 of 3: training" in result.stderr
  assert result_of(result)[2] == 3
  # The line may also be alone.
  path.write_text(first.replace("4", "2"))
  result = run_here(dict(flags, train_steps=2))
  assert "At step 2 of 2: no training" in result.stderr
  assert "probabilities" not in result.stderr
  assert result_of(result)[2] == 2


# ---- What can't be used ------------------------------------------------------

def check_unusable(flags, picture, *words):
  """Checks that one line says it, and no file is changed.

  That is, to train on from step 4, to evaluate only, and to classify.
  """
  before = file_hashes(flags["model_dir"])
  for way in (dict(flags, train_steps=6), dict(flags, train_steps=4),
              {"model_dir": flags["model_dir"], "predict": picture}):
    run_here(way).check_error("--model_dir", *words)
  after = file_hashes(flags["model_dir"])
  assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("units,words", [
    (512, ["mismatch", "Assign requires shapes of both tensors to match"]),
    (None, ["missing from the checkpoint", "Key conv2d/bias not found"])])
def test_checkpoint_of_another_network(flags, picture, units, words):
  """TensorFlow's own words, in one line, wherever it is read."""
  with tf.Graph().as_default(), tf.Session() as session:
    tf.assign(tf.train.create_global_step(), 4)
    net = tf.zeros([1, 28, 28, 1])
    if units:
      net = tf.layers.conv2d(net, 32, [5, 5])
      net = tf.layers.conv2d(net, 64, [5, 5])
      net = tf.layers.dense(tf.zeros([1, 3136]), units)
      net = tf.layers.dense(net, 10)
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(flags["model_dir"] / "model.ckpt"), 4)
  check_unusable(flags, picture, "TensorFlow: Restoring from checkpoint failed",
                 "(give another --model_dir)", *words)


def overwrite(old):
  return old[:len(old) // 2] + bytes(50) + old[len(old) // 2 + 50:]


# Which file, and what becomes of its bytes. The file "checkpoint" may be so
# after a power cut, or after a move.
FAULTS = {
    "names absent": ("checkpoint", None),
    "names empty": ("checkpoint", lambda old: b""),
    "names cut": ("checkpoint", lambda old: b'model_checkpoint_path: "mo'),
    "names damaged": ("checkpoint", lambda old: b"{"),
    "names elsewhere": (
        "checkpoint", lambda old: b'model_checkpoint_path: "/no/ckpt-4"\n'),
    "data cut": ("model.ckpt-4.data*", lambda old: old[:len(old) // 3]),
    "data absent": ("model.ckpt-4.data*", None),
    "data overwritten": ("model.ckpt-4.data*", overwrite),
    "index cut": ("model.ckpt-4.index", lambda old: old[:len(old) // 3]),
    "index empty": ("model.ckpt-4.index", lambda old: b""),
    "index absent": ("model.ckpt-4.index", None),
    "index overwritten": ("model.ckpt-4.index", overwrite),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_damaged_checkpoint(flags, model_dir, picture, fault):
  """It is named, and nothing is overwritten by a new training."""
  pattern, change = FAULTS[fault]
  path, = model_dir.glob(pattern)
  old = path.read_bytes()
  path.unlink()
  if change:
    path.write_bytes(change(old))
  check_unusable(flags, picture)


@pytest.mark.parametrize("original", ["moved", "copied"])
def test_absolute_paths(flags, saved, picture, tmp_path, original):
  """As tf.train.Saver writes them; TensorFlow would delete the original's."""
  directory = copy_of(saved, tmp_path / "original")
  path = directory / "checkpoint"
  path.write_text(path.read_text().replace(': "', f': "{directory}/'))
  result = run_here({"model_dir": directory, "predict": picture})
  assert len(parse_predictions(result.stdout)) == 1
  copy_of(directory, flags["model_dir"])
  if original == "moved":
    shutil.rmtree(str(directory))
  before = original == "copied" and file_hashes(directory)
  check_unusable(flags, picture, f"--model_dir={flags['model_dir']}",
                 'the file "checkpoint" names', "in another directory")
  assert not before or file_hashes(directory) == before


def test_checkpoint_of_objects(flags, picture):
  """As Keras writes them: they hold a string, and no step."""
  flags["model_dir"].mkdir()
  with tf.Graph().as_default(), tf.Session() as session:
    checkpoint = tf.train.Checkpoint(weight=tf.Variable([1.0]))
    session.run(tf.global_variables_initializer())
    checkpoint.save(str(flags["model_dir"] / "ckpt"), session=session)
  check_unusable(flags, picture, "global_step")


@pytest.mark.parametrize("left", [
    "model.ckpt-0.*", "model.ckpt-0.data*", "notes_ckpt.txt"])
def test_no_whole_checkpoint(flags, saved, left):
  """As a run leaves it that died in its first save: it starts again."""
  flags["model_dir"].mkdir()
  (flags["model_dir"] / "notes_ckpt.txt").write_text("")
  for path in saved.glob(left):
    shutil.copy(str(path), str(flags["model_dir"]))
  result = run_here(dict(flags, train_steps=1))
  assert "At step 0 of 1: training" in result.stderr
  assert result_of(result)[2] == 1


# ---- Permissions and file systems --------------------------------------------

def test_model_dir_not_writable(flags):
  path = flags["model_dir"]
  path.mkdir()
  path.chmod(0o555)
  result = run_process(flags, prefix=UNPRIVILEGED)
  result.check_error(path, "Permission denied")
  assert "At step" not in result.stderr
  assert not list(path.iterdir())


def test_unreadable_checkpoint(model_dir, picture):
  """That is an error; an earlier checkpoint would give a wrong answer."""
  path = model_dir / "model.ckpt-4.index"
  path.chmod(0)
  run_process({"model_dir": model_dir, "predict": picture},
              prefix=UNPRIVILEGED).check_error(path, "Permission denied")


def test_disk_full(flags):
  """In the first or the third save, of 13 MB each: that is one error."""
  mount = flags["model_dir"]
  mount.mkdir()
  skip_unless_permitted(["unshare", "--mount"])
  subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=5m", "t", mount])
  try:
    flags = dict(flags, train_steps=30, save_checkpoints_steps=10)
    for step, size in (None, 35), (10, 300):
      run_process(flags).check_error("No space left", mount)
      # What was saved before is whole, and the run resumes once there is room.
      assert step_of(mount) == step
      subprocess.check_call(["mount", "-o", f"remount,size={size}m", mount])
    result = run_process(flags)
    assert "At step 10 of 30: training" in result.stderr
    assert result_of(result)[2] == 30
  finally:
    subprocess.check_call(["umount", mount])


# ---- Its lock ----------------------------------------------------------------

def test_two_runs_in_one_model_dir(flags, start_run):
  model_dir = flags["model_dir"]
  run = start_run(dict(flags, train_steps=1000000))
  run.wait_for("loss = ")
  before = sorted(os.listdir(model_dir))
  run_here(flags).check_error(f"--model_dir={model_dir} is in use")
  assert sorted(os.listdir(model_dir)) == before
  assert run.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM
  # The lock went with it.
  assert result_of(run_here(dict(flags, train_steps=step_of(model_dir) + 1)))


@pytest.mark.parametrize("number", [
    errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_no_locks(flags, trained_copy, monkeypatch, number):
  """Some network file systems have none: that is a warning."""
  def flock(file, operation):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", flock)
  result = run_here(dict(flags, model_dir=trained_copy, train_steps=200))
  assert result_of(result)[2] == 200
  warning, = re.findall(r"WARNING .*locked.*", result.stderr)
  assert f"--model_dir={trained_copy}" in warning
  assert os.strerror(number) in warning
