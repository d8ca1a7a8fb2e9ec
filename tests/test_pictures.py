# SPDX-License-Identifier: Apache-2.0
"""What --predict reads: kinds of pictures, files, errors, people's pictures."""
import os
import re
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
from PIL import Image, ImageOps
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
import draw_pictures
from draw_pictures import read_drawn as read
import drawing
from running import ROOT, parse_predictions, predict, run_here

# The least share of each kind that is read right, if it is not 0.9
LEAST = {"as in MNIST": 0.95, "inverted": 0.95, "ruled paper": 0.8,
         "squared paper": 0.8, "squared paper in a soft shadow": 0.8,
         "paper with dark squares": 0.6, "broad strokes": 0.75,
         "broad strokes, light on dark": 0.75}


@pytest.fixture(scope="module")
def digits(trained, digits_dir):
  """Digits that the trained model is sure of, and the classes it gives them.

  A pixel's shift does not matter to those.
  """
  _, (images, _) = cnn_mnist.load_mnist(digits_dir)
  found = predict(trained[0], images)
  sure = np.flatnonzero(found["probabilities"].max(axis=1) > 0.95)[:40]
  assert len(sure) == 40
  return [(drawing.to_image(images[i]), found["classes"][i]) for i in sure]


def draw_page(label=4):
  """Draws a pen's digit, dark on a white page of 256x256 pixels."""
  rng = np.random.RandomState(0)
  page = drawing.put_on_page(drawing.write_digit(label, rng, rounds=2), rng)
  return ImageOps.invert(page).resize((256, 256), Image.BOX)


# ---- Each step, by exact numbers ---------------------------------------------

ROWS = np.arange(60)
DIGIT = (20, 40), (20, 30)  # Rows and columns of full ink, 200 pixels


@pytest.mark.parametrize("ink,page", [(0.4, 1), (0.6, 0)])
def test_fill_transparent(ink, page):
  """Whatever tone is hidden where nothing is seen."""
  alpha = np.zeros((20, 20), np.float32)
  alpha[5:15, 5:15] = 1
  found = cnn_mnist.fill_transparent(np.where(alpha, ink, 1 - ink), alpha)
  np.testing.assert_allclose(found, np.where(alpha, ink, page), rtol=1e-6)


@pytest.mark.parametrize("border,top", [(6, 10), (6, 6), (11, 15)])
def test_is_ink_dark(border, top):
  """On a light sheet on a dark desk, also if the ink reaches its border."""
  grey = np.full((48, 48), 0.2, np.float32)
  grey[border:-border, border:-border] = 0.9
  grey[border:-border, 30:-border] -= 0.076  # Less than a tenth of the range
  grey[top:-top, 23:25] = 0.1
  assert cnn_mnist.is_ink_dark(grey) and not cnn_mnist.is_ink_dark(1 - grey)


@pytest.mark.parametrize("ink,page", [(0.2, 0.9), (0.8, 0.1)])
@pytest.mark.parametrize("size,contrast", [(30, 0.7), (31, 0)])
def test_remove_page(ink, page, size, contrast):
  """What is wider than half the longer side is page."""
  grey = np.full((60, 60), page, np.float32)
  grey[15:15 + size, 15:15 + size] = ink
  np.testing.assert_allclose(cnn_mnist.remove_page(grey), np.where(
      grey == np.float32(ink), contrast, 0), atol=1e-6)


