"""What devices make of a TFLite file: the CPU, a phone, an NPU."""
