"""The whole script as a process: runs, stops, faults."""
import glob
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

import cnn_mnist
import handwritten_digits
from conftest import (
    ROOT, SCRIPT, UNPRIVILEGED, Result, run_script, start_script)


def result_of(result):
  """The dict that a successful run prints, after checks of all of stdout."""
  assert result.returncode == 0, result.stderr
  match = re.match(r"^\{'accuracy': ([\d.]+), 'loss': ([\d.e-]+), "
                   r"'global_step': (\d+)\}\n$", result.stdout)
  assert match, result.stdout
  return float(match.group(1)), float(match.group(2)), int(match.group(3))


def step_of(model_dir):
  """The step of the newest checkpoint, read by TensorFlow; None without one."""
  path = tf.train.latest_checkpoint(str(model_dir))
  return path and int(tf.train.load_variable(path, "global_step"))


class Running(object):
  """A run in the background whose log can be waited for."""

  def __init__(self, *flags, **kwargs):
    kwargs.setdefault("stdout", subprocess.DEVNULL)
    self.process = start_script(*flags, **kwargs)
    self.log = []
    self._reader = threading.Thread(target=self._read)
    self._reader.start()

  def _read(self):
    for line in self.process.stderr:
      self.log.append(line)

  def wait_for(self, text, timeout=120):
    end = time.time() + timeout
    while not any(text in line for line in self.log):
      assert time.time() < end and self.process.poll() is None, self.log
      time.sleep(0.02)

  def wait(self, timeout=60):
    try:
      self.process.wait(timeout)
    finally:
      self.process.kill()
    self._reader.join()
    return self.process.returncode


@pytest.fixture
def flags(digits_dir, tmp_path):
  """Flags of a quick run on the digits; the model is in tmp_path/model."""
  return ["--data_dir=" + digits_dir, "--model_dir=%s" % (tmp_path / "model"),
          "--batch_size=10", "--learning_rate=0.05"]


def test_run(trained):
  model_dir, result = trained
  accuracy, loss, step = result_of(result)
  assert accuracy > 0.75 and 0 < loss < 0.8 and step == 200
  assert "At step 0 of 200: training" in result.stderr
  assert result.stderr.count("probabilities = [[") == 4  # 200 / 50
  losses = [float(x) for x in re.findall(r"loss = ([\d.]+), step = ",
                                         result.stderr)]
  assert len(losses) == 2 and losses[1] < losses[0] / 2
  assert "deprecated" not in result.stderr
  assert "Warning" not in result.stderr
  assert step_of(model_dir) == 200


def test_run_again_only_evaluates(trained, digits_dir):
  model_dir, first = trained
  again = run_script("--data_dir=" + digits_dir, "--model_dir=" + model_dir,
                     "--train_steps=200")
  assert result_of(again) == result_of(first)
  assert "At step 200 of 200: no training" in again.stderr
  assert "probabilities" not in again.stderr


def test_run_to_a_later_step(flags, tmp_path):
  assert result_of(run_script("--train_steps=3", *flags))[2] == 3
  result = run_script("--train_steps=5", *flags)
  assert result_of(result)[2] == 5
  assert "At step 3 of 5: training" in result.stderr
  assert step_of(tmp_path / "model") == 5


def test_real_mnist(mnist_dir, tmp_path):
  result = run_script("--data_dir=" + mnist_dir, "--model_dir=%s" % tmp_path,
                      "--train_steps=300", "--learning_rate=0.2")
  assert result_of(result)[0] > 0.95


def test_seed(flags, tmp_path):
  """What --seed's help promises of the initial weights, and what it doesn't."""
  weights = {}
  for run, seed in (("a", "7"), ("b", "7"), ("c", "8"), ("d", None),
                    ("e", None)):
    model_dir = str(tmp_path / run)
    result_of(run_script(
        *flags + ["--model_dir=" + model_dir, "--train_steps=2"] +
        (["--seed=" + seed] if seed else [])))
    weights[run] = [tf.train.load_variable(
        model_dir + "/model.ckpt-%d" % step, "conv2d/kernel")
                    for step in (0, 2)]
  assert (weights["a"][0] == weights["b"][0]).all()
  assert (weights["a"][1] != weights["b"][1]).any()
  for other in "cde":
    assert (weights["a"][0] != weights[other][0]).any()
  assert (weights["d"][0] != weights["e"][0]).any()


