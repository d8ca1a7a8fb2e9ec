# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation: result, log, order of images, seed, summaries.

And what people change first in the network, the data and the hooks.
"""
import functools
import gzip
import pathlib
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from handwritten_digits import write_split
from running import (
    arguments_of, copy_of, events, parse_predictions, predict, result_of,
    run_here, step_of, weights_of)


def test_result(trained, digits_dir):
  """The accuracy is that of all test images."""
  model_dir, result = trained
  accuracy, loss, step = result_of(result)
  assert accuracy > 0.75 and 0 < loss < 0.8
  assert step == step_of(model_dir) == 200
  _, (images, labels) = cnn_mnist.load_mnist(digits_dir)
  assert accuracy == pytest.approx(
      np.mean(predict(model_dir, images)["classes"] == labels), abs=1e-6)


def test_real_mnist(mnist_model):
  assert result_of(mnist_model[1])[0] > 0.95


def test_log(trained):
  """Losses, the probabilities of three images, and what is next."""
  model_dir, result = trained
  gpus = tf.config.experimental.list_physical_devices("GPU")
  assert re.search(rf"TensorFlow {tf.__version__} runs on .*"
                   rf"{'GPU:' if gpus else 'CPU'}", result.stderr)
  assert (f"At step 0 of 200: training. Checkpoints are in {model_dir}\n"
          in result.stderr)
  losses = [float(x) for x in re.findall(r"loss = ([\d.]+), step = ",
                                         result.stderr)]
  assert len(losses) == 2 and losses[1] < losses[0] / 2
  _, *tables = result.stderr.split("probabilities = [[")
  assert len(tables) == 4  # 200 / 50
  rows = tables[0].split("]]")[0].split("\n")
  decimals = [len(x) for x in re.findall(r"\.(\d*)", tables[0].split("]]")[0])]
  assert len(rows) == 3 and len(decimals) == 30 and max(decimals) == 3
  assert result.stderr.endswith(f" --model_dir={model_dir} --predict FILE\n")


def test_time_left(flags, monkeypatch):
  """It is logged every ten seconds; here, every few steps."""
  init = tf.train.StepCounterHook.__init__

  def init_often(self, *args, every_n_secs=None, **options):
    init(self, *args, every_n_secs=every_n_secs and 0.01, **options)

  monkeypatch.setattr(tf.train.StepCounterHook, "__init__", init_often)
  result = run_here(dict(flags, train_steps=30))
  lines = re.findall(r"INFO Step (\d+) of 30 \((\d+) %\), ([\d.]+) steps/s, "
                     r"(\d+) s left\n", result.stderr)
  assert lines and int(lines[-1][0]) > 15
  for step, percent, rate, left in [map(float, line) for line in lines]:
    assert percent == step * 100 // 30
    # Both numbers are rounded.
    assert abs(left * rate - (30 - step)) < 0.1 + 0.5 * rate + 0.05 * left


def test_log_every_n_iter(flags):
  result = run_here(dict(flags, train_steps=7, log_every_n_iter=3))
  assert result.stderr.count("probabilities = [[") == 3  # Steps 1, 4 and 7


def test_summaries(trained):
  """What TensorBoard shows: the tags of training and evaluation are shared."""
  model_dir, result = trained
  training, evaluation = events(model_dir), events(model_dir / "eval")
  assert {"loss", "accuracy", "global_step/sec"} <= set(training)
  first, last = [value.simple_value for _, value in training["accuracy"]]
  assert 0 <= first < 0.5 < last <= 1
  first, last = [value.simple_value for _, value in training["loss"]]
  assert last < first
  (step, value), = evaluation["accuracy"]
  assert step == 200 and value.simple_value == pytest.approx(
      result_of(result)[0])
  for i in range(3):
    _, value = training[f"digits/image/{i}"][0]
    assert (value.image.height, value.image.width) == (28, 28)
    assert value.image.encoded_image_string.startswith(b"\x89PNG")
  assert "digits/image/3" not in training


# ---- What reaches the Estimator ----------------------------------------------

@pytest.fixture
def prepare(flags, monkeypatch):
  """Function of more flags: the Estimator of a run, and its input functions.

  Nothing is trained or evaluated.
  """
  def prepare_run(**more):
    found = []
    monkeypatch.setattr(
        tf.estimator.Estimator, "train",
        lambda self, input_fn, *_, **__: found.extend([self, input_fn]))
    monkeypatch.setattr(
        tf.estimator.Estimator, "evaluate",
        lambda self, input_fn, *_, **__: found.append(input_fn) or {})
    cnn_mnist.main(arguments_of(flags, **more))
    return found

  return prepare_run


def test_flags_reach_the_estimator(prepare, flags):
  estimator, _, _ = prepare(seed=5, save_checkpoints_steps=30)
  assert estimator.params["learning_rate"] == 0.05
  config = estimator.config
  assert config.model_dir == str(flags["model_dir"])
  assert config.tf_random_seed == 5 and config.save_checkpoints_steps == 30


def numbers_of(input_fn, batches, batch_size):
  """The numbers of the images, in the order of their batches."""
  numbers = []
  with tf.Graph().as_default():
    features, labels = input_fn()
    with tf.train.MonitoredSession() as session:
      for _ in range(batches):
        x, y = session.run([features["x"], labels])
        found = np.rint(x[:, 0] * 255).astype(int)
        # Each image keeps its label.
        np.testing.assert_array_equal(found % 10, y)
        assert len(found) <= batch_size
        numbers.extend(found)
  return numbers


@pytest.fixture
def numbered(flags, tmp_path):
  """A data set whose images have their numbers in their first pixels."""
  images = np.zeros((250, 28, 28), np.uint8)
  images[:, 0, 0] = range(250)
  labels = np.uint8(np.arange(250) % 10)
  write_split(tmp_path, "train", images[:60], labels[:60])
  write_split(tmp_path, "t10k", images, labels)
  flags["data_dir"] = tmp_path


@pytest.mark.usefixtures("numbered")
def test_order_of_images(prepare):
  """It is another one in each run, or that of --seed; never the files' own."""
  orders = [numbers_of(prepare(**seed)[1], batches=11, batch_size=10)
            for seed in ({}, {}, {"seed": 0}, {"seed": 0}, {"seed": 1})]
  one, another, seeded, again, of_other_seed = orders
  assert seeded == again and one != another and seeded != of_other_seed
  for order in orders:
    assert len(order) == 110 and order[:55] != list(range(5, 60))
  # With a seed, each of the 55 comes before any comes again.
  assert sorted(seeded[:55]) == list(range(5, 60)) and (
      seeded[55:] == seeded[:55])


