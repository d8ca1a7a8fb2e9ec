"""What the tests share: the data, and the script, run here or as a process."""
import contextlib
import fcntl
import glob
import hashlib
import io
import logging
import os
import pickle
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time

from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "cnn_mnist.py")
MINOR = tuple(int(part) for part in tf.__version__.split(".")[:2])
sys.path.insert(0, ROOT)

import handwritten_digits  # noqa: E402

# For the graphs that the tests build themselves; the script does it too.
tf.disable_v2_behavior()

# Where these signals are ignored, as under nohup, the script would inherit
# that. It does not inherit a handler.
for number in (signal.SIGINT, signal.SIGHUP):
  if signal.getsignal(number) == signal.SIG_IGN:
    signal.signal(number, lambda signum, frame: None)

# These go in front of a command. Permissions of files hold for root as well:
UNPRIVILEGED = [] if os.getuid() else [
    "setpriv", "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search"]
# The command becomes PID 1, and ends when unshare does:
AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child"]

# The beginning of each line of the log, and of the rows of an array in it.
LOG_LINE = r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) "
CONTINUATION = r" "
# What TensorFlow 2.21 says at its import, whatever its log's level is, and says
# once more: a second library in it does.
IMPORT_REMARKS = re.compile(r"""(?x) \A (?:
    WARNING: [ ]All [ ]log [ ]messages [ ]before [ ]absl::InitializeLog .* \n |
    I0000 .* oneDNN [ ]custom [ ]operations [ ]are [ ]on .* \n |
    I0000 .* Could [ ]not [ ]find [ ]cuda [ ]drivers .* \n){0,6}""")


def pytest_configure(config):
  """Hides what TensorFlow says at its import, and of tf.layers.

  The tests use those themselves. What is captured by now would be printed after
  the summary.
  """
  config.addinivalue_line("filterwarnings",
                          "ignore:.(tf.layers|layer.apply):UserWarning")
  # AutoGraph's, where an edited script has a Dataset
  config.addinivalue_line("filterwarnings",
                          "ignore:.*___pyct_anno:DeprecationWarning")
  config.pluginmanager.getplugin("capturemanager").read_global_capture()


def skip_unless_permitted(prefix):
  """Skips the test if a command with this prefix can't be run here."""
  if prefix and subprocess.call(prefix + ["true"], stderr=subprocess.DEVNULL):
    pytest.skip("not permitted: " + " ".join(prefix))


