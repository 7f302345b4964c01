"""What TensorBoard shows of a pruning: scalars, accuracy against speed-up, and a heat map of the channels.

The summaries are written in TensorBoard's format by TensorFlow alone; the tensorboard package is needed to look at them, not here.
"""

import numpy as np

from tfmetaprune._keras import tf

_ALIVE, _DEAD, _ABSENT = np.array([0, 114, 178]), np.array([213, 94, 0]), np.array([255, 255, 255])  # Okabe and Ito
_CELL = 6  # pixels of a channel along each side, where they fit
_MAX_PIXELS = 2048


class Board:
    """Writes what happens during a pruning.

    Args:
      log_dir: folder of the event file.
    """

    def __init__(self, log_dir):
        self._writer = tf.summary.create_file_writer(str(log_dir))

    def write_epoch(self, step, speedup, shares, metrics, picture):
        """Writes the state at the end of an epoch.

        Args:
          step: number of epochs done.
          speedup: MACs before / MACs after of what would remain if all silent channels went now.
          shares: group name -> share in [0, 1] of its channels that are silent.
          metrics: name -> value, of the epoch; accuracies are written a second time against the speed-up in percent.
          picture: uint8 [height, width, 3], of `channel_picture`.
        """
        with self._writer.as_default():
            _scalar("metaprune/macs_speedup", speedup, step)
            for name, share in shares.items():
                _scalar(f"metaprune/silent_channels/{name}", share, step)
            for name, value in metrics.items():
                if "acc" in name:
                    _scalar(f"metaprune/{name}_by_speedup_percent", value, round(100 * speedup))
            _image("metaprune/channels", picture, step)
            self._writer.flush()

    def close(self):
        """Closes the event file."""
        self._writer.close()


class ScalarBoard:
    """Writes numbers against steps.

    Args:
      log_dir: folder of the event file.
    """

    def __init__(self, log_dir):
        self._writer = tf.summary.create_file_writer(str(log_dir))

    def write(self, step, scalars):
        """Writes numbers, name -> value, of a step."""
        with self._writer.as_default():
            for name, value in scalars.items():
                _scalar(name, value, step)

    def flush(self):
        """Brings what has been written to the disk."""
        self._writer.flush()

    def close(self):
        """Closes the event file."""
        self._writer.close()


def channel_picture(groups, keep, importance) -> np.ndarray:
    """Paints every channel group as a row: blue channels are alive, orange ones silent; the more important, the darker.

    Args:
      groups: for each row int64 [size], the units of a group.
      keep: bool [num_units], which units are alive.
      importance: float [num_units], any scale; it is ranked within each group.

    Returns:
      uint8 [height, width, 3]; channels are sorted by importance, the most important first.
    """
    width = max((len(units) for units in groups), default=1)
    picture = np.broadcast_to(_ABSENT, (max(len(groups), 1), width, 3)).astype(float)
    for row, units in enumerate(groups):
        order = units[np.argsort(-importance[units], kind="stable")]
        strength = np.linspace(1, 0.25, len(units))[:, np.newaxis]
        colour = np.where(keep[order][:, np.newaxis], _ALIVE, _DEAD)
        picture[row, : len(units)] = _ABSENT + strength * (colour - _ABSENT)
    scales = [max(1, min(_CELL, _MAX_PIXELS // length)) for length in picture.shape[:2]]
    return picture.astype(np.uint8).repeat(scales[0], 0).repeat(scales[1], 1)


def _metadata(plugin):
    return tf.compat.v1.SummaryMetadata(plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin))


def _scalar(tag, value, step):
    tf.summary.write(tag, tf.constant(value, tf.float32), step, _metadata("scalars"))


def _image(tag, picture, step):
    height, width = (str(length) for length in picture.shape[:2])
    png = tf.image.encode_png(picture)
    tf.summary.write(tag, tf.stack([width, height, png]), step, _metadata("images"))
