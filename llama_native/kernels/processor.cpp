#include "processor.hpp"

#include <atomic>

namespace lucid {

namespace {

std::atomic<bool> vnni = has_vnni();

}  // namespace

bool uses_vnni() { return vnni.load(std::memory_order_relaxed); }

}  // namespace lucid

extern "C" bool lucid_use_vnni(bool wanted) { return lucid::vnni = wanted && lucid::has_vnni(); }
