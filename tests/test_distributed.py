"""A job of several processes on loopback, described by TF_CONFIG."""
import json
import os
import re
import signal
import socket

import pytest

from conftest import run_script
from test_predict_export import events
from test_script import Running, result_of, step_of


def free_ports(count):
  """Ports of loopback that nothing listens at."""
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(("127.0.0.1", 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


class Job(object):
  """A cluster's addresses, and its tasks as processes."""

  def __init__(self, folder, flags, workers=2):
    ports = ["127.0.0.1:%d" % port for port in free_ports(2 + workers)]
    self.cluster = {"chief": ports[:1], "ps": ports[1:2], "worker": ports[2:]}
    self.folder, self.flags = folder, flags
    self.tasks = {}

  def environment(self, task, index=0):
    return dict(os.environ, TF_CONFIG=json.dumps(
        {"cluster": self.cluster, "task": {"type": task, "index": index}}))

  def start(self, task, index=0):
    name = task + str(index)
    out = open(str(self.folder / (name + ".out")), "w")
    run = Running(*self.flags, env=self.environment(task, index), stdout=out)
    run.stdout = out.name
    self.tasks[name] = run
    return run

  def kill(self):
    for run in self.tasks.values():
      run.process.kill()
      run.wait()


def test_job(digits_dir, tmp_path):
  """A worker is killed half-way and started again; all tasks end by themselves.

  Stdout has one line in all: the evaluator's result. The chief exports.
  """
  model_dir, export_dir = tmp_path / "model", tmp_path / "export"
  job = Job(tmp_path, [
      "--data_dir=" + digits_dir, "--model_dir=%s" % model_dir,
      "--train_steps=1000", "--batch_size=10", "--learning_rate=0.02",
      "--save_checkpoints_steps=300", "--export_dir=%s" % export_dir])
  try:
    for task in ("ps", 0), ("chief", 0), ("worker", 0), ("worker", 1), (
        "evaluator", 0):
      job.start(*task)
    victim = job.tasks["worker0"]
    victim.wait_for("loss = ")  # After its delay of 5 s
    victim.process.kill()
    assert victim.wait() == -signal.SIGKILL
    job.start("worker", 0)
    for name in ("chief0", "worker0", "worker1", "evaluator0", "ps0"):
      assert job.tasks[name].wait(120) == 0, "".join(job.tasks[name].log)
  finally:
    job.kill()
  # Workers see that the last step is reached only after steps of their own.
  step = step_of(model_dir)
  assert 1000 <= step < 1010
  outputs = {name: open(run.stdout).read() for name, run in job.tasks.items()}
  result = outputs.pop("evaluator0")
  assert set(outputs.values()) == {""}
  match = re.match(r"\{'accuracy': ([\d.]+), .*'global_step': (\d+)\}\n$",
                   result)
  assert float(match.group(1)) > 0.85 and int(match.group(2)) == step
  exported, = export_dir.iterdir()
  assert (exported / "saved_model.pb").exists()
  # It evaluated on the way too: TensorBoard shows a curve.
  steps = [at for at, _ in events(str(model_dir / "eval"))["accuracy"]]
  assert len(steps) >= 2 and steps[-1] == step


def test_stopped_job_goes_on(digits_dir, tmp_path):
  """Chief and worker stopped as by a pre-empted node: nothing is repeated."""
  model_dir = tmp_path / "model"
  job = Job(tmp_path, [
      "--data_dir=" + digits_dir, "--model_dir=%s" % model_dir,
      "--train_steps=100000", "--batch_size=10"], workers=1)
  try:
    for task in "ps", "chief", "worker":
      job.start(task)
    job.tasks["worker0"].wait_for("loss = ")
    for name in "chief0", "worker0", "ps0":
      run = job.tasks[name]
      run.process.terminate()
      assert run.wait(30) == 128 + signal.SIGTERM, "".join(run.log)
    step = step_of(model_dir)
    assert step > 0
    job.flags.append("--train_steps=%d" % (step + 20))
    for task in "ps", "chief", "worker":
      job.start(task)
    job.tasks["chief0"].wait_for("At step %d of %d: training" % (
        step, step + 20))
    for name in "chief0", "worker0", "ps0":
      assert job.tasks[name].wait(60) == 0
  finally:
    job.kill()


def test_cluster_of_one(digits_dir, tmp_path):
  """As some services set it for one machine: the same as without."""
  config = {"cluster": {"chief": ["127.0.0.1:%d" % free_ports(1)[0]]},
            "task": {"type": "chief", "index": 0}, "environment": "cloud"}
  result = run_script(
      "--data_dir=" + digits_dir, "--model_dir=%s" % tmp_path,
      "--train_steps=2", "--batch_size=10",
      env=dict(os.environ, TF_CONFIG=json.dumps(config)))
  assert result_of(result)[2] == 2


@pytest.mark.parametrize("tf_config", [
    "{", "[]", '"chief"', '{"cluster": 5}',
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "ps": ["b:1"]},'
    ' "task": {"type": "ps", "index": 1}}',
    '{"cluster": {"chief": ["a:1"], "ps": ["b:1"]},'
    ' "task": {"type": "boss", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "ps": ["b:1"]},'
    ' "task": {"type": "chief", "index": "x"}}',
    '{"cluster": {"chief": ["a"], "ps": ["b:1"]},'
    ' "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]},'
    ' "task": {"type": "chief", "index": 0}}',
    '{"task": {"type": "evaluator", "index": 0}}',
])
def test_broken_tf_config(tf_config, tmp_path):
  result = run_script("--model_dir=%s" % (tmp_path / "model"),
                      env=dict(os.environ, TF_CONFIG=tf_config))
  result.check_error("TF_CONFIG")
  assert not (tmp_path / "model").exists()
