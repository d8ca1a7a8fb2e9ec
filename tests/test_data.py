# SPDX-License-Identifier: Apache-2.0
"""The data: the loader's values, every fault of a file, and the download."""
import concurrent.futures
import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from handwritten_digits import load_digits, write_idx, write_split
from running import (
    ROOT, UNPRIVILEGED, copy_of, file_hashes, free_addresses, run_code,
    run_here, run_process)

NAMES = list(cnn_mnist.SHA256)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


# ---- What is loaded ----------------------------------------------------------

def test_real_mnist(mnist_dir):
  (train, train_labels), (test, test_labels) = cnn_mnist.load_mnist(mnist_dir)
  assert train.shape == (55000, 784) and test.shape == (10000, 784)
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
  code = """if True:
    import sys, numpy as np, tensorflow as tf, cnn_mnist
    mnist = tf.contrib.learn.datasets.mnist.load_mnist(sys.argv[1])
    (x, y), (test_x, test_y) = cnn_mnist.load_mnist(sys.argv[1])
    for ours, theirs in (
        (x, mnist.train.images), (test_x, mnist.test.images),
        (y, np.asarray(mnist.train.labels, dtype=np.int32)),
        (test_y, np.asarray(mnist.test.labels, dtype=np.int32))):
      assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
      assert ours.tobytes() == theirs.tobytes()
    print("identical")"""
  directory = copy_of(mnist_dir, tmp_path / "data")
  assert run_code(sys.executable, code, directory).split()[-1] == "identical"


def test_handwritten_digits(digits_dir):
  images, labels = load_digits()
  assert images.shape == (1797, 28, 28) and labels.shape == (1797,)
  for image in images:  # The centre of mass is in the middle.
    for index in np.indices(image.shape):
      assert abs(np.average(index, weights=image) - 14) < 0.51
  parts = slice(119, 1437), slice(1437, None)
  for part, (data, found) in zip(parts, cnn_mnist.load_mnist(digits_dir)):
    assert data.dtype == np.float32 and found.dtype == np.int32
    assert data.min() == 0 and data.max() == 1
    np.testing.assert_array_equal(
        data, images[part].reshape(-1, 784) * np.float32(1 / 255))
    np.testing.assert_array_equal(found, labels[part])


def test_handwritten_digits_as_pictures(digits_dir, tmp_path):
  """The quick start's command, and what --predict reads of its pictures."""
  said = subprocess.check_output([
      sys.executable, ROOT / "tests" / "handwritten_digits.py", tmp_path],
                                 universal_newlines=True)
  for words in ["1437 images", "360 images", f"{tmp_path}/0.png", *NAMES]:
    assert words in said
  pictures = [f"{digit}.png" for digit in range(10)]
  assert sorted(os.listdir(tmp_path)) == sorted(pictures + NAMES)
  assert file_hashes(digits_dir).items() <= file_hashes(tmp_path).items()
  read = np.stack([cnn_mnist.read_picture(tmp_path / name)
                   for name in pictures])
  _, (images, labels) = cnn_mnist.load_mnist(digits_dir)
  firsts = np.stack([images[labels == digit][0].reshape(28, 28)
                     for digit in range(10)])
  distances = np.abs(read[:, None] - firsts).mean(axis=(2, 3))
  assert distances.argmin(axis=1).tolist() == list(range(10))


@pytest.fixture
def data_dir(digits_dir, tmp_path):
  """A copy of the digits to spoil."""
  return copy_of(digits_dir, tmp_path / "data")


@pytest.mark.parametrize("count,left", [(1, 1), (11, 11), (12, 11), (60, 55)])
def test_a_twelfth_is_held_out(data_dir, count, left):
  images, labels = load_digits()
  write_split(data_dir, "train", images[:count], labels[:count])
  (train, train_labels), _ = cnn_mnist.load_mnist(data_dir)
  assert train.shape == (left, 784)
  np.testing.assert_array_equal(train_labels, labels[count - left:count])


