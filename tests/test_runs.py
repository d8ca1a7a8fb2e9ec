"""The whole script as a process: its flags, its runs, and their faults."""
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from conftest import (
    MINOR, ROOT, SCRIPT, arguments_of, edit_script, finish, parse_result,
    result_of, run_code, run_script, skip_unless_permitted, step_of,
    write_split)
import handwritten_digits


def test_run(trained):
  model_dir, result = trained
  accuracy, loss, step = result_of(result)
  assert accuracy > 0.75 and 0 < loss < 0.8 and step == 200
  assert "At step 0 of 200: training" in result.stderr
  assert result.stderr.count("probabilities = [[") == 4  # 200 / 50
  losses = [float(x) for x in re.findall(r"loss = ([\d.]+), step = ",
                                         result.stderr)]
  assert len(losses) == 2 and losses[1] < losses[0] / 2
  assert step_of(model_dir) == 200


def test_run_again_only_evaluates(trained, trained_copy, digits_dir):
  again = run_script({"data_dir": digits_dir, "model_dir": trained_copy,
                      "train_steps": 200})
  assert result_of(again) == result_of(trained[1])
  assert "At step 200 of 200: no training" in again.stderr
  assert "probabilities" not in again.stderr


def test_run_to_a_later_step(flags, tmp_path):
  assert result_of(run_script(dict(flags, train_steps=3)))[2] == 3
  result = run_script(dict(flags, train_steps=5))
  assert result_of(result)[2] == 5
  assert "At step 3 of 5: training" in result.stderr
  assert step_of(tmp_path / "model") == 5


def test_real_mnist(mnist_model):
  assert result_of(mnist_model[1])[0] > 0.95


def test_seed(flags, tmp_path):
  """Two runs with one --seed give the same weights bit for bit; no others."""
  weights = {}
  for run, seed in (("a", {"seed": 7}), ("b", {"seed": 7}), ("c", {"seed": 8}),
                    ("d", {}), ("e", {})):
    model_dir = str(tmp_path / run)
    result_of(run_script(dict(flags, model_dir=model_dir, train_steps=10,
                              **seed)))
    reader = tf.train.load_checkpoint(model_dir)
    weights[run] = {name: reader.get_tensor(name).tobytes()
                    for name in reader.get_variable_to_shape_map()}
  assert weights["a"] == weights["b"]
  for other in "cde":
    assert weights["a"]["conv2d/kernel"] != weights[other]["conv2d/kernel"]
  assert weights["d"]["conv2d/kernel"] != weights["e"]["conv2d/kernel"]


def test_bfloat16(flags, tmp_path):
  """Checkpoints stay float32; on TensorFlow 1 it is an error."""
  result = run_script(dict(flags, train_steps=200), "--bfloat16")
  if tf.__version__.startswith("1."):
    result.check_wrong_flag("--bfloat16 needs TensorFlow 2")
    return
  accuracy, loss, _ = result_of(result)
  assert accuracy > 0.75
  dtypes = tf.train.load_checkpoint(
      str(tmp_path / "model")).get_variable_to_dtype_map()
  assert set(dtypes.values()) == {tf.float32, tf.int64}
  # The evaluation is in bfloat16 as well, with a little less precision.
  exact = result_of(run_script(dict(flags, train_steps=200)))
  assert exact[0] == pytest.approx(accuracy, abs=0.02)
  assert exact[1] == pytest.approx(loss, rel=0.02)


