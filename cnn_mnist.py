# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: 2016 The TensorFlow Authors, for the tutorial's part
# /// script
# requires-python = ">=3.7,<3.15"
# dependencies = [
#   'tensorflow==1.15; python_version < "3.8"',
#   'protobuf<3.21; python_version < "3.8"',
#   'numpy<1.17; python_version < "3.8"',
#   'tensorflow==2.13.*; python_version == "3.8"',
#   'tensorflow==2.15.*; python_version >= "3.9" and python_version < "3.12"',
#   'tensorflow==2.21.*; python_version >= "3.12" and python_version < "3.14"',
#   'tensorflow>=2.22.0rc0,<2.23; python_version >= "3.14"',
#   'tensorflow-estimator==2.15.*; python_version >= "3.12"',
#   'pillow>=8', 'scipy',
# ]
# ///
"""Trains the convolutional network of "A Guide to TF Layers" on MNIST.

By default it trains for 20,000 steps of 100 images each and then prints the
accuracy on the 10,000 test images, about 97 %.
"""
import argparse
import contextlib
import fcntl
import gzip
import hashlib
import http.client
import importlib.util
import logging
import math
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import time
import types
import urllib.request
import warnings
import zlib

# TensorFlow reads these variables at its import. Without a GPU, hide what it
# says about CUDA; with one (/dev/dxg is WSL's), it says what is missing.
HAS_GPU = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if HAS_GPU else "3")
# TensorFlow 2 leaves oneDNN's faster kernels off on x86 CPUs without AVX-512.
if os.uname().machine == "x86_64":
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# The command that installs packages. Environments that uv makes have no pip.
INSTALL = (f'"{sys.executable}" -m pip install' if importlib.util.find_spec(
    "pip") else f'uv pip install --python "{sys.executable}"')
try:
  import numpy as np
  from PIL import Image, ImageOps, JpegImagePlugin
  from scipy import ndimage
  import tensorflow.compat.v1 as tf  # complete_tensorflow() adds to it.
except ModuleNotFoundError as e:
  if __name__ != "__main__":
    raise
  sys.exit(f"cnn_mnist.py: error: {e}. Run: {INSTALL} -r "
           f'"{pathlib.Path(__file__).with_name("requirements.txt")}"')

# Hide deprecations: TensorFlow 1's API is used on purpose.
tf.get_logger().addFilter(lambda record: "deprecated" not in str(record.msg))
warnings.filterwarnings("ignore", "`(tf.layers|layer.apply)")
tf.disable_v2_behavior()


def cnn_model_fn(features, labels, mode, params=None):
  """Model function for the network, for tf.estimator.Estimator.

  Args:
    features: dict, "x": float32 [batch, 784] or [batch, 28, 28] in [0, 1].
    labels: int32 [batch] in 0..9, or None in PREDICT.
    mode: a tf.estimator.ModeKeys.
    params: dict or None, "learning_rate": float, by default 0.001.

  Returns:
    tf.estimator.EstimatorSpec for the mode. Predictions: "classes", int64
    [batch] in 0..9, and "probabilities", float32 [batch, 10] in [0, 1].
  """
  # Input: greyscale. [batch, 28, 28, 1]
  input_layer = tf.reshape(features["x"], [-1, 28, 28, 1])
  conv1 = tf.layers.conv2d(  # [batch, 28, 28, 32]
      inputs=input_layer, filters=32, kernel_size=[5, 5], padding="same",
      activation=tf.nn.relu)
  pool1 = tf.layers.max_pooling2d(  # [batch, 14, 14, 32]
      inputs=conv1, pool_size=[2, 2], strides=2)
  conv2 = tf.layers.conv2d(  # [batch, 14, 14, 64]
      inputs=pool1, filters=64, kernel_size=[5, 5], padding="same",
      activation=tf.nn.relu)
  pool2 = tf.layers.max_pooling2d(  # [batch, 7, 7, 64]
      inputs=conv2, pool_size=[2, 2], strides=2)
  pool2_flat = tf.reshape(pool2, [-1, 7 * 7 * 64])  # [batch, 3136]
  dense = tf.layers.dense(  # [batch, 1024]
      inputs=pool2_flat, units=1024, activation=tf.nn.relu)
  dropout = tf.layers.dropout(  # [batch, 1024]; in training, 40 % become 0.
      inputs=dense, rate=0.4, training=mode == tf.estimator.ModeKeys.TRAIN)
  logits = tf.layers.dense(inputs=dropout, units=10)  # [batch, 10]

  predictions = {
      "classes": tf.argmax(input=logits, axis=1),  # [batch]
      # [batch, 10]. The logging hook finds it by its name.
      "probabilities": tf.nn.softmax(logits, name="softmax_tensor")
  }
  if mode == tf.estimator.ModeKeys.PREDICT:
    return tf.estimator.EstimatorSpec(mode=mode, predictions=predictions)

  # Calculate the loss (for both TRAIN and EVAL modes)
  loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)

  # Configure the training op (for TRAIN mode)
  if mode == tf.estimator.ModeKeys.TRAIN:
    optimizer = tf.train.GradientDescentOptimizer(
        learning_rate=(params or {}).get("learning_rate", 0.001))
    train_op = optimizer.minimize(
        loss=loss, global_step=tf.train.get_global_step())
    # For TensorBoard. The metric below is called "accuracy" too, so that one
    # chart shows both curves.
    hits = tf.equal(predictions["classes"], tf.cast(labels, tf.int64))
    tf.summary.scalar("accuracy", tf.reduce_mean(tf.cast(hits, tf.float32)))
    tf.summary.image("digits", input_layer, max_outputs=3)
    return tf.estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op)

  # Add evaluation metrics (for EVAL mode)
  accuracy = tf.metrics.accuracy(
      labels=labels, predictions=predictions["classes"])
  return tf.estimator.EstimatorSpec(
      mode=mode, loss=loss, eval_metric_ops={"accuracy": accuracy})


