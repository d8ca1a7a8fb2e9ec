# SPDX-License-Identifier: Apache-2.0
"""Trains the convolutional network of "A Guide to TF Layers" on MNIST.

By default it trains for 20,000 steps of 100 images each and then prints the
accuracy on the 10,000 test images, about 97 %.
"""
import gzip
import hashlib
import http.client
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
import zlib


def wait_for_signals(signals):
  """Ends the process at a signal, or in training, at the second signal.

  The first one then asks the training to end, with a checkpoint.
  """
  signum = signal.sigwait(signals)
  if stop["training"]:
    stop["signum"] = signum  # StopOnSignalHook looks at it after each step.
    time.sleep(0.5)  # timeout(1) sends its signal twice: that counts as one.
    while signal.sigpending() & signals:
      signal.sigwait(signals)
    signum = signal.sigwait(signals)
  os._exit(128 + signum)


# Outside of training, a signal ends the process at once.
stop = {"training": False, "signum": None}
if __name__ == "__main__":
  if hasattr(signal, "pthread_sigmask"):  # Windows keeps Python's defaults.
    # This comes before the slow imports. nohup ignores SIGHUP, and so do we.
    stop_signals = {s for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
                    if signal.getsignal(s) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    threading.Thread(target=wait_for_signals, args=[stop_signals],
                     daemon=True).start()
  # Without a GPU, hide what TensorFlow says of CUDA. With one (/dev/dxg is that
  # of WSL), show it, since it says which library is missing.
  has_gpu = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_gpu else "3")

try:
  from absl import app
  from absl import flags
  import numpy as np
  import tensorflow.compat.v1 as tf
  if not (1, 15) <= tuple(map(int, tf.__version__.split(".")[:2])) <= (2, 15):
    raise ImportError("TensorFlow %s does not fit" % tf.__version__)
except (ImportError, TypeError, AttributeError) as e:
  if __name__ != "__main__":
    raise
  # The message may hold a whole traceback, whose last line has the reason.
  reasons = re.findall(r"^\w+Error: .*", str(e), re.MULTILINE)[-1:]
  sys.exit("cnn_mnist.py: error: %s. It needs TensorFlow 1.15 or 2 up to 2.15, "
           "on Python 3.7 to 3.11: %s -m pip install -r requirements.txt. From "
           "another Python: uv run --python 3.11 --with-requirements "
           "requirements.txt cnn_mnist.py" % (
               (reasons or str(e).splitlines() or [e])[0], sys.executable))

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "MNIST-data", "Directory of the four MNIST "
                    "files, .gz or unpacked. Missing ones are downloaded.")
flags.DEFINE_string("model_dir", "/tmp/mnist_convnet_model", "Directory of the "
                    "checkpoints and of TensorBoard's summaries.")
flags.DEFINE_integer("train_steps", 20000, "Global step to train to. The same "
                     "command resumes a run, or evaluates a finished one.",
                     lower_bound=1, upper_bound=2**31 - 1)
flags.DEFINE_integer("batch_size", 100, "Images per training step.",
                     lower_bound=1, upper_bound=2**31 - 1)
flags.DEFINE_float("learning_rate", 0.001,
                   "Learning rate for gradient descent.")
flags.DEFINE_integer("log_every_n_iter", 50, "Log the probabilities every this "
                     "many steps.", lower_bound=1)
flags.DEFINE_integer("save_checkpoints_steps", 1000, "Save a checkpoint every "
                     "this many steps.", lower_bound=1)
