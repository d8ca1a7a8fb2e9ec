# SPDX-License-Identifier: Apache-2.0
"""The script as a module: imported, called, in notebooks and other programs."""
import concurrent.futures
import inspect
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
from running import (
    MINOR, ROOT, arguments_of, events, parse_result, run_code, run_here)

# ---- The import, and what a call leaves --------------------------------------

def state():
  """What of this process others see, by names."""
  loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow")]
  return {
      "loggers": [(logger.level, logger.propagate, len(logger.handlers))
                  for logger in loggers],
      "signals": [signal.getsignal(n) for n in range(1, signal.NSIG)],
      "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
      "warnings": list(warnings.filters),
      "hooks": (warnings.showwarning, sys.excepthook),
      "print options": np.get_printoptions(),
      "stdout": (sys.stdout, sys.stderr),
      "directory": (os.getcwd(), os.listdir(".")),
      "threads": threading.enumerate(),
  }


IMPORT = "import logging, os, signal, sys, threading, warnings" + """
import numpy as np
import tensorflow as tf
# TensorFlow up to 2.15 imports Estimator, and Keras, when it is first used.
if hasattr(tf.compat.v1, "estimator"):
  tf.compat.v1.estimator.Estimator
tf.get_logger()
before = state()
import cnn_mnist
cnn_mnist.load_mnist(sys.argv[1])
after = state()
assert not tf.executing_eagerly()
# The deprecation of tf.layers is hidden.
assert "tf.layers" in after["warnings"].pop(0)[1].pattern
for name in before:
  assert after[name] == before[name], name
# It takes seconds. TensorFlow 1.15 is in tensorflow_core.
assert not [name for name in sys.modules if name.startswith(
    ("tensorflow_core.contrib", "tensorflow.contrib."))]
"""


def test_import_changes_nothing(digits_dir):
  """But that TensorFlow acts as version 1 then."""
  assert run_code(sys.executable, inspect.getsource(state) + IMPORT,
                  digits_dir) == ""


# ---- Calls of main() ---------------------------------------------------------

def state_of_calls():
  """The state without the threads that write summaries, and their files."""
  files = [os.path.realpath(f"/proc/self/fd/{fd}")
           for fd in os.listdir("/proc/self/fd")]
  return dict(
      state(), environment=dict(os.environ), wakeup=signal.set_wakeup_fd(-1),
      graph=tf.get_default_graph(),
      threads=None, files=sorted(
          path for path in files if "tfevents" not in path
          and "/proc/" not in path))


def test_main_leaves_nothing_behind(flags, picture, capsys, tmp_path, request):
  """Neither a whole run, nor ones that fail, nor one that classifies."""
  flags["export_dir"] = tmp_path / "export"
  cnn_mnist.main(arguments_of(flags, train_steps=2))  # TensorFlow's own set-up
  before = state_of_calls()
  cnn_mnist.main(arguments_of(flags, train_steps=3))
  assert parse_result(capsys.readouterr().out.splitlines(True)[-1])[2] == 3
  with pytest.raises(cnn_mnist.UserError):
    cnn_mnist.main(arguments_of(flags, data_dir=tmp_path / "model"))
  del flags["export_dir"]
  cnn_mnist.main(arguments_of(flags, predict=picture))
  request.getfixturevalue("nan_loss")
  with pytest.raises(tf.train.NanLossDuringTrainingError) as error:
    cnn_mnist.main(arguments_of(flags, train_steps=9))
  after = state_of_calls()
  for name in before:
    assert after[name] == before[name], name
  # The lock is gone too, though a console keeps the exception.
  request.getfixturevalue("monkeypatch").undo()
  cnn_mnist.main(arguments_of(flags, train_steps=4))
  assert error.value.__traceback__


@pytest.mark.parametrize("what", ["run", "error", "predict"])
def test_no_thread_is_left(flags, picture, monkeypatch, request, what):
  """A process aborts if it ends while one of them is inside TensorFlow.

  The one that cancels an input's queue is slow here, as on a busy machine.
  """
  cancel = tf.train.QueueRunner._close_on_stop

  def cancel_late(self, session, operation, coordinator):
    coordinator.wait_for_stop()
    time.sleep(0.5)
    cancel(self, session, operation, coordinator)

  monkeypatch.setattr(tf.train.QueueRunner, "_close_on_stop", cancel_late)
  if what == "predict":
    flags = {"model_dir": request.getfixturevalue("trained")[0],
             "predict": picture}
  if what == "error":
    request.getfixturevalue("nan_loss")
  threads = threading.enumerate()
  result = run_here(dict(flags, train_steps=9))
  assert ("NaN" in result.stderr) == (what == "error")
  left = set(threading.enumerate()) - set(threads)
  # Those that write summaries wait for more of them for ever.
  assert not [thread for thread in left if type(thread) is threading.Thread]


