# SPDX-License-Identifier: Apache-2.0
"""Compares cnn_mnist.py with the tutorial's own program, PyTorch and JAX.

This compares speed and memory, and the speed with the machine's limit:

  python tests/benchmark/compare.py --data_dir=MNIST-data [--tf1_python=PYTHON]
      [--tf2_python=PYTHON] [--tf216_python=PYTHON] [--torch_python=PYTHON]
      [--jax_python=PYTHON] [--rounds=5] [--steps=250]

PYTHON are the interpreters of environments with TensorFlow 1.15, with 2 up to
2.15, with 2.16 or later (where the tutorial's program has no Estimator), with
PyTorch, and with JAX, flax and optax. The programs run in turn, for several
rounds, each in a process of its own. A rate is that from the first step in the
program's log to the last. A ratio is the median of the ratios within the
rounds; a range is that of all rounds. The limit is the speed of the fastest
product of two large matrices in TensorFlow 2, in the program's precision,
measured in each round.

This repeats one of README's recipes in float32, in bfloat16 and with PyTorch,
in turn, and shows the accuracy:

  python tests/benchmark/compare.py --data_dir=MNIST-data --tf2_python=PYTHON
      --accuracy=97.3 [--torch_python=PYTHON] [--runs=10]

This measures the curve of accuracy over time: of cnn_mnist.py with the flags
after "--" or, if there are none, of the tutorial's own program. The time
includes saving the checkpoints, but not testing them. The plot's legend has the
names of the directories. Both commands need cnn_mnist.py's requirements, and
the plot needs matplotlib too.

  python tests/benchmark/compare.py --data_dir=MNIST-data --tf2_python=PYTHON
      --measure_curve=DIR -- --train_steps=400 --save_checkpoints_steps=20
  python tests/benchmark/compare.py --plot=FILE.png DIR [DIR ...]

This tries batches of 10 to 1,000 images, and 1, 4 and 10 times MNIST's images:

  python tests/benchmark/compare.py --data_dir=MNIST-data --scaling
"""
import argparse
import collections
import glob
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
ROOT = os.path.dirname(TESTS)
OURS = os.path.join(ROOT, "cnn_mnist.py")
TUTORIAL, PYTORCH, FLAX, MATMUL = [os.path.join(HERE, name) for name in (
    "tutorial.py", "pytorch_mnist.py", "flax_mnist.py", "matmul.py")]
PEERS = {"tf1": "tensorflow", "tf2": "tensorflow", "tf216": "tensorflow",
         "torch": "torch", "jax": "jax"}
BFLOAT16_FLAGS = {"float32": [], "bfloat16": ["--bfloat16"]}
RECIPES = {  # README's. Each stage continues where the one before it ended.
    "97.3": ["--batch_size=64 --learning_rate=0.25 --train_steps=500"],
    "99.2": ["--learning_rate=0.2 --train_steps=4000",
             "--learning_rate=0.02 --train_steps=5000"],
}

# Seconds to the first step, steps/s and peak MB: of a run, or of all rounds.
Figures = collections.namedtuple("Figures", "start rate peak")


# ---- Programs ----------------------------------------------------------------

def command_of(program, python, data_dir, *flags):
  """The command that runs a program; two of them save checkpoints."""
  if program in (OURS, TUTORIAL):
    flags = ("--model_dir=model",) + flags
  return [python, program, "--data_dir=" + data_dir] + list(flags)


def list_programs(options):
  """Returns {name: (precision, command)} of what there are interpreters for."""
  programs = {}

  def add(name, precision, program, python, *flags):
    programs[name] = precision, command_of(
        program, python, options.data_dir, "--train_steps=%d" % options.steps,
        *flags)

  for version, python in (("1", options.tf1_python), ("2", options.tf2_python),
                          ("2.16", options.tf216_python)):
    if python and version != "2.16":
      add("tutorial, TensorFlow " + version, "float32", TUTORIAL, python)
    if python:
      add("cnn_mnist.py, TensorFlow " + version, "float32", OURS, python)
    if python and version != "1" and "bfloat16" in precisions():
      add("cnn_mnist.py --bfloat16, TensorFlow " + version, "bfloat16", OURS,
          python, "--bfloat16")
  if options.torch_python:
    for precision in precisions():
      # NCHW and torch.compile are slower on each machine that was tried.
      add("PyTorch, channels last, " + precision, precision, PYTORCH,
          options.torch_python, "--channels_last", *BFLOAT16_FLAGS[precision])
  if options.jax_python:
    for precision in precisions():
      add("JAX, flax, " + precision, precision, FLAX, options.jax_python,
          "--dtype=" + precision)
  return programs


