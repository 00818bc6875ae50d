#include "engine.h"

#include <inttypes.h>
#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_rom_crc.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "node.h"
#include "reference_kernels.h"
#include "sdkconfig.h"

#if defined(CONFIG_NN_SKIP_NUDGE)
#error "CONFIG_NN_SKIP_NUDGE gives other bytes than the reference: turn it off (menuconfig, ESP-NN)"
#endif

namespace {

constexpr char TAG[] = "engine";

// Internal memory left to what starts after the engine: our tasks and buffers, TLS, and the radios in use.
// firmware/README.md, memory.
constexpr size_t kOwnReserve = 48 * 1024;
constexpr size_t kOwnReserveAlone = 88 * 1024; // without PSRAM
#if CONFIG_TINYSPLIT_WIFI
constexpr size_t kRadioReserve = 64 * 1024; // of Wi-Fi, and of NimBLE and its controller
// Without PSRAM also what lies there otherwise.
constexpr size_t kIpReserveAlone = 32 * 1024; // lwIP, mDNS, connections
constexpr size_t kMqttReserveAlone = 24 * 1024;
#endif
constexpr size_t kSpiramReserve = 64 * 1024;
constexpr size_t kAlign = 16;
constexpr size_t kCanaryBytes = 64;
constexpr uint8_t kCanary = 0xA5;
constexpr size_t kPlanSlack = 4096; // what planning itself may need beyond the plan

// The operators of MobileNetV2 and ResNet50 stages, and those that other int8 image networks come with.
constexpr unsigned kKinds = 22;
using Resolver = tflite::MicroMutableOpResolver<kKinds>;

using tflite::BuiltinOperator;

// Kinds of operator that a self-test has moved to the reference kernel.
struct Kinds {
    BuiltinOperator op[8];
    unsigned count;

    bool has(BuiltinOperator which) const {
        for (unsigned i = 0; i < count; i++) {
            if (op[i] == which) {
                return true;
            }
        }
        return false;
    }
};

class Profiler : public tflite::MicroProfilerInterface {
  public:
    void begin_run(bool time_operators, bool check) {
        next_ = 0;
        time_ = time_operators;
        check_ = check;
    }
    uint32_t BeginEvent(const char *) override {
        if (time_) {
            began_ = esp_timer_get_time();
        }
        return next_;
    }
    void EndEvent(uint32_t handle) override;

    uint32_t us[ENGINE_OPERATORS];
    bool timed;

  private:
    uint32_t next_;
    bool time_, check_;
    int64_t began_;
};

class Interpreter : public tflite::MicroInterpreter {
  public:
    using tflite::MicroInterpreter::MicroInterpreter;