@pytest.mark.parametrize("packed_name,packed", [
    (False, False), (True, False), (False, True)])
def test_content_decides_not_the_name(digits_dir, data_dir, packed_name,
                                      packed):
  """Unpacked under a packed name, as browsers leave it, and the reverse."""
  expected = cnn_mnist.load_mnist(digits_dir)
  for name in NAMES:
    content = (data_dir / name).read_bytes()
    (data_dir / name).unlink()
    (data_dir / (name if packed_name else name[:-3])).write_bytes(
        content if packed else gzip.decompress(content))
  for arrays, others in zip(cnn_mnist.load_mnist(data_dir), expected):
    for array, other in zip(arrays, others):
      np.testing.assert_array_equal(array, other)


# ---- Faulty files ------------------------------------------------------------

def idx(magic, shape, size):
  """An IDX file with any header before size bytes of zeros."""
  return struct.pack(f">I{len(shape)}I", magic, *shape) + bytes(size)


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
  (data_dir / name).unlink()
  path = data_dir / (name if packed else name[:-3])
  path.write_bytes(gzip.compress(content) if packed else content)
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(data_dir)
  assert str(path) in str(error.value) and message in str(error.value)
  assert "\n" not in str(error.value)


def test_directory_in_its_place(flags, data_dir):
  """What the script's user sees of a faulty file, before any training."""
  path = data_dir / TEST_LABELS
  path.unlink()
  path.mkdir()
  result = run_here(dict(flags, data_dir=data_dir))
  result.check_error(path, "(Is a directory)")
  assert "At step" not in result.stderr


def test_unreadable_file(flags, data_dir):
  """In a directory that may not be written."""
  (data_dir / TEST_LABELS).chmod(0)
  data_dir.chmod(0o555)
  run_process(dict(flags, data_dir=data_dir), prefix=UNPRIVILEGED).check_error(
      data_dir / TEST_LABELS, "(Permission denied)")


@pytest.mark.parametrize("packed", [False, True])
def test_damage_at_any_byte(data_dir, packed):
  """A file that is cut off is an error; so is a changed byte, or it is read."""
  path = data_dir / TEST_LABELS
  unpack = gzip.decompress if packed else bytes
  content = path.read_bytes() if packed else gzip.decompress(path.read_bytes())
  for i in range(len(content)):
    changed = content[:i] + bytes([content[i] ^ 255]) + content[i + 1:]
    for damaged in content[:i], changed:
      path.write_bytes(damaged)
      try:
        labels = cnn_mnist.read_idx(path, ())
      except cnn_mnist.UserError as e:
        assert str(path) in str(e)
      else:
        assert damaged == changed and labels.tobytes() == unpack(changed)[8:]


# ---- The download ------------------------------------------------------------

class Handler(http.server.BaseHTTPRequestHandler):
  """Serves server.directory in the ways that the first part of a path names."""

  def do_GET(self):
    self.server.requests.append(self.path)
    _, way, name = self.path.split("/")
    if way in ("404", "500"):
      self.send_error(int(way))
      return
    content = (self.server.directory / name).read_bytes()
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

  def log_message(self, *args):
    pass


@pytest.fixture
def server(digits_dir, monkeypatch):
  """A server on loopback of the digits; the script expects their SHA-256."""
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
    s.daemon_threads = True
    s.directory, s.requests, s.stop = digits_dir, [], threading.Event()
    threading.Thread(target=s.serve_forever).start()
    for name in NAMES:
      digest = hashlib.sha256((digits_dir / name).read_bytes()).hexdigest()
      monkeypatch.setitem(cnn_mnist.SHA256, name, digest)

    def set_mirrors(*ways):
      monkeypatch.setattr(cnn_mnist, "MIRRORS", [
          way if "://" in way else f"http://127.0.0.1:{s.server_port}/{way}/"
          for way in ways])

    s.set_mirrors = set_mirrors
    yield s
    s.stop.set()
    s.shutdown()


