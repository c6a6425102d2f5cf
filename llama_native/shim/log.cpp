// llama.cpp's log, as whole lines, filtered before anybody takes the GIL.
//
// llama.cpp logs from any thread, in pieces: a message may hold several lines, and GGML_LOG_LEVEL_CONT continues the
// last one. Each thread joins its own pieces. Error lines are also kept per thread, so that a failed call can say why.

#include <atomic>
#include <cstring>
#include <string>

#include "guard.hpp"

namespace {

constexpr size_t MAX_LINE = 16 * 1024;   // longer lines are cut into several
constexpr size_t MAX_ERRORS = 4 * 1024;  // what an exception message can show

std::atomic<int> level_min{GGML_LOG_LEVEL_WARN};
std::atomic<void (*)(int, const char *)> log_sink{nullptr};

thread_local std::string line;
thread_local int line_level = GGML_LOG_LEVEL_INFO;
thread_local std::string errors;

void flush_line() {
    if (line.empty()) {
        return;
    }
    if (line_level == GGML_LOG_LEVEL_ERROR && errors.size() + line.size() < MAX_ERRORS) {
        errors += line;
        errors += '\n';
    }
    auto sink = log_sink.load(std::memory_order_acquire);
    if (sink != nullptr && line_level >= level_min.load(std::memory_order_relaxed)) {
        std::string text;
        text.swap(line);  // the sink may run Python code that logs again
        sink(line_level, text.c_str());
    }
    line.clear();
}

void on_log(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_CONT) {
        flush_line();  // an unfinished line ends when another message begins
        line_level = level;
    }
    if (line_level < level_min.load(std::memory_order_relaxed) && line_level != GGML_LOG_LEVEL_ERROR) {
        return;
    }
    try {
        for (const char * end; (end = std::strchr(text, '\n')) != nullptr; text = end + 1) {
            line.append(text, end - text);
            flush_line();
        }
        line.append(text);
        if (line.size() > MAX_LINE) {
            flush_line();
        }
    } catch (const std::bad_alloc &) {
        line.clear();  // losing a log line is better than losing the process
    }
}

}  // namespace

extern "C" void lucid_log_install(void (*sink)(int, const char *)) {
    log_sink.store(sink, std::memory_order_release);
    llama_log_set(on_log, nullptr);
}

extern "C" void lucid_log_level(int level) { level_min.store(level, std::memory_order_relaxed); }

extern "C" void lucid_log_stop(void) { log_sink.store(nullptr, std::memory_order_release); }

extern "C" void lucid_log_forget(void) { errors.clear(); }

extern "C" const char * lucid_log_errors(void) { return errors.c_str(); }