def main(argv=()):
  """Trains the network, then evaluates it and prints the result.

  Takes a list of flags, like ["--train_steps=100"]. Raises UserError or OSError
  with what is wrong; SystemExit after --help, a bad flag or picture, a signal.
  """
  args = parse_flags(argv)
  set_up_tensorflow()
  config = make_config(args)

  # Create the Estimator
  mnist_classifier = tf.estimator.Estimator(
      model_fn=cnn_model_fn, config=config,
      params={"learning_rate": args.learning_rate})
  if args.predict:
    classify_pictures(mnist_classifier, args.predict)
    return

  # Load training and eval data
  ((train_data, train_labels),
   (eval_data, eval_labels)) = load_mnist(args.data_dir)
  if args.seed is not None:  # numpy_input_fn can't shuffle by a seed.
    shuffled = np.random.RandomState(args.seed).permutation(len(train_labels))
    train_data, train_labels = train_data[shuffled], train_labels[shuffled]
  train_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=args.batch_size,
      num_epochs=None, shuffle=args.seed is None)
  eval_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": eval_data}, y=eval_labels, num_epochs=1, shuffle=False)

  # Set up logging for predictions, of the first three images of a batch
  logging_hook = tf.train.LoggingTensorHook(
      tensors={"probabilities": "softmax_tensor"},
      every_n_iter=args.log_every_n_iter, formatter=lambda values: (
          f"probabilities = {np.round(values['probabilities'][:3], 3)}"))

  # Train the model
  train_model(mnist_classifier, train_input_fn, eval_input_fn,
              args.train_steps, [logging_hook])

  # Evaluate the model and print results
  if config.is_chief:
    results = mnist_classifier.evaluate(input_fn=eval_input_fn)
    # By str(), as NumPy 2's repr() would be np.float32(0.97).
    print("{" + ", ".join(f"'{k}': {v!s}" for k, v in results.items()) + "}")
    if args.export_dir:
      export_model(mnist_classifier, args.export_dir)
    tf.logging.info(f"The network is in {config.model_dir}. To let it read a "
                    f"picture: --model_dir={config.model_dir} --predict FILE")


# ---- tf.layers and tf.estimator on TensorFlow 2 ------------------------------

def complete_tensorflow():
  """Adds TensorFlow 1's own layers to tf, and Estimator where it is missing."""
  from tensorflow.python.layers import layers
  tf.layers = layers  # Those of TensorFlow 2 are Keras's.
  # TensorFlow 2.16 dropped Estimator. Its package still needs three modules:
  if not hasattr(tf, "estimator"):
    sys.modules.update({
        # one that registers Estimator's names, and does nothing here;
        "tensorflow_estimator.python.estimator.estimator_export": (
            types.SimpleNamespace(estimator_export=lambda *_, **__: (
                lambda decorated: decorated))),
        # one that sets up tf.distribute, and only reads TF_CONFIG here; and
        "tensorflow.python.distribute.estimator_training": (
            types.SimpleNamespace(
                should_run_distribute_coordinator=lambda config: False,
                init_run_config=lambda config, job: (
                    config._init_distributed_setting_from_environment_var(
                        job)))),
        # one for TPUs.
        "tensorflow_estimator._api.v1.estimator.tpu": types.SimpleNamespace()})
  from tensorflow_estimator import estimator
  tf.estimator = estimator