@pytest.mark.parametrize("columns,ink,found", [
    (20 + 0 * ROWS, 0.7, True), (20 + 0 * ROWS, 0.75, False),
    (20 + ROWS // 3, 0.7, True), (20 + ROWS // 2, 0.7, False),
    (20 + ROWS // 3 * 2, 0.7, False), (58 - ROWS // 3 * 2, 0.7, False)])
def test_find_lines(columns, ink, found):
  """A line is oblique by one in three at most, and weaker than a digit."""
  picture = np.zeros((60, 60), np.float32)
  picture[ROWS, columns] = ink
  for turned in picture, picture.T:
    np.testing.assert_array_equal(cnn_mnist.find_lines(turned), turned * found)


@pytest.mark.parametrize("digit,rows,columns,ink,shape", [
    (DIGIT, (20, 21), (34, 35), 1, (20, 15)),  # Four pixels off it: one part
    (DIGIT, (20, 25), (35, 40), 1, (20, 10)),  # An eighth of its ink: a speck
    (DIGIT, (20, 33), (35, 37), 1, (20, 17)),
    (DIGIT, (20, 40), (35, 39), 0.5, (20, 10)),  # Half full is not strong ink;
    (DIGIT, (20, 40), (30, 36), 0.25, (20, 12)),  # nor is a quarter weak ink,
    (DIGIT, (20, 40), (30, 36), 0.26, (20, 16)),  # which joins on to strong.
    (DIGIT, (19, 20), (20, 30), 0.01, (20, 10)),
    (DIGIT, (19, 20), (20, 30), 0.012, (21, 10)),
    (DIGIT, (19, 41), (35, 38), 1, (20, 10)),
    (DIGIT, (20, 41), (35, 38), 1, (21, 18)),  # No line: not past both ends
    (DIGIT, (19, 40), (35, 38), 1, (21, 18)),
    (DIGIT, (45, 51), (15, 35), 1, (31, 20)),  # Nor longer than the digit
    (DIGIT, (30, 64), (35, 38), 1, (20, 10)),  # A pen: the side cuts it off.
    (DIGIT, (30, 61), (35, 38), 1, (41, 18)),
    (((20, 64), (20, 30)), (30, 64), (35, 38), 1, (44, 18))])  # It is as well.
def test_keep_digit(digit, rows, columns, ink, shape):
  """What is kept of a digit and something beside it, by the shape."""
  picture = np.zeros((64, 64), np.float32)
  picture[slice(*rows), slice(*columns)] = ink
  picture[slice(*digit[0]), slice(*digit[1])] = 1
  assert cnn_mnist.keep_digit(picture).shape == shape
  assert cnn_mnist.keep_digit(picture[::-1].T).shape == shape[::-1]


def test_center():
  """A box of 20x20 round the centre of mass, of which 3 % are full white."""
  found = cnn_mnist.center(np.ones((30, 12), np.float32))
  assert found[4:24, 10:18].min() == 1 and found.sum() == 160
  box = np.full((20, 20), 0.5, np.float32)
  box.flat[:10] = 1  # Of 400
  assert set(cnn_mnist.center(box).ravel()) == {0, 1}
  box = np.zeros((20, 20), np.float32)
  box.flat[:2] = 0.5, 0.02
  np.testing.assert_allclose(
      np.sort(cnn_mnist.center(box), axis=None)[-3:], (0, 0.8, 1), rtol=1e-6)


# ---- Kinds of pictures -------------------------------------------------------

def check_kinds(kinds, examples, model_dir, least=0.9):
  """Checks what share of each kind is read right; returns the numbers."""
  hits = draw_pictures.count_hits(
      {kind: draw_pictures.read_kind(make, examples)
       for kind, make in kinds.items()}, str(model_dir))
  print(f"of {len(examples)}:", hits)
  assert [kind for kind, count in hits.items()
          if count < LEAST.get(kind, least) * len(examples)] == []
  return hits


def test_kinds_with_scanned_digits(trained, digits):
  """These are coarse: in 8x8 their strokes had no sharp edges."""
  check_kinds({**drawing.DRAWINGS, **drawing.TRANSPARENT}, digits[:20],
              trained[0], least=0.85)


@pytest.mark.parametrize("kinds", [
    {**drawing.DRAWINGS, **drawing.TRANSPARENT}, drawing.SHEETS,
    drawing.PHOTOGRAPHS], ids=["drawings", "sheets", "photographs"])
def test_kinds_with_mnist(mnist_dir, mnist_model, kinds):
  """As many are read on a transparent page as on an opaque one."""
  _, (images, labels) = cnn_mnist.load_mnist(mnist_dir)
  examples = list(zip(map(drawing.to_image, images[:50]), labels))
  hits = check_kinds(kinds, examples, mnist_model[0])
  for kind in set(kinds) & set(drawing.TRANSPARENT):  # JPEG blurs the strokes.
    assert hits[kind] >= min(49, hits["enlarged"]) - ("JPEG" in kind), kind


def test_photographs_of_a_pens_strokes(mnist_model):
  check_kinds(drawing.PHOTOGRAPHS, draw_pictures.write_examples(50),
              mnist_model[0])


def test_people(mnist_model):
  """Digits of 79 people, as they drew, scanned and photographed them."""
  if "PICTURES_DIR" not in os.environ:
    pytest.skip("PICTURES_DIR is not set")
  labels = draw_pictures.find_pictures()
  result = run_here({"model_dir": mnist_model[0]}, "--predict", *labels)
  hits = sum(labels[path] == digit
             for path, digit in parse_predictions(result.stdout))
  print(f"{hits} of {len(labels)}")
  assert len(labels) == 755 and hits >= 660


def test_docs_picture(trained, digits_dir, tmp_path):
  """draw_pictures.py draws docs/pictures.png, and counts all kinds."""
  pytest.importorskip("PIL", "10.1")
  (tmp_path / "people" / "writer").mkdir(parents=True)
  draw_page(7).save(tmp_path / "people" / "writer" / "7a.png")
  path = tmp_path / "pictures.png"
  stdout = subprocess.check_output(
      [sys.executable, ROOT / "tests" / "draw_pictures.py", "--all",
       f"--data_dir={digits_dir}", f"--model_dir={trained[0]}", "--count=1",
       path], env=dict(os.environ, PICTURES_DIR=str(tmp_path / "people")),
      universal_newlines=True)
  counts = re.findall(r"(?m)^[\w ,']+: (\d) of 1$", stdout)
  assert len(counts) == stdout.count("\n") == (
      len(drawing.KINDS) + len(drawing.PHOTOGRAPHS) + 1)
  assert sum(map(int, counts)) >= 0.7 * len(counts), stdout
  with Image.open(path) as drawn, Image.open(
      ROOT / "docs" / "pictures.png") as shown:
    assert drawn.size == shown.size
    assert drawn.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


# ---- Files -------------------------------------------------------------------

# A 4 on its head would differ by 0.08 on average; JPEG changes 0.01.
@pytest.mark.parametrize("name,tolerance", [
    ("L.bmp", 0), ("L.gif", 0), ("L.jpg", 0.03), ("RGB.png", 0), ("RGB.bmp", 0),
    ("RGB.jpg", 0.03), ("RGBA.png", 0), ("P.png", 0), ("1.png", 0.03),
    ("1.bmp", 0.03)])
def test_formats(name, tolerance):
  """In Pillow's modes, a page is read as it is of a grey PNG."""
  mode = name.partition(".")[0]
  page = draw_page()
  found = read(page.convert(mode, dither=0), name)
  assert np.abs(found - read(page)).mean() <= tolerance


def test_16_bits_and_palettes():
  page = draw_page()
  deep = Image.fromarray(np.asarray(page).astype(np.int32) * 257)
  np.testing.assert_array_equal(read(deep.convert("I;16")), read(page))
  colours = ImageOps.colorize(page, "navy", "ivory")
  for found in (
      read(colours.convert("P", palette=Image.ADAPTIVE), "colours.bmp"),
      read(page.convert("P"), transparency=255)):
    np.testing.assert_allclose(found, read(page), atol=0.1)


def test_large_picture():
  page = draw_page()
  large = page.resize((2048, 2048), Image.NEAREST)
  np.testing.assert_array_equal(read(large), read(page))


@pytest.mark.parametrize("orientation,turn", [
    (3, Image.ROTATE_180), (6, Image.ROTATE_90), (8, Image.ROTATE_270)])
def test_orientation(orientation, turn):
  """A phone writes pixels as its sensor lies, and how to turn them (EXIF)."""
  page = draw_page()
  exif = Image.Exif()
  exif[0x112] = orientation
  found = read(page.transpose(turn), "a.jpg", exif=exif)
  assert np.abs(found - read(page)).mean() < 0.03


# ---- No digits, and no pictures ----------------------------------------------

@pytest.mark.parametrize("light", ["even", "ramp", "lamp", "sharp"])
@pytest.mark.parametrize("chalk", [False, True])
def test_empty_page(light, chalk):
  """Neither uneven light nor noise is a digit."""
  rng = np.random.RandomState(0)
  for _ in range(10):
    page = Image.new("L", tuple(rng.randint(60, 600, 2)))
    with pytest.raises(cnn_mnist.UserError, match="no digit"):
      read(drawing.photograph(page, rng, light, chalk=chalk))


@pytest.mark.parametrize("picture", [
    Image.new("L", (50, 40), 200), Image.new("LA", (50, 40), (30, 0)),
    *[drawing.lay_on_desk(Image.new("L", (280, 280), 255), share, desk)
      for share, desk in [(0.6, 50), (0.75, 50), (0.75, 130), (0.92, 50)]]])
def test_empty_picture(picture):
  """Nor is the edge of a straight sheet on a desk."""
  with pytest.raises(cnn_mnist.UserError,
                     match=r"^--predict: \S+/picture.png shows no digit$"):
    read(picture)


def test_empty_ruled_paper():
  """Its lines are taken away where they fade; then no ink is left."""
  lines = drawing.rule((200, 200), np.random.RandomState(0), squared=False)
  fading = np.linspace(0.6, 1, 200)
  with pytest.raises(cnn_mnist.UserError, match="no digit"):
    read(Image.fromarray(np.uint8(255 - 200 * lines * fading)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [
    (1, 1), (1, 256), (256, 1), (2, 200), (200, 2), (4, 256)])
def test_thin_picture_does_not_crash(shape):
  for ink, page in ((0, 255), (255, 0)):
    pixels = np.full(shape, page, np.uint8)
    pixels[shape[0] // 4:shape[0] * 3 // 4, shape[1] // 4:] = ink
    try:
      digit = read(Image.fromarray(pixels))
      assert digit.shape == (28, 28) and digit.min() == 0 and digit.max() == 1
    except cnn_mnist.UserError as e:
      assert "shows no digit" in str(e)


@pytest.mark.parametrize("name", ["none", "directory", "empty", "text", "cut"])
def test_no_picture(tmp_path, name):
  draw_page().save(tmp_path / "cut", "PNG")
  os.truncate(tmp_path / "cut", 60)
  (tmp_path / "text").write_text("This is text.")
  (tmp_path / "empty").touch()
  (tmp_path / "directory").mkdir()
  with pytest.raises(cnn_mnist.UserError) as error:
    cnn_mnist.read_picture(tmp_path / name)
  assert str(error.value).startswith(
      f"--predict: {tmp_path / name} can't be read as a picture: ")
  assert "\n" not in str(error.value)


def save_large(path, progressive):
  """Saves a page of 200 megapixels; returns the memory used so far, in kB.

  Another process makes it, so that its memory isn't counted.
  """
  small = path.with_name("small.png")
  draw_page().save(small)
  subprocess.check_call([
      sys.executable, "-c", "import sys; from PIL import Image; Image.open("
      "sys.argv[1]).resize((14336, 14336), Image.NEAREST).save(sys.argv[2], "
      f"progressive={progressive})", small, path])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", ["bomb.png", "bomb.jpg"])
def test_decompression_bomb(tmp_path, name):
  """What would take memory for all of its pixels is refused at once."""
  before = save_large(tmp_path / name, progressive=True)
  start = time.time()
  with pytest.raises(cnn_mnist.UserError, match="exceeds limit|bomb"):
    cnn_mnist.read_picture(tmp_path / name)
  assert time.time() - start < 1
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50000


def test_picture_of_200_megapixels(tmp_path):
  """JPEG, as a phone makes it, takes little memory and gives no warning."""
  before = save_large(tmp_path / "large.jpg", progressive=False)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = cnn_mnist.read_picture(tmp_path / "large.jpg")
  assert np.abs(found - read(draw_page())).mean() <= 0.03
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100000


# ---- The command -------------------------------------------------------------

def test_predict(trained, digits, tmp_path):
  """A line for each picture, in their order; then one for each bad picture."""
  model_dir, paths = trained[0], []
  for i, (digit, _) in enumerate(digits):
    paths.append(str(tmp_path / f"{i}.png"))
    digit.save(paths[-1])
  bad = [str(tmp_path / "none.png"), str(tmp_path)]
  before = sorted(os.listdir(model_dir))
  result = run_here({"model_dir": model_dir}, "--predict", paths[0], *bad,
                    *paths[1:])
  assert result.returncode == 1
  found = parse_predictions(result.stdout)
  assert [path for path, _ in found] == paths
  assert sum(digit == label
             for (_, digit), (_, label) in zip(found, digits)) >= 38
  errors = [line for line in result.stderr.splitlines() if "error" in line]
  assert [line.partition(" can't be read")[0] for line in errors] == [
      f"cnn_mnist.py: error: --predict: {path}" for path in bad]
  assert sorted(os.listdir(model_dir)) == before


def test_predict_while_training(flags, start_run, picture, monkeypatch, capsys):
  """Five checkpoints are kept; the one that is used is chosen late enough."""
  run = start_run(dict(flags, train_steps=1000000, save_checkpoints_steps=10))
  run.wait_for("loss = ")  # The first checkpoint was saved before.
  read_picture = cnn_mnist.read_picture

  def read_slowly(path):
    """Returns after the newest checkpoint of the start has been deleted."""
    newest = tf.train.latest_checkpoint(str(flags["model_dir"])) + ".index"
    run.wait_until(lambda: not os.path.exists(newest))
    return read_picture(path)

  monkeypatch.setattr(cnn_mnist, "read_picture", read_slowly)
  cnn_mnist.main([f"--model_dir={flags['model_dir']}", f"--predict={picture}"])
  (path, _), = parse_predictions(capsys.readouterr().out)
  assert path == str(picture) and run.process.poll() is None


def test_predict_without_a_checkpoint(picture, tmp_path):
  model_dir = tmp_path / "model"
  result = run_here({"model_dir": model_dir, "predict": picture})
  result.check_error(f"--model_dir={model_dir}", "no checkpoint")
  assert not model_dir.exists()
