"""The loader: values, every fault of a file, and the download."""
import gzip
import hashlib
import http.server
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from conftest import ROOT, UNPRIVILEGED
import handwritten_digits

NAMES = list(cnn_mnist.SHA256)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def unpack(directory, name):
  """Returns the content of a .gz file of a directory, unpacked."""
  with gzip.open(os.path.join(directory, name)) as f:
    return f.read()


def test_handwritten_digits(digits_dir):
  images, labels = handwritten_digits.load_digits()
  assert images.shape == (1797, 28, 28) and labels.shape == (1797,)
  # Each is in a box of 20x20, with its centre of mass in the middle.
  for image in images:
    rows, columns = np.where(image)
    assert np.ptp(rows) < 20 and np.ptp(columns) < 20
    for index in np.indices(image.shape):
      assert abs(np.average(index, weights=image) - 14) < 0.51
  (train, train_labels), (test, test_labels) = cnn_mnist.load_mnist(digits_dir)
  assert train.shape == (1437 - 119, 784) and test.shape == (360, 784)
  assert train.dtype == test.dtype == np.float32
  assert train_labels.dtype == test_labels.dtype == np.int32
  np.testing.assert_array_equal(
      train, images[119:1437].reshape(-1, 784) * np.float32(1 / 255))
  np.testing.assert_array_equal(train_labels, labels[119:1437])
  np.testing.assert_array_equal(test_labels, labels[1437:])
  assert train.min() == 0 and train.max() == 1


def test_handwritten_digits_as_pictures(digits_dir, tmp_path):
  """The quick start's command, and what --predict reads of its pictures."""
  subprocess.check_call([
      sys.executable, handwritten_digits.__file__, str(tmp_path)])
  pictures = ["%d.png" % digit for digit in range(10)]
  assert sorted(os.listdir(str(tmp_path))) == sorted(pictures + NAMES)
  for name in NAMES:
    assert unpack(str(tmp_path), name) == unpack(digits_dir, name)
  read = np.stack([cnn_mnist.read_picture(str(tmp_path / name))
                   for name in pictures])
  _, (images, labels) = cnn_mnist.load_mnist(digits_dir)
  firsts = np.stack([images[labels == digit][0].reshape(28, 28)
                     for digit in range(10)])
  distances = np.abs(read[:, None] - firsts).mean(axis=(2, 3))
  assert distances.argmin(axis=1).tolist() == list(range(10))


