"""Measures cnn_mnist.py beside the tutorial's own program, PyTorch and JAX.

The comparison: speed, memory, and how near to the limit of the machine.

  python tests/benchmark.py --data_dir=MNIST-data [--tf1_python=PYTHON]
      [--tf2_python=PYTHON] [--torch_python=PYTHON] [--jax_python=PYTHON]
      [--rounds=5] [--steps=250]

PYTHON are interpreters of environments with TensorFlow 1.15, TensorFlow 2,
PyTorch, and JAX with flax and optax. Each program is a process of its own, in
turn, for several rounds. Rates are from its first step to its last, as its log
shows them to who reads it; a ratio is the median of the ratios within the
rounds; ranges are of all rounds. The limit is the fastest product of two large
matrices in TensorFlow 2, in each round, in the program's precision. What
torch.compile has compiled is in its cache from the second round on.

The accuracy: a recipe of README, float32 and bfloat16 and PyTorch in turn.

  python tests/benchmark.py --data_dir=MNIST-data --tf2_python=PYTHON
      --accuracy=97.3 [--torch_python=PYTHON] [--runs=10]

The curve of accuracy over time: of cnn_mnist.py with the flags after "--", or
without any, of the tutorial's own program. Saving the checkpoints counts in the
time, testing them does not. The plot shows the names of the directories. These
two need cnn_mnist.py's requirements, and the plot needs matplotlib.

  python tests/benchmark.py --data_dir=MNIST-data --tf2_python=PYTHON
      --measure_curve=DIR -- --train_steps=400 --save_checkpoints_steps=20
  python tests/benchmark.py --plot=FILE.png DIR [DIR ...]

Batches of 10 to 1,000, and data sets of 1, 4 and 10 times the size:

  python tests/benchmark.py --data_dir=MNIST-data --scaling
"""
import argparse
import glob
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "cnn_mnist.py")
RECIPES = {  # Of README. Each stage continues the one before.
    "97.3": ["--batch_size=50 --learning_rate=0.12 --train_steps=900"],
    "99.2": ["--learning_rate=0.2 --train_steps=4000",
             "--learning_rate=0.02 --train_steps=5000"],
}

# The tutorial's loader, which reads MNIST-data, and for programs without it a
# few lines that give the same arrays. TensorFlow 2 has no tf.contrib.
TUTORIAL_LOADER = '''
import sys
import numpy as np
import tensorflow as tf
mnist = tf.contrib.learn.datasets.load_dataset("mnist")
train_data = mnist.train.images
train_labels = np.asarray(mnist.train.labels, dtype=np.int32)
eval_data = mnist.test.images
eval_labels = np.asarray(mnist.test.labels, dtype=np.int32)
'''
LOADER = '''
import gzip, sys
import numpy as np

def read(name, start):
  with gzip.open("MNIST-data/%s-ubyte.gz" % name) as f:
    return np.frombuffer(f.read(), np.uint8, offset=start)

def load(name, first):
  images = read(name + "-images-idx3", 16).reshape(-1, 784)[first:]
  labels = read(name + "-labels-idx1", 8)[first:]
  return images.astype(np.float32) * np.float32(1 / 255), labels.astype("int32")

train_data, train_labels = load("train", 5000)
eval_data, eval_labels = load("t10k", 0)
'''