def run(command, folder):
  """Runs a program in a folder.

  Returns its log as a list of (time, line), the first of which has the time of
  the start, and its peak memory in MB.
  """
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


def measure(command, steps):
  """Runs a training; returns its Figures."""
  with tempfile.TemporaryDirectory() as folder:
    log, peak = run(command, folder)
  first, _ = find(log, r"loss = .*step = [01]\b")
  last, _ = find(log, "Saving checkpoints for %d " % steps)
  return Figures(first - log[0][0], (steps - 1) / (last - first), peak)


def cpuinfo():
  """All that Linux says about the CPU."""
  with open("/proc/cpuinfo") as f:
    return f.read()


def precisions():
  """The precisions in which this CPU is fast; bfloat16 is slow on some."""
  is_fast = re.search("(?s)amx_bf16|AuthenticAMD.*avx512_bf16", cpuinfo())
  return ["float32", "bfloat16"] if is_fast else ["float32"]


def measure_limits(python):
  """Returns {precision: GFLOP/s of the fastest product in TensorFlow 2}."""
  lines = subprocess.check_output(
      [python, MATMUL] + precisions(), stderr=subprocess.DEVNULL,
      universal_newlines=True).splitlines()
  return {precision: float(limit) for precision, limit in map(str.split, lines)}


def gflop_per_step():
  """Returns the billions of operations in a step of 100 images.

  A multiplication and an addition count as two. Each layer has three products
  of the same size: its output, the gradient by its weights, and the gradient by
  its input, which the first layer doesn't need.
  """
  conv1, *others = [28 * 28 * 32 * 5 * 5 * 1,  # output x inputs to each
                    14 * 14 * 64 * 5 * 5 * 32,
                    1024 * 7 * 7 * 64,
                    10 * 1024]
  return 100 * 2 * (2 * conv1 + 3 * sum(others)) / 1e9


# ---- The comparison ----------------------------------------------------------

def compare_programs(options):
  """Runs the programs in turn, and prints their table."""
  programs = list_programs(options)
  runs = {name: [] for name in programs}
  limits = {precision: [] for precision in precisions()}
  python = options.tf2_python or options.tf216_python
  for _ in range(options.rounds):
    if python:
      for precision, limit in measure_limits(python).items():
        limits[precision].append(limit)
    for name, (_, command) in programs.items():
      runs[name].append(measure(command, options.steps))
  print("A step of 100 images: %.1f GFLOP" % gflop_per_step())
  for precision, limit in limits.items():
    if limit:
      print("Limit in %s: %s GFLOP/s" % (precision, spread("%.0f", limit)))
  figures = {name: Figures(*zip(*runs[name])) for name in programs}
  print_programs(programs, figures, limits)


def print_programs(programs, figures, limits):
  """Prints the table of programs.

  Args:
    programs: {name: (precision, command)}.
    figures: {name: Figures of tuples}, which have an item for each round.
    limits: {precision: list of GFLOP/s} with an item for each round, or empty.
  """
  print("\n| program | steps/s | of the tutorial's on TensorFlow 1 | of the "
        "limit | to the first step | peak memory |\n"
        "| --- | --- | --- | --- | --- | --- |")
  reference = figures.get("tutorial, TensorFlow 1")
  for name, (precision, _) in programs.items():
    start, rate, peak = figures[name]
    limit = [limit / gflop_per_step() for limit in limits[precision]]
    print("| %s | %s | %s | %s | %.1f s | %d MB |" % (
        name, spread("%.1f", rate),
        spread("%.2f", ratios(rate, reference.rate)) if reference else "",
        spread("%.2f", ratios(rate, limit)) if limit else "",
        statistics.median(start), statistics.median(peak)))
  print()


def ratios(values, others):
  """The ratio of each round."""
  return [value / other for value, other in zip(values, others)]


def spread(form, values):
  """Median, least and most, for a table."""
  return "%s (%s-%s)" % tuple(
      form % value for value in (
          statistics.median(values), min(values), max(values)))


# ---- The accuracy ------------------------------------------------------------

