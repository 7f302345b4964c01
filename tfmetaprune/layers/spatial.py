"""Pooling, padding, cropping and resampling: they move positions and leave channels where they are."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Frozen, LayerSpec, Same, register


@register(
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.AveragePooling1D, keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.Cropping1D, keras.layers.Cropping2D,
    keras.layers.UpSampling1D, keras.layers.UpSampling2D,
)  # fmt: skip
class SpatialSpec(LayerSpec):
    """No weights; channel i of the output is channel i of the input."""

    def flow(self, call):
        return Same()


@register(keras.layers.Rescaling)
class RescalingSpec(LayerSpec):
    """x * scale + offset, with one number each."""

    def flow(self, call):
        numbers = (call.layer.scale, call.layer.offset)
        if any(isinstance(number, (list, tuple)) or getattr(number, "ndim", 0) for number in numbers):
            return Frozen("holds a scale or an offset of every feature")
        return Same()