flags.DEFINE_integer("seed", None, "Seed for the initial weights, dropout and "
                     "the images' order, which is then that of each epoch. Two "
                     "runs on one machine give the same weights, unless one of "
                     "them was resumed.",
                     lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_boolean("bfloat16", False, "Train with matrix products in "
                     "bfloat16, on a CPU that has them; weights stay float32.")
flags.DEFINE_list("predict", None, "Instead of training, classify these "
                  "pictures (PNG, JPEG, GIF, BMP), separated by commas.")
flags.DEFINE_string("export_dir", None, "After the evaluation, write a "
                    "SavedModel into a new numbered directory in this one.")


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
  # Input: one channel, grey. [batch, 28, 28, 1]
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
    return tf.estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op,
                                      training_hooks=[DivergenceHook(loss)])

  # Add evaluation metrics (for EVAL mode)
  accuracy = tf.metrics.accuracy(
      labels=labels, predictions=predictions["classes"])
  return tf.estimator.EstimatorSpec(
      mode=mode, loss=loss, eval_metric_ops={"accuracy": accuracy})


def main(argv):
  """Trains the network, then evaluates it and prints the result."""
  if len(argv) > 1:
    raise UserError("unexpected argument %r: flags begin with --" % argv[1])
  if sys.stdout is None:
    raise UserError("stdout is closed, so no result can be printed")
  for flag in ("data_dir", "model_dir", "export_dir"):
    if FLAGS[flag].value:
      FLAGS[flag].value = os.path.expanduser(FLAGS[flag].value)
  set_up_logging()
  tf.disable_v2_behavior()  # TensorFlow 2 would run eagerly.
  if FLAGS.predict:
    classify_pictures(FLAGS.predict)
    return
  config = make_config()
  if config.is_chief:
    claim_model_dir()

  # Load training and eval data
  ((train_data, train_labels),
   (eval_data, eval_labels)) = load_mnist(FLAGS.data_dir)
  if FLAGS.seed is not None:  # The shuffling of numpy_input_fn takes none.
    order = np.random.RandomState(FLAGS.seed).permutation(len(train_labels))
    train_data, train_labels = train_data[order], train_labels[order]
  train_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=FLAGS.batch_size,
      num_epochs=None, shuffle=FLAGS.seed is None)
  eval_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": eval_data}, y=eval_labels, num_epochs=1, shuffle=False)

  # Create the Estimator
  mnist_classifier = tf.estimator.Estimator(
      model_fn=cnn_model_fn, config=config,
      params={"learning_rate": FLAGS.learning_rate})

  # Set up logging for predictions
  logging_hook = tf.train.LoggingTensorHook(
      tensors={"probabilities": "softmax_tensor"},
      every_n_iter=FLAGS.log_every_n_iter)

  # Train the model
  train_model(mnist_classifier, train_input_fn, eval_input_fn, [logging_hook])

  # Evaluate the model and print results
  if FLAGS.bfloat16:  # The evaluation is in float32.
    set_bfloat16(config, False)
  if config.is_chief:
    print(mnist_classifier.evaluate(input_fn=eval_input_fn), flush=True)
    if FLAGS.export_dir:
      export_model(mnist_classifier)


# ---- Flags, logging, configuration -------------------------------------------

flags.register_validator("learning_rate", lambda rate: 0 < rate < float("inf"),
                         message="must be a finite number above 0")
flags.register_validator("predict", lambda paths: paths is None or (
    len(paths) > 0 and "" not in paths), message="names no picture")
flags.register_validator("data_dir", bool, message="names no directory")
flags.register_validator("model_dir", bool, message="names no directory")
flags.register_validator("export_dir", lambda path: path != "",
                         message="names no directory")
# TensorFlow takes these for wildcards when it looks for checkpoints.
WILDCARDS = r"[][*?]" if os.name == "nt" else r"[][*?\\]"
flags.register_validator(
    "model_dir", lambda path: not re.search(WILDCARDS, path),
    message="must not contain [ ] * ? or \\")


class UserError(Exception):
  """A problem that the user can solve: shown as one line, no traceback."""