TUTORIAL = '''
tf.logging.set_verbosity(tf.logging.INFO)
STEPS = int(sys.argv[1])
CONFIG = tf.estimator.RunConfig(
    save_checkpoints_steps=int(sys.argv[2])) if sys.argv[2:] else None

def cnn_model_fn(features, labels, mode):
  net = tf.reshape(features["x"], [-1, 28, 28, 1])
  for filters in 32, 64:
    net = tf.layers.conv2d(inputs=net, filters=filters, kernel_size=[5, 5],
                           padding="same", activation=tf.nn.relu)
    net = tf.layers.max_pooling2d(inputs=net, pool_size=[2, 2], strides=2)
  net = tf.reshape(net, [-1, 7 * 7 * 64])
  net = tf.layers.dense(inputs=net, units=1024, activation=tf.nn.relu)
  net = tf.layers.dropout(inputs=net, rate=0.4,
                          training=mode == tf.estimator.ModeKeys.TRAIN)
  logits = tf.layers.dense(inputs=net, units=10)
  predictions = {"classes": tf.argmax(input=logits, axis=1),
                 "probabilities": tf.nn.softmax(logits, name="softmax_tensor")}
  loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
  if mode == tf.estimator.ModeKeys.TRAIN:
    optimizer = tf.train.GradientDescentOptimizer(learning_rate=0.001)
    train_op = optimizer.minimize(
        loss=loss, global_step=tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op)
  eval_metric_ops = {"accuracy": tf.metrics.accuracy(
      labels=labels, predictions=predictions["classes"])}
  return tf.estimator.EstimatorSpec(
      mode=mode, loss=loss, eval_metric_ops=eval_metric_ops)

def main(unused_argv):
  mnist_classifier = tf.estimator.Estimator(
      model_fn=cnn_model_fn, model_dir="model", config=CONFIG)
  logging_hook = tf.train.LoggingTensorHook(
      tensors={"probabilities": "softmax_tensor"}, every_n_iter=50)
  train_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=100, num_epochs=None,
      shuffle=True)
  mnist_classifier.train(
      input_fn=train_input_fn, steps=STEPS, hooks=[logging_hook])
  eval_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": eval_data}, y=eval_labels, num_epochs=1, shuffle=False)
  print(mnist_classifier.evaluate(input_fn=eval_input_fn))

tf.app.run(main, sys.argv[:1])
'''
TUTORIAL_1 = TUTORIAL_LOADER + TUTORIAL
TUTORIAL_2 = '''
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
''' + LOADER + TUTORIAL

PYTORCH = LOADER + '''
import torch
from torch import nn
STEPS, RATE, BATCH = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
CHANNELS_LAST, BFLOAT16, COMPILE = [
    name in sys.argv[4:] for name in ("channels_last", "bfloat16", "compile")]

def images_of(data):
  if CHANNELS_LAST:  # With one channel, only the strides can tell.
    return torch.tensor(data).view(-1, 28, 28, 1).permute(0, 3, 1, 2)
  return torch.tensor(data).view(-1, 1, 28, 28)

images, labels = images_of(train_data), torch.tensor(train_labels).long()
net = nn.Sequential(
    nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.4),
    nn.Linear(1024, 10))
if CHANNELS_LAST:
  net = net.to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

def forward(x, y):
  with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
    logits = net(x)
    return nn.functional.cross_entropy(logits, y), logits

if COMPILE:
  forward = torch.compile(forward)

def train(batch):
  optimizer.zero_grad()
  loss, logits = forward(images[batch], labels[batch])
  loss.backward()
  optimizer.step()
  return loss, logits

for _ in range(5 if COMPILE else 0):  # So compiling isn't in the rate.
  train(torch.arange(BATCH))
for step in range(STEPS):
  if step % (len(images) // BATCH) == 0:
    batches = torch.randperm(len(images)).split(BATCH)
  loss, logits = train(batches[step % (len(images) // BATCH)])
  if step % 50 == 0:
    print(logits.softmax(1))
    print("loss = %g, step = %d" % (loss, step + 1), flush=True)
print("Saving checkpoints for %d " % STEPS, flush=True)
net.eval()
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
  hits = torch.cat([
      net(x).argmax(1) for x in images_of(eval_data).split(100)
  ]) == torch.tensor(eval_labels)
print({"accuracy": hits.float().mean().item()}, flush=True)
'''

FLAX = LOADER + '''
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
STEPS, DTYPE = int(sys.argv[1]), jnp.dtype(sys.argv[2])

class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    for filters in 32, 64:
      x = nn.relu(nn.Conv(filters, (5, 5), dtype=DTYPE)(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(nn.Dense(1024, dtype=DTYPE)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.4, deterministic=False)(x)
    return nn.Dense(10, dtype=DTYPE)(x).astype(jnp.float32)

def train(state, step, x, y):
  def loss_of(params):
    key = jax.random.fold_in(jax.random.key(0), step)
    logits = network.apply(params, x, rngs={"dropout": key})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), logits
  (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(state[0])
  updates, opt_state = optimizer.update(grads, state[1])
  return (optax.apply_updates(state[0], updates), opt_state), loss, logits

train = jax.jit(train, donate_argnums=0)
images = train_data.reshape(-1, 28, 28, 1)
network, optimizer = Network(), optax.sgd(0.001)
params = network.init({"params": jax.random.key(0),
                       "dropout": jax.random.key(1)}, images[:100])
state = params, optimizer.init(params)
for step in range(-5, STEPS):  # Those below 0: compiling isn't in the rate.
  batch = np.random.randint(len(images), size=100)
  state, loss, logits = train(state, step, images[batch], train_labels[batch])
  if step % 50 == 0:
    print(jax.nn.softmax(logits))
    print("loss = %g, step = %d" % (loss, step + 1), flush=True)
jax.block_until_ready(state)
print("Saving checkpoints for %d " % STEPS, flush=True)
'''

