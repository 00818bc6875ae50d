/* esp-nn up to 1.2.3 (and possibly later, esp-nn issues #30 and #34) asks for less scratch memory than its 3x3
 * depthwise convolution writes, when the padding is not 1 all around: MobileNetV2's second
 * depthwise layer then writes past the arena. The linker sends esp-tflite-micro's question here (--wrap in
 * CMakeLists.txt); the answer is never less than what the kernel of those releases uses. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <esp_nn.h>

/* Weak: should a release answer elsewhere, there is nothing to correct here. */
__attribute__((weak)) int __real_esp_nn_get_depthwise_conv_scratch_size_esp32s3(const data_dims_t *input,
                                                                                const data_dims_t *filter,
                                                                                const data_dims_t *output,
                                                                                const dw_conv_params_t *params);
int __wrap_esp_nn_get_depthwise_conv_scratch_size_esp32s3(const data_dims_t *input, const data_dims_t *filter,
                                                          const data_dims_t *output, const dw_conv_params_t *params);

static int32_t trailing(int32_t out, int32_t stride, int32_t padded) {
    int32_t needed = out * stride + 2;
    return needed > padded ? needed - padded : 0;
}

int __wrap_esp_nn_get_depthwise_conv_scratch_size_esp32s3(const data_dims_t *input, const data_dims_t *filter,
                                                          const data_dims_t *output, const dw_conv_params_t *params) {
    if (__real_esp_nn_get_depthwise_conv_scratch_size_esp32s3 == NULL) {
        return 0;
    }
    int asked = __real_esp_nn_get_depthwise_conv_scratch_size_esp32s3(input, filter, output, params);
    int32_t channels = (input->channels + 15) / 16 * 16;
    bool same = params->padding.width == 1 && params->padding.height == 1;
    bool none = params->padding.width == 0 && params->padding.height == 0;
    bool whole = input->channels == channels;
    if (params->ch_mult != 1 || filter->width != 3 || filter->height != 3 || input->channels % 8 != 0 ||
        input->channels < 12 || (whole && same)) {
        return asked;
    }
    int32_t width = input->width + 2 * params->padding.width;
    int32_t height = input->height + 2 * params->padding.height;
    width += trailing(output->width, params->stride.width, width);
    height += trailing(output->height, params->stride.height, height);
    int32_t needed = 9 * channels + width * height * channels + 64;
    if (!(whole && none)) {
        needed += output->width * output->height * channels;
    }
    return needed > asked ? (int)needed : asked;
}
