"""The script as a module: called, run again, and in a notebook's kernel."""
import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from conftest import (
    ROOT, SCRIPT, arguments_of as arguments, parse_result, result_of,
    run_code, run_script, step_of)


def state():
  """What main() must leave as it was."""
  loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow")]
  return {
      "loggers": [(logger.level, list(logger.handlers), list(logger.filters),
                   logger.propagate) for logger in loggers],
      "handlers": [signal.getsignal(n) for n in range(1, signal.NSIG)],
      "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
      "wakeup": signal.set_wakeup_fd(-1),
      "environment": dict(os.environ),
      "warnings": list(warnings.filters),
      "print options": np.get_printoptions(),
      "stdout": (sys.stdout, sys.stderr),
      "open files": len(os.listdir("/proc/self/fd")),
      "graph": tf.get_default_graph(),
      "directory": os.getcwd(),
  }


def test_main_leaves_nothing_behind(flags, capsys, tmp_path):
  """Neither a whole run, nor one that fails; no thread is left either."""
  flags["export_dir"] = tmp_path / "export"
  cnn_mnist.main(arguments(flags, train_steps=2))  # TensorFlow's own set-up
  before, threads = state(), threading.enumerate()
  cnn_mnist.main(arguments(flags, train_steps=4))
  for failing in ({"data_dir": tmp_path / "model"}, {"learning_rate": 1e9}):
    with pytest.raises(cnn_mnist.UserError):
      cnn_mnist.main(arguments(flags, train_steps=100, **failing))
  after = state()
  for name in before:
    assert after[name] == before[name], name
  assert not set(threading.enumerate()) - set(threads)
  assert parse_result(capsys.readouterr().out.splitlines(True)[-1])[2] == 4


@pytest.mark.parametrize("more", [{}, {"learning_rate": 1e9}, {"predict": 1}])
def test_no_thread_is_left(flags, picture, monkeypatch, more):
  """A process aborts if it ends while one of them is inside TensorFlow.

  The one that cancels an input's queue is slow here, as on a busy machine.
  """
  threads = threading.enumerate()
  cancel = tf.train.QueueRunner._close_on_stop

  def cancel_late(self, session, operation, coordinator):
    coordinator.wait_for_stop()
    time.sleep(0.5)
    cancel(self, session, operation, coordinator)

  monkeypatch.setattr(tf.train.QueueRunner, "_close_on_stop", cancel_late)
  if "predict" in more:
    cnn_mnist.main(arguments(flags, train_steps=1))
    more = {"predict": picture}
  with contextlib.suppress(cnn_mnist.UserError):
    cnn_mnist.main(arguments(flags, train_steps=100, **more))
  assert not set(threading.enumerate()) - set(threads)


@pytest.mark.parametrize("other", [False, True])
def test_main_twice(flags, capsys, tmp_path, other):
  """In one model_dir and in two; each message is logged once."""
  cnn_mnist.main(arguments(flags, train_steps=2))
  first = capsys.readouterr()
  assert parse_result(first.out)[2] == 2
  if other:
    flags["model_dir"] = tmp_path / "other"
  cnn_mnist.main(arguments(flags, train_steps=3))
  second = capsys.readouterr()
  assert parse_result(second.out)[2] == 3
  step = 0 if other else 2
  assert second.err.count("At step %d of 3: training" % step) == 1
  for captured in first, second:
    assert captured.err.count("TensorFlow %s runs on" % tf.__version__) == 1
    assert captured.err.count("Starting evaluation") == 1


def test_main_after_a_failed_one(flags, capsys):
  """The lock of the first is gone, though its exception is kept."""
  with pytest.raises(cnn_mnist.UserError, match="--learning_rate") as error:
    cnn_mnist.main(arguments(flags, train_steps=100, learning_rate=1000))
  cnn_mnist.main(arguments(flags, train_steps=1))
  assert parse_result(capsys.readouterr().out)[2] == 1
  assert error.value.args  # As a console keeps it


def test_run_path_twice(flags, capsys, monkeypatch):
  """As IPython's %run and IDEs do it; Ctrl-C is Python's own again after it."""
  handler = signal.getsignal(signal.SIGINT)
  for step in 2, 4:
    monkeypatch.setattr(sys, "argv", [SCRIPT] + arguments(
        flags, train_steps=step))
    runpy.run_path(SCRIPT, run_name="__main__")
    assert parse_result(capsys.readouterr().out)[2] == step
    assert signal.getsignal(signal.SIGINT) == handler


def test_main_in_another_thread(flags, capsys):
  """There, no handler may be set: it trains without."""
  thread = threading.Thread(target=cnn_mnist.main,
                            args=[arguments(flags, train_steps=2)])
  thread.start()
  thread.join(120)
  assert parse_result(capsys.readouterr().out)[2] == 2


@pytest.mark.parametrize("argv,code,words", [
    (["--help"], 0, ["--train_steps TRAIN_STEPS", "default: 20000"]),
    (["--train_steps=x"], 2, ["usage: cnn_mnist.py", "error: argument"]),
    (["--bogus"], 2, ["error: unrecognized arguments: --bogus"])])
def test_exit_of_the_flags(capsys, argv, code, words):
  with pytest.raises(SystemExit) as e:
    cnn_mnist.main(argv)
  assert e.value.code == code
  captured = capsys.readouterr()
  for word in words:
    assert word in captured.out + captured.err


