#include "reference_kernels.h"

#include <cstdint>

namespace {

using tflite::micro::GetEvalInput;
using tflite::micro::GetEvalOutput;
using tflite::micro::GetOptionalTensorData;
using tflite::micro::GetTensorData;
using tflite::micro::GetTensorShape;

template <typename Data> void *init(TfLiteContext *context, const char *, size_t) {
    return context->AllocatePersistentBuffer(context, sizeof(Data));
}

const TfLiteEvalTensor *optional_bias(TfLiteContext *context, TfLiteNode *node, int index) {
    return node->inputs->size > index ? GetEvalInput(context, node, index) : nullptr;
}

bool int8(const TfLiteEvalTensor *tensor) {
    return tensor != nullptr && tensor->type == kTfLiteInt8;
}

TfLiteStatus conv(TfLiteContext *context, TfLiteNode *node) {
    const auto &params = *static_cast<const TfLiteConvParams *>(node->builtin_data);
    const auto &data = *static_cast<const tflite::OpDataConv *>(node->user_data);
    const TfLiteEvalTensor *input = GetEvalInput(context, node, tflite::kConvInputTensor);
    const TfLiteEvalTensor *filter = GetEvalInput(context, node, tflite::kConvWeightsTensor);
    const TfLiteEvalTensor *bias = optional_bias(context, node, tflite::kConvBiasTensor);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, tflite::kConvOutputTensor);
    if (!int8(input) || !int8(filter)) {
        return kTfLiteError;
    }
    tflite::reference_integer_ops::ConvPerChannel(
        tflite::ConvParamsQuantized(params, data), data.per_channel_output_multiplier, data.per_channel_output_shift,
        GetTensorShape(input), GetTensorData<int8_t>(input), GetTensorShape(filter), GetTensorData<int8_t>(filter),
        GetTensorShape(bias), GetOptionalTensorData<int32_t>(bias), GetTensorShape(output),
        GetTensorData<int8_t>(output));
    return kTfLiteOk;
}

TfLiteStatus depthwise_conv(TfLiteContext *context, TfLiteNode *node) {
    const auto &params = *static_cast<const TfLiteDepthwiseConvParams *>(node->builtin_data);
    const auto &data = *static_cast<const tflite::OpDataConv *>(node->user_data);
    const TfLiteEvalTensor *input = GetEvalInput(context, node, tflite::kDepthwiseConvInputTensor);
    const TfLiteEvalTensor *filter = GetEvalInput(context, node, tflite::kDepthwiseConvWeightsTensor);
    const TfLiteEvalTensor *bias = optional_bias(context, node, tflite::kDepthwiseConvBiasTensor);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, tflite::kDepthwiseConvOutputTensor);
    if (!int8(input) || !int8(filter)) {
        return kTfLiteError;
    }
    tflite::reference_integer_ops::DepthwiseConvPerChannel(
        tflite::DepthwiseConvParamsQuantized(params, data), data.per_channel_output_multiplier,
        data.per_channel_output_shift, GetTensorShape(input), GetTensorData<int8_t>(input), GetTensorShape(filter),
        GetTensorData<int8_t>(filter), GetTensorShape(bias), GetOptionalTensorData<int32_t>(bias),
        GetTensorShape(output), GetTensorData<int8_t>(output));
    return kTfLiteOk;
}

