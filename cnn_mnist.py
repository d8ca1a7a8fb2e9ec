"""Trains the convolutional network of "A Guide to TF Layers" on MNIST.

For TensorFlow 1.15 and its tf.estimator. With the default flags: 20,000 steps
of 100 images, then the accuracy on the 10,000 test images, about 97 %.
"""
import datetime
import gzip
import hashlib
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import zlib

if __name__ == "__main__":  # PID 1 has no default; the imports take seconds.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda signum, _: os._exit(128 + signum))

try:
  import http.client
  import urllib.request
  from absl import app
  from absl import flags
  import numpy as np
  import tensorflow as tf
  from tensorflow.python.client import device_lib
  if not tf.__version__.startswith("1.15"):
    raise ImportError("TensorFlow " + tf.__version__)
except (ImportError, TypeError) as e:  # TypeError: protobuf >= 3.21
  if __name__ != "__main__":
    raise
  sys.exit("cnn_mnist.py: error: %s; this is Python %s, %s. TensorFlow 1.15 is "
           "needed, on Python 3.7: python3.7 -m pip install -r requirements.txt"
           % (str(e).split("\n")[0], sys.version.split()[0], sys.executable))

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "MNIST-data", "Folder of the four MNIST files, "
                    ".gz or unpacked; missing ones are downloaded into it.")
flags.DEFINE_string("model_dir", "/tmp/mnist_convnet_model",
                    "Folder of the checkpoints and TensorBoard's summaries.")
flags.DEFINE_integer("train_steps", 20000, "Global step to train to: a stopped "
                     "run goes on to it, a finished one is only evaluated.",
                     lower_bound=1, upper_bound=2**31 - 1)
flags.DEFINE_integer("batch_size", 100, "Images a step.", lower_bound=1,
                     upper_bound=2**31 - 1)
flags.DEFINE_float("learning_rate", 0.001, "Of the gradient descent.")
flags.register_validator("learning_rate", lambda rate: 0 < rate < float("inf"),
                         message="must be a number above 0")
flags.DEFINE_integer("log_every_n_iter", 50, "Steps from one log of the "
                     "probabilities to the next.", lower_bound=1)
flags.DEFINE_integer("save_checkpoints_steps", 1000, "Steps from a checkpoint "
                     "to the next: the most that a killed run has to repeat.",
                     lower_bound=1)
flags.DEFINE_integer("seed", None, "Repeats the initial weights and the random "
                     "numbers of dropout, but not the order of the images: two "
                     "runs still differ.", lower_bound=0,
                     upper_bound=2**31 - 1)
flags.DEFINE_list("predict", None, "Train nothing, but classify these pictures "
                  "(PNG, JPEG, GIF, BMP), comma-separated.")
flags.register_validator("predict", lambda paths: paths is None or all(
    paths + [paths]), message="names no picture")
flags.DEFINE_string("export_dir", None, "After the evaluation, write a "
                    "SavedModel into a new numbered folder in this one.")
for name in ("data_dir", "model_dir", "export_dir"):
  flags.register_validator(name, lambda path: path != "", "names no folder")

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
STALL_SECS = 10  # Without a byte for so long, the next mirror is tried.
DOWNLOAD_SECS = 600  # The most for one file; 10 MB need 17 kB/s.


class UserError(Exception):
  """What the user can mend: shown as one line, without a traceback."""