# The fastest product of each precision, of three sizes. That of two bfloat16
# tensors is the one that the rewriter of --bfloat16 makes too.
LIMIT = '''
import sys, time
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
for dtype in sys.argv[1:]:
  rates = []
  for size in 1024, 2048, 4096:
    with tf.Graph().as_default(), tf.Session() as session:
      matrix = tf.Variable(tf.cast(tf.random.uniform([size, size]), dtype))
      product = tf.matmul(matrix, matrix).op
      session.run(matrix.initializer)
      session.run(product)
      end = time.time() + 0.5
      while time.time() < end:
        start = time.time()
        session.run(product)
        rates.append(2 * size**3 / 1e9 / (time.time() - start))
  print(dtype, max(rates))
'''


def gflop_per_step():
  """Returns the billions of operations in a step of 100 images.

  A multiplication and an addition are two. Each layer has three products of
  the same size: forward, the gradient by its weights and that by its input,
  which the first layer doesn't need.
  """
  conv1, *others = [28 * 28 * 32 * 5 * 5 * 1,  # output x inputs to each
                    14 * 14 * 64 * 5 * 5 * 32,
                    1024 * 7 * 7 * 64,
                    10 * 1024]
  return 100 * 2 * (2 * conv1 + 3 * sum(others)) / 1e9


def run(command, folder, data_dir=None):
  """Runs a program in a folder, with the data in MNIST-data.

  Returns its log as a list of (time, line), of which the first has the time of
  the start, and its peak memory in MB.
  """
  link = os.path.join(folder, "MNIST-data")
  if data_dir and not os.path.lexists(link):
    os.symlink(data_dir, link)
  log = [(time.time(), "")]
  process = subprocess.Popen(
      command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      universal_newlines=True)
  for line in process.stdout:
    log.append((time.time(), line))
  _, process.returncode, usage = os.wait4(process.pid, 0)
  if process.returncode:
    sys.exit("%s failed:\n%s" % (
        command, "".join(line for _, line in log[-30:])))
  return log, usage.ru_maxrss / 1024


def find(log, regexp):
  """Returns time and match of the first line that matches."""
  for when, line in log:
    match = re.search(regexp, line)
    if match:
      return when, match
  return sys.exit("No %s in:\n%s" % (
      regexp, "".join(line for _, line in log[-30:])))


def measure(command, steps, data_dir=None):
  """Runs a training; returns seconds to the first step, steps/s, peak MB."""
  with tempfile.TemporaryDirectory() as folder:
    log, peak = run(command, folder, data_dir)
  first, _ = find(log, r"loss = .*step = [01]\b")
  last, _ = find(log, "Saving checkpoints for %d " % steps)
  return first - log[0][0], (steps - 1) / (last - first), peak


def ours(python, data_dir, *flags):
  """The command of cnn_mnist.py."""
  return [python, SCRIPT, "--data_dir=" + data_dir,
          "--model_dir=model"] + list(flags)


def pytorch(python, steps, rate, batch, *variants):
  """The command of the PyTorch program."""
  return [python, "-c", PYTORCH, steps, rate, batch] + list(variants)


def ratios(values, others):
  """The ratio of each round."""
  return [value / other for value, other in zip(values, others)]


def spread(form, values):
  """Median, least and most, for a table."""
  return "%s (%s-%s)" % tuple(
      form % value for value in (
          statistics.median(values), min(values), max(values)))


def cpuinfo():
  """All that Linux says of the CPU."""
  with open("/proc/cpuinfo") as f:
    return f.read()


def precisions():
  """The precisions in which the CPU is fast, by the rule of --bfloat16."""
  is_fast = re.search("(?s)amx_bf16|AuthenticAMD.*avx512_bf16", cpuinfo())
  return ["float32", "bfloat16"] if is_fast else ["float32"]