TfLiteStatus add(TfLiteContext *context, TfLiteNode *node) {
    const auto &data = *static_cast<const tflite::OpDataAdd *>(node->user_data);
    const TfLiteEvalTensor *a = GetEvalInput(context, node, tflite::kAddInputTensor1);
    const TfLiteEvalTensor *b = GetEvalInput(context, node, tflite::kAddInputTensor2);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, tflite::kAddOutputTensor);
    if (!int8(a) || !int8(b)) {
        return kTfLiteError;
    }
    tflite::ArithmeticParams params = {};
    params.left_shift = data.left_shift;
    params.input1_offset = data.input1_offset;
    params.input1_multiplier = data.input1_multiplier;
    params.input1_shift = data.input1_shift;
    params.input2_offset = data.input2_offset;
    params.input2_multiplier = data.input2_multiplier;
    params.input2_shift = data.input2_shift;
    params.output_offset = data.output_offset;
    params.output_multiplier = data.output_multiplier;
    params.output_shift = data.output_shift;
    params.quantized_activation_min = data.output_activation_min;
    params.quantized_activation_max = data.output_activation_max;
    if (tflite::reference_ops::ProcessBroadcastShapes(GetTensorShape(a), GetTensorShape(b), &params)) {
        tflite::reference_integer_ops::BroadcastAdd4DSlow(params, GetTensorShape(a), GetTensorData<int8_t>(a),
                                                          GetTensorShape(b), GetTensorData<int8_t>(b),
                                                          GetTensorShape(output), GetTensorData<int8_t>(output));
    } else {
        tflite::reference_integer_ops::Add(params, GetTensorShape(a), GetTensorData<int8_t>(a), GetTensorShape(b),
                                           GetTensorData<int8_t>(b), GetTensorShape(output),
                                           GetTensorData<int8_t>(output));
    }
    return kTfLiteOk;
}

TfLiteStatus mul(TfLiteContext *context, TfLiteNode *node) {
    const auto *data = static_cast<const tflite::OpDataMul *>(node->user_data);
    const TfLiteEvalTensor *a = GetEvalInput(context, node, tflite::kMulInput1Tensor);
    const TfLiteEvalTensor *b = GetEvalInput(context, node, tflite::kMulInput2Tensor);
    if (!int8(a) || !int8(b)) {
        return kTfLiteError;
    }
    return tflite::EvalMulQuantizedReference(context, node, data, a, b,
                                             GetEvalOutput(context, node, tflite::kMulOutputTensor));
}

template <bool average> TfLiteStatus pool(TfLiteContext *context, TfLiteNode *node) {
    auto *params = static_cast<TfLitePoolParams *>(node->builtin_data);
    const auto *data = static_cast<const tflite::OpDataPooling *>(node->user_data);
    const TfLiteEvalTensor *input = GetEvalInput(context, node, tflite::kPoolingInputTensor);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, tflite::kPoolingOutputTensor);
    if (!int8(input)) {
        return kTfLiteError;
    }
    if (average) {
        tflite::AveragePoolingEvalQuantized<int8_t>(context, node, params, data, input, output);
    } else {
        tflite::MaxPoolingEvalQuantized<int8_t>(context, node, params, data, input, output);
    }
    return kTfLiteOk;
}

// The library keeps this step in a file that ESP-NN's replaces.
TfLiteStatus fully_connected_prepare(TfLiteContext *context, TfLiteNode *node) {
    tflite::MicroContext *micro = tflite::GetMicroContext(context);
    const auto *params = static_cast<const TfLiteFullyConnectedParams *>(node->builtin_data);
    auto *data = static_cast<tflite::OpDataFullyConnected *>(node->user_data);
    TfLiteTensor *input = micro->AllocateTempInputTensor(node, tflite::kFullyConnectedInputTensor);
    TfLiteTensor *filter = micro->AllocateTempInputTensor(node, tflite::kFullyConnectedWeightsTensor);
    TfLiteTensor *bias = micro->AllocateTempInputTensor(node, tflite::kFullyConnectedBiasTensor);
    TfLiteTensor *output = micro->AllocateTempOutputTensor(node, tflite::kFullyConnectedOutputTensor);
    if (input == nullptr || filter == nullptr || output == nullptr) {
        return kTfLiteError;
    }
    TfLiteStatus status = kTfLiteError;
    if (input->type == kTfLiteInt8 && filter->type == kTfLiteInt8) {
        status = tflite::CalculateOpDataFullyConnected(context, params->activation, input->type, input, filter, bias,
                                                       output, data);
    }
    micro->DeallocateTempTfLiteTensor(input);
    micro->DeallocateTempTfLiteTensor(filter);
    if (bias != nullptr) {
        micro->DeallocateTempTfLiteTensor(bias);
    }
    micro->DeallocateTempTfLiteTensor(output);
    return status;
}

