"""TFLite files: made, verified and measured."""