    // Also without preserve_all_tensors: right after an operator ran, its outputs are whole.
    const TfLiteEvalTensor *eval(int tensor) const {
        return context().GetEvalTensor(&context(), tensor);
    }
};

struct {
    struct ts_image image;
    const uint8_t *base;
    const tflite::Model *model;
    uint8_t *arena;
    uint32_t received[TS_MAX_TENSORS];
    uint32_t input[TS_MAX_TENSORS]; // model input i is received tensor input[i]
    int32_t route[TS_MAX_TENSORS];
    uint32_t sent[TS_MAX_TENSORS];
    struct ts_near near[TS_MAX_TENSORS];
    uint32_t sent_total;
    Kinds reference;
    bool profile;
    uint32_t wrong; // operator, ENGINE_OPERATORS: none
    struct engine_state state;
} engine;

alignas(Resolver) uint8_t resolver_memory[sizeof(Resolver)];
alignas(Interpreter) uint8_t interpreter_memory[sizeof(Interpreter)];
Resolver *resolver;
Interpreter *interpreter;
Profiler profiler;
portMUX_TYPE state_lock = portMUX_INITIALIZER_UNLOCKED;

void feed_watchdog() {
    if (esp_task_wdt_status(nullptr) == ESP_OK) {
        esp_task_wdt_reset();
    }
}

__attribute__((format(printf, 2, 3))) int refuse(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(engine.state.problem, sizeof engine.state.problem, format, arguments);
    va_end(arguments);
    ESP_LOGE(TAG, "%s", engine.state.problem);
    return code;
}

const uint8_t *manifest() {
    return engine.base + engine.image.manifest.at;
}

const tflite::SubGraph *graph() {
    return engine.model->subgraphs()->Get(0);
}

BuiltinOperator kind_of(uint32_t index) {
    const tflite::Operator *op = graph()->operators()->Get(index);
    return tflite::GetBuiltinCode(engine.model->operator_codes()->Get(op->opcode_index()));
}

void append_shape(char *out, size_t size, const tflite::Tensor *tensor) {
    size_t used = strlen(out);
    for (uint32_t i = 0; tensor->shape() != nullptr && i < tensor->shape()->size() && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%" PRId32, i == 0 ? " " : "x", tensor->shape()->Get(i));
        used += n > 0 ? static_cast<size_t>(n) : 0;
    }
}

void describe_wrong(uint32_t index) {
    char *out = engine.state.wrong;
    size_t size = sizeof engine.state.wrong;
    const tflite::Operator *op = graph()->operators()->Get(index);
    snprintf(out, size, "operator %" PRIu32 ", %s", index, tflite::EnumNameBuiltinOperator(kind_of(index)));
    for (uint32_t i = 0; op->inputs() != nullptr && i < op->inputs()->size() && i < 2; i++) {
        if (op->inputs()->Get(i) >= 0) {
            append_shape(out, size, graph()->tensors()->Get(static_cast<uint32_t>(op->inputs()->Get(i))));
        }
    }
    size_t used = strlen(out);
    snprintf(out + used, size - used, " to");
    if (op->outputs() != nullptr && op->outputs()->size() > 0 && op->outputs()->Get(0) >= 0) {
        append_shape(out, size, graph()->tensors()->Get(static_cast<uint32_t>(op->outputs()->Get(0))));
    }
    used = strlen(out);
    snprintf(out + used, size - used, ", %s kernel", engine.reference.has(kind_of(index)) ? "reference" : "ESP-NN");
}

// Compares the outputs of the operator that just ran with the manifest's checksums.
bool operator_is_right(uint32_t index) {
    struct ts_image_operator expected;
    if (!ts_image_operator(manifest(), engine.image.manifest.bytes, index, &expected)) {
        return false;
    }
    const tflite::Operator *op = graph()->operators()->Get(index);
    for (uint32_t i = 0; i < expected.outputs && i < op->outputs()->size(); i++) {
        const TfLiteEvalTensor *tensor = interpreter->eval(op->outputs()->Get(i));
        size_t bytes = 0;
        if (tensor == nullptr || tflite::TfLiteEvalTensorByteLength(tensor, &bytes) != kTfLiteOk) {
            return false;
        }
        if (esp_rom_crc32_le(0, static_cast<const uint8_t *>(tensor->data.data), bytes) != expected.crc32[i]) {
            return false;
        }
    }
    return true;
}

void Profiler::EndEvent(uint32_t handle) {
    if (handle < ENGINE_OPERATORS && time_) {
        us[handle] = static_cast<uint32_t>(esp_timer_get_time() - began_);
    }
    if (check_ && engine.wrong == ENGINE_OPERATORS && handle < engine.state.operators && !operator_is_right(handle)) {
        engine.wrong = handle;
    }
    next_ = handle + 1;
    feed_watchdog();
}

// The library's registration, or the reference one if the self-test found the other wanting.
const TFLMRegistration &chosen(BuiltinOperator op, const TFLMRegistration &ours) {
    const TFLMRegistration *reference = engine.reference.has(op) ? reference_kernel(op) : nullptr;
    return reference != nullptr ? *reference : ours;
}

void make_resolver() {
    resolver = new (resolver_memory) Resolver;
    resolver->AddAdd(chosen(tflite::BuiltinOperator_ADD, tflite::Register_ADD()));
    resolver->AddAveragePool2D(chosen(tflite::BuiltinOperator_AVERAGE_POOL_2D, tflite::Register_AVERAGE_POOL_2D()));
    resolver->AddConcatenation();
    resolver->AddConv2D(chosen(tflite::BuiltinOperator_CONV_2D, tflite::Register_CONV_2D()));
    resolver->AddDepthwiseConv2D(
        chosen(tflite::BuiltinOperator_DEPTHWISE_CONV_2D, tflite::Register_DEPTHWISE_CONV_2D()));
    resolver->AddDequantize();
    resolver->AddFullyConnected(chosen(tflite::BuiltinOperator_FULLY_CONNECTED, tflite::Register_FULLY_CONNECTED()));
    resolver->AddHardSwish();
    resolver->AddLogistic();
    resolver->AddMaxPool2D(chosen(tflite::BuiltinOperator_MAX_POOL_2D, tflite::Register_MAX_POOL_2D()));
    resolver->AddMean();
    resolver->AddMul(chosen(tflite::BuiltinOperator_MUL, tflite::Register_MUL()));
    resolver->AddPack();
    resolver->AddPad();
    resolver->AddPadV2();
    resolver->AddQuantize();
    resolver->AddRelu();
    resolver->AddRelu6();
    resolver->AddReshape();
    resolver->AddShape();
    resolver->AddSoftmax(chosen(tflite::BuiltinOperator_SOFTMAX, tflite::Register_SOFTMAX()));
    resolver->AddStridedSlice();
}

void drop_interpreter() {
    if (interpreter != nullptr) {
        interpreter->~Interpreter();
        interpreter = nullptr;
    }
    if (resolver != nullptr) {
        resolver->~Resolver();
        resolver = nullptr;
    }
}

void drop_arena() {
    drop_interpreter();
    heap_caps_free(engine.arena);
    engine.arena = nullptr;
    engine.state.arena_bytes = 0;
}

// An arena of so many bytes, zeroed, a canary behind it, and the interpreter in it. The bytes used, 0 if it cannot be.
size_t build(size_t bytes, uint32_t capabilities) {
    drop_arena();
    engine.arena =
        static_cast<uint8_t *>(heap_caps_aligned_alloc(kAlign, bytes + kCanaryBytes, capabilities | MALLOC_CAP_8BIT));
    if (engine.arena == nullptr) {
        return 0;
    }
    memset(engine.arena, 0, bytes);
    memset(engine.arena + bytes, kCanary, kCanaryBytes);
    engine.state.arena_bytes = static_cast<uint32_t>(bytes);
    make_resolver();
    interpreter =
        new (interpreter_memory) Interpreter(engine.model, *resolver, engine.arena, bytes, nullptr, &profiler);
    feed_watchdog();
    if (interpreter->AllocateTensors() != kTfLiteOk) {
        return 0;
    }
    feed_watchdog();
    return interpreter->arena_used_bytes();
}

bool canary_alive() {
    for (size_t i = 0; i < kCanaryBytes; i++) {
        if (engine.arena[engine.state.arena_bytes + i] != kCanary) {
            return false;
        }
    }
    return true;
}

size_t internal_reserve() {
    bool alone = heap_caps_get_total_size(MALLOC_CAP_SPIRAM) == 0;
    size_t bytes = alone ? kOwnReserveAlone : kOwnReserve;
    for (uint32_t i = 0; alone && engine.image.stage == 0 && i < engine.image.received; i++) {
        bytes += NODE_JOBS * engine.received[i]; // the head's input buffers
    }
#if CONFIG_TINYSPLIT_WIFI
    const struct settings *settings = app_settings();
    bool mqtt = settings->mqtt_url[0] != '\0';
    bool ip = settings->transport == TRANSPORT_UDP || settings->transport == TRANSPORT_TCP;
    bytes += settings->transport == TRANSPORT_BLE && mqtt ? 2 * kRadioReserve : kRadioReserve;
    if (alone) {
        bytes += (ip ? kIpReserveAlone : 0) + (mqtt ? kMqttReserveAlone : 0);
    }
#endif
    return bytes;
}

size_t largest(uint32_t capabilities, size_t reserve) {
    size_t block = heap_caps_get_largest_free_block(capabilities | MALLOC_CAP_8BIT);
    size_t total = heap_caps_get_free_size(capabilities | MALLOC_CAP_8BIT);
    size_t spare = total > reserve ? total - reserve : 0;
    size_t usable = block < spare ? block : spare;
    usable = usable > kCanaryBytes + 2 * kAlign ? usable - kCanaryBytes - 2 * kAlign : 0;
    return usable / kAlign * kAlign;
}

// Measures what the arena needs where there is most room, then lays it out exactly, in internal memory if it
// fits. What the bundle measured is the floor: with less, the library would not even get as far as to say no.
int place_arena() {
    drop_arena();
    size_t floor = engine.image.arena_bytes;
    size_t internal = largest(MALLOC_CAP_INTERNAL, internal_reserve());
    size_t external = largest(MALLOC_CAP_SPIRAM, kSpiramReserve);
    bool use_external = external > internal;
    size_t room = use_external ? external : internal;
    if (room < floor) {
        return refuse(TS_E_IMAGE_ARENA, "the arena needs %u bytes and more, there are %u: cut elsewhere, or add PSRAM",
                      static_cast<unsigned>(floor), static_cast<unsigned>(room));
    }
    size_t used = build(room, use_external ? MALLOC_CAP_SPIRAM : MALLOC_CAP_INTERNAL);
    if (used == 0) {
        drop_arena();
        return refuse(TS_E_IMAGE_ARENA,
                      "the stage does not fit into an arena of %u bytes, or an operator refuses its shapes",
                      static_cast<unsigned>(room));
    }
    size_t exact = (used + kPlanSlack + kAlign - 1) / kAlign * kAlign;
    engine.state.arena_internal = exact <= largest(MALLOC_CAP_INTERNAL, internal_reserve()) || !use_external;
    drop_arena();
    exact = exact < room ? exact : room;
    uint32_t place = engine.state.arena_internal ? MALLOC_CAP_INTERNAL : MALLOC_CAP_SPIRAM;
    used = build(exact, place);
    if (used == 0 && engine.state.arena_internal && use_external) {
        engine.state.arena_internal = false;
        used = build(exact, MALLOC_CAP_SPIRAM);
    }
    if (used == 0) {
        used = build(room, use_external ? MALLOC_CAP_SPIRAM : MALLOC_CAP_INTERNAL);
        engine.state.arena_internal = !use_external;
    }
    engine.state.arena_used = static_cast<uint32_t>(used);
    return used != 0 ? TS_OK : refuse(TS_E_IMAGE_ARENA, "no memory for the arena");
}

int check_operators() {
    const auto *codes = engine.model->operator_codes();
    make_resolver();
    for (uint32_t i = 0; codes != nullptr && i < codes->size(); i++) {
        BuiltinOperator op = tflite::GetBuiltinCode(codes->Get(i));
        if (op == tflite::BuiltinOperator_CUSTOM || resolver->FindOp(op) == nullptr) {
            const char *name = tflite::EnumNameBuiltinOperator(op);
            drop_interpreter();
            return refuse(TS_E_UNSUPPORTED, "the stage needs operator %s, for which this firmware has no kernel", name);
        }
    }
    drop_interpreter();
    return TS_OK;
}

bool read_manifest() {
    const uint8_t *m = manifest();
    uint32_t len = engine.image.manifest.bytes;
    struct ts_image_tensor tensor;
    for (uint32_t i = 0; i < engine.image.received; i++) {
        if (!ts_image_received(m, len, i, &tensor)) {
            return false;
        }
        engine.received[i] = tensor.bytes;
    }
    for (uint32_t i = 0; i < engine.image.inputs; i++) {
        if (!ts_image_input(m, len, i, &engine.input[i])) {
            return false;
        }
    }
    engine.sent_total = 0;
    for (uint32_t i = 0; i < engine.image.sent; i++) {
        int32_t route;
        if (!ts_image_sent(m, len, i, &route)) {
            return false;
        }
        engine.route[i] = route;
        uint32_t index = static_cast<uint32_t>(route < 0 ? -1 - route : route);
        if (!(route < 0 ? ts_image_received : ts_image_output)(m, len, index, &tensor)) {
            return false;
        }
        engine.sent[i] = tensor.bytes;
        engine.near[i] = ts_near_of(tensor.shape, tensor.dims, tensor.bytes);
        engine.sent_total += engine.sent[i];
    }
    return true;
}

// Whether the model takes and makes what the manifest says.
bool fits_manifest() {
    if (interpreter->inputs_size() != engine.image.inputs || interpreter->outputs_size() != engine.image.outputs) {
        return false;
    }
    for (uint32_t i = 0; i < engine.image.inputs; i++) {
        if (interpreter->input(i) == nullptr || interpreter->input(i)->bytes != engine.received[engine.input[i]]) {
            return false;
        }
    }
    for (uint32_t i = 0; i < engine.image.outputs; i++) {
        struct ts_image_tensor tensor;
        if (interpreter->output(i) == nullptr ||
            !ts_image_output(manifest(), engine.image.manifest.bytes, i, &tensor) ||
            interpreter->output(i)->bytes != tensor.bytes) {
            return false;
        }
    }
    return true;
}

int open_stage() {
    int code = place_arena();
    if (code != TS_OK) {
        return code;
    }
    if (!fits_manifest()) {
        return refuse(TS_E_IMAGE_MALFORMED, "the model's inputs or outputs are not those of its manifest");
    }
    engine.state.open = true;
    return TS_OK;
}

void copy_input(const uint8_t *data) {
    uint32_t at[TS_MAX_TENSORS];
    uint32_t offset = 0;
    for (uint32_t i = 0; i < engine.image.received; i++) {
        at[i] = offset;
        offset += engine.received[i];
    }
    for (uint32_t i = 0; i < engine.image.inputs; i++) {
        uint32_t from = engine.input[i];
        memcpy(interpreter->input(i)->data.raw, data + at[from], engine.received[from]);
    }
}

// One run on `data`, the received tensors one behind the other. Times the invocation alone.
int invoke(const uint8_t *data, bool check, uint32_t *us) {
    copy_input(data);
    profiler.begin_run(engine.profile, check);
    feed_watchdog();
    int64_t began = esp_timer_get_time();
    TfLiteStatus status = interpreter->Invoke();
    *us = static_cast<uint32_t>(esp_timer_get_time() - began);
    *us = *us > 0 ? *us : 1;
    profiler.timed = engine.profile;
    engine.state.runs++;
    engine.state.last_us = *us;
    return status == kTfLiteOk ? TS_OK : TS_E_INVOKE_FAILED;
}

// Copies sent tensor i, from the model's outputs or from what came in.
void copy_sent(uint32_t i, const uint8_t *data, uint8_t *out) {
    int32_t route = engine.route[i];
    const uint8_t *from = data;
    if (route >= 0) {
        from = reinterpret_cast<const uint8_t *>(interpreter->output(static_cast<size_t>(route))->data.raw);
    } else {
        for (int32_t j = 0; j < -1 - route; j++) {
            from += engine.received[j];
        }
    }
    memcpy(out, from, engine.sent[i]);
}

bool sent_is_right(const uint8_t *data) {
    const uint8_t *expected = engine.base + engine.image.output.at;
    for (uint32_t i = 0; i < engine.image.sent; i++) {
        if (engine.route[i] >= 0) {
            const void *made = interpreter->output(static_cast<size_t>(engine.route[i]))->data.raw;
            if (memcmp(made, expected, engine.sent[i]) != 0) {
                return false;
            }
        } else {
            const uint8_t *from = data;
            for (int32_t j = 0; j < -1 - engine.route[i]; j++) {
                from += engine.received[j];
            }
            if (memcmp(from, expected, engine.sent[i]) != 0) {
                return false;
            }
        }
        expected += engine.sent[i];
    }
    return true;
}

uint8_t kernels_in_use() {
    if (engine.reference.count == 0) {
        return KERNELS_ESP_NN;
    }
    for (uint32_t i = 0; i < engine.state.operators; i++) {
        if (reference_kernel(kind_of(i)) != nullptr && !engine.reference.has(kind_of(i))) {
            return KERNELS_MIXED;
        }
    }
    return KERNELS_REFERENCE;
}

} // namespace