def repeat_recipe(options):
  """Prints the table of a recipe's accuracies and times."""
  stages = options.recipe_flags or RECIPES[options.accuracy]
  programs = list_recipe_programs(options, stages)
  results = {name: [] for name in programs}
  for _ in range(options.runs):
    for name, commands in programs.items():
      with tempfile.TemporaryDirectory() as folder:
        logs = [run(command, folder)[0] for command in commands]
      end, match = find(logs[-1], r"^\{'accuracy': ([\d.]+)")
      results[name].append((float(match.group(1)), end - logs[0][0][0]))
  print("%s\n\n| program | runs | least accuracy | median accuracy | median "
        "time |\n| --- | --- | --- | --- | --- |" % "; then ".join(stages))
  for name, values in results.items():
    accuracies, times = zip(*values)
    print("| %s | %d | %.4f | %.4f | %.1f s |" % (
        name, len(values), min(accuracies), statistics.median(accuracies),
        statistics.median(times)))


def list_recipe_programs(options, stages):
  """Returns {name: commands}; each command continues the one before."""
  programs = {}
  for precision in precisions():
    programs["cnn_mnist.py, " + precision] = [
        command_of(OURS, options.tf2_python or options.tf216_python,
                   options.data_dir,
                   *(stage.split() + BFLOAT16_FLAGS[precision]))
        for stage in stages]
  if options.torch_python and len(stages) == 1:
    flags = re.findall(r"--(?:train_steps|learning_rate|batch_size)=\S+",
                       stages[0])  # PyTorch's program has no other flags.
    # The faster layout, as in the comparison
    programs["PyTorch, channels last, " + precision] = [command_of(
        PYTORCH, options.torch_python, options.data_dir, "--channels_last",
        *(flags + BFLOAT16_FLAGS[precision]))]
  return programs


# ---- The curve ---------------------------------------------------------------

def measure_curve(options):
  """Trains, keeps all checkpoints, tests them, and writes DIR/curve.

  That directory has an event file of "test_accuracy". Its first time is that at
  which the process was started; the others are those of complete checkpoints.
  """
  folder = os.path.abspath(options.measure_curve)
  python = options.tf2_python or options.tf216_python or options.tf1_python
  command = command_of(
      OURS if options.arguments else TUTORIAL, python, options.data_dir,
      *(options.arguments or ["--save_checkpoints_steps=1000"]))
  start = train_and_keep(command, folder)

  import tensorflow.compat.v1 as tf  # pylint: disable=g-import-not-at-top
  events = [tf.Event(wall_time=start, file_version="brain.Event:2")]
  for when, step, accuracy in evaluate_checkpoints(folder, options.data_dir):
    print("Step %d, after %.1f s: %.4f" % (step, when - start, accuracy),
          flush=True)
    value = tf.Summary.Value(tag="test_accuracy", simple_value=accuracy)
    events.append(tf.Event(wall_time=when, step=step,
                           summary=tf.Summary(value=[value])))
  os.makedirs(os.path.join(folder, "curve"))
  with tf.io.TFRecordWriter(
      os.path.join(folder, "curve", "events.out.tfevents.%d" % start)) as f:
    for event in events:
      f.write(event.SerializeToString())


def train_and_keep(command, folder):
  """Trains in a new folder and keeps all checkpoints; returns the start."""
  os.makedirs(os.path.join(folder, "checkpoints"))
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
  return start


def evaluate_checkpoints(folder, data_dir):
  """Yields time, step and accuracy of each checkpoint that was kept."""
  import cnn_mnist  # pylint: disable=g-import-not-at-top
  tf, np = cnn_mnist.tf, cnn_mnist.np
  warnings.filterwarnings("ignore", "`tf.layers")  # Keras's deprecations
  _, (data, labels) = cnn_mnist.load_mnist(data_dir)
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.placeholder(tf.float32, [None, 784])
    classes = cnn_mnist.cnn_model_fn(
        {"x": x}, None, tf.estimator.ModeKeys.PREDICT).predictions["classes"]
    saver = tf.train.Saver()
    for path in glob.glob(os.path.join(folder, "model", "events.*")):
      for event in tf.train.summary_iterator(path):
        if event.session_log.status == tf.SessionLog.CHECKPOINT:
          saver.restore(session, os.path.join(
              folder, "checkpoints", "model.ckpt-%d" % event.step))
          found = [session.run(classes, {x: data[i:i + 100]})
                   for i in range(0, len(data), 100)]
          yield (event.wall_time, event.step,
                 np.mean(np.concatenate(found) == labels))


