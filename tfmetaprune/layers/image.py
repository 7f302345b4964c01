"""Layers for images, channels last: resizing, cropping and random augmentation."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, LayerSpec, register


@register(keras.layers.Resizing, keras.layers.CenterCrop)
class ImageSpec(LayerSpec):
    """They move positions, the same for all channels."""

    def flow(self, call):
        positions = range(len(call.input_shapes[0]) - 2)
        source, target = (" ".join(f"{prefix}{axis}" for axis in positions) for prefix in "sp")
        return Axes(f"b {source} c -> b {target} c")


@register(
    keras.layers.RandomCrop, keras.layers.RandomFlip, keras.layers.RandomRotation, keras.layers.RandomTranslation,
    keras.layers.RandomZoom, keras.layers.RandomHeight, keras.layers.RandomWidth, keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
)  # fmt: skip
class AugmentationSpec(ImageSpec):
    """They do nothing but in training, where they move positions or change the brightness of each channel by itself."""

    def call_masked(self, layer, masks, *args, **kwargs):
        return layer(*args, **{"training": False, **kwargs})  # Keras takes True if nobody says