void engine_close(void) {
    drop_arena();
    struct engine_state before = engine.state;
    memset(&engine, 0, sizeof engine);
    engine.wrong = ENGINE_OPERATORS;
    engine.state.wrong_operator = ENGINE_OPERATORS;
    engine.state.tests = before.tests;
    engine.state.passed = before.passed;
}

int engine_open(const struct ts_image *image, const uint8_t *base) {
    engine_close();
    engine.image = *image;
    engine.base = base;
    engine.state.flash_bytes = image->model.bytes;
    const uint8_t *model = base + image->model.at;
    flatbuffers::Verifier verifier(model, image->model.bytes);
    feed_watchdog();
    if (!tflite::VerifyModelBuffer(verifier)) {
        return refuse(TS_E_IMAGE_MALFORMED, "the model in the image is no .tflite file");
    }
    engine.model = tflite::GetModel(model);
    const auto *subgraphs = engine.model->subgraphs();
    if (engine.model->version() != TFLITE_SCHEMA_VERSION || subgraphs == nullptr || subgraphs->size() != 1 ||
        graph()->operators() == nullptr || graph()->inputs() == nullptr || graph()->outputs() == nullptr ||
        graph()->tensors() == nullptr || engine.model->operator_codes() == nullptr) {
        return refuse(TS_E_IMAGE_MALFORMED, "the model has another schema than %d, or not exactly one graph",
                      TFLITE_SCHEMA_VERSION);
    }
    if (graph()->operators()->size() > ENGINE_OPERATORS || graph()->operators()->size() != image->operators) {
        return refuse(TS_E_IMAGE_MALFORMED, "the model has %u operators, its manifest %u, and %d are the most",
                      static_cast<unsigned>(graph()->operators()->size()), static_cast<unsigned>(image->operators),
                      ENGINE_OPERATORS);
    }
    engine.state.operators = image->operators;
    for (uint32_t i = 0; i < image->operators; i++) {
        const tflite::Operator *op = graph()->operators()->Get(i);
        if (op->opcode_index() >= engine.model->operator_codes()->size() || op->outputs() == nullptr) {
            return refuse(TS_E_IMAGE_MALFORMED, "operator %u of the model is of no kind", static_cast<unsigned>(i));
        }
    }
    if (!read_manifest()) {
        return refuse(TS_E_IMAGE_MALFORMED, "the image's manifest contradicts itself");
    }
    int code = check_operators();
    return code == TS_OK ? open_stage() : code;
}

