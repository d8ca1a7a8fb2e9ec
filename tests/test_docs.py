"""README and docs/: their commands, links, and pins that are written twice."""
import glob
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from conftest import ROOT, SCRIPT
import cnn_mnist

PAGES = ["README.md"] + sorted(
    os.path.join("docs", os.path.basename(path))
    for path in glob.glob(os.path.join(ROOT, "docs", "*.md")))


def read(path):
  with open(os.path.join(ROOT, path)) as f:
    return f.read()


def anchors(text):
  """The anchors that GitHub gives the headings of a page."""
  text = re.sub(r"(?ms)^```.*?^```$", "", text)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
          for heading in re.findall(r"(?m)^#+ (.*)$", text)}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
  """Each relative link has its file, and its heading there."""
  text = re.sub(r"`[^`]*`", "", re.sub(r"(?ms)^```.*?^```$", "", read(page)))
  links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text)
           if "://" not in link]
  assert links
  for link in links:
    path, _, anchor = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(page), path)
                              ) if path else page
    assert os.path.exists(os.path.join(ROOT, target)), link
    assert not anchor or anchor in anchors(read(target)), link


def test_all_pages_are_linked():
  for page in PAGES[1:]:
    assert "](%s" % page in read("README.md")


def test_readme_is_short():
  assert read("README.md").count("\n") <= 150


def test_flags_in_readme():
  """The table has each flag, with its default."""
  rows = dict(re.findall(r"(?m)^\| `--(\w+)` \| (.*?) \|", read("README.md")))
  defaults = vars(cnn_mnist.parse_flags([]))
  assert set(rows) == set(defaults)
  for name, value in defaults.items():
    assert rows[name] == {None: "none", False: "off"}.get(value, "`%s`" % value)


def test_pins_of_the_inline_metadata():
  """Those of PEP 723 are those of requirements.txt, but TensorBoard's."""
  with open(SCRIPT) as f:
    block = re.search(r"(?ms)^# /// script$\n(.*?)^# ///$", f.read()).group(1)
  pins = [line for line in read("requirements.txt").splitlines()
          if line and not line.startswith(("#", "tensorboard", "setuptools"))]
  assert re.findall(r"'([^']*)',", block) == pins
  assert '# requires-python = ">=3.7,<3.15"' in block.splitlines()


def test_messages_in_troubleshooting():
  """What it quotes of the script's own messages is what the script says."""
  with open(SCRIPT) as f:
    source = re.sub(r'"\s*\n\s*f?"', "", f.read())
  rows = re.findall(r"(?m)^\| (`.*?) \|", read("docs/troubleshooting.md"))
  of_others = re.compile(
      "distribution|No module|Error|No space|Permission|Resource|pthread|OOM|"
      "Killed|Checksum|Failed to|Request failed|has no attribute|NaN loss|"
      "cannot import|TF_USE|unexpected keyword|tf.data|absl|I0000|cuda|cuDNN|"
      "is only available when eager")
  quotes = [quote.replace("TensorFlow: Restoring", "TensorFlow: …Restoring")
            for row in rows for quote in re.findall("`(.*?)`", row)]
  quotes = [quote for quote in quotes if not of_others.search(quote)]
  assert len(quotes) > 15
  for quote in quotes:
    assert quote.split("…")[0] in source, quote


# Beginnings of commands that are not run, and why.
NOT_RUN = (
    "uv venv", "python3 -m venv",  # They made this environment.
    ".venv/bin/pip",  # It would change it.
    ".venv/bin/python -m pytest", ".venv/bin/python tests/benchmark",
    ".venv/bin/python tests/draw_pictures",  # Tests of their own
    ".venv/bin/jupyter",  # A server; test_notebook has a kernel.
    "TF_USE_LEGACY_KERAS",  # test_canned_estimators
    ".venv/bin/python cnn_mnist.py --model_dir=best_model",  # Eight minutes
    "docker", "curl")
WHOLE_RUN = ".venv/bin/python cnn_mnist.py\n"  # Of half an hour
TENSORBOARD = "TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/tensorboard"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A copy of the project in which .venv is this interpreter's environment."""
  if "RUN_COMMANDS" not in os.environ or "MNIST_DIR" not in os.environ:
    pytest.skip("RUN_COMMANDS or MNIST_DIR is not set")
  directory = tmp_path_factory.mktemp("commands") / "cnn_mnist"
  shutil.copytree(ROOT, str(directory), ignore=shutil.ignore_patterns(
      ".git", ".venv", ".bin", "__pycache__", "*_model", "digits"))
  (directory / ".venv").symlink_to(sys.prefix)
  (directory / "MNIST-data").symlink_to(os.environ["MNIST_DIR"])
  return str(directory)


def blocks(page, language):
  """The blocks of code in a language, each without what is not run here."""
  for block in re.findall(r"(?ms)^```%s\n(.*?)^```$" % language, read(page)):
    lines = [line for line in block.splitlines(True)
             if not line.startswith(NOT_RUN) and line != WHOLE_RUN
             and "| curl" not in line]
    if lines:
      yield "".join(lines)


def test_commands(checkout):
  """Each ends well, and none prints a warning; README's come first."""
  for page in PAGES:
    for block in blocks(page, "sh"):
      if block.startswith(TENSORBOARD):
        check_tensorboard(block, checkout)
      else:
        print(run_block(["bash", "-ec", block], checkout))


def run_block(command, cwd, **variables):
  """Runs a block of code; returns its stdout."""
  process = subprocess.Popen(
      command, cwd=cwd, env=dict(os.environ, **variables),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == 0, "%s\n%s" % (command[-1], stderr)
  for word in "Traceback", "Warning:", "error:":
    assert word not in stderr, stderr
  return stdout


def check_tensorboard(command, cwd):
  """Checks that the page is there, until the server is ended."""
  process = subprocess.Popen(["bash", "-c", "exec env " + command], cwd=cwd)
  try:
    end = time.time() + 60
    while True:
      try:
        with urllib.request.urlopen("http://localhost:6006") as page:
          assert b"TensorBoard" in page.read()
          return
      except urllib.error.URLError:
        assert time.time() < end and process.poll() is None
        time.sleep(0.5)
  finally:
    process.kill()
    process.wait()


def test_python_blocks(checkout):
  """In README's order; what they print is what the page says."""
  pytest.importorskip("matplotlib")
  for page in PAGES:
    for block in blocks(page, "python"):
      if block.startswith("import gradio"):
        continue  # A server; test_draw has a browser.
      stdout = run_block([os.path.join(checkout, ".venv", "bin", "python"),
                          "-c", block], checkout, MPLBACKEND="Agg")
      assert re.match(r"(\{'accuracy': |accuracy: )0\.\d+", stdout), stdout