def set_up_logging():
  """Sends TensorFlow's messages to stderr, with the time."""
  tf.logging.set_verbosity(tf.logging.INFO)
  logger = tf.get_logger()
  logger.handlers = []  # absl has one, so each message would appear twice.
  # This script uses the v1 API on purpose: hide that it is deprecated.
  logger.addFilter(lambda record: record.filename not in (
      "deprecation.py", "module_wrapper.py"))
  warnings.filterwarnings("ignore", "`tf.layers")
  # Of the probabilities of a batch of 100, log the first and last five.
  np.set_printoptions(precision=3, threshold=100, edgeitems=5)
  gpus = tf.config.experimental.list_physical_devices("GPU")
  tf.logging.info("TensorFlow %s on %d GPUs: %s", tf.__version__, len(gpus),
                  ", ".join(gpu.name for gpu in gpus) or "it runs on the CPU")


def make_config():
  """Returns the RunConfig, with the cluster of TF_CONFIG if that is set.

  Raises UserError if TF_CONFIG describes no job that can work.
  """
  try:
    config = tf.estimator.RunConfig(
        model_dir=FLAGS.model_dir, tf_random_seed=FLAGS.seed,
        save_checkpoints_steps=FLAGS.save_checkpoints_steps)
    for address in sum(config.cluster_spec.as_dict().values(), []):
      if not re.search(r".:\d+$", address):
        raise ValueError("%r is not host:port" % address)
    if config.num_worker_replicas > 1 and not config.num_ps_replicas:
      raise ValueError("several workers need a parameter server (ps)")
  except (ValueError, TypeError, AttributeError, KeyError) as e:
    raise UserError("TF_CONFIG is wrong: %s" % " ".join(str(e).split()))
  if FLAGS.bfloat16:
    config = config.replace(session_config=config.session_config or
                            tf.ConfigProto(allow_soft_placement=True))
    set_bfloat16(config, True)
  return config


def set_bfloat16(config, on):
  """Switches TensorFlow's rewriting of products to bfloat16 on or off.

  The Estimator reads it from this config for each session that it creates.
  Raises UserError where TensorFlow or the CPU can't do it.
  """
  rewriter = config.session_config.graph_options.rewrite_options
  if not hasattr(rewriter, "auto_mixed_precision_onednn_bfloat16"):
    raise UserError("--bfloat16 needs TensorFlow 2; this is TensorFlow %s" %
                    tf.__version__)
  with open("/proc/cpuinfo") as f:
    if not re.search("avx512_bf16|amx_bf16", f.read()):
      raise UserError("--bfloat16 needs a CPU with avx512_bf16 or amx_bf16: "
                      "/proc/cpuinfo has neither")
  rewriter.auto_mixed_precision_onednn_bfloat16 = (
      rewriter.ON if on else rewriter.OFF)


# ---- Training and export ----------------------------------------------------


def train_model(classifier, train_input_fn, eval_input_fn, hooks):
  """Trains to --train_steps, alone or as one task of TF_CONFIG's job.

  Raises UserError if the training diverges or ends before that step. Exits with
  128 + the signal's number once a signal has stopped it.
  """
  config, last_step = classifier.config, FLAGS.train_steps
  hooks = hooks + [ProgressHook(last_step), StopOnSignalHook()]
  step = saved_step()
  tf.logging.info("At step %d of %d: %s", step, last_step, "training"
                  if step < last_step else "no training, it is done")
  try:
    if config.num_worker_replicas + config.num_ps_replicas == 1:
      classifier.train(train_input_fn, hooks, max_steps=last_step)
    else:
      tf.logging.info("Running as %s; training waits for the parameter servers "
                      "%s", config.task_type,
                      config.cluster_spec.as_dict().get("ps"))
      tf.estimator.train_and_evaluate(
          classifier, tf.estimator.TrainSpec(train_input_fn, last_step, hooks),
          tf.estimator.EvalSpec(eval_input_fn, steps=None, start_delay_secs=0,
                                throttle_secs=10))
  except tf.train.NanLossDuringTrainingError:
    raise UserError("the loss became NaN or above 100: give a --learning_rate "
                    "below %g, and if that fails, a new --model_dir" %
                    FLAGS.learning_rate)
  except ValueError:  # "Parent directory doesn't exist", among other things
    if tf.io.gfile.exists(FLAGS.model_dir):
      raise
    raise UserError("--model_dir=%s was deleted" % FLAGS.model_dir)
  if stop["signum"]:
    tf.logging.info("Stopped by signal %d, checkpoint saved: the same command "
                    "resumes from there", stop["signum"])
    sys.exit(128 + stop["signum"])
  # If saving a checkpoint fails, TensorFlow may end without an error.
  if config.is_chief and saved_step() < last_step:
    raise UserError("the training ended before step %d: no checkpoint can be "
                    "saved in --model_dir=%s. Is the size of files limited?" %
                    (last_step, FLAGS.model_dir))


