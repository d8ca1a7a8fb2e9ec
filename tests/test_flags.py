# SPDX-License-Identifier: Apache-2.0
"""Flags: their defaults, --help, and what is said of wrong ones."""
import os
import re

import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import run_here, run_process

# Name: default, arguments, and what they become
FLAGS = {
    "data_dir": ("MNIST-data", ["~/d"], os.path.expanduser("~/d")),
    "model_dir": ("/tmp/mnist_convnet_model", ["~/m"],
                  os.path.expanduser("~/m")),
    "train_steps": (20000, ["5"], 5),
    "batch_size": (100, ["5"], 5),
    "learning_rate": (0.001, ["1e-2"], 0.01),
    "log_every_n_iter": (50, ["5"], 5),
    "save_checkpoints_steps": (1000, ["5"], 5),
    "seed": (None, ["0"], 0),
    "bfloat16": (False, [], True),
    "predict": (None, ["a,b.png", "c.png", "--predict", "~/d.png"],
                ["a,b.png", "c.png", os.path.expanduser("~/d.png")]),
    "export_dir": (None, ["~/e"], os.path.expanduser("~/e")),
}


def test_defaults():
  assert vars(cnn_mnist.parse_flags([])) == {
      name: default for name, (default, _, _) in FLAGS.items()}


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_value(name, monkeypatch):
  monkeypatch.setattr(tf, "__version__", "2.0")  # For --bfloat16
  _, arguments, value = FLAGS[name]
  args = cnn_mnist.parse_flags([f"--{name}", *arguments])
  assert getattr(args, name) == value


def test_help():
  """It names each flag with its default."""
  result = run_here({}, "--help")
  assert result.returncode == 0 and result.stderr == ""
  text = " ".join(result.stdout.split())
  for name, value in vars(cnn_mnist.parse_flags([])).items():
    assert re.search(rf" --{name}\b[^()]*(\([^()]*\)[^()]*)?"
                     rf"\(default: {re.escape(str(value))}\)", text), name


@pytest.mark.parametrize("name,right,wrong,words", [
    *[(name, [1, 2**31], [0, -1], "must be above 0") for name in (
        "train_steps", "batch_size", "log_every_n_iter",
        "save_checkpoints_steps")],
    ("learning_rate", [1e-9, 2], [0, -0.001, "nan"], "must be above 0"),
    ("seed", [0, 2**31 - 1], [-1, 2**31], "must be from 0 to 2147483647")])
def test_limits(name, right, wrong, words, capsys):
  for value in right:
    args = cnn_mnist.parse_flags([f"--{name}={value}"])
    assert getattr(args, name) == value
  for value in wrong:
    with pytest.raises(SystemExit):
      cnn_mnist.parse_flags([f"--{name}={value}"])
    assert f"--{name} {words}\n" in capsys.readouterr().err


@pytest.mark.parametrize("argument,words", [
    ("--train_step=5", ["unrecognized", "--train_step=5"]),
    ("--train_steps=many", ["train_steps", "many"]),
    ("--batch_size=1.5", ["batch_size"]),
    ("--learning_rate=fast", ["learning_rate", "fast"]),
    ("--predict", ["predict", "at least one"]),
    ("--predict a.png --export_dir=e", ["--predict", "leave --export_dir"]),
    ("--bfloat16=maybe", ["bfloat16", "maybe"]),
    ("MNIST-data", ["MNIST-data"]),
    # TensorFlow would not find a checkpoint there.
    ("--model_dir=run[lr=0.1", ["model_dir", "[ ] * ?"]),
    ("--model_dir=run]", ["model_dir", "[ ] * ?"]),
    ("--model_dir=run*", ["model_dir", "[ ] * ?"]),
    ("--model_dir=run?", ["model_dir", "[ ] * ?"]),
    ("--model_dir=a\\b", ["model_dir", "\\"]),
    # It would be taken for a relative path, and MNIST downloaded into it.
    ("--data_dir=gs://bucket/data", ["gs://bucket/data is no directory"]),
    ("--data_dir=file:///data", ["file:///data is no directory"]),
    (f"--data_dir={__file__}", [f"{__file__} is no directory"]),
])
def test_wrong_flag(argument, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_here({}, *argument.split()).check_wrong_flag(*words)
  assert not list(tmp_path.iterdir())


def test_wrong_flag_of_a_process():
  """Usage, one line and the code 2, as a shell sees them."""
  run_process({"train_steps": 0}).check_wrong_flag("--train_steps must be")


def test_bfloat16_on_tensorflow_1(monkeypatch, capsys):
  monkeypatch.setattr(cnn_mnist.tf, "__version__", "1.15.0")
  with pytest.raises(SystemExit):
    cnn_mnist.parse_flags(["--bfloat16"])
  assert "--bfloat16 needs TensorFlow 2" in capsys.readouterr().err


@pytest.mark.parametrize("model_dir,word", [
    ("", "non-empty"),  # As of an empty variable of the shell
    ("xyz://a", "xyz"),
    (os.fsdecode(b"/tmp/\xff"), "codec can't encode character")])
def test_model_dir_that_tensorflow_refuses(flags, model_dir, word):
  """It says so itself."""
  run_here(dict(flags, model_dir=model_dir)).check_error(word)
