# SPDX-License-Identifier: Apache-2.0
"""Signals and kills: what ends a run at once, what saves its checkpoint."""
import os
from pathlib import Path
import random
import re
import shutil
import signal
import time

import pytest

import cnn_mnist
from running import (
    AS_PID_1, ended_by, result_of, run_here, skip_unless_permitted, step_of)


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def train(flags, start_run):
  """Function that starts a long run, and waits until it trains."""
  def start(**options):
    run = start_run(dict(flags, train_steps=1000000, log_every_n_iter=1,
                         save_checkpoints_steps=1000000), **options)
    run.wait_for("loss = ")
    return run

  return start


def check_resumes(flags):
  """Checks that the next run goes on from the checkpoint; returns its step."""
  step = step_of(flags["model_dir"])
  result = run_here(dict(flags, train_steps=step + 2))
  assert f"At step {step} of {step + 2}: training" in result.stderr
  assert result_of(result)[2] == step + 2
  return step


@pytest.mark.parametrize("times", [2, slow(20)])
def test_killed(flags, start_run, times):
  """Half of the runs save at each step, to be killed while writing."""
  rng = random.Random(1)
  last = 0
  for i in range(times):
    every = (1, 10)[i % 2]
    run = start_run(dict(flags, train_steps=1000000,
                         save_checkpoints_steps=every))
    run.wait_for(f"At step {last} of 1000000: training")
    # Before the first step, TensorFlow overwrites the checkpoint that it has
    # just restored: a kill in that fraction of a millisecond damages it.
    run.wait_for("loss = ")
    time.sleep(rng.uniform(0, 1))
    assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    saved = [int(step) for step in re.findall(r"Saving checkpoints for (\d+) ",
                                              run.text())]
    # Only the checkpoint that was being written can be missing.
    last = step_of(flags["model_dir"])
    assert last in saved[-2:]
    assert all(later - earlier == every
               for earlier, later in zip(saved[1:], saved[2:]))
  assert check_resumes(flags) > 0


@pytest.mark.parametrize("times", [1, slow(10)])
def test_killed_in_the_first_save(flags, start_run, times):
  """The same command starts again."""
  rng = random.Random(2)
  for _ in range(times):
    run = start_run(flags)
    run.wait_until(lambda: list(flags["model_dir"].glob("model.ckpt-0*")))
    time.sleep(rng.uniform(0, 0.1))
    run.process.kill()
    run.wait()
    assert result_of(run_here(dict(flags, train_steps=1)))[2] == 1
    shutil.rmtree(str(flags["model_dir"]))


@pytest.mark.parametrize("signum,times,prefix", [
    (signal.SIGTERM, 1, []), (signal.SIGINT, 1, []),
    # As timeout(1) and uv send them, to the process and its group: it is one.
    (signal.SIGTERM, 2, []), (signal.SIGINT, 2, []),
    slow(signal.SIGHUP, 1, []),
    # Where the kernel has no default action
    slow(signal.SIGTERM, 1, AS_PID_1), slow(signal.SIGINT, 1, AS_PID_1),
    slow(signal.SIGHUP, 1, AS_PID_1)])
def test_signal_while_training(flags, train, signum, times, prefix):
  """It stops after its step, with a checkpoint from which it resumes."""
  skip_unless_permitted(prefix)
  run = train(prefix=prefix)
  time.sleep(0.5)
  start, pid = time.time(), run.process.pid
  if prefix:  # The run is its child.
    pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
  for _ in range(times):
    os.kill(pid, signum)
    time.sleep(0.2 if signum == signal.SIGINT else 0.02)
  # docker stop kills after 10 s. After the checkpoint, the process still has to
  # unload TensorFlow 2, which takes it a second even after a bare import.
  # Python ends without its handlers: a second signal that comes so late gives
  # -15, which is the same 143 to a shell.
  assert run.wait(10) in ended_by(signum)[:times]
  assert (flags["model_dir"] / "checkpoint").stat().st_mtime < start + 5
  assert f"Stopped by signal {signum}" in run.text()
  assert times == 2 or "Traceback" not in run.text()
  assert check_resumes(flags) > 1


def test_second_signal(flags, start_run):
  """In a step of some seconds, the first is answered, and the next ends it."""
  run = start_run(dict(flags, batch_size=4000, train_steps=9))
  run.wait_until(lambda: step_of(flags["model_dir"]) == 0)
  time.sleep(1)
  run.process.send_signal(signal.SIGINT)
  run.wait_until(lambda: "Signal 2: stopping after this step" in run.text(), 1)
  time.sleep(0.6)
  code, seconds = run.end(signal.SIGINT)
  assert code == 130 and seconds < 1
  assert step_of(flags["model_dir"]) == 0


def test_nohup(flags, train):
  """What nohup has the script ignore, it ignores; other signals stop it."""
  run = train(prefix=["nohup"])
  for _ in range(2):  # A second signal is not one to end at once either.
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
  run.wait_for("probabilities = ", since=len(run.log))
  assert "Stopped" not in run.text()
  assert run.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM
  assert "Stopped by signal 15" in run.text()
  assert step_of(flags["model_dir"]) > 1


# ---- Outside the training, it ends at once -----------------------------------

# SIGHUP is handled as SIGTERM is; SIGINT has a handler of Python's.
@pytest.mark.parametrize("signum", [
    signal.SIGTERM, signal.SIGINT, slow(signal.SIGHUP)])
def test_signal_before_training(flags, start_run, tmp_path, signum):
  """While it waits for data from a pipe, it ends silently.

  With SIGINT it is Python that ends, which takes its time.
  """
  pipe = tmp_path / "train-images-idx3-ubyte"
  os.mkfifo(pipe)
  for name in cnn_mnist.SHA256:
    if not name.startswith("train-images"):
      (tmp_path / name).write_bytes(b"")
  run = start_run(dict(flags, data_dir=tmp_path))
  with open(pipe, "w"):  # It waits until the run reads the pipe.
    time.sleep(1)
    code, seconds = run.end(signum)
  assert code in ended_by(signum)
  assert seconds < (5 if signum == signal.SIGINT else 2)
