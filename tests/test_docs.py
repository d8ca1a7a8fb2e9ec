# SPDX-License-Identifier: Apache-2.0
"""README and docs/: their commands, links, and what is written twice."""
import ast
import os
from pathlib import Path
import re
import shutil
import sys

import pytest

import cnn_mnist
from running import ROOT, SCRIPT, run_command, serve

PAGES = ["README.md"] + sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def read(path):
  return (ROOT / path).read_text(encoding="utf-8")


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
    target = Path(page).parent / path if path else page
    assert (ROOT / target).exists(), link
    assert not anchor or anchor in anchors(read(target)), link


def test_readme():
  """It is short, and links all pages."""
  assert read("README.md").count("\n") <= 150
  for page in PAGES[1:]:
    assert f"]({page}" in read("README.md")


def test_flags_in_readme():
  """The table has each flag, with its default."""
  rows = dict(re.findall(r"(?m)^\| `--(\w+)` \| (.*?) \|", read("README.md")))
  defaults = vars(cnn_mnist.parse_flags([]))
  assert set(rows) == set(defaults)
  for name, value in defaults.items():
    assert rows[name] == {None: "none", False: "off"}.get(value, f"`{value}`")


def test_files_in_development():
  """Its table has each file of tests."""
  cells = re.findall(r"(?m)^\| (`.*?test_\w+\.py`) \|",
                     read("docs/development.md"))
  names = re.findall(r"`([\w/]*test_\w+\.py)`", "".join(cells))
  tests = ROOT / "tests"
  assert sorted(names) == sorted(
      str(path.relative_to(tests)) for path in tests.rglob("test_*.py"))


def test_pins_of_the_inline_metadata():
  """Those of PEP 723 are those of requirements.txt, but TensorBoard's."""
  block = re.search(r"(?ms)^# /// script$\n(.*?)^# ///$", read(SCRIPT)).group(1)
  pins = [line for line in read("requirements.txt").splitlines()
          if line and not line.startswith(("#", "tensorboard", "setuptools"))]
  assert re.findall(r"'([^']*)',", block) == pins


def test_bounds_of_versions():
  """README's install command and the script's own have the pins' bounds."""
  python, = re.findall(r'(?m)^# requires-python = ">=3\.7,(<3\.\d+)"$',
                       read(SCRIPT))
  assert f'--python ">=3.9,{python}"' in read("README.md")
  tensorflow, = re.findall(r"(?m)^tensorflow>=.*,(<[\d.]+);",
                           read("requirements.txt"))
  assert f"'tensorflow{tensorflow}'" in read(SCRIPT)


def test_errors_in_troubleshooting():
  """Each UserError has a row, which quotes some of its words."""
  rows = re.findall(r"(?m)^\| (`.*?) \|", read("docs/troubleshooting.md"))
  quotes = [quote for row in rows for quote in re.findall("`(.*?)`", row)]
  errors = [ast.dump(node) for node in ast.walk(ast.parse(read(SCRIPT)))
            if isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "UserError"]
  assert len(errors) > 10
  for error in errors:
    # Or it ends with the command to run.
    assert any(quote in error for quote in [*quotes, ". Run: "]), error


# Beginnings of commands that are not run, and why.
NOT_RUN = (
    "uv venv", "python3 -m venv",  # They made this environment.
    ".venv/bin/pip",  # It would change it.
    ".venv/bin/python -m pytest", ".venv-3.12/bin/python -m pytest",
    ".venv/bin/python tests/benchmark",
    ".venv/bin/python tests/draw_pictures",  # They have tests of their own.
    ".venv/bin/jupyter",  # A server; test_notebook has a kernel.
    "TF_USE_LEGACY_KERAS",  # test_program_with_keras_2
    ".venv/bin/python cnn_mnist.py --model_dir=best_model",  # Eight minutes
    "docker", "curl")
WHOLE_RUN = ".venv/bin/python cnn_mnist.py\n"  # Of half an hour
TENSORBOARD = ".venv/bin/tensorboard"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A copy of the project in which .venv is this interpreter's environment."""
  if "RUN_COMMANDS" not in os.environ or "MNIST_DIR" not in os.environ:
    pytest.skip("RUN_COMMANDS or MNIST_DIR is not set")
  directory = tmp_path_factory.mktemp("commands") / "cnn_mnist"
  shutil.copytree(str(ROOT), str(directory), ignore=shutil.ignore_patterns(
      ".git", ".venv*", ".bin", "__pycache__", "*_model", "*_export", "digits",
      "MNIST-data"))
  (directory / ".venv").symlink_to(sys.prefix)
  (directory / "MNIST-data").symlink_to(os.environ["MNIST_DIR"])
  return directory


def blocks(page, language):
  """The blocks of code in a language, each without what is not run here."""
  for block in re.findall(rf"(?ms)^```{language}\n(.*?)^```$", read(page)):
    lines = [line for line in block.splitlines(True)
             if not line.startswith(NOT_RUN) and line != WHOLE_RUN
             and "| curl" not in line]
    if lines:
      yield "".join(lines)


@pytest.mark.timeout(1200)  # There are many: slow CPUs need more than 300 s.
def test_commands(checkout):
  """Each ends well, and none prints a warning; README's come first."""
  for page in PAGES:
    for block in blocks(page, "sh"):
      if block.startswith(TENSORBOARD):
        with serve(["bash", "-c", "exec env " + block],
                   "http://localhost:6006", cwd=checkout) as shown:
          assert b"TensorBoard" in shown
      else:
        print(run_block(["bash", "-ec", block], checkout))


def run_block(command, cwd, **variables):
  """Runs a block of code; returns its stdout."""
  result = run_command(command, cwd=cwd, env=dict(os.environ, **variables))
  assert result.returncode == 0, f"{command[-1]}\n{result.stderr}"
  for word in "Traceback", "Warning:", "error:":
    assert word not in result.stderr, result.stderr
  return result.stdout


def test_python_blocks(checkout):
  """In README's order; what they print is what the page says."""
  pytest.importorskip("matplotlib")
  for page in PAGES:
    for block in blocks(page, "python"):
      if block.startswith("import gradio"):
        continue  # A server; test_draw has a browser.
      stdout = run_block([checkout / ".venv" / "bin" / "python",
                          "-c", block], checkout, MPLBACKEND="Agg")
      assert re.match(r"(\{'accuracy': |accuracy: )0\.\d+", stdout), stdout