def test_real_mnist(mnist_dir):
  (train, train_labels), (test, test_labels) = cnn_mnist.load_mnist(mnist_dir)
  assert train.shape == (55000, 784) and test.shape == (10000, 784)
  assert train.dtype == test.dtype == np.float32
  assert train_labels.dtype == test_labels.dtype == np.int32
  assert train_labels[:8].tolist() == [7, 3, 4, 6, 1, 8, 1, 0]
  assert test_labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
  assert np.bincount(test_labels).tolist() == [
      980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  # The sums of all pixels, counted from the files by hand
  assert np.rint(train * 255).sum(dtype=np.int64) == 1437128264
  assert np.rint(test * 255).sum(dtype=np.int64) == 264923200


@pytest.mark.skipif(not tf.__version__.startswith("1."),
                    reason="TensorFlow 2 has no tf.contrib to compare with")
def test_bit_identical_to_the_tutorials_loader(mnist_dir, tmp_path):
  """In a process of its own: it imports tf.contrib."""
  shutil.copytree(mnist_dir, str(tmp_path / "MNIST-data"))
  code = """if True:
    import numpy as np, tensorflow as tf, cnn_mnist
    mnist = tf.contrib.learn.datasets.load_dataset("mnist")
    (x, y), (test_x, test_y) = cnn_mnist.load_mnist("MNIST-data")
    for ours, theirs in (
        (x, mnist.train.images), (test_x, mnist.test.images),
        (y, np.asarray(mnist.train.labels, dtype=np.int32)),
        (test_y, np.asarray(mnist.test.labels, dtype=np.int32))):
      assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
      assert ours.tobytes() == theirs.tobytes()
    print("identical")"""
  output = subprocess.check_output(
      [sys.executable, "-c", code], cwd=str(tmp_path),
      env=dict(os.environ, PYTHONPATH=ROOT), stderr=subprocess.DEVNULL)
  assert output.split()[-1] == b"identical"


@pytest.fixture
def data_dir(digits_dir, tmp_path):
  """A copy of the digits to spoil."""
  directory = str(tmp_path / "data")
  shutil.copytree(digits_dir, directory)
  return directory


def check_equal(found, expected):
  """Checks that two results of load_mnist are the same."""
  for arrays, others in zip(found, expected):
    for array, other in zip(arrays, others):
      np.testing.assert_array_equal(array, other)


def test_unpacked_files(digits_dir, data_dir):
  expected = cnn_mnist.load_mnist(digits_dir)
  for name in NAMES:
    with open(os.path.join(data_dir, name[:-3]), "wb") as f:
      f.write(unpack(digits_dir, name))
    os.remove(os.path.join(data_dir, name))
  check_equal(cnn_mnist.load_mnist(data_dir), expected)


@pytest.mark.parametrize("count,left", [(1, 1), (11, 11), (12, 11), (60, 55)])
def test_a_twelfth_is_held_out(data_dir, count, left):
  images, labels = handwritten_digits.load_digits()
  handwritten_digits.write_idx(os.path.join(data_dir, TRAIN_IMAGES),
                               images[:count])
  handwritten_digits.write_idx(os.path.join(data_dir, TRAIN_LABELS),
                               labels[:count])
  (train, train_labels), _ = cnn_mnist.load_mnist(data_dir)
  assert train.shape == (left, 784)
  np.testing.assert_array_equal(train_labels, labels[count - left:count])


def idx(magic, shape, size):
  """An IDX file with any header before size bytes of zeros."""
  return struct.pack(">I%dI" % len(shape), magic, *shape) + bytes(size)


# What is written as which unpacked file, and what the message says of it.
FAULTS = {
    "text": (TEST_LABELS, b"garbage", "is damaged, or no IDX file"),
    "empty": (TRAIN_IMAGES, b"", "its header is"),
    "header cut": (TEST_IMAGES, idx(2051, (2, 28), 0), "its header is"),
    "wrong magic": (TRAIN_LABELS, idx(2051, (9,), 9), "2049"),
    "labels as images": (TRAIN_IMAGES, idx(2049, (1437,), 1437), "2051"),
    "signed bytes": (TRAIN_LABELS, idx(0x901, (9,), 9), "2049"),
    "not 28x28": (TEST_IMAGES, idx(2051, (360, 20, 20), 360 * 400), "28, 28"),
    "data cut": (TEST_IMAGES, idx(2051, (360, 28, 28), 360 * 784 - 1),
                 "needs [2051, 359, 28, 28]"),
    "data left": (TEST_IMAGES, idx(2051, (360, 28, 28), 360 * 784 + 1),
                  "its length needs"),
    "2^32 promised": (TRAIN_IMAGES, idx(2051, (2**32 - 1, 28, 28), 784),
                      "needs [2051, 1, 28, 28]"),
    "no example": (TEST_LABELS, idx(2049, (0,), 0), "[2049, 0]"),
    "other count": (TEST_LABELS, idx(2049, (359,), 359), "359 labels"),
    "label above 9": (TEST_LABELS, idx(2049, (360,), 359) + b"\x0a",
                      "label above 9: 10"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faulty_file(data_dir, fault, packed):
  name, content, message = FAULTS[fault]
  os.remove(os.path.join(data_dir, name))
  path = os.path.join(data_dir, name if packed else name[:-3])
  with open(path, "wb") as f:
    f.write(gzip.compress(content) if packed else content)
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(data_dir)
  assert path in str(error.value) and message in str(error.value)
  assert "\n" not in str(error.value)


def test_content_decides_not_the_name(digits_dir, data_dir):
  """Unpacked under a packed name, as browsers leave it, and the reverse."""
  expected = cnn_mnist.load_mnist(digits_dir)
  with open(os.path.join(data_dir, TRAIN_LABELS), "wb") as f:
    f.write(unpack(digits_dir, TRAIN_LABELS))
  os.rename(os.path.join(data_dir, TEST_IMAGES),
            os.path.join(data_dir, TEST_IMAGES[:-3]))
  check_equal(cnn_mnist.load_mnist(data_dir), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_at_any_byte(data_dir, packed):
  path = os.path.join(data_dir, TEST_LABELS)
  content = unpack(data_dir, TEST_LABELS)
  if packed:
    with open(path, "rb") as f:
      content = f.read()
  else:
    os.remove(path)
    path = path[:-3]
  for length in range(len(content)):
    with open(path, "wb") as f:
      f.write(content[:length])
    with pytest.raises(cnn_mnist.UserError) as error:
      cnn_mnist.read_idx(path, ())
    assert path in str(error.value)


def test_directory_in_its_place(data_dir):
  path = os.path.join(data_dir, TEST_LABELS)
  os.remove(path)
  os.mkdir(path)
  with pytest.raises(cnn_mnist.UserError, match="[Dd]irectory") as error:
    cnn_mnist.load_mnist(data_dir)
  assert path in str(error.value)


def test_unreadable_file_and_read_only_directory(data_dir):
  path = os.path.join(data_dir, TEST_LABELS)
  code = """if True:
    import os, sys, cnn_mnist
    data_dir, path = sys.argv[1:]
    def load(directory):
      try: print(cnn_mnist.load_mnist(directory)[1][0].shape)
      except (cnn_mnist.UserError, OSError) as e: print(e)
    os.chmod(data_dir, 0o555)
    load(data_dir)
    os.chmod(path, 0)
    load(data_dir)
    # It can't be made, nor can a download be put into it.
    load(os.path.join(data_dir, "new"))
    os.chmod(data_dir, 0o755)
    for name in os.listdir(data_dir):
      os.remove(os.path.join(data_dir, name))
    os.chmod(data_dir, 0o555)
    load(data_dir)"""
  loaded, *errors = subprocess.check_output(
      UNPRIVILEGED + [sys.executable, "-c", code, data_dir, path],
      env=dict(os.environ, PYTHONPATH=ROOT),
      universal_newlines=True).splitlines()
  assert loaded == "(360, 784)" and len(errors) == 3
  for error, place in zip(errors, (path, os.path.join(data_dir, "new"),
                                   data_dir)):
    assert place in error
  assert all("Permission denied" in error for error in errors[:2])


@pytest.mark.parametrize("count", [
    1200, pytest.param(12000, marks=pytest.mark.slow)])
def test_fuzz(tmp_path, count):
  """Mutated files: an array that is right, or UserError."""
  images = handwritten_digits.load_digits()[0][:6]
  header = 16
  packed_path, path = str(tmp_path / "f.gz"), str(tmp_path / "f")
  handwritten_digits.write_idx(packed_path, images)
  with open(packed_path, "rb") as f:
    packed = f.read()
  seeds = {packed_path: packed, path: gzip.decompress(packed)}
  rng = random.Random(0)
  outcomes = {"array": 0, "error": 0}
  tracemalloc.start()
  for _ in range(count):
    target = rng.choice([path, packed_path])
    data = bytearray(seeds[target])
    for _ in range(rng.choice([1, 1, 2, 10])):
      # Half of the mutations hit a header, either one's.
      at = rng.randrange(rng.choice([header + 8, len(data) + 1]))
      # Some bytes, or all the rest, become none, others, or the largest.
      end = rng.choice([at, at + rng.randrange(1, 9), len(data)])
      data[at:end] = rng.choice([
          b"", b"\xff\xff\xff\xff",
          bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))])
    with open(target, "wb") as f:
      f.write(data)
    try:
      array = cnn_mnist.read_idx(target, (28, 28))
    except cnn_mnist.UserError as e:
      assert target in str(e)
      outcomes["error"] += 1
    else:
      assert array.dtype == np.uint8 and array.shape[1:] == (28, 28)
      content = bytes(data)
      if target == packed_path:
        content = gzip.decompress(content)
      assert array.tobytes() == content[header:]
      outcomes["array"] += 1
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  print("fuzz:", outcomes, "peak memory: %d bytes" % peak)
  assert min(outcomes.values()) > count / 120  # Both were really tried.
  assert peak < 10 << 20


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves server.directory in the ways that the first part of a path names."""

  def do_GET(self):  # pylint: disable=invalid-name
    self.server.requests.append(self.path)
    _, way, name = self.path.split("/")
    if way == "redirect":
      self.send_response(302)
      self.send_header("Location", "/good/" + name)
      self.end_headers()
      return
    if way in ("404", "500") or (
        way == "500-once" and self.server.requests.count(self.path) == 1):
      self.send_error(int(way[:3]))
      return
    with open(os.path.join(self.server.directory, name), "rb") as f:
      content = f.read()
    self.send_response(200)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if way == "wrong":
      content = bytes(len(content))
    elif way == "short":
      content = content[:-1]
    elif way == "stalled":
      self.wfile.write(content[:10])
      self.server.stop.wait()
      return
    self.wfile.write(content)

  def log_message(self, *args):  # pylint: disable=arguments-differ
    pass


@pytest.fixture
def server(digits_dir, monkeypatch):
  """A server on loopback of the digits; the script expects their SHA-256."""
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
    s.daemon_threads = True
    s.directory, s.requests, s.stop = digits_dir, [], threading.Event()
    threading.Thread(target=s.serve_forever).start()
    for name in NAMES:
      with open(os.path.join(digits_dir, name), "rb") as f:
        monkeypatch.setitem(cnn_mnist.SHA256, name,
                            hashlib.sha256(f.read()).hexdigest()[:40])

    def set_mirrors(*ways):
      monkeypatch.setattr(cnn_mnist, "MIRRORS", [
          way if "://" in way else "http://127.0.0.1:%d/%s/" % (
              s.server_port, way) for way in ways])
    s.set_mirrors = set_mirrors
    yield s
    s.stop.set()
    s.shutdown()


def check_complete(directory, digits_dir):
  """Checks that directory has the four files, right ones, and nothing else."""
  assert sorted(os.listdir(directory)) == sorted(NAMES)
  for name in NAMES:
    assert unpack(directory, name) == unpack(digits_dir, name)


def closed_port():
  """A port of loopback at which nothing listens."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@pytest.mark.parametrize("first", [
    "good", "redirect", "404", "500", "500-once", "wrong", "short", "stalled",
    "refused", "no DNS"])