int engine_self_test(uint32_t *detail) {
    if (!engine.state.open) {
        return TS_E_INVOKE_FAILED;
    }
    const uint8_t *golden = engine.base + engine.image.input.at;
    engine.state.tests++;
    for (;;) {
        uint32_t us;
        engine.wrong = ENGINE_OPERATORS;
        int code = invoke(golden, false, &us);
        bool whole = canary_alive();
        if (code == TS_OK && whole && sent_is_right(golden)) {
            engine.state.proven = true;
            engine.state.passed++;
            engine.state.problem[0] = '\0';
            engine.state.kernels = kernels_in_use();
            ESP_LOGI(TAG, "self-test passed in %" PRIu32 " us, kernels %s", us,
                     engine_kernels_name(engine.state.kernels));
            return TS_OK;
        }
        if (code == TS_OK) {
            code = invoke(golden, true, &us);
        }
        uint32_t wrong = engine.wrong;
        if (detail != nullptr) {
            *detail = wrong;
        }
        engine.state.proven = false;
        if (wrong == ENGINE_OPERATORS) {
            return refuse(code != TS_OK ? code : TS_E_SELF_TEST,
                          whole ? "the self-test gives other bytes although every operator agrees"
                                : "an operator wrote past the arena");
        }
        BuiltinOperator kind = kind_of(wrong);
        describe_wrong(wrong);
        engine.state.wrong_operator = static_cast<uint16_t>(wrong);
        ESP_LOGW(TAG, "self-test: %s gives other bytes", engine.state.wrong);
        if (reference_kernel(kind) == nullptr || engine.reference.has(kind) ||
            engine.reference.count == sizeof engine.reference.op / sizeof engine.reference.op[0]) {
            return refuse(TS_E_SELF_TEST, "the self-test gives other bytes, first in %.120s", engine.state.wrong);
        }
        engine.reference.op[engine.reference.count++] = kind;
        engine.state.open = false;
        code = open_stage();
        if (code != TS_OK) {
            return code;
        }
    }
}

