// The state of the guard: one failure per thread, and ggml's abort callback.

#include "guard.hpp"

#include <cstdio>
#include <cstring>

namespace lucid {

thread_local int guard_depth = 0;

static thread_local int failure_kind = LUCID_OK;
static thread_local char failure_text[2048] = "";

void set_failure(int kind, const char * text) noexcept {
    failure_kind = kind;
    std::snprintf(failure_text, sizeof failure_text, "%s", text);
}

// ".../ggml/src/ggml-cpu/ops.cpp:12: ..." comes from a compute backend, ".../ggml/src/ggml-backend.cpp:12: ..." does not.
static bool from_compute_backend(const char * message) {
    static const char backends[] = "/ggml/src/ggml-";
    const char * name = std::strstr(message, backends);
    if (name == nullptr) {
        return false;
    }
    const char * end = std::strpbrk(name + sizeof backends - 1, "/:");
    return end != nullptr && *end == '/';
}

static void on_abort(const char * message) {
    if (guard_depth > 0 && !from_compute_backend(message)) {
        throw assertion_failed(message);
    }
    std::fprintf(stderr, "%s\n", message);  // the process ends now: these are its last words
}

}  // namespace lucid

extern "C" void lucid_guard_install(void) { ggml_set_abort_callback(lucid::on_abort); }

extern "C" int lucid_failure(void) { return lucid::failure_kind; }

extern "C" const char * lucid_message(void) { return lucid::failure_text; }

extern "C" bool lucid_abort_requested(void * flag) {
    return __atomic_load_n(static_cast<int32_t *>(flag), __ATOMIC_RELAXED) != 0;
}