def list_programs(options):
  """Returns {name: (precision, command)} of what there are interpreters for."""
  steps = str(options.steps)
  programs = {}
  for python, number, text in ((options.tf1_python, 1, TUTORIAL_1),
                               (options.tf2_python, 2, TUTORIAL_2)):
    if python:
      programs["tutorial, TensorFlow %d" % number] = (
          "float32", [python, "-c", text, steps])
      programs["cnn_mnist.py, TensorFlow %d" % number] = "float32", ours(
          python, options.data_dir, "--train_steps=" + steps)
  if options.tf2_python and "bfloat16" in precisions():
    programs["cnn_mnist.py --bfloat16, TensorFlow 2"] = "bfloat16", ours(
        options.tf2_python, options.data_dir, "--train_steps=" + steps,
        "--bfloat16")
  if options.torch_python:
    for compiled, precision, layout in itertools.product(
        ("eager", "compile"), precisions(), ("NCHW", "channels_last")):
      programs["PyTorch, %s, %s, %s" % (
          layout.replace("_", " "), precision, compiled)] = precision, pytorch(
              options.torch_python, steps, "0.001", "100", layout, precision,
              compiled)
  if options.jax_python:
    for precision in precisions():
      programs["JAX, flax, " + precision] = (
          precision, [options.jax_python, "-c", FLAX, steps, precision])
  return programs


def compare(options):
  """Prints the table of programs, and which goals are met."""
  programs = list_programs(options)
  results = {name: [] for name in programs}
  limits = {precision: [] for precision in precisions()}
  for _ in range(options.rounds):
    if options.tf2_python:
      for line in subprocess.check_output(
          [options.tf2_python, "-c", LIMIT] + precisions(),
          stderr=subprocess.DEVNULL, universal_newlines=True).splitlines():
        limits[line.split()[0]].append(float(line.split()[1]))
    for name, (_, command) in programs.items():
      results[name].append(measure(command, options.steps, options.data_dir))
  starts, rates, peaks = [
      {name: [values[i] for values in results[name]] for name in programs}
      for i in range(3)]
  print("A step of 100 images: %.1f GFLOP" % gflop_per_step())
  for precision, limit in limits.items():
    if limit:
      print("Limit in %s: %s GFLOP/s" % (precision, spread("%.0f", limit)))
  print("\n| program | steps/s | of the tutorial's on TensorFlow 1 | of the "
        "limit | to the first step | peak memory |\n"
        "| --- | --- | --- | --- | --- | --- |")
  for name, (precision, _) in programs.items():
    reference = rates.get("tutorial, TensorFlow 1")
    limit = [limit / gflop_per_step() for limit in limits[precision]]
    print("| %s | %s | %s | %s | %.1f s | %d MB |" % (
        name, spread("%.1f", rates[name]),
        spread("%.2f", ratios(rates[name], reference)) if reference else "",
        spread("%.2f", ratios(rates[name], limit)) if limit else "",
        statistics.median(starts[name]), statistics.median(peaks[name])))
  print()
  best = {precision: max(
      (name for name in programs
       if name.startswith("PyTorch") and programs[name][0] == precision),
      key=lambda name: statistics.median(rates[name]), default=None)
          for precision in precisions()}
  inf = float("inf")
  # With AVX-512, TensorFlow 2 has oneDNN's kernels on by itself.
  equal = (0.98, 1.02) if "avx512" in cpuinfo() else (1.4, inf)
  for name, other, low, high in (
      ("cnn_mnist.py, TensorFlow 1", "tutorial, TensorFlow 1", 0.98, 1.02),
      ("cnn_mnist.py, TensorFlow 2", "tutorial, TensorFlow 2") + equal,
      ("cnn_mnist.py, TensorFlow 2", best["float32"], 1.15, inf),
      ("cnn_mnist.py --bfloat16, TensorFlow 2", best.get("bfloat16"), 1.25,
       inf),
      ("cnn_mnist.py --bfloat16, TensorFlow 2", "tutorial, TensorFlow 1", 3,
       inf)):
    if name in rates and other in rates:
      values = ratios(rates[name], rates[other])
      print("- %s / %s: %s; the goal, %s, is %s" % (
          name, other, spread("%.2f", values),
          "at least %g" % low if high == inf else "%g to %g" % (low, high),
          "met" if low <= statistics.median(values) <= high else "missed"))