def export_model(classifier):
  """Writes a SavedModel of the newest checkpoint into --export_dir.

  Its default signature takes "x", float32 [batch, 28, 28] in [0, 1], and
  returns the predictions of cnn_model_fn.
  """
  receiver_fn = tf.estimator.export.build_raw_serving_input_receiver_fn(
      {"x": tf.placeholder(tf.float32, [None, 28, 28])})
  path = classifier.export_saved_model(FLAGS.export_dir, receiver_fn)
  tf.logging.info("Exported to %s", tf.compat.as_str(path))


class DivergenceHook(tf.train.NanTensorHook):
  """Ends a training whose loss becomes NaN or more than 100.

  A network that guesses has a loss of ln 10 = 2.3. Above 100, none recovers.
  """

  def after_run(self, run_context, run_values):
    if np.isnan(run_values.results) or run_values.results > 100:
      raise tf.train.NanLossDuringTrainingError


class ProgressHook(tf.train.StepCounterHook):
  """Logs the progress and the time left every 10 seconds."""

  def __init__(self, last_step):
    super(ProgressHook, self).__init__(every_n_steps=None, every_n_secs=10)
    self._last_step = last_step

  def _log_and_record(self, elapsed_steps, elapsed_time, global_step):
    rate = max(1, elapsed_steps) / elapsed_time
    secs = max(0, self._last_step - global_step) / rate
    tf.logging.info("Step %d of %d, %.1f steps/s, %d:%02d:%02d left",
                    global_step, self._last_step, rate, secs // 3600,
                    secs // 60 % 60, secs % 60)


class StopOnSignalHook(tf.train.SessionRunHook):
  """Ends the training after the step in which a signal came.

  The session then closes as it does after the last step, with a checkpoint.
  """

  def after_create_session(self, session, coord):
    stop["training"] = True

  def after_run(self, run_context, run_values):
    if stop["signum"]:
      run_context.request_stop()

  def end(self, session):
    stop["training"] = False


# ---- Data -------------------------------------------------------------------

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
STALL_SECS = 10  # After this long without a byte, the next mirror is tried.
DOWNLOAD_SECS = 600  # The longest for one file: 10 MB at 17 kB/s.


def load_mnist(data_dir):
  """Loads MNIST, or another data set in four files of the same format.

  Bit-identical to tf.contrib.learn.datasets.load_dataset("mnist"): the first
  twelfth of the training images, 5,000 of MNIST's 60,000, is left out.

  Args:
    data_dir: directory of the files. Those that are missing are downloaded.

  Returns:
    (train_data, train_labels), (eval_data, eval_labels): data float32 [N, 784]
    in [0, 1], labels int32 [N] in 0..9. MNIST has N = 55,000 and N = 10,000.

  Raises:
    UserError: a file is faulty, or can't be read or downloaded.
  """
  paths = find_mnist(data_dir)
  train_split, eval_split = load_split(*paths[:2]), load_split(*paths[2:])
  held_out = len(train_split[1]) // 12
  train_split = [array[held_out:] for array in train_split]
  return tuple(  # Scaled last, so that what is left out takes no memory.
      (np.multiply(images, np.float32(1 / 255), dtype=np.float32), labels)
      for images, labels in (train_split, eval_split))


def load_split(images_path, labels_path):
  """Returns images, uint8 [N, 784], and labels, int32 [N] in 0..9."""
  images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
  if len(images) != len(labels):
    raise UserError("%s has %d images, but %s has %d labels" % (
        images_path, len(images), labels_path, len(labels)))
  if labels.max() > 9:
    raise UserError("%s has a label above 9: %d" % (labels_path, labels.max()))
  return images.reshape(-1, 784), labels.astype(np.int32)


def read_idx(path, item_shape):
  """Reads an IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist/).

  Returns uint8 [N, 28, 28] for the item_shape (28, 28), uint8 [N] for (), or
  raises UserError. Doesn't trust the header when it allocates memory.
  """
  expected = [0x801 + len(item_shape), "N"] + list(item_shape)
  try:
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
      header = f.read(4 * len(expected)).ljust(4 * len(expected), b"\0")
      magic, count, *shape = np.frombuffer(header, ">u4").tolist()
      if [magic, "N"] + shape != expected:
        raise UserError("%s is no IDX file of %s: it begins with %s, not with "
                        "%s" % (path, "images" if item_shape else "labels",
                                [magic, count] + shape, expected))
      size = count * int(np.prod(item_shape))
      data = bytearray()
      for chunk in iter(lambda: f.read(1 << 20), b""):
        data += chunk
        if len(data) > size:
          break
  except (OSError, EOFError, zlib.error) as e:
    raise UserError("%s can't be read (%s): replace it, or delete it to get "
                    "MNIST's" % (path, getattr(e, "strerror", None) or e))
  if len(data) != size or not size:
    raise UserError("%s has %s data for the %d examples of its header" % (
        path, "more" if len(data) > size else "too little", count))
  return np.frombuffer(data, np.uint8).reshape((-1,) + item_shape)


def find_mnist(data_dir):
  """Returns the paths of the four files, after downloading what is missing."""
  paths = [find_file(name, data_dir) for name in SHA256]
  if None in paths:  # Don't complete another data set with MNIST's files.
    make_directory(data_dir, "data_dir")
    for path, digest in zip(paths, SHA256.values()):
      if path:
        with open(path, "rb") as f:
          if hashlib.sha256(f.read()).hexdigest() != digest:
            raise UserError("%s is not MNIST's own, so the missing %s was not "
                            "downloaded: add it, or give another --data_dir" %
                            (path, list(SHA256)[paths.index(None)]))
  return [path or download(name, data_dir)
          for path, name in zip(paths, SHA256)]


def find_file(name, data_dir):
  """Returns the path of a file, packed or unpacked, or None without it."""
  path = os.path.join(data_dir, name)
  candidates = [path, path[:-len(".gz")]]
  return next((p for p in candidates if os.path.lexists(p)), None)


def download(name, data_dir):
  """Downloads a file into data_dir and returns its path."""
  path, problems = os.path.join(data_dir, name), []
  for url in [mirror + name for mirror in MIRRORS]:
    try:
      content = fetch(url, SHA256[name])
      with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as temp:
        with open(os.path.join(temp, name), "wb") as f:
          f.write(content)
        os.replace(f.name, path)  # Only once it is complete
      return path
    except (OSError, http.client.HTTPException) as e:
      problems.append("%s (%s)" % (url, e))
  raise UserError("no %s in --data_dir=%s, nor at %s. Put the four MNIST files "
                  "there, or make some without a network: %s tests/"
                  "handwritten_digits.py DIR, then --data_dir=DIR" % (
                      name, data_dir, ", nor at ".join(problems),
                      sys.executable))


def fetch(url, digest):
  """Returns the bytes at a URL; raises OSError if the digest doesn't match."""
  tf.logging.info("Downloading %s", url)
  start, content = time.time(), bytearray()
  with urllib.request.urlopen(url, timeout=STALL_SECS) as response:
    for chunk in iter(lambda: response.read1(1 << 16), b""):
      content += chunk
      if time.time() - start > DOWNLOAD_SECS:
        raise OSError("too slow")
  if hashlib.sha256(content).hexdigest() != digest:
    raise OSError("wrong or incomplete content")
  return content


# ---- Model directory --------------------------------------------------------


def claim_model_dir():
  """Locks --model_dir and sees that this run can resume and save there.

  A damaged checkpoint is taken off the list, so that the one before is used.
  Raises UserError if the directory is in use, its checkpoint can't be used, or
  it or --export_dir can't be written: better now than after the training.
  """
  for flag in ("model_dir", "export_dir"):
    if FLAGS[flag].value and "://" not in FLAGS[flag].value:
      make_directory(FLAGS[flag].value, flag)
  if "://" not in FLAGS.model_dir and os.name == "posix":
    import fcntl
    # The descriptor is never closed: the lock lasts as long as the process.
    lock = os.open(FLAGS.model_dir + "/.lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError("--model_dir=%s is in use by another run" %
                      FLAGS.model_dir)
  checkpoint = find_checkpoint()
  if checkpoint and checkpoint != tf.train.latest_checkpoint(FLAGS.model_dir):
    # The older ones stay on it, so that TensorFlow deletes them in time.
    paths = list(tf.train.get_checkpoint_state(
        FLAGS.model_dir).all_model_checkpoint_paths)
    tf.train.update_checkpoint_state(FLAGS.model_dir, checkpoint,
                                     paths[:paths.index(checkpoint) + 1])


def make_directory(path, flag):
  """Makes the directory of a flag; raises UserError if it can't be written."""
  try:
    os.makedirs(path, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  except OSError as e:
    raise UserError("--%s=%s can't be written: %s" % (flag, path, e.strerror))


def saved_step():
  """Returns the step of the checkpoint in --model_dir, or 0 without one."""
  path = tf.train.latest_checkpoint(FLAGS.model_dir)
  return tf.train.load_variable(path, "global_step") if path else 0


def find_checkpoint():
  """Returns the path of the checkpoint to use, or None without any.

  That is the one that the file "checkpoint" names or, if it is damaged, the
  newest one that is not. Raises UserError if it doesn't fit this network.
  """
  if not tf.io.gfile.exists(os.path.join(FLAGS.model_dir, "checkpoint")):
    return None
  try:
    state = tf.train.get_checkpoint_state(FLAGS.model_dir)
    paths = [state.model_checkpoint_path]
    paths += [path for path in reversed(state.all_model_checkpoint_paths)
              if path not in paths]
  except (ValueError, AttributeError):  # The file is empty or damaged.
    paths = []
  for path in paths:
    variables = read_checkpoint(path)
    if variables:
      check_network(path, variables)
      return path
  raise UserError("--model_dir=%s has no checkpoint that can be read: delete "
                  "it, or give another" % FLAGS.model_dir)


def read_checkpoint(path):
  """Returns {name: value} of the variables; warns and returns {} on damage."""
  try:
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name)  # This checks its CRC.
            for name in reader.get_variable_to_shape_map()}
  except (tf.errors.OpError, IndexError) as e:
    # TensorFlow 2 raises IndexError for a truncated file, and has no class of
    # its own for this.
    if "permission denied" in str(e).lower():
      raise
    tf.logging.warning("Passing over a damaged checkpoint: %s (%s)", path, e)
    return {}