def plot(options):
  """Draws the curves of the directories."""
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
  axes.set_yscale("logit")  # Spreads what is near 100 %.
  ticks = [0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.973, 0.99]
  axes.set_yticks(ticks)
  axes.set_yticklabels(["%g %%" % (100 * tick) for tick in ticks])
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.set_ylabel("accuracy on the test images")
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right")
  picture.savefig(options.plot, dpi=120)


def scale_batches(options):
  """Prints the table of batch sizes."""
  print("| batch | steps/s | images/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  for batch in (10, 30, 100, 300, 1000):
    steps = max(20, min(options.steps, 10000 // batch))
    _, rate, peak = measure(command_of(
        OURS, sys.executable, options.data_dir, "--train_steps=%d" % steps,
        "--batch_size=%d" % batch), steps)
    print("| %d | %.1f | %.0f | %d MB |" % (batch, rate, batch * rate, peak))


def scale_data(options):
  """Prints the table of data set sizes; MNIST's images are repeated."""
  import cnn_mnist  # pylint: disable=g-import-not-at-top
  import handwritten_digits  # pylint: disable=g-import-not-at-top
  import numpy as np  # pylint: disable=g-import-not-at-top
  print("\n| images | to the first step | steps/s | peak memory |\n"
        "| --- | --- | --- | --- |")
  paths = [cnn_mnist.find_or_download(name, options.data_dir)
           for name in cnn_mnist.SHA256]
  with tempfile.TemporaryDirectory() as folder:
    copies = [os.path.join(folder, name) for name in cnn_mnist.SHA256]
    for path, copy in zip(paths[2:], copies[2:]):
      shutil.copy(path, copy)
    images = cnn_mnist.read_idx(paths[0], (28, 28))
    labels = cnn_mnist.read_idx(paths[1], ())
    for times in (1, 4, 10):
      for path, items in zip(copies, (images, labels)):
        handwritten_digits.write_idx(path, np.concatenate([items] * times))
      start, rate, peak = measure(command_of(
          OURS, sys.executable, folder, "--train_steps=100"), 100)
      print("| %d | %.1f s | %.1f | %d MB |" % (len(images) * times, start,
                                                rate, peak))


def interpreter(name):
  """The absolute path of an interpreter."""
  return os.path.abspath(shutil.which(name) or name)


def parse_flags():
  """Returns the flags; exits with an error and code 2 if one is missing."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add("--data_dir", type=os.path.abspath)
  for name in PEERS:
    add("--%s_python" % name, type=interpreter)
  add("--rounds", type=int, default=5)
  add("--steps", type=int, default=250)
  add("--accuracy", choices=sorted(RECIPES))
  add("--recipe_flags", action="append",
      help="flags instead of the recipe's; once for each stage")
  add("--runs", type=int, default=10)
  add("--measure_curve", metavar="DIR")
  add("--plot", metavar="FILE")
  add("--scaling", action="store_true")
  add("arguments", nargs="*", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if not options.plot and not options.data_dir:
    parser.error("--data_dir is missing")
  if options.accuracy and not (options.tf2_python or options.tf216_python):
    parser.error("--accuracy needs --tf2_python or --tf216_python")
  return options


def print_machine(options):
  """Prints the CPU, and the version of each program's framework and Python."""
  print("%s, %d cores" % (
      re.search(r"model name\s*: (.*)", cpuinfo()).group(1), os.cpu_count()))
  for name, module in PEERS.items():
    python = getattr(options, name + "_python")
    if python:
      print(subprocess.check_output(
          [python, "-c", "import platform, %s as m; print(m.__name__, m."
           "__version__, 'on Python', platform.python_version())" % module],
          stderr=subprocess.DEVNULL, universal_newlines=True).strip())


def main():
  """Prints the machine, and does what the flags ask for."""
  options = parse_flags()
  sys.path[:0] = [ROOT, TESTS]  # For cnn_mnist and handwritten_digits
  if options.plot:
    plot(options)
    return
  print_machine(options)
  if options.measure_curve:
    measure_curve(options)
  elif options.accuracy:
    repeat_recipe(options)
  elif options.scaling:
    scale_batches(options)
    scale_data(options)
  else:
    print("%d rounds of %d steps" % (options.rounds, options.steps))
    compare_programs(options)


if __name__ == "__main__":
  main()
