"""The benchmark still works: one round with few steps."""
import os
import re
import subprocess
import sys

from conftest import ROOT


def test_one_round(mnist_dir):
  output = subprocess.check_output(
      [sys.executable, os.path.join(ROOT, "tests", "benchmark.py"),
       "--data_dir=" + mnist_dir, "--rounds=1", "--steps=20"],
      universal_newlines=True)
  assert "1 rounds of 20 steps" in output and "tensorflow 1.15" in output
  rows = re.findall(r"^\| .*tensorflow.* \| ([\d.]+) \(.*\) \| ([\d.]+) \(.*\) "
                    r"\| [\d.]+ s \| \d+ MB \|$", output, re.MULTILINE)
  assert len(rows) == 2 and rows[0][1] == "1.00"
  assert all(float(rate) > 0 for rate, _ in rows)
