"""The model directory: its permissions, its lock, and what may be in it."""
import errno
import glob
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
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
  text = (model_dir / "checkpoint").read_text()
  assert str(tmp_path) not in text and 'path: "model.ckpt-5"' in text
  # None is whole.
  for path in glob.glob(str(model_dir / "model.ckpt-*.index")):
    open(path, "w").close()
  for text in None, u"", u"{":
    if text is not None:
      (model_dir / "checkpoint").write_text(text)
    result = run_script(dict(flags, train_steps=9))
    result.check_error("--model_dir=%s" % model_dir)
    assert "elete" not in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("relative", [False, True])
def test_damaged_checkpoint_in_a_relative_directory(flags, tmp_path, relative,
                                                    monkeypatch):
  """What the file "checkpoint" then names holds after a move as well."""
  flags = dict(flags, save_checkpoints_steps=2,
               model_dir="model" if relative else tmp_path / "model")
  result_of(run_script(dict(flags, train_steps=4), cwd=str(tmp_path)))
  (tmp_path / "model" / "model.ckpt-4.index").write_bytes(b"")
  # As when a run ends after the repair, before a checkpoint of its own.
  monkeypatch.chdir(tmp_path)
  cnn_mnist.read_checkpoint(str(flags["model_dir"]), repair=True)
  text = (tmp_path / "model" / "checkpoint").read_text()
  assert 'model_checkpoint_path: "model.ckpt-2"' in text and "/" not in text
  (tmp_path / "model").rename(tmp_path / "moved")
  result = run_script(dict(flags, model_dir=tmp_path / "moved", train_steps=5))
  assert "At step 2 of 5: training" in result.stderr
  assert result_of(result)[2] == 5


def name_absolutely(model_dir):
  """Makes the file "checkpoint" name absolute paths, as tf.train.Saver does."""
  path = model_dir / "checkpoint"
  path.write_text(path.read_text().replace(': "', ': "%s/' % model_dir))


def test_moved_with_absolute_paths(flags, picture, tmp_path):
  """The checkpoints are found beside the file that names another place."""
  result_of(run_script(dict(flags, train_steps=3)))
  name_absolutely(tmp_path / "model")
  (tmp_path / "model").rename(tmp_path / "moved")
  flags["model_dir"] = tmp_path / "moved"
  result = run_script({"model_dir": flags["model_dir"], "predict": picture})
  assert result.returncode == 0, result.stderr
  result = run_script(dict(flags, train_steps=4))
  assert "At step 3 of 4: training" in result.stderr
  assert result_of(result)[2] == 4
  assert not (tmp_path / "model").exists()


def test_copied_with_absolute_paths(flags, tmp_path):
  """The copy goes on from its own files, whatever becomes of the original."""
  result_of(run_script(dict(flags, train_steps=3)))
  name_absolutely(tmp_path / "model")
  shutil.copytree(str(tmp_path / "model"), str(tmp_path / "copy"))
  save_again(tmp_path / "model", dense__bias=lambda bias: bias + 1)
  before = content(tmp_path / "model")
  result = run_script(dict(flags, model_dir=tmp_path / "copy", train_steps=4))
  assert result_of(result)[2] == 4
  bias = tf.train.load_variable(str(tmp_path / "copy"), "dense/bias")
  assert np.abs(bias).max() < 0.5
  assert content(tmp_path / "model") == before


# File systems with faults. An open file can't be unlinked, and there is no
# O_TMPFILE, as in shared folders of virtual machines; locks fail as errno says.
FAULTS = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
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

static int opened(const char *name, const char *path, int flags, int mode) {
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
  if (!getenv("NO_UNLINK") || (flags & O_TMPFILE) != O_TMPFILE)
    return real(path, flags, mode);
  errno = EOPNOTSUPP;
  return -1;
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = va_arg(list, int);
  va_end(list);
  return opened("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = va_arg(list, int);
  va_end(list);
  return opened("open64", path, flags, mode);
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
                   lambda: os.unlink(sys.argv[1]),
                   lambda: os.open(".", os.O_TMPFILE | os.O_RDWR)):
        try: call()
        except OSError as e: print(e.errno)"""
  assert subprocess.check_output(
      [sys.executable, "-c", code, str(tmp_path / "f")], env=faulty(
          FLOCK_ERRNO="38", NO_UNLINK="1")).split() == [b"38", b"26", b"95"]


@pytest.mark.parametrize("number", [errno.ENOSYS] + [
    pytest.param(number, marks=pytest.mark.slow)
    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF)])
def test_no_locks(flags, faulty, tmp_path, number):
  """Some network file systems have none: a warning, and the run goes on."""
  result = run_script(dict(flags, train_steps=2), process=True,
                      env=faulty(FLOCK_ERRNO=str(number)))
  assert result_of(result)[2] == 2
  warning, = re.findall(r"WARNING .*locked.*", result.stderr)
  assert "--model_dir=%s" % flags["model_dir"] in warning
  assert os.strerror(number) in warning


def test_shared_folder(flags, faulty, tmp_path):
  """Of a virtual machine: an open file can't be deleted there."""
  flags["export_dir"] = tmp_path / "export"
  result = run_script(dict(flags, train_steps=2), process=True,
                      env=faulty(NO_UNLINK="1"))
  assert result_of(result)[2] == 2
  for directory in flags["model_dir"], flags["export_dir"]:
    assert not [name for name in os.listdir(str(directory))
                if name.startswith(".") and name != ".lock"]


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
     ["dense_1/bias", "not finite", "an earlier checkpoint"]),
    ({"conv2d__kernel": lambda kernel: kernel + np.inf},
     ["conv2d/kernel", "not finite", "an earlier checkpoint"]),
])
def test_variables_that_do_not_fit(flags, tmp_path, picture, changes, words):
  """Of another type, of Adam, or ruined: told with advice that keeps them."""
  model_dir = tmp_path / "model"
  result_of(run_script(dict(flags, train_steps=2)))
  save_again(model_dir, **changes)
  before = content(model_dir)
  runs = [{"train_steps": 2}, {"train_steps": 3}, {"predict": picture}]
  if "beta1_power" in changes:  # Without training, an optimizer is no matter.
    result = run_script({"model_dir": model_dir, "predict": picture})
    assert result.returncode == 0, result.stderr
    runs.pop()
  for more in runs:
    result = run_script(dict(flags, **more))
    result.check_error("--model_dir=%s" % model_dir, *words)
    assert "elete" not in result.stderr.splitlines()[-1]
  assert content(model_dir) == before


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
    result.check_error("--model_dir=", "holds another network")


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