def test_download(server, digits_dir, tmp_path, monkeypatch, first):
  monkeypatch.setattr(cnn_mnist, "STALL_SECS", 0.5)
  first = {"refused": "http://127.0.0.1:%d/" % closed_port(),
           "no DNS": "http://no-such-host.invalid/"}.get(first, first)
  server.set_mirrors(first, "good")
  directory = str(tmp_path / "new" / "data")
  start = time.time()
  cnn_mnist.load_mnist(directory)
  assert time.time() - start < 30
  check_complete(directory, digits_dir)
  served = [path.split("/")[1] for path in server.requests]
  if first in ("good", "redirect"):
    assert served.count(first) == 4
  elif first == "500-once":
    assert served.count("good") == 4
  elif first in ("404", "500", "wrong", "short", "stalled"):
    assert served.count(first) == 4 and served.count("good") == 4
  # All is there: no request is made any more.
  del server.requests[:]
  cnn_mnist.load_mnist(directory)
  assert not server.requests


@pytest.mark.parametrize("ways", [
    ("404", "500"), ("wrong", "short"), ("stalled", "404")])
def test_both_mirrors_fail(server, tmp_path, monkeypatch, tensorflow_log, ways):
  """The log has the reasons, the error what to do, and no file is left."""
  monkeypatch.setattr(cnn_mnist, "STALL_SECS", 0.5)
  server.set_mirrors(*ways)
  directory = str(tmp_path / "data")
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(directory)
  message = str(error.value)
  for word in (TRAIN_IMAGES, directory, "put MNIST's four files there", "\n"):
    assert (word in message) == (word != "\n"), message
  reasons = {"404": "404", "500": "500", "wrong": "not MNIST's file",
             "short": "IncompleteRead", "stalled": "timed out"}
  for way in ways:
    assert "/%s/%s: " % (way, TRAIN_IMAGES) in tensorflow_log.getvalue()
    assert reasons[way] in tensorflow_log.getvalue()
  assert not os.listdir(directory)


