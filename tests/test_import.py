"""The script as a module: imported, called, in notebooks and other programs."""
import os
import signal
import sys
import threading
import time

import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import (
    MINOR, ROOT, arguments_of, events, parse_result, run_code, run_here,
    step_of, wait_until)
from state import state

# ---- The import --------------------------------------------------------------

IMPORT = """if True:
  import sys
  from absl import logging as absl_logging
  import tensorflow as tf
  sys.path.append("tests")
  from state import state
  # TensorFlow up to 2.15 imports Estimator, and Keras, when it is first used.
  if hasattr(tf.compat.v1, "estimator"):
    tf.compat.v1.estimator.Estimator
  tf.get_logger()
  before, verbosity = state(), absl_logging.get_verbosity()
  import cnn_mnist
  after = state()
  assert not tf.executing_eagerly()
  assert absl_logging.get_verbosity() == verbosity
  # The deprecation of tf.layers is hidden, and two variables are set.
  assert "tf.layers" in after["warnings"].pop(0)[1].pattern
  for name in "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL":
    before["environment"][name] = after["environment"][name]
  for name in before:
    assert after[name] == before[name], name
"""


def test_import_changes_nothing():
  """But that TensorFlow acts as version 1 then."""
  assert run_code(sys.executable, IMPORT) == ""


def test_import_is_silent(digits_dir):
  """Nor is tf.contrib imported, which takes seconds, for the data."""
  code = """if True:
    import sys, cnn_mnist
    cnn_mnist.load_mnist(sys.argv[1])
    # TensorFlow 1.15 is in tensorflow_core.
    assert not [name for name in sys.modules if name.startswith(
        ("tensorflow_core.contrib", "tensorflow.contrib."))]"""
  assert run_code(sys.executable, code, digits_dir) == ""


@pytest.mark.skipif(MINOR < (2, 16), reason="Estimator is a part of it")
def test_names_in_estimator():
  """For a console's completion."""
  assert {"Estimator", "RunConfig", "inputs", "DNNClassifier"} <= set(
      dir(cnn_mnist.tf.estimator))


# ---- Calls of main() ---------------------------------------------------------

def state_here():
  """The state, with what only TensorFlow's own process has."""
  files = [os.path.realpath(f"/proc/self/fd/{fd}")
           for fd in os.listdir("/proc/self/fd")]
  return dict(state(), graph=tf.get_default_graph(), files=sorted(
      # TensorFlow keeps summaries open.
      path for path in files if "tfevents" not in path and "/fd/" not in path))


def test_main_leaves_nothing_behind(flags, picture, capsys, tmp_path, request):
  """Neither a whole run, nor ones that fail, nor one that classifies."""
  flags["export_dir"] = tmp_path / "export"
  cnn_mnist.main(arguments_of(flags, train_steps=2))  # TensorFlow's own set-up
  before = state_here()
  cnn_mnist.main(arguments_of(flags, train_steps=3))
  assert parse_result(capsys.readouterr().out.splitlines(True)[-1])[2] == 3
  with pytest.raises(cnn_mnist.UserError):
    cnn_mnist.main(arguments_of(flags, data_dir=tmp_path / "model"))
  cnn_mnist.main(arguments_of(flags, predict=picture))
  request.getfixturevalue("nan_loss")
  with pytest.raises(tf.train.NanLossDuringTrainingError) as error:
    cnn_mnist.main(arguments_of(flags, train_steps=9))
  after = state_here()
  for name in before:
    assert after[name] == before[name], name
  # The lock is gone too, though a console keeps the exception.
  request.getfixturevalue("monkeypatch").undo()
  cnn_mnist.main(arguments_of(flags, train_steps=4))
  assert error.value.__traceback__


