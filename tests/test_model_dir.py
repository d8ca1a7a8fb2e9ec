"""The model directory: its permissions, its lock, and what may be in it."""
import errno
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

from conftest import UNPRIVILEGED, content, result_of, run_script, step_of


def test_model_dir_is_a_file(flags, tmp_path):
  path = tmp_path / "model"
  path.write_text(u"not a directory")
  result = run_script(flags)
  result.check_error(path)
  assert "At step" not in result.stderr
  assert path.read_text() == "not a directory"


def test_model_dir_not_writable(flags, tmp_path):
  path = tmp_path / "model"
  path.mkdir()
  path.chmod(0o555)
  result = run_script(flags, prefix=UNPRIVILEGED)
  result.check_error(path, "Permission denied")
  assert "At step" not in result.stderr
  assert not list(path.iterdir())


def unchanged(before, directory):
  """Whether what was in a directory is still there, and the same."""
  after = content(directory)
  return all(after.get(path) == before[path] for path in before)


def ways_to_use(flags, picture, saved=4):
  """Flags that train on from a step, that only evaluate, and that classify."""
  return [dict(flags, train_steps=saved + 2), dict(flags, train_steps=saved),
          {"model_dir": flags["model_dir"], "predict": picture}]


@pytest.mark.parametrize("units,words", [
    (512, ["mismatch", "Assign requires shapes of both tensors to match"]),
    (None, ["missing from the checkpoint", "Key conv2d/bias not found"])])
def test_checkpoint_of_another_network(flags, picture, tmp_path, units, words):
  """TensorFlow's own words, in one line, wherever it is read."""
  model_dir = tmp_path / "model"
  with tf.Graph().as_default(), tf.Session() as session:
    tf.assign(tf.train.create_global_step(), 4)
    net = tf.zeros([1, 28, 28, 1])
    if units:
      net = tf.layers.conv2d(net, 32, [5, 5])
      net = tf.layers.conv2d(net, 64, [5, 5])
      net = tf.layers.dense(tf.zeros([1, 3136]), units)
      net = tf.layers.dense(net, 10)
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(model_dir / "model.ckpt"), 4)
  before = content(model_dir)
  for way in ways_to_use(flags, picture):
    run_script(way).check_error("with this --model_dir",
                                "Restoring from checkpoint failed", *words)
  assert unchanged(before, model_dir)


@pytest.fixture(scope="module")
def saved(digits_dir, tmp_path_factory):
  """A model_dir with checkpoints of the steps 0, 2 and 4."""
  model_dir = tmp_path_factory.mktemp("saved") / "model"
  result_of(run_script({
      "data_dir": digits_dir, "model_dir": model_dir, "batch_size": 10,
      "train_steps": 4, "save_checkpoints_steps": 2}))
  return model_dir


def damage(model_dir, part, change):
  """Changes a file of the checkpoint of step 4, from bytes to bytes or None."""
  path, = model_dir.glob("model.ckpt-4." + part)
  new = change(path.read_bytes())
  path.unlink()
  if new is not None:
    path.write_bytes(new)