def test_main_twice(flags, capsys, monkeypatch):
  """Each message is logged once, where a program logs to stderr itself."""
  monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])
  for step, before in (2, 0), (3, 2):
    cnn_mnist.main(arguments_of(flags, train_steps=step))
    captured = capsys.readouterr()
    assert parse_result(captured.out)[2] == step
    for words in (f"TensorFlow {tf.__version__} runs on", "Starting evaluation",
                  f"At step {before} of {step}: training"):
      assert captured.err.count(words) == 1


def test_main_in_two_threads(flags, capsys, tmp_path):
  """At once: there, no handler may be set, and each has results of its own."""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    short, long = [
        pool.submit(cnn_mnist.main, arguments_of(
            flags, train_steps=steps, model_dir=tmp_path / str(steps)))
        for steps in (3, 60)]
    short.result()
    assert not long.done()  # The shorter run did not wait for it.
    long.result()
  results = capsys.readouterr().out.splitlines(True)
  assert [parse_result(line)[2] for line in results] == [3, 60]
  for steps in 3, 60:
    losses = events(tmp_path / str(steps))["loss"]
    assert losses[0][0] == 1 and events(tmp_path / str(steps) / "eval")


# ---- A notebook --------------------------------------------------------------

INTERRUPTED = """
import os, signal, threading, time
model_dir = {model_dir!r}
def interrupt():  # As Jupyter's button does, once the training goes on
  while cnn_mnist.saved_step(model_dir) is None:
    time.sleep(0.1)
  time.sleep(1)
  os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
cnn_mnist.main({argv})
"""
RESUMED = """
step = cnn_mnist.saved_step(model_dir)
cnn_mnist.main({argv} + [f"--train_steps={{step + 2}}"])
print(step > 1)
"""


def test_notebook(flags, tmp_path, monkeypatch):
  """It imports, calls main(), does %run twice, is interrupted, and goes on."""
  nbclient = pytest.importorskip("nbclient")
  import nbformat  # nbclient needs it.
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
  argv = [arguments_of(flags, train_steps=step) for step in (2, 4, 6)]
  picture = arguments_of(flags, predict=flags["model_dir"] / "checkpoint")
  flags["model_dir"] = tmp_path / "interrupted"
  more = {"argv": arguments_of(flags), "model_dir": str(flags["model_dir"])}
  cells = [(f"import cnn_mnist; cnn_mnist.main({argv[0]})", "'global_step': 2"),
           ("%run cnn_mnist.py " + " ".join(argv[1]), "'global_step': 4"),
           ("%run cnn_mnist.py " + " ".join(argv[2]), "'global_step': 6"),
           ("cnn_mnist.main(['--data_dir=gs://a'])", "SystemExit: 2"),
           (f"cnn_mnist.main({picture})",
            "SystemExit: cnn_mnist.py: error: --predict: "),
           (INTERRUPTED.format(**more), "SystemExit: 130"),
           (RESUMED.format(**more), "True")]
  book = nbformat.v4.new_notebook(cells=[
      nbformat.v4.new_code_cell(code) for code, _ in cells])
  nbclient.NotebookClient(book, timeout=120, allow_errors=True,
                          resources={"metadata": {"path": str(ROOT)}}).execute()
  for cell, (code, words) in zip(book.cells, cells):
    output = "".join(f"{o.get('text', '')}{o.get('ename', '')}: "
                     f"{o.get('evalue', '')}" for o in cell.outputs)
    assert words in output, (code, output)
    assert output.count("Starting evaluation") <= 1


# ---- Other programs ----------------------------------------------------------

# TensorFlow's own estimators are built on Keras 2. Both as in docs/notebook.md
WITH_KERAS_2 = """
import numpy as np
from cnn_mnist import tf
x, y = np.ones([4, 2]), np.ones([4, 1], int)
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[2])])
model.compile("sgd", "mse")
model.fit(x, y, verbose=0)
classifier = tf.estimator.DNNClassifier(
    [9], [tf.feature_column.numeric_column("x", [2])], sys.argv[1])
inputs = tf.estimator.inputs.numpy_input_fn(
    {"x": x}, y, num_epochs=5000, shuffle=True)  # In 4 steps it may not learn.
print(classifier.train(inputs).evaluate(inputs)["accuracy"])
"""


def test_program_with_keras_2(tmp_path):
  """After the import. TF_KERAS_DIR has it for TensorFlow 2.16 or later."""
  setup = "import os, sys\n"
  if MINOR >= (2, 16):
    if "TF_KERAS_DIR" not in os.environ:
      pytest.skip("TF_KERAS_DIR is not set")
    setup += ("os.environ['TF_USE_LEGACY_KERAS'] = '1'\n"
              "sys.path.append(os.environ['TF_KERAS_DIR'])")
  assert run_code(sys.executable, setup + WITH_KERAS_2, tmp_path) == "1.0"