@pytest.mark.parametrize("what", ["run", "error", "predict"])
def test_no_thread_is_left(flags, picture, trained, monkeypatch, request, what):
  """A process aborts if it ends while one of them is inside TensorFlow.

  The one that cancels an input's queue is slow here, as on a busy machine.
  Threads that were there before the script are not waited for.
  """
  cancel = tf.train.QueueRunner._close_on_stop

  def cancel_late(self, session, operation, coordinator):
    coordinator.wait_for_stop()
    time.sleep(0.5)
    cancel(self, session, operation, coordinator)

  monkeypatch.setattr(tf.train.QueueRunner, "_close_on_stop", cancel_late)
  if what == "predict":
    flags = {"model_dir": trained[0], "predict": picture}
  if what == "error":
    request.getfixturevalue("nan_loss")
  end = threading.Event()
  other = threading.Thread(target=end.wait)
  other.start()
  threads = threading.enumerate()
  result = run_here(dict(flags, train_steps=9))
  assert ("NaN" in result.stderr) == (what == "error")
  left = set(threading.enumerate()) - set(threads)
  # Those that write summaries wait for more of them for ever.
  assert not [thread for thread in left if type(thread) is threading.Thread]
  assert other.is_alive()
  end.set()


@pytest.mark.parametrize("other", [False, True])
def test_main_twice(flags, capsys, tmp_path, other):
  """In one model_dir and in two; each message is logged once."""
  cnn_mnist.main(arguments_of(flags, train_steps=2))
  first = capsys.readouterr()
  assert parse_result(first.out)[2] == 2
  if other:
    flags["model_dir"] = tmp_path / "other"
  cnn_mnist.main(arguments_of(flags, train_steps=3))
  second = capsys.readouterr()
  assert parse_result(second.out)[2] == 3
  assert second.err.count(f"At step {0 if other else 2} of 3: training") == 1
  for captured in first, second:
    assert captured.err.count(f"TensorFlow {tf.__version__} runs on") == 1
    assert captured.err.count("Starting evaluation") == 1


def test_main_in_two_threads(flags, capsys, tmp_path):
  """At once: there, no handler may be set, and each has results of its own."""
  threads = []
  for steps in 3, 60:
    argv = arguments_of(flags, train_steps=steps,
                        model_dir=tmp_path / str(steps))
    threads.append(threading.Thread(target=cnn_mnist.main, args=[argv]))
    threads[-1].start()
  threads[0].join(120)
  assert threads[1].is_alive()  # The shorter run did not wait for it.
  threads[1].join(120)
  results = capsys.readouterr().out.splitlines(True)
  assert [parse_result(line)[2] for line in results] == [3, 60]
  for steps in 3, 60:
    losses = events(tmp_path / str(steps))["loss"]
    assert losses[0][0] == 1 and events(tmp_path / str(steps) / "eval")


def test_stdout_without_flush(flags, monkeypatch):
  """As some notebooks have it: the result is written all the same."""
  class Stdout:
    text = ""

    def write(self, text):
      self.text += text

  monkeypatch.setattr(sys, "stdout", Stdout())
  cnn_mnist.main(arguments_of(flags, train_steps=1))
  assert parse_result(sys.stdout.text)[2] == 1


# ---- A notebook --------------------------------------------------------------

@pytest.fixture
def kernel(monkeypatch):
  """Function that runs a cell in a new notebook's kernel of this Python.

  It returns the cell's text, with that of an error; a second argument is a
  function that is called while the cell runs.
  """
  nbclient = pytest.importorskip("nbclient")
  import nbformat  # nbclient needs it.
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
  # After a cell's error, the kernel else drops a cell that comes too soon.
  client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=120,
                                   iopub_timeout=60, allow_errors=True)

  def run(code, while_it_runs=lambda: None):
    cell = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    thread = threading.Thread(target=while_it_runs)
    thread.start()
    client.execute_cell(cell, len(client.nb.cells) - 1)
    thread.join()
    return "".join(
        output.get("text", "") + output.get("ename", "") + ": " +
        output.get("evalue", "") for output in cell.outputs)

  with client.setup_kernel(cwd=str(ROOT)):
    yield run


