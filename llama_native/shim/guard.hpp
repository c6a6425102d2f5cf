// Turns what llama.cpp does with bad input (C++ exceptions, failed assertions) into return values.
//
// ggml calls our abort callback before abort(). Inside a guarded call on the same thread the callback throws instead,
// and the exception unwinds llama.cpp's frames up to the guard. It never throws out of a compute backend: there other
// threads wait at a barrier, and unwinding would leave them waiting for ever.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "llama.h"

extern "C" {
#include "../decl/shim.h"
}

namespace lucid {

struct assertion_failed : std::exception {
    explicit assertion_failed(const char * text) : text(text) {}
    const char * what() const noexcept override { return text.c_str(); }
    std::string text;
};

extern thread_local int guard_depth;

// Remembers why the current thread's last guarded call failed. Never throws.
void set_failure(int kind, const char * text) noexcept;

// Runs `call`; on an exception or assertion records it and returns `failure`.
template <typename R, typename F> R guarded(R failure, F && call) noexcept {
    struct depth {
        depth() { ++guard_depth; }
        ~depth() { --guard_depth; }
    };
    set_failure(LUCID_OK, "");
    lucid_log_forget();
    try {
        depth scope;
        return call();
    } catch (const assertion_failed & error) {
        set_failure(LUCID_ASSERTION, error.what());
    } catch (const std::bad_alloc &) {
        set_failure(LUCID_EXCEPTION, "out of memory");
    } catch (const std::exception & error) {
        set_failure(LUCID_EXCEPTION, error.what());
    } catch (...) {
        set_failure(LUCID_EXCEPTION, "unknown C++ exception");
    }
    return failure;
}

}  // namespace lucid
