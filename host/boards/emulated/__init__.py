"""The real firmware on an emulated ESP32-S3: Espressif's QEMU."""