def download(name, data_dir):
  """Downloads one file into data_dir, under its name only once verified."""
  problems = []
  # The folder goes, and what is in it, on any way out of the block.
  with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as folder:
    path = os.path.join(folder, name)
    for url in [mirror + name for mirror in MIRRORS]:
      tf.logging.info("Downloading %s", url)
      try:
        start = shown = time.time()
        digest = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=STALL_SECS) as response, open(
            path, "wb") as f:
          for chunk in iter(lambda: response.read1(1 << 16), b""):
            f.write(chunk)
            digest.update(chunk)
            now = time.time()
            if now - start > DOWNLOAD_SECS:
              raise OSError("too slow")
            if now - shown > 2:
              shown = now
              tf.logging.info("%d of %s bytes", f.tell(),
                              response.headers.get("Content-Length", "?"))
        if digest.hexdigest() != SHA256[name]:
          raise OSError("wrong or incomplete content")
        os.replace(path, os.path.join(data_dir, name))
        return
      except (OSError, http.client.HTTPException) as e:
        problems.append("%s (%s)" % (url, e))
  raise UserError(
      "no %s in --data_dir=%s, nor from %s. Put the four MNIST files there, or "
      "make some without a network: %s tests/handwritten_digits.py DIR, "
      "then --data_dir=DIR" % (name, data_dir, ", nor from ".join(problems),
                               sys.executable))


def find_mnist(data_dir):
  """Returns the paths of the four files; downloads those that are missing."""
  paths = {name: path for name in SHA256 for path in (
      os.path.join(data_dir, name[:-len(".gz")]), os.path.join(data_dir, name))
           if os.path.lexists(path)}
  missing = [name for name in SHA256 if name not in paths]
  for name in paths if missing else ():  # No mixture with another data set
    with open(paths[name], "rb") as f:
      if hashlib.sha256(f.read()).hexdigest() != SHA256[name]:
        raise UserError("%s is not MNIST's own, so %s will not be downloaded "
                        "to go with it: add it, or empty --data_dir=%s" %
                        (paths[name], missing[0], data_dir))
  for name in missing:
    os.makedirs(data_dir, exist_ok=True)
    download(name, data_dir)
    paths[name] = os.path.join(data_dir, name)
  return [paths[name] for name in SHA256]


def read_idx(path, item_shape):
  """Reads an IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist/).

  Returns uint8 [N, 28, 28] for the item_shape (28, 28), uint8 [N] for (), or
  raises UserError. Takes memory for what the file holds, not what it promises.
  """
  begin = [0x801 + len(item_shape), "N"] + list(item_shape)  # 0x801: its magic
  try:
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
      header = f.read(4 * len(begin)).ljust(4 * len(begin), b"\0")
      found = np.frombuffer(header, ">u4").tolist()
      if found[:1] + found[2:] != begin[:1] + begin[2:]:
        raise UserError("%s begins with %s, not %s" % (path, found, begin))
      size = found[1] * int(np.prod(item_shape))
      data = bytearray()
      for chunk in iter(lambda: f.read(1 << 20), b""):
        data += chunk
        if len(data) > size:
          break
  except (OSError, EOFError, zlib.error) as e:
    raise UserError("%s can't be read (%s): mend it, or delete it for a new "
                    "download" % (path, getattr(e, "strerror", None) or e))
  if len(data) != size or not size:
    raise UserError("%s has %s data for the %d examples of its header" % (
        path, "more" if len(data) > size else "too little", found[1]))
  return np.frombuffer(data, np.uint8).reshape((-1,) + item_shape)


def load_mnist(data_dir):
  """Loads MNIST, or another data set in four files like its own.

  Bit-identical to tf.contrib.learn.datasets.load_dataset("mnist"), which holds
  out the first 5,000 of the 60,000 training images: a twelfth, which is also
  what is held out here of a data set of another size.

  Args:
    data_dir: folder of the files; those that are missing are downloaded.

  Returns:
    (train_images, train_labels), (test_images, test_labels): images float32
    [N, 784] in [0, 1], labels int32 [N] in 0..9; N is 55,000 and 10,000.

  Raises:
    UserError: a file can't be had, or is not as it should be.
  """
  try:
    paths = find_mnist(data_dir)
  except OSError as e:
    raise UserError("--data_dir=%s can't be used: %s" % (data_dir, e))
  splits = []
  for images_path, labels_path in (paths[:2], paths[2:]):
    images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
    if len(images) != len(labels):
      raise UserError("%s has %d images, %s has %d labels" % (
          images_path, len(images), labels_path, len(labels)))
    if labels.max() > 9:
      raise UserError("%s has a label above 9: %d" %
                      (labels_path, labels.max()))
    first = 0 if splits else len(labels) // 12
    splits.append((np.multiply(images[first:].reshape(-1, 784),
                               np.float32(1 / 255), dtype=np.float32),
                   labels[first:].astype(np.int32)))
  return tuple(splits)


