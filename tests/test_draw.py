# SPDX-License-Identifier: Apache-2.0
"""The page of docs/pictures.md to draw a digit on, in a real browser."""
import importlib.util
import os
import re
import shutil
import sys

import pytest

from running import ROOT, copy_of, free_addresses, serve

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and importlib.util.find_spec("gradio")
         and importlib.util.find_spec("playwright")),
    reason="chromium, gradio or playwright is not installed")

# The strokes of two digits, from 0 to 1 of the drawing's width and height
SEVEN = [(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]
ONE = [(0.5, 0.2), (0.5, 0.8)]


@pytest.fixture
def url(mnist_model, tmp_path):
  """Address of the page, which the program serves until the test is over."""
  program = re.search(r"(?ms)^```python\n(import gradio.*?)^```$", (
      ROOT / "docs" / "pictures.md").read_text()).group(1)
  copy_of(mnist_model[0], tmp_path / "mnist_model")
  address, = free_addresses(1)
  url = f"http://{address}/"
  with serve([sys.executable, "-c", program], url, cwd=tmp_path, env=dict(
      os.environ, PYTHONPATH=str(ROOT),
      GRADIO_SERVER_PORT=address.split(":")[1],
      GRADIO_TEMP_DIR=str(tmp_path / "gradio"))):
    yield url


def test_draw(url):
  """Two digits drawn with the mouse are read; an empty page is not."""
  from playwright import sync_api
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM)
    page = browser.new_page()
    page.set_default_timeout(120000)  # On a busy machine
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.locator("canvas").first.wait_for()
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("The drawing shows no digit.").wait_for()
    page.get_by_test_id("toast-close").click()
    page.get_by_text("The drawing shows no digit.").wait_for(state="detached")
    assert submit_drawing(page, SEVEN) == "7"
    page.locator("button.secondary", has_text="Clear").click()
    assert submit_drawing(page, ONE) == "1"
    browser.close()
  # Nothing comes from elsewhere.
  assert requests
  assert [other for other in requests if url not in other] == []


def submit_drawing(page, points):
  """Draws a line through the points with the mouse; returns the answer."""
  box = page.locator("canvas").first.bounding_box()
  left = box["x"] + (box["width"] - 280) / 2
  top = box["y"] + (box["height"] - 280) / 2
  points = [(left + 280 * x, top + 280 * y) for x, y in points]
  page.mouse.move(*points[0])
  page.mouse.down()
  for point in points[1:]:
    page.mouse.move(*point, steps=10)
  page.mouse.up()
  page.get_by_role("button", name="Submit").click()
  answer = page.get_by_test_id("label-output-value")
  answer.wait_for()
  return answer.inner_text()