def test_flags():
  """With = or a space after the name; pictures as a shell gives them."""
  assert vars(cnn_mnist.parse_flags([])) == {
      "data_dir": "MNIST-data", "model_dir": "/tmp/mnist_convnet_model",
      "train_steps": 20000, "batch_size": 100, "learning_rate": 0.001,
      "log_every_n_iter": 50, "save_checkpoints_steps": 1000, "seed": None,
      "bfloat16": False, "predict": None, "export_dir": None}
  args = cnn_mnist.parse_flags([
      "--train_steps", "5", "--seed=0", "--learning_rate=1e-2", "--bfloat16",
      "--predict", "a,b.png", "~/c.png", "--export_dir", "~/e"])
  assert (args.train_steps, args.seed, args.learning_rate) == (5, 0, 0.01)
  assert args.bfloat16
  assert args.predict == ["a,b.png", os.path.expanduser("~/c.png")]
  assert args.export_dir == os.path.expanduser("~/e")


@pytest.fixture
def kernel(monkeypatch):
  """A client of a new notebook kernel of this interpreter, and its cells."""
  nbclient = pytest.importorskip("nbclient")
  import nbformat  # nbclient needs it.
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
  # After a cell's error, the kernel else drops a cell that comes too soon.
  client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=120,
                                   iopub_timeout=60, allow_errors=True)

  def run(code, while_it_runs=None):
    """Runs a cell; returns its text, with that of an error."""
    cell = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    timer = while_it_runs and threading.Thread(target=while_it_runs)
    if timer:
      timer.start()
    client.execute_cell(cell, len(client.nb.cells) - 1)
    if timer:
      timer.join()
    return "".join(
        output.get("text", "") + output.get("ename", "") + ": " +
        output.get("evalue", "") for output in cell.outputs)

  with client.setup_kernel(cwd=ROOT):
    yield run


def test_notebook(kernel, flags, tmp_path):
  """It imports, calls main(), does %run twice, is interrupted, and goes on."""
  argv = arguments(flags, train_steps=2)
  output = kernel("import cnn_mnist; cnn_mnist.main(%r)" % argv)
  assert "'global_step': 2" in output and "Error" not in output
  for step in 4, 6:
    output = kernel("%run cnn_mnist.py " + " ".join(
        arguments(flags, train_steps=step)))
    assert "'global_step': %d" % step in output and "Error" not in output
    assert output.count("Starting evaluation") == 1
  output = kernel("cnn_mnist.main(['--data_dir=gs://a'])")
  assert "SystemExit: 2" in output
  output = kernel("cnn_mnist.main(%r)" % arguments(
      flags, train_steps=100, data_dir=tmp_path / "model" / "checkpoint"))
  assert "UserError: --data_dir=" in output

  pid = int(kernel("import os; print(os.getpid())").split(":")[0])
  flags["model_dir"] = tmp_path / "interrupted"

  def interrupt():
    """Sends the signal of Jupyter's button once the training goes on."""
    while not list(tmp_path.glob("interrupted/model.ckpt-0.index")):
      time.sleep(0.1)
    time.sleep(1)
    os.kill(pid, signal.SIGINT)

  output = kernel("cnn_mnist.main(%r)" % arguments(
      flags, train_steps=1000000), interrupt)
  assert "Stopped by signal 2" in output and "SystemExit: 130" in output
  step = step_of(flags["model_dir"])
  assert step > 1
  output = kernel("cnn_mnist.main(%r)" % arguments(
      flags, train_steps=step + 2))
  assert "'global_step': %d" % (step + 2) in output


@pytest.mark.skipif(tf.__version__.startswith("1."),
                    reason="TensorFlow 1 has one behavior")
def test_program_of_tensorflow_2(flags, tmp_path):
  """It is one again after main(), where a seed gives the script's weights."""
  flags.update(train_steps=5, seed=7)
  expected = run_script(dict(flags, model_dir=tmp_path / "by_script"),
                        process=True)
  code = """if True:
    import sys, cnn_mnist, tensorflow as tf
    double = tf.function(lambda x: 2 * x)
    variable = tf.Variable(double(1))
    cnn_mnist.main(sys.argv[1:])
    try:
      cnn_mnist.main(sys.argv[1:] + ["--learning_rate=1e9", "--train_steps=50"])
    except cnn_mnist.UserError as e:
      print(e)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(tf.ones([4, 2]), tf.ones([4, 1]), verbose=0)
    print(double(variable).numpy() + len(model.weights))"""
  first, error, last = run_code(sys.executable, code, *arguments(
      flags, model_dir=tmp_path / "called")).splitlines(True)
  assert parse_result(first) == result_of(expected)
  assert "--learning_rate=1e+09" in error and last == "6"
  for name, _ in tf.train.list_variables(str(tmp_path / "by_script")):
    np.testing.assert_array_equal(*[
        tf.train.load_variable(str(tmp_path / way / "model.ckpt-5"), name)
        for way in ("by_script", "called")])


def test_interactive_python(flags, tmp_path):
  """With -i, Ctrl-C at the prompt leaves what the run has made."""
  process = subprocess.Popen(
      [sys.executable, "-i", SCRIPT] + arguments(flags, train_steps=1),
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      universal_newlines=True)
  assert parse_result(process.stdout.readline())[2] == 1
  time.sleep(1)
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  stdout, stderr = process.communicate("print(UserError, 6 * 7)\n", timeout=60)
  assert stdout == "<class '__main__.UserError'> 42\n"
  assert process.returncode == 0 and "KeyboardInterrupt" in stderr
