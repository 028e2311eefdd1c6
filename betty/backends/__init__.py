"""Where plans are executed. One backend: ``betty.backends.torch``."""