def test_progress(caplog):
  """A real session of 0.25 s a step: the rate and the time left are right."""
  caplog.set_level("INFO", logger="tensorflow")
  with tf.Graph().as_default():
    step = tf.train.create_global_step()
    add = tf.assign_add(step, 1)
    with tf.train.MonitoredSession(hooks=[
        cnn_mnist.ProgressHook(1000)]) as session:
      for _ in range(45):
        time.sleep(0.25)
        session.run(add)
  done, rate, minutes, seconds = re.search(
      r"Step (\d+) of 1000, ([\d.]+) steps/s, 0:(\d\d):(\d\d) left",
      caplog.text).groups()
  assert 30 < int(done) < 45 and 3 < float(rate) <= 4
  left = (1000 - int(done)) / float(rate)
  assert abs(60 * int(minutes) + int(seconds) - left) < 5


def test_import_does_nothing():
  code = ("import logging, os, signal; before = os.listdir('.'); "
          "import cnn_mnist; assert os.listdir('.') == before; "
          "assert not logging.root.handlers; "
          "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL")
  result = subprocess.run(
      [sys.executable, "-W", "error::FutureWarning", "-c", code], cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  assert (result.returncode, result.stdout) == (0, b"")


def test_without_tensorflow():
  """-S hides what is installed."""
  process = subprocess.Popen(
      [sys.executable, "-S", SCRIPT], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, universal_newlines=True)
  result = Result(process, 60)
  assert result.returncode == 1 and result.stdout == ""
  assert len(result.stderr.splitlines()) == 1
  assert sys.executable in result.stderr
  assert "python3.7 -m pip install -r requirements.txt" in result.stderr


@pytest.mark.parametrize("flag,words", [
    ("--train_step=5", ["train_step'", "train_steps"]),
    ("--train_steps=many", ["train_steps", "many"]),
    ("--train_steps=0", ["train_steps"]),
    ("--batch_size=-1", ["batch_size"]),
    ("--batch_size=1.5", ["batch_size"]),
    ("--batch_size", ["batch_size"]),
    ("--learning_rate=0", ["learning_rate"]),
    ("--learning_rate=-0.1", ["learning_rate"]),
    ("--learning_rate=nan", ["learning_rate"]),
    ("--learning_rate=inf", ["learning_rate"]),
    ("--learning_rate=fast", ["learning_rate", "fast"]),
    ("--log_every_n_iter=0", ["log_every_n_iter"]),
    ("--save_checkpoints_steps=0", ["save_checkpoints_steps"]),
    ("--seed=-1", ["seed"]),
    ("--train_steps=99999999999999999999", ["train_steps"]),
    ("--batch_size=99999999999999999999", ["batch_size"]),
    ("--seed=99999999999999999999", ["seed"]),
    ("--data_dir=", ["data_dir", "no folder"]),
    ("--model_dir=", ["model_dir", "no folder"]),
    ("--export_dir=", ["export_dir", "no folder"]),
    ("--predict=", ["predict", "no picture"]),
    ("--predict=a.png,", ["predict", "no picture"]),
    ("MNIST-data", ["MNIST-data"]),
])
def test_wrong_flag(flag, words, tmp_path):
  result = run_script(flag, cwd=str(tmp_path))
  result.check_error(*words)
  assert len(result.stderr.splitlines()) == 1


def test_help():
  result = run_script("--help")
  for flag in ("data_dir", "model_dir", "train_steps", "batch_size", "seed",
               "learning_rate", "log_every_n_iter", "save_checkpoints_steps",
               "predict", "export_dir"):
    assert "--" + flag in result.stdout.replace("--[no]", "--")


def test_no_network(tmp_path):
  """Names don't resolve in a network namespace of its own."""
  prefix = ["unshare", "--net"]
  if subprocess.call(prefix + ["true"]):
    pytest.skip("no right to make a network namespace")
  start = time.time()
  data_dir = str(tmp_path / "data")
  result = run_script("--data_dir=" + data_dir,
                      "--model_dir=%s" % (tmp_path / "m"), prefix=prefix)
  assert time.time() - start < 30
  result.check_error("train-images-idx3-ubyte.gz", data_dir,
                     "tests/handwritten_digits.py", *cnn_mnist.MIRRORS)
  assert os.listdir(data_dir) == []


def test_killed_twenty_times(flags, tmp_path):
  """Half of the runs save at each step, to be killed while writing."""
  model_dir = tmp_path / "model"
  rng = random.Random(1)
  last = 0
  for i in range(20):
    every = (1, 10)[i % 2]
    run = Running("--train_steps=1000000",
                  "--save_checkpoints_steps=%d" % every, *flags)
    run.wait_for("At step %d of 1000000: training" % last)
    run.wait_for("Saving checkpoints for %d " % last)
    time.sleep(rng.uniform(0, 1))
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    saved = [int(step) for step in re.findall(r"Saving checkpoints for (\d+) ",
                                              "".join(run.log))]
    # Only the checkpoint that was being written can be missing.
    last = step_of(model_dir)
    assert last in saved[-2:]
    assert all(later - earlier == every
               for earlier, later in zip(saved[1:], saved[2:]))
  assert last > 0
  result = run_script("--train_steps=%d" % (last + 7), *flags)
  assert "At step %d of %d: training" % (last, last + 7) in result.stderr
  assert result_of(result)[2] == last + 7


def descendant(pid):
  """The process at the end of a chain of single children."""
  while True:
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
      children = f.read().split()
    if not children:
      return pid
    pid = int(children[0])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("prefix", [[], ["unshare", "--pid", "--fork"]])
def test_signal_while_training(flags, tmp_path, signum, prefix):
  """Also as PID 1, which has no default for signals."""
  if prefix and subprocess.call(prefix + ["true"]):
    pytest.skip("no right to make a PID namespace")
  run = Running("--train_steps=1000000", "--save_checkpoints_steps=1000000",
                prefix=prefix, *flags)
  run.wait_for("loss = ")
  time.sleep(0.5)
  os.kill(descendant(run.process.pid), signum)
  start = time.time()
  assert run.wait() == 128 + signum
  assert time.time() - start < 5
  step = step_of(tmp_path / "model")
  assert step > 1
  assert "Stopped by signal %d" % signum in "".join(run.log)
  assert "Traceback" not in "".join(run.log)
  result = run_script("--train_steps=%d" % (step + 2), *flags)
  assert "At step %d of %d: training" % (step, step + 2) in result.stderr
  assert result_of(result)[2] == step + 2


def test_two_signals_at_once(flags, tmp_path):
  """As timeout(1) sends them, to the process and to its group: that is one."""
  run = Running("--train_steps=1000000", "--save_checkpoints_steps=1000000",
                *flags)
  run.wait_for("loss = ")
  for _ in range(2):
    os.kill(run.process.pid, signal.SIGTERM)
    time.sleep(0.02)
  # Python ends without its handlers: one that comes so late gives -15, which
  # is the same 143 to a shell.
  assert run.wait() in (128 + signal.SIGTERM, -signal.SIGTERM)
  assert step_of(tmp_path / "model") > 1
  assert "Stopped by signal 15" in "".join(run.log)


@pytest.mark.parametrize("prefix", [[], ["unshare", "--pid", "--fork"]])
def test_second_signal(flags, prefix):
  """In a step of many seconds: the first waits for its end, not the second."""
  if prefix and subprocess.call(prefix + ["true"]):
    pytest.skip("no right to make a PID namespace")
  run = Running("--batch_size=8000", prefix=prefix, *flags[:2])
  run.wait_for("Saving checkpoints for 0 ")
  time.sleep(2)
  pid = descendant(run.process.pid)
  os.kill(pid, signal.SIGTERM)
  time.sleep(1)
  assert run.process.poll() is None
  os.kill(pid, signal.SIGTERM)
  start = time.time()
  assert run.wait() == 128 + signal.SIGTERM
  assert time.time() - start < 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_training(flags, tmp_path, signum):
  """While it waits for data, of a pipe: it ends at once, silently."""
  os.mkfifo(str(tmp_path / "train-images-idx3-ubyte"))
  for name in cnn_mnist.SHA256:
    if not name.startswith("train-images"):
      (tmp_path / name).write_bytes(b"")
  run = Running("--data_dir=%s" % tmp_path, *flags[1:])
  run.wait_for("Using config")
  time.sleep(1)
  run.process.send_signal(signum)
  start = time.time()
  assert run.wait() == 128 + signum
  assert time.time() - start < 2
  assert "Traceback" not in "".join(run.log)


def test_disk_full(flags, tmp_path):
  mount = str(tmp_path / "model")
  os.mkdir(mount)
  if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=35m", "t", mount]):
    pytest.skip("no right to mount")
  try:
    flags = flags + ["--train_steps=50", "--save_checkpoints_steps=10"]
    run_script(*flags).check_error("No space left", mount)
    # What was saved before is whole, and the run goes on once there is room.
    step = step_of(mount)
    assert step in (0, 10)
    subprocess.check_call(["mount", "-o", "remount,size=300m", mount])
    result = run_script(*flags)
    assert "At step %d of 50: training" % step in result.stderr
    assert result_of(result)[2] == 50
  finally:
    subprocess.check_call(["umount", mount])


def test_model_dir_is_a_file(flags, tmp_path):
  path = tmp_path / "model"
  path.write_text(u"not a folder")
  result = run_script(*flags)
  result.check_error("--model_dir=%s" % path)
  assert "At step" not in result.stderr
  assert path.read_text() == "not a folder"


def test_model_dir_not_writable(flags, tmp_path):
  path = tmp_path / "model"
  path.mkdir()
  path.chmod(0o555)
  result = run_script(*flags, prefix=UNPRIVILEGED)
  result.check_error("--model_dir=%s" % path, "Permission denied")
  assert "At step" not in result.stderr
  assert not list(path.iterdir())


def content(folder):
  """The hash of each file in a folder."""
  return {path: hashlib.sha256(open(path, "rb").read()).hexdigest()
          for path in glob.glob(str(folder / "*"))}


@pytest.mark.parametrize("units,extra,words", [
    (512, None, ["dense/bias", "[512]", "[1024]"]),
    (1024, "more/weights", ["more/weights", "absent"]),
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
  run_script(*flags).check_error("--model_dir=%s" % model_dir, *words)
  assert content(model_dir) == before
  assert sorted(os.listdir(str(model_dir))) == sorted(
      os.path.basename(path) for path in before)


def test_damaged_checkpoint(flags, tmp_path):
  """As after a power cut: the earlier one is used, with a warning."""
  model_dir = tmp_path / "model"
  flags = flags + ["--save_checkpoints_steps=2"]
  result_of(run_script("--train_steps=4", *flags))
  for path in glob.glob(str(model_dir / "model.ckpt-4.data*")):
    with open(path, "r+b") as f:
      f.truncate(1000000)
  result = run_script("--train_steps=5", *flags)
  assert "Passing over a damaged checkpoint: %s (" % (
      model_dir / "model.ckpt-4") in result.stderr
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
  run_script("--train_steps=9", *flags).check_error(
      "--model_dir=%s" % model_dir)
  (model_dir / "checkpoint").write_text(u"")
  run_script("--train_steps=9", *flags).check_error(
      "--model_dir=%s" % model_dir)


def test_two_runs_in_one_model_dir(flags, tmp_path):
  run = Running("--train_steps=1000000", *flags)
  run.wait_for("loss = ")
  before = sorted(os.listdir(str(tmp_path / "model")))
  run_script(*flags).check_error(
      "--model_dir=%s is in use" % (tmp_path / "model"))
  assert sorted(os.listdir(str(tmp_path / "model"))) == before
  assert run.process.poll() is None
  run.process.terminate()
  assert run.wait() == 128 + signal.SIGTERM
  # The lock went with it.
  step = step_of(tmp_path / "model")
  assert result_of(run_script("--train_steps=%d" % (step + 1), *flags))


@pytest.mark.parametrize("unused_time", range(5))
def test_nan_loss(flags, tmp_path, unused_time):
  """It may also become huge and stay so: the first steps decide."""
  rate = ["--learning_rate=1000", "--train_steps=100"]
  run_script(*flags + rate).check_error("--learning_rate", "1000", "NaN")
  # With the right one, it goes on from the checkpoint of before.
  assert step_of(tmp_path / "model") == 0
  assert result_of(run_script("--train_steps=5", *flags))[2] == 5


def test_faulty_data_file(flags, tmp_path):
  """Every fault of a file is in test_data.py; here, what becomes of one."""
  folder = tmp_path / "data"
  handwritten_digits.write_digits(str(folder))
  path = folder / "t10k-labels-idx1-ubyte.gz"
  path.write_bytes(path.read_bytes()[:-3])
  result = run_script(*flags + ["--data_dir=%s" % folder])
  result.check_error(path)
  assert "At step" not in result.stderr


def write_split(folder, name, images, labels):
  handwritten_digits.write_idx(
      str(folder / (name + "-images-idx3-ubyte.gz")), images)
  handwritten_digits.write_idx(
      str(folder / (name + "-labels-idx1-ubyte.gz")), labels)


def test_small_and_lopsided_data(flags, tmp_path):
  images, labels = handwritten_digits.load_digits()
  data = ["--data_dir=%s" % tmp_path, "--train_steps=3"]
  # Labels of the test data that training never saw
  few = labels < 5
  write_split(tmp_path, "train", images[few], labels[few])
  write_split(tmp_path, "t10k", images[~few], labels[~few])
  accuracy, _, step = result_of(run_script(*flags + data))
  assert accuracy <= 0.5 and step == 3
  # One example of each, in a batch of 10
  write_split(tmp_path, "train", images[:1], labels[:1])
  write_split(tmp_path, "t10k", images[:1], labels[:1])
  flags[1] += "1"
  accuracy, _, step = result_of(run_script(*flags + data))
  assert accuracy in (0, 1) and step == 3


def test_batch_larger_than_the_data(flags):
  result = run_script("--batch_size=1500", "--train_steps=2", *flags[:2])
  assert result_of(result)[2] == 2