def check_complete(directory, digits_dir):
  """Checks that directory has the four files, right ones, and nothing else."""
  assert sorted(os.listdir(directory)) == sorted(NAMES)
  assert file_hashes(directory) == file_hashes(digits_dir)


@pytest.mark.parametrize("first", [
    "good", "404", "500", "wrong", "short", "stalled", "refused", "no DNS"])
def test_download(server, digits_dir, tmp_path, monkeypatch, first):
  if first == "stalled":
    monkeypatch.setattr(cnn_mnist, "STALL_SECS", 0.5)
  first = {"refused": f"http://{free_addresses(1)[0]}/",
           "no DNS": "http://no-such-host.invalid/"}.get(first, first)
  server.set_mirrors(first, "good")
  directory = tmp_path / "new" / "data"
  cnn_mnist.load_mnist(directory)
  check_complete(directory, digits_dir)
  assert sum(path.startswith("/good/") for path in server.requests) == 4
  # All is there: no request is made any more.
  del server.requests[:]
  cnn_mnist.load_mnist(directory)
  assert not server.requests


@pytest.mark.parametrize("ways", [
    ("404", "500"), ("wrong", "short"), ("stalled", "404")])
def test_both_mirrors_fail(server, tmp_path, monkeypatch, ways):
  """The log has the reasons, the error what to do, and no file is left."""
  monkeypatch.setattr(cnn_mnist, "STALL_SECS", 0.5)
  log = []
  monkeypatch.setattr(tf.logging, "warning", lambda text, *args: (
      log.append(text % args)))
  server.set_mirrors(*ways)
  directory = tmp_path / "data"
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(directory)
  message = str(error.value)
  for word in [str(directory), "put MNIST's four files there", *NAMES]:
    assert word in message
  assert "\n" not in message
  reasons = {"404": "404", "500": "500", "wrong": "not MNIST's file",
             "short": "IncompleteRead", "stalled": "timed out"}
  for line, way in zip(log, ways):
    assert f"/{way}/{TRAIN_IMAGES}: " in line and reasons[way] in line
  assert len(log) == 2 and not directory.exists()


def test_download_of_what_is_missing(server, data_dir, digits_dir):
  server.set_mirrors("good")
  (data_dir / TEST_IMAGES).unlink()
  cnn_mnist.load_mnist(data_dir)
  assert server.requests == ["/good/" + TEST_IMAGES]
  check_complete(data_dir, digits_dir)


@pytest.mark.parametrize("name", [
    TEST_LABELS, "emnist-letters-train-images-idx3-ubyte.gz",
    "train-images.idx3-ubyte", "FashionMNIST/raw/" + TRAIN_IMAGES])
def test_no_mixture_of_data_sets(server, tmp_path, name):
  """MNIST is not downloaded beside other data, to be trained on unnoticed."""
  server.set_mirrors("good")
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  write_idx(tmp_path / name, np.zeros(360, np.uint8))
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.load_mnist(tmp_path)
  assert str(tmp_path / name) in str(error.value)
  for wanted in NAMES:
    assert wanted in str(error.value)
  assert not server.requests and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name,warns", [
    ("digits.csv", True), (".hidden.csv", False), ("notes", False),
    (TEST_LABELS, False)])
def test_warning_about_other_files(server, digits_dir, tmp_path, monkeypatch,
                                   name, warns):
  """Where none is MNIST's, they may be the data that somebody meant."""
  log = []
  monkeypatch.setattr(tf.logging, "warning", log.append)
  server.set_mirrors("good")
  (tmp_path / name).write_bytes((digits_dir / TEST_LABELS).read_bytes())
  cnn_mnist.load_mnist(tmp_path)
  assert len(log) == int(warns) and all(name in line for line in log)


def test_two_runs_download_at_once(server, digits_dir, tmp_path):
  server.set_mirrors("good")
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(cnn_mnist.load_mnist, [tmp_path / "data"] * 2))
  check_complete(tmp_path / "data", digits_dir)
  assert len(server.requests) > 4  # Both did.