def cnn_model_fn(features, labels, mode, params=None):
  """Model function of the network, for tf.estimator.Estimator.

  Args:
    features: dict, "x": float32 [batch, 784] or [batch, 28, 28] in [0, 1].
    labels: int32 [batch] in 0..9; None in PREDICT.
    mode: a tf.estimator.ModeKeys.
    params: dict or None, "learning_rate": float, 0.001 if it is not given.

  Returns:
    tf.estimator.EstimatorSpec of the mode. Predictions: "classes", int64
    [batch] in 0..9, and "probabilities", float32 [batch, 10] in [0, 1].
  """
  # [batch, 28, 28, 1]: one colour, grey
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
  dropout = tf.layers.dropout(  # [batch, 1024], in training 40 % of them 0
      inputs=dense, rate=0.4, training=mode == tf.estimator.ModeKeys.TRAIN)
  logits = tf.layers.dense(inputs=dropout, units=10)  # [batch, 10]

  predictions = {
      "classes": tf.argmax(input=logits, axis=1),  # [batch]
      # [batch, 10]; the logging hook finds it by its name.
      "probabilities": tf.nn.softmax(logits, name="softmax_tensor")
  }
  if mode == tf.estimator.ModeKeys.PREDICT:
    return tf.estimator.EstimatorSpec(mode=mode, predictions=predictions)

  loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
  if mode == tf.estimator.ModeKeys.TRAIN:
    optimizer = tf.train.GradientDescentOptimizer(
        learning_rate=(params or {}).get("learning_rate", 0.001))
    train_op = optimizer.minimize(loss, tf.train.get_global_step())
    # For TensorBoard, which has the loss already. "accuracy" is also the name
    # of the metric below, so both are curves of one chart.
    hits = tf.equal(predictions["classes"], tf.cast(labels, tf.int64))
    tf.summary.scalar("accuracy", tf.reduce_mean(tf.cast(hits, tf.float32)))
    tf.summary.image("digits", input_layer, max_outputs=3)
    return tf.estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op,
                                      training_hooks=[DivergenceHook(loss)])

  accuracy = tf.metrics.accuracy(
      labels=labels, predictions=predictions["classes"])
  return tf.estimator.EstimatorSpec(
      mode=mode, loss=loss, eval_metric_ops={"accuracy": accuracy})


class DivergenceHook(tf.estimator.NanTensorHook):
  """Fails on NaN, and on a loss that is beyond return: guessing has 2.3."""

  def after_run(self, run_context, run_values):
    if not run_values.results < 100:
      raise tf.estimator.NanLossDuringTrainingError


class ProgressHook(tf.estimator.StepCounterHook):
  """Logs every 10 s how far the training is and how long it will take."""

  def __init__(self, last_step):
    super(ProgressHook, self).__init__(every_n_steps=None, every_n_secs=10)
    self._last_step = last_step

  def _log_and_record(self, elapsed_steps, elapsed_time, global_step):
    rate = elapsed_steps / elapsed_time
    left = max(0, self._last_step - global_step) // rate
    tf.logging.info("Step %d of %d, %.1f steps/s, %s left", global_step,
                    self._last_step, rate, datetime.timedelta(seconds=left))