def test_download_of_what_is_missing(server, data_dir, digits_dir):
  server.set_mirrors("good")
  os.remove(os.path.join(data_dir, TEST_IMAGES))
  cnn_mnist.load_mnist(data_dir)
  assert server.requests == ["/good/" + TEST_IMAGES]
  check_complete(data_dir, digits_dir)


def test_no_mixture_of_data_sets(server, data_dir):
  """Beside files that aren't MNIST's, none of MNIST's is put."""
  server.set_mirrors("good")
  os.remove(os.path.join(data_dir, TEST_IMAGES))
  other = os.path.join(data_dir, TEST_LABELS)
  handwritten_digits.write_idx(other, np.zeros(360, np.uint8))
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(data_dir)
  assert other in str(error.value) and TEST_IMAGES in str(error.value)
  assert not server.requests


@pytest.mark.parametrize("name", [
    "emnist-letters-train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"])
def test_other_publishers_names(server, data_dir, name):
  """MNIST is not downloaded beside them, to be trained on unnoticed."""
  server.set_mirrors("good")
  os.rename(os.path.join(data_dir, TRAIN_IMAGES), os.path.join(data_dir, name))
  for other in NAMES[1:]:
    os.remove(os.path.join(data_dir, other))
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(data_dir)
  assert os.path.join(data_dir, name) in str(error.value)
  for wanted in NAMES:
    assert wanted in str(error.value)
  assert not server.requests and os.listdir(data_dir) == [name]


