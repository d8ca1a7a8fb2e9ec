# SPDX-License-Identifier: Apache-2.0
"""Jobs of several processes on loopback, described by TF_CONFIG."""
import contextlib
import json
import os
import signal
import time

import pytest

import cnn_mnist
from running import (
    arguments_of, ended_by, events, free_addresses, parse_predictions,
    parse_result, result_of, run_here, step_of)


class Job:
  """A cluster's addresses, and its tasks as processes."""

  def __init__(self, start_run, directory, flags, workers=0):
    addresses = free_addresses(2 + workers)
    self.cluster = {"chief": addresses[:1], "ps": addresses[1:2]}
    if workers:
      self.cluster["worker"] = addresses[2:]
    self.flags, self.tasks = flags, {}
    self._start_run, self._directory = start_run, directory

  def environment(self, task, index=0):
    return dict(os.environ, TF_CONFIG=json.dumps(
        {"cluster": self.cluster, "task": {"type": task, "index": index}}))

  def start(self, *tasks):
    """Starts tasks, such as "worker1"; returns the last one's Running.

    Each has a session of its own. If a halted task were in pytest's, and the
    shell that started pytest ended, the kernel would send SIGHUP to them all.
    """
    for name in tasks:
      with open(self._directory / f"{name}.out", "w") as stdout:
        self.tasks[name] = self._start_run(
            self.flags, env=self.environment(name[:-1], int(name[-1])),
            stdout=stdout, start_new_session=True)
    return self.tasks[name]

  def stdout(self, name):
    return (self._directory / f"{name}.out").read_text()

  @contextlib.contextmanager
  def halted(self, name):
    """Halts a task from its first step on while others start to train."""
    self.tasks[name].wait_for("loss = ")
    self.tasks[name].process.send_signal(signal.SIGSTOP)
    yield
    self.tasks[name].process.send_signal(signal.SIGCONT)

  def check_ended(self, *tasks):
    """Checks that these tasks end by themselves and report no error."""
    for name in tasks:
      assert self.tasks[name].wait(120) == 0, self.tasks[name].text()

  def stop(self, name):
    """Ends a task with SIGTERM; returns the seconds that it took."""
    code, seconds = self.tasks[name].end(signal.SIGTERM)
    assert code in ended_by(signal.SIGTERM), self.tasks[name].text()
    return seconds


@pytest.mark.parametrize("workers", [
    1, pytest.param(2, marks=pytest.mark.slow)])
def test_job(digits_dir, start_run, tmp_path, workers):
  """A worker is killed half-way, and trains again after it is started again.

  Stdout has one line in all: the chief's result. The chief exports as well.
  All tasks end by themselves, except for the ps, which serves until SIGTERM.
  """
  model_dir, export_dir = tmp_path / "model", tmp_path / "export"
  job = Job(start_run, tmp_path, {
      "data_dir": digits_dir, "model_dir": model_dir, "train_steps": 600,
      "batch_size": 30, "learning_rate": 0.05, "save_checkpoints_steps": 400,
      "export_dir": export_dir}, workers=workers)
  all_workers = [f"worker{i}" for i in range(workers)]
  job.start("ps0", "chief0", "evaluator0", *all_workers)
  victim = job.tasks["worker0"]
  with job.halted("chief0"):
    victim.wait_for("loss = ")  # After its delay of 5 s
    assert victim.end(signal.SIGKILL)[0] == -signal.SIGKILL
    job.start("worker0").wait_for("loss = ")
  job.check_ended("chief0", "evaluator0", *all_workers)
  assert job.stop("ps0") < 2
  # Workers see that the last step is reached only after steps of their own.
  step = step_of(model_dir)
  assert 0 <= step - job.flags["train_steps"] < 10
  accuracy, _, at = parse_result(job.stdout("chief0"))
  assert accuracy > 0.85 and at == step
  for name in ["ps0", "evaluator0", *all_workers]:
    assert job.stdout(name) == ""
  exported, = export_dir.iterdir()
  assert (exported / "saved_model.pb").exists()
  # The evaluator evaluated on the way: TensorBoard shows a curve.
  curve = {at: value.simple_value
           for at, value in events(model_dir / "eval")["accuracy"]}
  assert len(curve) >= 2 and max(curve) == step
  assert abs(curve[step] - accuracy) < 1e-6