def repeat_recipe(options):
  """Prints the table of a recipe's accuracies and times."""
  stages = options.recipe_flags or RECIPES[options.accuracy]
  programs = {
      "cnn_mnist.py, " + precision: [
          ours(options.tf2_python, options.data_dir, *(stage.split() + flags))
          for stage in stages]
      for precision, flags in zip(precisions(), ([], ["--bfloat16"]))}
  if options.torch_python and len(stages) == 1:
    # What the recipe leaves out has cnn_mnist.py's default.
    recipe = stages[0] + (
        " --train_steps=20000 --learning_rate=0.001 --batch_size=100")
    steps, rate, batch = [
        re.search(name + r"=(\S+)", recipe).group(1)
        for name in ("train_steps", "learning_rate", "batch_size")]
    # The faster layout: see the comparison.
    programs["PyTorch, channels last, " + precisions()[-1]] = [pytorch(
        options.torch_python, steps, rate, batch, "channels_last",
        precisions()[-1])]
  results = {name: [] for name in programs}
  for _ in range(options.runs):
    for name, commands in programs.items():
      with tempfile.TemporaryDirectory() as folder:
        logs = [run(command, folder, options.data_dir)[0]
                for command in commands]
      end, match = find(logs[-1], r"^\{'accuracy': ([\d.]+)")
      results[name].append((float(match.group(1)), end - logs[0][0][0]))
  print("%s\n\n| program | runs | least accuracy | median accuracy | median "
        "time |\n| --- | --- | --- | --- | --- |" % "; then ".join(stages))
  for name, values in results.items():
    accuracies, times = zip(*values)
    print("| %s | %d | %.4f | %.4f | %.1f s |" % (
        name, len(values), min(accuracies), statistics.median(accuracies),
        statistics.median(times)))


def measure_curve(options):
  """Trains, keeps all checkpoints, tests them, and writes DIR/curve.

  That is an event file of "test_accuracy". It begins with the time at which the
  process was started; the others are those at which checkpoints were complete.
  """
  folder = os.path.abspath(options.measure_curve)
  python = options.tf2_python or options.tf1_python
  if options.arguments:
    command = ours(python, options.data_dir, *options.arguments)
  else:
    text = TUTORIAL_2 if options.tf2_python else TUTORIAL_1
    command = [python, "-c", text, "20000", "1000"]
  os.makedirs(os.path.join(folder, "checkpoints"))
  os.symlink(options.data_dir, os.path.join(folder, "MNIST-data"))
  start, running = time.time(), True
  with open(os.path.join(folder, "log"), "w") as log:
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
  while running:
    running = process.poll() is None
    for path in glob.glob(os.path.join(folder, "model", "model.ckpt-*.*")):
      link = os.path.join(folder, "checkpoints", os.path.basename(path))
      if not os.path.exists(link):
        os.link(path, link)  # The Estimator deletes all but the last five.
    time.sleep(0.1)
  if process.returncode:
    sys.exit("%s failed: see %s/log" % (command, folder))

  import cnn_mnist  # pylint: disable=g-import-not-at-top
  tf = cnn_mnist.tf
  _, (data, labels) = cnn_mnist.load_mnist(options.data_dir)
  classifier = tf.estimator.Estimator(cnn_mnist.cnn_model_fn,
                                      os.path.join(folder, "evaluation"))
  input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": data}, y=labels, num_epochs=1, shuffle=False)
  events = [tf.Event(wall_time=start, file_version="brain.Event:2")]
  with cnn_mnist.borrow_tensorflow():
    for path in glob.glob(os.path.join(folder, "model", "events.*")):
      for event in tf.train.summary_iterator(path):
        if event.session_log.status == tf.SessionLog.CHECKPOINT:
          checkpoint = os.path.join(folder, "checkpoints",
                                    "model.ckpt-%d" % event.step)
          accuracy = classifier.evaluate(
              input_fn, checkpoint_path=checkpoint)["accuracy"]
          events.append(tf.Event(
              wall_time=event.wall_time, step=event.step,
              summary=tf.Summary(value=[tf.Summary.Value(
                  tag="test_accuracy", simple_value=accuracy)])))
          print("Step %d, after %.1f s: %.4f" % (
              event.step, event.wall_time - start, accuracy), flush=True)
  os.makedirs(os.path.join(folder, "curve"))
  with tf.io.TFRecordWriter(
      os.path.join(folder, "curve", "events.out.tfevents.%d" % start)) as f:
    for event in events:
      f.write(event.SerializeToString())


