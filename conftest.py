"""Settings for the tests and the docstring examples: quiet TensorFlow, data sets in a folder of the test run."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="tfmetaprune-tests-")