class StopOnSignalHook(tf.estimator.SessionRunHook):
  """Ends the training after the running step on SIGTERM or SIGINT.

  The session then closes as it does after the last step, with a checkpoint. A
  second signal ends the process at once. Outside of training, the first does.
  """
  signum = None
  training = False

  def __init__(self):
    for signum in (signal.SIGTERM, signal.SIGINT):
      signal.signal(signum, self._on_signal)
    # Python waits with that until the step has returned. The second signal
    # can't wait, so a thread looks out for it.
    self._arrivals, self._wakeup = socket.socketpair()
    self._wakeup.setblocking(False)
    signal.set_wakeup_fd(self._wakeup.fileno())
    threading.Thread(target=self._exit_at_second, daemon=True).start()

  def _exit_at_second(self):
    self._arrivals.recv(1, socket.MSG_PEEK)
    time.sleep(0.5)  # timeout(1) sends two at once as one.
    self._arrivals.recv(1000)
    os._exit(128 + self._arrivals.recv(1)[0])

  def _on_signal(self, signum, unused_frame):
    if not self.training:
      sys.exit(128 + signum)
    self.signum = signum

  def after_create_session(self, session, coord):
    self.training = True

  def after_run(self, run_context, run_values):
    if self.signum:
      run_context.request_stop()

  def end(self, session):
    self.training = False


def read_picture(path):
  """Reads a picture of a digit (PNG, JPEG, GIF, BMP) and makes it MNIST-like.

  As MNIST was made: light on dark, scaled to a box of 20x20, and put into 28x28
  with the centre of mass in the middle. Returns float32 [28, 28] in [0, 1];
  raises UserError if the file can't be read or shows nothing.
  """
  with tf.Graph().as_default(), tf.Session() as session:
    try:
      pixels = session.run(tf.io.decode_image(tf.io.read_file(path)))
    except tf.errors.OpError as e:
      raise UserError("--predict: %s can't be read as a picture: %s" %
                      (path, e.message.split("\n")[0]))
    pixels = pixels.reshape((-1,) + pixels.shape[-3:])[0] / 255  # GIF: frame 0
    channels = pixels.shape[-1]
    grey = pixels[:, :, :1 if channels < 3 else 3].mean(axis=2)
    if channels in (2, 4):  # Transparent: dark strokes were meant for white.
      alpha = pixels[:, :, -1]
      white = (grey * alpha).sum() < alpha.sum() / 2
      grey = grey * alpha + white * (1 - alpha)
    # The page is what most of the border shows, give or take its unevenness.
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    page = np.median(border)
    sign = -1 if page > (grey.min() + grey.max()) / 2 else 1
    ink = sign * (grey - page)
    ink[ink < 5 * np.median(np.abs(border - page))] = 0
    if ink.max() < 0.05:
      raise UserError("--predict: %s shows no digit" % path)
    ink /= ink.max()
    # The digit's box: in a row or column with less than 1 %, it is specks.
    rows, columns = [np.flatnonzero(total > 0.01 * total.max())
                     for total in (ink.sum(axis=1), ink.sum(axis=0))]
    ink = ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    size = [max(1, int(round(20 * n / max(ink.shape)))) for n in ink.shape]
    box = session.run(tf.compat.v2.image.resize(
        ink[:, :, np.newaxis], size, antialias=True))[:, :, 0]
  digit = np.zeros([28, 28], np.float32)
  top, left = [int(np.clip(round(14 - np.average(i, weights=box)), 0, 28 - n))
               for i, n in zip(np.indices(box.shape), size)]
  digit[top:top + size[0], left:left + size[1]] = box
  return digit


def find_checkpoint(model_dir):
  """Returns the path of the newest checkpoint that is whole, or None.

  Raises UserError if none is whole, or it is of another network.
  """
  try:
    state = tf.train.get_checkpoint_state(model_dir)
  except ValueError:  # An empty file "checkpoint"
    state = None
  for path in reversed(state.all_model_checkpoint_paths if state else []):
    try:
      reader = tf.train.load_checkpoint(path)
      found = reader.get_variable_to_shape_map()
      for name in found:
        reader.get_tensor(name)  # Checks its CRC.
      break
    except tf.errors.OpError as e:
      tf.logging.warning("Passing over a damaged checkpoint: %s (%s)", path,
                         e.message)
  else:
    if tf.io.gfile.exists(os.path.join(model_dir, "checkpoint")):
      raise UserError("--model_dir=%s has no checkpoint that can be read: "
                      "delete it, or give another" % model_dir)
    return None
  with tf.Graph().as_default():
    tf.train.create_global_step()
    cnn_model_fn({"x": tf.zeros([1, 784])}, None, tf.estimator.ModeKeys.PREDICT)
    expected = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
  for name in sorted(set(found) | set(expected)):
    shapes = found.get(name, "absent"), expected.get(name, "absent")
    if shapes[0] != shapes[1]:
      raise UserError("--model_dir=%s holds another network: %s is %s there, "
                      "%s here. Delete it, or give another" %
                      ((model_dir, name) + shapes))
  return path