@pytest.mark.usefixtures("numbered")
def test_evaluation_has_each_image_once(prepare):
  evaluated = numbers_of(prepare()[2], batches=9, batch_size=128)
  assert evaluated == list(range(250))


def test_seed(flags, tmp_path):
  """Two runs with one --seed give the same weights bit for bit; no others."""
  weights = []
  for run, seed in enumerate((7, 7, 8)):
    model_dir = tmp_path / str(run)
    result_of(run_here(dict(flags, model_dir=model_dir, train_steps=10,
                            seed=seed)))
    weights.append({name: array.tobytes()
                    for name, array in weights_of(model_dir).items()})
  assert weights[0] == weights[1]
  assert weights[0]["conv2d/kernel"] != weights[2]["conv2d/kernel"]


# ---- bfloat16, and what may go wrong -----------------------------------------

needs_tensorflow_2 = pytest.mark.skipif(
    tf.__version__.startswith("1."), reason="TensorFlow 1 has no bfloat16")


@needs_tensorflow_2
def test_bfloat16(trained, digits_dir, tmp_path):
  """A little less precise; checkpoints stay float32."""
  accuracy, loss, _ = result_of(trained[1])
  flags = {"data_dir": digits_dir, "batch_size": 50,
           "model_dir": copy_of(trained[0], tmp_path / "model")}
  rounded = result_of(run_here(dict(flags, train_steps=200), "--bfloat16"))
  assert rounded[0] == pytest.approx(accuracy, abs=0.02)
  assert rounded[1] == pytest.approx(loss, rel=0.02)
  if re.search("amx_bf16|avx512_bf16",
               pathlib.Path("/proc/cpuinfo").read_text()):
    assert rounded[1] != loss
  later = result_of(run_here(dict(flags, train_steps=220), "--bfloat16"))
  assert later[0] > 0.75
  dtypes = {array.dtype for array in weights_of(flags["model_dir"]).values()}
  assert dtypes == {np.dtype("float32"), np.dtype("int64")}


