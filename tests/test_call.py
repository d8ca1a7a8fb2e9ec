"""The script as a module: called, run again, and in a notebook's kernel."""
import contextlib
import glob
import logging
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from conftest import (
    MINOR, ROOT, SCRIPT, arguments_of as arguments, events, parse_result,
    run_code, run_script, step_of)

# A program that makes and trains a Keras model.
KERAS = """
import numpy as np, tensorflow as tf
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[2])])
model.compile("sgd", "mse")
model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)
print(len(model.get_weights()), "weights")
"""


def state():
  """What main() must leave as it was, but for the first call's set-up."""
  loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow")]
  return {
      "loggers": [(logger.level, len(logger.handlers), list(logger.filters),
                   logger.propagate) for logger in loggers],
      "handlers": [signal.getsignal(n) for n in range(1, signal.NSIG)],
      "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
      "environment": dict(os.environ),
      "warnings": list(warnings.filters),
      "print options": np.get_printoptions(),
      "stdout": (sys.stdout, sys.stderr),
      "open files": open_files(),
      "graph": tf.get_default_graph(),
      "directory": os.getcwd(),
  }


def open_files():
  """The paths of what is open, but for summaries, which TensorFlow keeps."""
  paths = [os.path.realpath(path) for path in glob.glob("/proc/self/fd/*")]
  return sorted(path for path in paths if "tfevents" not in path)


@pytest.fixture
def nan_loss(monkeypatch):
  """Lets the loss be NaN in training."""
  model_fn = cnn_mnist.cnn_model_fn

  def nan_model_fn(features, labels, mode, params):
    spec = model_fn(features, labels, mode, params)
    return spec._replace(loss=tf.constant(float("nan")))

  @contextlib.contextmanager
  def patch():
    monkeypatch.setattr(cnn_mnist, "cnn_model_fn", nan_model_fn)
    yield
    monkeypatch.setattr(cnn_mnist, "cnn_model_fn", model_fn)

  return patch


def test_main_leaves_nothing_behind(flags, picture, capsys, tmp_path,
                                    monkeypatch, nan_loss):
  """Neither a whole run, nor ones that fail, nor one that classifies."""
  flags["export_dir"] = tmp_path / "export"
  cnn_mnist.main(arguments(flags, train_steps=2))  # TensorFlow's own set-up
  before = state()
  cnn_mnist.main(arguments(flags, train_steps=4))
  assert parse_result(capsys.readouterr().out.splitlines(True)[-1])[2] == 4
  with pytest.raises(cnn_mnist.UserError):
    cnn_mnist.main(arguments(flags, data_dir=tmp_path / "model"))
  with nan_loss(), pytest.raises(tf.train.NanLossDuringTrainingError):
    cnn_mnist.main(arguments(flags, train_steps=9))
  cnn_mnist.main(arguments(flags, predict=picture))
  after = state()
  for name in before:
    assert after[name] == before[name], name


@pytest.mark.parametrize("what", ["run", "error", "predict"])
def test_no_thread_is_left(flags, picture, nan_script, monkeypatch, what):
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
    run_script(dict(flags, train_steps=1))
    flags["predict"] = picture
  end = threading.Event()
  other = threading.Thread(target=end.wait)
  other.start()
  threads = threading.enumerate()
  result = run_script(dict(flags, train_steps=20),
                      script=nan_script if what == "error" else SCRIPT)
  assert ("NaN" in result.stderr) == (what == "error")
  left = set(threading.enumerate()) - set(threads)
  # Those that write summaries wait for more of them for ever.
  assert not [thread for thread in left if type(thread) is threading.Thread]
  assert other.is_alive()
  end.set()


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


def test_main_after_a_failed_one(flags, capsys, nan_loss):
  """The lock of the first is gone, though its exception is kept."""
  with nan_loss(), pytest.raises(
      tf.train.NanLossDuringTrainingError, match="NaN loss") as error:
    cnn_mnist.main(arguments(flags, train_steps=9))
  cnn_mnist.main(arguments(flags, train_steps=1))
  assert parse_result(capsys.readouterr().out)[2] == 1
  assert error.value.__traceback__  # As a console keeps it


def test_main_in_two_threads(flags, capsys, tmp_path):
  """At once: there, no handler may be set, and each has results of its own."""
  threads = []
  for steps in 3, 60:
    argv = arguments(flags, train_steps=steps, model_dir=tmp_path / str(steps))
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


def test_flags():
  """With = or a space after the name; pictures as a shell gives them."""
  assert vars(cnn_mnist.parse_flags([])) == {
      "data_dir": "MNIST-data", "model_dir": "/tmp/mnist_convnet_model",
      "train_steps": 20000, "batch_size": 100, "learning_rate": 0.001,
      "log_every_n_iter": 50, "save_checkpoints_steps": 1000, "seed": None,
      "bfloat16": False, "predict": None, "export_dir": None}
  args = cnn_mnist.parse_flags([
      "--train_steps", "5", "--seed=0", "--learning_rate=1e-2",
      "--predict", "a,b.png", "~/c.png", "--export_dir", "~/e"])
  assert (args.train_steps, args.seed, args.learning_rate) == (5, 0, 0.01)
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
  if MINOR < (2, 16):  # After it, any model of Keras 2 can be made and trained.
    output = kernel(KERAS)
    assert output.startswith("2 weights") and "Error" not in output
  for step in 4, 6:
    output = kernel("%run cnn_mnist.py " + " ".join(
        arguments(flags, train_steps=step)))
    assert "'global_step': %d" % step in output and "Error" not in output
    assert output.count("Starting evaluation") == 1
  output = kernel("cnn_mnist.main(['--data_dir=gs://a'])")
  assert "SystemExit: 2" in output
  output = kernel("cnn_mnist.main(%r)" % arguments(
      flags, predict=tmp_path / "model" / "checkpoint"))
  assert "SystemExit: cnn_mnist.py: error: --predict: " in output

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