def make_once(tmp_path_factory, name, make):
  """Lets the first of the test processes make what all of them share.

  Args:
    tmp_path_factory: pytest's.
    name: of the directory for it.
    make: function of this directory, a pathlib.Path.

  Returns:
    What the function returned, which is pickled for the other processes.
  """
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent  # The other processes' directories are there too.
  result = root / (name + ".pickle")
  with open(str(root / (name + ".lock")), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not result.exists():
      (root / name).mkdir()
      result.write_bytes(pickle.dumps(make(root / name)))
  return pickle.loads(result.read_bytes())


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """Directory with the handwritten digits in MNIST's four files."""
  directory = str(tmp_path_factory.mktemp("digits"))
  handwritten_digits.write_digits(
      directory, *handwritten_digits.load_digits())
  return directory


@pytest.fixture(scope="session")
def mnist_dir():
  """Directory with the real MNIST, from the environment."""
  if "MNIST_DIR" not in os.environ:
    pytest.skip("MNIST_DIR is not set")
  return os.environ["MNIST_DIR"]


def write_split(directory, name, images, labels):
  """Writes the two files of "train" or "t10k"."""
  handwritten_digits.write_idx(
      str(directory / (name + "-images-idx3-ubyte.gz")), images)
  handwritten_digits.write_idx(
      str(directory / (name + "-labels-idx1-ubyte.gz")), labels)


@pytest.fixture
def flags(digits_dir, tmp_path):
  """Flags of a quick run on the digits; the model is in tmp_path/model."""
  return {"data_dir": digits_dir, "model_dir": tmp_path / "model",
          "batch_size": 10, "learning_rate": 0.05}


@pytest.fixture
def picture(tmp_path):
  """Path of a picture to classify: a vertical stroke, dark on white."""
  path = str(tmp_path / "stroke.png")
  image = Image.new("L", (28, 28), 255)
  image.paste(0, (12, 4, 15, 24))
  image.save(path)
  return path


def edit_script(directory, *edits):
  """Writes a copy of the script with (old, new) texts; returns its path."""
  with open(SCRIPT) as f:
    text = f.read()
  for old, new in edits:
    assert old in text, old
    text = text.replace(old, new)
  path = str(directory / "edited.py")
  with open(path, "w") as f:
    f.write(text)
  return path


@pytest.fixture
def nan_script(tmp_path):
  """Path of a copy of the script whose loss becomes NaN after the third step.

  A high learning rate does not always lead to that: the network may die first.
  """
  loss = "loss=loss, train_op=train_op"
  return edit_script(tmp_path, (loss, "loss=tf.log(3.5 - tf.cast("
                                "tf.train.get_global_step(), tf.float32)), "
                                "train_op=train_op"))


@pytest.fixture
def tensorflow_log():
  """What TensorFlow logs."""
  stream = io.StringIO()
  handler = logging.StreamHandler(stream)
  logger = logging.getLogger("tensorflow")
  level = logger.level
  logger.addHandler(handler)
  logger.setLevel("INFO")
  yield stream
  logger.removeHandler(handler)
  logger.setLevel(level)


def arguments_of(flags, **more):
  """The list of arguments for flags and their values."""
  return ["--%s=%s" % flag for flag in dict(flags, **more).items()]


def ended_by(signum):
  """The exit codes of a process that a signal ended: a shell's and Python's."""
  return 128 + signum, -signum


def start_script(flags, *arguments, **options):
  """Starts cnn_mnist.py with pipes for its output.

  Args:
    flags: dict of the flags and their values.
    *arguments: further arguments, as they are.
    **options: prefix: list, what goes in front of the command; python: the
      interpreter, if it is not this one; all others are Popen's.

  Returns:
    The Popen.
  """
  options.setdefault("stdout", subprocess.PIPE)
  options.setdefault("stderr", subprocess.PIPE)
  command = options.pop("prefix", []) + [
      options.pop("python", sys.executable), SCRIPT]
  command += arguments_of(flags) + list(arguments)
  return subprocess.Popen(command, universal_newlines=True, **options)


class Result(object):
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
    assert set(line[0] for line in usage.splitlines()[1:]) == {" "}, usage
    check_error_line(last, *words)


def check_error_line(stderr, *words):
  """Checks that the last line is an error with the words, the others a log."""
  log, last = stderr.splitlines()[:-1], stderr.splitlines()[-1]
  check_log(log)
  assert last.startswith("cnn_mnist.py: error: "), stderr
  for word in words:
    assert str(word) in last, last


def check_log(lines):
  """Checks that these are lines of absl's log, without warnings of Python."""
  for line in lines:
    assert re.match("%s|%s" % (LOG_LINE, CONTINUATION), line), line


def run_script(flags, *arguments, **options):
  """Runs cnn_mnist.py to its end, with arguments as start_script has them.

  That is in this process, which has TensorFlow already, if the options are no
  others than env, cwd, and script for an edited copy; process=True asks for a
  process of its own.
  """
  if not set(options) - {"env", "cwd", "script"}:
    return run_here(arguments_of(flags) + list(arguments), **options)
  options.pop("process", None)
  timeout = options.pop("timeout", 300)
  return finish(start_script(flags, *arguments, **options), timeout)


def run_code(python, code, *arguments):
  """Runs Python code with cnn_mnist on its path; returns its stdout."""
  result = finish(subprocess.Popen(
      [python, "-c", code] + list(arguments), stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, universal_newlines=True,
      env=dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")), 120)
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


def finish(process, timeout):
  """Waits for a process with pipes; returns its Result."""
  try:
    stdout, stderr = process.communicate(timeout=timeout)
  finally:
    process.kill()
  return Result(process.returncode, stdout, stderr)


def run_here(argv, env=None, cwd=".", script=SCRIPT):
  """Runs cnn_mnist.py as a program in this process; returns its Result."""
  before = dict(os.environ), os.getcwd(), sys.argv
  stdout, stderr, returncode = io.StringIO(), io.StringIO(), 0
  try:
    os.chdir(cwd)
    sys.argv = [script] + argv
    if env is not None:
      os.environ.clear()
      os.environ.update(env)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
      runpy.run_path(script, run_name="__main__")
  except SystemExit as e:
    returncode = e.code
    if not isinstance(e.code, int):  # Python prints it, and exits with 1.
      stderr.write("%s\n" % e.code)
      returncode = 1
  finally:
    os.environ.clear()
    os.environ.update(before[0])
    os.chdir(before[1])
    sys.argv = before[2]
  return Result(returncode, stdout.getvalue(), stderr.getvalue())


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


class Running(object):
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

  def wait_for(self, *words, **options):
    """Waits until a line of the log has all the words, in upper or lower case.

    Args:
      *words: what the line has to contain.
      **options: timeout: seconds, 120 if it is not given; since: the number of
        lines at the beginning of the log that don't count.
    """
    end = time.time() + options.get("timeout", 120)
    while not any(all(word.lower() in line.lower() for word in words)
                  for line in self.log[options.get("since", 0):]):
      assert time.time() < end and self.process.poll() is None, self.text()
      time.sleep(0.02)

  def wait(self, timeout=60):
    """Waits for the end; returns the exit code."""
    try:
      self.process.wait(timeout)
    finally:
      self.kill()
    return self.process.returncode

  def kill(self):
    """Kills the process, if it is left, and waits for it and its reader."""
    self.process.kill()
    self.process.wait()
    self._reader.join(10)


@pytest.fixture
def start_run():
  """Function like start_script that returns a Running; kills it at the end."""
  runs = []

  def start(flags, *arguments, **options):
    options.setdefault("stdout", subprocess.DEVNULL)
    runs.append(Running(start_script(flags, *arguments, **options)))
    return runs[-1]

  yield start
  for run in runs:
    run.kill()


def descendant(pid):
  """The process at the end of a chain of single children."""
  while True:
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
      children = f.read().split()
    if not children:
      return pid
    pid = int(children[0])


def step_of(model_dir):
  """The step of the newest checkpoint, read by TensorFlow; None without one."""
  path = tf.train.latest_checkpoint(str(model_dir))
  return path and int(tf.train.load_variable(path, "global_step"))


def content(directory):
  """The hash of each file in a directory."""
  hashes = {}
  for path in filter(os.path.isfile, glob.glob(str(directory / "*"))):
    with open(path, "rb") as f:
      hashes[path] = hashlib.sha256(f.read()).hexdigest()
  return hashes


def events(directory):
  """All values in the event files of a directory, by tag."""
  values = {}
  for name in os.listdir(directory):
    if "tfevents" in name:
      for event in tf.train.summary_iterator(os.path.join(directory, name)):
        for value in event.summary.value:
          values.setdefault(value.tag, []).append((event.step, value))
  return values


@pytest.fixture(scope="session")
def trained(digits_dir, tmp_path_factory):
  """(model_dir, Result) of a run on the digits, 200 steps; only to be read."""
  def make(directory):
    result = run_script({
        "data_dir": digits_dir, "model_dir": directory, "train_steps": 200,
        "batch_size": 50, "learning_rate": 0.15,
        "save_checkpoints_steps": 100})
    assert result.returncode == 0, result.stderr
    return str(directory), result

  return make_once(tmp_path_factory, "trained", make)


@pytest.fixture
def trained_copy(trained, tmp_path):
  """Another directory with that model, to be changed."""
  return shutil.copytree(trained[0], str(tmp_path / "copy"))


@pytest.fixture(scope="session")
def mnist_model(mnist_dir, tmp_path_factory):
  """(model_dir, Result) of a run on the real MNIST, 600 steps."""
  return make_once(tmp_path_factory, "mnist_model", lambda directory: (
      str(directory), run_script({
          "data_dir": mnist_dir, "model_dir": directory, "train_steps": 600,
          "learning_rate": 0.2})))
