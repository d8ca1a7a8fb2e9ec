"""Measures cnn_mnist.py beside the tutorial's own program and PyTorch.

  python tests/benchmark.py --data_dir=MNIST-data
      [--fast_python=PYTHON] [--torch_python=PYTHON] [--rounds=5] [--steps=300]

Each program is a process of its own, in turn, for several rounds. Rates are
from its first step to its last, as its log shows them to who reads it; a ratio
is the median of the ratios within the rounds; ranges are of all rounds. PYTHON
are interpreters of other environments: with the fast wheel (see README), with
PyTorch.

  python tests/benchmark.py --data_dir=MNIST-data --scaling

measures batches of 10 to 1,000, and data sets of 1, 4 and 10 times the size.
"""
import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "cnn_mnist.py")
FAST_ENV = {  # As in README
    "KMP_BLOCKTIME": "1",
    "KMP_AFFINITY": "granularity=fine,compact,1,0",
    "TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE": "false",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
if "AuthenticAMD" in open("/proc/cpuinfo").read():
  # This MKL uses no more than SSE there without it; on Intel it costs AVX-512.
  FAST_ENV["MKL_DEBUG_CPU_TYPE"] = "5"

TUTORIAL = '''
import sys
import numpy as np
import tensorflow as tf
tf.logging.set_verbosity(tf.logging.INFO)
STEPS = int(sys.argv[1])

def model_fn(features, labels, mode):
  net = tf.reshape(features["x"], [-1, 28, 28, 1])
  for filters in 32, 64:
    net = tf.layers.conv2d(net, filters, [5, 5], padding="same",
                           activation=tf.nn.relu)
    net = tf.layers.max_pooling2d(net, [2, 2], 2)
  net = tf.layers.dense(tf.reshape(net, [-1, 7 * 7 * 64]), 1024, tf.nn.relu)
  net = tf.layers.dropout(net, 0.4, training=mode == "train")
  logits = tf.layers.dense(net, 10)
  tf.nn.softmax(logits, name="softmax_tensor")
  loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
  train_op = tf.train.GradientDescentOptimizer(0.001).minimize(
      loss, tf.train.get_global_step())
  return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

def main(_):
  mnist = tf.contrib.learn.datasets.load_dataset("mnist")
  tf.estimator.Estimator(model_fn, "model").train(
      tf.estimator.inputs.numpy_input_fn(
          {"x": mnist.train.images},
          np.asarray(mnist.train.labels, dtype=np.int32),
          batch_size=100, num_epochs=None, shuffle=True),
      [tf.train.LoggingTensorHook({"probabilities": "softmax_tensor"}, 50)],
      steps=STEPS)

tf.app.run(main, sys.argv[:1])
'''

PYTORCH = '''
import gzip, sys
import numpy as np
import torch
from torch import nn
STEPS, CHANNELS_LAST = int(sys.argv[1]), sys.argv[2] == "channels_last"

def read(name, start):
  with gzip.open("MNIST-data/" + name) as f:
    return torch.tensor(np.frombuffer(f.read(), np.uint8, offset=start))

images = read("train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)[5000:] / 255
labels = read("train-labels-idx1-ubyte.gz", 8)[5000:].long()
net = nn.Sequential(
    nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.4),
    nn.Linear(1024, 10))
if CHANNELS_LAST:
  net = net.to(memory_format=torch.channels_last)
  images = images.contiguous(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
for step in range(1, STEPS + 1):
  batch = torch.randint(len(images), (100,))
  optimizer.zero_grad()
  logits = net(images[batch])
  loss = nn.functional.cross_entropy(logits, labels[batch])
  loss.backward()
  optimizer.step()
  if step % 50 == 1:
    print(logits.softmax(1), file=sys.stderr)
    print("loss = %g, step = %d" % (loss.item(), step), file=sys.stderr)
print("Saving checkpoints for %d " % STEPS, file=sys.stderr)
'''


def run(command, steps, env=None, data_dir=None):
  """Runs a training; returns seconds to the first step, steps/s, peak MB."""
  with tempfile.TemporaryDirectory() as folder:
    if data_dir:
      os.symlink(data_dir, os.path.join(folder, "MNIST-data"))
    start = time.time()
    process = subprocess.Popen(
        command, cwd=folder, env=dict(os.environ, **(env or {})),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        universal_newlines=True)
    first = last = None
    log = []
    for line in process.stderr:
      log.append(line)
      if first is None and re.search(r"loss = .*step = 1\b", line):
        first = time.time()
      elif "Saving checkpoints for %d " % steps in line:
        last = time.time()
    _, status, usage = os.wait4(process.pid, 0)
  if status or not first or not last:
    sys.exit("%s failed:\n%s" % (command, "".join(log[-30:])))
  return first - start, (steps - 1) / (last - first), usage.ru_maxrss / 1024


def ratios(rates, others):
  """The ratio of each round."""
  return [rate / other for rate, other in zip(rates, others)]


def spread(form, values):
  """Median, least and most, for a table."""
  return "%s (%s-%s)" % tuple(
      form % value for value in (
          statistics.median(values), min(values), max(values)))


def ours(python, steps, data_dir, *flags):
  """The command of cnn_mnist.py."""
  return [python, SCRIPT, "--data_dir=" + data_dir, "--model_dir=model",
          "--train_steps=%d" % steps] + list(flags)


def compare(options):
  """Prints the table of programs."""
  programs = [
      ("tutorial, `tensorflow==1.15`",
       [sys.executable, "-c", TUTORIAL, str(options.steps)], {}),
      ("**cnn_mnist.py**, `tensorflow==1.15`",
       ours(sys.executable, options.steps, options.data_dir), {})]
  if options.fast_python:
    programs += [
        ("tutorial, fast wheel",
         [options.fast_python, "-c", TUTORIAL, str(options.steps)], {}),
        ("**cnn_mnist.py**, fast wheel",
         ours(options.fast_python, options.steps, options.data_dir), {}),
        ("**cnn_mnist.py**, fast wheel and settings",
         ours(options.fast_python, options.steps, options.data_dir), FAST_ENV)]
  if options.torch_python:
    programs += [
        ("PyTorch, " + layout.replace("_", " "),
         [options.torch_python, "-c", PYTORCH, str(options.steps), layout], {})
        for layout in ("NCHW", "channels_last")]
  names = [name for name, _, _ in programs]
  results = {name: [] for name in names}
  for _ in range(options.rounds):
    for name, command, env in programs:
      results[name].append(run(command, options.steps, env, options.data_dir))
  starts, rates, peaks = [
      {name: [values[i] for values in results[name]] for name in names}
      for i in range(3)]
  print("| program | steps/s | of the tutorial's | to the first step | peak "
        "memory |\n| --- | --- | --- | --- | --- |")
  for name in names:
    print("| %s | %s | %s | %.1f s | %d MB |" % (
        name, spread("%.1f", rates[name]),
        spread("%.2f", ratios(rates[name], rates[names[0]])),
        statistics.median(starts[name]), statistics.median(peaks[name])))
  peers = [name for name in names if name.startswith("PyTorch")]
  if peers:
    peer = max(peers, key=lambda name: statistics.median(rates[name]))
    print()
    for name in names[:-len(peers)]:
      print("%s: %s times %s" % (
          name, spread("%.2f", ratios(rates[name], rates[peer])), peer))


def scale(options):
  """Prints the tables of batch sizes and of data set sizes."""
  import cnn_mnist  # pylint: disable=g-import-not-at-top
  import handwritten_digits  # pylint: disable=g-import-not-at-top
  import numpy as np  # pylint: disable=g-import-not-at-top
  print("| batch | steps/s | images/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  for batch in (10, 30, 100, 300, 1000):
    steps = max(20, min(options.steps, 10000 // batch))
    _, rate, peak = run(ours(sys.executable, steps, options.data_dir,
                             "--batch_size=%d" % batch), steps)
    print("| %d | %.1f | %.0f | %d MB |" % (batch, rate, batch * rate, peak))
  print("\n| images | to the first step | steps/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  paths = cnn_mnist.find_mnist(options.data_dir)
  with tempfile.TemporaryDirectory() as folder:
    for name, path in zip(cnn_mnist.SHA256, paths):
      os.symlink(os.path.abspath(path), os.path.join(folder, name))
    images = cnn_mnist.read_idx(paths[0], (28, 28))
    labels = cnn_mnist.read_idx(paths[1], ())
    for times in (1, 4, 10):
      for name, items in zip(cnn_mnist.SHA256, (images, labels)):
        path = os.path.join(folder, name)
        os.remove(path)
        handwritten_digits.write_idx(path, np.concatenate([items] * times))
      start, rate, peak = run(ours(sys.executable, 100, folder), 100)
      print("| %d | %.1f s | %.1f | %d MB |" % (len(images) * times, start,
                                                rate, peak))


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", type=os.path.abspath, required=True)
  parser.add_argument("--fast_python")
  parser.add_argument("--torch_python")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--scaling", action="store_true")
  options = parser.parse_args()
  with open("/proc/cpuinfo") as f:
    cpu = re.search(r"model name\s*: (.*)", f.read()).group(1)
  print("%s, %d cores, Python %s, %d rounds of %d steps" % (
      cpu, os.cpu_count(), platform.python_version(), options.rounds,
      options.steps))
  for python, module in ((sys.executable, "tensorflow"),
                         (options.fast_python, "tensorflow"),
                         (options.torch_python, "torch")):
    if python:
      print("%s %s" % (module, subprocess.check_output(
          [python, "-c", "import %s as m; print(m.__version__)" % module],
          universal_newlines=True).strip()))
  print()
  sys.path.insert(0, ROOT)
  (scale if options.scaling else compare)(options)


if __name__ == "__main__":
  main()
