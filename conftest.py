"""Settings for the tests and the docstring examples: quiet TensorFlow with oneDNN, data sets in a folder of the test run."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # without it no channels-first convolution runs; older CPUs need to be told
os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="tfmetaprune-tests-")
