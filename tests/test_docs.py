"""README and docs/: links, anchors, and pins that are written twice."""
import glob
import os
import re

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
  assert read("README.md").count("\n") <= 220


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
  of_others = ("distribution", "No module", "Error", "No space", "Permission",
               "Resource", "pthread", "OOM", "Killed", "Restoring", "Checksum",
               "download …python", "has no attribute", "NaN loss")
  quotes = [quote for row in rows for quote in re.findall("`(.*?)`", row)
            if not any(word in quote for word in of_others)]
  assert len(quotes) > 15
  for quote in quotes:
    for part in quote.split("…"):
      assert part in source, quote
