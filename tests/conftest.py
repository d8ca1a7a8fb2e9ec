"""What the tests share: the data, and the script as a process."""
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "cnn_mnist.py")
sys.path.insert(0, ROOT)

# In front of a command: the permissions of files hold for root too.
UNPRIVILEGED = [] if os.getuid() else [
    "setpriv", "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search"]

import handwritten_digits  # pylint: disable=wrong-import-position


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """Folder with the handwritten digits in MNIST's four files."""
  folder = str(tmp_path_factory.mktemp("digits"))
  handwritten_digits.write_digits(folder)
  return folder


@pytest.fixture(scope="session")
def mnist_dir():
  """Folder with the real MNIST, from the environment."""
  if "MNIST_DIR" not in os.environ:
    pytest.skip("MNIST_DIR is not set")
  return os.environ["MNIST_DIR"]


def start_script(*flags, **kwargs):
  """Starts cnn_mnist.py with pipes for its output; returns the Popen."""
  kwargs.setdefault("stdout", subprocess.PIPE)
  kwargs.setdefault("stderr", subprocess.PIPE)
  prefix = kwargs.pop("prefix", [])
  return subprocess.Popen(prefix + [sys.executable, SCRIPT] + list(flags),
                          universal_newlines=True, **kwargs)


class Result(object):
  """What a finished process gave."""

  def __init__(self, process, timeout):
    try:
      self.stdout, self.stderr = process.communicate(timeout=timeout)
    finally:
      process.kill()
    self.returncode = process.returncode

  def check_error(self, *words):
    """Checks that it failed with one line that has the words, no traceback."""
    assert self.returncode not in (0, None), self.stderr
    assert self.stdout == ""
    assert "Traceback" not in self.stderr, self.stderr
    last = self.stderr.splitlines()[-1]
    assert last.startswith("cnn_mnist.py: error: "), self.stderr
    assert self.stderr.count("cnn_mnist.py: error: ") == 1
    for word in words:
      assert str(word) in last, last


def run_script(*flags, **kwargs):
  """Runs cnn_mnist.py to its end."""
  timeout = kwargs.pop("timeout", 300)
  return Result(start_script(*flags, **kwargs), timeout)


@pytest.fixture(scope="session")
def trained(digits_dir, tmp_path_factory):
  """(model_dir, Result) of a run on the digits, 200 steps."""
  model_dir = str(tmp_path_factory.mktemp("trained"))
  result = run_script("--data_dir=" + digits_dir, "--model_dir=" + model_dir,
                      "--train_steps=200", "--learning_rate=0.1",
                      "--save_checkpoints_steps=100")
  assert result.returncode == 0, result.stderr
  return model_dir, result