def overwrite(old):
  return old[:len(old) // 2] + bytes(50) + old[len(old) // 2 + 50:]


# What the file "checkpoint" may say after a power cut, or after a move.
NAMES = {"absent": None, "empty": "", "cut off": 'model_checkpoint_path: "mo',
         "damaged": "{", "elsewhere": 'model_checkpoint_path: "/no/ckpt-4"\n'}


@pytest.mark.parametrize("fault", sorted(NAMES) + [
    "data cut", "data absent", "data overwritten", "index cut", "index empty",
    "index absent", "index overwritten"])
def test_damaged_checkpoint(flags, saved, picture, tmp_path, fault):
  """One line that names it, and nothing is overwritten by a new training."""
  shutil.copytree(str(saved), str(flags["model_dir"]))
  if fault in NAMES:
    (flags["model_dir"] / "checkpoint").unlink()
    if NAMES[fault] is not None:
      (flags["model_dir"] / "checkpoint").write_text(NAMES[fault])
  else:
    part, what = fault.split()
    damage(flags["model_dir"], part + "*", {
        "cut": lambda old: old[:len(old) // 3], "empty": lambda old: b"",
        "absent": lambda old: None, "overwritten": overwrite}[what])
  before = content(flags["model_dir"])
  for way in ways_to_use(flags, picture):
    run_script(way).check_error("--model_dir")
  assert unchanged(before, flags["model_dir"])


@pytest.mark.parametrize("original", ["moved", "copied"])
def test_absolute_paths(flags, saved, picture, tmp_path, original):
  """As tf.train.Saver writes them; TensorFlow would delete the original's."""
  model_dir = tmp_path / "original"
  shutil.copytree(str(saved), str(model_dir))
  path = model_dir / "checkpoint"
  path.write_text(path.read_text().replace(': "', ': "%s/' % model_dir))
  result = run_script({"model_dir": model_dir, "predict": picture})
  assert result.returncode == 0, result.stderr
  shutil.copytree(str(model_dir), str(flags["model_dir"]))
  if original == "moved":
    shutil.rmtree(str(model_dir))
  before = content(tmp_path / "original")
  for way in ways_to_use(flags, picture):
    run_script(way).check_error("--model_dir=%s" % flags["model_dir"],
                                '"checkpoint"')
  assert content(tmp_path / "original") == before


# File systems with faults. An open file can't be unlinked, as in shared folders
# of virtual machines, and locks fail as errno says.
FAULTS = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int flock(int fd, int operation) {
  char *number = getenv("FLOCK_ERRNO");
  int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
  if (!number) return real(fd, operation);
  errno = atoi(number);
  return -1;
}

static int is_open(const char *path) {
  char target[PATH_MAX], link[300], wanted[PATH_MAX];
  struct dirent *entry;
  DIR *dir = opendir("/proc/self/fd");
  int found = 0;
  if (!dir || !realpath(path, wanted)) return 0;
  while ((entry = readdir(dir))) {
    snprintf(link, sizeof link, "/proc/self/fd/%s", entry->d_name);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length > 0) {
      target[length] = 0;
      found |= !strcmp(target, wanted);
    }
  }
  closedir(dir);
  return found;
}

int unlink(const char *path) {
  int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
  if (!getenv("NO_UNLINK") || !is_open(path)) return real(path);
  errno = ETXTBSY;
  return -1;
}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
  """Function that returns an environment with such a file system."""
  if not shutil.which("cc"):
    pytest.skip("there is no C compiler")
  directory = tmp_path_factory.mktemp("faults")
  (directory / "faults.c").write_text(FAULTS)
  library = str(directory / "faults.so")
  subprocess.check_call(["cc", "-shared", "-fPIC", "-o", library,
                         str(directory / "faults.c"), "-ldl"])
  return lambda **variables: dict(os.environ, LD_PRELOAD=library, **variables)


def test_the_faulty_file_system(faulty, tmp_path):
  """It fails as it should, so that the tests with it mean something."""
  code = """if True:
    import fcntl, os, sys, tempfile
    with open(sys.argv[1], "w") as f:
      for call in (lambda: fcntl.flock(f, fcntl.LOCK_EX),
                   lambda: os.unlink(sys.argv[1])):
        try: call()
        except OSError as e: print(e.errno)"""
  assert subprocess.check_output(
      [sys.executable, "-c", code, str(tmp_path / "f")], env=faulty(
          FLOCK_ERRNO="38", NO_UNLINK="1")).split() == [b"38", b"26"]


@pytest.mark.parametrize("number", [errno.ENOSYS] + [
    pytest.param(number, marks=pytest.mark.slow)
    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF)])
def test_shared_folder(flags, faulty, tmp_path, number):
  """Some have no locks: a warning; in some, no open file can be deleted."""
  flags["export_dir"] = tmp_path / "export"
  result = run_script(dict(flags, train_steps=2), process=True,
                      env=faulty(FLOCK_ERRNO=str(number), NO_UNLINK="1"))
  assert result_of(result)[2] == 2
  warning, = re.findall(r"WARNING .*locked.*", result.stderr)
  assert "--model_dir=%s" % flags["model_dir"] in warning
  assert os.strerror(number) in warning
  for directory in flags["model_dir"], flags["export_dir"]:
    assert not [name for name in os.listdir(str(directory))
                if name.startswith(".") and name != ".lock"]


def test_unreadable_checkpoint(flags, saved, tmp_path, picture):
  """That is an error; an earlier checkpoint would give a wrong answer."""
  shutil.copytree(str(saved), str(flags["model_dir"]))
  path = str(flags["model_dir"] / "model.ckpt-4.index")
  os.chmod(path, 0)
  flags = {"model_dir": flags["model_dir"], "predict": picture}
  run_script(flags, prefix=UNPRIVILEGED).check_error(path, "Permission denied")


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


def test_checkpoint_of_objects(flags, tmp_path, picture):
  """As Keras writes them: they hold a string beside the weights."""
  flags["model_dir"].mkdir()
  with tf.Graph().as_default(), tf.Session() as session:
    saved = tf.train.Checkpoint(weight=tf.Variable([1.0]))
    session.run(tf.global_variables_initializer())
    path = saved.save(str(tmp_path / "model" / "ckpt"), session=session)
  assert tf.train.latest_checkpoint(str(tmp_path / "model")) == path
  for more in ({}, {"predict": picture}):
    result = run_script(dict(flags, **more))
    result.check_error("--model_dir", "global_step")


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
