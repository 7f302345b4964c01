"""Pooling, padding, cropping and upsampling: they move positions and leave channels where they are."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, Elementwise, Frozen, LayerSpec, register, spatial_pattern


@register(
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D,
    keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D,
)  # fmt: skip
class SpatialSpec(LayerSpec):
    """No weights; channel i of the output is channel i of the input, at other positions."""

    def flow(self, call):
        return Axes(spatial_pattern(call, read="c", made="c"))


@register(
    keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D,
    keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D,
)  # fmt: skip
class GlobalPoolingSpec(SpatialSpec):
    """One number a channel; `keepdims` leaves axes of length 1 behind."""

    def flow(self, call):
        pattern = spatial_pattern(call, read="c", made="c")
        return Axes(pattern if call.layer.keepdims else f"{pattern.partition(' -> ')[0]} -> b c")


@register(keras.layers.Masking)
class MaskingSpec(LayerSpec):
    """A step counts as padded if all its features have the one value: no feature can be left out."""

    def flow(self, call):
        return Axes("b ... c -> b ... c", frozen={"c": "tells padded steps by all their features"})


@register(keras.layers.Rescaling)
class RescalingSpec(LayerSpec):
    """x * scale + offset, with one number each."""

    def flow(self, call):
        numbers = (call.layer.scale, call.layer.offset)
        if any(isinstance(number, (list, tuple)) or getattr(number, "ndim", 0) for number in numbers):
            return Frozen("holds a scale or an offset of every feature")
        return Elementwise()