TfLiteStatus fully_connected(TfLiteContext *context, TfLiteNode *node) {
    const auto &data = *static_cast<const tflite::OpDataFullyConnected *>(node->user_data);
    const TfLiteEvalTensor *input = GetEvalInput(context, node, tflite::kFullyConnectedInputTensor);
    const TfLiteEvalTensor *filter = GetEvalInput(context, node, tflite::kFullyConnectedWeightsTensor);
    const TfLiteEvalTensor *bias = optional_bias(context, node, tflite::kFullyConnectedBiasTensor);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, tflite::kFullyConnectedOutputTensor);
    const tflite::FullyConnectedParams params = tflite::FullyConnectedParamsQuantized(data);
    if (data.is_per_channel) {
        tflite::reference_integer_ops::FullyConnectedPerChannel(
            params, data.per_channel_output_multiplier, reinterpret_cast<const int *>(data.per_channel_output_shift),
            GetTensorShape(input), GetTensorData<int8_t>(input), GetTensorShape(filter), GetTensorData<int8_t>(filter),
            GetTensorShape(bias), GetOptionalTensorData<int32_t>(bias), GetTensorShape(output),
            GetTensorData<int8_t>(output));
    } else {
        tflite::reference_integer_ops::FullyConnected(params, GetTensorShape(input), GetTensorData<int8_t>(input),
                                                      GetTensorShape(filter), GetTensorData<int8_t>(filter),
                                                      GetTensorShape(bias), GetOptionalTensorData<int32_t>(bias),
                                                      GetTensorShape(output), GetTensorData<int8_t>(output));
    }
    return kTfLiteOk;
}

TfLiteStatus softmax(TfLiteContext *context, TfLiteNode *node) {
    const auto &data = *static_cast<const tflite::SoftmaxParams *>(node->user_data);
    const TfLiteEvalTensor *input = GetEvalInput(context, node, 0);
    TfLiteEvalTensor *output = GetEvalOutput(context, node, 0);
    if (!int8(input)) {
        return kTfLiteError;
    }
    if (output->type == kTfLiteInt16) {
        tflite::reference_ops::Softmax(data, GetTensorShape(input), GetTensorData<int8_t>(input),
                                       GetTensorShape(output), GetTensorData<int16_t>(output));
    } else {
        tflite::reference_ops::Softmax(data, GetTensorShape(input), GetTensorData<int8_t>(input),
                                       GetTensorShape(output), GetTensorData<int8_t>(output));
    }
    return kTfLiteOk;
}

} // namespace

const TFLMRegistration *reference_kernel(tflite::BuiltinOperator op) {
    using tflite::micro::RegisterOp;
    static const TFLMRegistration convolution = RegisterOp(tflite::ConvInit, tflite::ConvPrepare, conv);
    static const TFLMRegistration depthwise =
        RegisterOp(init<tflite::OpDataConv>, tflite::DepthwiseConvPrepare, depthwise_conv);
    static const TFLMRegistration addition = RegisterOp(init<tflite::OpDataAdd>, tflite::AddPrepare, add);
    static const TFLMRegistration product = RegisterOp(tflite::MulInit, tflite::MulPrepare, mul);
    static const TFLMRegistration average = RegisterOp(init<tflite::OpDataPooling>, tflite::PoolingPrepare, pool<true>);
    static const TFLMRegistration maximum =
        RegisterOp(init<tflite::OpDataPooling>, tflite::PoolingPrepare, pool<false>);
    static const TFLMRegistration dense =
        RegisterOp(init<tflite::OpDataFullyConnected>, fully_connected_prepare, fully_connected);
    static const TFLMRegistration exponential = RegisterOp(tflite::SoftmaxInit, tflite::SoftmaxPrepare, softmax);
    switch (op) {
    case tflite::BuiltinOperator_CONV_2D:
        return &convolution;
    case tflite::BuiltinOperator_DEPTHWISE_CONV_2D:
        return &depthwise;
    case tflite::BuiltinOperator_ADD:
        return &addition;
    case tflite::BuiltinOperator_MUL:
        return &product;
    case tflite::BuiltinOperator_AVERAGE_POOL_2D:
        return &average;
    case tflite::BuiltinOperator_MAX_POOL_2D:
        return &maximum;
    case tflite::BuiltinOperator_FULLY_CONNECTED:
        return &dense;
    case tflite::BuiltinOperator_SOFTMAX:
        return &exponential;
    default:
        return nullptr;
    }
}