with contextlib.suppress(ImportError, AttributeError):  # main() reports it.
  complete_tensorflow()


# ---- Flags, logging, configuration -------------------------------------------

class UserError(Exception):
  """A problem that the user can solve; the script prints it as one line."""


def reason(error):
  """Returns what an exception says, in one line and without a path."""
  text = getattr(error, "strerror", None) or str(error) or repr(error)
  return " ".join(text.split())


def parse_flags(argv):
  """Returns the flags; exits with an error and code 2 if one is wrong."""
  parser = argparse.ArgumentParser(
      prog="cnn_mnist.py", allow_abbrev=False,
      description="Trains a convolutional network on MNIST and evaluates it.",
      formatter_class=argparse.ArgumentDefaultsHelpFormatter)
  add = parser.add_argument
  path = os.path.expanduser
  add("--data_dir", type=path, default="MNIST-data",
      help="directory of MNIST's four files; missing ones are downloaded")
  add("--model_dir", type=path, default="/tmp/mnist_convnet_model",
      help="directory of checkpoints and TensorBoard's summaries")
  add("--train_steps", type=int, default=20000, help="global step to train to")
  add("--batch_size", type=int, default=100, help="images per training step")
  add("--learning_rate", type=float, default=0.001, help="above 0")
  add("--log_every_n_iter", type=int, default=50, help="steps between logs")
  add("--save_checkpoints_steps", type=int, default=1000,
      help="steps between checkpoints")
  add("--seed", type=int, help="seed of the random numbers, to repeat a run")
  add("--bfloat16", action="store_true",
      help="multiply in bfloat16: faster with amx_bf16 or AMD's avx512_bf16")
  add("--predict", type=path, nargs="+", action="append", metavar="PICTURE",
      help="classify pictures (PNG, JPEG, GIF, BMP) instead of training")
  add("--export_dir", type=path, help="write a SavedModel into it at the end")
  args = parser.parse_args(argv)
  for flag in ("train_steps", "batch_size", "learning_rate", "log_every_n_iter",
               "save_checkpoints_steps"):
    if not getattr(args, flag) > 0:  # NaN is not.
      parser.error(f"--{flag} must be above 0")
  if args.seed is not None and not 0 <= args.seed < 2**31:
    parser.error("--seed must be from 0 to 2147483647")
  if args.predict:
    args.predict = sum(args.predict, [])  # As it may be given several times
    if args.export_dir:
      parser.error("--predict only classifies: leave --export_dir out")
  if "://" in args.data_dir or os.path.isfile(args.data_dir):
    parser.error(f"--data_dir={args.data_dir} is no directory on this machine")
  if args.bfloat16 and tf.__version__.startswith("1."):
    parser.error("--bfloat16 needs TensorFlow 2")
  # TensorFlow takes these for wildcards when it looks for checkpoints.
  if re.search(r"[][*?\\]", args.model_dir):
    parser.error("--model_dir must not contain [ ] * ? or \\")
  return args