int engine_run(struct ts_invoke *run) {
    if (!engine.state.open || !engine.state.proven) {
        return TS_E_REFUSED;
    }
    const struct ts_tensors *input = run->input;
    bool fits = input->count == engine.image.received && run->output_cap >= engine.sent_total;
    for (uint32_t i = 0; fits && i < input->count; i++) {
        fits = input->bytes[i] == engine.received[i];
    }
    if (!fits) {
        return TS_E_MALFORMED;
    }
    int code = invoke(input->data, false, &run->invoke_us);
#if CONFIG_TINYSPLIT_ARENA_CANARY
    if (!canary_alive()) {
        engine.state.proven = false;
        return refuse(TS_E_INVOKE_FAILED, "an operator wrote past the arena");
    }
#endif
    if (code != TS_OK) {
        return code;
    }
    phase_begin(TS_P_ENCODE);
    int64_t began = esp_timer_get_time();
    uint8_t *out = run->output;
    for (uint32_t i = 0; i < engine.image.sent; i++) {
        copy_sent(i, input->data, out);
        run->bytes[i] = engine.sent[i];
        out += engine.sent[i];
    }
    run->count = engine.image.sent;
    run->encode_us = static_cast<uint32_t>(esp_timer_get_time() - began);
    phase_end(TS_P_ENCODE);
    return TS_OK;
}

