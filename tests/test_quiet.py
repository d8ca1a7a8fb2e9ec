"""What is on stderr: the log, and no remarks of TensorFlow about itself."""
import glob
import os
import re
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

from conftest import check_log, finish, result_of, run_script

# A line that TensorFlow's C++ part logs, and one that warns: up to 2.17, those
# begin with the date, and later ones with a letter.
CPP_LINE = re.compile(r"^(?:\d{4}-\d\d-\d\d .*: [IWEF] |[IWEF]0000 )",
                      re.MULTILINE)
CPP_WARNING = re.compile(r"^(?:\d{4}-\d\d-\d\d .*: [WEF] |[WEF]0000 ).*",
                         re.MULTILINE)

# In front of a command, with an empty directory after it: there, /dev has the
# nodes of an NVIDIA device, though nothing is behind them.
WITH_DEVICE = ["unshare", "--mount", "sh", "-c", """
set -e
mount -t tmpfs tmpfs "$0"
for name in null zero random urandom; do
  touch "$0/$name"
  mount --bind "/dev/$name" "$0/$name"
done
mkdir "$0/shm"
touch "$0/nvidiactl" "$0/nvidia0"
mount --rbind "$0" /dev
exec "$@"
"""]

without_device = pytest.mark.skipif(
    bool(glob.glob("/dev/nvidia*")), reason="there is an NVIDIA device here")


@pytest.fixture
def environment():
  """The environment without a level of the C++ log that somebody set."""
  return {name: value for name, value in os.environ.items()
          if name != "TF_CPP_MIN_LOG_LEVEL"}


@without_device
def test_run(flags, environment, tmp_path):
  """A training, its evaluation and an export."""
  result = run_script(dict(flags, train_steps=3, export_dir=tmp_path / "e"),
                      env=environment, process=True)
  assert result_of(result)[2] == 3
  check_quiet(result.stderr)
  # What matters is logged, and what says nothing to a user is not.
  for words in ("TensorFlow", "At step 0 of 3", "loss = ", "Saving checkpoints",
                "Finished evaluation", "Exported to"):
    assert words in result.stderr
  for words in ("Create ", "Graph was", "local_init", "Calling", "Signatures",
                "Using config", "global_step/sec"):
    assert words not in result.stderr


@without_device
def test_predict(environment, picture, trained):
  result = run_script({"model_dir": trained[0], "predict": picture},
                      env=environment, process=True)
  assert result.returncode == 0, result.stderr
  check_quiet(result.stderr)


def check_quiet(stderr):
  """Checks that these are lines of absl's log, of which none is a remark."""
  check_log(stderr.splitlines())
  assert not CPP_LINE.search(stderr)
  for word in "deprecat", "warning", "contrib", "traceback":
    assert word not in stderr.lower()


def test_cpp_log_on_request(flags, environment):
  """What the environment asks for is shown."""
  result = run_script(dict(flags, train_steps=1), process=True,
                      env=dict(environment, TF_CPP_MIN_LOG_LEVEL="0"))
  assert result_of(result)[2] == 1
  assert CPP_LINE.search(result.stderr), result.stderr


def test_warnings_about_a_device(flags, environment, tmp_path):
  """Who has a device is told why TensorFlow can't use it."""
  directory = tmp_path / "dev"
  directory.mkdir()
  prefix = WITH_DEVICE + [str(directory)]
  if subprocess.call(prefix + ["test", "-e", "/dev/nvidiactl"]):
    pytest.skip("not permitted: unshare --mount, mount")
  result = run_script(dict(flags, train_steps=1), prefix=prefix,
                      env=environment)
  assert result_of(result)[2] == 1
  warnings = CPP_WARNING.findall(result.stderr)
  if tf.__version__.startswith("1."):
    # Either the driver's library is not there, or it finds no device.
    words = "Could not load dynamic library|failed call to cuInit"
  else:
    words = "cuda|TensorRT"
  assert any(re.search(words, line) for line in warnings), result.stderr
  # What is no warning remains hidden.
  assert len(CPP_LINE.findall(result.stderr)) == len(warnings)


def test_tensorboard():
  """It starts, with what the requirements installed beside it."""
  result = finish(subprocess.Popen(
      [sys.executable, "-m", "tensorboard.main", "--version"],
      env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"), stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, universal_newlines=True), 60)
  assert result.returncode == 0, result.stderr
  assert re.match(r"[12]\.\d+\.\d+$", result.stdout) and not result.stderr