def lock_model_dir(model_dir):
  """Keeps other runs out of model_dir while the returned file is open."""
  try:
    os.makedirs(model_dir, exist_ok=True)
    lock = open(os.path.join(model_dir, ".lock"), "a")
    if os.name == "posix":
      import fcntl
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock
  except BlockingIOError:
    raise UserError("--model_dir=%s is in use by another run" % model_dir)
  except OSError as e:
    raise UserError("--model_dir=%s can't be written: %s" % (model_dir, e))


def make_config():
  """Returns the RunConfig: of this task, where TF_CONFIG describes a job."""
  try:
    config = tf.estimator.RunConfig(
        model_dir=FLAGS.model_dir, tf_random_seed=FLAGS.seed,
        save_checkpoints_steps=FLAGS.save_checkpoints_steps)
    for address in sum(config.cluster_spec.as_dict().values(), []):
      if not re.search(r".:\d+$", address):
        raise ValueError("%r is not host:port" % address)
    if config.num_worker_replicas > 1 and not config.num_ps_replicas:
      raise ValueError("its workers need a ps")
    return config
  except (ValueError, TypeError, AttributeError, KeyError) as e:
    raise UserError("TF_CONFIG is wrong: %s" % " ".join(str(e).split()))


def connect_to_ps(target, ps):
  """Returns a session on a parameter server, with ops to add and count there.

  A worker that is done adds itself; the server counts them, to know when to
  end. TensorFlow's own never ends.
  """
  with tf.Graph().as_default(), tf.device("/job:ps/task:%d" % ps):
    done = tf.FIFOQueue(1000, tf.int32, shapes=[()], shared_name="done")
    add, count = done.enqueue(1), done.size()
    return tf.Session(target, config=tf.ConfigProto(
        device_filters=["/job:ps/task:%d" % ps])), add, count