def load_process(server, directory, way):
  """Starts a process that downloads into directory, up to its first request."""
  process = subprocess.Popen(
      [sys.executable, "-c",
       "import cnn_mnist; cnn_mnist.SHA256.update(%r); "
       "cnn_mnist.MIRRORS = ['http://127.0.0.1:%d/%s/']; "
       "cnn_mnist.load_mnist(%r)" % (
           cnn_mnist.SHA256, server.server_port, way, directory)],
      env=dict(os.environ, PYTHONPATH=ROOT))
  while not server.requests:
    assert process.poll() is None
    time.sleep(0.01)
  return process


def test_two_runs_download_at_once(server, digits_dir, tmp_path):
  directory = str(tmp_path / "data")
  server.set_mirrors("good")
  process = load_process(server, directory, "good")
  cnn_mnist.load_mnist(directory)
  assert process.wait(120) == 0
  check_complete(directory, digits_dir)


def test_killed_download(server, digits_dir, tmp_path):
  """What it leaves is not under a final name, and the next run resumes."""
  directory = str(tmp_path / "data")
  process = load_process(server, directory, "stalled")
  time.sleep(0.5)
  process.kill()
  process.wait()
  assert not set(os.listdir(directory)) & set(NAMES)
  server.set_mirrors("good")
  cnn_mnist.load_mnist(directory)
  for name in NAMES:
    assert unpack(directory, name) == unpack(digits_dir, name)
