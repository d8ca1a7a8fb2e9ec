# SPDX-License-Identifier: Apache-2.0
"""What is installed and set around the script, and its log on stderr."""
import glob
import os
import re
import runpy
import sys

import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import (
    MINOR, ROOT, SCRIPT, check_log, run_code, run_command, run_process)

# ---- Packages ----------------------------------------------------------------

PIP = f'"{sys.executable}" -m pip install '
REQUIREMENTS = f'-r "{ROOT / "requirements.txt"}"'
# What a package that is missing does when it is imported
NOT_HERE = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')\n"


@pytest.fixture
def hide(tmp_path, monkeypatch):
  """Function that lets a module, of this text, hide one that is installed."""
  def write(name, text=NOT_HERE):
    (tmp_path / f"{name}.py").write_text(text.format(name))

  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  return write


def check_package(result, word, command):
  """Checks that there is one line, which ends with a command to be pasted."""
  result.check_error(word, ". Run: ")
  assert result.stderr.endswith(f" Run: {command}\n"), result.stderr


@pytest.mark.parametrize("name", ["numpy", "tensorflow", "PIL", "scipy"])
def test_without_a_package(hide, monkeypatch, name):
  hide(name)
  check_package(run_process({}), f"No module named '{name}'",
                PIP + REQUIREMENTS)
  # Another program gets the error as it is.
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ModuleNotFoundError):
    runpy.run_path(str(SCRIPT), run_name="cnn_mnist")


def test_digits_without_a_package(hide):
  """The quick start's first command says the same."""
  hide("sklearn")
  path = ROOT / "tests" / "handwritten_digits.py"
  result = run_command([sys.executable, path, "unused"])
  assert (result.returncode, result.stderr) == (
      1, "handwritten_digits.py: error: No module named 'sklearn'. Run: "
      f'{PIP}-r "{path.with_name("requirements.txt")}"\n')


def test_without_pip():
  """With -S, Python sees nothing that is installed: pip is not, as with uv."""
  check_package(
      run_command([sys.executable, "-S", SCRIPT]),
      "No module named 'numpy'",
      f'uv pip install --python "{sys.executable}" {REQUIREMENTS}')


@pytest.mark.skipif(MINOR < (2,), reason="TensorFlow 1 imports it itself")
def test_without_estimator(flags, hide):
  hide("tensorflow_estimator")
  check_package(run_process(flags), "No module named 'tensorflow_estimator'",
                PIP + "tensorflow-estimator 'tensorflow<2.23'")


@pytest.mark.skipif(MINOR < (2, 16), reason="Estimator is a part of it")
@pytest.mark.parametrize("name,text,words", [
    ("tensorflow_estimator", "raise ImportError('cannot import name lost')",
     "cannot import name lost"),
    # Python imports this one by itself at its start.
    ("sitecustomize", "import sys\n"
     "sys.modules['tensorflow.python.layers.layers'] = None", "layers")])
def test_later_tensorflow(flags, picture, hide, name, text, words):
  """A name that it lost is one line, when the script runs, not in an import."""
  hide(name, text)
  result = run_process(flags)
  result.check_error(words, ". Run: ")
  assert f"TensorFlow {tf.__version__} runs on" in result.stderr
  # What needs no Estimator works in another program.
  code = "import sys, cnn_mnist as c; print(c.read_picture(sys.argv[1]).shape)"
  assert run_code(sys.executable, code, picture) == "(28, 28)"


# ---- Variables ---------------------------------------------------------------

@pytest.mark.parametrize("variable,value,machine,device,expected", [
    ("TF_ENABLE_ONEDNN_OPTS", None, "x86_64", None, "1"),
    ("TF_ENABLE_ONEDNN_OPTS", "0", "x86_64", None, "0"),
    # There, a gradient is slow with it: TensorFlow's own default holds.
    ("TF_ENABLE_ONEDNN_OPTS", None, "aarch64", None, None),
    ("TF_CPP_MIN_LOG_LEVEL", "2", "x86_64", None, "2"),
    ("TF_CPP_MIN_LOG_LEVEL", None, "x86_64", None, "3"),
    # Who has a GPU is told why TensorFlow can't use it.
    ("TF_CPP_MIN_LOG_LEVEL", None, "x86_64", "/dev/nvidiactl", "1"),
    ("TF_CPP_MIN_LOG_LEVEL", None, "x86_64", "/dev/dxg", "1")])
def test_variables_of_tensorflow(monkeypatch, variable, value, machine, device,
                                 expected):
  """Run or imported, it sets defaults before it imports TensorFlow."""
  exists = os.path.exists
  uname = os.uname_result([*os.uname()[:4], machine])
  monkeypatch.setattr("os.uname", lambda: uname)
  monkeypatch.setattr("os.path.exists", lambda path: (
      path == device if str(path).startswith("/dev/") else exists(path)))
  monkeypatch.setitem(sys.modules, "tensorflow", None)  # It ends at its import.
  for name in "__main__", "cnn_mnist":
    monkeypatch.setenv(variable, value or "")
    if value is None:
      monkeypatch.delenv(variable)
    with pytest.raises((ImportError, SystemExit)):
      runpy.run_path(str(SCRIPT), run_name=name)
    assert os.environ.get(variable) == expected


# ---- The log -----------------------------------------------------------------

# A line that TensorFlow's C++ part logs: up to 2.17, those begin with the date,
# and later ones with a letter.
CPP_LINE = re.compile(r"(?m)^(?:\d{4}-\d\d-\d\d .*: [IWEF] |[IWEF]0000 )")

@pytest.mark.skipif(bool(glob.glob("/dev/nvidia*")),
                    reason="there is an NVIDIA device here")
def test_log(flags, picture, tmp_path, monkeypatch):
  """Of a training, its evaluation and an export, and of a classification.

  What matters is logged, and what says nothing to a user is not.
  """
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")  # The import set it.
  training = run_process(dict(flags, train_steps=3, export_dir=tmp_path / "e"))
  for words in ("TensorFlow", "At step 0 of 3", "loss = ", "Saving checkpoints",
                "Finished evaluation", "Exported to"):
    assert words in training.stderr
  classification = run_process({
      "model_dir": flags["model_dir"], "predict": picture})
  for result in training, classification:
    assert result.returncode == 0, result.stderr
    check_log(result.stderr.splitlines())
    assert not CPP_LINE.search(result.stderr)
    for words in ("Create ", "Graph was", "local_init", "Calling", "Signatures",
                  "Using", "global_step/sec", "Done", "deprecat", "warning",
                  "contrib", "traceback"):
      assert words.lower() not in result.stderr.lower(), words


def test_only_info_is_hidden(capsys):
  cnn_mnist.set_up_tensorflow()
  tf.logging.info("Using config: …")
  tf.logging.warning("Using config: …")
  log = capsys.readouterr().err
  assert "INFO Using" not in log and "WARNING Using" in log
