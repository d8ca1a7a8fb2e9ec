# SPDX-License-Identifier: Apache-2.0
"""How the tests run the script, and what they look at afterwards."""
import contextlib
import hashlib
import io
import os
from pathlib import Path
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "cnn_mnist.py"
MINOR = tuple(int(part) for part in tf.__version__.split(".")[:2])

# These go in front of a command. Permissions of files hold for root as well:
UNPRIVILEGED = [] if os.getuid() else [
    "setpriv", "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search"]
# The command becomes PID 1, and ends when unshare does:
AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child"]

# What TensorFlow 2.21 says at its import, whatever its log's level is, and says
# once more: a second library in it does.
IMPORT_REMARKS = re.compile(r"""(?x) \A (?:
    WARNING: [ ]All [ ]log [ ]messages [ ]before [ ]absl::InitializeLog .* \n |
    I0000 .* oneDNN [ ]custom [ ]operations [ ]are [ ]on .* \n |
    I0000 .* Could [ ]not [ ]find [ ]cuda [ ]drivers .* \n){0,6}""")


# ---- To run it ---------------------------------------------------------------

def arguments_of(flags, **more):
  """The list of arguments for flags and their values."""
  return [f"--{name}={value}" for name, value in dict(flags, **more).items()]


def run_here(flags, *arguments, env=None):
  """Runs the script in this process, which has TensorFlow already.

  Takes the flags as a dict, and further arguments as they are. Returns its
  Result; the environment is then as before.
  """
  before = dict(os.environ), sys.argv
  stdout, stderr, returncode = io.StringIO(), io.StringIO(), 0
  try:
    sys.argv = [str(SCRIPT), *arguments_of(flags), *map(str, arguments)]
    if env is not None:
      os.environ.clear()
      os.environ.update(env)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
      runpy.run_path(str(SCRIPT), run_name="__main__")
  except SystemExit as e:
    returncode = e.code
    if not isinstance(e.code, int):  # Python prints it, and exits with 1.
      stderr.write(f"{e.code}\n")
      returncode = 1
  finally:
    os.environ.clear()
    os.environ.update(before[0])
    sys.argv = before[1]
  return Result(returncode, stdout.getvalue(), stderr.getvalue())


def run_process(flags, *arguments, timeout=300, prefix=(),
                python=sys.executable, **options):
  """Runs the script in a process of its own; returns its Result.

  The prefix is a list that goes in front of the command; options are those of
  subprocess.run.
  """
  return run_command(
      [*prefix, python, SCRIPT, *arguments_of(flags), *arguments], timeout,
      **options)


def start(flags, *arguments, prefix=(), python=sys.executable, **options):
  """Starts what run_process runs; returns its Running. Stdout is dropped."""
  options.setdefault("stdout", subprocess.DEVNULL)
  return Running(subprocess.Popen(
      [*prefix, python, SCRIPT, *arguments_of(flags), *arguments],
      stderr=subprocess.PIPE, text=True, **options))


def run_code(python, code, *arguments):
  """Runs Python code with cnn_mnist on its path; returns its stdout."""
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  result = run_command(
      [python, "-c", code, *arguments], 120,
      env=dict(os.environ, PYTHONPATH=path, TF_CPP_MIN_LOG_LEVEL="3"))
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


def run_command(command, timeout=300, **options):
  """Runs any command, for so many seconds at most; returns its Result."""
  done = subprocess.run(command, timeout=timeout, capture_output=True,
                        text=True, check=False, **options)
  return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def serve(command, url, **options):
  """Runs a server while the block lasts, and gives it the page at the url."""
  process = subprocess.Popen(command, **options)

  def page():
    assert process.poll() is None
    with contextlib.suppress(urllib.error.URLError):
      return urllib.request.urlopen(url).read()

  try:
    yield wait_until(page, 120)
  finally:
    process.kill()
    process.wait()


def wait_until(condition, timeout=60):
  """Waits until condition() is true; returns what it returned."""
  end = time.time() + timeout
  while True:
    result = condition()
    if result:
      return result
    assert time.time() < end, "timeout"
    time.sleep(0.02)


class Running:
  """A run in the background whose log can be waited for."""

  def __init__(self, process):
    self.process = process
    self.log = []
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self):
    for line in self.process.stderr:
      self.log.append(line)

  def text(self):
    """All that was logged so far."""
    return "".join(self.log)

  def wait_until(self, condition, timeout=120):
    """Waits until condition() is true, while the process runs."""
    def check():
      assert self.process.poll() is None, self.text()
      return condition()

    return wait_until(check, timeout)

  def wait_for(self, words, since=0):
    """Waits until a line of the log has the words, not before line `since`."""
    self.wait_until(lambda: any(words in line for line in self.log[since:]))

  def wait(self, timeout=60):
    """Waits for the end; returns the exit code."""
    try:
      self.process.wait(timeout)
    finally:
      self.kill()
    return self.process.returncode

  def end(self, signum, timeout=60):
    """Sends a signal and waits; returns the exit code and the seconds."""
    assert self.process.poll() is None, self.text()
    begin = time.time()
    self.process.send_signal(signum)
    code = self.wait(timeout)
    assert "Traceback" not in self.text()
    return code, time.time() - begin

  def kill(self):
    """Kills the process, if it is left, and waits for it and its reader."""
    self.process.kill()
    self.process.wait()
    self._reader.join(10)