def test_import_does_nothing(digits_dir):
  """Nor is tf.contrib imported, which takes seconds, for the data."""
  code = ("import logging, os, signal, sys; before = os.listdir('.'); "
          "import cnn_mnist; assert os.listdir('.') == before; "
          "assert not logging.root.handlers; "
          "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL; "
          "cnn_mnist.load_mnist(%r); "
          # TensorFlow 1.15 is in tensorflow_core.
          "assert not [name for name in sys.modules if name.startswith("
          "('tensorflow_core.contrib', 'tensorflow.contrib.'))]" % digits_dir)
  # TensorFlow 2's C++ part logs at its import, unless it is told not to.
  result = finish(subprocess.Popen(
      [sys.executable, "-W", "error::FutureWarning", "-c", code], cwd=ROOT,
      env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"), stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, universal_newlines=True), 60)
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


PIP = '"%s" -m pip install ' % sys.executable
# What a package that is missing does when it is imported
NOT_HERE = u"raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')\n"


def run_beside(directory, flags, *options, **files):
  """Runs the script where these modules hide those that are installed."""
  for name, text in files.items():
    (directory / (name + ".py")).write_text(text)
  return finish(subprocess.Popen(
      [sys.executable, *options, SCRIPT] + arguments_of(flags),
      env=dict(os.environ, PYTHONPATH=str(directory)), stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, universal_newlines=True), 60)


def check_package(result, word, command):
  """Checks that there is one line, which ends with a command to be pasted."""
  result.check_error(word, ". Run: ")
  assert result.stderr.endswith(" Run: %s\n" % command), result.stderr


@pytest.mark.parametrize("name", ["numpy", "tensorflow", "PIL", "scipy"])
def test_without_a_package(flags, tmp_path, name):
  result = run_beside(tmp_path, flags, **{name: NOT_HERE.format(name)})
  check_package(result, "No module named '%s'" % name, '%s-r "%s"' % (
      PIP, os.path.join(ROOT, "requirements.txt")))
  # Another program gets the error as it is.
  with pytest.raises(AssertionError, match="ModuleNotFoundError"):
    run_code(sys.executable, "import sys; sys.modules['%s'] = None; "
             "import cnn_mnist" % name)


def test_without_pip(tmp_path):
  """With -S, Python sees nothing that is installed: pip is not, as with uv."""
  check_package(
      run_beside(tmp_path, {}, "-S"), "No module named 'numpy'",
      'uv pip install --python "%s" -r "%s"' % (
          sys.executable, os.path.join(ROOT, "requirements.txt")))


def test_without_estimator(flags, tmp_path):
  """Of TensorFlow 1 it is a part: it can't even be imported without it."""
  result = run_beside(tmp_path, flags, tensorflow_estimator=NOT_HERE.format(
      "tensorflow_estimator"))
  if MINOR < (2,):
    assert "tensorflow_estimator" in result.stderr and result.returncode == 1
    return
  check_package(result, "No module named 'tensorflow_estimator'",
                PIP + "tensorflow_estimator")


@pytest.mark.skipif(MINOR < (2, 16), reason="Estimator is a part of it")
@pytest.mark.parametrize("old,new,words", [
    ('_api.v1.estimator.tpu"', '_api.v1.estimator.another"', "tpu"),
    ("should_run_distribute_coordinator=", "another=", None),
    ("estimator_export=lambda", "another=lambda", "estimator_export"),
    ("python.layers.layers", "python.layers.lost", "Keras 3")])
def test_later_tensorflow(flags, picture, tmp_path, old, new, words):
  """A name that it lost is one line, when the script runs, not in an import."""
  script = edit_script(tmp_path, (old, new))
  result = finish(subprocess.Popen(
      [sys.executable, script] + arguments_of(flags, train_steps=1),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True),
                  60)
  if words:
    result.check_error(words)
    assert "TensorFlow %s runs on" % tf.__version__ in result.stderr
  else:  # It is needed in jobs only.
    assert result_of(result)[2] == 1
  # What needs no Estimator works in another program.
  code = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    import edited
    print(edited.read_picture(sys.argv[2]).shape)"""
  assert run_code(sys.executable, code, str(tmp_path), picture) == "(28, 28)"


@pytest.mark.parametrize("variable,value,machine,expected", [
    ("TF_ENABLE_ONEDNN_OPTS", None, "x86_64", "1"),
    ("TF_ENABLE_ONEDNN_OPTS", "0", "x86_64", "0"),
    # There, a gradient is slow with it: TensorFlow's own default holds.
    ("TF_ENABLE_ONEDNN_OPTS", None, "aarch64", "None"),
    ("TF_CPP_MIN_LOG_LEVEL", "2", "x86_64", "2")])
def test_environment_for_tensorflow(variable, value, machine, expected):
  """Run or imported, it sets defaults before it imports TensorFlow."""
  code = """if True:
    import os, platform, runpy, sys
    platform.machine = lambda: %r
    sys.argv = ["cnn_mnist.py", "--help"]
    sys.modules["tensorflow"] = None  # So that it ends where it imports this
    try: runpy.run_path(%r, run_name=%r)
    except (ImportError, SystemExit): print(os.environ.get(%r))"""
  env = dict(os.environ)
  env.pop(variable, None)
  if value:
    env[variable] = value
  for name in "__main__", "cnn_mnist":
    assert subprocess.check_output(
        [sys.executable, "-c", code % (machine, SCRIPT, name, variable)],
        env=env, universal_newlines=True) == "%s\n" % expected


@pytest.mark.parametrize("argument,words", [
    ("--train_step=5", ["unrecognized", "--train_step=5"]),
    ("--train_steps=many", ["train_steps", "many"]),
    ("--train_steps=0", ["train_steps"]),
    ("--batch_size=-1", ["batch_size"]),
    ("--batch_size=1.5", ["batch_size"]),
    ("--batch_size", ["batch_size"]),
    ("--learning_rate=fast", ["learning_rate", "fast"]),
    ("--log_every_n_iter=0", ["log_every_n_iter"]),
    ("--save_checkpoints_steps=0", ["save_checkpoints_steps"]),
    ("--seed=-1", ["seed"]),
    ("--train_steps=99999999999999999999", ["train_steps"]),
    ("--batch_size=99999999999999999999", ["batch_size"]),
    ("--seed=99999999999999999999", ["seed"]),
    ("--predict", ["predict", "at least one"]),
    ("--bfloat16=maybe", ["bfloat16", "maybe"]),
    ("MNIST-data", ["MNIST-data"]),
    # TensorFlow would not find a checkpoint there.
    ("--model_dir=run[lr=0.1]", ["model_dir", "[ ] * ?"]),
    ("--model_dir=run*", ["model_dir", "[ ] * ?"]),
    ("--model_dir=run?", ["model_dir", "[ ] * ?"]),
    ("--model_dir=a\\b", ["model_dir", "\\"]),
    # It would be taken for a relative path, and MNIST downloaded into it.
    ("--data_dir=gs://bucket/data", ["--data_dir=gs://bucket/data", "copy"]),
    ("--data_dir=file:///data", ["--data_dir=file:///data", "copy"]),
])
def test_wrong_flag(argument, words, tmp_path):
  run_script({}, argument, cwd=str(tmp_path)).check_wrong_flag(*words)
  assert not list(tmp_path.iterdir())


def test_empty_model_dir():
  """As of an empty variable of the shell; TensorFlow says it."""
  run_script({"model_dir": ""}).check_error("--model_dir", "non-empty")


def test_help():
  result = run_script({}, "--help")
  for flag in ("data_dir", "model_dir", "train_steps", "batch_size", "seed",
               "learning_rate", "log_every_n_iter", "save_checkpoints_steps",
               "predict", "export_dir", "bfloat16"):
    assert "--" + flag in result.stdout
  assert result.returncode == 0
  for default in (20000, 100, 0.001, 50, 1000, "MNIST-data",
                  "/tmp/mnist_convnet_model"):
    assert "(default: %s)" % default in " ".join(result.stdout.split())


def test_no_network(tmp_path):
  """Names don't resolve in a network namespace of its own."""
  prefix = ["unshare", "--net"]
  skip_unless_permitted(prefix)
  start = time.time()
  data_dir = str(tmp_path / "data")
  result = run_script({"data_dir": data_dir, "model_dir": tmp_path / "m"},
                      prefix=prefix)
  assert time.time() - start < 30
  result.check_error("train-images-idx3-ubyte.gz", data_dir,
                     "put MNIST's four files there")
  for mirror in cnn_mnist.MIRRORS:
    assert "WARNING %strain-images" % mirror in result.stderr
  assert not os.listdir(data_dir)


def test_disk_full(flags, tmp_path):
  """It is full after one or two checkpoints of 13 MB: that is one error."""
  mount = str(tmp_path / "model")
  os.mkdir(mount)
  if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=14m", "t", mount]):
    pytest.skip("not permitted: mount")
  try:
    flags = dict(flags, train_steps=30, save_checkpoints_steps=10)
    steps = []
    for size in 35, 300:
      run_script(flags, process=True).check_error("No space left", mount)
      # What was saved before is whole, and the run resumes once there is room.
      steps.append(step_of(mount))
      subprocess.check_call(["mount", "-o", "remount,size=%dm" % size, mount])
    assert steps == [0, 10]
    result = run_script(flags, process=True)
    assert "At step 10 of 30: training" in result.stderr
    assert result_of(result)[2] == 30
  finally:
    subprocess.check_call(["umount", mount])


def test_unknown_file_system(flags):
  run_script(dict(flags, model_dir="xyz://a")).check_error("xyz")


def test_name_that_is_not_utf8(flags, tmp_path):
  """TensorFlow takes no such name."""
  result = run_script(dict(flags, model_dir=os.fsdecode(
      os.path.join(os.fsencode(str(tmp_path)), b"\xff"))))
  result.check_error("codec can't encode character")


def test_home_directory(flags, digits_dir, tmp_path):
  """~ is expanded, as the shell does not do within --flag=~."""
  shutil.copytree(digits_dir, str(tmp_path / "home" / "data"))
  (tmp_path / "cwd").mkdir()
  result = run_script(
      dict(flags, data_dir="~/data", model_dir="~/model", train_steps=2,
           export_dir="~/export"), cwd=str(tmp_path / "cwd"),
      env=dict(os.environ, HOME=str(tmp_path / "home")))
  assert result_of(result)[2] == 2
  # TensorFlow may add one: .keras.
  assert {"data", "export", "model"} <= set(os.listdir(str(tmp_path / "home")))
  assert not list((tmp_path / "cwd").iterdir())


def test_stdout_without_flush(flags, monkeypatch):
  """As some notebooks have it: the result is written all the same."""
  class Stdout(object):
    text = ""

    def write(self, text):
      self.text += text

  monkeypatch.setattr(sys, "stdout", Stdout())
  cnn_mnist.main(arguments_of(flags, train_steps=1))
  assert parse_result(sys.stdout.text)[2] == 1


def test_nan_loss(flags, nan_script, tmp_path):
  """Estimator ends the training, and says why."""
  result = run_script(dict(flags, train_steps=100), script=nan_script)
  result.check_error("NaN loss during training")
  # The run resumes from the checkpoint before that.
  assert step_of(tmp_path / "model") == 0
  assert result_of(run_script(dict(flags, train_steps=5)))[2] == 5


def test_faulty_data_file(flags, tmp_path):
  """Every fault of a file is in test_data.py; here, what becomes of one."""
  directory = tmp_path / "data"
  shutil.copytree(flags["data_dir"], str(directory))
  path = directory / "t10k-labels-idx1-ubyte.gz"
  path.write_bytes(path.read_bytes()[:-3])
  result = run_script(dict(flags, data_dir=directory))
  result.check_error(path)
  assert "At step" not in result.stderr


def test_small_and_lopsided_data(flags, tmp_path):
  images, labels = handwritten_digits.load_digits()
  flags = dict(flags, data_dir=tmp_path, train_steps=3)
  # The test data have labels that training never saw.
  few = labels < 5
  write_split(tmp_path, "train", images[few], labels[few])
  write_split(tmp_path, "t10k", images[~few], labels[~few])
  accuracy, _, step = result_of(run_script(flags))
  assert accuracy <= 0.5 and step == 3
  # There is one example of each, and a batch is of 10.
  write_split(tmp_path, "train", images[:1], labels[:1])
  write_split(tmp_path, "t10k", images[:1], labels[:1])
  flags["model_dir"] = tmp_path / "another_model"
  accuracy, _, step = result_of(run_script(flags))
  assert accuracy in (0, 1) and step == 3