@needs_tensorflow_2
def test_bfloat16_reaches_the_session(flags):
  """Which matters also where no CPU shows it."""
  exact, rounded = [
      cnn_mnist.make_config(cnn_mnist.parse_flags(
          arguments_of(flags) + more)).session_config
      for more in ([], ["--bfloat16"])]
  assert exact is None  # The Estimator's own
  options = rounded.graph_options.rewrite_options
  assert options.meta_optimizer_iterations == options.ONE
  assert options.auto_mixed_precision_onednn_bfloat16 == options.ON
  assert rounded.allow_soft_placement  # As the Estimator's own has it


@pytest.mark.usefixtures("nan_loss")
def test_nan_loss(flags, monkeypatch):
  """Estimator ends the training, and says why; the run can be resumed."""
  run_here(dict(flags, train_steps=100)).check_error("NaN loss during training")
  assert step_of(flags["model_dir"]) == 0
  monkeypatch.undo()
  assert result_of(run_here(dict(flags, train_steps=5)))[2] == 5


def test_not_enough_memory(flags, monkeypatch):
  """For the data, as NumPy says it, or for a step."""
  def fail(*args, **options):
    raise MemoryError("Unable to allocate 9 GiB")

  with monkeypatch.context() as patch:
    patch.setattr(gzip, "decompress", fail)
    result = run_here(flags)
  result.check_error("Unable to allocate 9 GiB", "fewer images")

  def fail_in_a_step(*args, **options):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

  monkeypatch.setattr(tf.estimator.Estimator, "train", fail_in_a_step)
  result = run_here(flags)
  result.check_error("error: TensorFlow: OOM when allocating")
  assert "--model_dir" not in result.stderr.splitlines()[-1]


# ---- Other networks, data and hooks ------------------------------------------

def use_dataset(monkeypatch, epochs=None):
  """Lets tf.data give the images, all epochs or so many."""
  def dataset_input_fn(x, y=None, batch_size=128, num_epochs=1, shuffle=None):
    del shuffle
    return lambda: tf.data.Dataset.from_tensor_slices(
        x if y is None else (x, y)).repeat(
            num_epochs or epochs).batch(batch_size)

  monkeypatch.setattr(tf.estimator.inputs, "numpy_input_fn", dataset_input_fn)


def use_strategy(monkeypatch):
  """Distributes the training, as over several GPUs."""
  use_dataset(monkeypatch)
  monkeypatch.setattr(tf.estimator, "RunConfig", functools.partial(
      tf.estimator.RunConfig,
      train_distribute=tf.distribute.MirroredStrategy()))


def use_adam(monkeypatch):
  monkeypatch.setattr(tf.train, "GradientDescentOptimizer",
                      tf.train.AdamOptimizer)


@pytest.mark.parametrize("change", [use_adam, use_dataset, use_strategy])
def test_changed(flags, picture, tmp_path, monkeypatch, change):
  """Such a network trains, resumes, exports and classifies as well."""
  change(monkeypatch)
  flags = dict(flags, batch_size=100, learning_rate=0.0001)
  assert result_of(run_here(dict(flags, train_steps=3)))[2] == 3
  result = run_here(dict(flags, train_steps=5, export_dir=tmp_path / "e"))
  assert result_of(result)[2] == 5 and "Exported to" in result.stderr
  assert "At step 3 of 5: training" in result.stderr
  result = run_here({"model_dir": flags["model_dir"], "predict": picture})
  assert result.returncode == 0, result.stderr
  (path, _), = parse_predictions(result.stdout)
  assert path == str(picture)


def test_training_that_ends_early(flags, tmp_path, monkeypatch):
  """Where the data end it, it evaluates and exports all the same."""
  use_dataset(monkeypatch, epochs=2)
  result = run_here(dict(flags, batch_size=500, train_steps=100,
                         export_dir=tmp_path / "e"))
  # Twice the 1,318 images in batches of 500, of which the last is smaller
  assert result_of(result)[2] == 6
  assert "Exported to" in result.stderr