def ended_by(signum):
  """The exit codes of a process that a signal ended: a shell's and Python's."""
  return 128 + signum, -signum


def skip_unless_permitted(prefix):
  """Skips the test if a command with this prefix can't be run here."""
  if prefix and subprocess.call([*prefix, "true"], stderr=subprocess.DEVNULL):
    pytest.skip("not permitted: " + " ".join(prefix))


def free_addresses(count):
  """Addresses of loopback at which nothing listens."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for s in sockets:
      s.bind(("127.0.0.1", 0))
    return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]


# ---- What it says ------------------------------------------------------------

class Result:
  """What a run gave."""

  def __init__(self, returncode, stdout, stderr):
    self.returncode, self.stdout = returncode, stdout
    self.stderr = IMPORT_REMARKS.sub("", stderr)

  def check_error(self, *words):
    """Checks that it failed with one line that has the words.

    It is the last of stderr, and only lines of the log come before it.
    """
    assert self.returncode not in (0, None), self.stderr
    assert self.stdout == ""
    check_error_line(self.stderr, *words)

  def check_wrong_flag(self, *words):
    """Checks that it failed with usage and one line that has the words."""
    assert self.returncode == 2 and self.stdout == "", self.stderr
    usage, last = self.stderr.rstrip("\n").rsplit("\n", 1)
    assert usage.startswith("usage: cnn_mnist.py [-h]")
    assert {line[0] for line in usage.splitlines()[1:]} == {" "}, usage
    check_error_line(last, *words)


def check_error_line(stderr, *words):
  """Checks that the last line is an error with the words, the others a log."""
  *log, last = stderr.splitlines()
  check_log(log)
  assert last.startswith("cnn_mnist.py: error: "), stderr
  for word in words:
    assert str(word) in last, last


def check_log(lines):
  """Checks that these are a log's lines, or the further rows of an array."""
  for line in lines:
    assert re.match(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) | ", line), line


def result_of(result):
  """Checks a successful run's stdout; returns its accuracy, loss and step."""
  assert result.returncode == 0, result.stderr
  return parse_result(result.stdout)


def parse_result(stdout):
  """Checks that this is the result's line; returns accuracy, loss and step."""
  match = re.match(r"^\{'accuracy': ([\d.]+), 'loss': ([\d.e-]+), "
                   r"'global_step': (\d+)\}\n$", stdout)
  assert match, stdout
  return float(match.group(1)), float(match.group(2)), int(match.group(3))


def parse_predictions(stdout):
  """Checks the form of --predict's lines; returns (path, digit) of each."""
  lines = [line.split("\t") for line in stdout.splitlines()]
  for line in lines:
    assert len(line) == 3 and re.match(r"^[01]\.\d{4}$", line[2]), line
  return [(line[0], int(line[1])) for line in lines]


# ---- What it leaves ----------------------------------------------------------

def step_of(model_dir):
  """The step of the newest checkpoint, read by TensorFlow; or None."""
  path = tf.train.latest_checkpoint(str(model_dir))
  return path and int(tf.train.load_variable(path, "global_step"))


def weights_of(model_dir):
  """The newest checkpoint's arrays, by their names."""
  reader = tf.train.load_checkpoint(str(model_dir))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


def file_hashes(directory):
  """The hash of each file in a directory, by its name."""
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
          for path in directory.iterdir() if path.is_file()}


def events(directory):
  """All values in the event files of a directory, by tag: (step, value)s."""
  values = {}
  for path in Path(directory).glob("*tfevents*"):
    for event in tf.train.summary_iterator(str(path)):
      for value in event.summary.value:
        values.setdefault(value.tag, []).append((event.step, value))
  return values


def predict(model_dir, images):
  """What a trained network gives for float32 images: arrays, by their names."""
  predictions = list(
      tf.estimator.Estimator(cnn_mnist.cnn_model_fn, str(model_dir)).predict(
          tf.estimator.inputs.numpy_input_fn({"x": images}, shuffle=False)))
  return {name: np.array([p[name] for p in predictions])
          for name in ("classes", "probabilities")}


def copy_of(directory, target):
  """Copies a directory; returns the copy's Path, to be changed."""
  return Path(shutil.copytree(str(directory), str(target)))