def test_notebook(kernel, flags, tmp_path):
  """It imports, calls main(), does %run twice, is interrupted, and goes on."""
  argv = arguments_of(flags, train_steps=2)
  output = kernel(f"import cnn_mnist; cnn_mnist.main({argv})")
  assert "'global_step': 2" in output and "Error" not in output
  for step in 4, 6:
    output = kernel("%run cnn_mnist.py " + " ".join(
        arguments_of(flags, train_steps=step)))
    assert f"'global_step': {step}" in output and "Error" not in output
    assert output.count("Starting evaluation") == 1
  output = kernel("cnn_mnist.main(['--data_dir=gs://a'])")
  assert "SystemExit: 2" in output
  argv = arguments_of(flags, predict=tmp_path / "model" / "checkpoint")
  output = kernel(f"cnn_mnist.main({argv})")
  assert "SystemExit: cnn_mnist.py: error: --predict: " in output

  pid = int(kernel("import os; print(os.getpid())").split(":")[0])
  flags["model_dir"] = tmp_path / "interrupted"

  def interrupt():
    """Sends the signal of Jupyter's button once the training goes on."""
    wait_until(lambda: step_of(flags["model_dir"]) is not None)
    time.sleep(1)
    os.kill(pid, signal.SIGINT)

  output = kernel(f"cnn_mnist.main({arguments_of(flags)})", interrupt)
  assert "Stopped by signal 2" in output and "SystemExit: 130" in output
  step = step_of(flags["model_dir"])
  assert step > 1
  argv = arguments_of(flags, train_steps=step + 2)
  output = kernel(f"cnn_mnist.main({argv})")
  assert f"'global_step': {step + 2}" in output


# ---- Other programs ----------------------------------------------------------

# A program that makes and trains a Keras model.
KERAS = """
import numpy as np, tensorflow as tf
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[2])])
model.compile("sgd", "mse")
model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)
print(len(model.get_weights()), "weights")
"""


@pytest.fixture
def keras_2(monkeypatch):
  """Code that lets other programs have Keras 2, as up to TensorFlow 2.15.

  TF_KERAS_DIR, in the environment, has the package tf_keras for a later one.
  """
  if MINOR >= (2, 16):
    if "TF_KERAS_DIR" not in os.environ:
      pytest.skip("TF_KERAS_DIR is not set")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    # run_code() sets PYTHONPATH.
    return "import os, sys; sys.path.append(os.environ['TF_KERAS_DIR'])\n"
  return "import sys\n"


AFTER_KERAS = """
cnn_mnist.main(sys.argv[2:])
model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)
summary = tf.compat.v1.Summary()
summary.value.add(tag="mine", simple_value=7)
writer.add_summary(summary, 3)
writer.close()
"""


def test_program_with_keras_2(flags, keras_2, tmp_path):
  """It imports the script late, and goes on with what it had before."""
  code = keras_2 + "import tensorflow as tf\n"
  if MINOR >= (2,):
    code += "tf.compat.v1.disable_eager_execution()\n"
  code += "writer = tf.compat.v1.summary.FileWriter(sys.argv[1])\n"
  code += KERAS + "import cnn_mnist" + AFTER_KERAS + KERAS
  first, result, second = run_code(
      sys.executable, code, tmp_path / "own", *arguments_of(
          flags, train_steps=2)).splitlines(True)
  assert first.strip() == second.strip() == "2 weights"
  assert parse_result(result)[2] == 2
  (step, value), = events(tmp_path / "own")["mine"]
  assert (step, value.simple_value) == (3, 7)


CANNED = """
from cnn_mnist import load_mnist, tf
(images, labels), _ = load_mnist(sys.argv[1])
inputs = tf.estimator.inputs.numpy_input_fn(
    {"x": images}, labels, num_epochs=10, shuffle=True)
classifier = tf.estimator.DNNClassifier(
    [99], [tf.feature_column.numeric_column("x", [784])], sys.argv[2], 10)
classifier.train(inputs)
print(classifier.evaluate(inputs)["accuracy"])
"""


def test_canned_estimator(keras_2, digits_dir, tmp_path):
  """TensorFlow's own, which are built on Keras 2, as docs/notebook.md says."""
  accuracy = run_code(sys.executable, keras_2 + CANNED, digits_dir, tmp_path)
  assert float(accuracy) > 0.5


def test_program_with_keras_3(flags):
  """It makes a model before the import; after it, Keras 3 can't train any."""
  pytest.importorskip("keras", minversion="3")
  code = "import sys" + KERAS + "import cnn_mnist\ncnn_mnist.main(sys.argv[1:])"
  code += "\ntry:" + KERAS.replace("\n", "\n  ") + (
      "\nexcept RuntimeError as e: print(e)")
  model, result, error = run_code(sys.executable, code, *arguments_of(
      flags, train_steps=2)).splitlines(True)
  assert model == "2 weights\n" and parse_result(result)[2] == 2
  # As in docs/troubleshooting.md
  assert "`tf.data.Dataset` only supports Python-style iteration" in error
