"""Which channels a traced model has, where they go, and which must live and die together."""

from tfmetaprune.channels.follow import follow_channels
from tfmetaprune.channels.map import CallChannels, ChannelMap, Layout, Segment, WeightAxes, layout_positions
from tfmetaprune.channels.moves import move_numbers, number_array, shape_numbers

__all__ = [
    "CallChannels", "ChannelMap", "Layout", "Segment", "WeightAxes", "follow_channels", "layout_positions",
    "move_numbers", "number_array", "shape_numbers",
]  # fmt: skip