def set_up_tensorflow():
  """Sets up its log, on stderr; raises UserError if the script can't use it."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter(
      "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
  # Hide the configuration (half a page) and what says nothing to a user.
  handler.addFilter(lambda record: record.levelno != logging.INFO or not (
      record.getMessage().startswith((
          "Using config", "global_step/sec", "Create CheckpointSaverHook",
          "Calling model_fn", "Done calling model_fn", "Graph was finalized",
          "Running local_init_op", "Done running local_init_op",
          "Calling checkpoint listeners", "Signatures INCLUDED"))))
  logger = tf.get_logger()
  logger.handlers = [handler]  # In place of TensorFlow's, or an earlier call's
  logger.propagate = False
  logger.setLevel(logging.INFO)
  gpus = tf.config.experimental.list_physical_devices("GPU")
  tf.logging.info("TensorFlow %s runs on %s", tf.__version__, ", ".join(
      gpu.name for gpu in gpus) or "the CPU: it sees no GPU")
  try:
    complete_tensorflow()
  except (ImportError, AttributeError) as e:
    raise UserError(f"{reason(e)}. Run: {INSTALL} tensorflow-estimator "
                    "'tensorflow<2.23'")


def make_config(args):
  """Returns the RunConfig; raises UserError if TF_CONFIG's job can't work."""
  # Classifying does not wait for the other tasks of a job.
  job = os.environ.pop("TF_CONFIG", None) if args.predict else None
  try:
    config = tf.estimator.RunConfig(
        model_dir=args.model_dir, tf_random_seed=args.seed,
        save_checkpoints_steps=args.save_checkpoints_steps)
    if config.num_worker_replicas > 1 and not config.num_ps_replicas:
      raise ValueError("several workers need a parameter server (ps)")
  except (ValueError, TypeError, AttributeError, KeyError) as e:
    raise UserError(f"bad --model_dir or TF_CONFIG: {reason(e)}")
  finally:
    if job is not None:
      os.environ["TF_CONFIG"] = job
  if args.bfloat16:
    # A job has a ConfigProto already. This is Estimator's own for one machine:
    proto = config.session_config or tf.ConfigProto(allow_soft_placement=True)
    rewriter = proto.graph_options.rewrite_options
    rewriter.meta_optimizer_iterations = rewriter.ONE
    rewriter.auto_mixed_precision_onednn_bfloat16 = rewriter.ON
    config = config.replace(session_config=proto)
  return config


# ---- Training, export, model directory ---------------------------------------

def train_model(classifier, train_input_fn, eval_input_fn, last_step, hooks):
  """Trains to last_step or a signal, alone or as a task of TF_CONFIG's job."""
  config = classifier.config
  with claim_model_dir(config), StopOnSignalHook() as stop:
    hooks = [*hooks, stop]
    if config.is_chief:
      hooks.append(ProgressHook(last_step))
      step = saved_step(config.model_dir) or 0
      what = "training" if step < last_step else "no training, it is done"
      tf.logging.info(f"At step {step} of {last_step}: {what}. Checkpoints are "
                      f"in {config.model_dir}")
    # Who is alone counts as one worker; an evaluator does not count itself.
    if config.num_worker_replicas + config.num_ps_replicas == 1:
      classifier.train(train_input_fn, hooks, max_steps=last_step)
    else:
      servers = config.cluster_spec.as_dict().get("ps", "checkpoints")
      tf.logging.info(f"Running as {config.task_type} {config.task_id} of a "
                      f"job: waiting for {servers}")
      tf.estimator.train_and_evaluate(
          classifier, tf.estimator.TrainSpec(train_input_fn, last_step, hooks),
          tf.estimator.EvalSpec(eval_input_fn, steps=None, throttle_secs=10,
                                start_delay_secs=0))
    if stop.signum:
      tf.logging.info(f"Stopped by signal {stop.signum}, with a checkpoint: "
                      "the same command resumes from there")
      sys.exit(128 + stop.signum)


def export_model(classifier, export_dir):
  """Writes a SavedModel, which makes cnn_model_fn's predictions from "x"."""
  def receive():
    x = tf.placeholder(tf.float32, [None, 28, 28], name="x")
    return tf.estimator.export.ServingInputReceiver({"x": x}, {"x": x})

  path = classifier.export_saved_model(export_dir, receive)
  tf.logging.info("Exported to %s", tf.compat.as_str(path))


class ProgressHook(tf.train.StepCounterHook):
  """Logs every ten seconds how far the training is, and the time left."""

  def __init__(self, last_step):
    super().__init__(every_n_steps=None, every_n_secs=10)
    self._last_step = last_step

  def _log_and_record(self, elapsed_steps, elapsed_time, global_step):
    rate = max(1, elapsed_steps) / elapsed_time
    secs = (self._last_step - global_step) / rate
    left = f"{secs:.0f} s" if secs < 100 else f"{secs / 60:.0f} min"
    tf.logging.info(f"Step {global_step} of {self._last_step} "
                    f"({global_step * 100 // self._last_step} %), {rate:.1f} "
                    f"steps/s, {left} left")