def check_network(path, variables):
  """Raises UserError unless a checkpoint has this network's finite weights."""
  with tf.Graph().as_default():
    tf.train.create_global_step()
    cnn_model_fn({"x": tf.zeros([1, 784])}, tf.zeros([1], tf.int32),
                 tf.estimator.ModeKeys.TRAIN)  # With the optimizer's variables
    expected = {
        v.op.name: "%s %s" % (v.dtype.base_dtype.name, v.shape.as_list())
        for v in tf.global_variables()}
  found = {name: "%s %s" % (value.dtype.name, list(value.shape))
           for name, value in variables.items()}
  for name in sorted(expected.keys() | found.keys()):
    if found.get(name) != expected.get(name):
      raise UserError("--model_dir=%s holds another network or optimizer: %s "
                      "is %s there, %s here. Give another" % (
                          FLAGS.model_dir, name, found.get(name, "absent"),
                          expected.get(name, "absent")))
    if not np.isfinite(variables[name]).all():
      raise UserError("--model_dir=%s comes from a run that diverged: %s in %s "
                      "is not finite. In the file \"checkpoint\", name an "
                      "earlier one, or give another directory" % (
                          FLAGS.model_dir, name, path))


# ---- Pictures ---------------------------------------------------------------


def classify_pictures(paths):
  """Prints each picture's path, digit and probability, separated by tabs.

  Exits with 1 and an error for each picture that can't be read, after the rest.
  """
  try:
    import PIL  # noqa: F401
  except ImportError:
    raise UserError("--predict needs Pillow: %s -m pip install pillow" %
                    sys.executable)
  pictures, errors = [], []
  for path in paths:
    try:
      pictures.append((path, read_picture(os.path.expanduser(path))))
    except UserError as e:
      errors.append("cnn_mnist.py: error: %s" % e)
  checkpoint = find_checkpoint()
  if not checkpoint:
    raise UserError("--model_dir=%s has no checkpoint: train one first" %
                    FLAGS.model_dir)
  if pictures:
    os.environ.pop("TF_CONFIG", None)  # No other task is needed.
    predict_input_fn = tf.estimator.inputs.numpy_input_fn(
        x={"x": np.stack([digit for _, digit in pictures])}, num_epochs=1,
        shuffle=False)
    predictions = tf.estimator.Estimator(
        cnn_model_fn, FLAGS.model_dir, params={}).predict(
            predict_input_fn, checkpoint_path=checkpoint)
    for (path, _), prediction in zip(pictures, predictions):
      print("%s\t%d\t%.4f" % (path, prediction["classes"],
                              prediction["probabilities"].max()), flush=True)
  if errors:
    sys.exit("\n".join(errors))