bool engine_golden(struct ts_tensors *out) {
    if (!engine.state.open) {
        return false;
    }
    memset(out, 0, sizeof *out);
    out->total = engine_received(out->bytes, &out->count);
    out->data = engine.base + engine.image.input.at;
    return true;
}

uint32_t engine_received(uint32_t bytes[TS_MAX_TENSORS], uint8_t *count) {
    uint32_t total = 0;
    *count = engine.state.open ? engine.image.received : 0;
    for (uint32_t i = 0; i < *count; i++) {
        bytes[i] = engine.received[i];
        total += engine.received[i];
    }
    return total;
}

uint32_t engine_sent_bytes(void) {
    return engine.state.open ? engine.sent_total : 0;
}

void engine_near(struct ts_near near[TS_MAX_TENSORS]) {
    memcpy(near, engine.near, sizeof engine.near);
}

void engine_profile(bool on) {
    engine.profile = on;
}

bool engine_operator(uint32_t index, const char **name, uint32_t *us) {
    if (!engine.state.open || index >= engine.state.operators) {
        return false;
    }
    *name = tflite::EnumNameBuiltinOperator(kind_of(index));
    *us = profiler.timed ? profiler.us[index] : 0;
    return true;
}

struct engine_state engine_state(void) {
    portENTER_CRITICAL(&state_lock);
    struct engine_state copy = engine.state;
    portEXIT_CRITICAL(&state_lock);
    return copy;
}

const char *engine_kernels_name(uint8_t kernels) {
    return kernels == KERNELS_ESP_NN ? "esp-nn" : kernels == KERNELS_MIXED ? "mixed" : "reference";
}