class StopOnSignalHook(contextlib.ExitStack, tf.train.SessionRunHook):
  """Ends the training at a signal, after its step and with a checkpoint.

  A second signal ends the process at once. Python's own handlers wait while a
  step runs, so a thread reads the signals from a pipe. close() ends all this.
  """
  SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
  signum = None

  def after_create_session(self, session, coord):
    self.close()  # A session may be created again.
    if threading.current_thread() != threading.main_thread():
      return  # Python sets handlers in the main thread only.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # As set_wakeup_fd() wants it
    threading.Thread(target=self._watch, args=[reader], daemon=True).start()
    self.callback(os.close, writer)  # The thread ends.
    self.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer))
    for signum in self.SIGNALS:
      if signal.getsignal(signum) not in (signal.SIG_IGN, None):
        former = signal.signal(signum, lambda signum, frame: None)
        self.callback(signal.signal, signum, former)

  def _watch(self, reader):
    with open(reader, "rb") as pipe:
      for byte in iter(lambda: pipe.read(1), b""):
        signum = byte[0]
        if self.signum is None and signum in self.SIGNALS:
          self.signum = signum
          first = time.monotonic()
          tf.logging.info(f"Signal {signum}: stopping after this step, with a "
                          "checkpoint. Another signal ends it at once, without")
        elif signum in self.SIGNALS and time.monotonic() - first > 0.5:
          os._exit(128 + signum)  # timeout(1) and uv send the first twice.

  def after_run(self, run_context, run_values):
    if self.signum:
      run_context.request_stop()


def claim_model_dir(config):
  """Locks model_dir till what it returns is closed; UserError if in use."""
  if not config.is_chief or "://" in config.model_dir:
    return contextlib.ExitStack()  # Python 3.6 has no nullcontext.
  os.makedirs(config.model_dir, exist_ok=True)
  lock = open(os.path.join(config.model_dir, ".lock"), "a")  # noqa: SIM115
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(f"--model_dir={config.model_dir} is in use by another run: "
                    "wait for it, or give another --model_dir")
  except OSError as e:  # Some network file systems have no locks.
    tf.logging.warning(f"--model_dir={config.model_dir} can't be locked "
                       f"({reason(e)}): let no other run use it")
  return lock


def saved_step(model_dir):
  """Returns the step of the checkpoint to go on from, or None without one.

  Raises UserError if it is damaged, or if there is one that TensorFlow would
  silently ignore, and train anew.
  """
  problem = 'the file "checkpoint" is missing, or damaged'
  try:
    state = tf.train.get_checkpoint_state(model_dir)
    if state:
      path = state.model_checkpoint_path
      # An absolute path may lead to another directory, as after a copy.
      if os.sep not in os.path.relpath(path, model_dir):
        return tf.train.load_variable(path, "global_step")
      problem = f'the file "checkpoint" names {path}, in another directory'
  except (tf.errors.OpError, ValueError, IndexError) as e:
    problem = reason(e)  # (IndexError: a file is shorter than it should be.)
  # The index is written last: with it, a checkpoint is whole. That of step 0 is
  # no loss; a run that dies in its first save leaves it without "checkpoint".
  pattern = os.path.join(model_dir, "*ckpt*.index")
  if tf.io.gfile.exists(model_dir) and any(
      not path.endswith("-0.index") for path in tf.io.gfile.glob(pattern)):
    raise UserError(f"--model_dir={model_dir}: can't go on from its checkpoint "
                    f"({problem}). Name another one in the file \"checkpoint\" "
                    "there, or give another --model_dir")
  return None


# ---- Data --------------------------------------------------------------------

MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/",
           "https://ossci-datasets.s3.amazonaws.com/mnist/")
