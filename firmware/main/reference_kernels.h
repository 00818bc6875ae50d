// TensorFlow Lite Micro's reference kernels of the operators that esp-tflite-micro replaces by ESP-NN's.
// Beside those in one binary, for int8; each takes what the library's own Init and Prepare of that operator
// compute and calls reference_integer_ops.
#ifndef REFERENCE_KERNELS_H
#define REFERENCE_KERNELS_H

#include "tflm.h"

// The reference kernel of an operator, or nullptr if the library's only one is the reference already.
const TFLMRegistration *reference_kernel(tflite::BuiltinOperator op);

#endif