def read_picture(path):
  """Reads a picture of a digit (PNG, JPEG, GIF, BMP) and makes it MNIST-like.

  Returns float32 [28, 28] in [0, 1], light on dark; raises UserError if the
  file can't be read or shows no digit.
  """
  try:
    grey = read_grey(path)
  except Exception as e:  # Pillow raises many kinds on damaged files.
    reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
    raise UserError("--predict: %s can't be read as a picture: %s" %
                    (path, " ".join(reason.split())))
  ink = extract_ink(grey)
  if ink is None:
    raise UserError("--predict: %s shows no digit" % path)
  return center(ink)


def read_grey(path):
  """Reads a picture, upright, as float32 [height, width] in [0, 1].

  1 is white; the longer side has at most 256 pixels, a digit on it seldom less
  than 20. Raises exceptions of many kinds if the file can't be read.
  """
  from PIL import Image, ImageOps
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Such as on corrupt EXIF data
    # Above 89 million pixels; above twice that it is an error of its own.
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    with Image.open(path, formats=("PNG", "JPEG", "GIF", "BMP")) as image:
      image.draft(None, (512, 512))  # JPEG is decoded at less than full size.
      if image.mode.startswith("I"):  # 16 bits: convert would clip at 255.
        image = Image.fromarray(np.uint8(np.asarray(image) // 257))
      image = image.convert("RGBA").convert("LA")
      image.thumbnail((256, 256), Image.BOX)  # Averages the noise as well.
      image = ImageOps.exif_transpose(image)
  grey, alpha = np.moveaxis(np.asarray(image, np.float32) / 255, 2, 0)
  # Transparent pixels become white behind dark strokes, black behind light.
  white = (grey * alpha).sum() < alpha.sum() / 2
  return grey * alpha + white * (1 - alpha)


def extract_ink(grey):
  """Separates a digit from its page, be it dark on light or light on dark.

  Args:
    grey: float32 [height, width] in [0, 1].

  Returns:
    float32 [h, w], the digit's part of the picture, in [0, 1]: the page is 0,
    the strongest ink 1; or None if there is none.
  """
  from PIL import Image, ImageFilter
  # The median of what is around is the page's; ink moves the mean off it.
  small = Image.fromarray(np.uint8(np.rint(grey * 255)))
  small.thumbnail((48, 48), Image.BOX)
  window = max(small.size) // 5 * 2 + 1  # Two fifths of the picture, odd
  median = small.filter(ImageFilter.MedianFilter(window))
  sign = 1 if np.mean(small) < np.mean(median) else -1  # 1: the ink is dark.
  # The page in its light: a greyscale closing, which fills what is narrower
  # than half the picture, as strokes are, but keeps the edge of a shadow.
  radius = max(grey.shape) // 4 + 1
  page = np.pad(sign * grey, 2 * radius, "edge")
  for extreme in (np.maximum, np.minimum):
    for _ in range(radius):  # Each time one pixel more, all around
      page = extreme(extreme(page[:-2], page[1:-1]), page[2:])
      page = extreme(extreme(page[:, :-2], page[:, 1:-1]), page[:, 2:])
  ink = page - sign * grey
  if sign > 0:  # Evens out the light. A dark page is too near 0 for that.
    ink /= page + 0.1
  sides = ink[0], ink[-1], ink[:, 0], ink[:, -1]
  ink -= np.median(np.concatenate(sides))  # The sides are views of it.
  noise = np.median(np.abs(np.concatenate(sides)))
  values = np.sort(ink[ink > max(0.05, 5 * noise)])
  if len(values) < 2:
    return None
  # Otsu's threshold parts the ink from its edges and from the paper's lines.
  count, total = np.arange(1, len(values)), np.cumsum(values, dtype=np.float64)
  low, high = total[:-1] / count, (total[-1] - total[:-1]) / count[::-1]
  strong = values[1 + np.argmax(count * count[::-1] * (high - low)**2)]
  peak = np.percentile(values[values >= strong], 90)
  if peak < 12 * noise:
    return None
  # Weaker ink is the digit's where it joins on to strong ink, and is stronger
  # than the lines, which cross two sides or more; a digit may touch one.
  weak = max(5 * noise, 1.3 * sorted(side.max() for side in sides)[-2])
  digit, size = ink >= strong, 0
  while digit.sum() > size:
    size = digit.sum()
    grown = Image.fromarray(np.uint8(digit)).filter(ImageFilter.MaxFilter(3))
    digit |= (ink > weak) & (np.asarray(grown) > 0)
  ink = np.float32(digit * np.clip(ink / peak, 0, 1))
  # Crop to the digit. Rows and columns with less than 1 % of ink have specks.
  rows, columns = [np.flatnonzero(total > 0.01 * total.max())
                   for total in (ink.sum(axis=1), ink.sum(axis=0))]
  return ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def center(ink):
  """Scales float32 [h, w] in [0, 1] to a box of 20x20, as MNIST was made.

  Returns float32 [28, 28] in [0, 1], with its centre of mass in the middle.
  """
  from PIL import Image
  size = [max(1, int(round(20 * n / max(ink.shape)))) for n in ink.shape]
  box = np.asarray(Image.fromarray(ink).resize(size[::-1], Image.BILINEAR))
  box = box / box.max()  # Thin strokes have become faint.
  digit = np.zeros([28, 28], np.float32)
  top, left = [int(np.clip(round(14 - np.average(i, weights=box)), 0, 28 - n))
               for i, n in zip(np.indices(box.shape), size)]
  digit[top:top + size[0], left:left + size[1]] = box
  return digit


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=FLAGS)
  except (UserError, flags.Error) as e:
    sys.exit("cnn_mnist.py: error: %s" % e)
  except (tf.errors.OpError, OSError, UnicodeError) as e:
    sys.stdout = None  # If writing to it has failed, it would fail again.
    # TensorFlow 2 puts the location in front. It is not for users.
    text = re.sub(r"^Graph execution error:.*?\nNode: [^\n]*\n", "",
                  str(getattr(e, "message", e)), flags=re.DOTALL)
    sys.exit("cnn_mnist.py: error: %s: %s" % (type(e).__name__,
                                              text.strip().split("\n")[0]))