SHA256 = {
    "train-images-idx3-ubyte.gz":
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz":
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz":
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz":
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
STALL_SECS = 10  # Of silence; then the next IP address or mirror is tried.


def load_mnist(data_dir):
  """Loads MNIST, or another data set in four files of the same format.

  The arrays are the tutorial's, bit for bit: as there, the first twelfth of the
  training images, 5,000 of MNIST's 60,000, is left out.
  Returns (train_data, train_labels), (eval_data, eval_labels): data float32
  [N, 784] in [0, 1], labels int32 [N] in 0..9. MNIST has N = 55,000 and 10,000.
  Raises UserError or OSError if a file is faulty, or can't be had.
  """
  paths = [find_or_download(name, data_dir) for name in SHA256]
  splits = []
  for images_path, labels_path in (paths[:2], paths[2:]):
    images = read_idx(images_path, (28, 28)).reshape(-1, 784)
    labels = read_idx(labels_path, ())
    if len(images) != len(labels):
      raise UserError(f"{images_path} has {len(images)} images, but "
                      f"{labels_path} has {len(labels)} labels")
    if labels.max() > 9:
      raise UserError(f"{labels_path} has a label above 9: {labels.max()}")
    images = np.multiply(images, np.float32(1 / 255), dtype=np.float32)
    splits.append((images, labels.astype(np.int32)))
  (train_data, train_labels), eval_split = splits
  held_out = len(train_labels) // 12
  return (train_data[held_out:], train_labels[held_out:]), eval_split


def read_idx(path, item_shape):
  """Reads an IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist/).

  Returns uint8 [N, 28, 28] for the item_shape (28, 28), uint8 [N] for ().
  """
  try:
    content = pathlib.Path(path).read_bytes()
    # The name doesn't say: browsers unpack such files, and keep the ".gz".
    if content.startswith(b"\x1f\x8b"):
      content = gzip.decompress(content)
  except (OSError, EOFError, zlib.error) as e:
    raise UserError(f"{path} can't be read ({reason(e)}): replace it, or "
                    "delete it to get MNIST's")
  # The header: 2049 for labels or 2051 for images, then the array's shape.
  size = 8 + 4 * len(item_shape)
  item_size = int(np.prod(item_shape))
  header = np.frombuffer(content[:size].ljust(size, b"\0"), ">u4").tolist()
  count, rest = divmod(len(content) - size, item_size)
  expected = [2049 + len(item_shape), max(1, count), *item_shape]
  if header != expected or rest:
    raise UserError(f"{path} is damaged, or no IDX file: its header is "
                    f"{header}, where its length needs {expected}")
  return np.frombuffer(content, np.uint8, -1, size).reshape(-1, *item_shape)


def find_or_download(name, data_dir):
  """Returns the path of one of MNIST's four files, unpacked or else packed."""
  path = os.path.join(data_dir, name)
  for found in path[:-len(".gz")], path:
    if os.path.lexists(found):
      return found
  check_other_files(name, pathlib.Path(data_dir))
  for url in [mirror + name for mirror in MIRRORS]:
    tf.logging.info("Downloading %s into %s", url, data_dir)
    try:
      with urllib.request.urlopen(url, timeout=STALL_SECS) as response:
        content = response.read()
      if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise OSError("it is not MNIST's file")
      os.makedirs(data_dir, exist_ok=True)
      with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as temp:
        part = pathlib.Path(temp, name)
        part.write_bytes(content)
        part.replace(path)
      return path
    except (OSError, http.client.HTTPException) as e:
      tf.logging.warning("%s: %s", url, e)
  raise UserError(f"no {name} in --data_dir={data_dir}, nor could it be "
                  f"downloaded: put MNIST's four files there "
                  f"({', '.join(SHA256)}), or train on README's digits")


def check_other_files(name, data_dir):
  """Raises UserError if MNIST's file would complete another data set."""
  for other in [*data_dir.glob("*ubyte*"), *data_dir.glob("*/raw/*ubyte*")]:
    # (torchvision makes directories named "raw".)
    if other.parent != data_dir or SHA256.get(other.name) != hashlib.sha256(
        other.read_bytes()).hexdigest():
      raise UserError(f"--data_dir={data_dir} has {other}, but no {name}, and "
                      "MNIST's would not fit: add yours, or give the directory "
                      f"that has all four. Names: {', '.join(SHA256)}")
  others = sorted(other.name for other in data_dir.glob("[!.]*.*"))
  if others and not SHA256.keys() & set(others):
    tf.logging.warning(f"--data_dir={data_dir} has {', '.join(others[:3])}, "
                       "but none of MNIST's files: downloading MNIST into it")


# ---- Pictures ----------------------------------------------------------------

def classify_pictures(classifier, paths):
  """Prints each picture's path, digit and probability, and then the errors."""
  if saved_step(classifier.model_dir) is None:
    raise UserError(f"no checkpoint in --model_dir={classifier.model_dir}: "
                    "train a network first, or give another --model_dir")
  digits, errors = [], []
  for path in paths:
    try:
      digits.append((path, read_picture(path)))
    except UserError as e:
      errors.append(f"cnn_mnist.py: error: {e}")
  if digits:
    predictions = classifier.predict(tf.estimator.inputs.numpy_input_fn(
        x={"x": np.stack([digit for _, digit in digits])}, shuffle=False))
    for (path, _), answer in zip(digits, predictions):
      print(f"{path}\t{answer['classes']}\t{answer['probabilities'].max():.4f}")
  if errors:
    sys.exit("\n".join(errors))


def read_picture(path):
  """Reads a picture of a digit (PNG, JPEG, GIF, BMP) and makes it MNIST-like.

  Returns float32 [28, 28] in [0, 1], light on dark; or raises UserError.
  """
  try:
    with open_picture(path) as image:
      image.draft(None, (512, 512))  # JPEG is decoded at less than full size.
      if image.mode.startswith("I"):  # 16 bits: convert would clip at 255.
        image = Image.fromarray(np.uint8(np.asarray(image) // 257))
      image = ImageOps.exif_transpose(image.convert("LA"))
      image.thumbnail((256, 256), Image.BOX)  # Averages the noise as well.
  except Exception as e:  # Pillow raises many kinds on damaged files.
    raise UserError(
        f"--predict: {path} can't be read as a picture: {reason(e)}")
  no_digit = UserError(f"--predict: {path} shows no digit")
  grey, alpha = np.moveaxis(np.asarray(image, np.float32) / 255, 2, 0)
  ink = remove_page(fill_transparent(grey, alpha))
  sides = np.concatenate((ink[0], ink[-1], ink[:, 0], ink[:, -1]))
  full = np.percentile(ink, 99.9)  # Of the pixels: noise has the maximum.
  # Up to 0.06 of white, or 8 times the sides' median, it is only noise. (The
  # median of all the ink would lose 10 of 755 people's digits.)
  if full < max(0.06, 8 * np.median(sides)):
    raise no_digit
  ink = ink / full - find_lines(ink / full)
  if ink.max() <= 1 / 2:
    raise no_digit
  return center(keep_digit(ink))


def open_picture(path):
  """Opens it as Image.open does, but without a limit on JPEG's size."""
  with contextlib.suppress(SyntaxError):  # It is no JPEG.
    image = JpegImagePlugin.JpegImageFile(path)
    if "progressive" not in image.info:  # Else it takes memory for its size.
      return image
  return Image.open(path, formats=("PNG", "JPEG", "GIF", "BMP"))


def fill_transparent(grey, alpha):
  """Puts a page behind PNGs whose own was cut away: white if ink is dark."""
  # The ink is farthest from the tones along the cut, where opaque is below 1.
  # (The small numbers are for pictures that have no cut, or one tone.)
  opaque = ndimage.uniform_filter(alpha, 3)
  cut = np.average(grey, weights=alpha * (1 - opaque) + 1e-5)
  ink = grey.flat[np.argmax(alpha * opaque * (np.abs(grey - cut) + 0.01))]
  return grey * alpha + (ink < 0.5) * (1 - alpha)


def is_ink_dark(grey):
  """Tells dark ink on a light page from light ink on a dark page."""
  step = math.ceil(max(grey.shape) / 48)  # To a grid of at most 48x48
  small = inner = ndimage.uniform_filter(grey, step)[::step, ::step]
  # The page is the evenest frame, a pixel wide, of the outer quarter: most of
  # it is within a tenth of all tones' range. If none has 85 %, as in a shadow,
  # the page is the median over two fifths of the longer side, at each pixel.
  page = ndimage.median_filter(small, max(small.shape) // 5 * 2 + 1)
  most = 0.85
  for _ in range(math.ceil(min(small.shape) / 4)):
    frame = np.concatenate((inner[0], inner[-1], inner[:, 0], inner[:, -1]))
    even = np.mean(np.abs(frame - np.median(frame)) < np.ptp(small) / 10)
    even = min(even, 0.97)  # The digit may reach a sheet's frame.
    if even >= most:  # Of equals, the innermost: a sheet's, not the desk's
      page, most = np.median(frame), even
    inner = inner[1:-1, 1:-1]
  # Squares let the ink's few large contrasts win (6 of 755 people's pictures).
  vote = (small - page) * np.abs(small - page)
  return (vote * np.outer(*map(np.hamming, vote.shape))).sum() < 0


def remove_page(grey):
  """Takes float32 [h, w] in [0, 1]; returns the contrast to the page, >= 0."""
  dark = is_ink_dark(grey)
  # Closing fills what is narrower than half the longer side: the page is left.
  light = grey if dark else -grey
  width = max(grey.shape) // 2 + 1
  page = ndimage.grey_closing(np.pad(light, width, "edge"), width)
  page = page[width:-width, width:-width]  # Without padding, 26 more are wrong.
  # Dark ink takes a share of the page's light. (0.1 is for pages near black.)
  return (page - light) / ((page + 0.1) if dark else 1)


def find_lines(ink):
  """Returns the ink of ruled paper's lines; both float32 [h, w], 1 is full.

  At each pixel: the weakest ink on the best path through it, side to side.
  """
  ways = []
  for turn in range(4):  # With each side on top
    # The weakest ink on the best path from the top, oblique by 1 in 3 at most
    weakest = np.rot90(ink, turn).copy()
    for y in range(1, len(weakest)):
      before = weakest[y - 1]
      if y % 3 == 0:  # A path may shift by one, or (9 is above all ink) begin.
        before = ndimage.maximum_filter1d(before, 3, mode="constant", cval=9)
      weakest[y] = np.minimum(weakest[y], before)
    ways.append(np.rot90(weakest, -turn))
  lines = np.maximum(np.minimum(*ways[::2]), np.minimum(*ways[1::2]))
  return lines * (lines.max() < 0.75)  # Of full ink: above it may be a digit's.


def keep_digit(ink):
  """Takes float32 [h, w], 1 is full ink; returns the digit alone, cropped."""
  # Weak ink counts where it joins on to strong ink. Ink up to four pixels apart
  # is in one part; without that, 17 more of 755 people's digits are wrong.
  strong = ndimage.binary_propagation(ink > 1 / 2, mask=ink > 1 / 4)
  parts, count = ndimage.label(ndimage.binary_dilation(strong, iterations=2))
  middle = np.outer(*map(np.hamming, ink.shape))  # 1, and 0.08 at the sides
  weights, central = [ndimage.sum(amount, parts, range(1, count + 1))
                      for amount in (ink, ink * middle)]
  boxes = ndimage.find_objects(parts)
  digit = boxes[np.argmax(central)]  # Its main part, if it has several
  weights *= [not is_line(box, digit) for box in boxes]
  # What the picture's sides cut off is a pen that lies there, or the digit.
  cut = [box for box in boxes if any(
      side.start == 0 or side.stop == n for side, n in zip(box, ink.shape))]
  weights *= [digit in cut or box not in cut for box in boxes]
  # Specks have less than an eighth of the heaviest part's ink.
  kept = np.flatnonzero(weights > weights.max() / 8) + 1
  ink = np.clip(ink, 0, 1) * np.isin(parts, kept)
  return ink[ndimage.find_objects((ink > 0.01).astype(int))[0]]


def is_line(box, digit):
  """Tells a form's or frame's line: longer than the digit, past both ends."""
  size = max(side.stop - side.start for side in digit)
  return any(a.start < b.start and a.stop > max(b.stop, a.start + size)
             for a, b in zip(box, digit))


def center(ink):
  """Scales float32 [h, w] in [0, 1] to a box of 20x20, as MNIST was made.

  Returns float32 [28, 28] in [0, 1], with its centre of mass in the middle.
  """
  height, width = [max(1, round(20 * n / max(ink.shape))) for n in ink.shape]
  box = np.asarray(Image.fromarray(ink).resize((width, height), Image.BILINEAR))
  top, left = [int(np.clip(round(14 - mass), 0, 28 - n)) for mass, n in
               zip(ndimage.center_of_mass(box), box.shape)]
  # Shrinking made thin strokes faint; in MNIST, 3 % of the box is full white.
  # (Two dots fill less, so that the percentile is 0.)
  box = np.clip(box / max(np.percentile(box, 97), box.max() / 20), 0, 1)
  return np.pad(box, [(top, 28 - height - top), (left, 28 - width - left)],
                "constant")


# ---- The start ---------------------------------------------------------------

def run_program(argv):
  """Runs main(), and ends as programs do: an error is one line, its code 1."""
  threads_before = set(threading.enumerate())
  try:
    main(argv)
  except KeyboardInterrupt:
    sys.exit(130)
  except (UserError, OSError, UnicodeError,
          tf.train.NanLossDuringTrainingError) as e:
    sys.exit(f"cnn_mnist.py: error: {e}")
  except MemoryError as e:
    sys.exit("cnn_mnist.py: error: not enough memory for the data "
             f"({reason(e)}): give a --data_dir with fewer images")
  except tf.errors.OpError as e:
    # TensorFlow 2 says first, in many lines, which part of the graph failed:
    # "Graph execution error: … Node: 'save/RestoreV2'\n"
    text = re.sub(r"(?s)Graph execution error:.*?\nNode: .*?\n", "", e.message)
    # "Restoring from checkpoint failed. … Original error:\n\nKey … not found"
    line = re.sub(r"error:\s+", "error: ", text).strip().partition("\n")[0]
    if "from checkpoint" in line or isinstance(e, tf.errors.DataLossError):
      line += " (give another --model_dir)"
    sys.exit(f"cnn_mnist.py: error: TensorFlow: {line}")
  finally:
    # TensorFlow has threads for its inputs that it doesn't wait for. If the
    # process ended before they do, it could abort. The threads that write
    # summaries never end; they are of a subclass of Thread.
    for thread in set(threading.enumerate()) - threads_before:
      if type(thread) is threading.Thread:
        thread.join(timeout=10)


if __name__ == "__main__":
  run_program(sys.argv[1:])