def test_stopped_job_resumes(digits_dir, start_run, tmp_path):
  """Chief and worker stop as on a pre-empted node; no step is repeated.

  Without an evaluator. The chief that is done then evaluates without a ps.
  """
  model_dir = tmp_path / "model"
  job = Job(start_run, tmp_path, {
      "data_dir": digits_dir, "model_dir": model_dir, "train_steps": 100000,
      "batch_size": 10}, workers=1)
  job.start("ps0", "chief0", "worker0")
  with job.halted("chief0"):
    job.tasks["worker0"].wait_for("loss = ")
  for name in "chief0", "worker0", "ps0":
    job.stop(name)
    assert job.stdout(name) == ""
  step = step_of(model_dir)
  assert step > 0
  last = job.flags["train_steps"] = step + 20
  job.start("ps0", "chief0")
  job.tasks["chief0"].wait_for(f"At step {step} of {last}: training")
  job.check_ended("chief0")
  assert job.stop("ps0") < 2
  first = job.stdout("chief0")
  assert parse_result(first)[2] == last
  # What only evaluates needs no process of its own.
  result = run_here(job.flags, env=job.environment("chief"))
  assert f"At step {last} of {last}: no training" in result.stderr
  assert result.stdout == first
  assert step_of(model_dir) == last


@pytest.mark.parametrize("task,words,error", [
    ("chief", "of a job: waiting for ['127.0.0.1:", "is in use"),
    ("ps", "Start Tensorflow server", "server")])
def test_one_task_alone(digits_dir, start_run, tmp_path, task, words, error):
  """It waits for the others, and one signal ends that, though none connected.

  Meanwhile another one like it ends with an error: what it needs is in use.
  """
  job = Job(start_run, tmp_path, {
      "data_dir": digits_dir, "model_dir": tmp_path / "model"})
  job.start(f"{task}0").wait_for(words)
  time.sleep(1)
  run_here(job.flags, env=job.environment(task)).check_error(error)
  assert job.stop(f"{task}0") < 2
  assert job.stdout(f"{task}0") == ""


def test_predict_inside_a_job(picture, start_run, tmp_path, trained, capsys,
                              monkeypatch):
  """Pictures are classified without the job, of which nothing runs."""
  job = Job(start_run, tmp_path, {"model_dir": trained[0], "predict": picture},
            workers=1)
  alone = run_here(job.flags)
  assert len(parse_predictions(alone.stdout)) == 1
  for task in "ps", "chief", "worker", "evaluator":
    config = job.environment(task)["TF_CONFIG"]
    monkeypatch.setenv("TF_CONFIG", config)
    cnn_mnist.main(arguments_of(job.flags))
    assert capsys.readouterr().out == alone.stdout
    assert os.environ["TF_CONFIG"] == config


def test_cluster_of_one(flags):
  """As some services set it for one machine: the same as without."""
  config = {"cluster": {"chief": free_addresses(1)},
            "task": {"type": "chief", "index": 0}, "environment": "cloud"}
  result = run_here(dict(flags, train_steps=2),
                    env=dict(os.environ, TF_CONFIG=json.dumps(config)))
  assert result_of(result)[2] == 2


CHIEF_AND_PS = '{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": '


@pytest.mark.parametrize("tf_config", [
    "{", "[]", '"chief"', '{"cluster": 5}',
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
    CHIEF_AND_PS + '{"type": "ps", "index": 1}}',
    CHIEF_AND_PS + '{"type": "boss", "index": 0}}',
    CHIEF_AND_PS + '{"type": "chief", "index": "x"}}',
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]},'
    ' "task": {"type": "chief", "index": 0}}',
    '{"task": {"type": "evaluator", "index": 0}}',
])
def test_broken_tf_config(tf_config, tmp_path):
  result = run_here({"model_dir": tmp_path / "model"},
                    env=dict(os.environ, TF_CONFIG=tf_config))
  result.check_error("TF_CONFIG")
  assert not (tmp_path / "model").exists()