@pytest.fixture
def keras_2(monkeypatch):
  """Lets other programs have Keras 2, as TensorFlow up to 2.15 does by itself.

  TF_KERAS_DIR, in the environment, has the package tf_keras for a later one.
  """
  if MINOR >= (2, 16):
    if "TF_KERAS_DIR" not in os.environ:
      pytest.skip("TF_KERAS_DIR is not set")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    # run_code() sets PYTHONPATH.
    return "sys.path.append(os.environ['TF_KERAS_DIR'])"
  return ""


def test_program_with_a_model_of_its_own(flags, keras_2, tmp_path):
  """It imports the script late, and goes on with what it had before."""
  before = "writer = tf.compat.v1.summary.FileWriter(sys.argv[1])"
  if MINOR >= (2,):
    before = "tf.compat.v1.disable_eager_execution()\n" + before
  code = "\n".join([
      "import os, sys", keras_2, "import tensorflow as tf", before, KERAS,
      "import cnn_mnist", "cnn_mnist.main(sys.argv[2:])",
      KERAS, "model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)",
      "summary = tf.compat.v1.Summary()",
      "summary.value.add(tag='mine', simple_value=7)",
      "writer.add_summary(summary, 3)", "writer.close()"])
  lines = run_code(sys.executable, code, str(tmp_path / "own"), *arguments(
      flags, train_steps=2)).splitlines(True)
  assert [line.strip() for line in lines[::2]] == ["2 weights"] * 2
  assert parse_result(lines[1])[2] == 2
  (step, value), = events(tmp_path / "own")["mine"]
  assert (step, value.simple_value) == (3, 7)


CANNED = """
from cnn_mnist import load_mnist, tf
(images, labels), _ = load_mnist(sys.argv[1])
columns = [tf.feature_column.numeric_column("x", [784])]
for classifier in (
    tf.estimator.DNNClassifier([99], columns, sys.argv[2] + "/dnn", 10),
    tf.estimator.LinearClassifier(columns, sys.argv[2] + "/linear", 10),
    tf.estimator.BaselineClassifier(sys.argv[2] + "/baseline", 10)):
  inputs = tf.estimator.inputs.numpy_input_fn(
      {"x": images}, labels, num_epochs=10, shuffle=True)
  classifier.train(inputs)
  print(classifier.evaluate(inputs)["accuracy"])
"""


def test_canned_estimators(keras_2, digits_dir, tmp_path):
  """Those of neural networks and linear models are built on Keras 2."""
  code = "\n".join(["import os, sys", keras_2, CANNED])
  dnn, linear, baseline = [float(line) for line in run_code(
      sys.executable, code, digits_dir, str(tmp_path)).splitlines()]
  assert dnn > 0.5 and linear > 0.7 and 0.05 < baseline < 0.2


MIRRORED = """
import sys
from cnn_mnist import cnn_model_fn, load_mnist, tf
(images, labels), _ = load_mnist(sys.argv[1])
strategy = tf.distribute.MirroredStrategy()
classifier = tf.estimator.Estimator(
    cnn_model_fn, sys.argv[2],
    tf.estimator.RunConfig(train_distribute=strategy))
hook = tf.estimator.experimental.stop_if_no_decrease_hook(
    classifier, "loss", 0, run_every_secs=None, run_every_steps=5)
classifier.train(lambda: tf.data.Dataset.from_tensor_slices(
    ({"x": images}, labels)).repeat().batch(10), [hook], max_steps=6)
print(classifier.get_variable_value("global_step"))
"""


def test_distribution_strategy(digits_dir, tmp_path):
  """With early stopping, as people use them with a model_fn of their own."""
  assert run_code(sys.executable, MIRRORED, digits_dir, str(tmp_path)) == "6"


@pytest.mark.skipif(MINOR < (2, 16), reason="Estimator is a part of it")
def test_names_in_estimator():
  """For a console's completion; what is not there says so in its own words."""
  assert {"Estimator", "RunConfig", "inputs", "DNNClassifier"} <= set(
      dir(cnn_mnist.tf.estimator))
  with pytest.raises(AttributeError, match="TensorFlow 2.15 or earlier"):
    _ = cnn_mnist.tf.estimator.tpu.TPUEstimator


def test_program_with_keras_3(flags):
  """It makes a model before the import; after it, Keras 3 can't train any."""
  pytest.importorskip("keras", minversion="3")
  code = "\n".join([
      KERAS, "import cnn_mnist", "cnn_mnist.main(sys.argv[1:])", "try:",
      KERAS.replace("\n", "\n  "), "except RuntimeError as e: print(e)"])
  model, result, error = run_code(
      sys.executable, "import sys" + code, *arguments(
          flags, train_steps=2)).splitlines(True)
  assert model == "2 weights\n" and parse_result(result)[2] == 2
  # As in README
  assert "`tf.data.Dataset` only supports Python-style iteration" in error