def main(argv):
  if len(argv) > 1:
    raise UserError("unexpected argument %r: flags begin with --" % argv[1])
  stop_hook = StopOnSignalHook()
  logger = tf.get_logger()
  logger.handlers = []  # absl's is there, and tells the time.
  logger.addFilter(lambda record: record.filename not in (
      "deprecation.py", "module_wrapper.py"))  # No news in TF 1.15
  logger.setLevel(tf.logging.INFO)
  # Of the 100 probabilities of a batch, the hook logs the first and last five.
  np.set_printoptions(precision=3, threshold=100, edgeitems=5)
  gpus = [device.physical_device_desc for device in
          device_lib.list_local_devices() if device.device_type == "GPU"]
  tf.logging.info("TensorFlow %s on %d GPUs: %s", tf.__version__, len(gpus),
                  "; ".join(gpus) or "it runs on the CPU")

  config = make_config()
  if config.task_type == "ps":
    server = tf.distribute.Server(config.cluster_spec, "ps", config.task_id)
    session, _, count = connect_to_ps(server.target, config.task_id)
    while session.run(count) < config.num_worker_replicas:
      time.sleep(1)
    return
  mnist_classifier = tf.estimator.Estimator(
      model_fn=cnn_model_fn, config=config,
      params={"learning_rate": FLAGS.learning_rate})
  checkpoint = find_checkpoint(FLAGS.model_dir)

  if FLAGS.predict:
    if not checkpoint:
      raise UserError("--model_dir=%s has no checkpoint: train one first" %
                      FLAGS.model_dir)
    pictures = np.stack([read_picture(path) for path in FLAGS.predict])
    predict_input_fn = tf.estimator.inputs.numpy_input_fn(
        x={"x": pictures}, num_epochs=1, shuffle=False)
    for path, prediction in zip(FLAGS.predict, mnist_classifier.predict(
        predict_input_fn, checkpoint_path=checkpoint)):
      print("%s\t%d\t%.4f" % (path, prediction["classes"],
                              prediction["probabilities"].max()))
    return

  if config.is_chief and "://" not in FLAGS.model_dir:
    lock = lock_model_dir(FLAGS.model_dir)  # Until this process ends
    if FLAGS.export_dir and os.path.isfile(FLAGS.export_dir):
      raise UserError("--export_dir=%s is a file" % FLAGS.export_dir)
    if checkpoint != tf.train.latest_checkpoint(FLAGS.model_dir):
      # The latest is damaged, or another run saved it before it gave way.
      checkpoint = find_checkpoint(FLAGS.model_dir)
      paths = list(tf.train.get_checkpoint_state(
          FLAGS.model_dir).all_model_checkpoint_paths)
      tf.train.update_checkpoint_state(FLAGS.model_dir, checkpoint,
                                       paths[:paths.index(checkpoint) + 1])
  (train_data, train_labels), (eval_data, eval_labels) = load_mnist(
      FLAGS.data_dir)
  train_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=FLAGS.batch_size,
      num_epochs=None, shuffle=True)
  eval_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": eval_data}, y=eval_labels, num_epochs=1, shuffle=False)
  logging_hook = tf.train.LoggingTensorHook(
      tensors={"probabilities": "softmax_tensor"},
      every_n_iter=FLAGS.log_every_n_iter)
  hooks = [logging_hook, ProgressHook(FLAGS.train_steps), stop_hook]

  step = tf.train.load_variable(checkpoint, "global_step") if checkpoint else 0
  tf.logging.info("At step %d of %d: %s", step, FLAGS.train_steps, "training"
                  if step < FLAGS.train_steps else "no training, it is done")
  alone = config.num_worker_replicas + config.num_ps_replicas == 1
  try:
    if alone:
      mnist_classifier.train(train_input_fn, hooks, max_steps=FLAGS.train_steps)
    else:
      tf.estimator.train_and_evaluate(
          mnist_classifier,
          tf.estimator.TrainSpec(train_input_fn, FLAGS.train_steps, hooks),
          tf.estimator.EvalSpec(eval_input_fn, steps=None, start_delay_secs=0,
                                throttle_secs=10))
  except tf.estimator.NanLossDuringTrainingError:
    raise UserError("the loss became NaN or above 100: give a --learning_rate "
                    "well below %g" % FLAGS.learning_rate)
  except (tf.errors.ResourceExhaustedError,
          tf.errors.PermissionDeniedError) as e:
    raise UserError("no more space, memory or permission; the last checkpoint "
                    "is kept: %s" % e.message.split("\n")[0])
  if stop_hook.signum:
    tf.logging.info("Stopped by signal %d, checkpoint saved: the same command "
                    "goes on from there", stop_hook.signum)
    sys.exit(128 + stop_hook.signum)
  for ps in range(config.num_ps_replicas):
    session, add, _ = connect_to_ps(
        "grpc://" + config.cluster_spec.task_address("ps", ps), ps)
    session.run(add)

  if alone or config.task_type in ("evaluator", "master"):
    print(mnist_classifier.evaluate(eval_input_fn))
  if FLAGS.export_dir and config.is_chief:
    # "x" is float32 [batch, 28, 28]; for "serve", the default signature.
    receiver_fn = tf.estimator.export.build_raw_serving_input_receiver_fn(
        {"x": tf.placeholder(tf.float32, [None, 28, 28])})
    try:
      path = mnist_classifier.export_saved_model(FLAGS.export_dir, receiver_fn)
      tf.logging.info("Exported to %s", tf.compat.as_str(path))
    except (OSError, tf.errors.OpError) as e:
      raise UserError("--export_dir=%s can't be written: %s" %
                      (FLAGS.export_dir, e))


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=FLAGS)
  except (UserError, flags.Error) as e:
    sys.exit("cnn_mnist.py: error: %s" % e)
