"""Signals: what ends a run at once, and what lets it save its checkpoint."""
import errno
import os
import random
import re
import signal
import time

import pytest

import cnn_mnist
from conftest import (
    AS_PID_1, descendant, ended_by, result_of,
    run_script, skip_unless_permitted, step_of, write_split)
import handwritten_digits

# SIGHUP is handled as SIGTERM is; SIGINT has a handler of Python's.
every_signal = pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, pytest.param(
        signal.SIGHUP, marks=pytest.mark.slow)])
also_as_pid_1 = pytest.mark.parametrize("prefix", [[], pytest.param(
    AS_PID_1, marks=pytest.mark.slow)])


@pytest.mark.parametrize("times", [
    2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed(flags, start_run, tmp_path, times):
  """Half of the runs save at each step, to be killed while writing."""
  model_dir = tmp_path / "model"
  rng = random.Random(1)
  last = 0
  for i in range(times):
    every = (1, 10)[i % 2]
    run = start_run(dict(flags, train_steps=1000000,
                         save_checkpoints_steps=every))
    run.wait_for("At step %d of 1000000: training" % last)
    # Before the first step, TensorFlow overwrites the checkpoint that it has
    # just restored: a kill in that fraction of a millisecond damages it.
    run.wait_for("loss = ")
    time.sleep(rng.uniform(0, 1))
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    saved = [int(step) for step in re.findall(r"Saving checkpoints for (\d+) ",
                                              run.text())]
    # Only the checkpoint that was being written can be missing.
    last = step_of(model_dir)
    assert last in saved[-2:]
    assert all(later - earlier == every
               for earlier, later in zip(saved[1:], saved[2:]))
  assert last > 0
  result = run_script(dict(flags, train_steps=last + 7))
  assert "At step %d of %d: training" % (last, last + 7) in result.stderr
  assert result_of(result)[2] == last + 7


@every_signal
@also_as_pid_1
def test_signal_while_training(flags, start_run, tmp_path, signum, prefix):
  """Also as PID 1, for which the kernel has no default action."""
  skip_unless_permitted(prefix)
  run = start_run(dict(flags, train_steps=1000000,
                       save_checkpoints_steps=1000000), prefix=prefix)
  run.wait_for("loss = ")
  time.sleep(0.5)
  start = time.time()
  os.kill(descendant(run.process.pid), signum)
  # docker stop kills after 10 s. After the checkpoint, the process still has to
  # unload TensorFlow 2, which takes it a second even after a bare import.
  assert run.wait(10) == 128 + signum
  assert os.path.getmtime(str(tmp_path / "model" / "checkpoint")) < start + 5
  step = step_of(tmp_path / "model")
  assert step > 1
  assert "Stopped by signal %d" % signum in run.text()
  assert "Traceback" not in run.text()
  result = run_script(dict(flags, train_steps=step + 2))
  assert "At step %d of %d: training" % (step, step + 2) in result.stderr
  assert result_of(result)[2] == step + 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_at_once(flags, start_run, tmp_path, signum):
  """As timeout(1) and uv send them, to the process and its group: it is one."""
  run = start_run(dict(flags, train_steps=1000000,
                       save_checkpoints_steps=1000000))
  run.wait_for("loss = ")
  for _ in range(2):
    os.kill(run.process.pid, signum)
    time.sleep(0.2 if signum == signal.SIGINT else 0.02)
  # Python ends without its handlers: one that comes so late gives -15, which
  # is the same 143 to a shell.
  assert run.wait() in ended_by(signum)
  assert step_of(tmp_path / "model") > 1
  assert "Stopped by signal %d" % signum in run.text()


def test_nohup(flags, start_run, tmp_path):
  """What nohup has the script ignore, it ignores; other signals stop it."""
  run = start_run(dict(flags, train_steps=1000000, log_every_n_iter=1,
                       save_checkpoints_steps=1000000), prefix=["nohup"])
  run.wait_for("loss = ")
  for _ in range(2):  # A second signal is not one to end at once either.
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
  run.wait_for("probabilities = ", since=len(run.log))
  assert "Stopped" not in run.text()
  run.process.send_signal(signal.SIGTERM)
  assert run.wait() == 128 + signal.SIGTERM
  assert "Stopped by signal 15" in run.text()
  assert step_of(tmp_path / "model") > 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(
    signal.SIGHUP, marks=pytest.mark.slow)])
def test_signal_during_the_imports(flags, start_run, signum):
  """They take a second or more, before the first line of the log."""
  run = start_run(flags)
  # The script has begun once it reads TensorFlow's or NumPy's libraries.
  end = time.time() + 30
  while True:
    with open("/proc/%d/maps" % run.process.pid) as f:
      if "/numpy/" in f.read():
        break
    assert time.time() < end and run.process.poll() is None, run.text()
    time.sleep(0.01)
  time.sleep(0.1)
  assert run.log == []
  run.process.send_signal(signum)
  start = time.time()
  assert run.wait() in ended_by(signum)
  assert time.time() - start < 1
  assert run.log == []


def open_for_writing(path, run):
  """Opens a named pipe as soon as the run reads it."""
  end = time.time() + 60
  while True:
    try:
      return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as e:
      assert e.errno == errno.ENXIO, e  # Nobody reads it.
      assert time.time() < end and run.process.poll() is None, run.text()
      time.sleep(0.02)


@every_signal
def test_signal_before_training(flags, start_run, tmp_path, signum):
  """While it waits for data from a pipe, it ends at once, silently.

  With SIGINT it is Python that ends, which takes its time.
  """
  pipe = str(tmp_path / "train-images-idx3-ubyte")
  os.mkfifo(pipe)
  for name in cnn_mnist.SHA256:
    if not name.startswith("train-images"):
      (tmp_path / name).write_bytes(b"")
  run = start_run(dict(flags, data_dir=tmp_path))
  writer = open_for_writing(pipe, run)
  time.sleep(1)
  run.process.send_signal(signum)
  start = time.time()
  assert run.wait() in ended_by(signum)
  assert time.time() - start < (5 if signum == signal.SIGINT else 2)
  assert "Traceback" not in run.text()
  os.close(writer)


@every_signal
def test_signal_during_evaluation(flags, start_run, tmp_path, signum):
  """The checkpoint is saved already: it ends at once, without a result."""
  images, labels = handwritten_digits.load_digits()
  write_split(tmp_path, "train", images, labels)
  write_split(tmp_path, "t10k", images.repeat(20, axis=0), labels.repeat(20))
  with open(str(tmp_path / "stdout"), "w+") as stdout:
    run = start_run(dict(flags, data_dir=tmp_path, train_steps=1),
                    stdout=stdout)
    run.wait_for("Starting evaluation")
    time.sleep(0.5)
    assert "Finished evaluation" not in run.text()
    run.process.send_signal(signum)
    start = time.time()
    assert run.wait() in ended_by(signum)
    assert time.time() - start < (5 if signum == signal.SIGINT else 1)
    assert stdout.read() == ""
  assert "Traceback" not in run.text()
  assert step_of(tmp_path / "model") == 1