def plot(options):
  """Draws the curves that were measured in the directories."""
  from matplotlib import figure, ticker  # pylint: disable=g-import-not-at-top
  import tensorflow.compat.v1 as tf  # pylint: disable=g-import-not-at-top
  picture = figure.Figure(figsize=(8, 4.5), constrained_layout=True)
  axes = picture.subplots()
  for folder in options.arguments:
    path, = glob.glob(os.path.join(folder, "curve", "events.*"))
    start, *events = tf.train.summary_iterator(path)
    axes.plot([event.wall_time - start.wall_time for event in events],
              [event.summary.value[0].simple_value for event in events],
              ".-", label=os.path.basename(os.path.normpath(folder)))
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter("{x:g}")
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlabel("seconds since the command was entered")
  axes.set_yscale("logit")  # It shows the way from 97 % to 99 % too.
  ticks = [0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.973, 0.99]
  axes.set_yticks(ticks)
  axes.set_yticklabels(["%g %%" % (100 * tick) for tick in ticks])
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.set_ylabel("accuracy on the test images")
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right")
  picture.savefig(options.plot, dpi=120)


def scale(options):
  """Prints the tables of batch sizes and of data set sizes."""
  import cnn_mnist  # pylint: disable=g-import-not-at-top
  import handwritten_digits  # pylint: disable=g-import-not-at-top
  import numpy as np  # pylint: disable=g-import-not-at-top
  print("| batch | steps/s | images/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  for batch in (10, 30, 100, 300, 1000):
    steps = max(20, min(options.steps, 10000 // batch))
    _, rate, peak = measure(ours(
        sys.executable, options.data_dir, "--train_steps=%d" % steps,
        "--batch_size=%d" % batch), steps)
    print("| %d | %.1f | %.0f | %d MB |" % (batch, rate, batch * rate, peak))
  print("\n| images | to the first step | steps/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  paths = cnn_mnist.find_mnist(options.data_dir)
  with tempfile.TemporaryDirectory() as folder:
    copies = [os.path.join(folder, name) for name in cnn_mnist.SHA256]
    for path, copy in zip(paths[2:], copies[2:]):
      shutil.copy(path, copy)
    images = cnn_mnist.read_idx(paths[0], (28, 28))
    labels = cnn_mnist.read_idx(paths[1], ())
    for times in (1, 4, 10):
      for path, items in zip(copies, (images, labels)):
        handwritten_digits.write_idx(path, np.concatenate([items] * times))
      start, rate, peak = measure(
          ours(sys.executable, folder, "--train_steps=100"), 100)
      print("| %d | %.1f s | %.1f | %d MB |" % (len(images) * times, start,
                                                rate, peak))


def interpreter(name):
  """The path of an interpreter, which is valid in all directories."""
  return os.path.abspath(shutil.which(name) or name)


def main():
  """Parses the flags, prints what it runs on, and does what they ask for."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", type=os.path.abspath)
  peers = (("tf1", "tensorflow"), ("tf2", "tensorflow"), ("torch", "torch"),
           ("jax", "jax"))
  for name, _ in peers:
    parser.add_argument("--%s_python" % name, type=interpreter)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=250)
  parser.add_argument("--accuracy", choices=sorted(RECIPES))
  parser.add_argument("--recipe_flags", action="append",
                      help="instead of the recipe's; once for each stage")
  parser.add_argument("--runs", type=int, default=10)
  parser.add_argument("--measure_curve", metavar="DIR")
  parser.add_argument("--plot", metavar="FILE")
  parser.add_argument("--scaling", action="store_true")
  parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
  options = parser.parse_args()
  sys.path.insert(0, ROOT)
  if options.plot:
    plot(options)
    return
  if not options.data_dir:
    parser.error("--data_dir is missing")
  if options.accuracy and not options.tf2_python:
    parser.error("--accuracy needs --tf2_python")
  print("%s, %d cores" % (
      re.search(r"model name\s*: (.*)", cpuinfo()).group(1), os.cpu_count()))
  for name, module in peers:
    python = getattr(options, name + "_python")
    if python:
      print(subprocess.check_output(
          [python, "-c", "import platform, %s as m; print(m.__name__, m."
           "__version__, 'on Python', platform.python_version())" % module],
          stderr=subprocess.DEVNULL, universal_newlines=True).strip())
  if options.measure_curve:
    measure_curve(options)
  elif options.accuracy:
    repeat_recipe(options)
  elif options.scaling:
    scale(options)
  else:
    print("%d rounds of %d steps" % (options.rounds, options.steps))
    compare(options)


if __name__ == "__main__":
  main()
