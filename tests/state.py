"""What an import of the script, or a call of main(), must leave as it was.

Without TensorFlow, which the process that looks at this need not have imported.
"""
import logging
import os
import signal
import sys
import warnings

import numpy as np


def state():
  """What of this process others see, by names."""
  loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow")]
  return {
      "loggers": [(logger.level, logger.propagate, len(logger.handlers))
                  for logger in loggers],
      "signals": [signal.getsignal(n) for n in range(1, signal.NSIG)],
      "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
      "environment": dict(os.environ),
      "warnings": list(warnings.filters),
      "showwarning": warnings.showwarning,
      "excepthook": sys.excepthook,
      "print options": np.get_printoptions(),
      "stdout": (sys.stdout, sys.stderr),
      "directory": (os.getcwd(), os.listdir(".")),
  }
